//! What the kernel knows about a network namespace, as plain values.
//!
//! Nothing here knows of our interfaces, of our forwarding table or of netlink. Addresses are [`IpAddr`]s (no byte order
//! to think of), MTUs are bytes, interface indices are the kernel's own numbers.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use crate::routes::Routes;

/// The kernel's number of an interface. Never zero for a real one, and not reused while the interface lives.
pub type IfIndex = u32;

/// Routing table numbers with a fixed meaning (`RT_TABLE_*`, linux/rtnetlink.h).
pub mod table {
    /// Prefixes whose routes were given no table by older tools.
    pub const DEFAULT: u32 = 253;
    /// The table `ip route` shows and routing daemons fill unless told otherwise.
    pub const MAIN: u32 = 254;
    /// The host's own addresses, broadcasts and multicast, kept by the kernel.
    pub const LOCAL: u32 = 255;
}

/// Operational state of an interface (RFC 2863 section 3.1.14, linux/if.h `IF_OPER_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum OperState {
    /// The driver does not say; such an interface is usable when its carrier is on.
    #[default]
    Unknown,
    /// A part of it is missing.
    NotPresent,
    /// Not usable.
    Down,
    /// The layer below is not usable.
    LowerLayerDown,
    /// In a test mode.
    Testing,
    /// Waiting for an event, 802.1X for instance.
    Dormant,
    /// Usable.
    Up,
}

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Link {
    /// Its number; also its key in [`State::links`].
    pub index: IfIndex,
    /// Its name; may change while the number stays.
    pub name: String,
    /// Its Ethernet address; none where the link layer has none of six bytes (tunnels, for instance).
    pub mac: Option<[u8; 6]>,
    /// Largest layer 3 packet in bytes.
    pub mtu: u32,
    /// `IFF_UP`: somebody wants it to work.
    pub admin_up: bool,
    /// The physical (or virtual) cable is in: `IFLA_CARRIER`.
    pub carrier: bool,
    /// What both, and anything above them, come to.
    pub oper_state: OperState,
    /// `IFF_LOOPBACK`.
    pub loopback: bool,
    /// The device it is enslaved to (bridge, bond, VRF).
    pub master: Option<IfIndex>,
    /// The device it stands on or, for veth, its peer; may be a number of another namespace (see `parent_elsewhere`). That
    /// a veth's peer has moved to another namespace is not announced; this is what the kernel said last.
    pub parent: Option<IfIndex>,
    /// `parent` is a number of another network namespace.
    pub parent_elsewhere: bool,
    /// Kind of virtual device as `ip -d link` shows it (`veth`, `bridge`, `vlan`), none for hardware.
    pub kind: Option<String>,
    /// The VLAN identifier of a device of the kind `vlan`; its frames are those of `parent` with that tag.
    pub vlan: Option<u16>,
    /// Receive queues it was made with; those in use may be fewer, see [`crate::device::Devices::queues`].
    pub rx_queues: u32,
    /// Transmit queues it was made with.
    pub tx_queues: u32,
}

impl Link {
    /// Packets can be sent and received: wanted up, with a carrier, and nothing above the carrier objects.
    pub fn usable(&self) -> bool {
        self.admin_up && self.carrier && matches!(self.oper_state, OperState::Up | OperState::Unknown)
    }
}

/// How far an address or a route reaches (`RT_SCOPE_*`). Smaller numbers reach farther.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Scope(pub u8);

impl Scope {
    /// Everywhere.
    pub const UNIVERSE: Self = Self(0);
    /// Within the site.
    pub const SITE: Self = Self(200);
    /// On the attached link.
    pub const LINK: Self = Self(253);
    /// Within this host.
    pub const HOST: Self = Self(254);
    /// Nowhere.
    pub const NOWHERE: Self = Self(255);
}

/// What makes an address of an interface unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressKey {
    /// The interface which has it.
    pub ifindex: IfIndex,
    /// The address itself.
    pub address: IpAddr,
    /// Length of the on-link prefix in bits.
    pub prefix_len: u8,
    /// The other end of a point-to-point address; the on-link prefix is then the peer's.
    pub peer: Option<IpAddr>,
}

