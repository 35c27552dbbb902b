//! A worker: one pinned thread, its queues of every interface, and the loop receive → parse → chain → send.
//!
//! * [`Worker`]: the loop's state and one round of it, generic over the ports ([`PacketIo`]), so that tests, replay and the
//!   live service run the very same code.
//! * `fast`: packets of flows that are known: one lookup, one rewrite, however long the chain is.
//! * `links`: which interface a frame belongs to, where a device carries VLANs.
//! * [`hold`]: packets that wait for a neighbour.
//! * [`early`]: fragments that wait for the first one of their datagram.
//! * [`inspect`]: looking into the flow cache from outside.
//! * `last`: what is told before a stop.
//! * `walk`: a batch through its chain.
//! * [`uses`]: what packets were sent by, so that neighbours in use are confirmed.
//! * [`answer`]: ICMP errors and TCP resets back to senders.
//! * [`limit`]: how many of them, to whom.
//! * [`own`]: packets that are the host's own.
//! * `fragment`: packets that are cut for their egress.
//! * [`offload`]: flows that the XDP program executes by itself; `shadow`: what is remembered of each; `lap`: when it is visited; `recall`:
//!   which of them somebody wants to look at.
//! * [`tap`]: packets that are written down for somebody who looks on.
//! * `singles`: flows whose packets are judged one by one, for output.
//! * `house`: going through the flow cache, for what functions have to be told.
//! * [`idle`]: what is done without packets.
//! * [`live`]: threads, pinning, AF_XDP sockets, the poll loop.
//! * [`progress`]: whether one that makes no rounds hangs, or has no core.

pub mod answer;
pub mod early;
mod fast;
mod fragment;
pub mod hold;
mod house;
pub mod idle;
pub mod inspect;
mod lap;
mod last;
pub mod limit;
mod links;
pub mod live;
pub mod offload;
pub mod own;
mod pace;
pub mod progress;
mod recall;
mod shadow;
mod singles;
pub mod tap;
pub mod uses;
mod walk;

use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use crossbeam::channel::Sender;
use throughway_config::{Checksum, Config, VlanProtocol};
use throughway_flow::{FlowCache, Generations, Policy, Probe, Round};
use throughway_io::{Frame, PacketIo};
use throughway_packet::{Edit, Extra, Headers, PortId, Rewrite, Tags};
use throughway_vnf::{Answer, BATCH, Context, Credits, Dependencies, DropReason, Now};

use crate::chain::Program;
use crate::stats::WorkerStats;
use early::Waiting;
use hold::{Held, Hold};
use house::tell;
use limit::Limits;
use links::Links;
use offload::{Beside, Load, Offload};
use own::{OwnPacket, ToHost};
use pace::Pace;
use singles::Singles;
use tap::Taps;
use walk::{Visit, walk};

/// A neighbour that somebody must resolve.
pub type Wanted = (PortId, IpAddr);

/// Frames that may wait for a full transmit ring, per port, before they are dropped and counted.
const BACKLOG: usize = 4 * BATCH;

/// How long a packet waits for its neighbour, in nanoseconds: as long as the kernel itself keeps asking (three probes, one
/// second apart).
const NEIGHBOUR_PATIENCE: u64 = 3_000_000_000;

/// How often a neighbour that did not answer yet is asked for again, in nanoseconds.
const ASK_AGAIN: u64 = 1_000_000_000;

/// What the worker must know of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortSettings {
    /// Compute the checksums of received packets anew: the sender leaves them partial (checksum offload of a virtual device).
    pub recompute_checksums: bool,
    /// The number of its device among the ports; `None` for the interface's own number.
    pub device: Option<u16>,
    /// The tags of its frames, where it is a VLAN of its device.
    pub tags: Tags,
}

impl PortSettings {
    /// What `config` says of its interfaces, in their order. Devices are numbered as [`Config::device_numbers`] does.
    pub fn of(config: &Config) -> Vec<PortSettings> {
        let numbered = config.interfaces.iter().zip(config.device_numbers());
        let settings = numbered.map(|(interface, device)| PortSettings {
            recompute_checksums: interface.checksum == Checksum::Recompute,
            device: u16::try_from(device).ok(),
            tags: interface.vlan.as_ref().map_or(Tags::NONE, |vlan| Tags {
                outer: vlan.outer,
                inner: vlan.inner.unwrap_or_default(),
                service: vlan.protocol == VlanProtocol::Dot1ad,
            }),
        });
        settings.collect()
    }
}

