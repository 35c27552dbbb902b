//! The bytes: what the shared code makes is right, and what the program in the kernel sends is the same.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::collections::BTreeSet;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use common::{B0, on_a_cable, run};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt,
};
use throughway_pktgen::{Backend, Family, Protocol, Sizes, Traffic, send};

mod common;

/// A frame taken apart by somebody else's code, its checksums and lengths checked.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Seen {
    addresses: (String, String),
    ports: (u16, u16),
    flags: Option<(bool, bool)>,
    payload: Vec<u8>,
}

fn take_apart(frame: &[u8]) -> Seen {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let (addresses, header) = match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(slice) => {
            let header = slice.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(usize::from(header.total_len), frame.len() - 14);
            (
                (slice.header().source_addr().to_string(), slice.header().destination_addr().to_string()),
                header.time_to_live,
            )
        }
        NetSlice::Ipv6(slice) => {
            let header = slice.header().to_header();
            assert_eq!(usize::from(header.payload_length), frame.len() - 54);
            (
                (slice.header().source_addr().to_string(), slice.header().destination_addr().to_string()),
                header.hop_limit,
            )
        }
        NetSlice::Arp(_) => panic!("ARP"),
    };
    assert_eq!(header, 64);
    let network = |udp: Option<(&etherparse::UdpHeader, &[u8])>,
                   tcp: Option<(&etherparse::TcpHeader, &[u8])>| {
        match (sliced.net.as_ref().unwrap(), udp, tcp) {
            (NetSlice::Ipv4(ip), Some((udp, payload)), _) => {
                udp.calc_checksum_ipv4(&ip.header().to_header(), payload).unwrap()
            }
            (NetSlice::Ipv6(ip), Some((udp, payload)), _) => {
                udp.calc_checksum_ipv6(&ip.header().to_header(), payload).unwrap()
            }
            (NetSlice::Ipv4(ip), None, Some((tcp, payload))) => {
                tcp.calc_checksum_ipv4(&ip.header().to_header(), payload).unwrap()
            }
            (NetSlice::Ipv6(ip), None, Some((tcp, payload))) => {
                tcp.calc_checksum_ipv6(&ip.header().to_header(), payload).unwrap()
            }
            _ => panic!("neither"),
        }
    };
    match sliced.transport.as_ref().unwrap() {
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            assert_eq!(header.checksum, network(Some((&header, udp.payload())), None), "UDP checksum");
            Seen {
                addresses,
                ports: (header.source_port, header.destination_port),
                flags: None,
                payload: udp.payload().to_vec(),
            }
        }
        TransportSlice::Tcp(tcp) => {
            let header = tcp.to_header();
            assert_eq!(header.checksum, network(None, Some((&header, tcp.payload()))), "TCP checksum");
            Seen {
                addresses,
                ports: (header.source_port, header.destination_port),
                flags: Some((header.syn, header.ack)),
                payload: tcp.payload().to_vec(),
            }
        }
        other => panic!("{other:?}"),
    }
}

