//! Captures: what packets that somebody asked for look like as they come and as they leave, and why others do not leave.
//!
//! * [`Filter`]: which packets are asked for.
//! * [`Ring`]: how they get from a worker to whoever reads, without either waiting for the other; [`Record`] is what is written of
//!   a packet.
//! * [`Step`]: what one function made of a traced packet.
//!
//! The worker's side is in [`crate::worker`] (`tap.rs`), the reader's in [`crate::control::capture`].

mod filter;
mod ring;
mod step;

pub use filter::{Ends, Filter, Form};
pub use ring::{Record, Ring, What};
pub(crate) use step::name as short;
pub use step::{STEPS, Step};

/// Captures that may be under way at a time.
pub const MOST: usize = 4;

/// What is kept of a packet at least, in bytes: all headers that are common, IPv6 and TCP behind two VLAN tags among them.
pub const SHORTEST: usize = 96;
/// And at most: longer than any frame.
pub const LONGEST: usize = 9728;

/// Memory for what waits to be read, in bytes: of each worker and capture.
const ROOM: usize = 16 << 20;
/// Records that wait at most, however short.
const RECORDS: usize = 1 << 15;

/// How many records of up to `longest` bytes may wait; those of a capture that `traces` have the steps of a packet beside them.
pub const fn room_for(longest: usize, traces: bool) -> usize {
    let steps = if traces { STEPS * size_of::<Step>() } else { 0 };
    let records = ROOM / (longest + steps + size_of::<Record>());
    if records < RECORDS { records } else { RECORDS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_takes_no_more_memory_than_is_meant_for_it() {
        for longest in [SHORTEST, 4096, LONGEST] {
            let (plain, traced) = (room_for(longest, false), room_for(longest, true));
            let record = longest + size_of::<Record>();
            assert!(plain * record <= ROOM && plain > ROOM / LONGEST / 2);
            assert!(traced * (record + STEPS * size_of::<Step>()) <= ROOM && traced > ROOM / LONGEST / 2);
        }
    }
}
