//! The devices of the network namespace.

use nix::ifaddrs::getifaddrs;

use crate::Error;

/// A device, as the kernel knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) index: u32,
    /// Its MAC address; zeros when it has none.
    pub(crate) mac: [u8; 6],
}

impl Device {
    /// The device called `name` in the network namespace of the calling thread.
    pub(crate) fn find(name: &str) -> Result<Device, Error> {
        let addresses = getifaddrs().map_err(Error::errno("cannot list the devices"))?;
        for address in addresses.filter(|address| address.interface_name == name) {
            let link = address.address.as_ref().and_then(|address| address.as_link_addr());
            if let Some(link) = link {
                let mac = link.addr().unwrap_or_default();
                return Ok(Device { name: name.to_owned(), index: link.ifindex() as u32, mac });
            }
        }
        Err(Error::NoDevice { device: name.to_owned() })
    }
}
