//! Named frames and what is to become of them: the one table for the decision, built for the host and for the kernel.

use throughway_shared::steer::Reason::{self, *};

/// The interface's own address.
pub(crate) const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
const SENDER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];

/// An address of the host that is the kernel's.
pub(crate) const KERNEL4: [u8; 4] = [192, 0, 2, 1];
/// A directed broadcast address of the host's subnet.
pub(crate) const BROADCAST4: [u8; 4] = [192, 0, 2, 255];
/// An address of the host that a function claims.
pub(crate) const CLAIMED4: [u8; 4] = [198, 51, 100, 1];
/// An address of the host that is the kernel's.
pub(crate) const KERNEL6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// An address of the host that a function claims.
pub(crate) const CLAIMED6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// Where the frames come from.
pub(crate) const PEER4: [u8; 4] = [203, 0, 113, 9];
/// Where the frames come from.
pub(crate) const PEER6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
const TRANSIT4: [u8; 4] = [203, 0, 113, 80];
const TRANSIT6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8];

/// A TCP socket listens here, on both claimed addresses.
pub(crate) const TCP_PORT: u16 = 22;
/// A UDP socket is bound here, on both claimed addresses.
pub(crate) const UDP_PORT: u16 = 53;
/// A UDP socket on both claimed addresses is connected from here to `CONNECTED_PEER` of the peer.
pub(crate) const CONNECTED_PORT: u16 = 5000;
/// See [`CONNECTED_PORT`].
pub(crate) const CONNECTED_PEER: u16 = 6000;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

/// A frame, where it comes in, and what is to become of it.
pub(crate) struct Case {
    /// What it shows.
    pub(crate) name: String,
    /// The frame.
    pub(crate) frame: Vec<u8>,
    /// Comes in on this queue; a worker is bound to queue 0.
    pub(crate) queue: u32,
    /// Comes in on an interface that fails closed.
    pub(crate) fail_closed: bool,
    /// What is added to the number of the device's interface where the frame is counted.
    pub(crate) vlan: u32,
    /// What is to be decided.
    pub(crate) reason: Reason,
}

fn case(name: &str, frame: Vec<u8>, reason: Reason) -> Case {
    Case { name: name.to_owned(), frame, queue: 0, fail_closed: false, vlan: 0, reason }
}

fn ethernet(destination: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(destination);
    frame.extend(SENDER);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Source and destination port, then something like the rest of a header.
fn ports(source: u16, destination: u16) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend(source.to_be_bytes());
    payload.extend(destination.to_be_bytes());
    payload.extend([0x55; 28]);
    payload
}

/// The Internet checksum of `header`, whose checksum field is zero (RFC 1071).
fn checksum(header: &[u8]) -> [u8; 2] {
    let sum: u32 = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    (!throughway_shared::checksum::fold(sum)).to_be_bytes()
}

/// An IPv4 packet. `fragment` is the field with flags and offset; `options` are padded by the caller.
fn ipv4(protocol: u8, destination: [u8; 4], fragment: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let words = 5 + options.len() / 4;
    let mut packet = vec![0x40 | words as u8, 0];
    packet.extend(((words * 4 + payload.len()) as u16).to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(PEER4);
    packet.extend(destination);
    packet.extend(options);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum);
    packet.extend(payload);
    packet
}

fn ipv6(next: u8, destination: [u8; 16], payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(PEER6);
    packet.extend(destination);
    packet.extend(payload);
    packet
}

fn frame4(protocol: u8, destination: [u8; 4], payload: &[u8]) -> Vec<u8> {
    ethernet(MAC, 0x0800, &ipv4(protocol, destination, 0x4000, &[], payload))
}

fn frame6(next: u8, destination: [u8; 16], payload: &[u8]) -> Vec<u8> {
    ethernet(MAC, 0x86dd, &ipv6(next, destination, payload))
}

/// The VLANs of ours: outer and inner identifier, the MAC address of the interface, and how much is added to the number of
/// the device's interface.
pub(crate) const VLANS: [(u16, u16, [u8; 6], u32); 2] = [(7, 0, MAC, 10), (200, 30, VLAN_MAC, 12)];
/// The address of the interface on a VLAN that has its own.
const VLAN_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x20];

