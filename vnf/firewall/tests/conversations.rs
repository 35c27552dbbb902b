//! Golden conversations: who may say what when, protocol by protocol.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod wall;

use std::time::Duration;

use throughway_firewall::Options;
use throughway_packet::build::PacketBuilder;
use throughway_session::Class;
use throughway_vnf::Verdict;
use wall::*;

/// `>` is a segment of the opener, `<` one of the other side; with the verdict and the state afterwards.
type Steps = &'static [(char, u8, Verdict, &'static str)];

fn converse(wall: &mut Wall, (a, b): (&str, &str), name: &str, steps: Steps) {
    for (number, &(direction, flags, verdict, state)) in steps.iter().enumerate() {
        let packet = if direction == '>' {
            between(a, b).tcp(5000, 80, flags)
        } else {
            between(b, a).tcp(80, 5000, flags)
        };
        let sent = wall.on(0, &packet.finish());
        assert_eq!(sent.verdict, verdict, "{name}: segment {number}");
        let now = wall.sessions().first().map_or("none", |session| session.state);
        assert_eq!(now, state, "{name}: segment {number}");
        // Only what is established takes the short way, and then is credited to its session.
        assert_eq!(sent.repeatable, state == "established", "{name}: segment {number}");
        assert_eq!((sent.credit != 0, sent.slots), (sent.repeatable, usize::from(sent.repeatable)));
    }
}

#[test]
fn tcp() {
    const SA: u8 = SYN | ACK;
    const FA: u8 = FIN | ACK;
    const RA: u8 = RST | ACK;
    let conversations: &[(&str, Steps)] = &[
        (
            "handshake, data, half-close, close, and the ports used again",
            &[
                ('>', SYN, PASS, "syn-sent"),
                ('>', SYN, PASS, "syn-sent"),
                ('<', SA, PASS, "syn-received"),
                ('<', SA, PASS, "syn-received"),
                ('>', ACK, PASS, "established"),
                ('<', ACK, PASS, "established"),
                ('>', FA, PASS, "fin-wait"),
                ('<', ACK, PASS, "close-wait"),
                ('<', ACK, PASS, "close-wait"),
                ('<', FA, PASS, "last-ack"),
                ('<', FA, PASS, "last-ack"),
                ('>', ACK, PASS, "time-wait"),
                ('>', ACK, PASS, "time-wait"),
                ('>', SYN, PASS, "syn-sent"),
                ('<', SA, PASS, "syn-received"),
            ],
        ),
        (
            "both open",
            &[
                ('>', SYN, PASS, "syn-sent"),
                ('<', SYN, PASS, "syn-received"),
                ('>', SA, PASS, "syn-received"),
                ('<', SA, PASS, "syn-received"),
                ('>', ACK, PASS, "established"),
            ],
        ),
        ("refused", &[('>', SYN, PASS, "syn-sent"), ('<', RA, PASS, "close"), ('>', SYN, PASS, "syn-sent")]),
        (
            "aborted",
            &[
                ('>', SYN, PASS, "syn-sent"),
                ('<', SA, PASS, "syn-received"),
                ('>', ACK, PASS, "established"),
                ('<', RST, PASS, "close"),
            ],
        ),
        (
            "out of order: data overtakes the handshake",
            &[
                ('>', SYN, PASS, "syn-sent"),
                ('<', SA, PASS, "syn-received"),
                ('<', ACK, PASS, "syn-received"),
                ('>', ACK, PASS, "established"),
                ('<', SA, PASS, "established"),
                ('>', SYN, PASS, "established"),
            ],
        ),
        (
            "what no host sends",
            &[
                ('>', SYN, PASS, "syn-sent"),
                ('>', ACK, INVALID, "syn-sent"),
                ('>', SYN | FIN, INVALID, "syn-sent"),
                ('<', 0, INVALID, "syn-sent"),
                ('<', SA, PASS, "syn-received"),
                ('>', ACK, PASS, "established"),
            ],
        ),
        (
            "the last acknowledgement took the short way, then the ports are used again",
            &[
                ('>', SYN, PASS, "syn-sent"),
                ('<', SA, PASS, "syn-received"),
                ('>', ACK, PASS, "established"),
                ('>', FA, PASS, "fin-wait"),
                ('<', FA, PASS, "last-ack"),
                ('>', SYN, PASS, "syn-sent"),
            ],
        ),
        (
            "nobody opens from outside, and nobody is let in in the middle",
            &[
                ('<', SYN, DEFAULT, "none"),
                ('<', SA, INVALID, "none"),
                ('>', ACK, INVALID, "none"),
                ('>', SA, INVALID, "none"),
                ('>', RST, INVALID, "none"),
                ('>', FA, INVALID, "none"),
                ('>', 0, INVALID, "none"),
            ],
        ),
    ];
    for ends in ENDS {
        for (name, steps) in conversations {
            converse(&mut Wall::simple(), ends, name, steps);
        }
    }
}

