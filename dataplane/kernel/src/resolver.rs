//! Having the kernel resolve neighbours for us.

use std::net::IpAddr;

use netlink_sys::protocols::NETLINK_ROUTE;
use nix::libc;

use crate::error::KernelError;
use crate::message as rtm;
use crate::model::IfIndex;
use crate::socket::{NLM_F_CREATE, NLM_F_REPLACE, Netlink, Payload};

const NDA_DST: u16 = 1;
/// Treat the neighbour as if a packet had just been sent to it.
const NTF_USE: u8 = 1;
const RTN_UNICAST: u8 = 1;

/// The kernel would not resolve a neighbour.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// There is no such interface (any more).
    #[error("no interface with index {0}")]
    NoSuchInterface(IfIndex),
    /// For want of `CAP_NET_ADMIN`.
    #[error("not permitted to resolve neighbours (CAP_NET_ADMIN is needed)")]
    NotPermitted,
    /// The kernel's neighbour table is full (`net.ipv4.neigh.default.gc_thresh3`, `net.ipv6.…`).
    #[error("the kernel's neighbour table is full")]
    TableFull,
    /// The interface does not speak this family: IPv6 is switched off on it, for instance.
    #[error("interface {ifindex} has no neighbours like {address}")]
    NotOnInterface {
        /// The interface.
        ifindex: IfIndex,
        /// The address asked for.
        address: IpAddr,
    },
    /// Anything else.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// Asks the kernel to resolve neighbours. The answer arrives as a change of [`crate::Mirror`]'s neighbours: one with a MAC
/// address, or [`crate::NudState::Failed`] when nobody answered (three requests a second apart, as the kernel is set).
///
/// Needs `CAP_NET_ADMIN`, and an address of ours on the interface for the kernel to ask with.
pub struct Resolver {
    socket: Netlink,
}

impl Resolver {
    /// For the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel refuses a socket.
    pub fn open() -> Result<Self, KernelError> {
        Ok(Self { socket: Netlink::open(NETLINK_ROUTE)? })
    }

    /// Has the kernel ask for the link-layer address of `address` (ARP, neighbour solicitation) unless it knows it. Does
    /// not wait for the answer. Asking again meanwhile is harmless; after a failure it starts over.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub fn resolve(&mut self, ifindex: IfIndex, address: IpAddr) -> Result<(), ResolveError> {
        self.used(ifindex, address, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Tells the kernel that a neighbour it knows is in use although it sees none of the packets. A stale one is confirmed
    /// within a few seconds, by a unicast request, and its address stays valid meanwhile. One that is not known any more
    /// is resolved as by [`Resolver::resolve`].
    ///
    /// Meant for neighbours in [`crate::NudState::Stale`] to which packets flow, every few seconds; in other states it
    /// does nothing. It also keeps the kernel from dropping the entry as unused.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub fn confirm(&mut self, ifindex: IfIndex, address: IpAddr) -> Result<(), ResolveError> {
        self.used(ifindex, address, NLM_F_CREATE)
    }

    fn used(&mut self, ifindex: IfIndex, address: IpAddr, flags: u16) -> Result<(), ResolveError> {
        let payload = neighbour_use(ifindex, address);
        let result = self.socket.request("use a neighbour", rtm::NEWNEIGH, flags, payload.bytes(), |_| {});
        result.map_err(|error| match error.errno() {
            Some(libc::ENODEV) => ResolveError::NoSuchInterface(ifindex),
            Some(libc::EPERM | libc::EACCES) => ResolveError::NotPermitted,
            Some(libc::ENOBUFS) => ResolveError::TableFull,
            Some(libc::EINVAL | libc::EAFNOSUPPORT) => ResolveError::NotOnInterface { ifindex, address },
            _ => ResolveError::Kernel(error),
        })
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

/// `struct ndmsg` (family, padding, index, state none, flags, type) and the address.
fn neighbour_use(ifindex: IfIndex, address: IpAddr) -> Payload {
    let family = if address.is_ipv4() { rtm::AF_INET } else { rtm::AF_INET6 };
    let mut header = [0; 12];
    header[0] = family;
    header[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    header[10] = NTF_USE;
    header[11] = RTN_UNICAST;
    let mut payload = Payload::new(&header);
    match address {
        IpAddr::V4(v4) => payload.put(NDA_DST, &v4.octets()),
        IpAddr::V6(v6) => payload.put(NDA_DST, &v6.octets()),
    };
    payload
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{Emitable, Parseable};
    use netlink_packet_route::neighbour::{NeighbourFlags, NeighbourMessage};

    use super::*;

    #[test]
    fn the_request_is_what_the_kernel_headers_say() {
        let payload = neighbour_use(7, "2001:db8::1".parse().unwrap());
        let message = NeighbourMessage::parse(payload.bytes()).unwrap();
        assert_eq!(message.header.ifindex, 7);
        assert_eq!(message.header.flags, NeighbourFlags::Use);
        assert_eq!(u16::from(message.header.state), 0);
        let mut again = vec![0; message.buffer_len()];
        message.emit(&mut again);
        assert_eq!(again, payload.bytes());
    }
}
