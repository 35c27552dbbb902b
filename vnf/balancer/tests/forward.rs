//! What becomes of packets to a service, and of the answers.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use throughway_balancer::{
    Affinity, AllDown, Backend, Balancer, FULL_SHARE, Forward, Health, Options, Seat, Service, ServiceConfig,
    Services, Shared,
};
use throughway_packet::build::PacketBuilder;
use throughway_packet::{Headers, PortId, apply, checksum, parse};
use throughway_session::connection::Timeouts;
use throughway_vnf::{
    Answer, Context, Dependencies, DropReason, Function, Generations, IcmpError, Now, Packet, Verdict,
};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const CLIENT: &str = "192.0.2.7";
const VIP: &str = "203.0.113.80";
const OWN: &str = "10.0.1.254";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn between(source: &str, destination: &str) -> PacketBuilder {
    PacketBuilder::between(ip(source), ip(destination))
}

/// The backends 10.0.1.1 and following, with port 8080 where ports are translated.
fn backends(forward: Forward, count: u8) -> Vec<Backend> {
    let port = matches!(forward, Forward::Nat | Forward::FullNat).then_some(8080);
    let all = (1..=count).map(|id| {
        let seat = Arc::new(Seat::new(ip(&format!("10.0.1.{id}")), port));
        seat.set_via(Some(ip(OWN)));
        Backend { seat, weight: 1, share: FULL_SHARE, backup: false, health: Health::Up }
    });
    all.collect()
}

fn web(forward: Forward, backends: Vec<Backend>) -> ServiceConfig {
    ServiceConfig {
        addresses: vec![ip(VIP)],
        protocols: vec![6, 17],
        ports: vec![80..=80],
        table_size: 251,
        ..ServiceConfig::new("web", forward, backends)
    }
}

struct World {
    balancer: Balancer,
    shared: Arc<Shared>,
    generations: Arc<Generations>,
    config: ServiceConfig,
    now: Now,
}

/// What left: the verdict, the packet, its frame, and whom the router is to send it to.
struct Left {
    verdict: Verdict,
    headers: Headers,
    frame: Vec<u8>,
    to: IpAddr,
    cached: bool,
    /// What the answer was made from.
    from: Dependencies,
}

impl Left {
    fn source(&self) -> (String, u16) {
        (self.headers.source().to_string(), self.headers.source_port())
    }

    fn destination(&self) -> (String, u16) {
        (self.headers.destination().to_string(), self.headers.destination_port())
    }
}

impl World {
    fn new(config: ServiceConfig, connections: u32) -> World {
        World::half_open(config, connections, connections)
    }

    fn half_open(config: ServiceConfig, connections: u32, half_open: u32) -> World {
        let options = Options { connections, half_open, seed: [1, 2], timeouts: Timeouts::NAT };
        let generations = Arc::new(Generations::default());
        let shared = Arc::new(Shared::new(options, Arc::clone(&generations)));
        let mut world = World {
            generations,
            balancer: Balancer::new(Arc::clone(&shared)),
            shared,
            config: config.clone(),
            now: Now(1_000_000_000),
        };
        world.change(|_| {});
        world
    }

    /// Puts another configuration into force.
    fn change(&mut self, change: impl FnOnce(&mut ServiceConfig)) {
        change(&mut self.config);
        let before = self.shared.services().iter().next().cloned();
        let service = Service::new(self.config.clone(), before.as_deref()).expect("valid");
        self.shared.publish(Services::new(vec![Arc::new(service)]));
    }

    fn health(&mut self, health: &[Health]) {
        self.change(|config| {
            for (backend, health) in config.backends.iter_mut().zip(health) {
                backend.health = *health;
            }
        });
    }

    fn pass(&mut self, packet: &PacketBuilder) -> Left {
        self.frame(packet.finish())
    }

