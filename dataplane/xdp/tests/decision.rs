//! The decision of the XDP program: the same table of frames for its source built for this machine, and for the object
//! in the kernel (BPF_PROG_TEST_RUN).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::{
    collections::HashSet,
    io::Read as _,
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
};

use common::{
    frames::{
        self, BROADCAST4, CLAIMED4, CLAIMED6, CONNECTED_PEER, CONNECTED_PORT, Case, KERNEL4, KERNEL6, MAC,
        PEER4, PEER6, TCP_PORT, UDP_PORT,
    },
    ifindex, in_namespace, ip, load,
};
use socket2::{Domain, Socket, Type};
use throughway_shared::steer::{self, CLAIMED, FAIL_CLOSED, Interface, Reason, TAGGED_ONLY, Vlan, VlanKey};
use throughway_xdp::{Recipient, Steering};

mod common;

/// The program's own source.
#[path = "../../../ebpf/steer/src/classify.rs"]
#[allow(dead_code, reason = "made for the other target")]
mod classify;

use classify::{Address, Transport, Tuple4, Tuple6, View};

/// Number of the interface that fails open; the one that fails closed has the next.
const OPEN: u32 = 3;
const CLOSED: u32 = 4;

fn interface(number: u32) -> Interface {
    Interface {
        number,
        first_socket: steer::first_socket(number),
        flags: if number == CLOSED { FAIL_CLOSED } else { 0 },
        mac: MAC,
        reserved: [0; 2],
    }
}

/// The host of the table, as plain values: a frame, and the number of the interface that it comes in on.
struct Host<'a>(&'a [u8], u32);

impl Host<'_> {
    fn socket(transport: Transport, local: &[u8], claimed: &[u8], source: u16, destination: u16) -> bool {
        let ports: &[u16] = match transport {
            Transport::Tcp => &[TCP_PORT],
            Transport::Udp => &[UDP_PORT],
        };
        let connected =
            transport == Transport::Udp && (source, destination) == (CONNECTED_PEER, CONNECTED_PORT);
        local == claimed && (ports.contains(&destination) || connected)
    }

    fn ports(ports: u32) -> (u16, u16) {
        let [s0, s1, d0, d1] = ports.to_ne_bytes();
        (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]))
    }
}

impl View for Host<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at + N)?.try_into().ok()
    }

    fn words<const N: usize>(&self, at: usize) -> Option<[u32; N]> {
        let bytes = self.0.get(at..at + 4 * N)?;
        Some(std::array::from_fn(|word| {
            u32::from_ne_bytes(bytes[4 * word..4 * word + 4].try_into().unwrap())
        }))
    }

    fn double_words<const N: usize>(&self, at: usize) -> Option<[u64; N]> {
        let bytes = self.0.get(at..at + 8 * N)?;
        Some(std::array::from_fn(|word| {
            u64::from_ne_bytes(bytes[8 * word..8 * word + 8].try_into().unwrap())
        }))
    }

    fn vlan(&self, outer: u16, inner: u16) -> Option<Vlan> {
        let known = frames::VLANS.into_iter().find(|known| (known.0, known.1) == (outer, inner));
        known.map(|(_, _, mac, add)| Vlan { number: self.1 + add, mac, reserved: [0; 2] })
    }

    fn local_address(&self, address: &Address) -> Option<u32> {
        let bytes = [address[0].to_ne_bytes(), address[1].to_ne_bytes()].concat();
        let address = IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap()).to_canonical();
        addresses().into_iter().find(|(known, _)| *known == address).map(|(_, recipient)| match recipient {
            Recipient::Kernel => 0,
            Recipient::Function => CLAIMED,
        })
    }

    fn local_socket4(&self, transport: Transport, tuple: &Tuple4) -> bool {
        let (source, destination) = Self::ports(tuple.ports);
        Self::socket(transport, &tuple.addresses[1].to_ne_bytes(), &CLAIMED4, source, destination)
    }

    fn local_socket6(&self, transport: Transport, tuple: &Tuple6) -> bool {
        let local = [tuple.addresses[2].to_ne_bytes(), tuple.addresses[3].to_ne_bytes()].concat();
        let (source, destination) = Self::ports(tuple.ports);
        Self::socket(transport, &local, &CLAIMED6, source, destination)
    }

    fn has_worker(&self, slot: u32, queue: u32) -> bool {
        queue == 0 && (slot == steer::first_socket(OPEN) || slot == steer::first_socket(CLOSED))
    }
}