/// What arrives at `b0` when `traffic` is sent.
fn arriving(traffic: &Traffic, backend: Backend) -> Vec<Vec<u8>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let wire = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).unwrap();
    let address: LinkAddr = nix::ifaddrs::getifaddrs()
        .unwrap()
        .filter(|entry| entry.interface_name == "b0")
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .unwrap();
    bind(wire.as_raw_fd(), &address).unwrap();
    // All of it waits here until the generator has ended.
    setsockopt(&wire, sockopt::RcvBufForce, &(4 << 20)).unwrap();
    let sent = send(traffic, Some(backend), &AtomicBool::new(false)).unwrap();
    let mut frames = Vec::new();
    let limit = Instant::now() + Duration::from_secs(5);
    while (frames.len() as u64) < sent.packets {
        let mut buffer = vec![0; 2048];
        match recv(wire.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => {
                buffer.truncate(length);
                if buffer[..6] == B0 {
                    frames.push(buffer);
                }
            }
            Err(_) => {
                assert!(Instant::now() < limit, "{} of {} arrived", frames.len(), sent.packets);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
    frames
}

/// Without what differs from time to time: the stamp.
fn without_time(mut seen: Seen, stamped: bool) -> Seen {
    if stamped {
        seen.payload[12..18].fill(0);
    }
    seen
}

/// Every form, by the program in the kernel and by the same code in user space: the same frames, with right checksums.
#[test]
fn the_kernel_and_user_space_send_the_same_frames() {
    on_a_cable(|| {
        // Frames of the program are XDP's: without NAPI at the other end the kernel loses them.
        run("ethtool -K b0 gro on");
        for family in [Family::Ipv4, Family::Ipv6] {
            for protocol in [Protocol::Udp, Protocol::Tcp] {
                for stamp in [false, true] {
                    let prefix = |v4: &str, v6: &str| {
                        Some(if family == Family::Ipv4 { v4.parse() } else { v6.parse() }.unwrap())
                    };
                    let traffic = Traffic {
                        packets: Some(120),
                        rate: Some(20_000),
                        flows: 24,
                        source: prefix("198.51.100.8/30", "2001:db8:1::/126"),
                        destination: prefix("203.0.113.0/31", "2001:db8:2::/127"),
                        source_ports: throughway_pktgen::Ports::new(1000, 1002).unwrap(),
                        sizes: Some("100:3,200:1".parse::<Sizes>().unwrap()),
                        family,
                        protocol,
                        stamp,
                        syn: protocol == Protocol::Tcp,
                        run: Some(5),
                        ..Traffic::new("a0", B0)
                    };
                    let form = |backend| -> Vec<Seen> {
                        let frames = arriving(&traffic, backend);
                        frames.iter().map(|frame| without_time(take_apart(frame), stamp)).collect()
                    };
                    let (kernel, user) = (form(Backend::LiveFrames), form(Backend::AfPacket));
                    assert_eq!(kernel, user, "{family:?} {protocol:?} stamped: {stamp}");
                    let flows: BTreeSet<_> =
                        kernel.iter().map(|seen| (&seen.addresses, seen.ports)).collect();
                    assert_eq!(flows.len(), 24);
                    let lengths: BTreeSet<_> = kernel.iter().map(|seen| seen.payload.len()).collect();
                    assert_eq!(lengths.len(), 2);
                    if protocol == Protocol::Tcp {
                        let syns = kernel.iter().filter(|seen| seen.flags == Some((true, false))).count();
                        assert_eq!(syns, 24, "each flow begins once");
                        assert!(kernel[..24].iter().all(|seen| seen.flags == Some((true, false))));
                    }
                    let tag = if stamp { [b'T', b'W', b'G', 0x85] } else { [b'T', b'W', b'G', 5] };
                    assert!(kernel.iter().all(|seen| seen.payload[..4] == tag));
                }
            }
        }
    });
}

/// UDP over IPv4, stamped, in the shortest frame there is: byte for byte.
#[test]
fn the_shortest_frame_is_as_it_was() {
    use throughway_traffic::{Class, MAX_CLASSES, MIX, Packet, Plan, STAMPED, frame, tag};
    let mut plan = Plan {
        flags: STAMPED,
        ethernet: [2, 0, 0, 0, 0, 0xb0, 2, 0, 0, 0, 0, 0xa0, 8, 0, 0, 0],
        source: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 198, 18, 0, 1],
        destination: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 198, 19, 0, 1],
        source_bits: 0,
        destination_bits: 0,
        source_port: 1024,
        source_ports: 64_512,
        destination_port: 9,
        destination_ports: 1,
        flows: 100,
        new_flows: 0,
        tag: tag::head(1, true).into(),
        burst: 1,
        burst_time: 0,
        patience: 0,
        end: u64::MAX,
        limit: u64::MAX,
        classes: [Class::default(); MAX_CLASSES],
        mix: [0; MIX],
    };
    plan.classes[0] = frame::sums(&plan, 60);
    let packet = Packet { sequence: 0x01_0203_0405, flow: 7, round: 0, first: false, class: 0 };
    let mut bytes = [0; 60];
    assert!(frame::write_any(&mut bytes, &plan, &packet, 0x1111_2233_4455_6677));
    #[rustfmt::skip]
    let expected = [
        0x02, 0, 0, 0, 0, 0xb0, 0x02, 0, 0, 0, 0, 0xa0, 0x08, 0x00,
        0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, bytes[24], bytes[25], 198, 18, 0, 1, 198, 19, 0, 1,
        0x04, 0x07, 0, 9, 0, 26, bytes[40], bytes[41],
        b'T', b'W', b'G', 0x81, 0x01, 0x02, 0x03, 0x04, 0x05, 0, 0, 7, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77,
    ];
    assert_eq!(bytes, expected);
    // The checksums are judged by somebody else.
    take_apart(&bytes);
    assert!(!frame::write_any(&mut bytes[..59], &plan, &packet, 0), "a frame that is too short is refused");
}
