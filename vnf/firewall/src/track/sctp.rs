//! SCTP associations (RFC 9260), by their chunks and verification tags. States are named as in conntrack.
//!
//! What decides sits in chunks, behind the ports, so every packet is looked at. Tags are checked (section 8.5): without them,
//! anybody who guesses ports could end an association.

use std::time::Duration;

use throughway_session::{Class, Side};
use throughway_vnf::save::{Fields, Record};

use super::Fit;
use crate::options::SctpTimeouts;

/// At most this many chunks of a packet are read; those behind are data in every packet that a host sends.
const MOST_CHUNKS: usize = 16;

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

/// What of a packet's chunks is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Chunks {
    tag: u32,
    /// A bit for each type below 16.
    types: u16,
    count: usize,
    /// The initiate tag of an INIT or INIT ACK.
    initiate: u32,
    /// The T bit of an ABORT or SHUTDOWN COMPLETE: the tag is the receiver's own, sent back.
    reflected: bool,
}

impl Chunks {
    /// Of the bytes from the common header on. `whole`: not a first fragment, which may end inside a chunk. `None`: no chunk, or
    /// one whose length cannot be.
    pub(crate) fn parse(packet: &[u8], whole: bool) -> Option<Chunks> {
        let (common, mut rest) = packet.split_first_chunk::<12>()?;
        let tag = u32::from_be_bytes([common[4], common[5], common[6], common[7]]);
        let mut chunks = Chunks { tag, types: 0, count: 0, initiate: 0, reflected: false };
        while chunks.count < MOST_CHUNKS {
            let Some(&[kind, flags, high, low]) = rest.first_chunk::<4>() else { break };
            let len = usize::from(u16::from_be_bytes([high, low]));
            if len < 4 || (whole && len > rest.len()) {
                return None;
            }
            if kind < 16 {
                chunks.types |= 1 << kind;
            }
            match kind {
                INIT | INIT_ACK => {
                    let &[_, _, _, _, a, b, c, d] = rest.first_chunk::<8>()?;
                    chunks.initiate = u32::from_be_bytes([a, b, c, d]);
                }
                ABORT | SHUTDOWN_COMPLETE => chunks.reflected = flags & 1 != 0,
                _ => {}
            }
            chunks.count += 1;
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
        (chunks.count > 0).then_some(chunks)
    }

    fn has(&self, kind: u8) -> bool {
        self.types >> kind & 1 != 0
    }

    /// RFC 9260, section 4.3 (and 6.10): INIT, INIT ACK and SHUTDOWN COMPLETE come alone; an INIT has the tag 0.
    fn is_sound(&self) -> bool {
        let alone = self.has(INIT) || self.has(INIT_ACK) || self.has(SHUTDOWN_COMPLETE);
        let initiates = self.has(INIT) || self.has(INIT_ACK);
        (!alone || self.count == 1)
            && (!initiates || self.initiate != 0)
            && (self.has(INIT) == (self.tag == 0))
    }
}

/// A state of an association.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum State {
    /// INIT was seen.
    CookieWait,
    /// The cookie is on its way back.
    CookieEchoed,
    Established,
    /// One side has no more to send.
    ShutdownSent,
    /// … and neither has the other.
    ShutdownAckSent,
    /// Shut down or aborted.
    Closed,
}

/// An association.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Association {
    state: State,
    /// The tag that the packets of each side carry.
    tags: [u32; 2],
    /// Tags of a handshake that is under way: the first one, or that of a restart (section 5.2).
    fresh: [u32; 2],
}

impl Association {
    /// The association that a packet opens: only an INIT does.
    pub(crate) fn open(chunks: &Chunks) -> Option<Association> {
        if !chunks.is_sound() || !chunks.has(INIT) {
            return None;
        }
        Some(Association { state: State::CookieWait, tags: [0; 2], fresh: [0, chunks.initiate] })
    }

    /// Writes it for a restart.
    pub(crate) fn write(&self, record: &mut Record) {
        record.byte(self.state as u8);
        for tag in self.tags.into_iter().chain(self.fresh) {
            record.bytes(&tag.to_be_bytes());
        }
    }

    /// Reads what [`Association::write`] wrote.
    pub(crate) fn read(fields: &mut Fields<'_>) -> Option<Association> {
        use State::{Closed, CookieEchoed, CookieWait, Established, ShutdownAckSent, ShutdownSent};
        const STATES: [State; 6] =
            [CookieWait, CookieEchoed, Established, ShutdownSent, ShutdownAckSent, Closed];
        let state = *STATES.get(usize::from(fields.byte()?))?;
        let mut tag = || fields.bytes().map(u32::from_be_bytes);
        Some(Association { state, tags: [tag()?, tag()?], fresh: [tag()?, tag()?] })
    }