/// `frame` behind tags: EtherType and control information, from outside in.
fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    for (kind, control) in tags {
        out.extend(kind.to_be_bytes());
        out.extend(control.to_be_bytes());
    }
    out.extend(&frame[12..]);
    out
}

/// Every case again on the VLANs that are ours: nothing is decided differently behind tags.
fn on_vlans(untagged: &[Case]) -> Vec<Case> {
    let mut cases = Vec::new();
    for case in untagged.iter().filter(|case| case.frame.len() >= 14 && case.reason != UnclaimedVlan) {
        for (tags, vlan) in [
            (&[(0x8100, 0xe007)][..], VLANS[0]),
            (&[(0x88a8, 200), (0x8100, 0x201e)], VLANS[1]),
            (&[(0x9100, 7), (0x8100, 0)], VLANS[0]),
        ] {
            let mut frame = tagged(&case.frame, tags);
            if frame[..6] == MAC {
                frame[..6].copy_from_slice(&vlan.2);
            }
            // The offer names the interface's own address.
            if case.reason == DhcpReply {
                let at = 14 + 4 * tags.len() + 28 + 28;
                frame[at..at + 6].copy_from_slice(&vlan.2);
            }
            let name = format!("{}, behind {tags:x?}", case.name);
            cases.push(Case { name, frame, vlan: vlan.3, ..*case });
        }
    }
    cases
}

/// What is not ours because of its tags.
fn other_vlans() -> Vec<Case> {
    let payload = ports(40_000, 443);
    let transit = frame4(UDP, TRANSIT4, &payload);
    let only_tags = |tags: &[(u16, u16)], keep: usize| tagged(&transit, tags)[..keep].to_vec();
    let mut to_device = tagged(&transit, &[(0x88a8, 200), (0x8100, 30)]);
    to_device[..6].copy_from_slice(&MAC);
    let mut cases = vec![
        case("the next VLAN", tagged(&transit, &[(0x8100, 8)]), UnclaimedVlan),
        case("a priority tag", tagged(&transit, &[(0x8100, 0xe000)]), UnclaimedVlan),
        case("only the outer tag of a pair", tagged(&transit, &[(0x8100, 200)]), UnclaimedVlan),
        case("another inner tag", tagged(&transit, &[(0x88a8, 200), (0x8100, 31)]), UnclaimedVlan),
        case(
            "an inner tag behind a single one",
            tagged(&transit, &[(0x8100, 7), (0x8100, 30)]),
            UnclaimedVlan,
        ),
        case("the tags of a pair swapped", tagged(&transit, &[(0x88a8, 30), (0x8100, 200)]), UnclaimedVlan),
        case("a tag cut short", only_tags(&[(0x8100, 7)], 17), Truncated),
        case("an inner tag cut short", only_tags(&[(0x88a8, 200), (0x8100, 30)], 21), Truncated),
    ];
    let three = tagged(&transit, &[(0x8100, 7), (0x8100, 0), (0x8100, 7)]);
    cases.push(Case { vlan: VLANS[0].3, ..case("three tags", three, NotIp) });
    let name = "to the device's address on a VLAN that has its own";
    cases.push(Case { vlan: VLANS[1].3, ..case(name, to_device, OtherMac) });
    cases
}

fn icmp(kind: u8) -> Vec<u8> {
    let mut message = vec![kind];
    message.extend([0x11; 23]);
    message
}

/// Every case, with distinct names.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = not_ip();
    cases.extend(dhcp_replies());
    cases.extend(control());
    cases.extend(transit());
    cases.extend(local());
    cases.extend(sockets4());
    cases.extend(sockets6());
    cases.extend(without_worker());
    cases.extend(truncated());
    let tagged = on_vlans(&cases);
    cases.extend(tagged);
    cases.extend(other_vlans());
    cases
}

