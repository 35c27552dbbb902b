//! The function: one packet's way through the checks, in their order.

use std::net::IpAddr;
use std::sync::Arc;

use throughway_packet::{Edit, Flags, PortId};
use throughway_vnf::counters::Counter;
use throughway_vnf::{
    Answer, Batch, Context, DropReason, Function, IcmpError, Packet, Slot, Snapshot, Verdict,
};

use crate::hash;
use crate::martian::is_martian;
use crate::options::{Options, Urpf};
use crate::originate::Origin;
use crate::route::{NextHops, Route};
use crate::tables::Tables;

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
        forward(&self.tables.read(), &self.options, &self.counters, packet)
    }

    /// As one by one, with the tables read once: all packets of a batch see the same.
    fn process(&mut self, batch: &mut Batch<'_>, _: &Context) {
        let tables = self.tables.read();
        for packet in batch.living() {
            let verdict = forward(&tables, &self.options, &self.counters, packet);
            packet.settle(verdict);
        }
    }
}

/// The order of RFC 1812, section 5.2.1: addresses (where they come from, RFC 3704, if asked for), route, then what is about forwarding only. So a packet without a route
/// is told so whatever its TTL is, as Linux does, and a local one never runs out of hops (section 5.3.1).
fn forward(tables: &Tables, options: &Options, counters: &Counters, packet: &mut Packet<'_>) -> Verdict {
    let headers = packet.headers();
    if is_martian(headers.source()) || is_martian(headers.destination()) {
        return Verdict::Drop(DropReason::MartianAddress);
    }
    if options.urpf != Urpf::Off {
        let (source, ingress) = (headers.source(), headers.ingress());
        counters.lookups.add(1);
        packet.depends_on(Slot::route(source));
        if !options.urpf.admits(tables.fib.lookup(source), ingress) {
            return Verdict::Drop(DropReason::ReversePath);
        }
    }
    let headers = packet.headers();
    counters.lookups.add(1);
    let route = Slot::route(headers.destination());
    packet.depends_on(route);
    let headers = packet.headers();
    let next_hops = match tables.fib.lookup(headers.destination()) {
        Some(Route::Forward(next_hops)) => Some(next_hops),
        Some(Route::NotOurs) => None,
        Some(Route::Local) => return Verdict::Drop(DropReason::LocalDestination),
        Some(Route::Broadcast) => return Verdict::Drop(DropReason::MartianAddress),
        Some(Route::Blackhole) => return Verdict::Drop(DropReason::BlackholeRoute),
        Some(Route::Unreachable) => return reject(DropReason::UnreachableRoute, IcmpError::HostUnreachable),
        Some(Route::Prohibit) => return reject(DropReason::ProhibitRoute, IcmpError::AdminProhibited),
        Some(Route::Throw) | None => {
            counters.misses.add(1);
            return reject(DropReason::NoRoute, IcmpError::NetUnreachable);
        }
    };
    if headers.hop_limit <= 1 {
        return reject(DropReason::HopLimitExceeded, IcmpError::HopLimitExceeded);
    }
    match next_hops {
        Some(next_hops) => send(tables, options, counters, packet, next_hops),
        None => Verdict::Drop(DropReason::EgressNotOurs),
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
            return reject(DropReason::TooBig, IcmpError::TooBig { mtu });
        }
        // IPv4 without DF (RFC 1812, section 5.2.6).
        packet.fragment_to(mtu);
    }
    let headers = packet.headers();

    let next_hop = hop.address(headers.destination());
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

const fn reject(reason: DropReason, error: IcmpError) -> Verdict {
    Verdict::Reject(reason, Answer::Icmp(error))
}
