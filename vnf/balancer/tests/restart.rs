//! Connections over a restart: who had a backend keeps it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use throughway_balancer::save::Leaving;
use throughway_balancer::{
    Affinity, Backend, Balancer, Connections, FULL_SHARE, Forward, Health, Options, Seat, Service,
    ServiceConfig, Services, Shared,
};
use throughway_packet::build::PacketBuilder;
use throughway_packet::{PortId, parse};
use throughway_session::connection::Timeouts;
use throughway_vnf::save::{Lost, Moment, Restored, SESSION, Save};
use throughway_vnf::{Context, Function, Generations, Now, Packet, Verdict};

const SYN: u8 = 2;
const ACK: u8 = 16;
const SECOND: u64 = 1_000_000_000;
const CLIENT: &str = "192.0.2.7";
const VIP: &str = "203.0.113.80";
const OWN: &str = "10.0.1.254";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn service(name: &str, forward: Forward, backends: &[u8]) -> ServiceConfig {
    let port = matches!(forward, Forward::Nat | Forward::FullNat).then_some(8080);
    let backends = backends.iter().map(|id| {
        let seat = Arc::new(Seat::new(ip(&format!("10.0.1.{id}")), port));
        Backend { seat, weight: 1, share: FULL_SHARE, backup: false, health: Health::Up }
    });
    ServiceConfig {
        addresses: vec![ip(VIP)],
        protocols: vec![6, 17],
        ports: vec![80..=80],
        table_size: 251,
        ..ServiceConfig::new(name, forward, backends.collect())
    }
}

struct World {
    balancer: Balancer,
    shared: Arc<Shared>,
    config: ServiceConfig,
    now: Now,
}

impl World {
    fn new(config: ServiceConfig, connections: u32, now: Now) -> World {
        let options = Options { connections, half_open: connections, seed: [1, 2], timeouts: Timeouts::NAT };
        let shared = Arc::new(Shared::new(options, Arc::new(Generations::default())));
        let made = Service::new(config.clone(), None).unwrap();
        shared.publish(Services::new(vec![Arc::new(made)]));
        World { balancer: Balancer::new(Arc::clone(&shared)), shared, config, now }
    }

    /// Our own address toward the backends is known.
    fn with_own(self) -> World {
        self.config.backends.iter().for_each(|backend| backend.seat.set_via(Some(ip(OWN))));
        self
    }

    /// Whom a packet goes to: destination and port as it leaves, and whom the router is to send it to.
    fn send(&mut self, packet: &PacketBuilder) -> Option<(IpAddr, u16, IpAddr)> {
        let frame = packet.finish();
        let mut packet = Packet::new(&frame, parse(&frame, PortId(0)).unwrap());
        let verdict = self.balancer.judge(&mut packet, &Context { now: self.now });
        let headers = packet.headers();
        (verdict == Verdict::Continue)
            .then(|| (headers.destination(), headers.destination_port(), packet.routed_by()))
    }

    /// Opens a connection of the client; whom it goes to.
    fn open(&mut self, port: u16) -> (IpAddr, u16, IpAddr) {
        self.send(&to_service(port, SYN)).unwrap()
    }

    fn saved(&self, leaving: Leaving) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        let connections = Connections { shared: &self.shared, leaving: RefCell::new(leaving) };
        assert_eq!(connections.save(self.now, &mut records), 0);
        records
    }

    fn restore(&self, records: &[Vec<u8>], gap: Duration) -> (Restored, Leaving) {
        let connections = Connections { shared: &self.shared, leaving: RefCell::default() };
        let moment = Moment { now: self.now, gap, ports: &[] };
        let restored = connections.restore(&mut records.iter().map(Vec::as_slice), &moment);
        (restored, connections.leaving.into_inner())
    }
}

fn to_service(port: u16, flags: u8) -> PacketBuilder {
    PacketBuilder::between(ip(CLIENT), ip(VIP)).tcp(port, 80, flags)
}

