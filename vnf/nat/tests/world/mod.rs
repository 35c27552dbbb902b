//! A NAT between a host inside (port 0) and the world (port 1), in virtual time.
#![allow(dead_code, reason = "every test uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use throughway_nat::rule::{SourceRule, SourceTarget};
use throughway_nat::{Nat, Options, PoolConfig, Rules, Sessions, Shared};
use throughway_packet::build::PacketBuilder;
use throughway_packet::{Headers, PortId, apply, checksum, parse};
use throughway_vnf::events::EventQueue;
use throughway_vnf::save::{Moment, Restored, Save};
use throughway_vnf::{Context, DropReason, Function, Generations, Now, Packet, Snapshot, Verdict};

pub(crate) const INSIDE: PortId = PortId(0);
pub(crate) const OUTSIDE: PortId = PortId(1);
pub(crate) const SECOND: u64 = 1_000_000_000;
pub(crate) const SYN: u8 = 2;
pub(crate) const ACK: u8 = 16;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn between(source: &str, destination: &str) -> PacketBuilder {
    PacketBuilder::between(ip(source), ip(destination))
}

/// A source rule for everything, to pool 0, as configured where nothing is said.
pub(crate) fn to_pool() -> SourceRule {
    SourceRule::new(SourceTarget::Pool(0))
}

/// A pool with these addresses and ports.
pub(crate) fn pool(addresses: &[&str], ports: std::ops::RangeInclusive<u16>) -> PoolConfig {
    PoolConfig { ports, ..PoolConfig::new(addresses.iter().map(|address| ip(address)).collect()) }
}

/// Rules with one outside port, and pools to be made.
pub(crate) fn rules(source: Vec<SourceRule>, pools: Vec<PoolConfig>) -> (Rules, Vec<PoolConfig>) {
    (Rules { source, ..Rules::new(vec![OUTSIDE]) }, pools)
}

pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) nat: Nat,
    pub(crate) shared: Arc<Shared>,
    pub(crate) rules: Snapshot<Rules>,
    pub(crate) generations: Arc<Generations>,
    pub(crate) events: Arc<EventQueue>,
    pub(crate) now: u64,
}

impl World {
    pub(crate) fn new(made: (Rules, Vec<PoolConfig>)) -> World {
        World::with(Options { half_open: 1 << 15, ..Options::new(1 << 16, [1, 2]) }, made)
    }

    pub(crate) fn with(options: Options, (rules, pools): (Rules, Vec<PoolConfig>)) -> World {
        let generations = Arc::new(Generations::default());
        let events = EventQueue::new(1000);
        let shared =
            Shared::new(options.clone(), Arc::clone(&generations)).with_events(events.of_function(7));
        let pools = pools.into_iter().map(|config| shared.pool(config, &[])).collect();
        let rules = Snapshot::new(Rules { pools, ..rules });
        let shared = Arc::new(shared);
        let nat = Nat::new(Arc::clone(&shared), rules.clone(), 0);
        World { options, nat, shared, rules, generations, events, now: 10 * SECOND }
    }

    /// Publishes other rules, as a reload does.
    pub(crate) fn reload(&mut self, (rules, pools): (Rules, Vec<PoolConfig>)) {
        let before = self.rules.read_owned();
        let pools = pools.into_iter().map(|config| self.shared.pool(config, &before.pools)).collect();
        self.rules.publish(Rules { pools, ..rules });
    }

    /// All that the next instance is told.
    pub(crate) fn saved(&self) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        let rules = self.rules.read_owned();
        let left = Sessions { shared: &self.shared, rules: &rules }.save(Now(self.now), &mut records);
        assert_eq!(left, 0);
        records
    }

    /// Takes over what an earlier instance has written so long ago.
    pub(crate) fn restore(&self, records: &[Vec<u8>], gap: Duration) -> Restored {
        let rules = self.rules.read_owned();
        let moment = Moment { now: Now(self.now), gap, ports: &[] };
        let sessions = Sessions { shared: &self.shared, rules: &rules };
        sessions.restore(&mut records.iter().map(Vec::as_slice), &moment)
    }

    /// The next instance, of the same configuration, so long after this one has ended.
    pub(crate) fn restarted(&self, gap: Duration) -> (World, Restored) {
        let old = self.rules.read_owned();
        let rules = Rules {
            timeouts: old.timeouts,
            udp_stream: old.udp_stream,
            source: old.source.clone(),
            destination: old.destination.clone(),
            pools: Vec::new(),
            outside: old.outside.clone(),
            ..*old
        };
        let pools = old.pools.iter().map(|pool| pool.config().clone()).collect();
        let mut next = World::with(self.options.clone(), (rules, pools));
        next.now = self.now + gap.as_nanos() as u64;
        let restored = next.restore(&self.saved(), gap);
        (next, restored)
    }

    /// A packet as the NAT leaves it, with its verdict.
    pub(crate) fn judge<'a>(&mut self, ingress: PortId, frame: &'a [u8]) -> (Verdict, Packet<'a>) {
        let headers = parse(frame, ingress).unwrap_or_else(|error| panic!("{error}"));
        let mut packet = Packet::new(frame, headers);
        let verdict = self.nat.judge(&mut packet, &Context { now: Now(self.now) });
        (verdict, packet)
    }

    /// What the NAT says of a frame, and the frame as it leaves, with every checksum right.
    pub(crate) fn pass(&mut self, ingress: PortId, frame: &[u8]) -> (Verdict, Vec<u8>, Headers) {
        let (verdict, packet) = self.judge(ingress, frame);
        let headers = *packet.received();
        let mut sent = frame.to_vec();
        packet.extra().execute(&headers, &mut sent);
        apply(packet.action(), &headers, &mut sent);
        let seen = parse(&sent, ingress).unwrap();
        let fine = checksum::verify(frame, &headers);
        assert!(!fine || checksum::verify(&sent, &seen), "{seen:?}");
        assert_eq!(seen, *packet.headers(), "the view is what the bytes say");
        (verdict, sent, seen)
    }

    /// A packet that passes, as it leaves.
    #[track_caller]
    pub(crate) fn passes(&mut self, ingress: PortId, packet: &PacketBuilder) -> Headers {
        let (verdict, _, seen) = self.pass(ingress, &packet.finish());
        assert_eq!(verdict, Verdict::Continue);
        seen
    }

    /// A packet that is dropped for this reason.
    #[track_caller]
    pub(crate) fn drops(&mut self, ingress: PortId, packet: &PacketBuilder, reason: DropReason) {
        match self.pass(ingress, &packet.finish()).0 {
            Verdict::Drop(given) | Verdict::Reject(given, _) => assert_eq!(given, reason),
            Verdict::Continue => panic!("it passed"),
        }
    }

    /// Lets time go by, with housekeeping.
    pub(crate) fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds * 4 {
            self.now += SECOND / 4;
            for _ in 0..8 {
                self.nat.tick(&Context { now: Now(self.now) });
            }
        }
    }
}

/// The outside end of a packet that left.
pub(crate) fn source_of(seen: &Headers) -> (IpAddr, u16) {
    (seen.source(), seen.source_port())
}

/// Where a packet goes.
pub(crate) fn destination_of(seen: &Headers) -> (IpAddr, u16) {
    (seen.destination(), seen.destination_port())
}