/// What became of one packet at the end of its chain.
struct Outcome {
    headers: Headers,
    rewrite: Rewrite,
    extra: Extra,
    dependencies: Dependencies,
    credits: Credits,
    limit: u16,
    silence: u64,
    repeatable: bool,
    end: End,
}

enum End {
    Send,
    AwaitNeighbour(IpAddr),
    Drop(DropReason, Option<Answer>),
}

/// What a worker is made with, beside its ports and its program.
pub struct Setup {
    /// Facts about the interfaces, in their order; without any, every port is an interface.
    pub settings: Vec<PortSettings>,
    /// What it counts.
    pub stats: Arc<WorkerStats>,
    /// Where it asks for neighbours.
    pub wanted: Sender<Wanted>,
    /// How it learns that what it remembers of flows is no longer true.
    pub generations: Arc<Generations>,
    /// How many flows it remembers; with zero every packet walks its chain.
    pub flows: usize,
    /// Makes the flow cache's hash unpredictable. Random in the service, anything in tests.
    pub seed: u128,
}

/// One worker: what its rounds work with, and the generations that they borrow.
pub struct Worker<I: PacketIo> {
    generations: Arc<Generations>,
    engine: Engine<I>,
}

/// All that a round changes.
struct Engine<I: PacketIo> {
    io: I,
    program: Program,
    settings: Vec<PortSettings>,
    links: Links,
    stats: Arc<WorkerStats>,
    wanted: Sender<Wanted>,
    flows: Option<FlowCache>,
    offload: Option<Offload>,
    singles: Singles,
    /// Apart: what every round touches lies closer together.
    taps: Box<Taps>,
    /// What is known of the received packets, in their order.
    probes: Box<[Probe; BATCH]>,
    received: Vec<I::Frame>,
    unknown: Vec<I::Frame>,
    /// Known packets that came in behind so many of the unknown ones, with their egress and their place in the batch.
    behind: Vec<(usize, I::Frame, PortId, u8)>,
    /// By interface: where frames of a device with VLANs are sorted into.
    sorted: Vec<Vec<I::Frame>>,
    backlog: Vec<Vec<I::Frame>>,
    fragments: Vec<I::Frame>,
    hold: Hold<I::Frame>,
    early: Waiting<I::Frame>,
    limits: Limits,
    to_host: ToHost,
    pace: Pace,
    marking: Pace,
    /// When the last round began.
    now: Now,
}

impl<I: PacketIo> Worker<I> {
    /// A worker that runs `program` over `io`.
    pub fn new(io: I, program: Program, setup: Setup) -> Self {
        let Setup { settings, stats, wanted, generations, flows, seed } = setup;
        let links = Links::new(&settings, io.ports());
        let backlog = (0..links.interfaces()).map(|_| Vec::with_capacity(BACKLOG + BATCH)).collect();
        let sorted = (0..links.interfaces()).map(|_| Vec::with_capacity(BATCH)).collect();
        let engine = Engine {
            io,
            program,
            settings,
            links,
            stats,
            wanted,
            flows: (flows > 0).then(|| FlowCache::new(flows, seed, Policy::default())),
            offload: None,
            singles: Singles::default(),
            taps: Box::default(),
            probes: Box::new([Probe::default(); BATCH]),
            received: Vec::with_capacity(BATCH),
            unknown: Vec::with_capacity(BATCH),
            behind: Vec::with_capacity(BATCH),
            sorted,
            backlog,
            fragments: Vec::new(),
            hold: Hold::default(),
            early: Waiting::default(),
            limits: Limits::new(seed),
            to_host: ToHost::default(),
            pace: Pace::of_harvest(),
            marking: Pace::of_marking(),
            now: Now::default(),
        };
        Worker { generations, engine }
    }