fn addresses() -> Vec<(IpAddr, Recipient)> {
    vec![
        (KERNEL4.into(), Recipient::Kernel),
        (BROADCAST4.into(), Recipient::Kernel),
        (CLAIMED4.into(), Recipient::Function),
        (KERNEL6.into(), Recipient::Kernel),
        (CLAIMED6.into(), Recipient::Function),
    ]
}

#[test]
fn the_table_is_worth_its_name() {
    let cases = frames::cases();
    let names: HashSet<_> = cases.iter().map(|case| &case.name).collect();
    assert_eq!(names.len(), cases.len(), "two cases with one name");
    // Those of the fast path are shown in `fast.rs`, the early one in `early.rs`.
    let others = [
        Reason::UnknownInterface,
        Reason::EarlyDrop,
        Reason::FastPath,
        Reason::FastDrop,
        Reason::FastNoEgress,
    ];
    for reason in Reason::ALL.iter().filter(|reason| !others.contains(reason)) {
        assert!(cases.iter().any(|case| case.reason == *reason), "no case for {reason:?}");
    }
}

#[test]
fn source_decides_as_the_table_says() {
    for Case { name, frame, queue, fail_closed, vlan, reason } in frames::cases() {
        let interface = interface(if fail_closed { CLOSED } else { OPEN });
        let decided = classify::classify(&Host(&frame, interface.number), &interface, queue);
        assert_eq!(decided, (interface.number + vlan, reason), "{name}");
    }
}

#[test]
fn source_drops_what_has_no_whole_ethernet_header() {
    for length in 0..14 {
        let frame = &[0x02, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 8, 0][..length];
        let decided = classify::classify(&Host(frame, OPEN), &interface(OPEN), 0);
        assert_eq!(decided, (OPEN, Reason::Truncated), "{length}");
    }
}

#[test]
fn source_reads_no_socket_of_the_next_interface() {
    let frames = frames::cases();
    let transit = frames.iter().find(|case| case.name == "UDP over IPv4").unwrap();
    for queue in [steer::MAX_QUEUES, u32::MAX] {
        let decided = classify::classify(&Host(&transit.frame, OPEN), &interface(OPEN), queue);
        assert_eq!(decided, (OPEN, Reason::NoSocketPass), "{queue}");
    }
}

/// The sockets of the table, open.
struct Sockets {
    _tcp: Vec<TcpListener>,
    _udp: Vec<UdpSocket>,
}

impl Sockets {
    fn open() -> Sockets {
        let claimed: [IpAddr; 2] = [CLAIMED4.into(), CLAIMED6.into()];
        let peers: [IpAddr; 2] = [PEER4.into(), PEER6.into()];
        let tcp = claimed.map(|address| TcpListener::bind((address, TCP_PORT)).unwrap());
        let mut udp = Vec::from(claimed.map(|address| UdpSocket::bind((address, UDP_PORT)).unwrap()));
        for (address, peer) in claimed.into_iter().zip(peers) {
            let socket = UdpSocket::bind((address, CONNECTED_PORT)).unwrap();
            socket.connect((peer, CONNECTED_PEER)).unwrap();
            udp.push(socket);
        }
        Sockets { _tcp: tcp.into(), _udp: udp }
    }
}

/// The loaded program with two interfaces, and one worker at queue 0 of each.
struct Kernel {
    steering: Steering,
    worker: Socket,
}

const VETHS: [&str; 2] = ["open0", "closed0"];