    pub(crate) fn packet(&mut self, side: Side, chunks: &Chunks) -> Fit {
        use State::{Closed, CookieEchoed, CookieWait, Established, ShutdownAckSent, ShutdownSent};
        if !chunks.is_sound() {
            return Fit::Not;
        }
        let (own, other) = (side as usize, side.other() as usize);
        if chunks.has(INIT) {
            if self.state == Closed {
                return Fit::Reopens;
            }
            // Sent again, both at once, or a restart: the new tags hold once the cookie has come back.
            self.fresh[other] = chunks.initiate;
            return Fit::Fits;
        }
        if chunks.has(INIT_ACK) {
            if chunks.tag != self.fresh[own] {
                return Fit::Not;
            }
            self.fresh[other] = chunks.initiate;
            return Fit::Fits;
        }
        if chunks.has(COOKIE_ECHO) && chunks.tag == self.fresh[own] && self.fresh[other] != 0 {
            self.tags = self.fresh;
            self.state = CookieEchoed;
            return Fit::Fits;
        }
        if chunks.has(ABORT) || chunks.has(SHUTDOWN_COMPLETE) {
            let side = if chunks.reflected { other } else { own };
            let known = |tags: [u32; 2]| tags[side] != 0 && tags[side] == chunks.tag;
            let opening = matches!(self.state, CookieWait | CookieEchoed);
            if !(known(self.tags) || opening && known(self.fresh)) {
                return Fit::Not;
            }
            if chunks.has(ABORT) || self.state == ShutdownAckSent {
                self.state = Closed;
            }
            return Fit::Fits;
        }
        if chunks.tag != self.tags[own] {
            return Fit::Not;
        }
        self.state = match self.state {
            CookieEchoed if chunks.has(COOKIE_ACK) => Established,
            Established if chunks.has(SHUTDOWN) => ShutdownSent,
            Established | ShutdownSent if chunks.has(SHUTDOWN_ACK) => ShutdownAckSent,
            state => state,
        };
        Fit::Fits
    }

    pub(crate) const fn class(&self) -> Class {
        match self.state {
            State::CookieWait | State::CookieEchoed => Class::HalfOpen,
            State::Established => Class::Established,
            State::ShutdownSent | State::ShutdownAckSent | State::Closed => Class::Closing,
        }
    }

    pub(crate) const fn timeout(&self, timeouts: &SctpTimeouts) -> Duration {
        match self.state {
            State::CookieWait | State::CookieEchoed => timeouts.opening,
            State::Established => timeouts.established,
            State::ShutdownSent | State::ShutdownAckSent => timeouts.shutdown,
            State::Closed => timeouts.closed,
        }
    }