/// What else is known of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Address {
    /// How far it reaches.
    pub scope: Scope,
    /// Its directed broadcast address; never given for IPv6.
    pub broadcast: Option<Ipv4Addr>,
    /// Duplicate address detection is not over or has failed (RFC 4862 section 5.4): not ours to answer with yet.
    pub tentative: bool,
}

/// An IP prefix. The bits behind the length are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// First address of the prefix.
    pub address: IpAddr,
    /// Length in bits, 0 to 32 or 128.
    pub len: u8,
}

impl Prefix {
    /// The default prefix of IPv4.
    pub const DEFAULT_V4: Self = Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), len: 0 };
    /// The default prefix of IPv6.
    pub const DEFAULT_V6: Self = Self { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), len: 0 };
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

/// The slot of a routing table in which a route stands. Sorted by table, prefix, and then by what wins first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteKey {
    /// Number of the table, see [`table`].
    pub table: u32,
    /// Destination; its address says the family.
    pub prefix: Prefix,
    /// Source prefix of IPv6 source-specific routes (`ip -6 route add … from …`); such a route is for those sources alone.
    pub source: Option<Prefix>,
    /// IPv4 type of service which the route is for; 0 is any.
    pub tos: u8,
    /// Priority; the smallest wins. IPv6 routes without one have 1024, IPv4 ones 0.
    pub metric: u32,
}

/// What a route does with a packet (`RTN_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum RouteKind {
    /// Forwards it to one of the next hops.
    #[default]
    Unicast,
    /// Delivers it to this host.
    Local,
    /// Delivers it to this host, and sends it as a broadcast.
    Broadcast,
    /// Delivers it to this host, but sends it as a unicast.
    Anycast,
    /// A multicast destination.
    Multicast,
    /// Drops it without a word.
    Blackhole,
    /// Drops it and says host unreachable.
    Unreachable,
    /// Drops it and says administratively prohibited.
    Prohibit,
    /// Ends the lookup in this table as if nothing had been found.
    Throw,
    /// A type this library does not know.
    Other(u8),
}

/// Who installed a route (`RTPROT_*`, names in iproute2's `rt_protos`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct RouteProtocol(pub u8);

impl RouteProtocol {
    /// An ICMP redirect.
    pub const REDIRECT: Self = Self(1);
    /// The kernel itself, for an address.
    pub const KERNEL: Self = Self(2);
    /// `ip route` without a protocol.
    pub const BOOT: Self = Self(3);
    /// The administrator.
    pub const STATIC: Self = Self(4);
    /// An IPv6 router advertisement.
    pub const RA: Self = Self(9);
    /// BIRD.
    pub const BIRD: Self = Self(12);
    /// A DHCP client.
    pub const DHCP: Self = Self(16);
    /// BGP, as FRR marks it.
    pub const BGP: Self = Self(186);
}

/// One of the ways a route may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NextHop {
    /// The router to give the packet to; none when the destination is on the link. May be an IPv6 address for an IPv4
    /// route (`via inet6 …`, RFC 8950).
    pub gateway: Option<IpAddr>,
    /// The interface it leaves by.
    pub ifindex: Option<IfIndex>,
    /// Share of the flows, 1 and up.
    pub weight: u16,
    /// The gateway is to be taken as on-link although no prefix of the interface covers it.
    pub onlink: bool,
    /// Out of use since its interface is down.
    pub dead: bool,
    /// Its interface has no carrier; whether it is used then is a sysctl (`ignore_routes_with_linkdown`).
    pub linkdown: bool,
    /// It pushes a header of its own (lwtunnel: MPLS, SRv6, IP tunnels), of which this library says no more.
    pub encapsulates: bool,
}

impl NextHop {
    /// A plain next hop of weight 1.
    pub fn new(gateway: Option<IpAddr>, ifindex: Option<IfIndex>) -> Self {
        Self { gateway, ifindex, weight: 1, onlink: false, dead: false, linkdown: false, encapsulates: false }
    }