impl Kernel {
    fn new() -> Kernel {
        for veth in VETHS {
            ip(&format!(
                "link add {veth} numrxqueues 4 numtxqueues 4 type veth peer name {veth}p numrxqueues 4 numtxqueues 4"
            ));
            ip(&format!("link set dev {veth} up"));
            ip(&format!("link set dev {veth}p up"));
        }
        for (address, _) in
            addresses().into_iter().filter(|(address, _)| *address != IpAddr::from(BROADCAST4))
        {
            let (length, nodad) = if address.is_ipv4() { (24, "") } else { (64, "nodad") };
            ip(&format!("addr add {address}/{length} dev open0 {nodad}"));
        }
        ip("route add default dev open0");
        ip("-6 route add default dev open0");
        let mut steering = load();
        // Never bound to a queue, so the kernel says that it is of queue 0; no frame is ever sent to it.
        let worker = Socket::new(Domain::from(libc::AF_XDP), Type::from(libc::SOCK_RAW), None).unwrap();
        for (number, veth) in [(OPEN, VETHS[0]), (CLOSED, VETHS[1])] {
            steering.set_interface(ifindex(veth), interface(number)).unwrap();
            steering.register_socket(number, 0, &worker).unwrap();
            steering.register_socket(number, 1, &worker).unwrap();
            for (outer, inner, mac, add) in frames::VLANS {
                let key = VlanKey { ifindex: ifindex(veth), outer, inner };
                steering.set_vlan(key, Vlan { number: number + add, mac, reserved: [0; 2] }).unwrap();
            }
        }
        steering.local_addresses().replace(addresses()).unwrap();
        Kernel { steering, worker }
    }

    /// Runs the program over `frame` and returns its action. Checks that no byte was changed, and that the frame was
    /// counted once, for `reason`, at interface `number` (`None`: those it does not know), and nowhere else.
    fn run(&self, name: &str, frame: &[u8], at: (u32, u32), number: Option<u32>, reason: Reason) -> u32 {
        let before = self.steering.counters().unwrap();
        let trial = self.steering.try_frame(at.0, at.1, frame);
        let trial = trial.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert!(trial.frame == *frame, "{name}: the frame was changed");
        for (before, after) in before.iter().zip(self.steering.counters().unwrap()) {
            for of in Reason::ALL.iter().copied() {
                let expected = u64::from(of == reason && after.interface == number);
                let counted = after.get(of) - before.get(of);
                assert_eq!(counted, expected, "{name}: {of:?} of interface {:?}", after.interface);
            }
        }
        trial.action
    }
}

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

/// The action that a reason stands for, by its description.
fn action(reason: Reason) -> u32 {
    match reason {
        Reason::ToWorker => XDP_REDIRECT,
        Reason::NoSocketDrop | Reason::Truncated => XDP_DROP,
        _ => XDP_PASS,
    }
}

#[test]
fn object_decides_as_the_table_says() {
    in_namespace(|| {
        let kernel = Kernel::new();
        let _sockets = Sockets::open();
        let [open, closed] = VETHS.map(ifindex);
        for Case { name, frame, queue, fail_closed, vlan, reason } in frames::cases() {
            let (number, ifindex) = if fail_closed { (CLOSED, closed) } else { (OPEN, open) };
            let returned = kernel.run(&name, &frame, (ifindex, queue), Some(number + vlan), reason);
            assert_eq!(returned, action(reason), "{name}: {reason:?}");
        }
    });
}