    fn frame(&mut self, frame: Vec<u8>) -> Left {
        let headers = parse(&frame, PortId(0)).unwrap_or_else(|error| panic!("{error}"));
        let mut packet = Packet::new(&frame, headers);
        let verdict = self.balancer.judge(&mut packet, &Context { now: self.now });
        let (to, cached, from) = (packet.routed_by(), packet.is_repeatable(), packet.dependencies());
        let tunnelled = packet.rewrite().tunnel.kind != 0;
        if tunnelled {
            let headers = *packet.headers();
            return Left { verdict, headers, frame, to, cached, from };
        }
        let mut sent = frame.clone();
        packet.extra().execute(&headers, &mut sent);
        apply(packet.action(), &headers, &mut sent);
        let seen = parse(&sent, PortId(0)).unwrap();
        assert!(checksum::verify(&sent, &seen));
        Left { verdict, headers: seen, frame: sent, to, cached, from }
    }

    fn tcp(&mut self, port: u16, flags: u8) -> Left {
        self.pass(&between(CLIENT, VIP).tcp(port, 80, flags))
    }

    fn answer(&mut self, backend: &(String, u16), port: u16, flags: u8) -> Left {
        self.pass(&between(&backend.0, CLIENT).tcp(backend.1, port, flags))
    }
}

#[test]
fn a_connection_stays_with_its_backend_and_its_answers_come_from_the_service() {
    let mut world = World::new(web(Forward::Nat, backends(Forward::Nat, 3)), 1000);
    for port in 5000..5050 {
        world.health(&[Health::Up, Health::Up, Health::Down]);
        let first = world.tcp(port, SYN);
        assert_eq!((first.verdict, first.headers.destination_port()), (Verdict::Continue, 8080));
        let server = first.destination();
        let answer = world.answer(&server, port, SYN | ACK);
        assert_eq!(answer.source(), (VIP.to_owned(), 80));
        assert_eq!(world.tcp(port, ACK).destination(), server);
        // The others go; who has a connection keeps it.
        world.health(&[Health::Draining, Health::Down, Health::Up]);
        let kept = world.tcp(port, ACK);
        assert_eq!((kept.destination(), kept.cached), (server, true));
        let fresh = world.pass(&between("192.0.2.8", VIP).tcp(port, 80, SYN));
        assert_eq!(fresh.destination(), ("10.0.1.3".to_owned(), 8080));
    }
    assert_eq!(world.shared.overview().connections, [50, 50, 0]);
    let figures = world.config.backends.iter().map(|backend| backend.seat.figures.get()[0]);
    assert_eq!(figures.sum::<u64>(), 100);
}

#[test]
fn a_backend_that_the_configuration_forgets_finishes_what_it_has() {
    let mut world = World::new(web(Forward::Nat, backends(Forward::Nat, 1)), 1000);
    let seat = Arc::clone(&world.config.backends[0].seat);
    let server = world.tcp(5000, SYN).destination();
    world.answer(&server, 5000, SYN | ACK);
    world.tcp(5000, ACK);
    world.change(|config| config.backends.clear());
    assert_eq!(world.tcp(5000, ACK).destination(), server);
    assert_eq!(world.answer(&server, 5000, ACK).source(), (VIP.to_owned(), 80));
    assert_eq!(seat.figures.active(), 1);
    assert_eq!(world.tcp(5001, SYN).verdict, Verdict::Reject(DropReason::NoBackend, Answer::TcpReset));
    world.tcp(5000, RST);
    world.now.0 += 3600 * 1_000_000_000;
    for _ in 0..100 {
        world.balancer.tick(&Context { now: world.now });
    }
    assert_eq!((seat.figures.active(), seat.figures.get()[0]), (0, 1));
}

#[test]
fn what_has_no_answer_yet_leaves_a_backend_that_went_down() {
    let mut world = World::new(web(Forward::Nat, backends(Forward::Nat, 2)), 1000);
    world.health(&[Health::Up, Health::Down]);
    let first = ("10.0.1.1".to_owned(), 8080);
    let udp = between(CLIENT, VIP).udp(6000, 80);
    assert_eq!(world.tcp(5000, SYN).destination(), first);
    assert_eq!(world.tcp(5001, SYN).destination(), first);
    assert_eq!(world.pass(&udp).destination(), first);
    world.answer(&first, 5001, SYN | ACK);
    world.tcp(5001, ACK);
    world.health(&[Health::Down, Health::Up]);
    let second = ("10.0.1.2".to_owned(), 8080);
    assert_eq!(world.tcp(5000, SYN).destination(), second, "the SYN is sent again");
    assert_eq!(world.pass(&udp).destination(), second);
    assert_eq!(world.tcp(5001, ACK).destination(), first, "it may be the checks that are broken");
}

