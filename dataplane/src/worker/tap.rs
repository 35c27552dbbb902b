//! Packets that are written down for somebody who looks on: as they come, as they leave, and why they do not.
//!
//! A capture that nobody reads, not yet or no longer, gets nothing. Whether one is read is asked once a batch, so that none sees half of
//! what becomes of a packet.
//!
//! Without a capture a worker asks once a batch whether there is one, and where packets are queued or ended one by one. With one,
//! every packet is read and copied as it comes, since it may be edited where it lies before it is known to be asked for: what it looks
//! like as it leaves counts as well. Nothing of that allocates, waits or reads a clock.
//!
//! A packet that waits for its neighbour is written down when it begins to wait, and again when it leaves. A fragment that waits for
//! the first one of its datagram is looked at when it is judged, with the time at which it came.

use std::sync::Arc;

use arrayvec::ArrayVec;
use crossbeam::channel::Sender;
use throughway_flow::{FlowCache, Probe};
use throughway_io::{Frame, PacketIo};
use throughway_packet::{Headers, PortId, Rewrite};
use throughway_vnf::{BATCH, DropReason, Now};

use super::hold::Held;
use super::{Engine, Worker};
use crate::capture::{Filter, Form, MOST, Record, Ring, STEPS, Step, What, short};

/// Where a packet is kept that is looked at by itself.
const ALONE: usize = BATCH;

/// One capture, as one worker has it.
#[derive(Debug)]
pub struct Tap {
    number: u64,
    filter: Filter,
    traces: bool,
    ring: Arc<Ring>,
    /// The packets of the batch in hand as they came, and one that is looked at by itself; `None`: there was no empty record.
    received: Box<[Option<Box<Record>>]>,
}

impl Tap {
    /// What `filter` asks for goes into `ring`. If it `traces`, packets walk their chain even when their flow is known, and what
    /// each function makes of them is written down.
    pub fn new(number: u64, filter: Filter, traces: bool, ring: Arc<Ring>) -> Self {
        let received = std::iter::repeat_with(|| None).take(BATCH + 1).collect();
        Tap { number, filter, traces, ring, received }
    }

    /// Writes down how the packet at a place came, or that there is no room; `frame` is the same where it is given.
    fn write_received(&mut self, place: usize, frame: Option<&[u8]>, written: Written<'_>) {
        match (self.received.get_mut(place).and_then(Option::take), frame) {
            (Some(record), _) => self.write(record, written),
            (None, Some(frame)) => self.write_now(frame, written),
            (None, None) => self.ring.lose(written.interface),
        }
    }

    /// Writes down a frame as it is now, or that there is no room.
    fn write_now(&mut self, frame: &[u8], written: Written<'_>) {
        match self.ring.take() {
            Some(mut record) => {
                record.fill(frame, written.interface, written.time);
                self.write(record, written);
            }
            None => self.ring.lose(written.interface),
        }
    }

    fn write(&mut self, mut record: Box<Record>, Written { packet, is_first, what, by, .. }: Written<'_>) {
        (record.packet, record.is_first, record.what) = (packet, is_first, what);
        record.by = short(by.unwrap_or_default());
        self.ring.write(record);
    }
}

/// What is written down beside a frame.
#[derive(Clone, Copy)]
struct Written<'a> {
    packet: u64,
    is_first: bool,
    what: What,
    by: Option<&'a str>,
    interface: u16,
    time: u64,
}

/// Where the packet in hand comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum From {
    /// It came by an interface.
    Outside,
    /// It has waited for its neighbour, and was written down when it began to.
    Hold,
    /// The data plane has made it, in answer to another one.
    Answer,
}

/// The packet in hand.
#[derive(Clone, Copy, Debug)]
struct Subject {
    /// Its place in the batch.
    place: usize,
    from: From,
    /// The captures that may ask for it: a bit of each.
    open: u8,
    /// Its number, once it has one.
    packet: u64,
    /// Into which captures it was written: a bit of each.
    written: u8,
    /// How it would leave, where that is known before it does.
    edited: Option<Form>,
    /// Whether its frame may be edited by now: then it does not show how it came.
    is_edited: bool,
    /// What became of it is written down.
    has_ended: bool,
}

/// The captures of one worker.
#[derive(Debug)]
pub(super) struct Taps {
    taps: ArrayVec<Box<Tap>, MOST>,
    /// Those that are read while the batch in hand is handled: a bit of each.
    open: u8,
    /// And while the packet is that is looked at by itself.
    open_alone: u8,
    /// The forms of the packets that came, by place.
    forms: Box<[Form]>,
    /// The places of those packets of the batch whose flows are not known, in order.
    unknown: ArrayVec<u8, BATCH>,
    /// Of those packets of the batch whose flows are known to be dropped how many functions have judged them, in order.
    judged: ArrayVec<u8, BATCH>,
    subject: Option<Subject>,
    /// Counted up.
    packets: u64,
}