#[test]
fn tcp_under_way_is_picked_up_only_if_asked_for() {
    for ends in ENDS {
        let mut wall = Wall::new(Options { pickup: true, ..options() }, inside_out());
        converse(&mut wall, ends, "pickup", &[('<', ACK, DEFAULT, "none"), ('>', RST, INVALID, "none")]);
        let (a, b) = ends;
        assert_eq!(wall.send(&between(a, b).tcp(5000, 80, ACK)), PASS);
        assert_eq!(wall.send(&between(b, a).tcp(80, 5000, ACK)), PASS);
        assert_eq!(wall.state(), "established");
    }
}

/// A TCP frame with sequence number, acknowledgement and window.
fn segment((a, b): (&str, &str), ports: (u16, u16), flags: u8, seq: u32, ack: u32, len: usize) -> Vec<u8> {
    let mut frame = between(a, b).tcp(ports.0, ports.1, flags).payload(&vec![7; len]).finish();
    let at = if a.contains(':') { 54 } else { 34 };
    frame[at + 4..at + 8].copy_from_slice(&seq.to_be_bytes());
    frame[at + 8..at + 12].copy_from_slice(&ack.to_be_bytes());
    frame[at + 14..at + 16].copy_from_slice(&1000u16.to_be_bytes());
    frame
}

#[test]
fn with_windows_forged_segments_end_nothing() {
    for (a, b) in ENDS {
        let mut wall = Wall::new(Options { check_windows: true, ..options() }, inside_out());
        let out = |flags, seq, ack, len| segment((a, b), (5000, 80), flags, seq, ack, len);
        let back = |flags, seq, ack, len| segment((b, a), (80, 5000), flags, seq, ack, len);
        assert_eq!(wall.raw(&out(SYN, 100, 0, 0)), PASS);
        assert_eq!(wall.raw(&back(SYN | ACK, 900, 77, 0)), INVALID, "acknowledges what was not sent");
        assert_eq!(wall.raw(&back(SYN | ACK, 900, 101, 0)), PASS);
        assert_eq!(wall.raw(&out(ACK, 101, 901, 0)), PASS);
        let sent = wall.on(0, &out(ACK, 101, 901, 500));
        assert_eq!((sent.verdict, sent.repeatable), (PASS, false), "every packet is looked at");
        assert_eq!(wall.raw(&back(ACK, 901, 601, 500)), PASS);
        assert_eq!(wall.raw(&back(ACK, 901, 601, 500)), PASS, "sent again");
        assert_eq!(wall.raw(&back(RST, 1 << 30, 0, 0)), INVALID);
        assert_eq!(wall.raw(&out(RST, 100, 0, 0)), INVALID, "before what was acknowledged");
        assert_eq!(wall.raw(&out(FIN | ACK, 5000, 901, 0)), INVALID);
        assert_eq!(wall.raw(&out(ACK, 601, 5000, 0)), INVALID);
        assert_eq!(wall.state(), "established");
        assert_eq!(wall.raw(&out(RST, 601, 0, 0)), PASS);
        assert_eq!(wall.state(), "close");
    }
}

#[test]
fn tcp_timeouts_follow_the_state() {
    let (a, b) = ENDS[0];
    let remaining = |wall: &Wall| wall.sessions()[0].remaining(wall.now).as_secs();
    let mut wall = Wall::simple();
    wall.send(&between(a, b).tcp(5000, 80, SYN));
    assert_eq!(remaining(&wall), 30);
    wall.wait(Duration::from_secs(31));
    assert!(wall.sessions().is_empty());
    wall.establish((a, b), 5000);
    assert_eq!(remaining(&wall), 7440);
    wall.send(&between(a, b).tcp(5000, 80, FIN | ACK));
    assert_eq!(remaining(&wall), 120);
    wall.send(&between(b, a).tcp(80, 5000, RST));
    assert_eq!(remaining(&wall), 10);
}

