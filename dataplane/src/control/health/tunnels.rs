//! Hears what routers say about the packets that load balancers put into tunnels: their source is an address of this host, so ICMP
//! errors about them come to the kernel, which knows nothing of the tunnels.

use std::net::UdpSocket as Plain;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use tokio::net::UdpSocket;

use crate::assemble::balancer::Director;
use crate::assemble::state::States;
use crate::clock;

/// How long it is waited before a socket that failed is made again.
const AGAIN: Duration = Duration::from_secs(5);

/// Ethernet, before a message that the kernel gives without it; then IPv6, whose header it keeps.
const LINK: usize = 14;
const IPV6: usize = 40;

/// Listens for both families for as long as there are tunnels. Needs CAP_NET_RAW.
pub(super) async fn listen(states: Arc<States>, ipv4: bool) {
    let mut buffer = vec![0; LINK + IPV6 + 2048];
    loop {
        while tunnels(&states).is_empty() {
            tokio::time::sleep(AGAIN).await;
        }
        match open(ipv4) {
            Ok(socket) => hear(&socket, &states, ipv4, &mut buffer).await,
            Err(error) => {
                tracing::warn!(%error, "errors about packets in tunnels are not heard");
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// The load balancers that have tunnels.
fn tunnels(states: &States) -> Vec<Arc<Director>> {
    let all = states.balancers().into_iter().map(|(_, director)| director);
    all.filter(|director| director.has_tunnels()).collect()
}

fn open(ipv4: bool) -> std::io::Result<UdpSocket> {
    let (family, protocol) = match ipv4 {
        true => (AddressFamily::Inet, SockProtocol::Icmp),
        false => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let raw = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, protocol)?;
    // Receiving is the same for all kinds of socket.
    UdpSocket::from_std(Plain::from(raw))
}

/// Until the socket fails, or nobody has tunnels any more.
async fn hear(socket: &UdpSocket, states: &States, ipv4: bool, buffer: &mut [u8]) {
    let at = if ipv4 { LINK } else { LINK + IPV6 };
    loop {
        let Some(room) = buffer.get_mut(at..) else { return };
        let received = tokio::time::timeout(AGAIN, socket.recv_from(room)).await;
        let len = match received {
            Ok(Ok((len, _))) => len,
            Ok(Err(error)) => {
                tracing::warn!(%error, "errors about packets in tunnels are not heard");
                return;
            }
            Err(_) if tunnels(states).is_empty() => return,
            Err(_) => continue,
        };
        let Some(frame) = buffer.get_mut(..at + len) else { continue };
        dress(frame, ipv4, len);
        for director in tunnels(states) {
            director.hear(frame, clock::now());
        }
    }
}

/// Puts before a message what the kernel has taken off: an Ethernet header, and that of IPv6, from what the message itself says. It
/// is to us, and so is the packet that it is about from us.
fn dress(frame: &mut [u8], ipv4: bool, len: usize) {
    const ABOUT: usize = LINK + IPV6 + 8;
    let mut header = [0; LINK + IPV6];
    let kind: [u8; 2] = if ipv4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    header[12..14].copy_from_slice(&kind);
    if !ipv4 {
        header[LINK] = 0x60;
        header[LINK + 4..LINK + 6].copy_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
        header[LINK + 6..LINK + 8].copy_from_slice(&[58, 64]);
        // Of whom it comes does not matter; any address of a host will do.
        header[LINK + 8..LINK + 24].copy_from_slice(&[0xfd; 16]);
        if let Some(source) = frame.get(ABOUT + 8..ABOUT + 24) {
            header[LINK + 24..].copy_from_slice(source);
        }
    }
    let wanted = if ipv4 { LINK } else { LINK + IPV6 };
    for (to, from) in frame.iter_mut().zip(header.iter().take(wanted)) {
        *to = *from;
    }
}
