//! The packet as a function sees it.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use throughway_flow::{Dependencies, Slot};
use throughway_packet::{Action, Edit, Headers, PortId};

use crate::credit::{Credit, Credits, FunctionTag};
use crate::verdict::{Answer, DropReason, Verdict};

/// How many packets are handled together: enough to hide memory latency, few enough to stay in the first-level cache.
pub const BATCH: usize = 64;

/// Where a packet stands on its way through the chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Still walking.
    Alive,
    /// Ended; the first reason stays. With an answer that goes back to the sender.
    Dropped(DropReason, Option<Answer>),
}

/// One packet on its way through a chain: the bytes as received, and the edits recorded so far.
///
/// The bytes do not change while functions look at the packet: edits are recorded into one action, which is executed at the
/// end of the chain. [`Packet::headers`] shows the packet as edited so far, [`Packet::bytes`] and [`Packet::received`] as
/// it came in.
#[derive(Debug)]
pub struct Packet<'a> {
    bytes: &'a [u8],
    received: Headers,
    view: Headers,
    action: Action,
    unresolved: Option<IpAddr>,
    via: Option<IpAddr>,
    dependencies: Dependencies,
    credits: Credits,
    judge: FunctionTag,
    limit: u16,
    silence: u64,
    repeatable: bool,
    state: State,
}

impl<'a> Packet<'a> {
    /// A packet at the start of its chain. `headers` must come from parsing `bytes`.
    pub fn new(bytes: &'a [u8], headers: Headers) -> Self {
        Packet {
            bytes,
            received: headers,
            view: headers,
            action: Action::nothing(),
            unresolved: None,
            via: None,
            dependencies: Dependencies::NONE,
            credits: Credits::default(),
            judge: FunctionTag::default(),
            limit: u16::MAX,
            silence: u64::MAX,
            repeatable: true,
            state: State::Alive,
        }
    }

    /// The frame as received.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The headers as received.
    pub fn received(&self) -> &Headers {
        &self.received
    }

    /// The headers as edited so far: what the rest of the world would see if the packet left now.
    pub fn headers(&self) -> &Headers {
        &self.view
    }

    /// The port it came in on.
    pub fn ingress(&self) -> PortId {
        self.received.ingress()
    }

    /// The port it will leave by, once a function has decided.
    pub fn egress(&self) -> Option<PortId> {
        self.action.has(throughway_packet::edits::EGRESS).then_some(PortId(self.action.egress))
    }

    /// Records an edit.
    pub fn edit(&mut self, edit: Edit) {
        edit.record(&mut self.view, &mut self.action);
    }

    /// Says that the packet leaves by its egress port to `next_hop`, whose MAC address is not known yet: the worker holds
    /// it until the kernel has resolved the neighbour.
    pub fn await_neighbour(&mut self, next_hop: IpAddr) {
        self.unresolved = Some(next_hop);
    }

    /// The next hop to be resolved before the packet can leave.
    pub fn awaited_neighbour(&self) -> Option<IpAddr> {
        self.unresolved
    }

    /// Asks the router to send the packet to the host `via`, whatever its destination address says: direct server return.
    pub fn direct_to(&mut self, via: IpAddr) {
        self.via = Some(via);
    }

    /// What the router looks up: the destination address, or the host that a function has named instead.
    pub fn routed_by(&self) -> IpAddr {
        self.via.unwrap_or_else(|| self.view.destination())
    }

    /// Says that the answer was made from what `slot` stands for (a route, a neighbour, a session): when that changes, later
    /// packets of the flow are judged again. Everything depends on the configuration anyway.
    pub fn depends_on(&mut self, slot: Slot) {
        self.dependencies.add(slot);
    }

    /// What the answer was made from.
    pub fn dependencies(&self) -> Dependencies {
        self.dependencies
    }

    /// Says that the answer holds for IP packets of up to `len` bytes only, such as the MTU of the egress: longer ones of the
    /// flow are judged by themselves.
    pub fn limit_len(&mut self, len: u16) {
        self.limit = self.limit.min(len);
    }

    /// The longest IP packet for which the answer holds, in bytes.
    pub fn limit(&self) -> u16 {
        self.limit
    }

    /// Says that the answer holds while the flow is not silent for longer than `silence` (ns): after that its next packet is
    /// judged again. For answers that live as long as a session does; see [`crate::credit`] for the rule.
    pub fn limit_silence(&mut self, silence: u64) {
        self.silence = self.silence.min(silence);
    }

    /// How long the flow may be silent for the answer to hold, in nanoseconds.
    pub fn silence(&self) -> u64 {
        self.silence
    }

    /// Says that the answer is for this packet alone: every packet of the flow is to be judged by itself (rate limits,
    /// half-open sessions, answers that depend on what a flow key does not say).
    pub fn judge_each(&mut self) {
        self.repeatable = false;
    }

    /// Whether the answer may be given to later packets of the flow.
    pub fn is_repeatable(&self) -> bool {
        self.repeatable
    }

    /// Asks that what the flow cache sees of the flow be told to this function: [`Function::settle`](crate::Function::settle)
    /// will be called with `id`, 56 bits that mean something to the function (a session, a rule, a backend).
    ///
    /// Room for [`Credits::MOST`]; with one more the answer is not repeatable, so that nothing goes uncounted.
    pub fn credit(&mut self, id: u64) {
        if !self.credits.add(Credit::new(self.judge, id)) {
            self.judge_each();
        }
    }

    /// Who is to be told of the flow's packets.
    pub fn credits(&self) -> Credits {
        self.credits
    }

    /// Counts a function that is about to judge the packet.
    pub fn pass_on(&mut self, judge: FunctionTag) {
        self.judge = judge;
        self.action.judged = self.action.judged.saturating_add(1);
    }

    /// Everything recorded so far, as one action.
    pub fn action(&self) -> &Action {
        &self.action
    }

    /// Where the packet stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// Puts a verdict into effect. The first drop reason stays.
    pub fn settle(&mut self, verdict: Verdict) {
        if self.state == State::Alive {
            match verdict {
                Verdict::Continue => {}
                Verdict::Drop(reason) => self.state = State::Dropped(reason, None),
                Verdict::Reject(reason, answer) => self.state = State::Dropped(reason, Some(answer)),
            }
        }
    }
}

/// Up to [`BATCH`] packets that walk a chain together.
#[derive(Debug, Default)]
pub struct Batch<'a> {
    packets: ArrayVec<Packet<'a>, BATCH>,
}

impl<'a> Batch<'a> {
    /// An empty batch.
    pub fn new() -> Self {
        Batch { packets: ArrayVec::new() }
    }

    /// Adds a packet; gives it back when the batch is full.
    #[expect(
        clippy::result_large_err,
        reason = "the packet is given back, by value as it came; boxing it would allocate"
    )]
    pub fn push(&mut self, packet: Packet<'a>) -> Result<(), Packet<'a>> {
        self.packets.try_push(packet).map_err(|full| full.element())
    }

    /// The packets that are still walking.
    pub fn living(&mut self) -> impl Iterator<Item = &mut Packet<'a>> {
        self.packets.iter_mut().filter(|packet| packet.state == State::Alive)
    }

    /// All packets, in the order they came in.
    pub fn packets(&self) -> &[Packet<'a>] {
        &self.packets
    }

    /// All packets, in the order they came in.
    pub fn packets_mut(&mut self) -> &mut [Packet<'a>] {
        &mut self.packets
    }
}
