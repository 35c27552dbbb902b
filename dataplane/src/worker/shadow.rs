//! What a worker remembers of each flow that the XDP program executes, and how that counts.

use throughway_flow::absorb::{Absorbed, Candidate};
use throughway_flow::{Credits, Settled};
use throughway_packet::{FlowKey, PortId, Rewrite, edits};
use throughway_shared::action::VLAN_MASK;
use throughway_shared::flow::FAMILY_IPV4;
use throughway_shared::tunnel::kind;
use throughway_vnf::DropReason;
use throughway_xdp::FastCount;

use super::offload::Beside;

/// What is known of a flow that the program executes, by the number of its place: one cache line.
#[repr(align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shadow {
    /// What was taken over so far.
    packets: u64,
    bytes: u64,
    /// Of these, bytes and packets that functions and cache were not told of yet. They are told before so many packets can come.
    untold_bytes: u64,
    untold_packets: u32,
    /// Since when it is there, in units of 2^[`SINCE`] ns; wraps around.
    since: u32,
    credits: Credits,
    pub(super) way: Way,
}

const _: () = assert!(size_of::<Shadow>() == 64);

/// Binary digits of a nanosecond count that [`Shadow::since`] leaves out.
const SINCE: u32 = 20;

/// What statistics need to know of a flow: the same for many.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Way {
    ingress: u16,
    egress: u16,
    /// The drop reason and one; zero: it is forwarded.
    drop: u8,
    judged: u8,
    /// Bytes before the packet, as it comes and as it leaves.
    head: (u8, u8),
}

/// Packets of flows side by side that go the same way: added to the statistics together.
#[derive(Debug, Default)]
pub(super) struct Volume {
    pub(super) way: Way,
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

impl Shadow {
    /// A flow that is handed over at `now` (ns).
    pub(super) fn new(flow: &Candidate, now: u64) -> Self {
        let action = &flow.rewrite.action;
        let way = Way {
            ingress: flow.key.ingress,
            egress: action.egress,
            drop: if action.has(edits::DROP) { action.drop.saturating_add(1) } else { 0 },
            judged: action.judged,
            head: heads(&flow.key, &flow.rewrite),
        };
        Shadow { credits: flow.credits, since: (now >> SINCE) as u32, way, ..Shadow::default() }
    }

    /// Takes over what was counted since the last time.
    pub(super) fn take_over(&mut self, count: &FastCount) -> Absorbed {
        let new = Absorbed {
            packets: count.packets.saturating_sub(self.packets),
            bytes: count.bytes.saturating_sub(self.bytes),
            last: count.last,
        };
        if new.packets > 0 {
            (self.packets, self.bytes) = (count.packets, count.bytes);
            self.untold_packets =
                self.untold_packets.saturating_add(u32::try_from(new.packets).unwrap_or(u32::MAX));
            self.untold_bytes += new.bytes;
        }
        new
    }

    /// What functions and cache were not told of yet, if there is anything: they are told now. The last packet came at `last`.
    pub(super) fn figures(&mut self, last: u64) -> Option<Settled> {
        let untold = (self.untold_packets > 0).then(|| self.settled(last));
        (self.untold_packets, self.untold_bytes) = (0, 0);
        untold
    }

    /// Whether there is something that functions and cache were not told of yet.
    pub(super) fn has_untold(&self) -> bool {
        self.untold_packets > 0
    }

    pub(super) fn settled(&self, last: u64) -> Settled {
        let (packets, bytes) = (u64::from(self.untold_packets), self.untold_bytes);
        Settled { key: FlowKey::default(), credits: self.credits, packets, bytes, last }
    }

    /// For how long it has been there at `now`, both ns.
    pub(super) fn age(&self, now: u64) -> u64 {
        u64::from(((now >> SINCE) as u32).wrapping_sub(self.since)) << SINCE
    }
}

impl Volume {
    /// Adds what was counted of a flow; what went another way before is counted.
    pub(super) fn add(&mut self, way: Way, new: &Absorbed, beside: &Beside<'_>) {
        if new.packets == 0 {
            return;
        }
        if way != self.way {
            self.count(beside);
            *self = Volume { way, ..Volume::default() };
        }
        self.packets += new.packets;
        self.bytes += new.bytes;
    }

    /// Adds to the statistics what they would have counted had the packets come through the worker.
    pub(super) fn count(&self, beside: &Beside<'_>) {
        if self.packets == 0 {
            return;
        }
        let Beside { program, stats, .. } = beside;
        // Of short frames the padding is not counted.
        let Volume { way, packets, bytes } = *self;
        let left = bytes + u64::from(way.head.1) * packets;
        let bytes = bytes + u64::from(way.head.0) * packets;
        let ingress = PortId(way.ingress);
        if let Some(port) = stats.ports.get(ingress.index()) {
            port.received.add(packets, bytes);
        }
        stats.fast.packets.add(packets);
        stats.fast.bytes.add(bytes);
        let forwarded = way.drop == 0;
        if forwarded {
            if let Some(port) = stats.ports.get(usize::from(way.egress)) {
                port.sent.add(packets, left);
            }
        } else {
            let reason = DropReason::ALL.get(usize::from(way.drop) - 1).copied();
            stats.dropped_many(ingress, reason.unwrap_or(DropReason::NoEgress), packets);
        }
        let Some(chain) = program.chain_of(ingress).and_then(|chain| program.chains.get(chain)) else {
            return;
        };
        chain.stats.entered.add(packets, bytes);
        if forwarded {
            chain.stats.left.add(packets, left);
        }
        let judged = usize::from(way.judged);
        for (depth, &function) in chain.run.iter().enumerate().take(judged) {
            if let Some(function) = program.functions.get(function) {
                function.stats.packets.add(packets);
                if !forwarded && depth + 1 == judged {
                    function.stats.dropped.add(packets);
                }
            }
        }
    }
}

/// Bytes before the packets of a flow, as they come and as they leave: Ethernet header, tags, outer headers.
fn heads(key: &FlowKey, Rewrite { action, tunnel }: &Rewrite) -> (u8, u8) {
    let tags = |outer: u16, inner: u16| 4 * (u8::from(outer != 0) + u8::from(outer != 0 && inner != 0));
    let before = 14 + tags(key.outer_vlan, key.inner_vlan);
    let behind = if action.has(edits::TAGS) {
        14 + tags(action.outer_tag & VLAN_MASK, action.inner_tag & VLAN_MASK)
    } else {
        before
    };
    let outer = match (action.has(edits::ENCAPSULATE), tunnel.family) {
        (false, _) => 0,
        (true, FAMILY_IPV4) => 20,
        (true, _) => 40,
    };
    (before, behind + outer + if outer > 0 && tunnel.kind == kind::GUE { 8 } else { 0 })
}