#[test]
fn caches_hear_of_a_connection_that_opens_anew_and_of_a_backend_that_went_down() {
    let mut world = World::new(web(Forward::Nat, backends(Forward::Nat, 2)), 1000);
    let server = world.tcp(5000, SYN).destination();
    world.answer(&server, 5000, SYN | ACK);
    let then = world.generations.epoch().generation();
    let cached = world.tcp(5000, ACK);
    assert!(cached.cached);
    let holds = |world: &World| world.generations.epoch().unchanged(then, &cached.from);
    world.health(&[Health::Draining, Health::Draining]);
    world.tcp(5000, RST);
    assert!(holds(&world), "nothing is told that need not be");
    world.health(&[Health::Up, Health::Up]);
    world.tcp(5000, SYN);
    assert!(!holds(&world), "the acknowledgements of the new connection are not those of the old one");
    let then = world.generations.epoch().generation();
    world.health(&[Health::Down, Health::Up]);
    assert!(!world.generations.epoch().unchanged(then, &Dependencies::NONE), "UDP can leave");
}

#[test]
fn what_a_backend_sends_of_its_own_is_an_answer_once_somebody_calls_and_caches_hear_of_it() {
    for ports in [vec![80..=80], Vec::new()] {
        let mut backends = backends(Forward::Nat, 1);
        backends[0].seat = Arc::new(Seat::new(ip("10.0.1.1"), None));
        let mut world = World::new(ServiceConfig { ports, ..web(Forward::Nat, backends) }, 1000);
        let server = ("10.0.1.1".to_owned(), 80);
        let then = world.generations.epoch().generation();
        let own = world.answer(&server, 5000, ACK);
        let other = world.answer(&server, 5001, ACK);
        assert!(own.cached && other.cached && own.source() == server);
        let holds = |world: &World, left: &Left| world.generations.epoch().unchanged(then, &left.from);
        assert!(holds(&world, &own) && holds(&world, &other));
        assert_eq!(world.tcp(5000, ACK).destination(), server);
        assert!(!holds(&world, &own) && holds(&world, &other));
        assert_eq!(world.answer(&server, 5000, ACK).source(), (VIP.to_owned(), 80));
    }
}

#[test]
fn without_room_the_hash_decides_alike_and_answers_still_find_back() {
    let mut world = World::new(web(Forward::Nat, backends(Forward::Nat, 2)), 1);
    let direct = |world: &mut World| world.answer(&("10.0.1.1".to_owned(), 8080), 99, ACK).source();
    assert_eq!(direct(&mut world), ("10.0.1.1".to_owned(), 8080), "its own connections are left alone");
    world.pass(&between("192.0.2.1", VIP).udp(1, 80));
    for port in 5000..5050 {
        let client = between(CLIENT, VIP).udp(port, 80);
        let first = world.pass(&client).destination();
        assert_eq!(world.pass(&client).destination(), first);
        let answer = world.pass(&between(&first.0, CLIENT).udp(8080, port));
        assert_eq!(answer.source(), (VIP.to_owned(), 80));
    }
    assert_eq!(world.shared.overview().hash_only, 100);
}