/// Of a device whose untagged frames are the kernel's, and of one whose VLANs are taken away.
#[test]
fn object_claims_vlans_one_by_one() {
    in_namespace(|| {
        let mut kernel = Kernel::new();
        let cases = frames::cases();
        let frame = |name: &str| cases.iter().find(|case| case.name == name).unwrap().frame.clone();
        let untagged = frame("UDP over IPv4");
        let mut tagged = untagged.clone();
        tagged.splice(12..12, [0x81, 0, 0, 7]);
        let open = ifindex(VETHS[0]);
        let vlan = OPEN + frames::VLANS[0].3;

        let only = Interface { flags: TAGGED_ONLY, ..interface(OPEN) };
        kernel.steering.set_interface(open, only).unwrap();
        kernel.run("untagged", &untagged, (open, 0), Some(OPEN), Reason::UnclaimedVlan);
        kernel.run("tagged", &tagged, (open, 0), Some(vlan), Reason::ToWorker);
        // The same tags on another device are another VLAN.
        let closed = ifindex(VETHS[1]);
        kernel.run("there", &tagged, (closed, 0), Some(CLOSED + frames::VLANS[0].3), Reason::ToWorker);

        kernel.steering.remove_interface(open).unwrap();
        kernel.steering.set_interface(open, interface(OPEN)).unwrap();
        kernel.run("taken away", &tagged, (open, 0), Some(OPEN), Reason::UnclaimedVlan);
        kernel.run("untagged again", &untagged, (open, 0), Some(OPEN), Reason::ToWorker);
        kernel.run("still there", &tagged, (closed, 0), Some(CLOSED + frames::VLANS[0].3), Reason::ToWorker);
    });
}

#[test]
fn object_passes_and_counts_frames_of_interfaces_it_does_not_know() {
    in_namespace(|| {
        let mut kernel = Kernel::new();
        let cases = frames::cases();
        let transit = cases.iter().find(|case| case.name == "UDP over IPv4").unwrap();
        let run = |kernel: &Kernel, ifindex| {
            kernel.run("unknown", &transit.frame, (ifindex, 0), None, Reason::UnknownInterface)
        };
        assert_eq!(run(&kernel, ifindex("lo")), XDP_PASS);
        // Fails closed, but is no longer ours.
        let closed = ifindex(VETHS[1]);
        kernel.steering.remove_interface(closed).unwrap();
        assert_eq!(run(&kernel, closed), XDP_PASS);
        kernel.steering.remove_interface(closed).unwrap();
    });
}