    pub(crate) const fn label(&self) -> &'static str {
        match self.state {
            State::CookieWait => "cookie-wait",
            State::CookieEchoed => "cookie-echoed",
            State::Established => "established",
            State::ShutdownSent => "shutdown-sent",
            State::ShutdownAckSent => "shutdown-ack-sent",
            State::Closed => "closed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use State::*;

    /// A packet with one chunk; `value` follows the chunk's header.
    fn packet(tag: u32, kind: u8, flags: u8, value: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 80, 0, 81];
        bytes.extend(tag.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend([kind, flags]);
        bytes.extend((4 + value.len() as u16).to_be_bytes());
        bytes.extend(value);
        bytes
    }

    fn chunks(tag: u32, kind: u8, value: &[u8]) -> Chunks {
        Chunks::parse(&packet(tag, kind, 0, value), true).unwrap()
    }

    const I: u32 = 0x1111_1111;
    const J: u32 = 0x2222_2222;

    fn established() -> Association {
        let mut a = Association::open(&chunks(0, INIT, &I.to_be_bytes())).unwrap();
        assert_eq!(a.class(), Class::HalfOpen);
        assert_eq!(a.packet(Side::Reverse, &chunks(I, INIT_ACK, &J.to_be_bytes())), Fit::Fits);
        assert_eq!(a.packet(Side::Forward, &chunks(J, COOKIE_ECHO, b"cook")), Fit::Fits);
        assert_eq!(a.state, CookieEchoed);
        assert_eq!(a.packet(Side::Reverse, &chunks(I, COOKIE_ACK, &[])), Fit::Fits);
        assert_eq!((a.state, a.class()), (Established, Class::Established));
        a
    }

    #[test]
    fn four_way_handshake_data_and_shutdown() {
        let mut a = established();
        assert_eq!(a.packet(Side::Forward, &chunks(J, 0, b"data")), Fit::Fits);
        assert_eq!(a.packet(Side::Reverse, &chunks(I, 3, b"sack")), Fit::Fits);
        assert_eq!(a.packet(Side::Forward, &chunks(J, SHUTDOWN, &[0; 4])), Fit::Fits);
        assert_eq!(a.state, ShutdownSent);
        assert_eq!(a.packet(Side::Reverse, &chunks(I, SHUTDOWN_ACK, &[])), Fit::Fits);
        assert_eq!(a.state, ShutdownAckSent);
        assert_eq!(a.packet(Side::Forward, &chunks(J, SHUTDOWN_COMPLETE, &[])), Fit::Fits);
        assert_eq!(a.state, Closed);
        assert_eq!(a.packet(Side::Reverse, &chunks(0, INIT, &[0, 0, 0, 9])), Fit::Reopens);
    }

    #[test]
    fn forged_tags_change_nothing() {
        let mut a = established();
        let before = a;
        for kind in [ABORT, SHUTDOWN, SHUTDOWN_COMPLETE, 0, COOKIE_ACK, COOKIE_ECHO, INIT_ACK] {
            for side in [Side::Forward, Side::Reverse] {
                assert_eq!(a.packet(side, &chunks(0x3333_3333, kind, &[0, 0, 0, 7])), Fit::Not, "{kind}");
            }
        }
        // The tag of the other direction, without and with the T bit.
        assert_eq!(a.packet(Side::Reverse, &chunks(J, ABORT, &[])), Fit::Not);
        assert_eq!(a, before);
        let reflected = Chunks::parse(&packet(J, ABORT, 1, &[]), true).unwrap();
        assert_eq!(a.packet(Side::Reverse, &reflected), Fit::Fits);
        assert_eq!(a.state, Closed);
    }

    #[test]
    fn a_refused_and_a_restarted_association() {
        let mut refused = Association::open(&chunks(0, INIT, &I.to_be_bytes())).unwrap();
        assert_eq!(refused.packet(Side::Reverse, &chunks(I, ABORT, &[])), Fit::Fits);
        assert_eq!(refused.state, Closed);
        let mut a = established();
        assert_eq!(a.packet(Side::Reverse, &chunks(0, INIT, &[0, 0, 0, 5])), Fit::Fits);
        assert_eq!(a.packet(Side::Forward, &chunks(J, 0, b"old ")), Fit::Fits);
        assert_eq!(a.packet(Side::Forward, &chunks(5, INIT_ACK, &[0, 0, 0, 6])), Fit::Fits);
        assert_eq!(a.packet(Side::Reverse, &chunks(6, COOKIE_ECHO, &[])), Fit::Fits);
        assert_eq!(a.packet(Side::Forward, &chunks(5, COOKIE_ACK, &[])), Fit::Fits);
        assert_eq!(a.state, Established);
        assert_eq!(a.packet(Side::Forward, &chunks(J, 0, b"old ")), Fit::Not);
    }

    #[test]
    fn malformed_packets_are_none() {
        assert_eq!(Chunks::parse(&[0; 11], true), None);
        assert_eq!(Chunks::parse(&[0; 12], true), None);
        assert_eq!(Chunks::parse(&packet(1, 0, 0, b"long")[..18], true), None);
        assert!(Chunks::parse(&packet(1, 0, 0, b"long")[..18], false).is_some());
        let mut short = packet(1, 0, 0, &[]);
        short[15] = 3;
        assert_eq!(Chunks::parse(&short, true), None);
        // Two INITs, INIT with a tag, INIT without initiate tag.
        let mut two = packet(0, INIT, 0, &I.to_be_bytes());
        two.extend([INIT, 0, 0, 8, 1, 1, 1, 1]);
        assert_eq!(Association::open(&Chunks::parse(&two, true).unwrap()), None);
        assert_eq!(Association::open(&chunks(1, INIT, &I.to_be_bytes())), None);
        assert_eq!(Association::open(&chunks(0, INIT, &[0; 4])), None);
        assert_eq!(Association::open(&chunks(0, ABORT, &[])), None);
    }
}