#[test]
fn a_flood_takes_nothing_from_those_who_are_there() {
    let mut world = World::half_open(web(Forward::Nat, backends(Forward::Nat, 8)), 1000, 10);
    let server = world.tcp(5000, SYN).destination();
    world.answer(&server, 5000, SYN | ACK);
    world.tcp(5000, ACK);
    for port in 10_000..20_000 {
        let attacker = between("198.51.100.66", VIP).tcp(port, 80, SYN);
        assert_eq!(world.pass(&attacker).verdict, Verdict::Continue);
    }
    let overview = world.shared.overview();
    assert_eq!((overview.connections, overview.hash_only), ([10, 1, 0], 9990));
    assert_eq!(world.tcp(5000, ACK).destination(), server);
    // A new one gets through, by the hash alone, to the end of its handshake.
    let server = world.tcp(5001, SYN).destination();
    assert_eq!(world.answer(&server, 5001, SYN | ACK).source(), (VIP.to_owned(), 80));
    assert_eq!(world.tcp(5001, ACK).destination(), server);
}

#[test]
fn two_boxes_choose_alike() {
    let config = || web(Forward::Nat, backends(Forward::Nat, 8));
    let [mut one, mut other] = [World::new(config(), 1000), World::new(config(), 1000)];
    for port in 6000..6050 {
        assert_eq!(one.tcp(port, SYN).destination(), other.tcp(port, ACK).destination());
    }
}

#[test]
fn a_client_has_one_backend_if_the_service_says_so() {
    let mut config = web(Forward::Nat, backends(Forward::Nat, 8));
    config.affinity = Affinity::Source;
    let mut world = World::new(config, 1000);
    let first = world.tcp(5000, SYN).destination();
    assert!((5001..5050).all(|port| world.tcp(port, SYN).destination() == first));
}

#[test]
fn direct_server_return_leaves_the_packet_alone_and_needs_the_clients_packets_only() {
    let mut world = World::new(web(Forward::Dsr, backends(Forward::Dsr, 8)), 1000);
    let first = world.tcp(5000, SYN);
    assert_eq!((first.verdict, first.destination()), (Verdict::Continue, (VIP.to_owned(), 80)));
    assert!(!first.cached);
    world.tcp(5000, ACK);
    world.health(&[Health::Down; 8]);
    for flags in [ACK, ACK, FIN | ACK, ACK] {
        let next = world.tcp(5000, flags);
        assert_eq!((next.to, next.cached), (first.to, true), "{flags}");
    }
    assert_eq!(world.shared.overview().connections, [0, 0, 1]);
    assert_eq!(world.tcp(5000, SYN).verdict, Verdict::Reject(DropReason::NoBackend, Answer::TcpReset));
}

#[test]
fn a_tunnel_is_put_around_the_packet() {
    let mut world = World::new(web(Forward::Ipip, backends(Forward::Ipip, 1)), 1000);
    for flags in [SYN, ACK] {
        let sent = world.tcp(5000, flags);
        assert_eq!(sent.verdict, Verdict::Continue);
        assert_eq!((sent.headers.source(), sent.headers.destination()), (ip(OWN), ip("10.0.1.1")));
        assert_eq!((sent.headers.key.protocol, sent.to), (4, ip("10.0.1.1")));
    }
    let last = between(CLIENT, VIP).hop_limit(1).tcp(5000, 80, ACK);
    let told = Answer::Icmp(IcmpError::HopLimitExceeded);
    assert_eq!(world.pass(&last).verdict, Verdict::Reject(DropReason::HopLimitExceeded, told));
    world.config.backends[0].seat.set_via(None);
    assert_eq!(world.tcp(5000, ACK).verdict, Verdict::Drop(DropReason::BalancerNoSource));
}

