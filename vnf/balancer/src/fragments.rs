//! Later fragments go the way of their first one. They have no ports, so it is remembered by the datagram's identification.
//!
//! Nothing is held back: a fragment that comes before its first one, or of whose datagram there was no room to remember, is
//! dropped and counted. The backend or the client reassembles, and sees what does not fit together.

use std::time::Duration;

use throughway_packet::{Flags, Headers};
use throughway_session::{Class, Config, NewSession, Seed, SessionKey, SessionTable};
use throughway_vnf::Now;

use crate::function::Way;

/// Datagrams in pieces that are remembered at a time.
const DATAGRAMS: u32 = 8192;

/// The longest that fragments are waited for: as Linux reassembles.
const LONGEST: Duration = Duration::from_secs(30);

/// The reverse key of a datagram is never looked up; this zone keeps it apart from every forward key.
const REVERSE: u16 = 1;

/// Datagrams of which later fragments are awaited.
#[derive(Debug)]
pub(crate) struct Fragments {
    ways: SessionTable<Way>,
}

impl Fragments {
    pub(crate) fn new(seed: Seed) -> Fragments {
        Fragments { ways: SessionTable::new(Config::new(DATAGRAMS, seed)) }
    }

    /// The way of a later fragment.
    pub(crate) fn way(&self, key: &SessionKey, now: Now) -> Option<Way> {
        self.ways.lookup_with(key, now, |_, way, _| *way)
    }

    /// Remembers the way of a first one.
    pub(crate) fn remember(&self, key: SessionKey, way: Way, now: Now) {
        let known = self.ways.lookup_with(&key, now, |_, known, meta| {
            *known = way;
            meta.touch(now, LONGEST);
        });
        if known.is_none() {
            let reverse = SessionKey { zone: REVERSE, ..key.reversed() };
            let new =
                NewSession { forward: key, reverse, class: Class::HalfOpen, timeout: LONGEST, state: way };
            // Without room the later ones are dropped, and counted then.
            let _ = self.ways.insert(new, now, |_| ());
        }
    }

    pub(crate) fn expire(&self, now: Now, budget: usize) {
        self.ways.expire(now, budget, |_| ());
    }
}

/// What the fragments of one datagram have in common (RFC 791, section 3.2; RFC 8200, section 4.5).
pub(crate) fn datagram(frame: &[u8], headers: &Headers) -> Option<SessionKey> {
    if !headers.flags.has(Flags::FRAGMENT) {
        return None;
    }
    let packet = frame.get(usize::from(headers.l3)..usize::from(headers.end))?;
    let [a, b, c, d] = if headers.is_ipv4() {
        let &[high, low] = packet.get(4..6)?.first_chunk::<2>()?;
        [0, 0, high, low]
    } else {
        identification(packet)?
    };
    Some(SessionKey {
        source: headers.key.source,
        destination: headers.key.destination,
        source_port: [a, b],
        destination_port: [c, d],
        zone: 0,
        protocol: if headers.is_ipv4() { headers.key.protocol } else { 0 },
    })
}

/// Of the fragment header of an IPv6 packet.
fn identification(packet: &[u8]) -> Option<[u8; 4]> {
    let mut next = *packet.get(6)?;
    let mut at = 40;
    for _ in 0..=throughway_packet::parse::MAX_EXTENSIONS {
        let &[following, len, _, _, a, b, c, d] = packet.get(at..)?.first_chunk::<8>()?;
        at += match next {
            44 => return Some([a, b, c, d]),
            0 | 43 | 60 => (usize::from(len) + 1) * 8,
            51 => (usize::from(len) + 2) * 4,
            _ => return None,
        };
        next = following;
    }
    None
}
