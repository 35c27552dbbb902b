//! Giving packets to the host that a worker has taken and that are the host's own.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

/// `IPPROTO_RAW`: what is written begins with an IP header.
const WITH_HEADER: i32 = 255;

/// Raw sockets that packets with their IP header are written to (`raw(7)`): sent to an address of the host, they come in by its loopback
/// device, whoever their source is. Needs `CAP_NET_RAW`.
#[derive(Debug)]
pub struct Delivery {
    ipv4: Socket,
    ipv6: Option<Socket>,
}

impl Delivery {
    /// For the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel refuses a socket for IPv4. A host without IPv6 is none.
    pub fn open() -> io::Result<Self> {
        let open = |domain| {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(WITH_HEADER)))?;
            socket.set_nonblocking(true).map(|()| socket)
        };
        Ok(Self { ipv4: open(Domain::IPV4)?, ipv6: open(Domain::IPV6).ok() })
    }

    /// Gives the host a packet, which begins with its IP header, for its address `destination`.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub fn give(&self, packet: &[u8], destination: IpAddr) -> io::Result<()> {
        let socket = match destination {
            IpAddr::V4(_) => &self.ipv4,
            IpAddr::V6(_) => self.ipv6.as_ref().ok_or(io::ErrorKind::Unsupported)?,
        };
        socket.send_to(packet, &SocketAddr::new(destination, 0).into()).map(|_| ())
    }
}