#[test]
fn sources_that_are_ours_never_meet() {
    let mut world = World::new(web(Forward::FullNat, backends(Forward::FullNat, 1)), 1000);
    // Two clients with the same port.
    let mut ports = Vec::new();
    for client in [CLIENT, "192.0.2.8", "192.0.2.9"] {
        let sent = world.pass(&between(client, VIP).tcp(5000, 80, SYN));
        assert_eq!((sent.headers.source(), sent.headers.destination()), (ip(OWN), ip("10.0.1.1")));
        let port = sent.headers.source_port();
        assert!(port >= 1024 && !ports.contains(&port));
        ports.push(port);
        let back = world.pass(&between("10.0.1.1", OWN).tcp(8080, port, SYN | ACK));
        assert_eq!((back.source(), back.destination()), ((VIP.to_owned(), 80), (client.to_owned(), 5000)));
    }
    assert_eq!(ports[0], 5000, "the first keeps its own");
    world.change(|config| config.sources = vec![(ip("10.0.2.1"), ip("10.0.2.4"))]);
    let mut sources: Vec<_> = (6000..6100).map(|port| world.tcp(port, SYN).headers.source()).collect();
    sources.sort();
    sources.dedup();
    assert_eq!(sources, ["10.0.2.1", "10.0.2.2", "10.0.2.3", "10.0.2.4"].map(ip));
    let mut full = World::new(web(Forward::FullNat, backends(Forward::FullNat, 1)), 1);
    full.tcp(5000, SYN);
    assert_eq!(full.tcp(5001, SYN).verdict, Verdict::Drop(DropReason::BalancerTableFull));
}

#[test]
fn with_all_backends_down_it_is_as_the_service_says() {
    let mut world = World::new(web(Forward::Nat, backends(Forward::Nat, 2)), 1000);
    world.health(&[Health::Down, Health::Down]);
    let udp = between(CLIENT, VIP).udp(5000, 80);
    let told = Answer::Icmp(IcmpError::PortUnreachable);
    assert_eq!(world.pass(&udp).verdict, Verdict::Reject(DropReason::NoBackend, told));
    assert_eq!(world.tcp(5000, SYN).verdict, Verdict::Reject(DropReason::NoBackend, Answer::TcpReset));
    let elsewhere = between(CLIENT, "203.0.113.81").udp(5000, 80);
    assert_eq!(world.pass(&elsewhere).verdict, Verdict::Continue, "not ours");
    world.change(|config| config.all_down = AllDown::Keep);
    assert_eq!(world.tcp(5000, SYN).verdict, Verdict::Continue);
    world.change(|config| {
        config.all_down = AllDown::Backup;
        config.backends[1].backup = true;
    });
    assert_eq!(world.tcp(5001, SYN).verdict, Verdict::Reject(DropReason::NoBackend, Answer::TcpReset));
    world.health(&[Health::Down, Health::Up]);
    assert_eq!(world.tcp(5002, SYN).destination().0, "10.0.1.2");
    world.health(&[Health::Up, Health::Up]);
    assert!((6000..6050).all(|port| world.tcp(port, SYN).destination().0 == "10.0.1.1"));
}

#[test]
fn ports_in_ranges_stay_and_all_of_a_protocol_is_a_service_too() {
    let mut config = web(Forward::Nat, Vec::new());
    config.backends = vec![Backend {
        seat: Arc::new(Seat::new(ip("10.0.1.1"), None)),
        ..backends(Forward::Nat, 1)[0].clone()
    }];
    config.ports = vec![100..=200, 443..=443];
    let mut world = World::new(config, 1000);
    for (port, served) in [(99, false), (100, true), (200, true), (201, false), (443, true), (444, false)] {
        let sent = world.pass(&between(CLIENT, VIP).tcp(5000, port, SYN));
        let to = if served { "10.0.1.1" } else { VIP };
        assert_eq!(sent.destination(), (to.to_owned(), port));
    }
    world.change(|config| (config.ports, config.protocols) = (Vec::new(), Vec::new()));
    let echo = world.pass(&between(CLIENT, VIP).echo_request(77, 1));
    assert_eq!(echo.headers.destination(), ip("10.0.1.1"));
    let esp = world.pass(&between(CLIENT, VIP).protocol(50).payload(&[7; 20]));
    assert_eq!(esp.headers.destination(), ip("10.0.1.1"));
    let back = world.pass(&between("10.0.1.1", CLIENT).protocol(50).payload(&[7; 20]));
    assert_eq!(back.headers.source(), ip(VIP));
}

