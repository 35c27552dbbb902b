//! Packets of flows that are known: one lookup, one rewrite, however long the chain is.
//!
//! The first packet of a flow walks the chain, and what the chain did is recorded as one action ([`Engine::record`]). Later
//! packets get that action executed at once ([`Engine::known`]). An entry that was made from something that changed is not
//! used: the packet walks the chain, and the entry is made anew.

use throughway_flow::{Credits, FlowCache, NewFlow, Probe, Round, cacheable};
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

/// Packets and their bytes.
type Volume = (u64, u64);

impl<I: PacketIo> Engine<I> {
    /// Executes what is known of the received packets' flows. What is not known is left in `unknown`, in order. Returns how
    /// many bytes all of them have.
    pub(super) fn known(&mut self, port: PortId, chain: Option<usize>, round: &Round<'_>) -> u64 {
        let Some(flows) = &mut self.flows else { return 0 };
        let mut bytes = 0;
        // The kernel has written them, on another core as a rule: their lines are asked for side by side before the first is waited for.
        let touched = self.received.iter().filter_map(|frame| frame.bytes().first());
        std::hint::black_box(touched.fold(0, |all, byte| all ^ byte));
        for (frame, probe) in self.received.iter().zip(self.probes.iter_mut()) {
            let frame = frame.bytes();
            bytes += frame.len() as u64;
            flows.read(frame, port, probe);
        }
        let count = self.received.len().min(BATCH);
        flows.fetch(self.probes.get_mut(..count).unwrap_or_default());
        if self.taps.trace() {
            self.taps.unread(self.probes.get_mut(..count).unwrap_or_default(), flows, self.now);
        }

        // Packets are edited where they lie. Nearly always all of them leave by one port, and then they go there together.
        let mut fates = [Fate::Walk; BATCH];
        let mut together = None;
        // Who looks on has to be told of each.
        let looked_at = self.taps.is_open();
        let mut divided = looked_at;
        let mut judged = [0u32; DEEPEST + 1];
        // Nearly all are known and sent: what is not is counted.
        let (mut walked, mut ended, mut failed) = (Volume::default(), Volume::default(), 0);
        let mut grown = 0u64;
        for ((frame, probe), fate) in self.received.iter_mut().zip(self.probes.iter()).zip(&mut fates) {
            let bytes = frame.bytes_mut();
            let len = bytes.len() as u64;
            let plan = if probe.is_readable() { flows.execute(probe, round, bytes) } else { None };
            let Some(plan) = plan else {
                divided = true;
                walked = (walked.0 + 1, walked.1 + len);
                continue;
            };
            if let Some(count) = judged.get_mut(usize::from(plan.judged()).min(DEEPEST)) {
                *count += 1;
            }
            let egress = PortId(plan.egress());
            if let Some(reason) = plan.drop() {
                *fate = Fate::Drop(
                    DropReason::ALL.get(usize::from(reason)).copied().unwrap_or(DropReason::NoEgress),
                );
                if looked_at {
                    self.taps.is_dropped_by(plan.judged());
                }
                divided = true;
                ended = (ended.0 + 1, ended.1 + len);
                continue;
            }
            if plan.moves_front() {
                match reshape(flows, probe, port, frame) {
                    Ok(()) => grown = grown.wrapping_add(frame.bytes().len() as u64).wrapping_sub(len),
                    Err(reason) => {
                        *fate = Fate::Drop(reason);
                        if looked_at {
                            self.taps.is_dropped_by(0);
                        }
                        divided = true;
                        ended = (ended.0 + 1, ended.1 + len);
                        failed += 1;
                        continue;
                    }
                }
            }
            *fate = Fate::Send(egress);
            divided |= *together.get_or_insert(egress) != egress;
        }
        let entered = (count as u64 - walked.0, bytes - walked.1);
        let left = (entered.0 - ended.0, (entered.1 - ended.1).wrapping_add(grown));
        self.credit(chain, &judged, entered, left, failed);
        match together {
            Some(egress) if !divided && self.send_together(egress) => {}
            _ => self.divide(port, chain, &fates),
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
    fn divide(&mut self, port: PortId, chain: Option<usize>, fates: &[Fate; BATCH]) {
        let mut received = std::mem::take(&mut self.received);
        let mut ended = 0;
        for (place, (frame, fate)) in received.drain(..).zip(fates).enumerate() {
            self.taps.begin(place);
            match *fate {
                Fate::Send(egress) if self.unknown.is_empty() => self.enqueue(frame, port, egress),
                Fate::Send(egress) => self.behind.push((self.unknown.len(), frame, egress, place as u8)),
                Fate::Drop(reason) => {
                    if self.taps.is_looking() {
                        let judged = self.taps.judged(ended);
                        ended += 1;
                        let why = (reason, self.program.last_of(chain, judged));
                        self.taps.known_dropped(frame.bytes(), port, why, self.now);
                    }
                    self.end(frame, port, reason);
                }
                Fate::Walk => {
                    if self.taps.is_open() {
                        self.taps.is_unknown(place);
                    }
                    self.unknown.push(frame);
                }
            }
        }
        self.taps.done();
        self.received = received;
    }

    /// Credits chain and functions with packets that were not walked through them; `failed` are those that all functions let
    /// pass, but for which there was no room for what goes before them.
    fn credit(
        &self,
        chain: Option<usize>,
        judged: &[u32; DEEPEST + 1],
        entered: Volume,
        left: Volume,
        failed: u64,
    ) {
        let Some(chain) = chain.and_then(|chain| self.program.chains.get(chain)).filter(|_| entered.0 > 0)
        else {
            return;
        };
        chain.stats.entered.add(entered.0, entered.1);
        chain.stats.left.add(left.0, left.1);
        let mut reached = entered.0 - u64::from(judged[0]);
        for (depth, &function) in chain.run.iter().enumerate() {
            if reached == 0 {
                break;
            }
            if let Some(function) = self.program.functions.get(function) {
                function.stats.packets.add(reached);
            }
            // Those whose last function this was; of forwarded packets it was the last of the chain.
            let ended = u64::from(judged.get(depth + 1).copied().unwrap_or(0));
            if let Some(function) = self.program.functions.get(function) {
                let forwarded = if depth + 1 == chain.run.len() { left.0 + failed } else { 0 };
                function.stats.dropped.add(ended.saturating_sub(forwarded));
            }
            reached -= ended;
        }
    }

    /// Records what the chain did, if later packets of the flow may have it done again.
    pub(super) fn record(&mut self, outcome: &Outcome, round: &Round<'_>) {
        let Some(flows) = &mut self.flows else { return };
        if !cacheable(&outcome.headers) {
            return;
        }
        let recorded = &outcome.rewrite.action;
        // What is in a tunnel is of many flows.
        if !outcome.repeatable
            || outcome.silence < SHORTEST_SILENCE
            || recorded.edits & (edits::DECAPSULATE | edits::TOO_DEEP) != 0
        {
            self.singles.note(&outcome.headers, &outcome.end, recorded, self.now);
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
            End::Drop(..) => {
                self.singles.note(&outcome.headers, &outcome.end, recorded, self.now);
                return;
            }
            End::AwaitNeighbour(_) => return,
        };
        let new = NewFlow {
            action: &action,
            tunnel: Some(&outcome.rewrite.tunnel),
            dependencies: outcome.dependencies,
            credits: Credits(outcome.credits.0.map(|credit| credit.0)),
            limit,
            silence: outcome.silence,
        };
        let program = &mut self.program;
        flows.install(&Probe::of(&outcome.headers), &new, round, |settled| super::tell(program, &settled));
        self.singles.forget(&outcome.headers.key);
    }
}

/// Executes what moves the front of a frame: tags and outer headers that come and go. The whole parser is asked, as an outer
/// header says much of what is in the packet.
#[inline(never)]
fn reshape<F: Frame>(
    flows: &mut FlowCache,
    probe: &Probe,
    port: PortId,
    frame: &mut F,
) -> Result<(), DropReason> {
    let rewrite = flows.rewrite(probe).ok_or(DropReason::NoEgress)?;
    let headers = throughway_packet::parse(frame.bytes(), port)?;
    throughway_packet::execute(rewrite, &headers, frame)?;
    Ok(())
}
