//! Arbitrary well-formed packets and edits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use throughway_packet::build::PacketBuilder;
use throughway_packet::frame::{Frame, VecFrame};
use throughway_packet::{
    Action, Edit, Encapsulation, ExecuteError, Headers, ParseError, PortId, Rewrite, Tags, execute, parse,
    tunnel,
};

/// Addresses of one family: often from a few, so that equal ones and words of zeros and ones occur.
pub fn address(ipv4: bool) -> BoxedStrategy<IpAddr> {
    if ipv4 {
        prop_oneof![
            any::<[u8; 4]>(),
            Just([0; 4]),
            Just([255; 4]),
            Just([10, 0, 0, 1]),
            Just([192, 0, 2, 255])
        ]
        .prop_map(|octets| IpAddr::V4(Ipv4Addr::from(octets)))
        .boxed()
    } else {
        prop_oneof![any::<[u8; 16]>(), Just([0; 16]), Just([255; 16]), Just([0x20; 16])]
            .prop_map(Ipv6Addr::from)
            .prop_filter("no IPv4-mapped address", |address| address.to_ipv4_mapped().is_none())
            .prop_map(IpAddr::V6)
            .boxed()
    }
}

/// 16-bit values, often those at which checksums are delicate.
pub fn word() -> impl Strategy<Value = u16> {
    prop_oneof![3 => any::<u16>(), 1 => Just(0), 1 => Just(0xffff), 1 => Just(1)]
}

#[derive(Clone, Copy, Debug)]
enum Upper {
    Udp,
    UdpWithoutChecksum,
    Tcp(u8),
    EchoRequest,
    EchoReply,
    IcmpError(u8),
    IcmpOther(u8),
    Sctp,
    Raw(u8),
}

fn upper() -> impl Strategy<Value = Upper> {
    prop_oneof![
        3 => Just(Upper::Udp),
        1 => Just(Upper::UdpWithoutChecksum),
        3 => any::<u8>().prop_map(Upper::Tcp),
        1 => Just(Upper::EchoRequest),
        1 => Just(Upper::EchoReply),
        1 => prop::sample::select(vec![3u8, 4, 5, 11, 12]).prop_map(Upper::IcmpError),
        1 => prop::sample::select(vec![9u8, 10, 133, 135, 137]).prop_map(Upper::IcmpOther),
        1 => Just(Upper::Sctp),
        1 => prop::sample::select(vec![4u8, 41, 47, 50, 89, 103, 253]).prop_map(Upper::Raw),
    ]
}

/// What is put before the upper layer: IPv4 options, or IPv6 extension headers.
fn extras() -> impl Strategy<Value = (Vec<u8>, [Option<Vec<u8>>; 4], u8)> {
    let options = prop_oneof![2 => Just(Vec::new()), 1 => vec(any::<u8>(), 1..=40)];
    let extension = || option::weighted(0.2, vec(Just(0u8), 6..40));
    (options, [extension(), extension(), extension(), extension()], 0..3u8)
}

/// A description of a packet of any kind.
pub fn builder() -> impl Strategy<Value = PacketBuilder> {
    any::<bool>().prop_flat_map(|ipv4| {
        (
            (address(ipv4), address(ipv4), upper(), word(), word(), any::<u8>(), any::<u8>(), any::<bool>()),
            vec((prop::sample::select(vec![0x8100u16, 0x88a8, 0x9100]), any::<u16>()), 0..=2),
            extras(),
            prop_oneof![vec(any::<u8>(), 0..200), vec(Just(0u8), 0..64), vec(Just(255u8), 0..64)],
            any::<bool>(),
            any::<u32>(),
        )
            .prop_map(
                move |(ip, tags, (options, extensions, segments_left), payload, pad, identification)| {
                    let (source, destination, upper, a, b, traffic_class, hop_limit, dont_fragment) = ip;
                    let mut builder = PacketBuilder::between(source, destination)
                        .traffic_class(traffic_class)
                        .hop_limit(hop_limit)
                        .identification(identification)
                        .payload(&payload);
                    for (ether_type, control) in tags {
                        builder = builder.tag(ether_type, control);
                    }
                    if dont_fragment {
                        builder = builder.dont_fragment();
                    }
                    if ipv4 {
                        builder = builder.options(&options);
                    } else {
                        for (number, content) in [0u8, 60, 43, 51].into_iter().zip(extensions) {
                            if let Some(mut content) = content {
                                // The fixed fields of an authentication header are 12 bytes.
                                content.resize(content.len().max(if number == 51 { 14 } else { 6 }), 0);
                                content[1] = if number == 43 { segments_left } else { 0 };
                                builder = builder.extension(number, &content);
                            }
                        }
                    }
                    if pad {
                        builder = builder.padded(60);
                    }
                    match upper {
                        Upper::Udp => builder.udp(a, b),
                        // Over IPv6 a checksum of zero is wrong, which verification says.
                        Upper::UdpWithoutChecksum if ipv4 => builder.udp_without_checksum(a, b),
                        Upper::UdpWithoutChecksum => builder.udp(a, b),
                        Upper::Tcp(flags) => builder.tcp(a, b, flags),
                        Upper::EchoRequest => builder.echo_request(a, b),
                        Upper::EchoReply => builder.echo_reply(a, b),
                        Upper::IcmpError(kind) | Upper::IcmpOther(kind) => builder.icmp(kind, 0, [0; 4]),
                        Upper::Sctp => builder.sctp(a, b),
                        Upper::Raw(protocol) => builder.protocol(protocol),
                    }
                },
            )
    })
}

