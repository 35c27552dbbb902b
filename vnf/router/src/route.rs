//! What a lookup leads to, and the choice among several next hops.

use std::net::IpAddr;

use throughway_packet::PortId;

use crate::hash;

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

    const fn share(&self) -> u32 {
        if self.weight == 0 { 1 } else { self.weight as u32 }
    }
}

/// The next hops of a route: at least one, no two of them the same, in an order of their own.
///
/// A flow takes the next hop that wins by rendezvous hashing (Thaler and Ravishankar, IEEE/ACM Transactions on Networking
/// 6(1), 1998), weighted: each next hop draws a number from the flow and from what it is (port and gateway), and the best one wins.
/// So when one goes, its flows alone move, and when one comes, it takes its share and no flow moves between the others;
/// whatever happened before, after a restart and on another router with the same next hops, the choice is the same.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NextHops {
    first: Candidate,
    rest: Box<[Candidate]>,
    weighted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Candidate {
    hop: NextHop,
    /// What it is, as a number.
    identity: u64,
}

impl Candidate {
    fn new(hop: NextHop) -> Candidate {
        Candidate { hop, identity: hash::of_next_hop(hop.port, hop.gateway) }
    }

    /// The number it draws for a flow, evenly spread.
    #[inline]
    fn draw(&self, flow: u64) -> u64 {
        hash::mix(flow, self.identity)
    }

    /// How long it would take until something happens that happens at a rate of its weight (an exponential variable): the
    /// probability that it is the first of several is its share of their weights.
    #[inline]
    fn delay(&self, flow: u64) -> f64 {
        // Above 0, so that the logarithm is finite; the 53 upper bits are what fits.
        let uniform = ((self.draw(flow) >> 11) + 1) as f64 * (0.5f64).powi(53);
        -uniform.ln() / f64::from(self.hop.share())
    }
}

impl From<NextHop> for NextHops {
    fn from(only: NextHop) -> NextHops {
        NextHops { first: Candidate::new(only), rest: Box::default(), weighted: false }
    }
}

impl NextHops {
    /// A list of next hops; `None` if it is empty. Their order does not matter. One that is named twice has both weights.
    pub fn new(hops: impl IntoIterator<Item = NextHop>) -> Option<NextHops> {
        let mut hops: Vec<NextHop> = hops.into_iter().collect();
        hops.sort_by_key(|hop| (hop.port, hop.gateway));
        hops.dedup_by(|later, kept| {
            let same = (later.port, later.gateway) == (kept.port, kept.gateway);
            if same {
                kept.weight = (kept.share() + later.share()).try_into().unwrap_or(u16::MAX);
            }
            same
        });
        let weighted = hops.iter().any(|hop| hop.share() != hops.first().map_or(1, NextHop::share));
        let mut hops = hops.into_iter().map(Candidate::new);
        Some(NextHops { first: hops.next()?, rest: hops.collect(), weighted })
    }

    /// Those that `keep` says, if there are any.
    pub fn filtered(&self, keep: impl Fn(&NextHop) -> bool) -> Option<NextHops> {
        NextHops::new(self.iter().filter(|hop| keep(hop)).copied())
    }

    /// All of them, ordered by port and gateway.
    pub fn iter(&self) -> impl Iterator<Item = &NextHop> {
        std::iter::once(&self.first).chain(&*self.rest).map(|candidate| &candidate.hop)
    }

    /// The next hop for a flow. `hash` is only called when there is a choice. Takes time for each next hop: a few
    /// nanoseconds, with weights that differ some ten.
    #[inline]
    pub fn choose(&self, hash: impl FnOnce() -> u64) -> &NextHop {
        if self.rest.is_empty() {
            return &self.first.hop;
        }
        let flow = hash();
        let winner = if self.weighted { self.soonest(flow) } else { self.greatest(flow) };
        &winner.hop
    }

    fn greatest(&self, flow: u64) -> &Candidate {
        let (mut winner, mut best) = (&self.first, self.first.draw(flow));
        for candidate in &self.rest {
            let draw = candidate.draw(flow);
            if draw > best {
                (winner, best) = (candidate, draw);
            }
        }
        winner
    }

    fn soonest(&self, flow: u64) -> &Candidate {
        let (mut winner, mut best) = (&self.first, self.first.delay(flow));
        for candidate in &self.rest {
            let delay = candidate.delay(flow);
            if delay < best {
                (winner, best) = (candidate, delay);
            }
        }
        winner
    }
}
