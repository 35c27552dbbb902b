//! Interfaces that are a VLAN of their device.

use std::net::IpAddr;

use super::*;
use crate::value::{InterfaceAddress, Mac, words};

/// The VLAN of a device that an interface is.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Vlan {
    /// Identifier of the outer tag, 1 to 4094.
    pub outer: u16,
    /// Identifier of the inner tag, 1 to 4094; `None` when there is one tag.
    pub inner: Option<u16>,
    /// What announces the outer tag of frames that are sent.
    pub protocol: VlanProtocol,
    /// Addresses of the interface, beside those of the kernel's VLAN device.
    pub addresses: Vec<InterfaceAddress>,
    /// Neighbours on the VLAN, beside those that the kernel knows; no address twice.
    pub neighbours: Vec<(IpAddr, Mac)>,
}

words! {
    /// What announces the outer tag of frames that are sent. Received ones may have either.
    VlanProtocol, "VLAN protocol":
    /// A customer tag (TPID 0x8100).
    Dot1q = "802.1q",
    /// A service tag (TPID 0x88a8).
    Dot1ad = "802.1ad",
}

impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.inner {
            None => write!(f, "{}", self.outer),
            Some(inner) => write!(f, "[{}, {inner}]", self.outer),
        }
    }
}

impl Vlan {
    /// The VLAN of an interface; `Some(None)` if it is none.
    pub(super) fn check(raw: &crate::raw::Interface, report: &mut Report<'_>) -> Option<Option<Self>> {
        let Some(tags) = raw.vlan.as_ref() else {
            return Self::check_none(raw, report).then_some(None);
        };
        if tags.list.len() > 2 {
            let help = "one identifier, or an outer and an inner one: `[200, 30]`";
            report.error(tags.span, Misread::new("a frame has two VLAN tags at most").help(help));
            return None;
        }
        let numbers = tags.read(report);
        let twice = if tags.list.len() > 1 { VlanProtocol::Dot1ad } else { VlanProtocol::Dot1q };
        let protocol = raw.vlan_protocol.read_or(twice, report);
        let addresses = match raw.addresses.as_ref() {
            Some(addresses) => addresses.read(report),
            None => Some(Vec::new()),
        };
        let neighbours: Vec<_> = raw.neighbours.iter().flatten().collect();
        for (index, neighbour) in neighbours.iter().enumerate() {
            let same = |earlier: &&&crate::raw::Neighbour| earlier.address.text == neighbour.address.text;
            if neighbours[..index].iter().any(|earlier| same(&earlier)) {
                let text = &neighbour.address.text;
                report.error(neighbour.address.span, format!("the neighbour `{text}` is already there"));
            }
        }
        let neighbours: Vec<Option<_>> = neighbours
            .into_iter()
            .map(|neighbour| {
                let (address, mac) = (neighbour.address.read(report), neighbour.mac.read(report));
                Some((address?.0, mac?))
            })
            .collect();
        let numbers = numbers?;
        Some(Some(Vlan {
            outer: u16::try_from(numbers.first()?.get()).ok()?,
            inner: numbers.get(1).and_then(|inner| u16::try_from(inner.get()).ok()),
            protocol: protocol?,
            addresses: addresses?,
            neighbours: neighbours.into_iter().collect::<Option<_>>()?,
        }))
    }

    /// An interface without tags has what the kernel knows of its device. Says whether nothing is wrong.
    fn check_none(raw: &crate::raw::Interface, report: &mut Report<'_>) -> bool {
        let mut refuse = |span, what: &str, help: &str| {
            report.error(span, Misread::new(format!("`{what}` is for interfaces with `vlan`")).help(help));
        };
        if let Some(protocol) = &raw.vlan_protocol {
            refuse(protocol.span, "vlan-protocol", "untagged frames have no tag to choose it for");
        }
        if let Some(addresses) = raw.addresses.as_ref() {
            refuse(addresses.span, "addresses", "give the address to the device: ip address add");
        }
        let first = raw.neighbours.iter().flatten().next();
        if let Some(neighbour) = first {
            refuse(neighbour.address.span, "neighbours", "tell the kernel: ip neighbour add");
        }
        raw.vlan_protocol.is_none() && raw.addresses.is_none() && first.is_none()
    }
}
