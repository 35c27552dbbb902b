//! Hosts, links and addresses: the same in every lab.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::error::LabError;

/// A namespace of the lab.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Host {
    /// Behind `lan0`.
    Client,
    /// Where Throughway runs.
    Box,
    /// Behind `wan0`.
    ServerA,
    /// Behind `dmz0`, whose MTU is smaller.
    ServerB,
}

impl Host {
    /// All of them.
    pub const ALL: [Host; 4] = [Host::Client, Host::Box, Host::ServerA, Host::ServerB];

    /// Its short name, as in `throughway lab exec NAME`.
    pub const fn name(self) -> &'static str {
        match self {
            Host::Client => "client",
            Host::Box => "box",
            Host::ServerA => "a",
            Host::ServerB => "b",
        }
    }

    /// Its IPv4 address. The box has one per link, see [`Link::box_ipv4`]: this is the one on the LAN.
    pub const fn ipv4(self) -> Ipv4Addr {
        match self {
            Host::Client => LAN.host_ipv4(),
            Host::Box => LAN.box_ipv4(),
            Host::ServerA => WAN.host_ipv4(),
            Host::ServerB => DMZ.host_ipv4(),
        }
    }

    /// Its IPv6 address; of the box the one on the LAN.
    pub const fn ipv6(self) -> Ipv6Addr {
        match self {
            Host::Client => LAN.host_ipv6(),
            Host::Box => LAN.box_ipv6(),
            Host::ServerA => WAN.host_ipv6(),
            Host::ServerB => DMZ.host_ipv6(),
        }
    }

    /// Both addresses, IPv4 first.
    pub fn addresses(self) -> [IpAddr; 2] {
        [IpAddr::V4(self.ipv4()), IpAddr::V6(self.ipv6())]
    }
}

impl FromStr for Host {
    type Err = LabError;

    fn from_str(name: &str) -> Result<Self, LabError> {
        Host::ALL
            .into_iter()
            .find(|host| host.name() == name)
            .ok_or_else(|| LabError::NoSuchHost(name.to_owned()))
    }
}

/// A cable between the box and one host.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// The device in the box; in the host it is `eth0`.
    pub device: &'static str,
    /// The host at the other end.
    pub host: Host,
    /// The network's number: 10.N.0.0/24 and fd00:N::/64.
    pub network: u8,
}

/// Client to box.
pub const LAN: Link = Link { device: "lan0", host: Host::Client, network: 1 };
/// Box to server a.
pub const WAN: Link = Link { device: "wan0", host: Host::ServerA, network: 2 };
/// Box to server b.
pub const DMZ: Link = Link { device: "dmz0", host: Host::ServerB, network: 3 };
/// All links.
pub const LINKS: [Link; 3] = [LAN, WAN, DMZ];

/// The device of every host but the box.
pub const HOST_DEVICE: &str = "eth0";

impl Link {
    /// The box's address on this link, a /24.
    pub const fn box_ipv4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.network, 0, 1)
    }

    /// The box's address on this link, a /64.
    pub const fn box_ipv6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, self.network as u16, 0, 0, 0, 0, 0, 1)
    }

    /// The host's address on this link, a /24.
    pub const fn host_ipv4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.network, 0, 10)
    }

    /// The host's address on this link, a /64.
    pub const fn host_ipv6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, self.network as u16, 0, 0, 0, 0, 0, 0x10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found_by_name_and_have_the_addresses_of_their_link() {
        for host in Host::ALL {
            assert_eq!(host.name().parse::<Host>().unwrap(), host);
        }
        assert!(matches!("c".parse::<Host>(), Err(LabError::NoSuchHost(name)) if name == "c"));
        assert_eq!(Host::ServerB.ipv4().to_string(), "10.3.0.10");
        assert_eq!(Host::ServerB.ipv6().to_string(), "fd00:3::10");
        assert_eq!(WAN.box_ipv6().to_string(), "fd00:2::1");
    }
}