/// A connection stays the kernel's when its listener has gone; a port that no socket has any more is the worker's.
#[test]
fn object_knows_sockets_as_they_come_and_go() {
    in_namespace(|| {
        let kernel = Kernel::new();
        let listener = TcpListener::bind((IpAddr::from(CLAIMED4), 8080)).unwrap();
        let client = TcpStream::connect((IpAddr::from(CLAIMED4), 8080)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        drop(listener);

        let cases = frames::cases();
        let mut frame = cases
            .iter()
            .find(|case| case.name.contains("listener on a claimed address"))
            .unwrap()
            .frame
            .clone();
        // The client is of this host, too.
        frame[26..30].copy_from_slice(&CLAIMED4);
        frame[34..36].copy_from_slice(&client.local_addr().unwrap().port().to_be_bytes());
        frame[36..38].copy_from_slice(&8080_u16.to_be_bytes());
        let at = (ifindex(VETHS[0]), 0);
        let run = |name, frame: &[u8], reason| kernel.run(name, frame, at, Some(OPEN), reason);

        assert_eq!(run("established", &frame, Reason::LocalSocket), XDP_PASS);
        let mut other = frame.clone();
        other[34..36].copy_from_slice(&1_u16.to_be_bytes());
        assert_eq!(run("not of the connection", &other, Reason::ToWorker), XDP_REDIRECT);

        // The client closes first and keeps the last state of the connection (TIME-WAIT); the server's end goes.
        drop(client);
        assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
        drop(server);
        assert_eq!(run("closed", &frame, Reason::ToWorker), XDP_REDIRECT);
        let (source, destination) = (frame[34..36].to_vec(), frame[36..38].to_vec());
        frame[34..36].copy_from_slice(&destination);
        frame[36..38].copy_from_slice(&source);
        assert_eq!(run("waiting", &frame, Reason::LocalSocket), XDP_PASS);
    });
}

#[test]
fn local_addresses_change_by_difference() {
    in_namespace(|| {
        let mut kernel = Kernel::new();
        let cases = frames::cases();
        let frame = |name: &str| cases.iter().find(|case| case.name == name).unwrap().frame.clone();
        let (mine, claimed) =
            (frame("UDP to the kernel's address, no socket"), frame("SCTP to a claimed address"));
        let at = (ifindex(VETHS[0]), 0);

        let addresses_now = kernel.steering.local_addresses();
        let same = addresses_now.replace(addresses()).unwrap();
        assert_eq!((same.added, same.changed, same.removed), (0, 0, 0));
        let swapped = [(KERNEL4.into(), Recipient::Function), (CLAIMED4.into(), Recipient::Kernel)];
        let changes = addresses_now.replace(swapped).unwrap();
        assert_eq!((changes.added, changes.changed, changes.removed), (0, 2, 3));
        assert_eq!(addresses_now.len(), 2);
        kernel.run("now claimed", &mine, at, Some(OPEN), Reason::ToWorker);
        kernel.run("no longer claimed", &claimed, at, Some(OPEN), Reason::LocalAddress);

        let addresses_now = kernel.steering.local_addresses();
        assert!(addresses_now.remove(CLAIMED4.into()).unwrap());
        assert!(!addresses_now.remove(CLAIMED4.into()).unwrap());
        addresses_now.add(KERNEL4.into(), Recipient::Kernel).unwrap();
        kernel.run("no longer local", &claimed, at, Some(OPEN), Reason::ToWorker);
        kernel.run("the kernel's again", &mine, at, Some(OPEN), Reason::LocalAddress);

        let too_many =
            (0..=steer::MAX_LOCAL_ADDRESSES).map(|n| (IpAddr::from(n.to_be_bytes()), Recipient::Kernel));
        let addresses_now = kernel.steering.local_addresses();
        assert!(addresses_now.replace(too_many).is_err());
        assert_eq!(addresses_now.len(), 1, "nothing was changed");
        kernel.run("after too many", &mine, at, Some(OPEN), Reason::LocalAddress);
    });
}

#[test]
fn sockets_and_numbers_beyond_the_limits_are_refused() {
    in_namespace(|| {
        let mut kernel = Kernel::new();
        let worker = kernel.worker.try_clone().unwrap();
        let steering = &mut kernel.steering;
        assert!(steering.register_socket(OPEN, steer::MAX_QUEUES, &worker).is_err());
        assert!(steering.register_socket(steer::MAX_INTERFACES, 0, &worker).is_err());
        assert!(steering.set_interface(1, interface(steer::MAX_INTERFACES)).is_err());
        let not_xdp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(steering.register_socket(OPEN, 0, &not_xdp).is_err());
        steering.unregister_socket(OPEN, 0).unwrap();
        steering.unregister_socket(OPEN, 0).unwrap();
        let cases = frames::cases();
        let transit = cases.iter().find(|case| case.name == "UDP over IPv4").unwrap();
        let at = (ifindex(VETHS[0]), 0);
        kernel.run("unregistered", &transit.frame, at, Some(OPEN), Reason::NoSocketPass);
    });
}

#[test]
fn a_number_in_new_hands_counts_from_zero() {
    in_namespace(|| {
        let mut kernel = Kernel::new();
        let cases = frames::cases();
        let transit = cases.iter().find(|case| case.name == "UDP over IPv4").unwrap();
        let at = (ifindex(VETHS[0]), 0);
        kernel.run("counted", &transit.frame, at, Some(OPEN), Reason::ToWorker);
        let total = |kernel: &Kernel| {
            let counters = kernel.steering.counters().unwrap();
            counters.iter().find(|counters| counters.interface == Some(OPEN)).unwrap().total()
        };
        assert_eq!(total(&kernel), 1);
        kernel.steering.set_interface(at.0, interface(OPEN)).unwrap();
        assert_eq!(total(&kernel), 1, "the same interface");
        kernel.steering.remove_interface(at.0).unwrap();
        kernel.steering.set_interface(ifindex("lo"), interface(OPEN)).unwrap();
        assert_eq!(total(&kernel), 0, "another interface");
    });
}
