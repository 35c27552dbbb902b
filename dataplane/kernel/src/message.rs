//! Numbers of rtnetlink messages and multicast groups (linux/rtnetlink.h).

pub(crate) const NEWLINK: u16 = 16;
pub(crate) const DELLINK: u16 = 17;
pub(crate) const GETLINK: u16 = 18;
pub(crate) const NEWADDR: u16 = 20;
pub(crate) const DELADDR: u16 = 21;
pub(crate) const GETADDR: u16 = 22;
pub(crate) const NEWROUTE: u16 = 24;
pub(crate) const DELROUTE: u16 = 25;
pub(crate) const GETROUTE: u16 = 26;
pub(crate) const NEWNEIGH: u16 = 28;
pub(crate) const DELNEIGH: u16 = 29;
pub(crate) const GETNEIGH: u16 = 30;
pub(crate) const NEWNEXTHOP: u16 = 104;
pub(crate) const DELNEXTHOP: u16 = 105;
pub(crate) const GETNEXTHOP: u16 = 106;

pub(crate) const GROUP_NEXTHOP: u32 = 32;
/// Link, neighbour, addresses and routes of both families, nexthop objects.
pub(crate) const GROUPS: [u32; 7] = [1, 3, 5, 9, 7, 11, GROUP_NEXTHOP];

pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;
