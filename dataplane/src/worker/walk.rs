//! Walking a batch through its chain, and what comes out.

use arrayvec::ArrayVec;
use throughway_io::{Frame, PacketIo};
use throughway_packet::{Edit, Headers};
use throughway_vnf::packet::State;
use throughway_vnf::{BATCH, Batch, Context, DropReason, Packet};

use super::links::Links;
use super::{End, Engine, Outcome};
use crate::capture::Step;
use crate::chain::Program;

/// How often packets walk their chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Visit {
    First,
    /// So many functions have counted them before.
    Again {
        counted: usize,
    },
}

/// Walks the parsed packets of a batch through their chain; returns one outcome per parsed packet, in order. `told` hears of each
/// function when it has judged them.
pub(super) fn walk<F: Frame>(
    program: &mut Program,
    chain: Option<usize>,
    links: &Links,
    (frames, parsed): (&[F], &[Result<Headers, DropReason>]),
    visit: Visit,
    context: &Context,
    told: impl FnMut(&str, &Batch<'_>),
) -> ArrayVec<Outcome, BATCH> {
    let mut outcomes = ArrayVec::new();
    let Some(index) = chain else { return outcomes };
    let mut batch = Batch::new();
    let mut bytes = 0;
    for (frame, headers) in frames.iter().zip(parsed) {
        if let Ok(headers) = headers {
            bytes += frame.bytes().len() as u64;
            // A batch holds as many packets as were received at most, so none is refused.
            let _ = batch.push(Packet::new(frame.bytes(), *headers));
        }
    }
    let counted = match visit {
        Visit::First => {
            if let Some(chain) = program.chains.get(index) {
                chain.stats.entered.add(batch.packets().len() as u64, bytes);
            }
            0
        }
        Visit::Again { counted } => counted,
    };
    program.walk_telling(index, &mut batch, counted, context, told);
    // No function needs to know of VLANs: packets get the tags of the interface that they leave by.
    for packet in batch.living() {
        let tags = packet.egress().and_then(|egress| links.retag(egress, packet.headers()));
        if let Some(tags) = tags {
            packet.edit(Edit::Tags(tags));
        }
    }
    for packet in batch.packets() {
        let end = match packet.state() {
            State::Dropped(reason, answer) => End::Drop(reason, answer),
            State::Alive if packet.egress().is_none() => End::Drop(DropReason::NoEgress, None),
            State::Alive => match packet.awaited_neighbour() {
                Some(next_hop) => End::AwaitNeighbour(next_hop),
                None => End::Send,
            },
        };
        outcomes.push(Outcome {
            headers: *packet.received(),
            rewrite: *packet.rewrite(),
            extra: *packet.extra(),
            dependencies: packet.dependencies(),
            credits: packet.credits(),
            limit: packet.limit(),
            silence: packet.silence(),
            repeatable: packet.is_repeatable(),
            end,
        });
    }
    outcomes
}

impl<I: PacketIo> Engine<I> {
    /// Walks packets that nobody has seen before, one after the other where somebody wants to know what each function makes of them.
    pub(super) fn walk_first(
        &mut self,
        chain: Option<usize>,
        frames: &[I::Frame],
        parsed: &[Result<Headers, DropReason>],
        context: &Context,
    ) -> ArrayVec<Outcome, BATCH> {
        let Engine { program, links, taps, .. } = self;
        if !taps.trace() {
            return walk(program, chain, links, (frames, parsed), Visit::First, context, |_, _| {});
        }
        let mut outcomes = ArrayVec::new();
        for (number, (frame, headers)) in frames.iter().zip(parsed).enumerate() {
            let (frame, parsed) = (std::slice::from_ref(frame), std::slice::from_ref(headers));
            let mut before = headers.unwrap_or_default();
            let told = |function: &str, batch: &Batch<'_>| {
                if let Some(packet) = batch.packets().first() {
                    taps.step(number, &Step::new(function, &before, packet));
                    before = *packet.headers();
                }
            };
            outcomes.extend(walk(program, chain, links, (frame, parsed), Visit::First, context, told));
        }
        outcomes
    }
}
