//! What functions want to have again after a restart: sessions as records, written when an instance ends in an orderly way and read
//! by the next one.
//!
//! A function knows what its records say, whoever calls it where they are kept: it writes them to a [`Sink`] and reads them from
//! any source of byte strings. Times are written as durations (how long ago, how long still), so that no clock of one instance means
//! anything to another.
//!
//! Records come from a file: nothing that stands in them is believed before it is checked, and no bytes make a reader panic.

use std::time::Duration;

use throughway_packet::PortId;

use crate::{Now, nanos};

/// The most bytes of one record.
pub const LONGEST: usize = 1 << 12;

/// The first byte of a record that stands for one session (or connection): these are counted.
pub const SESSION: u8 = 0;

/// Where records go.
pub trait Sink {
    /// Takes one record of at most [`LONGEST`] bytes. `false`: there is no room for it, nor for any after it.
    fn put(&mut self, record: &[u8]) -> bool;
}

impl Sink for Vec<Vec<u8>> {
    fn put(&mut self, record: &[u8]) -> bool {
        self.push(record.to_vec());
        true
    }
}

/// What the instance that reads knows of the time between.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// Now, by the clock of the instance that reads.
    pub now: Now,
    /// How long ago it was written.
    pub gap: Duration,
    /// What the ports of the instance that wrote are now, by their numbers then; `None`: they are gone.
    pub ports: &'a [Option<PortId>],
}

impl Moment<'_> {
    /// The point in time that was so long before the writing.
    pub fn before(&self, span: Duration) -> Now {
        Now(self.now.0.saturating_sub(nanos(self.gap.saturating_add(span))))
    }

    /// What a port is now.
    pub fn port(&self, then: u16) -> Option<PortId> {
        self.ports.get(usize::from(then)).copied().flatten()
    }
}

/// Why a session did not come back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Lost {
    /// Its record cannot be read, or says what cannot be.
    Damaged,
    /// Its timeout was over.
    Expired,
    /// The table, or its share for such sessions, is full.
    Full,
    /// Another session has one of its keys.
    Conflict,
    /// Its source or host has as many as it may.
    Limit,
    /// The interface it came in or left by is gone.
    Interface,
    /// The outside address it was translated to is in no pool any more.
    Address,
    /// Its outside port is somebody else's now.
    Port,
    /// The block of ports that its port was of cannot be its host's any more.
    Block,
    /// The function is gone, or of another kind.
    Function,
}

impl Lost {
    /// All, in the order of [`Restored::lost`].
    pub const ALL: [Lost; 10] = [
        Lost::Damaged,
        Lost::Expired,
        Lost::Full,
        Lost::Conflict,
        Lost::Limit,
        Lost::Interface,
        Lost::Address,
        Lost::Port,
        Lost::Block,
        Lost::Function,
    ];

    /// Its name in metrics and output.
    pub const fn label(self) -> &'static str {
        match self {
            Lost::Damaged => "damaged",
            Lost::Expired => "expired",
            Lost::Full => "full",
            Lost::Conflict => "conflict",
            Lost::Limit => "limit",
            Lost::Interface => "interface-gone",
            Lost::Address => "address-gone",
            Lost::Port => "port-taken",
            Lost::Block => "block-gone",
            Lost::Function => "function-gone",
        }
    }
}

/// What came back of one function.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Restored {
    /// Sessions that are there again.
    pub sessions: u64,
    /// Sessions that are not, in the order of [`Lost::ALL`].
    pub lost: [u64; Lost::ALL.len()],
}

impl Restored {
    /// Counts what became of one session.
    pub fn count(&mut self, outcome: Result<(), Lost>) {
        match outcome {
            Ok(()) => self.sessions += 1,
            Err(lost) => self.lose(lost, 1),
        }
    }

    /// Counts sessions that did not come back.
    pub fn lose(&mut self, lost: Lost, sessions: u64) {
        if let Some(count) = self.lost.get_mut(lost as usize) {
            *count += sessions;
        }
    }

    /// How many did not come back, whyever.
    pub fn all_lost(&self) -> u64 {
        self.lost.iter().sum()
    }
}

/// A function's sessions, as what all its workers share has them.
pub trait Save {
    /// Writes all sessions that are alive, and what else the next instance must know for them. To be called when nobody works on
    /// them any more. Says how many sessions were not written because the sink was full.
    fn save(&self, now: Now, sink: &mut dyn Sink) -> u64;