#[test]
fn errors_find_who_sent_what_they_are_about() {
    for forward in [Forward::Nat, Forward::FullNat] {
        let mut world = World::new(web(forward, backends(forward, 8)), 1000);
        let sent = world.tcp(5000, SYN);
        // A router behind us about the request.
        let error = error_about(&sent.frame, ip("10.0.1.250"));
        let told = world.frame(error);
        assert_eq!((told.headers.source(), told.headers.destination()), (ip(VIP), ip(CLIENT)));
        let about = embedded(&told);
        assert_eq!((about.source(), about.destination()), (ip(CLIENT), ip(VIP)));
        assert_eq!((about.source_port(), about.destination_port()), (5000, 80));
        // A router before us about the answer.
        let (to, port) = sent.source();
        let answered = between(&sent.destination().0, &to).tcp(8080, port, SYN | ACK);
        let answer = world.pass(&answered);
        let error = error_about(&answer.frame, ip("192.0.2.250"));
        let told = world.frame(error);
        assert_eq!(told.headers.destination(), sent.headers.destination());
        let about = embedded(&told);
        assert_eq!((about.source(), about.source_port()), (sent.headers.destination(), 8080));
        assert_eq!((about.destination().to_string(), about.destination_port()), (to, port));
    }
}

/// A router says that the host cannot be reached to which a packet was sent.
fn error_about(frame: &[u8], router: IpAddr) -> Vec<u8> {
    let about = parse(frame, PortId(0)).unwrap();
    let quote = &frame[usize::from(about.l3)..usize::from(about.end)];
    PacketBuilder::between(router, about.source()).icmp(3, 1, [0; 4]).payload(quote).finish()
}

fn embedded(left: &Left) -> Headers {
    assert_eq!(left.verdict, Verdict::Continue);
    throughway_packet::embedded::parse_embedded(&left.frame, &left.headers).expect("an error")
}

#[test]
fn later_fragments_follow_their_first() {
    let mut world = World::new(web(Forward::Nat, backends(Forward::Nat, 8)), 1000);
    let later = || between(CLIENT, VIP).fragment(64, false).protocol(17).payload(&[1; 64]);
    assert_eq!(world.pass(&later()).verdict, Verdict::Drop(DropReason::FragmentBeforeFirst));
    let first = world.pass(&between(CLIENT, VIP).fragment(0, true).udp(5000, 80).payload(&[1; 56]));
    let second = world.pass(&later());
    assert_ne!(first.headers.destination(), ip(VIP));
    assert_eq!(second.headers.destination(), first.headers.destination());
    let other = between(CLIENT, "203.0.113.81").fragment(64, false).protocol(17).payload(&[1; 64]);
    assert_eq!(world.pass(&other).verdict, Verdict::Continue);
}

#[test]
fn a_backend_that_starts_slowly_gets_a_part_of_its_share() {
    let mut config = web(Forward::Nat, backends(Forward::Nat, 2));
    config.backends[1].share = FULL_SHARE / 4;
    config.table_size = 65_537;
    let service = Service::new(config, None).expect("valid");
    let shares = service.table().shares(2);
    assert!((shares[0] as f64 / shares[1] as f64 - 4.0).abs() < 0.01, "{shares:?}");
}

#[test]
fn a_client_stays_with_its_backend_for_the_timeout_and_no_longer() {
    let mut config = web(Forward::Nat, backends(Forward::Nat, 8));
    (config.affinity, config.affinity_timeout) = (Affinity::Source, Duration::from_secs(60));
    let mut world = World::new(config, 1000);
    let open = |world: &mut World, port: u16| {
        let server = world.tcp(port, SYN).destination();
        world.answer(&server, port, SYN | ACK);
        world.tcp(port, ACK);
        server
    };
    // The backend that all but one weigh nothing beside; then they do.
    world.change(|config| config.backends[1..].iter_mut().for_each(|backend| backend.weight = 0));
    let first = open(&mut world, 5000);
    world.change(|config| {
        config.backends[1..].iter_mut().for_each(|backend| backend.weight = 100);
    });
    assert_ne!(world.pass(&between("192.0.2.8", VIP).tcp(1, 80, SYN)).destination(), first);
    for port in 5001..5010 {
        assert_eq!(open(&mut world, port), first);
        world.now.0 += 50_000_000_000;
    }
    assert_eq!(world.config.figures.get().returned, 9);
    world.now.0 += 11_000_000_000;
    assert_ne!(open(&mut world, 5020), first, "it was away for longer");
    // A drained backend gets no new connections, whoever was there.
    let second = open(&mut world, 5021);
    let at = world.config.backends.iter().position(|backend| backend.seat.address == ip(&second.0)).unwrap();
    world.change(|config| config.backends[at].health = Health::Draining);
    let third = open(&mut world, 5022);
    assert_ne!(third, second);
    world.change(|config| config.backends[at].health = Health::Up);
    assert_eq!(open(&mut world, 5023), third, "it does not go back and forth");
    assert_eq!(world.shared.overview().clients, 1, "and a SYN alone is not remembered");
}

