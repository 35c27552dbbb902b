//! The function: one packet's way through the checks, in their order.

use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use throughway_packet::{Edit, Flags, PortId};
use throughway_vnf::counters::Counter;
use throughway_vnf::{
    Answer, BATCH, Batch, Context, DropReason, Function, IcmpError, Packet, Slot, Snapshot, Verdict,
};

use crate::fib::routes::{RouteId, View};
use crate::hash;
use crate::martian::{is_martian, is_reserved};
use crate::options::Options;
use crate::originate::Origin;
use crate::route::{NextHops, Route};
use crate::tables::{PortSettings, SourceCheck, Tables};

/// What one worker's router has seen. Why packets end is counted by whoever runs the chain.
#[derive(Debug, Default)]
pub struct Counters {
    /// Destinations looked up.
    pub lookups: Counter,
    /// Look-ups that found no route.
    pub misses: Counter,
    /// Packets sent to a neighbour that was not resolved.
    pub unresolved: Counter,
}

/// The router, as one worker holds it.
#[derive(Debug)]
pub struct Router {
    tables: Snapshot<Tables>,
    options: Options,
    counters: Arc<Counters>,
}

impl Router {
    /// A router over tables that the control side publishes. Every worker makes its own over the same tables.
    pub fn new(tables: Snapshot<Tables>) -> Router {
        Router { tables, options: Options::default(), counters: Arc::default() }
    }

    /// The same router with options.
    #[must_use]
    pub fn with_options(self, options: Options) -> Router {
        Router { options, ..self }
    }

    /// The same router that goes on counting in `counters`: those of the one that it takes the place of.
    #[must_use]
    pub fn counting(mut self, counters: Arc<Counters>) -> Router {
        self.counters = counters;
        self
    }

    /// Whether the neighbour was asked for not long ago and did not answer: see [`crate::Neighbours::is_silent`].
    pub fn is_silent(&self, port: PortId, next_hop: IpAddr) -> bool {
        self.tables.read().neighbours.is_silent(port, next_hop)
    }

    /// What this worker's router has seen, for other threads to read.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Where its tables are published.
    pub fn tables(&self) -> &Snapshot<Tables> {
        &self.tables
    }

    /// Routes a packet that the data plane sends itself: see [`Tables::originate`].
    pub fn originate(&self, destination: IpAddr) -> Option<Origin> {
        self.tables.read().originate(destination)
    }

    /// The MAC addresses (destination, source) of a frame to a neighbour: see [`Tables::ethernet_to`].
    pub fn ethernet_to(&self, port: PortId, next_hop: IpAddr) -> Option<([u8; 6], [u8; 6])> {
        self.tables.read().ethernet_to(port, next_hop)
    }
}

impl Function for Router {
    const KIND: &'static str = "router";

    fn judge(&mut self, packet: &mut Packet<'_>, _: &Context) -> Verdict {
        let tables = self.tables.read();
        let mut questions = Questions::default();
        match questions.ask(&tables, packet) {
            Ok(asked) => {
                forward(&tables, &self.options, &self.counters, packet, &questions.answer(&tables), asked)
            }
            Err(reason) => Verdict::Drop(reason),
        }
    }

    /// As one by one, with the tables read once: all packets of a batch see the same, and their routes are looked up
    /// together.
    fn process(&mut self, batch: &mut Batch<'_>, _: &Context) {
        let tables = self.tables.read();
        let mut questions = Questions::default();
        let mut asked: ArrayVec<Asked, BATCH> = ArrayVec::new();
        for packet in batch.living() {
            match questions.ask(&tables, packet) {
                // A batch has no more packets than there is room for.
                Ok(numbers) => asked.push(numbers),
                Err(reason) => packet.settle(Verdict::Drop(reason)),
            }
        }
        let answers = questions.answer(&tables);
        for (packet, numbers) in batch.living().zip(asked) {
            let verdict = forward(&tables, &self.options, &self.counters, packet, &answers, numbers);
            packet.settle(verdict);
        }
    }
}

/// Where the answers about a packet are.
#[derive(Clone, Copy, Debug)]
struct Asked {
    destination: usize,
    /// Only when the port asks for it.
    source: Option<usize>,
}

/// The addresses of a batch that are to be looked up together.
#[derive(Debug, Default)]
struct Questions {
    addresses: ArrayVec<IpAddr, { 2 * BATCH }>,
}

/// Their routes.
struct Answers {
    ids: [RouteId; 2 * BATCH],
    view: View,
}

impl Questions {
    /// Notes what has to be known of a packet, unless its addresses tell enough.
    fn ask(&mut self, tables: &Tables, packet: &Packet<'_>) -> Result<Asked, DropReason> {
        let headers = packet.headers();
        let (source, destination) = (headers.source(), packet.routed_by());
        if is_martian(source) || is_martian(destination) {
            return Err(DropReason::MartianAddress);
        }
        let settings =
            tables.ports.get(packet.ingress()).map_or(PortSettings::default(), |port| port.settings);
        if !settings.forward_reserved && (is_reserved(source) || is_reserved(destination)) {
            return Err(DropReason::ReservedAddress);
        }
        let checked = settings.source_check != SourceCheck::Off;
        Ok(Asked { destination: self.push(destination), source: checked.then(|| self.push(source)) })
    }

    fn push(&mut self, address: IpAddr) -> usize {
        self.addresses.push(address);
        self.addresses.len() - 1
    }