    /// Same way, whatever its weight and health.
    pub fn same_way(&self, other: &Self) -> bool {
        self.gateway == other.gateway
            && self.ifindex == other.ifindex
            && self.encapsulates == other.encapsulates
    }
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Route {
    /// What it does.
    pub kind: RouteKind,
    /// How far its destination is.
    pub scope: Scope,
    /// Who installed it.
    pub protocol: RouteProtocol,
    /// Source address for packets of this host (`src`).
    pub preferred_source: Option<IpAddr>,
    /// MTU of the path in bytes (`mtu`), where the route sets one.
    pub mtu: Option<u32>,
    /// The nexthop object it was installed with (`nhid`). [`Route::next_hops`] is then what that object stands for now.
    pub nexthop_id: Option<u32>,
    /// The ways it may take, sorted; empty for those kinds which send nothing.
    pub next_hops: Vec<NextHop>,
}

/// What makes a neighbour unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NeighbourKey {
    /// The interface it is on.
    pub ifindex: IfIndex,
    /// Its IP address.
    pub address: IpAddr,
}

/// State of neighbour unreachability detection (RFC 4861 section 7.3.2, linux/neighbour.h `NUD_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum NudState {
    /// The entry exists and nothing was asked yet.
    #[default]
    None,
    /// Asked, no answer yet.
    Incomplete,
    /// Confirmed not long ago.
    Reachable,
    /// Known, to be confirmed at next use.
    Stale,
    /// Used while stale; about to be confirmed.
    Delay,
    /// Being confirmed.
    Probe,
    /// Did not answer.
    Failed,
    /// Needs no resolution (multicast, point-to-point).
    NoArp,
    /// Set by hand.
    Permanent,
}

impl NudState {
    /// The link-layer address may be used to send.
    pub fn usable(self) -> bool {
        matches!(
            self,
            Self::Reachable | Self::Stale | Self::Delay | Self::Probe | Self::NoArp | Self::Permanent
        )
    }
}

/// A neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Neighbour {
    /// Its Ethernet address, when known.
    pub mac: Option<[u8; 6]>,
    /// What is known of its reachability. The kernel does not announce every step (not [`NudState::Delay`], for one), so
    /// this is the state it last spoke of.
    pub state: NudState,
    /// It told that it is a router (IPv6).
    pub router: bool,
}

/// A nexthop object (`ip nexthop`), which routes refer to by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NexthopObject {
    /// One way.
    Single(NextHop),
    /// Drops what takes it.
    Blackhole,
    /// Several objects: number and weight of each.
    Group(Vec<(u32, u16)>),
}

/// Everything the kernel said of one network namespace, at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct State {
    /// Interfaces by number.
    pub links: BTreeMap<IfIndex, Link>,
    /// Addresses of the interfaces.
    pub addresses: BTreeMap<AddressKey, Address>,
    /// Routes of all tables and both families.
    pub routes: Routes,
    /// Neighbours of both families. Proxy entries and bridge forwarding entries are not among them.
    pub neighbours: BTreeMap<NeighbourKey, Neighbour>,
    /// Nexthop objects by number. The next hops of routes already follow them.
    pub nexthops: BTreeMap<u32, NexthopObject>,
}

impl State {
    /// The interface of this name.
    pub fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// Addresses of one interface.
    pub fn addresses_of(&self, ifindex: IfIndex) -> impl Iterator<Item = (&AddressKey, &Address)> {
        self.addresses.iter().filter(move |(key, _)| key.ifindex == ifindex)
    }

    /// Routes of one table, in the order of [`RouteKey`].
    pub fn routes_of(&self, table: u32) -> impl Iterator<Item = (&RouteKey, &Route)> {
        let slots = self.routes.of_table_from(table, Prefix::DEFAULT_V4);
        slots.flat_map(|(key, routes)| routes.iter().map(move |route| (key, &**route)))
    }

    /// What the routes with nexthop object `id` do now: unicast over these next hops, or blackhole.
    pub fn nexthop(&self, id: u32) -> Option<(RouteKind, Vec<NextHop>)> {
        crate::store::ways(&self.nexthops, id)
    }

    /// The neighbour with this address on this interface.
    pub fn neighbour(&self, ifindex: IfIndex, address: IpAddr) -> Option<&Neighbour> {
        self.neighbours.get(&NeighbourKey { ifindex, address })
    }
}