const THEN: Now = Now(1000 * SECOND);
const LATER: Now = Now(77 * SECOND);

fn all(sessions: u64) -> Restored {
    Restored { sessions, ..Restored::default() }
}

#[test]
fn connections_stay_where_they_are_whatever_the_hash_says_now() {
    for forward in [Forward::Nat, Forward::FullNat, Forward::Dsr, Forward::Ipip] {
        let mut before = World::new(service("web", forward, &[1, 2, 3]), 100, THEN).with_own();
        let went: Vec<_> = (5000..5020).map(|port| before.open(port)).collect();
        let records = before.saved(Leaving::new());
        // Two of the three have other names for the hash now; our own address is what was written.
        let config = service("web", forward, &[9, 3, 2, 1, 8]);
        let mut after = World::new(config, 100, LATER);
        let (restored, leaving) = after.restore(&records, Duration::ZERO);
        assert_eq!((restored, leaving.len()), (all(20), 0), "{forward:?}");
        let goes: Vec<_> = (5000..5020).map(|port| after.send(&to_service(port, SYN)).unwrap()).collect();
        assert_eq!(goes, went, "{forward:?}");
        let active: u32 = after.config.backends.iter().map(|backend| backend.seat.figures.active()).sum();
        assert_eq!((active, after.shared.overview().connections.iter().sum::<u32>()), (20, 20));
        // The hash alone would have sent some of them elsewhere.
        let mut anew = World::new(service("web", forward, &[9, 3, 2, 1, 8]), 100, LATER).with_own();
        let other: Vec<_> = (5000..5020).map(|port| anew.open(port)).collect();
        assert_ne!(other, went, "{forward:?}");
        if forward == Forward::Nat {
            let (backend, port, _) = went[0];
            let answer = PacketBuilder::between(backend, ip(CLIENT)).tcp(port, 5000, SYN | ACK);
            assert!(after.send(&answer).is_some());
            assert_eq!(after.shared.overview().connections[1], 0, "its handshake goes on where it was");
            after.send(&to_service(5000, ACK)).unwrap();
            assert_eq!(after.shared.overview().connections[1], 1);
        }
    }
}

#[test]
fn a_backend_that_is_gone_finishes_what_it_has() {
    let mut before = World::new(service("web", Forward::Nat, &[1, 2]), 100, THEN);
    let went: Vec<_> = (5000..5020).map(|port| before.open(port)).collect();
    let of_first = went.iter().filter(|(to, ..)| *to == ip("10.0.1.1")).count() as u64;
    let records = before.saved(Leaving::new());
    // A service is another one by its name, a backend by its address or port.
    for (name, backends, gone) in [("web", &[2u8][..], of_first), ("shop", &[1, 2], 20)] {
        let mut after = World::new(service(name, Forward::Nat, backends), 100, LATER);
        let (restored, leaving) = after.restore(&records, Duration::ZERO);
        assert_eq!(restored, all(20));
        let waiting: u64 = leaving.iter().map(|(_, seat)| u64::from(seat.figures.active())).sum();
        assert_eq!(waiting, gone, "{name}");
        assert!(leaving.iter().all(|(name, seat)| &**name == "web" && !seat.is_taking()));
        let goes: Vec<_> = (5000..5020).map(|port| after.send(&to_service(port, SYN)).unwrap()).collect();
        assert_eq!(goes, went, "{name}");
        // Saved again, they are known by the names of who is leaving.
        let records = after.saved(leaving);
        let third = World::new(service("web", Forward::Nat, &[1, 2]), 100, THEN);
        let (restored, leaving) = third.restore(&records, Duration::ZERO);
        assert_eq!((restored.sessions, restored.all_lost()), (20, 0));
        assert!(leaving.is_empty(), "both are configured again");
    }
}

