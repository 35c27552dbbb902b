//! From netlink messages to the plain types of [`crate::model`].
//!
//! Each function takes the payload of one message and gives none for what the mirror does not keep: other address families
//! (bridge ports and their forwarding entries come on the same groups), proxy neighbours, cached routes.

use std::net::IpAddr;

use netlink_packet_core::{DecodeError, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{self, InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use crate::model::{
    Address, AddressKey, Link, Neighbour, NeighbourKey, NextHop, NexthopObject, NudState, OperState, Scope,
};
pub(crate) use crate::route::route;
use crate::route::set_flags;
use crate::socket::{attributes, number};

/// Shape of a decoder: a key and a value, or nothing to keep.
pub(crate) type Decoded<K, V> = Result<Option<(K, V)>, DecodeError>;

/// `RTM_NEWLINK`, `RTM_DELLINK`.
pub(crate) fn link(payload: &[u8]) -> Decoded<u32, Link> {
    let message = LinkMessage::parse(payload)?;
    if message.header.interface_family != AddressFamily::Unspec {
        return Ok(None);
    }
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        admin_up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        loopback: flags.contains(LinkFlags::Loopback),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Carrier(carrier) => link.carrier = carrier != 0,
            LinkAttribute::OperState(state) => link.oper_state = oper_state(state),
            LinkAttribute::Controller(master) => link.master = Some(master).filter(|index| *index != 0),
            LinkAttribute::Link(parent) => link.parent = Some(parent).filter(|index| *index != 0),
            LinkAttribute::LinkNetNsId(_) => link.parent_elsewhere = true,
            LinkAttribute::NumRxQueues(count) => link.rx_queues = count,
            LinkAttribute::NumTxQueues(count) => link.tx_queues = count,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                        LinkInfo::Data(InfoData::Vlan(data)) => {
                            link.vlan = data.into_iter().find_map(|attribute| match attribute {
                                InfoVlan::Id(id) => Some(id),
                                _ => None,
                            });
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(Some((link.index, link)))
}

fn oper_state(state: link::State) -> OperState {
    match state {
        link::State::NotPresent => OperState::NotPresent,
        link::State::Down => OperState::Down,
        link::State::LowerLayerDown => OperState::LowerLayerDown,
        link::State::Testing => OperState::Testing,
        link::State::Dormant => OperState::Dormant,
        link::State::Up => OperState::Up,
        _ => OperState::Unknown,
    }
}

/// `RTM_NEWADDR`, `RTM_DELADDR`.
pub(crate) fn address(payload: &[u8]) -> Decoded<AddressKey, Address> {
    let message = AddressMessage::parse(payload)?;
    if !is_ip(message.header.family) {
        return Ok(None);
    }
    let (mut local, mut prefix_address) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    let mut value = Address { scope: Scope(message.header.scope.into()), ..Address::default() };
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(address),
            AddressAttribute::Address(address) => prefix_address = Some(address),
            AddressAttribute::Broadcast(address) => value.broadcast = Some(address),
            AddressAttribute::Flags(all) => flags = all,
            _ => {}
        }
    }
    // Without a peer, IPv4 sends the same address twice and IPv6 the second alone.
    let Some(address) = local.or(prefix_address) else {
        return Ok(None);
    };
    value.tentative = flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed)
        && !flags.contains(AddressFlags::Optimistic);
    let key = AddressKey {
        ifindex: message.header.index,
        address,
        prefix_len: message.header.prefix_len,
        peer: prefix_address.filter(|peer| *peer != address),
    };
    Ok(Some((key, value)))
}

/// `RTM_NEWNEIGH`, `RTM_DELNEIGH`.
pub(crate) fn neighbour(payload: &[u8]) -> Decoded<NeighbourKey, Neighbour> {
    let message = NeighbourMessage::parse(payload)?;
    if !is_ip(message.header.family) || message.header.flags.contains(NeighbourFlags::Proxy) {
        return Ok(None);
    }
    let mut address = None;
    let mut value = Neighbour {
        mac: None,
        state: nud_state(message.header.state),
        router: message.header.flags.contains(NeighbourFlags::Router),
    };
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => value.mac = bytes.try_into().ok(),
            _ => {}
        }
    }
    Ok(address.map(|address| (NeighbourKey { ifindex: message.header.ifindex, address }, value)))
}

fn nud_state(state: NeighbourState) -> NudState {
    match state {
        NeighbourState::Incomplete => NudState::Incomplete,
        NeighbourState::Reachable => NudState::Reachable,
        NeighbourState::Stale => NudState::Stale,
        NeighbourState::Delay => NudState::Delay,
        NeighbourState::Probe => NudState::Probe,
        NeighbourState::Failed => NudState::Failed,
        NeighbourState::Noarp => NudState::NoArp,
        NeighbourState::Permanent => NudState::Permanent,
        _ => NudState::None,
    }
}

/// `RTM_NEWNEXTHOP`, `RTM_DELNEXTHOP` (linux/nexthop.h), which netlink-packet-route does not know.
pub(crate) fn nexthop(payload: &[u8]) -> Decoded<u32, NexthopObject> {
    const NHA_ID: u16 = 1;
    const NHA_GROUP: u16 = 2;
    const NHA_BLACKHOLE: u16 = 4;
    const NHA_OIF: u16 = 5;
    const NHA_GATEWAY: u16 = 6;
    const NHA_ENCAP_TYPE: u16 = 7;
    /// `struct nhmsg`: family, scope, protocol, a reserved byte, flags (u32).
    const HEADER: usize = 8;

    let (header, rest) = payload
        .split_first_chunk::<HEADER>()
        .ok_or_else(|| DecodeError::from("nexthop message shorter than its header"))?;
    let mut id = None;
    let mut blackhole = false;
    let mut group = None;
    let mut hop = NextHop::new(None, None);
    let flags = number(&header[4..]).unwrap_or_default();
    set_flags(&mut hop, flags);
    for (kind, value) in attributes(rest) {
        match kind {
            NHA_ID => id = number(value),
            NHA_BLACKHOLE => blackhole = true,
            NHA_OIF => hop.ifindex = number(value),
            NHA_GATEWAY => hop.gateway = ip_of_bytes(value),
            NHA_ENCAP_TYPE => hop.encapsulates = true,
            NHA_GROUP => group = Some(members(value)),
            _ => {}
        }
    }
    let object = match group {
        Some(members) => NexthopObject::Group(members),
        None if blackhole => NexthopObject::Blackhole,
        None => NexthopObject::Single(hop),
    };
    Ok(id.map(|id| (id, object)))
}

/// `struct nexthop_grp`: number (u32), weight less one, its high byte (since 6.12), two reserved bytes.
fn members(value: &[u8]) -> Vec<(u32, u16)> {
    let (entries, _) = value.as_chunks::<8>();
    entries
        .iter()
        .filter_map(|entry| {
            Some((number(entry)?, u16::from_le_bytes([entry[4], entry[5]]).saturating_add(1)))
        })
        .collect()
}

pub(crate) fn ip_of_bytes(value: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(value)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from))
        .ok()
}

fn is_ip(family: AddressFamily) -> bool {
    matches!(family, AddressFamily::Inet | AddressFamily::Inet6)
}