#[test]
fn pings_are_answered_only_where_the_service_says_so() {
    for (client, vip) in [(CLIENT, VIP), ("2001:db8::7", "2001:db8::80")] {
        let mut config = web(Forward::Nat, Vec::new());
        config.addresses = vec![ip(vip)];
        let mut world = World::new(config, 1000);
        let ping = between(client, vip).echo_request(77, 1).payload(&[5; 56]);
        assert_eq!(world.pass(&ping).headers.destination(), ip(vip));
        world.change(|config| config.answer_ping = true);
        let asked = ping.finish();
        let sent = world.pass(&ping);
        assert_eq!((sent.verdict, sent.cached), (Verdict::Continue, false));
        assert_eq!((sent.headers.source(), sent.headers.destination()), (ip(vip), ip(client)));
        let l4 = usize::from(sent.headers.l4);
        let kind = if sent.headers.is_ipv4() { 0 } else { 129 };
        assert_eq!(sent.frame[l4..l4 + 2], [kind, 0]);
        assert_eq!(sent.frame[l4 + 4..], asked[l4 + 4..], "identifier, sequence number and data");
        let elsewhere = if vip == VIP { "203.0.113.81" } else { "2001:db8::81" };
        assert_eq!(
            world.pass(&between(client, elsewhere).echo_request(7, 1)).headers.destination(),
            ip(elsewhere)
        );
    }
}

/// A router says that a tunnel's outer packet, from `own` to `backend`, is longer than `mtu`.
fn narrow(own: &str, backend: &str, inner: &[u8], mtu: u16) -> Vec<u8> {
    let protocol = if inner[0] >> 4 == 4 { 4 } else { 41 };
    let outer = between(own, backend).protocol(protocol).payload(inner).finish();
    let [high, low] = mtu.to_be_bytes();
    let (router, kind, code) = if ip(own).is_ipv4() { ("10.0.9.9", 3, 4) } else { ("fd00:9::9", 2, 0) };
    let about = parse(&outer, PortId(0)).unwrap();
    let quote = &outer[usize::from(about.l3)..outer.len().min(usize::from(about.l3) + 500)];
    between(router, own).icmp(kind, code, [0, 0, high, low]).payload(quote).finish()
}

