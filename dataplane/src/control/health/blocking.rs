//! What is asked by a thread that waits: echo requests, and programs.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use throughway_packet::checksum::sum;

/// How often it is looked whether a program has ended.
const LOOKED: Duration = Duration::from_millis(10);

/// Sends an echo request and waits for its reply (RFC 792, RFC 4443, section 4). Needs CAP_NET_RAW.
pub(super) fn ping(to: IpAddr, timeout: Duration) -> Result<(), String> {
    let told = |error: std::io::Error| error.to_string();
    let (family, protocol, request, reply) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8u8, 0u8),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129),
    };
    let opened = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol);
    // Sending and receiving are the same for all kinds of socket.
    let socket = UdpSocket::from(opened.map_err(|error| format!("no raw socket: {error}"))?);
    socket.connect((to, 0)).map_err(told)?;
    // Told apart from the replies to others by what nobody else sends.
    let [a, b, c, d, ..] = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0).to_be_bytes();
    let mut message = [request, 0, 0, 0, a, b, c, d];
    if to.is_ipv4() {
        // The kernel does this one for IPv6 (RFC 3542, section 3.1).
        let sum = (!sum(&message)).to_be_bytes();
        if let Some(field) = message.get_mut(2..4) {
            field.copy_from_slice(&sum);
        }
    }
    socket.send(&message).map_err(told)?;
    let until = Instant::now() + timeout;
    let mut buffer = [0; 2048];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("no answer in time".to_owned());
        }
        socket.set_read_timeout(Some(left)).map_err(told)?;
        let Ok(len) = socket.recv(&mut buffer) else { continue };
        let got = buffer.get(..len).unwrap_or_default();
        // Raw IPv4 sockets give the IP header as well.
        let header = got.first().map_or(0, |first| usize::from(first & 0x0f) * 4);
        let got = if to.is_ipv4() { got.get(header..) } else { Some(got) };
        if let Some(&[kind, _, _, _, e, f, g, h]) = got.and_then(|got| got.first_chunk::<8>())
            && kind == reply
            && [e, f, g, h] == [a, b, c, d]
        {
            return Ok(());
        }
    }
}

/// Runs a program, which is told address and port by `BACKEND_ADDRESS` and `BACKEND_PORT`. One that takes too long is killed.
pub(super) fn run(argv: &[String], to: SocketAddr, timeout: Duration) -> Result<(), String> {
    let (program, arguments) = argv.split_first().ok_or("there is no program")?;
    let mut child = Command::new(program)
        .args(arguments)
        .env("BACKEND_ADDRESS", to.ip().to_string())
        .env("BACKEND_PORT", to.port().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    let until = Instant::now() + timeout;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("{program}: {status}")),
            Ok(None) if Instant::now() < until => std::thread::sleep(LOOKED),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{program} took too long"));
            }
            Err(error) => return Err(format!("{program}: {error}")),
        }
    }
}
