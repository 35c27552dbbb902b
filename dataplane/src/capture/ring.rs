//! The way from a worker to whoever reads: records go round between the two, made once and filled again and again.
//!
//! Neither side ever waits for the other. A worker without an empty record counts what it would have written as lost; a reader without
//! a full one comes again. The queues are crossbeam's bounded ones, without locks; nothing is allocated once they are made.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrayvec::ArrayString;
use crossbeam::queue::ArrayQueue;
use throughway_vnf::DropReason;

use super::step::NAME;
use super::{STEPS, Step};

/// What happened to a packet at the moment at which it was written down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum What {
    /// It came in by this interface.
    #[default]
    Received,
    /// It left by this interface, or its last fragment did.
    Sent,
    /// The data plane itself sent it by this interface, in answer to a packet.
    Answer,
    /// It came in by this interface and was dropped.
    Dropped(DropReason),
    /// It came in by this interface, and leaves when the kernel has resolved its neighbour.
    Held,
    /// It came in by this interface and was given to the host.
    Given,
}

/// A packet as it was at one moment.
#[derive(Debug, Default)]
pub struct Record {
    /// When, in nanoseconds of the [clock](crate::clock): the beginning of the worker's round.
    pub time: u64,
    /// The packet's number, the same in all records of one packet of a worker; counted up.
    pub packet: u64,
    /// Whether this is the first record of the packet.
    pub is_first: bool,
    /// The interface.
    pub interface: u16,
    /// What happened.
    pub what: What,
    /// The function that dropped it; empty where none did.
    pub by: ArrayString<NAME>,
    /// The frame's length in bytes, all of it.
    pub original: u32,
    /// What the functions made of it, if it is traced.
    pub steps: Vec<Step>,
    /// How much of `room` holds the frame.
    captured: usize,
    /// Where the frame's beginning is kept.
    room: Box<[u8]>,
}

impl Record {
    fn new(longest: usize, steps: usize) -> Self {
        let room = vec![0; longest].into_boxed_slice();
        Record { room, steps: Vec::with_capacity(steps), ..Record::default() }
    }

    /// The frame, or its beginning.
    pub fn bytes(&self) -> &[u8] {
        self.room.get(..self.captured).unwrap_or_default()
    }

    /// Keeps the beginning of a frame that was seen on `interface` at `time`; forgets what was here before.
    pub(crate) fn fill(&mut self, frame: &[u8], interface: u16, time: u64) {
        let captured = frame.len().min(self.room.len());
        if let (Some(room), Some(frame)) = (self.room.get_mut(..captured), frame.get(..captured)) {
            room.copy_from_slice(frame);
        }
        (self.captured, self.original) = (captured, frame.len() as u32);
        (self.interface, self.time) = (interface, time);
        (self.what, self.is_first) = (What::Received, false);
        self.by.clear();
        self.steps.clear();
    }
}

/// Records between one worker and one reader.
#[derive(Debug)]
pub struct Ring {
    empty: ArrayQueue<Box<Record>>,
    full: ArrayQueue<Box<Record>>,
    /// Whether somebody reads.
    is_read: AtomicBool,
    /// By interface: records that were written, and that could not be.
    counts: Box<[Counts]>,
}

/// What was counted of an interface.
#[derive(Debug, Default)]
struct Counts {
    written: AtomicU64,
    lost: AtomicU64,
}

impl Ring {
    /// With `records` records for up to `longest` bytes of a frame each, and the steps of traced packets if it `traces`; counts for so
    /// many interfaces. All memory is taken here. Nothing is written before somebody [reads](Ring::begin).
    pub fn new(records: usize, longest: usize, traces: bool, interfaces: usize) -> Self {
        let records = records.max(1);
        let steps = if traces { STEPS } else { 0 };
        let ring = Ring {
            empty: ArrayQueue::new(records),
            full: ArrayQueue::new(records),
            is_read: AtomicBool::new(false),
            counts: std::iter::repeat_with(Counts::default).take(interfaces).collect(),
        };
        (0..records).for_each(|_| ring.give_back(Box::new(Record::new(longest, steps))));
        ring
    }

    /// From the next batch on the worker writes: somebody reads.
    pub fn begin(&self) {
        self.is_read.store(true, Ordering::Relaxed);
    }

    /// From the next batch on the worker writes no more, and not later: nobody reads. It cannot begin again.
    pub fn end(&self) {
        self.is_read.store(false, Ordering::Relaxed);
    }

