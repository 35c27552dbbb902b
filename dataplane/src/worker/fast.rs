//! Packets of flows that are known: one lookup, one rewrite, however long the chain is.
//!
//! The first packet of a flow walks the chain, and what the chain did is recorded as one action ([`Engine::record`]). Later
//! packets get that action executed at once ([`Engine::known`]). An entry that was made from something that changed is not
//! used: the packet walks the chain, and the entry is made anew.

use arrayvec::ArrayVec;
use throughway_flow::{Credits, NewFlow, Probe, Round, cacheable};
use throughway_io::{Frame, PacketIo};
use throughway_packet::{Action, PortId, edits};
use throughway_vnf::credit::SHORTEST_SILENCE;
use throughway_vnf::{BATCH, DropReason};

use super::{End, Engine, Outcome, transmit};

/// Functions in a chain that are told apart when hits are credited; the rest of a longer chain is credited as one.
const DEEPEST: usize = 32;

/// What becomes of a packet after the flow cache was asked.
#[derive(Clone, Copy)]
enum Fate {
    /// It is edited and leaves by this port.
    Send(PortId),
    /// It ends.
    Drop(DropReason),
    /// It walks the chain.
    Walk,
}

impl<I: PacketIo> Engine<I> {
    /// Executes what is known of the received packets' flows. What is not known is left in `unknown`, in order. Returns how
    /// many bytes all of them have.
    pub(super) fn known(&mut self, port: PortId, chain: Option<usize>, round: &Round<'_>) -> u64 {
        let Some(flows) = &mut self.flows else { return 0 };
        let mut probes: ArrayVec<Probe, BATCH> = ArrayVec::new();
        let mut readable: u64 = 0;
        let mut bytes = 0;
        for (index, frame) in self.received.iter().enumerate().take(BATCH) {
            let frame = frame.bytes();
            bytes += frame.len() as u64;
            if let Some(probe) = flows.peek(frame, port) {
                readable |= 1 << index;
                probes.push(probe);
            }
        }
        flows.fetch(&mut probes);

        // Packets are edited where they lie. Nearly always all of them leave by one port, and then they go there together.
        let mut probes = probes.iter();
        let mut fates = [Fate::Walk; BATCH];
        let mut together = None;
        let mut divided = false;
        let mut judged = [0u64; DEEPEST + 1];
        let mut entered = (0u64, 0u64);
        let mut left = (0u64, 0u64);
        for (index, (frame, fate)) in self.received.iter_mut().zip(&mut fates).enumerate() {
            let probe = if readable & (1 << index) != 0 { probes.next() } else { None };
            let Some(probe) = probe else {
                divided = true;
                continue;
            };
            let Some(action) = flows.lookup(probe, round) else {
                divided = true;
                continue;
            };
            let frame = frame.bytes_mut();
            let len = frame.len() as u64;
            entered = (entered.0 + 1, entered.1 + len);
            if let Some(count) = judged.get_mut(usize::from(action.judged).min(DEEPEST)) {
                *count += 1;
            }
            if action.has(edits::DROP) {
                let reason = DropReason::ALL.get(usize::from(action.drop)).copied();
                *fate = Fate::Drop(reason.unwrap_or(DropReason::NoEgress));
                divided = true;
                continue;
            }
            probe.apply(action, frame);
            left = (left.0 + 1, left.1 + len);
            let egress = PortId(action.egress);
            *fate = Fate::Send(egress);
            divided |= *together.get_or_insert(egress) != egress;
        }
        self.credit(chain, &judged, entered, left);
        match together {
            Some(egress) if !divided && self.send_together(egress) => {}
            _ => self.divide(port, &fates),
        }
        bytes
    }

    /// Sends all received packets by one port at once, if none wait there; says whether it did.
    fn send_together(&mut self, egress: PortId) -> bool {
        let Some(queue) = self.backlog.get_mut(egress.index()).filter(|queue| queue.is_empty()) else {
            return false;
        };
        transmit(&mut self.io, &self.stats, &self.links, egress, &mut self.received);
        queue.append(&mut self.received);
        true
    }

    /// Sends every received packet its own way. What came in behind a packet that walks its chain waits for that, so that no
    /// packet overtakes another.
    fn divide(&mut self, port: PortId, fates: &[Fate; BATCH]) {
        let mut received = std::mem::take(&mut self.received);
        for (frame, fate) in received.drain(..).zip(fates) {
            match *fate {
                Fate::Send(egress) if self.unknown.is_empty() => self.enqueue(frame, port, egress),
                Fate::Send(egress) => self.behind.push((self.unknown.len(), frame, egress)),
                Fate::Drop(reason) => self.end(frame, port, reason),
                Fate::Walk => self.unknown.push(frame),
            }
        }
        self.received = received;
    }

    /// Credits chain and functions with packets that were not walked through them.
    fn credit(
        &self,
        chain: Option<usize>,
        judged: &[u64; DEEPEST + 1],
        entered: (u64, u64),
        left: (u64, u64),
    ) {
        let Some(chain) = chain.and_then(|chain| self.program.chains.get(chain)).filter(|_| entered.0 > 0)
        else {
            return;
        };
        chain.stats.entered.add(entered.0, entered.1);
        chain.stats.left.add(left.0, left.1);
        let mut reached = entered.0 - judged[0];
        for (depth, &function) in chain.run.iter().enumerate() {
            if reached == 0 {
                break;
            }
            if let Some(function) = self.program.functions.get(function) {
                function.stats.packets.add(reached);
            }
            // Those whose last function this was; of forwarded packets it was the last of the chain.
            let ended = judged.get(depth + 1).copied().unwrap_or(0);
            if let Some(function) = self.program.functions.get(function) {
                let forwarded = if depth + 1 == chain.run.len() { left.0 } else { 0 };
                function.stats.dropped.add(ended.saturating_sub(forwarded));
            }
            reached -= ended;
        }
    }

    /// Records what the chain did, if later packets of the flow may have it done again.
    pub(super) fn record(&mut self, outcome: &Outcome, round: &Round<'_>) {
        let Some(flows) = &mut self.flows else { return };
        let recorded = &outcome.rewrite.action;
        // What moves the front of a frame is executed on the slow way.
        if !outcome.repeatable
            || outcome.silence < SHORTEST_SILENCE
            || !cacheable(&outcome.headers)
            || recorded.edits & edits::FRONT != 0
        {
            return;
        }
        let (action, limit) = match &outcome.end {
            End::Send => (*recorded, outcome.limit),
            // Who is told of a drop is told of each, so only silent ones are remembered; and only those that a function
            // decided, as that is who is credited.
            End::Drop(reason, None) if *reason != DropReason::NoEgress => {
                let judged = recorded.judged;
                (Action { edits: edits::DROP, drop: *reason as u8, judged, ..Action::nothing() }, u16::MAX)
            }
            End::Drop(..) | End::AwaitNeighbour(_) => return,
        };
        let new = NewFlow {
            action: &action,
            dependencies: outcome.dependencies,
            credits: Credits(outcome.credits.0.map(|credit| credit.0)),
            limit,
            silence: outcome.silence,
        };
        let program = &mut self.program;
        flows.install(&Probe::of(&outcome.headers), &new, round, |settled| super::tell(program, &settled));
    }
}