#[test]
fn clients_keep_their_backends_by_affinity() {
    let sticky = |backends: &[u8]| ServiceConfig {
        affinity: Affinity::Source,
        affinity_timeout: Duration::from_secs(600),
        ..service("web", Forward::Nat, backends)
    };
    let mut before = World::new(sticky(&[1]), 100, THEN);
    let (first, port, _) = before.open(5000);
    let answer = PacketBuilder::between(first, ip(CLIENT)).tcp(port, 5000, SYN | ACK);
    before.send(&answer).unwrap();
    before.send(&to_service(5000, ACK)).unwrap();
    assert_eq!(before.shared.overview().clients, 1);
    let records = before.saved(Leaving::new());
    for gap in [10, 599, 601] {
        let mut after = World::new(sticky(&[2, 3, 4, 5, 1]), 100, LATER);
        let _ = after.restore(&records, Duration::from_secs(gap));
        assert_eq!(after.shared.overview().clients, u32::from(gap < 600));
        let stays = (6000..6020).all(|port| after.open(port).0 == first);
        assert_eq!(stays, gap < 600, "{gap}");
    }
}

#[test]
fn what_is_over_or_has_no_room_is_counted() {
    let mut before = World::new(service("web", Forward::Nat, &[1]), 100, THEN);
    for port in 5000..5010 {
        before.open(port);
    }
    let records = before.saved(Leaving::new());
    let small = World::new(service("web", Forward::Nat, &[1]), 4, LATER);
    let (restored, _) = small.restore(&records, Duration::ZERO);
    assert_eq!((restored.sessions, restored.lost[Lost::Full as usize]), (4, 6));
    assert_eq!(small.config.backends[0].seat.figures.active(), 4);
    let late = World::new(service("web", Forward::Nat, &[1]), 100, LATER);
    let (restored, leaving) = late.restore(&records, Duration::from_secs(3600));
    assert_eq!((restored.lost[Lost::Expired as usize], leaving.len()), (10, 0));
}

/// A change here is a change of the file's format: its version goes up.
#[test]
fn the_records_are_these_bytes() {
    let mut world = World::new(service("web", Forward::Nat, &[1]), 100, THEN).with_own();
    world.open(5000);
    world.now = Now(world.now.0 + SECOND);
    let hex = |record: &Vec<u8>| record.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let text: Vec<_> = world.saved(Leaving::new()).iter().map(hex).collect();
    assert_eq!(text, GOLDEN);
}

const GOLDEN: [&str; 2] = [
    "010377656200000000000000000000ffff0a000101913f0100000000000000000000ffff0a0001fe",
    "000106c0000207cb0071501388005001060a000101c00002071f901388f207b0d30e000000",
];

#[test]
fn no_bytes_are_too_odd() {
    let mut before = World::new(service("web", Forward::Nat, &[1, 2]), 100, THEN).with_own();
    for port in 5000..5010 {
        before.open(port);
    }
    let good = before.saved(Leaving::new());
    // Every byte of every record, cut there and changed there.
    for (number, record) in good.iter().enumerate() {
        for at in 0..record.len() {
            for value in [None, Some(0), Some(record[at] ^ 1), Some(0x7f), Some(0xff)] {
                let mut records = good.clone();
                match value {
                    None => records[number].truncate(at),
                    Some(value) => records[number][at] = value,
                }
                let after = World::new(service("web", Forward::Nat, &[1, 2]), 100, LATER);
                let (restored, leaving) = after.restore(&records, Duration::ZERO);
                let seats = after.config.backends.iter().map(|backend| &backend.seat);
                let leaving = leaving.iter().map(|(_, seat)| seat);
                let active: u32 = seats.chain(leaving).map(|seat| seat.figures.active()).sum();
                assert_eq!(u64::from(active), restored.sessions);
                assert!(restored.sessions + restored.all_lost() >= 9 || record[0] != SESSION);
            }
        }
    }
}
