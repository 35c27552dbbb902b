//! What becomes of packets to a service, and of the answers.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::IpAddr;
use std::sync::Arc;

use throughway_balancer::{
    Affinity, Backend, Balancer, Figures, Forward, Health, Options, Service, ServiceConfig, Services, Shared,
};
use throughway_packet::build::PacketBuilder;
use throughway_packet::{Headers, PortId, apply, checksum, parse};
use throughway_session::connection::Timeouts;
use throughway_vnf::{Context, DropReason, Function, Now, Packet, Snapshot, Verdict};

const SYN: u8 = 2;
const ACK: u8 = 16;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn between(source: &str, destination: &str) -> PacketBuilder {
    PacketBuilder::between(ip(source), ip(destination))
}

fn backend(id: u32, health: Health) -> Backend {
    let address = ip(&format!("10.0.1.{id}"));
    Backend { id, address, port: Some(8080), weight: 1, health, figures: Arc::<Figures>::default() }
}

fn web(forward: Forward, backends: Vec<Backend>) -> ServiceConfig {
    ServiceConfig {
        id: 7,
        address: ip("203.0.113.80"),
        protocols: vec![6, 17],
        ports: 80..=80,
        forward,
        affinity: Affinity::Connection,
        table_size: 251,
        seed: 0,
        backends,
    }
}

fn services(config: ServiceConfig) -> Services {
    Services::new(vec![Service::new(config).expect("valid")], Timeouts::NAT)
}

struct World {
    balancer: Balancer,
    shared: Arc<Shared>,
    services: Snapshot<Services>,
}

impl World {
    fn new(config: ServiceConfig, connections: u32) -> World {
        let options = Options { connections, half_open: connections, seed: [1, 2] };
        let services = Snapshot::new(services(config));
        let shared = Arc::new(Shared::new(options));
        World { balancer: Balancer::new(Arc::clone(&shared), services.clone()), shared, services }
    }

    /// The verdict, the packet as it leaves, and whom the router is to send it to.
    fn pass(&mut self, packet: &PacketBuilder) -> (Verdict, Headers, IpAddr) {
        let frame = packet.finish();
        let headers = parse(&frame, PortId(0)).unwrap_or_else(|error| panic!("{error}"));
        let mut packet = Packet::new(&frame, headers);
        let verdict = self.balancer.judge(&mut packet, &Context { now: Now(1_000_000_000) });
        let mut sent = frame.clone();
        apply(packet.action(), &headers, &mut sent);
        let seen = parse(&sent, PortId(0)).unwrap();
        assert!(checksum::verify(&sent, &seen));
        (verdict, seen, packet.routed_by())
    }
}

#[test]
fn a_connection_stays_with_its_backend_and_its_answers_come_from_the_service() {
    let mut world = World::new(web(Forward::Nat, vec![backend(1, Health::Up), backend(2, Health::Up)]), 1000);
    for port in 5000..5050 {
        let client = |flags| between("192.0.2.7", "203.0.113.80").tcp(port, 80, flags);
        let (verdict, first, _) = world.pass(&client(SYN));
        assert_eq!((verdict, first.destination_port()), (Verdict::Continue, 8080));
        let server = first.destination().to_string();
        let (_, answer, _) = world.pass(&between(&server, "192.0.2.7").tcp(8080, port, SYN | ACK));
        assert_eq!((answer.source(), answer.source_port()), (ip("203.0.113.80"), 80));
        assert_eq!(world.pass(&client(ACK)).1.destination().to_string(), server);

        // The others go; who has a connection keeps it.
        let gone = [backend(1, Health::Draining), backend(2, Health::Draining), backend(3, Health::Up)];
        let other = web(Forward::Nat, gone.into());
        world.services.publish(services(other));
        assert_eq!(world.pass(&client(ACK)).1.destination().to_string(), server);
        let fresh = between("192.0.2.8", "203.0.113.80").tcp(port, 80, SYN);
        assert_eq!(world.pass(&fresh).1.destination(), ip("10.0.1.3"));
        let both = web(Forward::Nat, vec![backend(1, Health::Up), backend(2, Health::Up)]);
        world.services.publish(services(both));
    }
    assert_eq!(world.shared.connections(), 100);
}

#[test]
fn without_room_the_hash_decides_alike_and_answers_still_find_back() {
    let mut world = World::new(web(Forward::Nat, vec![backend(1, Health::Up), backend(2, Health::Up)]), 1);
    world.pass(&between("192.0.2.1", "203.0.113.80").udp(1, 80));
    for port in 5000..5050 {
        let client = between("192.0.2.7", "203.0.113.80").udp(port, 80);
        let first = world.pass(&client).1.destination();
        assert_eq!(world.pass(&client).1.destination(), first);
        let (_, answer, _) = world.pass(&between(&first.to_string(), "192.0.2.7").udp(8080, port));
        assert_eq!((answer.source(), answer.source_port()), (ip("203.0.113.80"), 80));
    }
    assert_eq!(world.shared.hash_only(), 100);
    // Another box with the same configuration, and a connection it has never seen the begin of.
    let config = || web(Forward::Nat, (1..9).map(|id| backend(id, Health::Up)).collect());
    let [mut one, mut other] = [World::new(config(), 1000), World::new(config(), 1000)];
    for port in 6000..6050 {
        let segment = |flags| between("192.0.2.7", "203.0.113.80").tcp(port, 80, flags);
        assert_eq!(one.pass(&segment(SYN)).1.destination(), other.pass(&segment(ACK)).1.destination());
    }
}

#[test]
fn direct_server_return_leaves_the_packet_alone() {
    let mut world = World::new(web(Forward::Dsr, vec![backend(1, Health::Up)]), 1000);
    let (verdict, seen, to) = world.pass(&between("192.0.2.7", "203.0.113.80").udp(5000, 80));
    assert_eq!((verdict, to), (Verdict::Continue, ip("10.0.1.1")));
    assert_eq!((seen.destination(), seen.destination_port()), (ip("203.0.113.80"), 80));
}

#[test]
fn with_all_backends_down_a_new_connection_is_refused() {
    let mut world = World::new(web(Forward::Nat, vec![backend(1, Health::Down)]), 1000);
    let packet = between("192.0.2.7", "203.0.113.80").udp(5000, 80);
    assert_eq!(world.pass(&packet).0, Verdict::Drop(DropReason::NoBackend));
    let elsewhere = between("192.0.2.7", "203.0.113.81").udp(5000, 80);
    assert_eq!(world.pass(&elsewhere).0, Verdict::Continue, "not ours");
}
