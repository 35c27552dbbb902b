//! What functions tell the control side: log lines of rules, and blocks of ports handed out.
//!
//! A function puts a plain value into a bounded queue; the control side takes it out, formats it and writes it where it is
//! wanted. Nobody waits: when the queue is full, the event is lost and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;
use throughway_shared::flow::FlowKey;

use crate::Now;

/// What became of a packet that a rule logged.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fate {
    /// The rule lets it pass.
    Allowed,
    /// The rule ends it silently.
    Dropped,
    /// The rule ends it, and its sender is told.
    Rejected,
    /// The rule decides nothing; those behind it do.
    Undecided,
}

/// A rule with a log matched a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RuleLog {
    /// The rule, by the number its configuration gave it.
    pub rule: u32,
    /// Which of the function's kinds of log.
    pub log: u16,
    /// What the rule says.
    pub fate: Fate,
    /// Addresses, ports, protocol, ingress and VLANs, as the function saw them.
    pub flow: FlowKey,
    /// Length of the IP packet in bytes.
    pub len: u16,
    /// The flags byte of the TCP header, or zero.
    pub tcp_flags: u8,
    /// ICMP or ICMPv6 type and code, or zeros.
    pub icmp: [u8; 2],
    /// How many packets the rule matched without a log entry since the one before, because its log is limited.
    pub suppressed: u64,
}

/// A host got a block of outside ports, or gave it back (RFC 6888, section 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortBlock {
    /// The host inside, network order; IPv4 in its mapped form.
    pub inside: [u8; 16],
    /// The outside address, in the same form.
    pub outside: [u8; 16],
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
    /// Whether it was given, else given back.
    pub allocated: bool,
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum What {
    /// See [`RuleLog`].
    Rule(RuleLog),
    /// See [`PortBlock`].
    Block(PortBlock),
}

/// One thing that happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// When: the time of the batch.
    pub at: Now,
    /// Which function: the number that [`EventQueue::of_function`] was given.
    pub function: u16,
    /// What.
    pub what: What,
}

/// A bounded queue of events: any number of functions write, the control side reads.
#[derive(Debug)]
pub struct EventQueue {
    events: ArrayQueue<Event>,
    lost: AtomicU64,
}

impl EventQueue {
    /// A queue of `capacity` events (at least one); all its memory is allocated here.
    pub fn new(capacity: usize) -> Arc<Self> {
        Arc::new(EventQueue { events: ArrayQueue::new(capacity.max(1)), lost: AtomicU64::new(0) })
    }

    /// The end that a function writes to. `function` is a number by which the reader knows it.
    pub fn of_function(self: &Arc<Self>, function: u16) -> Events {
        Events { queue: Arc::clone(self), function }
    }

    /// Takes out the oldest event.
    pub fn take(&self) -> Option<Event> {
        self.events.pop()
    }

    /// Whether it is time to take some out: who tells many at once, and may wait, does.
    pub fn is_half_full(&self) -> bool {
        self.events.len() >= self.events.capacity().div_ceil(2)
    }

    /// How many events were lost because the queue was full.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// The end of an [`EventQueue`] that a function writes to.
#[derive(Clone, Debug)]
pub struct Events {
    queue: Arc<EventQueue>,
    function: u16,
}

impl Events {
    /// Tells; says whether there was room. Takes no lock and does not allocate.
    pub fn tell(&self, at: Now, what: What) -> bool {
        let told = self.queue.events.push(Event { at, function: self.function, what }).is_ok();
        if !told {
            self.queue.lost.fetch_add(1, Ordering::Relaxed);
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(rule: u32) -> What {
        What::Rule(RuleLog {
            rule,
            log: 0,
            fate: Fate::Dropped,
            flow: FlowKey::default(),
            len: 40,
            tcp_flags: 0,
            icmp: [0; 2],
            suppressed: 0,
        })
    }

    #[test]
    fn events_come_in_order_and_what_does_not_fit_is_counted() {
        let queue = EventQueue::new(2);
        let (first, second) = (queue.of_function(1), queue.of_function(2));
        assert!(first.tell(Now(1), log(10)) && second.tell(Now(2), log(11)));
        assert!(!first.tell(Now(3), log(12)));
        assert!(queue.is_half_full());
        assert_eq!(queue.lost(), 1);
        assert_eq!(queue.take(), Some(Event { at: Now(1), function: 1, what: log(10) }));
        assert!(first.tell(Now(4), log(13)));
        assert_eq!(queue.take().map(|event| event.function), Some(2));
        assert_eq!(queue.take().map(|event| event.at), Some(Now(4)));
        assert_eq!(queue.take(), None);
        assert!(!queue.is_half_full());
        assert_eq!(queue.lost(), 1);
    }
}