#[test]
fn udp_is_promoted_by_a_second_packet_or_an_answer() {
    for (a, b) in ENDS {
        let (question, answer) = (between(a, b).udp(5000, 53), between(b, a).udp(53, 5000));
        let mut wall = Wall::simple();
        assert_eq!(wall.send(&answer), DEFAULT);
        let first = wall.on(0, &question.finish());
        assert_eq!((first.verdict, first.repeatable, first.credit), (PASS, false, 0));
        assert_eq!((wall.state(), wall.sessions()[0].class), ("unreplied", Class::HalfOpen));
        let second = wall.on(0, &question.finish());
        assert_eq!((second.verdict, second.repeatable, second.silence), (PASS, true, 26 * SECOND));
        assert_eq!((wall.state(), wall.sessions()[0].class), ("unreplied", Class::Established));
        let reply = wall.on(1, &answer.finish());
        assert_eq!((reply.verdict, reply.repeatable), (PASS, true));
        assert_ne!(reply.credit, second.credit, "each direction has its own");
        assert_eq!(wall.state(), "replied");
        assert_eq!(wall.send(&between(b, a).udp(54, 5000)), DEFAULT, "another port is another session");
        let mut wall = Wall::simple();
        assert_eq!(wall.send(&question), PASS);
        assert_eq!(wall.send(&answer), PASS);
        assert_eq!(wall.sessions()[0].class, Class::Established);
        wall.wait(Duration::from_secs(299));
        assert_eq!(wall.sessions().len(), 1);
        wall.wait(Duration::from_secs(2));
        assert_eq!(wall.sessions().len(), 0);
        assert_eq!(wall.send(&answer), DEFAULT);
    }
}

#[test]
fn icmp_queries_are_answered_by_their_answers_only() {
    for (a, b) in ENDS {
        let mut wall = Wall::simple();
        assert_eq!(wall.send(&between(b, a).echo_reply(7, 1)), INVALID);
        let sent = wall.on(0, &between(a, b).echo_request(7, 1).finish());
        assert_eq!((sent.verdict, sent.repeatable), (PASS, false));
        assert_eq!(wall.send(&between(a, b).echo_reply(7, 1)), INVALID, "nobody has asked");
        assert_eq!(wall.send(&between(b, a).echo_request(7, 1)), DEFAULT, "a question of its own");
        assert_eq!(wall.send(&between(b, a).echo_reply(8, 1)), INVALID);
        let reply = wall.on(0, &between(b, a).echo_reply(7, 1).finish());
        assert_eq!((reply.verdict, reply.repeatable), (PASS, false));
        let session = &wall.sessions()[0];
        assert_eq!((session.state, session.key.source_port), ("replied", [0, 7]));
        assert_eq!(session.key.source_port, session.key.destination_port);
        assert_eq!(wall.sessions().len(), 1);
    }
    // A timestamp reply does not answer an echo request.
    let (a, b) = ENDS[0];
    let mut wall = Wall::simple();
    assert_eq!(wall.send(&between(a, b).echo_request(7, 1)), PASS);
    assert_eq!(wall.send(&between(b, a).icmp(14, 0, [0, 7, 0, 1])), INVALID);
    // An identifier that looks like a kind of question (see `track/icmp.rs`): never an answer that was not asked for.
    let mut wall = Wall::simple();
    assert_eq!(wall.send(&between(a, b).echo_request(0x08ff, 1)), PASS);
    assert_eq!(wall.send(&between(b, a).echo_request(0x08ff, 1)), INVALID);
    assert_eq!(wall.send(&between(b, a).echo_reply(0x08ff, 1)), PASS);
    // A type that nobody knows.
    assert_eq!(wall.send(&between(a, b).icmp(200, 0, [0; 4])), INVALID);
}

#[test]
fn neighbour_discovery_is_not_followed_and_left_to_the_rules() {
    let (a, b) = ENDS[1];
    let mut wall = Wall::simple();
    assert_eq!(wall.send(&between(a, b).icmp(135, 0, [0; 4])), PASS);
    assert_eq!(wall.send(&between(b, a).icmp(136, 0, [0; 4])), DEFAULT);
    assert!(wall.sessions().is_empty());
}