    fn answer(&self, tables: &Tables) -> Answers {
        let mut ids = [RouteId::default(); 2 * BATCH];
        let view = tables.fib.lookup_all(&self.addresses, &mut ids);
        Answers { ids, view }
    }
}

impl Answers {
    fn id(&self, number: usize) -> RouteId {
        self.ids.get(number).copied().unwrap_or_default()
    }

    fn route(&self, number: usize) -> Option<&Route> {
        self.view.get(self.id(number))
    }
}

/// The order of RFC 1812, section 5.2.1: addresses, route, then what is about forwarding only. So a packet without a route
/// is told so whatever its TTL is, as Linux does, and a local one never runs out of hops (section 5.3.1). A forged source
/// comes before all that would be told to it.
fn forward(
    tables: &Tables,
    options: &Options,
    counters: &Counters,
    packet: &mut Packet<'_>,
    answers: &Answers,
    asked: Asked,
) -> Verdict {
    if let Some(source) = asked.source {
        // Whatever the answer is: a route that comes makes it another one.
        packet.depends_on(Slot::route(packet.headers().source()));
        if !is_plausible(tables, packet.ingress(), answers, source) {
            return Verdict::Drop(DropReason::SpoofedSource);
        }
    }
    counters.lookups.add(1);
    packet.depends_on(Slot::route(packet.routed_by()));
    let next_hops = match answers.route(asked.destination) {
        Some(Route::Forward(next_hops)) => Some(next_hops),
        Some(Route::NotOurs) => None,
        Some(Route::Local) => return Verdict::Drop(DropReason::LocalDestination),
        Some(Route::Broadcast) => return Verdict::Drop(DropReason::MartianAddress),
        Some(Route::Blackhole) => return Verdict::Drop(DropReason::BlackholeRoute),
        Some(Route::Unreachable) => {
            // As Linux says it: host unreachable (RFC 792), but no route to the destination in ICMPv6.
            let told = if packet.headers().is_ipv4() {
                IcmpError::HostUnreachable
            } else {
                IcmpError::NetUnreachable
            };
            return reject(DropReason::UnreachableRoute, told);
        }
        Some(Route::Prohibit) => return reject(DropReason::ProhibitRoute, IcmpError::AdminProhibited),
        Some(Route::Throw) | None => {
            counters.misses.add(1);
            return reject(DropReason::NoRoute, IcmpError::NetUnreachable);
        }
    };
    if packet.headers().hop_limit <= 1 {
        return reject(DropReason::HopLimitExceeded, IcmpError::HopLimitExceeded);
    }
    match next_hops {
        Some(next_hops) => send(tables, options, counters, packet, next_hops),
        None => Verdict::Drop(DropReason::EgressNotOurs),
    }
}

/// Unicast reverse path forwarding (RFC 3704): whether a packet from this source may come in by this port.
///
/// A route by an interface that is not ours satisfies the loose check: the source can be reached. The host's own addresses
/// satisfy neither, nor does a blackhole: that is how sources are shut out by a route (RFC 5635, section 4).
fn is_plausible(tables: &Tables, ingress: PortId, answers: &Answers, source: usize) -> bool {
    let settings = tables.ports.get(ingress).map_or(PortSettings::default(), |port| port.settings);
    let back = answers.route(source);
    match settings.source_check {
        SourceCheck::Off => true,
        SourceCheck::Loose { allow_default } => {
            matches!(back, Some(Route::Forward(_) | Route::NotOurs))
                && (allow_default || !answers.id(source).is_default())
        }
        SourceCheck::Strict => match back {
            Some(Route::Forward(next_hops)) => next_hops.iter().any(|hop| hop.port == ingress),
            _ => false,
        },
    }
}

fn send(
    tables: &Tables,
    options: &Options,
    counters: &Counters,
    packet: &mut Packet<'_>,
    next_hops: &NextHops,
) -> Verdict {
    let headers = packet.headers();
    let hop = next_hops.choose(|| hash::of_flow(headers));
    let Some(egress) = tables.ports.get(hop.port) else { return Verdict::Drop(DropReason::EgressNotOurs) };
    if !egress.up {
        return reject(DropReason::EgressDown, IcmpError::HostUnreachable);
    }
    let mtu = egress.mtu.try_into().unwrap_or(u16::MAX);
    if headers.packet_len() > mtu {
        if headers.flags.has(Flags::DONT_FRAGMENT) {
            return too_big(mtu);
        }
        // IPv4 without DF (RFC 1812, section 5.2.6).
        packet.fragment_to(mtu);
    }

    let next_hop = hop.address(packet.routed_by());
    packet.depends_on(Slot::neighbour(hop.port, next_hop));
    packet.limit_len(mtu);
    options.mss.clamp(tables, packet, mtu);
    packet.edit(Edit::DecrementHops);
    packet.edit(Edit::Egress(hop.port));
    match tables.neighbours.get(hop.port, next_hop) {
        Some(destination) => packet.edit(Edit::Ethernet { destination, source: egress.mac }),
        None => {
            counters.unresolved.add(1);
            packet.await_neighbour(next_hop);
        }
    }
    Verdict::Continue
}

/// What becomes of a packet that is larger than the egress MTU and may not be cut: its sender is told what fits (RFC 1191,
/// RFC 8201).
const fn too_big(mtu: u16) -> Verdict {
    reject(DropReason::TooBig, IcmpError::TooBig { mtu })
}

const fn reject(reason: DropReason, error: IcmpError) -> Verdict {
    Verdict::Reject(reason, Answer::Icmp(error))
}
