//! Who owns an interface: a name that the kernel frees when its holder dies.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

/// Proof that no other live instance has the interface: an abstract socket address, which exists once in a network
/// namespace and goes with the process that bound it, however that ends.
#[derive(Debug)]
pub(crate) struct Owner {
    _name: UnixDatagram,
}

impl Owner {
    /// Becomes the owner of `ifindex` in the network namespace of the calling thread; `None` when there is one.
    pub(crate) fn acquire(ifindex: u32) -> io::Result<Option<Owner>> {
        let name = SocketAddr::from_abstract_name(format!("throughway/if{ifindex}"))?;
        match UnixDatagram::bind_addr(&name) {
            Ok(name) => Ok(Some(Owner { _name: name })),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(error),
        }
    }
}