    /// With so many frames in all: however many packets wait for something, most are left for those that come.
    pub fn bound(&mut self, frames: usize) {
        self.engine.hold.bound(frames);
        self.engine.early.bound(frames);
    }

    /// From now on the XDP program executes flows that are worth it. Without a flow cache none is.
    pub fn offload(&mut self, offload: Offload) {
        if let Some(flows) = &mut self.engine.flows {
            offload.prepare(flows);
            self.engine.stats.fast.capacity.set(offload.table().capacity() as u64);
            self.engine.offload = Some(offload);
        }
    }

    /// The flows that the XDP program executes, to be looked at.
    pub fn offloaded(&self) -> Option<&Offload> {
        self.engine.offload.as_ref()
    }

    /// Gives the host what is its own.
    #[must_use]
    pub fn giving(mut self, own: Sender<OwnPacket>) -> Self {
        self.engine.to_host.sender = Some(own);
        self
    }

    /// One round: receives up to a batch from every port, runs the chains, sends. Returns how many packets came in.
    pub fn round(&mut self, now: Now) -> usize {
        // Before any table is read: what is recorded in this round is true for this generation.
        let round = Round::new(self.generations.epoch(), now.0);
        self.engine.round(&Context { now }, &round)
    }

    /// Replaces the program at a batch boundary; returns the old one, to be freed elsewhere.
    pub fn install(&mut self, program: Program) -> Program {
        self.engine.stats.installs.add(1);
        let epoch = self.generations.epoch();
        let Engine { offload, flows, program: old, stats, now, .. } = &mut self.engine;
        if let (Some(offload), Some(flows)) = (offload, flows) {
            offload.change(flows, &mut Beside { program: old, stats, now: *now, epoch: &epoch });
        }
        self.engine.early.forget_counted();
        std::mem::replace(&mut self.engine.program, program)
    }

    /// The ports.
    pub fn io(&mut self) -> &mut I {
        &mut self.engine.io
    }

    /// What it counts.
    pub fn stats(&self) -> &Arc<WorkerStats> {
        &self.engine.stats
    }

    /// Copies the flow cache's figures to where others can read them.
    pub fn publish_flows(&self) {
        if let Some(flows) = &self.engine.flows {
            self.engine.stats.flows.publish(flows);
        }
    }

    /// Whether packets are waiting: for a neighbour, for a first fragment or for room in a transmit ring; or flows to be handed over.
    pub fn has_waiting(&self) -> bool {
        !self.engine.hold.is_empty()
            || !self.engine.early.is_empty()
            || self.engine.offload.as_ref().is_some_and(Offload::has_waiting)
            || self.engine.backlog.iter().any(|frames| !frames.is_empty())
    }

    /// Gives back everything that is held: what still waits is dropped and counted.
    pub fn finish(self) -> I {
        let mut engine = self.engine;
        for held in engine.hold.drain() {
            engine.stats.dropped(held.headers.ingress(), DropReason::Shutdown);
            engine.io.release(held.frame);
        }
        for (frame, port) in engine.early.drain() {
            engine.stats.dropped(port, DropReason::Shutdown);
            engine.io.release(frame);
        }
        engine.stats.held.set(0);
        engine.stats.held_fragments.set(0);
        engine.send();
        for (port, frames) in engine.backlog.iter_mut().enumerate() {
            for frame in frames.drain(..) {
                engine.stats.dropped(PortId(port as u16), DropReason::Shutdown);
                engine.io.release(frame);
            }
        }
        engine.stats.outstanding.set(engine.io.outstanding() as u64);
        engine.io
    }
}

