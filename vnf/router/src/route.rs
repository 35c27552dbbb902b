//! What a lookup leads to, and the choice among several next hops.

use std::net::IpAddr;

use throughway_packet::PortId;

/// What becomes of packets to a prefix.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Route {
    /// On to a next hop.
    Forward(NextHops),
    /// One of the host's own addresses.
    Local,
    /// The directed broadcast address of a connected network: never forwarded (RFC 2644).
    Broadcast,
    /// Dropped in silence.
    Blackhole,
    /// Refused: "host unreachable".
    Unreachable,
    /// Refused: "administratively prohibited".
    Prohibit,
    /// Ends the lookup as if there were no route at all, even when a shorter prefix has one. With one table there is no
    /// other table to go on in.
    Throw,
    /// Out by an interface that the data plane does not own.
    NotOurs,
}

impl Route {
    /// A route over one next hop.
    pub fn via(next_hop: NextHop) -> Route {
        Route::Forward(NextHops::from(next_hop))
    }
}

/// Where to send a packet next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NextHop {
    /// The egress port.
    pub port: PortId,
    /// The router to send to; `None`: the destination itself is on the link. The gateway of an IPv4 route may have an
    /// IPv6 address (RFC 8950).
    pub gateway: Option<IpAddr>,
    /// Share of the flows among the next hops of a route; 0 counts as 1.
    pub weight: u16,
}

impl NextHop {
    /// A next hop on the link of `port`, with weight 1.
    pub const fn on_link(port: PortId) -> NextHop {
        NextHop { port, gateway: None, weight: 1 }
    }

    /// A router behind `port`, with weight 1.
    pub const fn gateway(port: PortId, gateway: IpAddr) -> NextHop {
        NextHop { port, gateway: Some(gateway), weight: 1 }
    }

    /// The same next hop with another weight.
    #[must_use]
    pub const fn weighted(mut self, weight: u16) -> NextHop {
        self.weight = weight;
        self
    }

    /// The address whose MAC address a packet to `destination` is sent to.
    #[inline]
    pub fn address(&self, destination: IpAddr) -> IpAddr {
        self.gateway.unwrap_or(destination)
    }

    const fn share(&self) -> u64 {
        if self.weight == 0 { 1 } else { self.weight as u64 }
    }
}

/// The next hops of a route: at least one.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NextHops {
    first: NextHop,
    rest: Box<[NextHop]>,
    total: u64,
}

impl From<NextHop> for NextHops {
    fn from(only: NextHop) -> NextHops {
        NextHops { first: only, rest: Box::default(), total: only.share() }
    }
}

impl NextHops {
    /// A list of next hops; `None` if it is empty. Their order matters: it decides which flows take which.
    pub fn new(hops: impl IntoIterator<Item = NextHop>) -> Option<NextHops> {
        let mut hops = hops.into_iter();
        let first = hops.next()?;
        let rest: Box<[NextHop]> = hops.collect();
        let total = first.share() + rest.iter().map(NextHop::share).sum::<u64>();
        Some(NextHops { first, rest, total })
    }

    /// Those that `keep` says, if there are any.
    pub fn filtered(&self, keep: impl Fn(&NextHop) -> bool) -> Option<NextHops> {
        NextHops::new(self.iter().filter(|hop| keep(hop)).copied())
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &NextHop> {
        std::iter::once(&self.first).chain(&*self.rest)
    }

    /// The next hop for a flow. `hash` is only called when there is a choice.
    ///
    /// The range of the hash is cut into one piece per next hop, as long as its weight (hash-threshold, RFC 2992), so the
    /// choice depends on nothing but the flow and the list.
    #[inline]
    pub fn choose(&self, hash: impl FnOnce() -> u32) -> &NextHop {
        if self.rest.is_empty() {
            return &self.first;
        }
        // Below 2³² × total / 2³², so below the total.
        let mut point = ((u128::from(hash()) * u128::from(self.total)) >> 32) as u64;
        for hop in self.iter() {
            if point < hop.share() {
                return hop;
            }
            point -= hop.share();
        }
        &self.first
    }
}
