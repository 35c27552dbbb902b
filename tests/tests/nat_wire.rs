//! What the RFCs ask of a NAT, by raw packets over real interfaces: requirements that need no waiting. All of them, with time, are in
//! `vnf/nat/tests/conformance`; `docs/nat-conformance.md` has the table.

use std::net::IpAddr;
use std::time::Duration;

use throughway_lab::Host;
use throughway_packet::build::PacketBuilder;
use throughway_packet::embedded::parse_embedded;
use throughway_packet::icmp::{IcmpError, MAX_FRAME, build_error};
use throughway_packet::{Headers, PortId, checksum, parse};
use throughway_tests::config::Config;
use throughway_tests::wire::Wire;
use throughway_tests::{Scene, eventually, privileged};

const SYN: u8 = 2;
const ACK: u8 = 16;

/// Inside, and nobody's but the test's.
const HOST: &str = "10.1.0.200";
const NEIGHBOUR: &str = "10.1.0.201";
/// Outside.
const SERVER: &str = "10.2.0.200";
const OTHER: &str = "10.2.0.201";
/// The NAT's.
const POOL: &str = "10.2.0.100";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn between(source: &str, destination: &str) -> PacketBuilder {
    PacketBuilder::between(ip(source), ip(destination))
}

struct Wires {
    scene: Scene,
    inside: Wire,
    outside: Wire,
}

/// A packet that came out, with its headers.
type Seen = (Vec<u8>, Headers);

/// Packets to `to`, all of whose checksums are right.
fn to(to: &str) -> impl Fn(&[u8]) -> Option<Seen> {
    let to = ip(to);
    move |frame| {
        let headers = parse(frame, PortId(0)).ok().filter(|headers| headers.destination() == to)?;
        assert!(checksum::verify(frame, &headers), "a wrong checksum: {headers:?}");
        Some((frame.to_vec(), headers))
    }
}

impl Wires {
    fn new(filtering: &str, refuse: &str) -> Wires {
        let mut config = Config::default();
        let nat = format!(
            "{{ nat: {{ outside: wan, source: [ {{ match: {{ source: 10.1.0.0/16 }}, pool: {POOL}, filtering: {filtering} }} ], \
             limits: {{ sessions-per-host: 40, refuse: {refuse} }} }} }}"
        );
        config.functions.push(("outer", nat));
        config.run.insert(0, "outer");
        let scene = Scene::running(&config);
        let inside = Wire::of(&scene, Host::Client, "lan0", &[HOST, NEIGHBOUR]);
        let outside = Wire::of(&scene, Host::ServerA, "wan0", &[SERVER, OTHER]);
        let mut wires = Wires { scene, inside, outside };
        // The neighbours are known to the data plane a moment after they are to the kernel.
        eventually("packets pass", Duration::from_secs(10), || {
            wires.inside.send(&between(HOST, SERVER).udp(9, 9).finish());
            wires.inside.send(&between(HOST, OTHER).udp(9, 9).finish());
            wires.outside.next(to(SERVER)).and(wires.outside.next(to(OTHER))).map(|_| ())
        });
        wires
    }

    #[track_caller]
    fn leaves(&mut self, packet: &PacketBuilder) -> Seen {
        self.inside.send(&packet.finish());
        let seen = parse(&packet.finish(), PortId(0)).expect("a packet").destination().to_string();
        self.outside.next(to(&seen)).expect("it leaves")
    }

    #[track_caller]
    fn comes_in(&mut self, frame: &[u8], host: &str) -> Seen {
        self.outside.send(frame);
        self.inside.next(to(host)).expect("it comes in")
    }

    /// Nothing comes of a packet from outside, and this reason is counted for it.
    #[track_caller]
    fn is_dropped(&mut self, frame: &[u8], reason: &str) {
        let count =
            |scene: &Scene| scene.page().sum("throughway_dropped_packets_total", &[("reason", reason)]);
        let before = count(&self.scene);
        self.outside.send(frame);
        eventually(reason, Duration::from_secs(3), || (count(&self.scene) > before).then_some(()));
        assert!(self.inside.is_silent(to(HOST)) && self.inside.is_silent(to(NEIGHBOUR)));
    }
}

fn source(seen: &Seen) -> (IpAddr, u16) {
    (seen.1.source(), seen.1.source_port())
}

fn error_about(frame: &[u8], error: IcmpError, reporter: &str) -> Vec<u8> {
    let headers = parse(frame, PortId(0)).expect("a packet");
    let mut out = [0; MAX_FRAME];
    let len = build_error(frame, &headers, error, ip(reporter), &mut out).expect("it may be answered");
    out[..len].to_vec()
}