impl<I: PacketIo> Engine<I> {
    fn round(&mut self, context: &Context, round: &Round<'_>) -> usize {
        self.now = context.now;
        // What waited longest goes first.
        self.release_held(context);
        self.release_ripe(context);
        // Functions are told of what the cache saw before they judge on.
        self.keep_house(context.now);
        let mut total = 0;
        let mut busy = 0u64;
        for device in 0..self.io.ports() {
            let device = PortId(device as u16);
            let count = self.io.receive(device, BATCH, &mut self.received);
            busy |= u64::from(count > 0).checked_shl(device.0.into()).unwrap_or(0);
            if count > 0 {
                total += count;
                match self.links.whole(device) {
                    Some(port) => self.batch(port, context, round),
                    None => self.sort(device, context, round),
                }
            }
        }
        self.program.tick(context);
        self.send();
        if let (Some(offload), Some(flows)) = (&mut self.offload, &mut self.flows) {
            let (program, stats, links) = (&mut self.program, &*self.stats, &self.links);
            let mut beside = Beside { program, stats, now: context.now, epoch: round.epoch() };
            // What did not fit into a transmit ring would be overtaken as well.
            let any = total > 0 || self.backlog.iter().any(|frames| !frames.is_empty());
            offload.round(flows, &mut beside, Load { any, devices: busy }, |port| links.device(port));
        }
        self.stats.rounds.add(1);
        if total == 0 {
            self.stats.idle_rounds.add(1);
        }
        total
    }

    /// Sorts the received frames of a device with VLANs by interface, and goes on with those of one after the other.
    fn sort(&mut self, device: PortId, context: &Context, round: &Round<'_>) {
        let mut received = std::mem::take(&mut self.received);
        for frame in received.drain(..) {
            let port = self.links.interface_of(device, frame.bytes());
            match port.and_then(|port| self.sorted.get_mut(port.index())) {
                Some(sorted) => sorted.push(frame),
                None => {
                    let first = self.links.first(device);
                    self.stats.received(first, 1, frame.bytes().len() as u64);
                    self.taps.look_at_one(frame.bytes(), first, context.now);
                    self.end(frame, first, DropReason::UnclaimedVlan);
                    self.taps.done();
                }
            }
        }
        self.received = received;
        for port in 0..self.sorted.len() {
            if let Some(sorted) = self.sorted.get_mut(port).filter(|sorted| !sorted.is_empty()) {
                std::mem::swap(&mut self.received, sorted);
                self.batch(PortId(port as u16), context, round);
            }
        }
    }

    fn batch(&mut self, port: PortId, context: &Context, round: &Round<'_>) {
        let packets = self.received.len();
        if self.settings.get(port.index()).is_some_and(|settings| settings.recompute_checksums) {
            for frame in &mut self.received {
                if let Ok(headers) = throughway_packet::parse(frame.bytes(), port) {
                    throughway_packet::apply::recompute_checksums(&headers, frame.bytes_mut());
                }
            }
        }
        if self.taps.is_open() {
            self.taps.look(&self.received, port, context.now);
        }
        let chain = self.program.chain_of(port);
        if self.flows.is_some() && chain.is_some() {
            let bytes = self.known(port, chain, round);
            self.stats.received(port, packets, bytes);
        } else {
            let bytes = self.received.iter().map(|frame| frame.bytes().len() as u64).sum();
            self.stats.received(port, packets, bytes);
            std::mem::swap(&mut self.received, &mut self.unknown);
            self.taps.all_are_unknown();
        }
        if !self.unknown.is_empty() {
            self.unknown(port, chain, context, round);
        }
    }

    /// Packets of flows that are not known, and those that have to be looked at by themselves: parse, walk the chain, record.
    fn unknown(&mut self, port: PortId, chain: Option<usize>, context: &Context, round: &Round<'_>) {
        let mut frames = std::mem::take(&mut self.unknown);
        let parsed: ArrayVec<Result<Headers, DropReason>, BATCH> = frames
            .iter()
            .map(|frame| throughway_packet::parse(frame.bytes(), port).map_err(DropReason::from))
            .collect();
        let mut outcomes = self.walk_first(chain, &frames, &parsed, context);
        // They are large: drained where they lie, not moved.
        let mut outcomes = outcomes.drain(..);
        let mut behind = std::mem::take(&mut self.behind);
        let mut waiting = behind.drain(..).peekable();
        for (number, (frame, headers)) in frames.drain(..).zip(parsed).enumerate() {
            while let Some((_, frame, egress, place)) = waiting.next_if(|(after, ..)| *after <= number) {
                self.taps.begin(place.into());
                self.enqueue(frame, port, egress);
            }
            self.taps.begin_unknown(number);
            match headers {
                Err(reason) => self.end(frame, port, reason),
                Ok(_) => match outcomes.next() {
                    Some(outcome) => {
                        self.stats.uses.mark(&outcome.dependencies);
                        self.record(&outcome, round);
                        self.first_came(&frame, &outcome.headers);
                        self.conclude(frame, chain, outcome, context);
                    }
                    None => self.end(frame, port, DropReason::NoChain),
                },
            }
        }
        for (_, frame, egress, place) in waiting {
            self.taps.begin(place.into());
            self.enqueue(frame, port, egress);
        }
        self.taps.done();
        self.behind = behind;
        self.unknown = frames;
        self.release_woken(context);
    }