impl Default for Taps {
    fn default() -> Self {
        Taps {
            taps: ArrayVec::new(),
            open: 0,
            open_alone: 0,
            forms: vec![Form::default(); BATCH + 1].into_boxed_slice(),
            unknown: ArrayVec::new(),
            judged: ArrayVec::new(),
            subject: None,
            packets: 0,
        }
    }
}

impl Taps {
    /// Whether there is a capture.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        !self.taps.is_empty()
    }

    /// Whether the packet in hand may be asked for.
    #[inline]
    pub(super) fn is_looking(&self) -> bool {
        self.subject.is_some()
    }

    /// Whether packets are traced.
    #[inline]
    pub(super) fn trace(&self) -> bool {
        self.is_open()
            && self.taps.iter().enumerate().any(|(number, tap)| tap.traces && has(self.open, number))
    }

    /// The captures that are read: a bit of each.
    fn read(&self) -> u8 {
        let read = self.taps.iter().enumerate().filter(|(_, tap)| tap.ring.is_read());
        read.fold(0, |all, (number, _)| all | 1 << number)
    }

    /// Keeps the packets of a batch as they came.
    #[cold]
    #[inline(never)]
    pub(super) fn look<F: Frame>(&mut self, frames: &[F], port: PortId, now: Now) {
        self.unknown.clear();
        self.judged.clear();
        self.open = self.read();
        let taken = if self.open == 0 { &[] } else { frames };
        for (place, frame) in taken.iter().enumerate().take(BATCH) {
            self.keep(place, self.open, frame.bytes(), port, now);
        }
    }

    /// Takes a packet in hand that came by itself, or long before.
    #[inline]
    pub(super) fn look_at_one(&mut self, frame: &[u8], port: PortId, came: Now) {
        if self.is_open() {
            self.open_alone = self.read();
            if self.open_alone != 0 {
                self.keep(ALONE, self.open_alone, frame, port, came);
            }
            self.begin(ALONE);
        }
    }

    /// Takes a packet in hand whose wait for its neighbour is over.
    pub(super) fn look_at_held<F: Frame>(&mut self, held: &Held<F>) {
        if self.is_open() {
            self.look_at_one(held.frame.bytes(), held.headers.ingress(), held.since);
            if let Some(subject) = &mut self.subject {
                subject.from = if held.forwarded { From::Hold } else { From::Answer };
                subject.packet = held.packet;
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn keep(&mut self, place: usize, open: u8, frame: &[u8], port: PortId, came: Now) {
        if let Some(form) = self.forms.get_mut(place) {
            *form = Form::of(frame, port);
        }
        for (_, tap) in self.taps.iter_mut().enumerate().filter(|(number, _)| has(open, *number)) {
            if let Some(kept) = tap.received.get_mut(place) {
                // One that nobody asked for is filled again.
                *kept = kept.take().or_else(|| tap.ring.take());
                if let Some(record) = kept {
                    record.fill(frame, port.0, came.0);
                }
            }
        }
    }

    /// None of the flows of a batch are known.
    pub(super) fn all_are_unknown(&mut self) {
        if self.is_open() {
            self.unknown = (0..BATCH as u8).collect();
        }
    }

    /// Of a batch the packet at this place is the next one whose flow is not known.
    pub(super) fn is_unknown(&mut self, place: usize) {
        // A batch has no more.
        let _ = self.unknown.try_push(place as u8);
    }

    /// Of a batch the next packet whose flow is known to be dropped was judged by so many functions; zero: no function drops it.
    #[cold]
    pub(super) fn is_dropped_by(&mut self, judged: u8) {
        // A batch has no more.
        let _ = self.judged.try_push(judged);
    }

    /// What was said of the packet that is so many dropped ones behind the first.
    pub(super) fn judged(&self, number: usize) -> u8 {
        self.judged.get(number).copied().unwrap_or_default()
    }

    /// Takes the packet at a place of the batch in hand.
    #[inline]
    pub(super) fn begin(&mut self, place: usize) {
        if self.is_open() {
            let (from, edited) = (From::Outside, None);
            let open = if place == ALONE { self.open_alone } else { self.open };
            let (is_edited, has_ended) = (false, false);
            let subject = Subject { place, from, open, packet: 0, written: 0, edited, is_edited, has_ended };
            self.subject = (open != 0).then_some(subject);
        }
    }

    /// Takes the packet in hand that is so many unknown ones behind the first.
    #[inline]
    pub(super) fn begin_unknown(&mut self, number: usize) {
        if let Some(place) = self.unknown.get(number).copied().filter(|_| self.is_open()) {
            self.begin(place.into());
        }
    }

    /// Lets the packet in hand go.
    #[inline]
    pub(super) fn done(&mut self) {
        self.subject = None;
    }

    /// The packet in hand, of which everything is said, is left for the answer to it.
    pub(super) fn answer(&mut self) {
        if let Some(subject) = &mut self.subject {
            *subject = Subject { from: From::Answer, edited: None, has_ended: false, ..*subject };
        }
    }

    /// Writes down what a function made of the packet that is so many unknown ones behind the first.
    #[cold]
    #[inline(never)]
    pub(super) fn step(&mut self, number: usize, step: &Step) {
        let Some(place) = self.unknown.get(number).copied() else { return };
        let taps =
            self.taps.iter_mut().enumerate().filter(|(number, tap)| tap.traces && has(self.open, *number));
        for (_, tap) in taps {
            if let Some(Some(record)) = tap.received.get_mut(usize::from(place))
                && record.steps.len() < STEPS
            {
                record.steps.push(*step);
            }
        }
    }

    /// Has known packets that are traced walk their chain: they are not looked for in the flow cache.
    #[cold]
    #[inline(never)]
    pub(super) fn unread(&self, probes: &mut [Probe], flows: &FlowCache, now: Now) {
        for probe in probes.iter_mut().filter(|probe| probe.is_readable()) {
            let wanted = flows.known(probe, now.0).is_some_and(|flow| {
                let mut traces = self.taps.iter().enumerate().filter(|(_, tap)| tap.traces);
                traces.any(|(number, tap)| {
                    has(self.open, number) && tap.filter.wants_flow(&flow.key, &flow.rewrite)
                })
            });
            if wanted {
                *probe = Probe::default();
            }
        }
    }

    /// The packet in hand leaves by `egress`, as it is now.
    #[cold]
    #[inline(never)]
    pub(super) fn sent(&mut self, frame: &[u8], egress: PortId, now: Now) {
        let Some(subject) = &mut self.subject else { return };
        let came = self.forms.get(subject.place).copied().unwrap_or_default();
        let leaves = Form::of(frame, egress);
        let is_answer = subject.from == From::Answer;
        let open = subject.open;
        for (number, tap) in self.taps.iter_mut().enumerate().filter(|(number, _)| has(open, *number)) {
            let bit = 1 << number;
            let mut is_known = subject.written & bit != 0;
            let asked = |filter: &Filter| !is_answer && filter.accepts(&came) || filter.accepts(&leaves);
            if !tap.filter.wants_sent() || !is_known && !asked(&tap.filter) {
                continue;
            }
            let packet = subject.number(&mut self.packets);
            let what = if is_answer { What::Answer } else { What::Sent };
            let interface = egress.0;
            let mut written = Written { packet, is_first: false, what, by: None, interface, time: now.0 };
            match subject.from {
                From::Outside if !is_known => {
                    let interface = came.interface;
                    let came = Written { is_first: true, what: What::Received, interface, ..written };
                    // Without a record for it, it is lost: what is there now is another form.
                    tap.write_received(subject.place, None, came);
                    is_known = true;
                }
                From::Outside | From::Hold => is_known = true,
                From::Answer => {}
            }
            written.is_first = !is_known;
            tap.write_now(frame, written);
            subject.written |= bit;
        }
    }

    /// The packet in hand is dropped, by nobody in particular if nothing else was said of it.
    #[cold]
    #[inline(never)]
    pub(super) fn dropped(&mut self, frame: &[u8], ingress: PortId, reason: DropReason, now: Now) {
        self.ends(frame, ingress, What::Dropped(reason), None, now);
    }

    /// The packet in hand, which was to be edited so, is dropped by a function.
    #[cold]
    #[inline(never)]
    pub(super) fn dropped_by(
        &mut self,
        frame: &[u8],
        headers: &Headers,
        rewrite: &Rewrite,
        reason: DropReason,
        by: Option<&str>,
        now: Now,
    ) {
        if let Some(subject) = &mut self.subject {
            subject.edited = Some(Form::after(&headers.key, rewrite));
        }
        self.ends(frame, headers.ingress(), What::Dropped(reason), by, now);
    }

    /// The packet in hand, whose flow is known to be dropped by a function, is dropped.
    pub(super) fn known_dropped(
        &mut self,
        frame: &[u8],
        ingress: PortId,
        why: (DropReason, Option<&str>),
        now: Now,
    ) {
        if let Some(subject) = self.subject.as_mut().filter(|_| why.1.is_none()) {
            // No function drops it: it could not be edited to its end.
            subject.is_edited = true;
        }
        self.ends(frame, ingress, What::Dropped(why.0), why.1, now);
    }

    /// The packet in hand is edited so, and may not leave for all that.
    #[cold]
    #[inline(never)]
    pub(super) fn edited_by(&mut self, headers: &Headers, rewrite: &Rewrite) {
        if let Some(subject) = &mut self.subject {
            (subject.edited, subject.is_edited) = (Some(Form::after(&headers.key, rewrite)), true);
        }
    }

    /// The packet in hand is edited as it was to be, and does not leave by `egress` for all that.
    #[cold]
    #[inline(never)]
    pub(super) fn edited(&mut self, frame: &[u8], egress: PortId) {
        if let Some(subject) = &mut self.subject {
            (subject.edited, subject.is_edited) = (Some(Form::of(frame, egress)), true);
        }
    }

    /// The packet in hand is given to the host.
    pub(super) fn given(&mut self, frame: &[u8], ingress: PortId, now: Now) {
        self.ends(frame, ingress, What::Given, None, now);
    }

    /// The packet in hand, which is to be edited so, may have to wait for its neighbour: its number, zero if nobody looks on.
    pub(super) fn may_wait(&mut self, headers: &Headers, rewrite: &Rewrite) -> u64 {
        let Some(subject) = &mut self.subject else { return 0 };
        subject.edited = Some(Form::after(&headers.key, rewrite));
        subject.number(&mut self.packets)
    }

    /// The packet in hand waits for its neighbour.
    pub(super) fn waits(&mut self) {
        // Of an answer it is enough to see it leave.
        if let Some(Subject { place, from: From::Outside, .. }) = self.subject {
            let came = self.forms.get(place).copied().unwrap_or_default();
            self.ends(&[], PortId(came.interface), What::Held, None, Now(0));
        }
    }

    #[inline(never)]
    fn ends(&mut self, frame: &[u8], ingress: PortId, what: What, by: Option<&str>, now: Now) {
        let Some(subject) = self.subject.as_mut().filter(|subject| !subject.has_ended) else { return };
        subject.has_ended = true;
        let came = match subject.from {
            From::Answer => Form::of(frame, ingress),
            From::Outside | From::Hold => self.forms.get(subject.place).copied().unwrap_or_default(),
        };
        let open = subject.open;
        for (number, tap) in self.taps.iter_mut().enumerate().filter(|(number, _)| has(open, *number)) {
            let bit = 1 << number;
            let is_known = subject.written & bit != 0;
            let filter = &tap.filter;
            let meant = match what {
                What::Dropped(reason) => filter.wants_dropped(reason),
                _ => filter.wants_sent(),
            };
            let asked = filter.accepts(&came) || subject.edited.is_some_and(|form| filter.accepts(&form));
            if !meant || !is_known && !asked {
                continue;
            }
            let packet = subject.number(&mut self.packets);
            let is_first = !is_known && subject.from != From::Hold;
            let written = Written { packet, is_first, what, by, interface: ingress.0, time: now.0 };
            match what {
                What::Held => tap.write_received(subject.place, None, written),
                // An answer never came; of a packet that was seen to come and left in part, it is the fragment that is dropped.
                _ if subject.from == From::Answer || is_known => tap.write_now(frame, written),
                _ => tap.write_received(subject.place, (!subject.is_edited).then_some(frame), written),
            }
            subject.written |= bit;
        }
    }
}

/// Whether the capture at a place is one of these.
fn has(captures: u8, place: usize) -> bool {
    captures & 1 << place != 0
}

impl Subject {
    /// The packet's number, from now on.
    fn number(&mut self, packets: &mut u64) -> u64 {
        if self.packet == 0 {
            *packets += 1;
            self.packet = *packets;
        }
        self.packet
    }
}

impl<I: PacketIo> Worker<I> {
    /// From now on a capture sees the packets of this worker. Flows that it asks for are taken back from the XDP program first: when
    /// they are, `ready` is told. Gives the tap back when there are [`MOST`] already.
    ///
    /// # Errors
    /// The tap.
    pub fn tap(&mut self, tap: Box<Tap>, ready: Sender<()>) -> Result<(), Box<Tap>> {
        let Engine { taps, offload, .. } = &mut self.engine;
        if taps.taps.is_full() {
            return Err(tap);
        }
        match offload {
            Some(offload) => offload.capture_begins(tap.number, tap.filter, ready),
            None => {
                let _ = ready.try_send(());
            }
        }
        taps.taps.push(tap);
        Ok(())
    }

    /// Ends a capture; what it has is to be freed elsewhere.
    pub fn untap(&mut self, number: u64) -> Option<Box<Tap>> {
        let Engine { taps, offload, .. } = &mut self.engine;
        if let Some(offload) = offload {
            offload.capture_ends(number);
        }
        let place = taps.taps.iter().position(|tap| tap.number == number)?;
        // The others move up: until the next batch none is asked.
        taps.open = 0;
        Some(taps.taps.remove(place))
    }
}