    /// Takes over what an earlier instance has written; to be called before the first packet. What is not true any more is left
    /// out and counted.
    fn restore(&self, records: &mut dyn Iterator<Item = &[u8]>, moment: &Moment<'_>) -> Restored;
}

/// A record in the making.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record(Vec<u8>);

impl Record {
    /// One that begins with this byte.
    pub fn of(kind: u8) -> Record {
        Record(vec![kind])
    }

    /// Begins anew, in the same memory.
    pub fn begin(&mut self, kind: u8) -> &mut Record {
        self.0.clear();
        self.byte(kind)
    }

    /// A byte.
    pub fn byte(&mut self, byte: u8) -> &mut Record {
        self.0.push(byte);
        self
    }

    /// A number: seven bits a byte, the lowest first, each byte but the last with its highest bit set (LEB128).
    pub fn number(&mut self, number: impl Into<u64>) -> &mut Record {
        let mut rest = number.into();
        while rest >= 0x80 {
            self.0.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.byte(rest as u8)
    }

    /// A span of time, in whole ms.
    pub fn span(&mut self, span: Duration) -> &mut Record {
        self.number(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
    }

    /// Bytes whose number the reader knows.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Record {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Text, with its length; cut to 1 KiB at a character's border.
    pub fn text(&mut self, text: &str) -> &mut Record {
        let mut end = text.len().min(1 << 10);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let bytes = text.as_bytes().get(..end).unwrap_or_default();
        self.number(bytes.len() as u64).bytes(bytes)
    }

    /// All of it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What is left of a record that is being read. Everything returns `None` where the bytes do not have it.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Of a record.
    pub const fn of(record: &'a [u8]) -> Fields<'a> {
        Fields(record)
    }

    /// A byte.
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// See [`Record::number`].
    pub fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// A number that fits.
    pub fn small<T: TryFrom<u64>>(&mut self) -> Option<T> {
        T::try_from(self.number()?).ok()
    }

    /// See [`Record::span`].
    pub fn span(&mut self) -> Option<Duration> {
        self.number().map(Duration::from_millis)
    }

    /// So many bytes.
    pub fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    /// See [`Record::text`].
    pub fn text(&mut self) -> Option<&'a str> {
        let length = self.small::<usize>()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    /// That nothing is left.
    pub fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let numbers = [0, 1, 0x7f, 0x80, 0x3fff, 0x4000, u64::from(u32::MAX), u64::MAX - 1, u64::MAX];
        let mut record = Record::of(7);
        for number in numbers {
            record.number(number);
        }
        record.span(Duration::from_micros(1500)).bytes(&[1, 2, 3]).text("naïve").text("");
        let mut fields = Fields::of(record.as_bytes());
        assert_eq!(fields.byte(), Some(7));
        assert_eq!(numbers.map(|_| fields.number()), numbers.map(Some));
        assert_eq!(fields.span(), Some(Duration::from_millis(1)));
        assert_eq!(
            (fields.bytes::<3>(), fields.text(), fields.text()),
            (Some([1, 2, 3]), Some("naïve"), Some(""))
        );
        assert_eq!(fields.end(), Some(()));
        assert_eq!(
            (fields.byte(), fields.number(), fields.bytes::<1>(), fields.text()),
            (None, None, None, None)
        );
    }

    #[test]
    fn numbers_and_texts_that_cannot_be_are_refused() {
        // More than 64 bits, and without an end.
        assert_eq!(Fields::of(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).number(), None);
        assert_eq!(Fields::of(&[0xff; 11]).number(), None);
        assert_eq!(Fields::of(&[0x80]).number(), None);
        assert_eq!(Fields::of(&[0x80, 0x02]).small::<u8>(), None);
        // Longer than there is, and not UTF-8.
        assert_eq!(Fields::of(&[2, b'a']).text(), None);
        assert_eq!(Fields::of(&[1, 0xff]).text(), None);
        let long = "ä".repeat(700);
        assert_eq!(Fields::of(Record::default().text(&long).as_bytes()).text().map(str::len), Some(1024));
    }

    #[test]
    fn the_gap_counts_and_no_time_is_before_the_clock() {
        let ports = [Some(PortId(4)), None];
        let moment = Moment { now: Now(10_000_000_000), gap: Duration::from_secs(3), ports: &ports };
        assert_eq!(moment.before(Duration::from_secs(2)), Now(5_000_000_000));
        assert_eq!(moment.before(Duration::MAX), Now(0));
        assert_eq!((moment.port(0), moment.port(1), moment.port(2)), (Some(PortId(4)), None, None));
    }
}
