//! Which ports the host's own sockets have, asked of the kernel (`sock_diag(7)`, linux/inet_diag.h).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use nix::libc;

use crate::error::KernelError;
use crate::socket::{Frame, Netlink};

const NETLINK_SOCK_DIAG: isize = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `struct inet_diag_req_v2` in bytes.
const REQUEST: usize = 56;
/// The state of a socket that listens, as a bit.
const LISTENING: u32 = 1 << 10;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// More ports are not kept: with so many sockets an address has hardly one left for others.
pub const MOST_PORTS: usize = 1 << 16;

/// A port that takes packets for a socket, whoever they are from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OwnedPort {
    /// TCP or UDP (IANA number).
    pub protocol: u8,
    /// The port.
    pub port: u16,
    /// Of this address; `None`: of all the host has.
    pub address: Option<IpAddr>,
}

/// Asks the kernel for the ports of sockets.
pub struct Sockets {
    socket: Netlink,
}

impl Sockets {
    /// For the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel refuses a socket.
    pub fn open() -> Result<Self, KernelError> {
        Ok(Self { socket: Netlink::open(NETLINK_SOCK_DIAG)? })
    }

    /// The ports of TCP sockets that listen, and of all UDP sockets; at most [`MOST_PORTS`]. A TCP connection's port is not among
    /// them: nobody but its peer reaches it.
    ///
    /// # Errors
    /// The kernel refuses, or does not answer.
    pub fn owned(&mut self) -> Result<BTreeSet<OwnedPort>, KernelError> {
        let mut owned = BTreeSet::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            for (protocol, states) in [(TCP, LISTENING), (UDP, u32::MAX)] {
                let mut request = [0; REQUEST];
                request[0] = family as u8;
                request[1] = protocol;
                request[4..8].copy_from_slice(&states.to_ne_bytes());
                let mut found = BTreeSet::new();
                let take = |found: &mut BTreeSet<OwnedPort>, frame: &Frame<'_>| {
                    if found.len() < MOST_PORTS {
                        found.extend(decode(frame.payload, protocol));
                    }
                };
                let (name, kind) = ("sock_diag", SOCK_DIAG_BY_FAMILY);
                self.socket.dump(name, kind, &request, &mut found, BTreeSet::clear, take)?;
                owned.append(&mut found);
            }
        }
        Ok(owned)
    }
}

/// Of `struct inet_diag_msg`: family, state, timer, retransmissions, source port, destination port, source address.
fn decode(payload: &[u8], protocol: u8) -> Option<OwnedPort> {
    let &[family, _, _, _, high, low, _, _, a, b, c, d, ..] = payload.first_chunk::<24>()?;
    let address = if i32::from(family) == libc::AF_INET {
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    } else {
        let octets: [u8; 16] = *payload.get(8..)?.first_chunk()?;
        Ipv6Addr::from(octets).to_canonical()
    };
    let port = u16::from_be_bytes([high, low]);
    (port != 0 && !address.is_loopback()).then(|| OwnedPort {
        protocol,
        port,
        address: Some(address).filter(|address| !address.is_unspecified()),
    })
}

/// The ports that the kernel gives to sockets which ask for none (`net.ipv4.ip_local_port_range`, for IPv6 too), in the network
/// namespace of the calling thread. `None`: they cannot be read.
pub fn ephemeral_ports() -> Option<RangeInclusive<u16>> {
    parse_range(&std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?)
}

fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last)), None) if first <= last => Some(first..=last),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn ranges_are_read() {
        assert_eq!(parse_range("32768\t60999\n"), Some(32768..=60999));
        for wrong in ["", "1", "2 1", "1 2 3", "a b", "1 70000"] {
            assert_eq!(parse_range(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn messages_are_decoded_and_short_ones_ignored() {
        let mut message = vec![2, 10, 0, 0, 0, 53, 0, 0, 192, 0, 2, 1];
        message.resize(72, 0);
        let port = |address: &str| OwnedPort { protocol: 6, port: 53, address: address.parse().ok() };
        assert_eq!(decode(&message, 6), Some(port("192.0.2.1")));
        assert_eq!(decode(&message[..20], 6), None);
        message[8..12].fill(0);
        assert_eq!(decode(&message, 6), Some(port("any")));
        message[0] = 10;
        message[8..24].copy_from_slice(&"::ffff:192.0.2.1".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(decode(&message, 6), Some(port("192.0.2.1")), "an IPv4 address of an IPv6 socket");
        message[8..24].copy_from_slice(&Ipv6Addr::LOCALHOST.octets());
        assert_eq!(decode(&message, 6), None, "reached by nobody outside");
    }

    #[test]
    fn own_sockets_are_found() {
        let udp = UdpSocket::bind("[::]:0").or_else(|_| UdpSocket::bind("0.0.0.0:0")).unwrap();
        let listening = TcpListener::bind("0.0.0.0:0").unwrap();
        let connection = TcpStream::connect(("127.0.0.1", listening.local_addr().unwrap().port())).unwrap();
        let owned = Sockets::open().unwrap().owned().unwrap();
        let has = |protocol, port| owned.contains(&OwnedPort { protocol, port, address: None });
        assert!(has(UDP, udp.local_addr().unwrap().port()), "{owned:?}");
        assert!(has(TCP, listening.local_addr().unwrap().port()));
        let port = connection.local_addr().unwrap().port();
        assert!(!owned.iter().any(|owned| owned.port == port && owned.protocol == TCP), "a connection");
    }
}
