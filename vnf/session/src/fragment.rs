//! Fragments: which datagram one is of, and what became of that datagram's first fragment.
//!
//! Only the first fragment has ports (RFC 791, section 3.2; RFC 8200, section 4.5), so later ones are known by the datagram's
//! identification. Nothing is held back here: a fragment that comes before its first one finds nothing. A function that then drops it
//! as `FragmentBeforeFirst`, and has changed nothing, sees it again: the worker holds frames.

use std::time::Duration;

use throughway_packet::parse::MAX_EXTENSIONS;
use throughway_packet::{Flags, Headers};
use throughway_vnf::Now;

use crate::{Class, Config, NewSession, Seed, SessionKey, SessionTable, WhenFull};

/// Datagrams that are looked at for their age at a time.
const AGED: usize = 16;

/// This bit of the zone keeps reverse keys, which are never looked up, apart from forward keys.
const REVERSE: u16 = 1 << 15;

/// A fragment's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// What the fragments of one datagram have in common: addresses, identification (where a session has its ports), interface
    /// (as the zone) and, in IPv4, the protocol.
    pub datagram: SessionKey,
    /// Bytes of the datagram's fragmentable part that are before it.
    pub start: u16,
    /// … and up to its end.
    pub end: u16,
    /// Whether it is the datagram's last.
    pub last: bool,
}

impl Piece {
    /// Of a frame with these headers, their offsets being those of its bytes. `None`: it is no fragment, or ends beyond 65,535 bytes.
    pub fn of(frame: &[u8], headers: &Headers) -> Option<Piece> {
        if !headers.flags.has(Flags::FRAGMENT) {
            return None;
        }
        let packet = frame.get(usize::from(headers.l3)..usize::from(headers.end))?;
        let (identification, word, before) =
            if headers.is_ipv4() { of_ipv4(packet)? } else { of_ipv6(packet)? };
        let start = word & 0xfff8;
        let end = start.checked_add(u16::try_from(packet.len().checked_sub(before)?).ok()?)?;
        let [a, b, c, d] = identification.to_be_bytes();
        let datagram = SessionKey {
            source: headers.key.source,
            destination: headers.key.destination,
            source_port: [a, b],
            destination_port: [c, d],
            zone: headers.key.ingress & !REVERSE,
            // RFC 8200, section 4.5: not part of it in IPv6.
            protocol: if headers.is_ipv4() { headers.key.protocol } else { 0 },
        };
        Some(Piece { datagram, start, end, last: word & 1 == 0 })
    }

    /// Whether it is the datagram's first.
    pub const fn is_first(&self) -> bool {
        self.start == 0
    }

    /// A second key for the table in which a datagram is kept: nothing is ever found by it.
    pub const fn reverse(datagram: SessionKey) -> SessionKey {
        SessionKey { zone: datagram.zone | REVERSE, ..datagram }
    }
}

/// Identification, offset in bytes with "more" as the lowest bit, and how long what precedes the data is.
fn of_ipv4(packet: &[u8]) -> Option<(u32, u16, usize)> {
    let header = packet.first_chunk::<20>()?;
    let word = u16::from_be_bytes([header[6], header[7]]);
    let identification = u16::from_be_bytes([header[4], header[5]]);
    Some((identification.into(), word << 3 | word >> 13 & 1, usize::from(header[0] & 0x0f) * 4))
}

/// As [`of_ipv4`], from the fragment header.
fn of_ipv6(packet: &[u8]) -> Option<(u32, u16, usize)> {
    let mut next = *packet.get(6)?;
    let mut at = 40;
    for _ in 0..=MAX_EXTENSIONS {
        let &[following, len, high, low, a, b, c, d] = packet.get(at..)?.first_chunk::<8>()?;
        let len = usize::from(len);
        at += match next {
            44 => {
                let word = u16::from_be_bytes([high, low]) & 0xfff9;
                return Some((u32::from_be_bytes([a, b, c, d]), word, at + 8));
            }
            0 | 43 | 60 => (len + 1) * 8,
            51 => (len + 2) * 4,
            _ => return None,
        };
        next = following;
    }
    None
}

/// What became of the first fragments of datagrams, for those that follow. Bounded: the oldest makes room.
#[derive(Debug)]
pub struct Datagrams<T> {
    fates: SessionTable<T>,
    wait: Duration,
}

impl<T: Copy> Datagrams<T> {
    /// Room for so many datagrams, each of them kept for `wait` after its first fragment.
    pub fn new(capacity: u32, wait: Duration, seed: Seed) -> Datagrams<T> {
        // All are of the class that may be displaced.
        let config = Config::new(capacity, seed).half_open(capacity, WhenFull::EvictHalfOpen);
        Datagrams { fates: SessionTable::new(config), wait }
    }

    /// What became of the first fragment of a datagram ([`Piece::datagram`]).
    pub fn find(&self, datagram: &SessionKey, now: Now) -> Option<T> {
        self.fates.lookup_with(datagram, now, |_, fate, _| *fate)
    }

    /// Keeps what became of a first fragment. Sent again, it takes the place of what was known.
    pub fn remember(&self, datagram: SessionKey, fate: T, now: Now) {
        let known = self.fates.lookup_with(&datagram, now, |_, known, meta| {
            *known = fate;
            meta.touch(now, self.wait);
        });
        if known.is_none() {
            let (forward, reverse) = (datagram, Piece::reverse(datagram));
            let class = Class::HalfOpen;
            let new = NewSession { forward, reverse, class, timeout: self.wait, state: fate };
            // Without room, later fragments end as those that come before their first.
            let _ = self.fates.insert(new, now, |_| ());
        }
    }

    /// Forgets datagrams whose time is over: a bounded slice.
    pub fn expire(&self, now: Now) {
        self.fates.expire(now, AGED, |_| ());
    }
}