    /// Whether somebody reads.
    pub(crate) fn is_read(&self) -> bool {
        self.is_read.load(Ordering::Relaxed)
    }

    /// How many records there are.
    pub fn capacity(&self) -> usize {
        self.full.capacity()
    }

    /// The oldest record that was not read yet.
    pub fn next(&self) -> Option<Box<Record>> {
        self.full.pop()
    }

    /// Takes a record back that was read.
    pub fn give_back(&self, record: Box<Record>) {
        // There is room for as many as there are.
        let _ = self.empty.push(record);
    }

    /// How many records of packets of an interface were written, and how many were lost as nobody had read fast enough.
    pub fn counts(&self, interface: u16) -> (u64, u64) {
        let counts = self.counts.get(usize::from(interface));
        counts.map_or((0, 0), |counts| {
            (counts.written.load(Ordering::Relaxed), counts.lost.load(Ordering::Relaxed))
        })
    }

    /// A record to be filled, for the worker.
    pub(crate) fn take(&self) -> Option<Box<Record>> {
        self.empty.pop()
    }

    /// Hands a filled record to the reader.
    pub(crate) fn write(&self, record: Box<Record>) {
        if let Some(counts) = self.counts.get(usize::from(record.interface)) {
            counts.written.fetch_add(1, Ordering::Relaxed);
        }
        let _ = self.full.push(record);
    }

    /// Counts a record that there was no room for.
    pub(crate) fn lose(&self, interface: u16) {
        if let Some(counts) = self.counts.get(usize::from(interface)) {
            counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(ring: &Ring, number: u8) {
        match ring.take() {
            Some(mut record) => {
                record.fill(&[number; 100], 1, number.into());
                ring.write(record);
            }
            None => ring.lose(1),
        }
    }

    #[test]
    fn a_full_ring_counts_what_it_loses_and_goes_on_when_it_was_read() {
        let ring = Ring::new(4, 60, false, 2);
        (0..10).for_each(|number| write(&ring, number));
        assert_eq!((ring.counts(0), ring.counts(1)), ((0, 0), (4, 6)));
        for number in 0..4 {
            let record = ring.next().unwrap();
            assert_eq!(
                (record.bytes(), record.original, record.time),
                (&[number; 60][..], 100, number.into())
            );
            ring.give_back(record);
        }
        assert!(ring.next().is_none());
        (10..13).for_each(|number| write(&ring, number));
        assert_eq!(ring.next().map(|record| record.bytes()[0]), Some(10));
        assert_eq!(ring.counts(1), (7, 6));
    }

    #[test]
    fn a_record_that_is_filled_again_has_nothing_of_before() {
        let mut record = Record::new(64, 0);
        record.fill(&[1; 64], 3, 7);
        record.what = What::Dropped(DropReason::NoRoute);
        record.is_first = true;
        record.by.push_str("edge");
        record.fill(&[2; 10], 0, 8);
        assert_eq!((record.bytes(), record.original, record.what), (&[2; 10][..], 10, What::Received));
        assert!(record.by.is_empty() && !record.is_first && record.interface == 0);
    }

    #[test]
    fn two_threads_neither_lose_nor_repeat_a_record_uncounted() {
        const SENT: u64 = 20_000;
        let ring = Ring::new(8, 64, false, 1);
        let read = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let (mut read, mut last) = (0, None);
                while last != Some(SENT) {
                    let Some(record) = ring.next() else {
                        std::thread::yield_now();
                        continue;
                    };
                    assert!(last < Some(record.time), "in order, each once");
                    last = Some(record.time);
                    read += 1;
                    ring.give_back(record);
                }
                read
            });
            for time in 1..=SENT {
                match ring.take() {
                    Some(mut record) => {
                        record.fill(&[0; 60], 0, time);
                        ring.write(record);
                    }
                    // The reader waits for the last one.
                    None if time == SENT => loop {
                        let Some(mut record) = ring.take() else {
                            std::thread::yield_now();
                            continue;
                        };
                        record.fill(&[0; 60], 0, time);
                        ring.write(record);
                        break;
                    },
                    None => ring.lose(0),
                }
            }
            reader.join().unwrap()
        });
        let (written, lost) = ring.counts(0);
        assert_eq!((read, written + lost), (written, SENT));
    }
}