fn not_ip() -> Vec<Case> {
    let inner = ipv4(UDP, TRANSIT4, 0, &[], &ports(1, 2));
    let mut tagged = vec![0x00, 0x0a, 0x08, 0x00];
    tagged.extend(&inner);
    vec![
        case("ARP request, broadcast", ethernet([0xff; 6], 0x0806, &[1; 28]), OtherMac),
        case("ARP reply, to us", ethernet(MAC, 0x0806, &[2; 28]), NotIp),
        case("LLDP, to its group", ethernet([1, 0x80, 0xc2, 0, 0, 0x0e], 0x88cc, &[3; 46]), OtherMac),
        case(
            "spanning tree, a length for a type",
            ethernet([1, 0x80, 0xc2, 0, 0, 0], 38, &[0x42; 46]),
            OtherMac,
        ),
        case("LLDP, to us", ethernet(MAC, 0x88cc, &[3; 46]), NotIp),
        case("MPLS", ethernet(MAC, 0x8847, &[0; 46]), NotIp),
        case("PPPoE", ethernet(MAC, 0x8864, &[0; 46]), NotIp),
        case("a type next to IPv4", ethernet(MAC, 0x0801, &inner), NotIp),
        case("a type next to IPv6", ethernet(MAC, 0x86dc, &inner), NotIp),
        case("bare Ethernet header of another type", ethernet(MAC, 0x0806, &[]), NotIp),
        case("802.1Q", ethernet(MAC, 0x8100, &tagged), UnclaimedVlan),
        case("802.1ad", ethernet(MAC, 0x88a8, &tagged), UnclaimedVlan),
        case("old QinQ", ethernet(MAC, 0x9100, &tagged), UnclaimedVlan),
        case("IPv4 to another MAC", ethernet([0x02, 0, 0, 0, 0, 0x03], 0x0800, &inner), OtherMac),
        case(
            "IPv4 to a MAC that differs in its first byte",
            ethernet([0x06, 0, 0, 0, 0, 1], 0x0800, &inner),
            OtherMac,
        ),
        case("IPv4 to a broadcast MAC", ethernet([0xff; 6], 0x0800, &inner), OtherMac),
        case("DHCP discover, broadcast", dhcp([0xff; 6]), OtherMac),
        case("DHCP answer to 255.255.255.255, to our MAC", dhcp(MAC), Multicast),
        case("mDNS, to its group", ethernet([1, 0, 0x5e, 0, 0, 0xfb], 0x0800, &inner), OtherMac),
        case(
            "ND solicitation, to its group",
            ethernet([0x33, 0x33, 0xff, 0, 0, 1], 0x86dd, &inner),
            OtherMac,
        ),
    ]
}

/// A DHCP reply (RFC 2131) sent to the offered address, for the client with hardware address `client`.
fn dhcp_reply(client: [u8; 6], change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut bootp = vec![2, 1, 6, 0];
    bootp.resize(28, 0);
    bootp.extend(client);
    bootp.resize(300, 0);
    let mut frame = frame4(UDP, TRANSIT4, &[&ports(67, 68)[..8], &bootp].concat());
    change(&mut frame);
    frame
}

/// Offers to this interface go to the kernel, everything that only looks like one is forwarded.
fn dhcp_replies() -> Vec<Case> {
    let same = |_: &mut Vec<u8>| ();
    vec![
        case("DHCP offer to us, unicast", dhcp_reply(MAC, same), DhcpReply),
        case("DHCP reply to another client", dhcp_reply([2, 0, 0, 0, 0, 9], same), ToWorker),
        case("a DHCP request passing by", dhcp_reply(MAC, |frame| frame[42] = 1), ToWorker),
        case("between servers", dhcp_reply(MAC, |frame| frame[37] = 67), ToWorker),
        case("from another port", dhcp_reply(MAC, |frame| frame[35] = 66), ToWorker),
        case("a fragment of a DHCP offer", dhcp_reply(MAC, |frame| frame[20] = 0x20), ToWorker),
        case("a DHCP offer cut short", dhcp_reply(MAC, |frame| frame.truncate(75)), ToWorker),
    ]
}

fn dhcp(mac: [u8; 6]) -> Vec<u8> {
    ethernet(mac, 0x0800, &ipv4(UDP, [255; 4], 0, &[], &ports(67, 68)))
}

