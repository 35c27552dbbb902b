//! A NAT between a host inside (port 0) and the world (port 1), in virtual time.
#![allow(dead_code, reason = "every test uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::IpAddr;
use std::sync::Arc;

use throughway_nat::rule::{Filtering, Mapping, SourceRule, SourceTarget};
use throughway_nat::{Nat, Options, Pool, PoolConfig, Pooling, Rules, Shared};
use throughway_packet::build::PacketBuilder;
use throughway_packet::{Headers, PortId, apply, checksum, parse};
use throughway_session::connection::Timeouts;
use throughway_vnf::{Context, Function, Generations, Now, Packet, Snapshot, Verdict};

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
    SourceRule {
        matches: Default::default(),
        target: SourceTarget::Pool(0),
        mapping: Mapping::default(),
        filtering: Filtering::default(),
        preserve_port: true,
        preserve_parity: true,
    }
}

/// A pool with these addresses and ports, whose ports rest for two minutes.
pub(crate) fn pool(addresses: &[&str], ports: std::ops::RangeInclusive<u16>) -> Arc<Pool> {
    let addresses = addresses.iter().map(|address| ip(address)).collect();
    Arc::new(Pool::new(PoolConfig { addresses, ports, quiet: 120 * SECOND, pooling: Pooling::Paired }))
}

/// Rules with one outside port.
pub(crate) fn rules(source: Vec<SourceRule>, pools: Vec<Arc<Pool>>) -> Rules {
    Rules { timeouts: Timeouts::NAT, source, destination: Vec::new(), pools, outside: vec![OUTSIDE] }
}

pub(crate) struct World {
    pub(crate) nat: Nat,
    pub(crate) shared: Arc<Shared>,
    pub(crate) now: u64,
}

impl World {
    pub(crate) fn new(rules: Rules) -> World {
        let options = Options { sessions: 1 << 16, half_open: 1 << 15, seed: [1, 2] };
        let shared = Arc::new(Shared::new(options, Arc::new(Generations::default())));
        World { nat: Nat::new(Arc::clone(&shared), Snapshot::new(rules), 0), shared, now: 10 * SECOND }
    }

    /// What the NAT says of a frame, and the frame as it leaves, with every checksum right.
    pub(crate) fn pass(&mut self, ingress: PortId, frame: &[u8]) -> (Verdict, Vec<u8>, Headers) {
        let headers = parse(frame, ingress).unwrap_or_else(|error| panic!("{error}"));
        let mut packet = Packet::new(frame, headers);
        let verdict = self.nat.judge(&mut packet, &Context { now: Now(self.now) });
        let mut sent = frame.to_vec();
        apply(packet.action(), &headers, &mut sent);
        let seen = parse(&sent, ingress).unwrap();
        assert!(checksum::verify(&sent, &seen), "{seen:?}");
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

    /// Lets time go by, with housekeeping.
    pub(crate) fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += SECOND;
            self.nat.tick(&Context { now: Now(self.now) });
        }
    }
}
