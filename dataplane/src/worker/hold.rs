//! Packets that wait for a neighbour: bounded, in order of arrival.

use std::net::IpAddr;

use throughway_packet::{Extra, Headers, PortId, Rewrite};
use throughway_vnf::Now;

use super::Wanted;

/// How many packets may wait in one worker.
pub const CAPACITY: usize = 1024;
/// How many packets may wait for one neighbour.
pub const PER_NEIGHBOUR: usize = 64;
/// How many neighbours that do not answer are asked for again in turn; for others it is somebody else's turn later.
const SILENT: usize = 64;
/// How often the waiting packets are looked at, in nanoseconds.
const EVERY: u64 = 1_000_000;

/// One waiting packet: its chain is over, only the MAC addresses are missing.
#[derive(Debug)]
pub struct Held<F> {
    /// The frame, as received.
    pub frame: F,
    /// Its headers, as received.
    pub headers: Headers,
    /// What is to be done to it once the neighbour is known.
    pub rewrite: Rewrite,
    /// What is to be done to it alone.
    pub extra: Extra,
    /// Whether it walked a chain; an ICMP error of our own did not. Which one is asked when its wait is over: a reload
    /// meanwhile may have moved or renamed it.
    pub forwarded: bool,
    /// The neighbour it waits for.
    pub next_hop: IpAddr,
    /// Since when.
    pub since: Now,
    /// Its number, if somebody looks on ([`super::tap`]); zero: nobody does.
    pub packet: u64,
}

struct Asked {
    wanted: Wanted,
    at: Now,
    waiting: usize,
}

/// The waiting packets of one worker.
pub struct Hold<F> {
    packets: Vec<Held<F>>,
    asked: Vec<Asked>,
    /// Neighbours that are known not to answer and were asked for again.
    silent: Vec<(Wanted, Now)>,
    looked: Now,
    capacity: usize,
}

impl<F> Default for Hold<F> {
    fn default() -> Self {
        Hold {
            packets: Vec::with_capacity(CAPACITY),
            asked: Vec::new(),
            silent: Vec::with_capacity(SILENT),
            looked: Now(0),
            capacity: CAPACITY,
        }
    }
}

