//! Fragments: later ones are translated as their first one was.
//!
//! Only the first has ports. Nothing is held back: one that comes before its first is dropped, since nobody can say yet whose it is.
//! Overlaps and duplicates are for the receiver, or for a firewall in the same chain.

use std::time::Duration;

use throughway_packet::Headers;
use throughway_packet::parse::MAX_EXTENSIONS;
use throughway_session::{
    Class, Config, NewSession, Seed, SessionId, SessionKey, SessionTable, Side, WhenFull,
};
use throughway_vnf::{DropReason, Now};

/// How long fragments are waited for. RFC 8200 allows 60 s; identifications come again sooner (RFC 6864, section 4.3).
const WAIT: Duration = Duration::from_secs(30);

/// Datagrams that are looked at for their age between two batches.
const AGED: usize = 16;

/// This bit keeps reverse keys, which are never looked up, apart from forward keys.
const REVERSE: u16 = 1 << 15;

/// What became of a first fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// It went on as it was.
    Untouched,
    /// It was translated by this session.
    Session(SessionId, Side),
    /// It was dropped.
    Dropped(DropReason),
}

/// Datagrams whose fragments are awaited.
#[derive(Debug)]
pub(crate) struct Fragments {
    table: SessionTable<Fate>,
}

impl Fragments {
    pub(crate) fn new(datagrams: u32, seed: Seed) -> Fragments {
        // The oldest makes room: all are of the class that may be displaced.
        let config = Config::new(datagrams, seed).half_open(datagrams, WhenFull::EvictHalfOpen);
        Fragments { table: SessionTable::new(config) }
    }

    /// What became of the first fragment of a datagram.
    pub(crate) fn find(&self, key: &SessionKey, now: Now) -> Option<Fate> {
        self.table.lookup_with(key, now, |_, fate, _| *fate)
    }

    /// Keeps what became of a first fragment. Sent again, it takes the place of what was known.
    pub(crate) fn remember(&self, key: SessionKey, fate: Fate, now: Now) {
        if self.table.lookup_with(&key, now, |_, known, meta| {
            *known = fate;
            meta.touch(now, WAIT);
        }) == Some(())
        {
            return;
        }
        let reverse = SessionKey { zone: key.zone | REVERSE, ..key };
        let new = NewSession { forward: key, reverse, class: Class::HalfOpen, timeout: WAIT, state: fate };
        // When there is no room, later fragments end as those that come before their first.
        let _ = self.table.insert(new, now, |_| ());
    }

    pub(crate) fn expire(&self, now: Now) {
        self.table.expire(now, AGED, |_| ());
    }
}

/// What the fragments of one datagram have in common. `headers` are those of the packet as it stands, a fragment.
pub(crate) fn datagram_key(bytes: &[u8], headers: &Headers) -> Option<SessionKey> {
    let packet = bytes.get(usize::from(headers.l3)..usize::from(headers.end))?;
    let [a, b, c, d] = if headers.is_ipv4() {
        let [c, d] = *packet.get(4..)?.first_chunk::<2>()?;
        [0, 0, c, d]
    } else {
        ipv6_identification(packet)?
    };
    Some(SessionKey {
        source: headers.key.source,
        destination: headers.key.destination,
        source_port: [a, b],
        destination_port: [c, d],
        zone: headers.key.ingress & !REVERSE,
        // RFC 8200, section 4.5: not part of it in IPv6.
        protocol: if headers.is_ipv4() { headers.key.protocol } else { 0 },
    })
}

fn ipv6_identification(packet: &[u8]) -> Option<[u8; 4]> {
    let mut next = *packet.get(6)?;
    let mut at = 40;
    for _ in 0..=MAX_EXTENSIONS {
        let &[following, len, _, _, a, b, c, d] = packet.get(at..)?.first_chunk::<8>()?;
        let len = usize::from(len);
        at += match next {
            44 => return Some([a, b, c, d]),
            0 | 43 | 60 => (len + 1) * 8,
            51 => (len + 2) * 4,
            _ => return None,
        };
        next = following;
    }
    None
}