fn control() -> Vec<Case> {
    let payload = ports(9, 9);
    let v6 = |start: [u8; 2]| {
        let mut address = TRANSIT6;
        address[..2].copy_from_slice(&start);
        address
    };
    let mut cases = vec![
        case("OSPF to 224.0.0.5, to our MAC", frame4(89, [224, 0, 0, 5], &payload), Multicast),
        case("the last group", frame4(UDP, [239, 255, 255, 255], &payload), Multicast),
        case("below the first group", frame4(UDP, [223, 255, 255, 255], &payload), ToWorker),
        case("after the last group", frame4(UDP, [240, 0, 0, 1], &payload), ToWorker),
        case("next to limited broadcast", frame4(UDP, [255, 255, 255, 254], &payload), ToWorker),
        case("this network", frame4(UDP, [0, 1, 2, 3], &payload), Multicast),
        case("IPv4 link-local", frame4(UDP, [169, 254, 7, 7], &payload), LinkLocal),
        case("next to IPv4 link-local", frame4(UDP, [169, 253, 7, 7], &payload), ToWorker),
        case("IPv6 group", frame6(UDP, v6([0xff, 0x02]), &payload), Multicast),
        case("OSPFv3 to ff02::5", frame6(89, v6([0xff, 0x02]), &payload), Multicast),
        case("MLD behind a hop-by-hop header", frame6(0, v6([0xff, 0x02]), &payload), Multicast),
        case("IPv6 link-local", frame6(TCP, v6([0xfe, 0x80]), &payload), LinkLocal),
        case("the last of fe80::/10", frame6(TCP, v6([0xfe, 0xbf]), &payload), LinkLocal),
        case("after fe80::/10", frame6(TCP, v6([0xfe, 0xc0]), &payload), ToWorker),
        case("before fe80::/10", frame6(TCP, v6([0xfe, 0x7f]), &payload), ToWorker),
        case("unique local is routed", frame6(TCP, v6([0xfd, 0x00]), &payload), ToWorker),
        case("an ICMP message with a discovery number in IPv4", frame4(ICMP, TRANSIT4, &icmp(135)), ToWorker),
    ];
    for kind in 133..=137 {
        let name = format!("ND type {kind} to a claimed global address");
        cases.push(case(&name, frame6(ICMPV6, CLAIMED6, &icmp(kind)), LinkLocal));
    }
    for kind in [128, 129, 132, 138] {
        let name = format!("ICMPv6 type {kind} in transit");
        cases.push(case(&name, frame6(ICMPV6, TRANSIT6, &icmp(kind)), ToWorker));
    }
    cases
}

fn transit() -> Vec<Case> {
    let payload = ports(40_000, 443);
    let fragment = ethernet(MAC, 0x0800, &ipv4(UDP, TRANSIT4, 0x2000, &[], &payload));
    let options = ethernet(MAC, 0x0800, &ipv4(UDP, TRANSIT4, 0, &[0x94, 4, 0, 0], &payload));
    vec![
        case("TCP over IPv4", frame4(TCP, TRANSIT4, &payload), ToWorker),
        case("UDP over IPv4", frame4(UDP, TRANSIT4, &payload), ToWorker),
        case("ICMP echo over IPv4", frame4(ICMP, TRANSIT4, &icmp(8)), ToWorker),
        case("SCTP over IPv4", frame4(SCTP, TRANSIT4, &payload), ToWorker),
        case("IPv4 fragment in transit", fragment, ToWorker),
        case("IPv4 with options in transit", options, ToWorker),
        case("TCP over IPv6", frame6(TCP, TRANSIT6, &payload), ToWorker),
        case("UDP over IPv6", frame6(UDP, TRANSIT6, &payload), ToWorker),
        case("ICMPv6 echo in transit", frame6(ICMPV6, TRANSIT6, &icmp(128)), ToWorker),
        case("IPv6 fragment in transit", frame6(44, TRANSIT6, &payload), ToWorker),
        case("IPv6 destination options in transit", frame6(60, TRANSIT6, &payload), ToWorker),
        case("bare IPv4 header in transit", frame4(UDP, TRANSIT4, &[]), ToWorker),
        case("bare IPv6 header in transit", frame6(59, TRANSIT6, &[]), ToWorker),
        case("IPv4 in several buffers", frame4(UDP, TRANSIT4, &[0xaa; 8000]), ToWorker),
        case("IPv6 in several buffers", frame6(UDP, TRANSIT6, &[0xbb; 8000]), ToWorker),
    ]
}