#[test]
fn what_a_tunnel_does_not_take_its_clients_are_told() {
    for (client, vip, own, backend, overhead) in [
        (CLIENT, VIP, OWN, "10.0.1.1", 20),
        ("2001:db8::7", "2001:db8::80", "fd00:1::1", "fd00:2::1", 40),
        (CLIENT, VIP, "fd00:1::1", "fd00:2::1", 40),
        ("2001:db8::7", "2001:db8::80", OWN, "10.0.1.1", 20),
    ] {
        let seat = Arc::new(Seat::new(ip(backend), None));
        seat.set_via(Some(ip(own)));
        let backend_of = Backend { seat, ..backends(Forward::Ipip, 1)[0].clone() };
        let mut config = web(Forward::Ipip, vec![backend_of]);
        config.addresses = vec![ip(vip)];
        let mut world = World::new(config, 1000);
        let large = between(client, vip).dont_fragment().tcp(5000, 80, ACK).payload(&[1; 1400]);
        assert_eq!(world.pass(&between(client, vip).tcp(5000, 80, SYN)).verdict, Verdict::Continue);
        let before = world.generations.epoch().generation();
        let sent = world.pass(&large);
        assert_eq!(sent.verdict, Verdict::Continue);
        // About another host's tunnel, and about one of ours.
        let stranger = if ip(own).is_ipv4() { "10.0.1.77" } else { "fd00:2::77" };
        let frame = large.finish();
        let inner = &frame[14..];
        assert_eq!(world.frame(narrow(own, stranger, inner, 1300)).verdict, Verdict::Continue);
        assert_eq!(world.pass(&large).verdict, Verdict::Continue);
        let heard = world.frame(narrow(own, backend, inner, 1300)).verdict;
        assert_eq!(heard, Verdict::Drop(DropReason::BalancerTunnelError));
        assert!(!world.generations.epoch().unchanged(before, &sent.from), "the caches hear of it");
        let told = Answer::Icmp(IcmpError::TooBig { mtu: 1300 });
        assert_eq!(world.pass(&large).verdict, Verdict::Reject(DropReason::TooBig, told));
        // What the client is told leaves room for the tunnel.
        let headers = parse(&frame, PortId(0)).unwrap();
        let mut packet = Packet::new(&frame, headers);
        let verdict = world.balancer.judge(&mut packet, &Context { now: world.now });
        packet.settle(verdict);
        let mtu = 1300 - overhead;
        assert_eq!(
            packet.state(),
            throughway_vnf::packet::State::Dropped(
                DropReason::TooBig,
                Some(Answer::Icmp(IcmpError::TooBig { mtu }))
            )
        );
        let room = usize::from(mtu) - (headers.packet_len() as usize - 1400);
        let fits = between(client, vip).dont_fragment().tcp(5000, 80, ACK);
        assert_eq!(world.pass(&fits.clone().payload(&vec![1; room])).verdict, Verdict::Continue);
        let over = fits.payload(&vec![1; room + 1]);
        assert_eq!(world.pass(&over).verdict, Verdict::Reject(DropReason::TooBig, told));
        world.now.0 += 601_000_000_000;
        assert_eq!(world.pass(&large).verdict, Verdict::Continue, "the path is tried again");
        assert_eq!(world.shared.overview().tunnel_errors, 1);
    }
}

#[test]
fn errors_about_answers_that_went_past_go_to_the_backend_of_the_flow() {
    for forward in [Forward::Dsr, Forward::Ipip] {
        let mut world = World::new(web(forward, backends(forward, 8)), 1000);
        for port in 5000..5020 {
            let remembered = port % 2 == 0;
            let to = world.tcp(port, if remembered { SYN } else { ACK | FIN }).to;
            // The backend's answer, too big for a router before the client.
            let answer = between(VIP, CLIENT).tcp(80, port, ACK).payload(&[1; 1000]).finish();
            let told = world.frame(error_about(&answer, ip("192.0.2.250")));
            assert_eq!((told.verdict, told.to), (Verdict::Continue, to), "{forward:?} {port}");
        }
        assert_eq!(world.config.figures.get().errors, 20);
    }
}

#[test]
fn what_a_service_could_not_do_is_counted_for_it() {
    let mut world = World::half_open(web(Forward::Nat, backends(Forward::Nat, 2)), 1000, 2);
    // The same client and port to two services with the same backends: the answers could not be told apart.
    world.change(|config| config.addresses.push(ip("203.0.113.81")));
    let one = world.tcp(5000, SYN).destination();
    let other = world.pass(&between(CLIENT, "203.0.113.81").tcp(5000, 80, SYN)).destination();
    assert_ne!(one, other);
    world.tcp(5001, SYN);
    world.health(&[Health::Down, Health::Down]);
    world.tcp(5002, SYN);
    let counts = world.config.figures.get();
    assert_eq!((counts.hash_only, counts.rejected, counts.refused), (1, 1, 0));
    assert!(counts.retries <= 16);
}