    fn conclude(&mut self, frame: I::Frame, chain: Option<usize>, outcome: Outcome, context: &Context) {
        let Outcome { headers, rewrite, extra, end, .. } = outcome;
        match end {
            End::Send => self.execute(frame, chain, &headers, &rewrite, &extra),
            End::AwaitNeighbour(next_hop) => {
                let forwarded = chain.is_some();
                let since = context.now;
                let packet = self.taps.may_wait(&headers, &rewrite);
                let held = Held { frame, headers, rewrite, extra, forwarded, next_hop, since, packet };
                self.hold_back(held, context);
            }
            End::Drop(DropReason::LocalDestination, _)
                if self.give_to_host(&frame, &headers, context.now) =>
            {
                self.taps.given(frame.bytes(), headers.ingress(), context.now);
                self.io.release(frame);
            }
            End::Drop(DropReason::FragmentBeforeFirst, _) => {
                self.await_first(frame, &headers, rewrite.action.judged, context.now);
            }
            End::Drop(reason, answer) => {
                if self.taps.is_looking() {
                    let by = self.program.last_of(chain, rewrite.action.judged);
                    let by = by.filter(|_| reason != DropReason::NoEgress);
                    self.taps.dropped_by(frame.bytes(), &headers, &rewrite, reason, by, context.now);
                }
                if let (Some(answer), Some(chain)) = (answer, chain) {
                    self.answer(&frame, chain, &headers, answer, context);
                }
                self.end(frame, headers.ingress(), reason);
            }
        }
    }

    fn execute(
        &mut self,
        mut frame: I::Frame,
        chain: Option<usize>,
        headers: &Headers,
        rewrite: &Rewrite,
        extra: &Extra,
    ) {
        if !extra.is_nothing() {
            extra.execute(headers, frame.bytes_mut());
        }
        if let Err(error) = throughway_packet::execute(rewrite, headers, &mut frame) {
            if self.taps.is_looking() {
                self.taps.edited_by(headers, rewrite);
            }
            return self.end(frame, headers.ingress(), error.into());
        }
        let egress = PortId(rewrite.action.egress);
        if let Some(mtu) = extra.fragments_of() {
            return self.send_fragments(frame, chain, headers.ingress(), egress, mtu);
        }
        if let Some(chain) = chain.and_then(|chain| self.program.chains.get(chain)) {
            chain.stats.left.add(1, frame.bytes().len() as u64);
        }
        self.enqueue(frame, headers.ingress(), egress);
    }

    fn enqueue(&mut self, frame: I::Frame, ingress: PortId, egress: PortId) {
        let Some(queue) = self.backlog.get_mut(egress.index()) else {
            return self.end_edited(frame, ingress, egress, DropReason::NoEgressQueue);
        };
        if queue.len() >= BACKLOG {
            // Make room first: what the ring can take now need not be dropped.
            transmit(&mut self.io, &self.stats, &self.links, egress, queue);
            if queue.len() >= BACKLOG {
                return self.end_edited(frame, ingress, egress, DropReason::TransmitRingFull);
            }
        }
        if self.taps.is_looking() {
            self.taps.sent(frame.bytes(), egress, self.now);
        }
        queue.push(frame);
    }

    /// Ends a packet that is as it would have left by `egress`.
    #[cold]
    fn end_edited(&mut self, frame: I::Frame, ingress: PortId, egress: PortId, reason: DropReason) {
        if self.taps.is_looking() {
            self.taps.edited(frame.bytes(), egress);
        }
        self.end(frame, ingress, reason);
    }