fn local() -> Vec<Case> {
    let payload = ports(40_000, TCP_PORT);
    vec![
        case("TCP to the kernel's address", frame4(TCP, KERNEL4, &payload), LocalAddress),
        case("UDP to the kernel's address, no socket", frame4(UDP, KERNEL4, &ports(1, 33_434)), LocalAddress),
        case("ping to the kernel's address", frame4(ICMP, KERNEL4, &icmp(8)), LocalAddress),
        case("directed broadcast", frame4(UDP, BROADCAST4, &payload), LocalAddress),
        case("next to the kernel's address", frame4(TCP, [192, 0, 2, 2], &payload), ToWorker),
        case("TCP to the kernel's IPv6 address", frame6(TCP, KERNEL6, &payload), LocalAddress),
        case("ping to the kernel's IPv6 address", frame6(ICMPV6, KERNEL6, &icmp(128)), LocalAddress),
        case("fragment to the kernel's IPv6 address", frame6(44, KERNEL6, &payload), LocalAddress),
        case("ping to a claimed address", frame4(ICMP, CLAIMED4, &icmp(8)), LocalAddress),
        case("answer to a ping from a claimed address", frame4(ICMP, CLAIMED4, &icmp(0)), ToWorker),
        case("ping to a claimed IPv6 address", frame6(ICMPV6, CLAIMED6, &icmp(128)), LocalAddress),
        case("answer to a ping from a claimed IPv6 address", frame6(ICMPV6, CLAIMED6, &icmp(129)), ToWorker),
        case("SCTP to a claimed address", frame4(SCTP, CLAIMED4, &payload), ToWorker),
        case("the claimed IPv4 address in its NAT64 form", frame6(TCP, nat64(CLAIMED4), &payload), ToWorker),
    ]
}

/// 64:ff9b::/96 (RFC 6052): ends in the same four bytes as the mapped form, and is another address.
fn nat64(address: [u8; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&[0, 0x64, 0xff, 0x9b]);
    bytes[12..].copy_from_slice(&address);
    bytes
}

fn sockets4() -> Vec<Case> {
    let ssh = ports(40_000, TCP_PORT);
    let options = |length: usize| {
        let mut options = vec![1; length];
        options[length - 1] = 0;
        options
    };
    let with_options =
        |length| ethernet(MAC, 0x0800, &ipv4(TCP, CLAIMED4, 0, &options(length), &ports(40_000, TCP_PORT)));
    let fragment = |field| ethernet(MAC, 0x0800, &ipv4(TCP, CLAIMED4, field, &[], &ports(40_000, TCP_PORT)));
    let mut short_header = frame4(TCP, CLAIMED4, &ssh);
    short_header[14] = 0x44;
    vec![
        case("TCP to a listener on a claimed address", frame4(TCP, CLAIMED4, &ssh), LocalSocket),
        case("TCP to another port of it", frame4(TCP, CLAIMED4, &ports(40_000, 23)), ToWorker),
        case("TCP to the port of a UDP socket", frame4(TCP, CLAIMED4, &ports(40_000, UDP_PORT)), ToWorker),
        case("UDP to a bound socket", frame4(UDP, CLAIMED4, &ports(40_000, UDP_PORT)), LocalSocket),
        case("UDP to the port of a TCP socket", frame4(UDP, CLAIMED4, &ssh), ToWorker),
        case(
            "UDP to a connected socket from its peer",
            frame4(UDP, CLAIMED4, &ports(CONNECTED_PEER, CONNECTED_PORT)),
            LocalSocket,
        ),
        case(
            "UDP to a connected socket from another port",
            frame4(UDP, CLAIMED4, &ports(6001, CONNECTED_PORT)),
            ToWorker,
        ),
        case("TCP with 4 bytes of options to a listener", with_options(4), LocalSocket),
        case("TCP with 40 bytes of options to a listener", with_options(40), LocalSocket),
        case("first fragment to a listener", fragment(0x2000), ToWorker),
        case("later fragment to a listener", fragment(0x0001), ToWorker),
        case("last fragment, offset in the first byte only", fragment(0x0100), ToWorker),
        case("don't fragment is no fragment", fragment(0x4000), LocalSocket),
        case("a header length below 20 is for the worker to refuse", short_header, ToWorker),
    ]
}