#[test]
fn requirements_of_udp_tcp_and_icmp_on_the_wire() {
    if !privileged() {
        return;
    }
    let mut wires = Wires::new("address-dependent", "host-unreachable");
    // RFC 4787, REQ-1, REQ-2, REQ-3: one outside end for each inside end, whoever it talks to; one address for a host.
    let first = wires.leaves(&between(HOST, SERVER).udp(5004, 53));
    assert_eq!(source(&first), (ip(POOL), 5004));
    assert_eq!(source(&wires.leaves(&between(HOST, OTHER).udp(5004, 54))), source(&first));
    let neighbours = wires.leaves(&between(NEIGHBOUR, SERVER).udp(5004, 53));
    assert_eq!(neighbours.1.source(), ip(POOL));
    assert_ne!(neighbours.1.source_port(), 5004, "no port overloading");
    // REQ-8, address-dependent: any port of who was sent to, nobody else.
    let back = wires.comes_in(&between(SERVER, POOL).udp(9999, 5004).finish(), HOST);
    assert_eq!((back.1.destination(), back.1.destination_port()), (ip(HOST), 5004));
    let port = neighbours.1.source_port();
    wires.is_dropped(&between(OTHER, POOL).udp(53, port).finish(), "nat-filtered");
    // Without a checksum (RFC 768).
    wires.inside.send(&between(HOST, SERVER).udp_without_checksum(5004, 53).finish());
    assert!(wires.outside.next(to(SERVER)).is_some());
    // REQ-9: hairpinning shows the outside source.
    wires.inside.send(&between(HOST, POOL).udp(5004, port).finish());
    wires.inside.send(&between(NEIGHBOUR, POOL).udp(5004, 5004).finish());
    let turned = wires.inside.next(to(HOST)).expect("it is turned round");
    assert_eq!(source(&turned), (ip(POOL), port));
    // REQ-12; RFC 5508, REQ-4: an error is translated, with what it quotes, and ends nothing.
    let error = error_about(&first.0, IcmpError::PortUnreachable, SERVER);
    let (frame, headers) = wires.comes_in(&error, HOST);
    let quoted = parse_embedded(&frame, &headers).expect("it quotes a packet");
    assert_eq!((quoted.source(), quoted.source_port()), (ip(HOST), 5004));
    assert_eq!(source(&wires.leaves(&between(HOST, SERVER).udp(5004, 53))), source(&first));
    // RFC 5508, REQ-3: one with a wrong checksum, and one about nothing that is known.
    let mut wrong = error.clone();
    let at = wrong.len() - 1;
    wrong[at] ^= 1;
    wires.is_dropped(&wrong, "nat-bad-error");
    let unknown = between(POOL, SERVER).udp(6, 7).finish();
    wires.is_dropped(&error_about(&unknown, IcmpError::PortUnreachable, SERVER), "nat-unrelated-error");
    // REQ-5: an error from inside shows the outside address, and quotes it.
    let delivered = wires.comes_in(&between(SERVER, POOL).udp(53, 5004).finish(), HOST);
    wires.inside.send(&error_about(&delivered.0, IcmpError::PortUnreachable, HOST));
    let (frame, headers) = wires.outside.next(to(SERVER)).expect("the error leaves");
    let quoted = parse_embedded(&frame, &headers).expect("it quotes a packet");
    assert_eq!(
        (headers.source(), quoted.destination(), quoted.destination_port()),
        (ip(POOL), ip(POOL), 5004)
    );
    // REQ-1: queries.
    let ping = wires.leaves(&between(HOST, SERVER).echo_request(3000, 1));
    assert_eq!(source(&ping), (ip(POOL), 3000));
    wires.comes_in(&between(SERVER, POOL).echo_reply(3000, 1).finish(), HOST);
    wires.is_dropped(&between(SERVER, POOL).echo_reply(3001, 1).finish(), "nat-no-mapping");
    // REQ-14: fragments in any order, in both directions; what is put together has a right checksum.
    let content: Vec<u8> = (0..4000_u32).map(|at| (at * 7) as u8).collect();
    let parts = between(HOST, SERVER).identification(77).udp(5004, 53).payload(&content).fragments(1200);
    let expected = between(POOL, SERVER).identification(77).udp(5004, 53).payload(&content).fragments(1200);
    for at in [0, 3, 2, 1] {
        wires.inside.send(&parts[at]);
        let (frame, headers) = wires.outside.next(to(SERVER)).expect("the fragment leaves");
        let (upper, same) = (usize::from(headers.l3) + 20, &expected[at]);
        assert_eq!(frame[upper..usize::from(headers.end)], same[14 + 20..], "fragment {at}");
    }
    let parts = between(SERVER, POOL).identification(78).udp(53, 5004).payload(&content).fragments(1200);
    let mut expected =
        between(SERVER, HOST).identification(78).udp(53, 5004).payload(&content).fragments(1200);
    for at in [3, 1, 2] {
        wires.outside.send(&parts[at]);
    }
    assert!(wires.inside.is_silent(to(HOST)), "nobody knows yet whose they are");
    let upper = |frame: &[u8]| frame[14 + 20..].to_vec();
    let mut came = vec![upper(&wires.comes_in(&parts[0], HOST).0)];
    came.extend((1..parts.len()).map(|_| upper(&wires.inside.next(to(HOST)).expect("the others follow").0)));
    let mut expected: Vec<_> = expected.drain(..).map(|frame| upper(&frame)).collect();
    came.sort_unstable();
    expected.sort_unstable();
    assert_eq!(came, expected);
    let alone = between(SERVER, POOL).identification(79).udp(53, 5004).payload(&content).fragments(1200);
    wires.is_dropped(&alone[1], "fragment-before-first");
    // RFC 5382, REQ-2: three-way handshake, and simultaneous open.
    wires.leaves(&between(HOST, SERVER).tcp(5010, 80, SYN));
    wires.comes_in(&between(SERVER, POOL).tcp(80, 5010, SYN | ACK).finish(), HOST);
    wires.leaves(&between(HOST, SERVER).tcp(5010, 80, ACK));
    wires.leaves(&between(HOST, SERVER).tcp(5011, 81, SYN));
    wires.comes_in(&between(SERVER, POOL).tcp(81, 5011, SYN).finish(), HOST);
    wires.leaves(&between(HOST, SERVER).tcp(5011, 81, SYN | ACK));
    // REQ-4: nobody answers an unsolicited SYN.
    wires.is_dropped(&between(OTHER, POOL).tcp(9, 5010, SYN).finish(), "nat-filtered");
    wires.is_dropped(&between(OTHER, POOL).tcp(9, 7777, SYN).finish(), "nat-no-mapping");
    assert!(wires.outside.is_silent(to(OTHER)));
    // RFC 6888, REQ-11: who gets nothing is told, and keeps what he has.
    for port in 0..40 {
        wires.inside.send(&between(NEIGHBOUR, SERVER).udp(6000, 1000 + port).finish());
    }
    let (frame, headers) = wires.inside.next(to(NEIGHBOUR)).expect("it is told");
    assert_eq!((headers.icmp_type, headers.icmp_code), (3, 1));
    assert_eq!(parse_embedded(&frame, &headers).map(|quoted| quoted.source()), Ok(ip(NEIGHBOUR)));
    wires.inside.send(&between(NEIGHBOUR, SERVER).udp(5004, 53).finish());
    let of_old = |frame: &[u8]| to(SERVER)(frame).filter(|seen| seen.1.destination_port() == 53);
    assert_eq!(wires.outside.next(of_old).map(|seen| seen.1.source_port()), Some(port));
}

