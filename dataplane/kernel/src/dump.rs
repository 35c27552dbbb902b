//! Reading the kernel's tables whole.

use std::collections::BTreeMap;

use netlink_packet_core::DecodeError;
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::decode::{self, Decoded};
use crate::error::KernelError;
use crate::message as rtm;
use crate::model::{IfIndex, NexthopObject, State};
use crate::routes::Routes;
use crate::socket::{Frame, Netlink, Payload};
use crate::store::{Family, add_dumped};

const IFLA_EXT_MASK: u16 = 29;
/// Leaves the packet counters out of links.
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const RTA_OIF: u16 = 4;
/// The loopback device is number 1 in every network namespace.
const LOOPBACK: u32 = 1;

/// A socket for dumps, apart from that of the notifications so that the two cannot get mixed up.
pub(crate) struct Dumper {
    socket: Netlink,
    /// Dumps begun anew.
    pub(crate) interrupted: u64,
    /// Messages left out since they could not be decoded.
    pub(crate) undecodable: u64,
}

impl Dumper {
    pub(crate) fn open() -> Result<Self, KernelError> {
        Ok(Self { socket: Netlink::open(NETLINK_ROUTE)?, interrupted: 0, undecodable: 0 })
    }

    /// Returns when whoever held the kernel's lock of network configuration has let it go.
    pub(crate) fn barrier(&mut self) -> Result<(), KernelError> {
        self.socket.request(
            "show the loopback device",
            rtm::GETLINK,
            0,
            link_header(LOOPBACK).bytes(),
            |_| {},
        )
    }

    pub(crate) fn everything(&mut self) -> Result<State, KernelError> {
        let mut links = link_header(0);
        links.put(IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
        let links = self.table("dump links", rtm::GETLINK, links.bytes(), decode::link, insert)?;
        let mut addresses = BTreeMap::new();
        let mut neighbours = BTreeMap::new();
        for family in [rtm::AF_INET, rtm::AF_INET6] {
            let header = [family, 0, 0, 0, 0, 0, 0, 0];
            addresses.append(&mut self.table(
                "dump addresses",
                rtm::GETADDR,
                &header,
                decode::address,
                insert,
            )?);
            let header = [family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            neighbours.append(&mut self.table(
                "dump neighbours",
                rtm::GETNEIGH,
                &header,
                decode::neighbour,
                insert,
            )?);
        }
        // Before the routes, which refer to them.
        let nexthops = self.nexthops()?;
        let mut routes = Routes::default();
        for family in Family::BOTH {
            routes.append(self.routes_by(family, None, &nexthops)?);
        }
        Ok(State { links, addresses, routes, neighbours, nexthops })
    }

    /// Nexthop objects; none on a kernel without them.
    pub(crate) fn nexthops(&mut self) -> Result<BTreeMap<u32, NexthopObject>, KernelError> {
        let result = self.table("dump nexthops", rtm::GETNEXTHOP, &[0; 8], decode::nexthop, insert);
        match result {
            Err(error) if error.is_unsupported() || error.errno() == Some(nix::libc::EINVAL) => {
                Ok(BTreeMap::new())
            }
            other => other,
        }
    }

    /// Routes of one family, of all tables; those over one interface only when `ifindex` is given.
    pub(crate) fn routes_by(
        &mut self,
        family: Family,
        ifindex: Option<IfIndex>,
        nexthops: &BTreeMap<u32, NexthopObject>,
    ) -> Result<Routes, KernelError> {
        let family = if family == Family::V4 { rtm::AF_INET } else { rtm::AF_INET6 };
        let mut payload = Payload::new(&[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        if let Some(ifindex) = ifindex {
            payload.put(RTA_OIF, &ifindex.to_ne_bytes());
        }
        self.table(
            "dump routes",
            rtm::GETROUTE,
            payload.bytes(),
            decode::route,
            |slots: &mut Routes, key, route| {
                // Kernels before 4.20 do not know the filter and give all.
                if ifindex.is_none_or(|index| route.next_hops.iter().any(|hop| hop.ifindex == Some(index)))
                    || route.nexthop_id.is_some()
                {
                    add_dumped(slots, nexthops, key, route);
                }
            },
        )
    }

    fn table<T: Default, K, V>(
        &mut self,
        request: &'static str,
        kind: u16,
        payload: &[u8],
        decode: impl Fn(&[u8]) -> Decoded<K, V>,
        add: impl Fn(&mut T, K, V),
    ) -> Result<T, KernelError> {
        let mut collected = (T::default(), 0u64);
        let on_frame = |(table, undecodable): &mut (T, u64), frame: &Frame<'_>| match decode(frame.payload) {
            Ok(Some((key, value))) => add(table, key, value),
            Ok(None) => {}
            Err(error) => {
                *undecodable += 1;
                warn_undecodable(request, &error);
            }
        };
        let begin = |collected: &mut (T, u64)| *collected = (T::default(), 0);
        let vain = self.socket.dump(request, kind, payload, &mut collected, begin, on_frame)?;
        self.interrupted += u64::from(vain);
        self.undecodable += collected.1;
        Ok(collected.0)
    }
}

fn warn_undecodable(request: &'static str, error: &DecodeError) {
    tracing::warn!(request, %error, "netlink message not understood");
}

fn insert<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: V) {
    map.insert(key, value);
}

/// `struct ifinfomsg`: family and padding, device type, index, flags, change mask.
fn link_header(index: u32) -> Payload {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    Payload::new(&header)
}

/// Reads the routes of all tables of the calling thread's network namespace and only counts them: what reading costs by
/// itself.
///
/// # Errors
/// The kernel refuses a socket or a dump.
pub fn count_routes() -> Result<usize, KernelError> {
    let mut socket = Netlink::open(NETLINK_ROUTE)?;
    let mut count = 0;
    for family in [rtm::AF_INET, rtm::AF_INET6] {
        let payload = Payload::new(&[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut routes = 0;
        let begin = |routes: &mut usize| *routes = 0;
        let add = |routes: &mut usize, _: &Frame<'_>| *routes += 1;
        socket.dump("dump routes", rtm::GETROUTE, payload.bytes(), &mut routes, begin, add)?;
        count += routes;
    }
    Ok(count)
}

/// Reads the state of the calling thread's network namespace once.
///
/// # Errors
/// The kernel refuses a socket or a dump.
pub fn snapshot() -> Result<State, KernelError> {
    Dumper::open()?.everything()
}
