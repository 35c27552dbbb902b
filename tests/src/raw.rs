//! Packets made by hand, for tests of the load balancer: SYNs by the hundred thousand, an ICMP error, and the other end of a tunnel
//! where the kernel has no device for one.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use throughway_lab::{Host, Lab};

/// The sum of RFC 1071 over all of it, complemented.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Sends SYNs to `to` from this thread's namespace, from each of the addresses and every port of the range, with a breath after
/// every hundred so that no queue on the way overflows. Says how many.
pub fn send_syns(sources: &[Ipv4Addr], ports: std::ops::Range<u16>, to: SocketAddrV4) -> io::Result<u32> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?;
    socket.set_header_included_v4(true)?;
    let there = SockAddr::from(to);
    let mut sent = 0;
    for port in ports {
        for source in sources {
            let mut packet = [0u8; 40];
            packet[..12].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
            packet[12..16].copy_from_slice(&source.octets());
            packet[16..20].copy_from_slice(&to.ip().octets());
            packet[20..22].copy_from_slice(&port.to_be_bytes());
            packet[22..24].copy_from_slice(&to.port().to_be_bytes());
            packet[32..36].copy_from_slice(&[0x50, 2, 0x40, 0]);
            let sum = checksum(&[&packet[12..20], &[0, 6, 0, 20], &packet[20..40]]);
            packet[36..38].copy_from_slice(&sum.to_be_bytes());
            socket.send_to(&packet, &there)?;
            sent += 1;
            if sent % 100 == 0 {
                std::thread::sleep(Duration::from_micros(1500));
            }
        }
    }
    Ok(sent)
}

/// The packet that an IPv4 router sends about a datagram from `from` to `to` that is larger than its next link takes.
pub fn send_too_big(from: SocketAddrV4, to: SocketAddrV4, mtu: u16) -> io::Result<()> {
    let mut quoted = [0u8; 28];
    quoted[..12].copy_from_slice(&[0x45, 0, 0x05, 0xdc, 0, 1, 0x40, 0, 60, 17, 0, 0]);
    quoted[12..16].copy_from_slice(&from.ip().octets());
    quoted[16..20].copy_from_slice(&to.ip().octets());
    quoted[20..22].copy_from_slice(&from.port().to_be_bytes());
    quoted[22..24].copy_from_slice(&to.port().to_be_bytes());
    quoted[24..26].copy_from_slice(&1480u16.to_be_bytes());
    let sum = checksum(&[&quoted[..20]]);
    quoted[10..12].copy_from_slice(&sum.to_be_bytes());
    tell_too_big(&quoted, *from.ip(), mtu)
}

/// The same about these bytes of a packet.
fn tell_too_big(quoted: &[u8], to: Ipv4Addr, mtu: u16) -> io::Result<()> {
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(quoted);
    let sum = checksum(&[&message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
    socket.send_to(&message, &SocketAddr::new(IpAddr::V4(to), 0).into())?;
    Ok(())
}

/// The end of IPIP tunnels in a host: takes packets out and gives them to the host's kernel, as an `ipip` device does, but at the
/// end of a path that takes `mtu` bytes only.
#[derive(Debug)]
pub struct Decapsulator {
    stop: Arc<AtomicBool>,
    taken: Arc<AtomicU32>,
    refused: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

impl Decapsulator {
    /// Works when this returns.
    #[track_caller]
    pub fn start(lab: &Lab, host: Host, mtu: u16) -> Decapsulator {
        const IPIP: i32 = 4;
        const RAW: i32 = 255;
        let sockets = lab.within(host, || {
            let outer = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPIP)))?;
            outer.set_read_timeout(Some(Duration::from_millis(50)))?;
            // More than one window of the tests' connections.
            outer.set_recv_buffer_size(4 << 20)?;
            let inner = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW)))?;
            Ok::<_, io::Error>((outer, inner))
        });
        let (outer, inner) = sockets.expect("the namespace is there").expect("raw sockets");
        let (stop, taken, refused) = (Arc::<AtomicBool>::default(), Arc::default(), Arc::default());
        let (until, took, told) = (Arc::clone(&stop), Arc::clone(&taken), Arc::clone(&refused));
        let thread = lab.thread(host, move || {
            let mut buffer = vec![0u8; 65_536];
            while !until.load(Ordering::Relaxed) {
                let Ok(len) = (&outer).read(&mut buffer) else { continue };
                take_out(&buffer[..len], mtu, &inner, &took, &told);
            }
        });
        let thread = std::thread::spawn(move || {
            let _ = thread.join();
        });
        Decapsulator { stop, taken, refused, thread: Some(thread) }
    }

    /// Packets taken out so far, and packets that were too big.
    pub fn counts(&self) -> [u32; 2] {
        [self.taken.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed)]
    }
}

fn take_out(packet: &[u8], mtu: u16, inner: &Socket, taken: &AtomicU32, refused: &AtomicU32) {
    let address = |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
    if packet.len() > usize::from(mtu) {
        refused.fetch_add(1, Ordering::Relaxed);
        // As much as routers quote (RFC 1812, section 4.3.2.3).
        let quoted = &packet[..packet.len().min(548)];
        tell_too_big(quoted, address(12), mtu).expect("an error is sent");
        return;
    }
    let carried = &packet[usize::from(packet[0] & 0x0f) * 4..];
    let to = Ipv4Addr::new(carried[16], carried[17], carried[18], carried[19]);
    // The address is on the host's loopback, so this comes in there.
    if inner.send_to(carried, &SocketAddr::new(IpAddr::V4(to), 0).into()).is_ok() {
        taken.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Decapsulator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
