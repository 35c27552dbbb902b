//! The packet as a function sees it.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use throughway_flow::{Dependencies, Slot};
use throughway_packet::{Action, Edit, Encapsulation, Extra, Headers, ParseError, PortId, Rewrite, tunnel};

use crate::credit::{Credit, Credits, FunctionTag};
use crate::verdict::{Answer, DropReason, IcmpError, Verdict};

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
    rewrite: Rewrite,
    extra: Extra,
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
            rewrite: Rewrite::nothing(),
            extra: Extra::default(),
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
        let action = &self.rewrite.action;
        action.has(throughway_packet::edits::EGRESS).then_some(PortId(action.egress))
    }

    /// Records an edit. Once the packet is in a tunnel, edits are for the outer header.
    pub fn edit(&mut self, edit: Edit) {
        edit.record_all(&mut self.view, &mut self.rewrite);
    }

    /// Puts the packet into a tunnel: [`Packet::headers`] shows the outer header from now on. Whoever forwards takes one off
    /// the hop limit before (RFC 2003, section 3.1).
    ///
    /// Returns `false`, and records nothing, when it is in a tunnel already, or the addresses do not go together.
    #[must_use]
    pub fn encapsulate(&mut self, encapsulation: &Encapsulation) -> bool {
        encapsulation.record(&mut self.view, &mut self.rewrite)
    }

    /// Takes the packet out of the tunnel that it came in by (IP in IP): [`Packet::headers`] shows it from now on; what was
    /// recorded of the outer header is forgotten.
    ///
    /// # Errors
    ///
    /// Why there is no packet to be taken out; nothing is recorded then.
    pub fn decapsulate(&mut self) -> Result<(), ParseError> {
        tunnel::decapsulate(self.bytes, &self.received, &mut self.view, &mut self.rewrite)
    }

    /// Has the maximum segment size that a TCP SYN announces lowered to `mss` bytes where it is larger (RFC 9293, section
    /// 3.7.1); of all other packets nothing is changed. The smallest of several wins.
    pub fn clamp_mss(&mut self, mss: u16) {
        self.extra.clamp_mss(mss);
    }

    /// Has the packet cut into fragments for a link of `mtu` bytes, when it leaves (IPv4 without DF only; RFC 1812, section
    /// 5.2.6). The answer then holds for packets of up to that length.
    pub fn fragment_to(&mut self, mtu: u16) {
        self.limit_len(mtu);
        self.extra.fragment_to(mtu);
    }

    /// The packet that an ICMP error is about, as edited so far; `None` when this is no error or what it embeds cannot be read.
    /// Its source is the host that gets the error; see [`throughway_packet::embedded`] for what is known of it.
    pub fn embedded(&self) -> Option<Headers> {
        self.extra.embedded(self.bytes, &self.received)
    }

    /// Records an edit of the packet that an ICMP error is about: its addresses and ports. Every checksum follows, that of the
    /// error too.
    pub fn edit_embedded(&mut self, edit: Edit) {
        self.extra.edit_embedded(self.bytes, &self.received, edit);
    }

    /// Turns an echo request back as the reply to it, from the address that was asked. How it gets there is for the router.
    pub fn answer_echo(&mut self) {
        let (source, destination) = (self.view.source(), self.view.destination());
        self.edit(Edit::Source(destination));
        self.edit(Edit::Destination(source));
        self.extra.answer_echo();
    }

    /// What is done to this packet alone, beside the edits.
    pub fn extra(&self) -> &Extra {
        &self.extra
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

    /// Says that the answer holds for IP packets that are up to `len` bytes long as edited so far (a tunnel counts), such as
    /// the MTU of the egress: longer ones of the flow are judged by themselves.
    pub fn limit_len(&mut self, len: u16) {
        // What a tunnel adds takes from what the packet may bring; what is taken off it does not.
        self.limit = self.limit.min(len.saturating_sub(self.added()));
    }

    /// The longest IP packet for which the answer holds, in bytes as received.
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
        let action = &mut self.rewrite.action;
        action.judged = action.judged.saturating_add(1);
    }

    /// Everything recorded so far, as one action; what encapsulates needs the tunnel too: [`Packet::rewrite`].
    pub fn action(&self) -> &Action {
        &self.rewrite.action
    }

    /// Everything recorded so far, as one action with its tunnel.
    pub fn rewrite(&self) -> &Rewrite {
        &self.rewrite
    }

    /// Where the packet stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// How much longer the packet is than it was received, in bytes.
    fn added(&self) -> u16 {
        self.view.packet_len().saturating_sub(self.received.packet_len())
    }

    /// Puts a verdict into effect. The first drop reason stays. The sender of a packet that a tunnel makes too big is told
    /// what it may send (RFC 2003, section 5.1).
    pub fn settle(&mut self, verdict: Verdict) {
        if self.state == State::Alive {
            match verdict {
                Verdict::Continue => {}
                Verdict::Drop(reason) => self.state = State::Dropped(reason, None),
                Verdict::Reject(reason, Answer::Icmp(IcmpError::TooBig { mtu })) => {
                    let mtu = mtu.saturating_sub(self.added());
                    self.state = State::Dropped(reason, Some(Answer::Icmp(IcmpError::TooBig { mtu })));
                }
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
