//! Route messages to plain types (linux/rtnetlink.h), read in place: a full table is a million of them, and a general
//! decoder makes a list of attributes for each.

use std::net::IpAddr;

use netlink_packet_core::DecodeError;

use crate::decode::{Decoded, ip_of_bytes};
use crate::message::{AF_INET, AF_INET6};
use crate::model::{NextHop, Prefix, Route, RouteKey, RouteKind, RouteProtocol, Scope};
use crate::socket::number;

/// `struct rtmsg`: family, length of destination and source, TOS, table, protocol, scope, type, flags (u32).
const HEADER: usize = 12;
/// `struct rtnexthop`: length (u16), flags, weight less one, interface (i32).
const NEXT_HOP: usize = 8;

const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTA_ENCAP_TYPE: u16 = 21;
const RTA_NH_ID: u16 = 30;
const RTAX_MTU: u16 = 2;

/// An entry of the routing cache, not of a table.
const RTM_F_CLONED: u32 = 0x200;
const RTNH_F_DEAD: u32 = 1;
const RTNH_F_ONLINK: u32 = 4;
const RTNH_F_LINKDOWN: u32 = 16;

/// `RTM_NEWROUTE`, `RTM_DELROUTE`.
pub(crate) fn route(payload: &[u8]) -> Decoded<RouteKey, Route> {
    let (header, rest) = payload
        .split_first_chunk::<HEADER>()
        .ok_or_else(|| DecodeError::from("route message shorter than its header"))?;
    let [family, len, source_len, tos, table, protocol, scope, kind, flags @ ..] = *header;
    let flags = u32::from_ne_bytes(flags);
    let (any, longest) = match family {
        AF_INET => (Prefix::DEFAULT_V4, 32),
        AF_INET6 => (Prefix::DEFAULT_V6, 128),
        _ => return Ok(None),
    };
    if flags & RTM_F_CLONED != 0 {
        return Ok(None);
    }
    if len > longest || source_len > longest {
        return Err(DecodeError::from(format!("a prefix of {len} or {source_len} bits")));
    }
    let mut key = RouteKey {
        table: table.into(),
        prefix: Prefix { len, ..any },
        source: (source_len != 0).then_some(Prefix { len: source_len, ..any }),
        tos,
        metric: 0,
    };
    let mut route = Route {
        kind: route_kind(kind),
        scope: Scope(scope),
        protocol: RouteProtocol(protocol),
        ..Route::default()
    };
    // Flags of a single next hop stand in the header; the low byte is the same as in a multipath entry.
    let mut single = NextHop::new(None, None);
    set_flags(&mut single, flags);
    for attribute in Attributes(rest) {
        let (kind, value) = attribute?;
        match kind {
            RTA_TABLE => key.table = word(value)?,
            RTA_DST => key.prefix.address = address(value, family)?,
            RTA_SRC => {
                if let Some(source) = &mut key.source {
                    source.address = address(value, family)?;
                }
            }
            RTA_PRIORITY => key.metric = word(value)?,
            RTA_PREFSRC => route.preferred_source = Some(address(value, family)?),
            RTA_METRICS => route.mtu = mtu(value)?,
            RTA_NH_ID => route.nexthop_id = Some(word(value)?),
            RTA_MULTIPATH => route.next_hops = next_hops(value)?,
            _ => set_way(&mut single, kind, value)?,
        }
    }
    if route.next_hops.is_empty() && (single.ifindex.is_some() || single.gateway.is_some()) {
        route.next_hops.push(single);
    }
    if matches!(
        route.kind,
        RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit | RouteKind::Throw
    ) {
        // IPv6 names the loopback device for these.
        route.next_hops.clear();
    }
    route.next_hops.sort_unstable();
    Ok(Some((key, route)))
}

/// Dead, without carrier, on-link: `RTNH_F_*`.
pub(crate) fn set_flags(hop: &mut NextHop, flags: u32) {
    hop.onlink = flags & RTNH_F_ONLINK != 0;
    hop.dead = flags & RTNH_F_DEAD != 0;
    hop.linkdown = flags & RTNH_F_LINKDOWN != 0;
}

fn set_way(hop: &mut NextHop, kind: u16, value: &[u8]) -> Result<(), DecodeError> {
    match kind {
        RTA_OIF => hop.ifindex = Some(word(value)?).filter(|index| *index != 0),
        RTA_GATEWAY => hop.gateway = Some(some_address(value)?),
        // `struct rtvia`: family (u16) and address.
        RTA_VIA => hop.gateway = Some(some_address(value.get(2..).unwrap_or_default())?),
        RTA_ENCAP_TYPE => hop.encapsulates = true,
        _ => {}
    }
    Ok(())
}

fn next_hops(mut bytes: &[u8]) -> Result<Vec<NextHop>, DecodeError> {
    let mut hops = Vec::new();
    while let Some((header, _)) = bytes.split_first_chunk::<NEXT_HOP>() {
        let [a, b, flags, weight, index @ ..] = *header;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let body = bytes
            .get(NEXT_HOP..length)
            .ok_or_else(|| DecodeError::from(format!("a next hop of {length} bytes")))?;
        let mut hop = NextHop::new(None, Some(u32::from_ne_bytes(index)).filter(|index| *index != 0));
        hop.weight = u16::from(weight) + 1;
        set_flags(&mut hop, flags.into());
        for attribute in Attributes(body) {
            let (kind, value) = attribute?;
            set_way(&mut hop, kind, value)?;
        }
        hops.push(hop);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(hops)
}

fn mtu(metrics: &[u8]) -> Result<Option<u32>, DecodeError> {
    for metric in Attributes(metrics) {
        let (kind, value) = metric?;
        if kind == RTAX_MTU {
            return word(value).map(Some);
        }
    }
    Ok(None)
}

fn word(value: &[u8]) -> Result<u32, DecodeError> {
    number(value).ok_or_else(|| DecodeError::from("a number shorter than four bytes"))
}

fn some_address(value: &[u8]) -> Result<IpAddr, DecodeError> {
    ip_of_bytes(value).ok_or_else(|| DecodeError::from(format!("an address of {} bytes", value.len())))
}

fn address(value: &[u8], family: u8) -> Result<IpAddr, DecodeError> {
    some_address(value).and_then(|address| {
        if address.is_ipv4() == (family == AF_INET) {
            Ok(address)
        } else {
            Err(DecodeError::from("an address of the other family"))
        }
    })
}

fn route_kind(kind: u8) -> RouteKind {
    match kind {
        1 => RouteKind::Unicast,
        2 => RouteKind::Local,
        3 => RouteKind::Broadcast,
        4 => RouteKind::Anycast,
        5 => RouteKind::Multicast,
        6 => RouteKind::Blackhole,
        7 => RouteKind::Unreachable,
        8 => RouteKind::Prohibit,
        9 => RouteKind::Throw,
        other => RouteKind::Other(other),
    }
}

/// Attributes, of which one that is cut short is an error: what it says is missing.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let split = self.0.split_first_chunk::<4>().and_then(|([a, b, c, d], _)| {
            let length = usize::from(u16::from_ne_bytes([*a, *b]));
            let kind = u16::from_ne_bytes([*c, *d]) & netlink_packet_core::NLA_TYPE_MASK;
            Some((kind, self.0.get(4..length)?, self.0.get(length.next_multiple_of(4)..).unwrap_or_default()))
        });
        match split {
            Some((kind, value, rest)) => {
                self.0 = rest;
                Some(Ok((kind, value)))
            }
            None => {
                self.0 = &[];
                Some(Err(DecodeError::from("an attribute that is cut short")))
            }
        }
    }
}
