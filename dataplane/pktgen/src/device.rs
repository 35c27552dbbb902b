//! The devices of the network namespace.

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::LinkAddr;

use crate::Error;

/// A device, as the kernel knows it.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) index: u32,
    /// Its MAC address; zeros when it has none.
    pub(crate) mac: [u8; 6],
    /// What an AF_PACKET socket is bound to.
    pub(crate) address: LinkAddr,
}

impl Device {
    /// The device called `name` in the network namespace of the calling thread.
    pub(crate) fn find(name: &str) -> Result<Device, Error> {
        let addresses = getifaddrs().map_err(Error::errno("cannot list the devices"))?;
        for entry in addresses.filter(|entry| entry.interface_name == name) {
            if let Some(&address) = entry.address.as_ref().and_then(|address| address.as_link_addr()) {
                let (index, mac) = (address.ifindex() as u32, address.addr().unwrap_or_default());
                return Ok(Device { name: name.to_owned(), index, mac, address });
            }
        }
        Err(Error::NoDevice { device: name.to_owned() })
    }
}