    fn end(&mut self, frame: I::Frame, ingress: PortId, reason: DropReason) {
        if self.taps.is_looking() {
            self.taps.dropped(frame.bytes(), ingress, reason, self.now);
        }
        self.stats.dropped(ingress, reason);
        self.io.release(frame);
    }

    fn send(&mut self) {
        for (port, frames) in self.backlog.iter_mut().enumerate() {
            if !frames.is_empty() {
                transmit(&mut self.io, &self.stats, &self.links, PortId(port as u16), frames);
            }
        }
        self.io.flush();
    }

    fn hold_back(&mut self, held: Held<I::Frame>, context: &Context) {
        let wanted = (PortId(held.rewrite.action.egress), held.next_hop);
        if self.program.is_silent(wanted.0, wanted.1) {
            // Nobody answered a moment ago: the sender is told at once, and the neighbour is asked for beside.
            if self.hold.should_ask_silent(wanted, context.now, ASK_AGAIN) {
                let _ = self.wanted.try_send(wanted);
            }
            return self.give_up(held, context);
        }
        match self.hold.push(held) {
            Err(refused) => {
                self.end(refused.frame, refused.headers.ingress(), DropReason::NeighbourQueueFull)
            }
            Ok(()) => {
                self.taps.waits();
                if self.hold.should_ask(wanted, context.now, ASK_AGAIN) {
                    // A full channel means that the resolver is busy; the neighbour is asked for again later.
                    let _ = self.wanted.try_send(wanted);
                }
            }
        }
        self.stats.held.set(self.hold.len() as u64);
    }

    /// Tells the sender of a packet that its neighbour does not answer.
    fn give_up(&mut self, held: Held<I::Frame>, context: &Context) {
        let ingress = held.headers.ingress();
        if self.taps.is_looking() {
            self.taps.dropped(held.frame.bytes(), ingress, DropReason::NeighbourUnreachable, context.now);
        }
        let chain = if held.forwarded { self.program.chain_of(ingress) } else { None };
        if let Some(chain) = chain {
            let answer = Answer::Icmp(throughway_vnf::IcmpError::HostUnreachable);
            self.answer(&held.frame, chain, &held.headers, answer, context);
        }
        self.end(held.frame, ingress, DropReason::NeighbourUnreachable);
    }

    /// Sends what waited for a neighbour that is known now, and gives up on what waited too long.
    fn release_held(&mut self, context: &Context) {
        if self.hold.is_empty() || !self.hold.due(context.now) {
            return;
        }
        let program = &self.program;
        let ready = self.hold.settle(|held| {
            let port = PortId(held.rewrite.action.egress);
            let too_long = || context.now.0.saturating_sub(held.since.0) >= NEIGHBOUR_PATIENCE;
            match program.ethernet_to(port, held.next_hop) {
                Some(macs) => Some(Ok(macs)),
                None => (too_long() || program.is_silent(port, held.next_hop)).then_some(Err(())),
            }
        });
        for (mut held, result) in ready {
            let chain = if held.forwarded { self.program.chain_of(held.headers.ingress()) } else { None };
            self.taps.look_at_held(&held);
            match result {
                Ok((destination, source)) => {
                    Edit::Ethernet { destination, source }
                        .record(&mut held.headers.clone(), &mut held.rewrite.action);
                    self.execute(held.frame, chain, &held.headers, &held.rewrite, &held.extra);
                }
                Err(()) => self.give_up(held, context),
            }
        }
        self.taps.done();
        for wanted in self.hold.overdue(context.now, ASK_AGAIN) {
            let _ = self.wanted.try_send(wanted);
        }
        self.stats.held.set(self.hold.len() as u64);
    }
}

/// Sends frames from the front of `frames`, as many as the port takes, and counts them.
fn transmit<I: PacketIo>(
    io: &mut I,
    stats: &WorkerStats,
    links: &Links,
    port: PortId,
    frames: &mut Vec<I::Frame>,
) {
    let sent = io.transmit(links.device(port), frames);
    if let Some(stats) = stats.ports.get(port.index()) {
        stats.sent.add(sent.frames as u64, sent.bytes);
    }
}