#[test]
fn other_protocols_are_followed_by_their_addresses() {
    for (a, b) in ENDS {
        let mut wall = Wall::simple();
        assert_eq!(wall.send(&between(b, a).protocol(50)), DEFAULT);
        assert_eq!(wall.send(&between(a, b).protocol(50)), PASS);
        assert_eq!(wall.send(&between(b, a).protocol(47)), DEFAULT);
        let answer = wall.on(0, &between(b, a).protocol(50).finish());
        assert_eq!((answer.verdict, answer.repeatable), (PASS, true));
        assert_eq!(wall.state(), "replied");
    }
}

fn sctp(packet: PacketBuilder, ports: (u16, u16), tag: u32, kind: u8, value: &[u8]) -> Vec<u8> {
    let mut chunk = vec![kind, 0];
    chunk.extend((4 + value.len() as u16).to_be_bytes());
    chunk.extend(value);
    let ipv6 = packet.finish().len() == 54;
    let mut frame = packet.sctp(ports.0, ports.1).payload(&chunk).finish();
    let at = if ipv6 { 54 } else { 34 };
    frame[at + 4..at + 8].copy_from_slice(&tag.to_be_bytes());
    frame
}

#[test]
fn sctp_is_followed_by_its_chunks_and_tags() {
    for (a, b) in ENDS {
        let mut wall = Wall::simple();
        let out = |tag, kind, value: &[u8]| sctp(between(a, b), (5000, 3868), tag, kind, value);
        let back = |tag, kind, value: &[u8]| sctp(between(b, a), (3868, 5000), tag, kind, value);
        assert_eq!(wall.raw(&out(9, 0, b"data")), INVALID, "only an INIT opens");
        assert_eq!(wall.raw(&back(0, 1, &[0, 0, 0, 5])), DEFAULT);
        assert_eq!(wall.raw(&out(0, 1, &[0, 0, 0, 5])), PASS);
        assert_eq!(wall.state(), "cookie-wait");
        assert_eq!(wall.raw(&back(6, 2, &[0, 0, 0, 6])), INVALID, "the wrong tag");
        assert_eq!(wall.raw(&back(5, 2, &[0, 0, 0, 6])), PASS);
        assert_eq!(wall.raw(&out(6, 10, b"cook")), PASS);
        assert_eq!(wall.raw(&back(5, 11, &[])), PASS);
        assert_eq!(wall.state(), "established");
        let data = wall.on(0, &out(6, 0, b"data"));
        assert_eq!((data.verdict, data.repeatable), (PASS, false), "its chunks say what happens");
        assert_eq!(wall.raw(&back(77, 6, &[])), INVALID, "a forged ABORT");
        assert_eq!(wall.state(), "established");
        assert_eq!(wall.raw(&back(5, 6, &[])), PASS);
        assert_eq!(wall.state(), "closed");
    }
}

#[test]
fn a_packet_to_its_own_sender_opens_nothing() {
    let mut wall = Wall::simple();
    for packet in [
        between("10.0.0.1", "10.0.0.1").tcp(80, 80, SYN),
        between("10.0.0.1", "10.0.0.1").udp(80, 80),
        between("10.0.0.1", "10.0.0.1").protocol(50),
    ] {
        assert_eq!(wall.send(&packet), INVALID);
    }
    assert!(wall.sessions().is_empty());
}

#[test]
fn what_the_flow_cache_saw_keeps_a_session_alive_and_is_counted() {
    let (a, b) = ENDS[0];
    let mut wall = Wall::simple();
    wall.send(&between(a, b).udp(5000, 53));
    let out = wall.on(0, &between(a, b).udp(5000, 53).finish()).credit;
    let back = wall.on(0, &between(b, a).udp(53, 5000).finish()).credit;
    for _ in 0..10 {
        wall.wait(Duration::from_secs(100));
        wall.settle(out, 10);
        wall.settle(back, 5);
    }
    let session = &wall.sessions()[0];
    assert_eq!(session.packets, [102, 51]);
    let len = u64::from(28u16);
    assert_eq!(session.bytes, [100 * 100 + 2 * len, 50 * 100 + len]);
    assert_eq!(wall.packets_of_rule(Some(1)), 153);
    // Late, and after its end: without effect.
    let id = session.id;
    assert_eq!(wall.shared.clear(|session| session.id == id), 1);
    wall.settle(out, 10);
    assert_eq!(wall.packets_of_rule(Some(1)), 153);
    assert_eq!(wall.send(&between(b, a).udp(53, 5000)), DEFAULT);
}