#[test]
fn filtering_lets_in_whom_it_says_on_the_wire() {
    if !privileged() {
        return;
    }
    let mut wires = Wires::new("endpoint-independent", "drop");
    wires.leaves(&between(HOST, SERVER).udp(5004, 53));
    wires.comes_in(&between(OTHER, POOL).udp(7, 5004).finish(), HOST);
    drop(wires);
    let mut wires = Wires::new("address-and-port-dependent", "admin-prohibited");
    wires.leaves(&between(HOST, SERVER).udp(5004, 53));
    wires.comes_in(&between(SERVER, POOL).udp(53, 5004).finish(), HOST);
    wires.is_dropped(&between(SERVER, POOL).udp(54, 5004).finish(), "nat-filtered");
    wires.is_dropped(&between(OTHER, POOL).udp(53, 5004).finish(), "nat-filtered");
    // RFC 5508, REQ-8.
    for port in 0..41 {
        wires.inside.send(&between(NEIGHBOUR, SERVER).udp(6000, 1000 + port).finish());
    }
    let (_, headers) = wires.inside.next(to(NEIGHBOUR)).expect("it is told");
    assert_eq!((headers.icmp_type, headers.icmp_code), (3, 13));
    // Both hosts have a port, and this is who is told so.
    let rows = wires.scene.show("pools");
    let [all, address] = rows.as_array().expect("rows").as_slice() else { panic!("{rows:#}") };
    assert_eq!(
        (&all["pool"], &all["address"], &all["rule"]),
        (&POOL.into(), &"all".into(), &"source 1".into())
    );
    assert_eq!(address["address"], POOL);
    for row in [all, address] {
        // Port 9 of the wires' first packets is one of the host's three.
        let used = row["udp_used"].as_u64().expect("a number");
        assert_eq!(used, 3, "{row:#}");
        assert_eq!(row["udp_free"].as_u64(), Some(64_512 - used), "{row:#}");
        assert_eq!(
            (&row["tcp_used"], &row["tcp_free"], &row["hosts"]),
            (&0.into(), &64_512.into(), &2.into())
        );
    }
    assert_eq!((&all["refused_no_port"], &address["refused_no_port"]), (&0.into(), &serde_json::Value::Null));
    assert_eq!(wires.scene.show("pools --address 10.2.0.99").as_array().map(Vec::len), Some(0));
}