/// The frames of one packet: one, or its fragments (the first of them holds the upper-layer header).
pub fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
    (builder(), option::weighted(0.3, 24..120usize)).prop_map(|(builder, size)| match size {
        Some(size) => builder.fragments(size),
        None => vec![builder.finish()],
    })
}

/// Any edit, of either family: what does not fit the packet changes nothing.
pub fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        any::<bool>().prop_flat_map(address).prop_map(Edit::Source),
        any::<bool>().prop_flat_map(address).prop_map(Edit::Destination),
        word().prop_map(Edit::SourcePort),
        word().prop_map(Edit::DestinationPort),
        any::<u8>().prop_map(Edit::Dscp),
        Just(Edit::DecrementHops),
        any::<([u8; 6], [u8; 6])>().prop_map(|(destination, source)| Edit::Ethernet { destination, source }),
        any::<u16>().prop_map(|port| Edit::Egress(PortId(port))),
        tags().prop_map(Edit::Tags),
        any::<u8>().prop_map(Edit::Priority),
    ]
}

/// Tags, some with bits that are no identifier.
fn tags() -> impl Strategy<Value = Tags> {
    let vlan = || prop_oneof![1 => Just(0), 3 => 1..4095u16, 1 => any::<u16>()];
    (vlan(), vlan(), any::<bool>()).prop_map(|(outer, inner, service)| Tags { outer, inner, service })
}

pub fn edits() -> impl Strategy<Value = Vec<Edit>> {
    vec(edit(), 0..8)
}

/// Records edits one by one: the view after them, and the action.
pub fn record(edits: &[Edit], headers: &Headers) -> (Headers, Action) {
    let (mut view, mut action) = (*headers, Action::nothing());
    for edit in edits {
        edit.record(&mut view, &mut action);
    }
    (view, action)
}

/// What can be done to a packet.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Edit(Edit),
    Encapsulate(Encapsulation),
    Decapsulate,
}

fn encapsulation() -> impl Strategy<Value = Encapsulation> {
    let addresses = any::<bool>().prop_flat_map(|ipv4| (address(ipv4), address(ipv4)));
    let rest = (option::of(word()), any::<u8>(), option::of(0..64u8), any::<bool>());
    (addresses, rest).prop_map(|((source, destination), (gue, hop_limit, dscp, dont_fragment))| {
        let plain = match gue {
            Some(port) => Encapsulation::gue(source, destination, port),
            None => Encapsulation::ip(source, destination),
        };
        Encapsulation { hop_limit, dscp, dont_fragment, ..plain }
    })
}

/// Steps of any kind, also those that cannot follow one another.
pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    vec(
        prop_oneof![
            6 => edit().prop_map(Step::Edit),
            1 => encapsulation().prop_map(Step::Encapsulate),
            1 => Just(Step::Decapsulate),
        ],
        0..8,
    )
}

/// Any packet, often one that carries another.
pub fn carriers() -> impl Strategy<Value = Vec<u8>> {
    (builder(), option::weighted(0.6, encapsulation())).prop_map(|(builder, outer)| {
        let frame = builder.finish();
        let Some(outer) = outer else { return frame };
        let headers = parse(&frame, PortId(7)).unwrap();
        let (mut view, mut rewrite) = (headers, Rewrite::nothing());
        assert!(outer.record(&mut view, &mut rewrite));
        run(&rewrite, &headers, &frame).unwrap()
    })
}

/// Records steps one by one; what is refused changes nothing.
pub fn record_steps(steps: &[Step], frame: &[u8], headers: &Headers) -> (Headers, Rewrite) {
    let (mut view, mut rewrite) = (*headers, Rewrite::nothing());
    for step in steps {
        match step {
            Step::Edit(edit) => edit.record_all(&mut view, &mut rewrite),
            Step::Encapsulate(encapsulation) => {
                let _ = encapsulation.record(&mut view, &mut rewrite);
            }
            Step::Decapsulate => {
                let _: Result<(), ParseError> = tunnel::decapsulate(frame, headers, &mut view, &mut rewrite);
            }
        }
    }
    (view, rewrite)
}

/// Executes in a frame with room enough.
pub fn run(rewrite: &Rewrite, headers: &Headers, frame: &[u8]) -> Result<Vec<u8>, ExecuteError> {
    let mut buffer = VecFrame::new(frame, 128);
    execute(rewrite, headers, &mut buffer)?;
    Ok(buffer.bytes().to_vec())
}

/// The frame without the priorities of its tags: where a frame was untagged in between, its bytes cannot carry one on, but a
/// chain can.
pub fn without_priority(mut frame: Vec<u8>) -> Vec<u8> {
    let headers = parse(&frame, PortId(0)).unwrap();
    for at in (14..usize::from(headers.l3)).step_by(4) {
        frame[at] &= 0x0f;
    }
    frame
}