fn sockets6() -> Vec<Case> {
    let ssh = ports(40_000, TCP_PORT);
    vec![
        case("TCP to a listener on a claimed IPv6 address", frame6(TCP, CLAIMED6, &ssh), LocalSocket),
        case("TCP to another port of the IPv6 address", frame6(TCP, CLAIMED6, &ports(40_000, 23)), ToWorker),
        case("UDP to a bound IPv6 socket", frame6(UDP, CLAIMED6, &ports(40_000, UDP_PORT)), LocalSocket),
        case("UDP to another port of the IPv6 address", frame6(UDP, CLAIMED6, &ports(40_000, 54)), ToWorker),
        case(
            "UDP to a connected IPv6 socket from its peer",
            frame6(UDP, CLAIMED6, &ports(CONNECTED_PEER, CONNECTED_PORT)),
            LocalSocket,
        ),
        case(
            "UDP to a connected IPv6 socket from another port",
            frame6(UDP, CLAIMED6, &ports(6001, CONNECTED_PORT)),
            ToWorker,
        ),
        case("IPv6 fragment to a listener", frame6(44, CLAIMED6, &ssh), ToWorker),
    ]
}

fn without_worker() -> Vec<Case> {
    let transit = frame4(UDP, TRANSIT4, &ports(1, 2));
    let at = |name: &str, frame: &[u8], queue, fail_closed, reason| Case {
        name: name.to_owned(),
        frame: frame.to_vec(),
        queue,
        fail_closed,
        vlan: 0,
        reason,
    };
    let arp = ethernet(MAC, 0x0806, &[2; 28]);
    let local = frame4(TCP, KERNEL4, &ports(1, TCP_PORT));
    let owned = frame4(TCP, CLAIMED4, &ports(1, TCP_PORT));
    vec![
        at("fail open, no worker on the queue", &transit, 2, false, NoSocketPass),
        at("fail closed, no worker on the queue", &transit, 2, true, NoSocketDrop),
        at("fail open, the worker's socket is of another queue", &transit, 1, false, NoSocketPass),
        at("fail closed, the worker's socket is of another queue", &transit, 1, true, NoSocketDrop),
        at("fail closed, with a worker", &transit, 0, true, ToWorker),
        at("fail closed, ARP", &arp, 2, true, NotIp),
        at("fail closed, the kernel's address", &local, 2, true, LocalAddress),
        at("fail closed, a local socket", &owned, 2, true, LocalSocket),
    ]
}

/// Frames cut off at every length that the kernel takes.
fn truncated() -> Vec<Case> {
    const SHORTEST: usize = 14;
    let mut cases = Vec::new();
    let mut cut = |name: &str, frame: &[u8], needed: &[(usize, Reason)], whole: Reason| {
        for length in SHORTEST..frame.len() {
            let reason =
                needed.iter().find(|(below, _)| length < *below).map_or(whole, |(_, reason)| *reason);
            cases.push(case(&format!("{name}, cut at {length}"), frame[..length].to_vec(), reason));
        }
    };
    cut("TCP to a listener", &frame4(TCP, CLAIMED4, &ports(1, TCP_PORT)), &[(38, Truncated)], LocalSocket);
    let options = ethernet(MAC, 0x0800, &ipv4(TCP, CLAIMED4, 0, &[1; 8], &ports(1, TCP_PORT)));
    cut("TCP with options to a listener", &options, &[(46, Truncated)], LocalSocket);
    cut("IPv4 in transit", &frame4(TCP, TRANSIT4, &ports(1, 2)), &[(34, Truncated)], ToWorker);
    cut("IPv6 in transit", &frame6(TCP, TRANSIT6, &ports(1, 2)), &[(54, Truncated)], ToWorker);
    cut(
        "TCP to an IPv6 listener",
        &frame6(TCP, CLAIMED6, &ports(1, TCP_PORT)),
        &[(58, Truncated)],
        LocalSocket,
    );
    cut("ND", &frame6(ICMPV6, CLAIMED6, &icmp(135)), &[(55, Truncated)], LinkLocal);
    cut("ARP", &ethernet(MAC, 0x0806, &[2; 28]), &[], NotIp);
    cases
}