impl<F> Hold<F> {
    /// Of a worker with so few frames that [`CAPACITY`] is too many of them: a quarter.
    pub fn bound(&mut self, frames: usize) {
        self.capacity = CAPACITY.min(frames / 4).max(1);
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// How many packets wait.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Adds a packet; gives it back when too many wait, in all or for its neighbour.
    #[expect(
        clippy::result_large_err,
        reason = "the packet itself is given back; a box would be an allocation per packet"
    )]
    pub fn push(&mut self, held: Held<F>) -> Result<(), Held<F>> {
        let wanted = (PortId(held.rewrite.action.egress), held.next_hop);
        if self.packets.len() >= self.capacity {
            return Err(held);
        }
        match self.asked.iter_mut().find(|asked| asked.wanted == wanted) {
            Some(asked) if asked.waiting >= PER_NEIGHBOUR => return Err(held),
            Some(asked) => asked.waiting += 1,
            None => self.asked.push(Asked { wanted, at: Now(0), waiting: 1 }),
        }
        self.packets.push(held);
        Ok(())
    }

    /// Whether the neighbour has to be asked for now: the first time, and again after `again` nanoseconds.
    pub fn should_ask(&mut self, wanted: Wanted, now: Now, again: u64) -> bool {
        match self.asked.iter_mut().find(|asked| asked.wanted == wanted) {
            Some(asked) if asked.at == Now(0) || now.0.saturating_sub(asked.at.0) >= again => {
                asked.at = now;
                true
            }
            _ => false,
        }
    }

    /// The same for a neighbour for which nothing waits, as it is known not to answer.
    pub fn should_ask_silent(&mut self, wanted: Wanted, now: Now, again: u64) -> bool {
        let due = |at: Now| now.0.saturating_sub(at.0) >= again;
        let known = self.silent.iter().position(|(known, _)| *known == wanted);
        match known.or_else(|| self.silent.iter().position(|(_, at)| due(*at))) {
            Some(place) => match self.silent.get_mut(place) {
                Some(entry) if due(entry.1) => {
                    *entry = (wanted, now);
                    true
                }
                _ => false,
            },
            None if self.silent.len() < SILENT => {
                self.silent.push((wanted, now));
                true
            }
            None => false,
        }
    }

    /// The neighbours that have to be asked for again.
    pub fn overdue(&mut self, now: Now, again: u64) -> impl Iterator<Item = Wanted> {
        self.asked.iter_mut().filter(move |asked| now.0.saturating_sub(asked.at.0) >= again).map(
            move |asked| {
                asked.at = now;
                asked.wanted
            },
        )
    }

    /// Whether it is time to look at the waiting packets again.
    pub fn due(&mut self, now: Now) -> bool {
        let due = now.0.saturating_sub(self.looked.0) >= EVERY;
        if due {
            self.looked = now;
        }
        due
    }

    /// Takes out the packets for which `judge` has a result, in order of arrival.
    pub fn settle<R>(&mut self, mut judge: impl FnMut(&Held<F>) -> Option<R>) -> Vec<(Held<F>, R)> {
        let mut results = Vec::new();
        let taken = self.packets.extract_if(.., |held| match judge(held) {
            Some(result) => {
                results.push(result);
                true
            }
            None => false,
        });
        let taken: Vec<_> = taken.collect();
        let settled: Vec<_> = taken.into_iter().zip(results).collect();
        for (held, _) in &settled {
            let wanted = (PortId(held.rewrite.action.egress), held.next_hop);
            if let Some(asked) = self.asked.iter_mut().find(|asked| asked.wanted == wanted) {
                asked.waiting = asked.waiting.saturating_sub(1);
            }
        }
        self.asked.retain(|asked| asked.waiting > 0);
        settled
    }

    /// Takes out everything.
    pub fn drain(&mut self) -> impl Iterator<Item = Held<F>> {
        self.asked.clear();
        self.packets.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(last: u8) -> Held<u8> {
        Held {
            frame: last,
            headers: Headers::default(),
            rewrite: Rewrite::nothing(),
            extra: Extra::nothing(),
            forwarded: false,
            next_hop: IpAddr::from([192, 0, 2, last]),
            since: Now(1),
            packet: 0,
        }
    }

    #[test]
    fn silent_neighbours_are_asked_for_in_turn() {
        let mut hold = Hold::<u8>::default();
        let wanted = |last: u8| (PortId(0), IpAddr::from([192, 0, 2, last]));
        assert!(hold.should_ask_silent(wanted(1), Now(5), 10));
        assert!(!hold.should_ask_silent(wanted(1), Now(14), 10));
        assert!(hold.should_ask_silent(wanted(2), Now(14), 10), "one does not stand for all");
        assert!(hold.should_ask_silent(wanted(1), Now(15), 10));
        let asked = (0..=255).filter(|last| hold.should_ask_silent(wanted(*last), Now(16), 10)).count();
        assert_eq!(asked, SILENT - 2, "bounded");
    }

    #[test]
    fn one_neighbour_cannot_take_all_room() {
        let mut hold = Hold::default();
        for _ in 0..PER_NEIGHBOUR {
            assert!(hold.push(held(1)).is_ok());
        }
        assert!(hold.push(held(1)).is_err());
        assert!(hold.push(held(2)).is_ok());
    }

    #[test]
    fn the_whole_is_bounded() {
        let mut hold = Hold::default();
        for n in 0..CAPACITY {
            assert!(hold.push(held((n / PER_NEIGHBOUR) as u8)).is_ok());
        }
        assert!(hold.push(held(255)).is_err());
        assert_eq!(hold.drain().count(), CAPACITY);
        assert!(hold.is_empty());
    }

    #[test]
    fn settled_packets_leave_in_order_and_make_room() {
        let mut hold = Hold::default();
        for last in [1, 2, 1] {
            assert!(hold.push(held(last)).is_ok());
        }
        let settled = hold.settle(|held| (held.frame == 1).then_some(()));
        assert_eq!(settled.len(), 2);
        assert_eq!(hold.len(), 1);
        assert!(hold.should_ask((PortId(0), IpAddr::from([192, 0, 2, 2])), Now(5), 10));
        assert!(!hold.should_ask((PortId(0), IpAddr::from([192, 0, 2, 2])), Now(6), 10));
        assert!(
            !hold.should_ask((PortId(0), IpAddr::from([192, 0, 2, 1])), Now(7), 10),
            "nobody waits for it any more"
        );
        assert_eq!(hold.overdue(Now(15), 10).count(), 1);
    }
}
