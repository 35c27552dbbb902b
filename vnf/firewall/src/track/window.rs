//! Whether a TCP segment lies in its connection's windows, as somebody in the middle can know it.
//!
//! The four bounds are those of G. van Rooij, "Real Stateful TCP Packet Filtering in IP Filter" (2000): a segment must not end
//! beyond what its receiver has offered, not begin before what the receiver can still take as old, and must not acknowledge
//! what was not sent or what is long past. For resets beside that RFC 5961, section 3.2: not before what the receiver
//! has acknowledged.

use throughway_session::Side;
use throughway_session::tcp::flags::{ACK, FIN, RST, SYN};

/// Acknowledgements may be at least this much behind (a full window without scaling, and a bit).
const LEAST_ACK_WINDOW: u32 = 66_000;

/// The largest shift of a window (RFC 7323, section 2.3).
const MOST_SCALE: u8 = 14;

/// What of a segment is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Segment {
    sequence: u32,
    acknowledgement: u32,
    /// As sent, not scaled.
    window: u16,
    /// Bytes of data.
    len: u32,
    /// The window scale option, of a SYN.
    scale: Option<u8>,
}

impl Segment {
    /// Of the bytes from the TCP header to the end of the packet.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Segment> {
        let header = bytes.first_chunk::<20>()?;
        let word = |at: usize| -> u32 {
            header
                .get(at..)
                .and_then(|rest| rest.first_chunk::<4>())
                .map_or(0, |word| u32::from_be_bytes(*word))
        };
        let header_len = usize::from(header[12] >> 4) * 4;
        let (header, data) = bytes.split_at_checked(header_len)?;
        let scale = if header[13] & SYN != 0 { scale(header.get(20..).unwrap_or_default()) } else { None };
        Some(Segment {
            sequence: word(4),
            acknowledgement: word(8),
            window: u16::from_be_bytes([header[14], header[15]]),
            len: u32::try_from(data.len()).ok()?,
            scale,
        })
    }
}

/// The window scale among the options.
fn scale(mut options: &[u8]) -> Option<u8> {
    loop {
        match options {
            [] | [0, ..] => return None,
            [1, rest @ ..] => options = rest,
            [3, 3, shift, ..] => return Some((*shift).min(MOST_SCALE)),
            [_, len, ..] if *len >= 2 => options = options.get(usize::from(*len)..)?,
            _ => return None,
        }
    }
}

/// One side's view.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Half {
    /// Whether anything was seen of it.
    known: bool,
    /// Behind the first number it has sent.
    start: u32,
    /// Behind the last byte it has sent.
    end: u32,
    /// Behind the last byte it may send.
    most: u32,
    /// The largest window it has offered.
    window: u32,
    /// The highest acknowledgement it has sent.
    acknowledged: u32,
    shift: u8,
    /// Its SYN had a window scale.
    scales: bool,
}

/// Both sides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Windows([Half; 2]);

/// Whether `a` comes before `b`, both being sequence numbers, which wrap around.
const fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

impl Windows {
    /// Of the segment that opens a connection. Of one that is under way the scales are not known: the largest is assumed.
    pub(crate) fn open(flags: u8, segment: Option<&Segment>) -> Windows {
        let mut windows = if flags & SYN == 0 { Windows::unknown() } else { Windows::default() };
        if let Some(segment) = segment {
            windows.note(Side::Forward, flags, segment);
        }
        windows
    }

    /// Of a connection under way of which nothing is known.
    pub(crate) fn unknown() -> Windows {
        let half = Half { shift: MOST_SCALE, scales: true, ..Half::default() };
        Windows([half; 2])
    }

    /// What of both sides holds for good: the shifts of their windows, with the highest bit where the SYN had a scale. For a restart:
    /// the numbers are learnt anew.
    pub(crate) fn scales(&self) -> [u8; 2] {
        self.0.map(|half| half.shift | if half.scales { 0x80 } else { 0 })
    }

    /// A connection under way of which only [`Windows::scales`] are known.
    pub(crate) fn of_scales(scales: [u8; 2]) -> Option<Windows> {
        let half = |bits: u8| Half { shift: bits & 0x7f, scales: bits & 0x80 != 0, ..Half::default() };
        let windows = Windows(scales.map(half));
        windows.0.iter().all(|half| half.shift <= MOST_SCALE).then_some(windows)
    }

    /// Says whether the segment lies in the windows, and takes note of it if so.
    pub(crate) fn segment(&mut self, side: Side, flags: u8, segment: &Segment) -> bool {
        let (own, other) = (&self.0[side as usize], &self.0[side.other() as usize]);
        let end = end_of(flags, segment);
        // A SYN of an established connection is answered by its receiver (RFC 5961, section 4) and moves nothing here.
        if flags & SYN != 0 && own.known && own.end != end {
            return other.known && flags & ACK == 0;
        }
        // A first SYN of this side must answer the other's, or cross it.
        if own.known {
            let offered = !before(own.most, segment.sequence);
            let not_past = !before(end, own.end.wrapping_sub(other.window.max(1)));
            if !(offered && not_past) && other.known {
                return false;
            }
        }
        if flags & ACK != 0 && other.known {
            let back = own.window.max(LEAST_ACK_WINDOW);
            let sent = !before(other.end, segment.acknowledgement);
            // What answers a SYN acknowledges it, or more (RFC 9293, section 3.10.7.3).
            let least = if own.known { other.end.wrapping_sub(back) } else { other.start };
            let recent = !before(segment.acknowledgement, least);
            if !(sent && recent) {
                return false;
            }
        }
        if flags & RST != 0 {
            // Of a refused connection, a reset has the number 0 and counts by its acknowledgement alone.
            let refuses = !own.known && flags & ACK != 0;
            if !refuses && other.known && before(segment.sequence, other.acknowledged) {
                return false;
            }
            return true;
        }
        self.note(side, flags, segment);
        true
    }

    fn note(&mut self, side: Side, flags: u8, segment: &Segment) {
        let end = end_of(flags, segment);
        if flags & SYN != 0 {
            let half = &mut self.0[side as usize];
            (half.shift, half.scales) = (segment.scale.unwrap_or(0), segment.scale.is_some());
            // RFC 7323, section 2.2: only if both sides have said so.
            if self.0[side.other() as usize].known && !(self.0[0].scales && self.0[1].scales) {
                self.0[0].shift = 0;
                self.0[1].shift = 0;
            }
        }
        let [first, second] = &mut self.0;
        let (own, other) = if side == Side::Forward { (first, second) } else { (second, first) };
        // RFC 7323, section 2.2: the window of a SYN is not scaled.
        let window =
            if flags & SYN != 0 { segment.window.into() } else { u32::from(segment.window) << own.shift };
        if !own.known {
            let start = segment.sequence.wrapping_add(u32::from(flags & SYN != 0));
            (own.known, own.start, own.end) = (true, start, end);
            // What it may send was not heard yet, unless the other side has spoken: then `most` is set already.
            if !other.known {
                own.most = end;
            } else if own.most == 0 {
                own.most = end.wrapping_add(other.window);
            }
        } else if before(own.end, end) {
            own.end = end;
        }
        own.window = own.window.max(window).max(1);
        if flags & ACK != 0 {
            let offer = segment.acknowledgement.wrapping_add(window.max(1));
            if before(other.most, offer) || !other.known {
                other.most = offer;
            }
            if before(own.acknowledged, segment.acknowledgement) || own.acknowledged == 0 {
                own.acknowledged = segment.acknowledgement;
            }
        }
    }
}

/// The sequence number behind the segment: SYN and FIN count one each.
fn end_of(flags: u8, segment: &Segment) -> u32 {
    let controls = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    segment.sequence.wrapping_add(segment.len).wrapping_add(controls)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seg(sequence: u32, acknowledgement: u32, window: u16, len: u32) -> Segment {
        Segment { sequence, acknowledgement, window, len, scale: None }
    }

    /// Handshake done: the opener's next is `a + 1`, the other's `b + 1`, windows of 1000.
    fn established(a: u32, b: u32) -> Windows {
        let mut w = Windows::open(SYN, Some(&seg(a, 0, 1000, 0)));
        assert!(w.segment(Side::Reverse, SYN | ACK, &seg(b, a.wrapping_add(1), 1000, 0)));
        assert!(w.segment(Side::Forward, ACK, &seg(a.wrapping_add(1), b.wrapping_add(1), 1000, 0)));
        w
    }

    #[test]
    fn data_in_the_window_passes_and_beyond_it_does_not() {
        for (a, b) in [(100, 900), (u32::MAX - 5, u32::MAX - 500)] {
            let mut w = established(a, b);
            let (at, ack) = (a.wrapping_add(1), b.wrapping_add(1));
            assert!(w.segment(Side::Forward, ACK, &seg(at, ack, 1000, 500)));
            assert!(w.segment(Side::Forward, ACK, &seg(at, ack, 1000, 500)), "sent again");
            assert!(w.segment(Side::Forward, ACK, &seg(at.wrapping_add(1000), ack, 1000, 0)), "at the edge");
            assert!(!w.segment(Side::Forward, ACK, &seg(at.wrapping_add(1001), ack, 1000, 0)));
            assert!(!w.segment(Side::Forward, ACK, &seg(at.wrapping_sub(5000), ack, 1000, 10)), "long past");
            assert!(!w.segment(Side::Reverse, ACK, &seg(ack, at.wrapping_add(2000), 1000, 0)), "never sent");
            assert!(w.segment(Side::Reverse, ACK, &seg(ack, at.wrapping_add(500), 2000, 0)));
            assert!(w.segment(Side::Forward, ACK, &seg(at.wrapping_add(2500), ack, 1000, 0)), "window grew");
        }
    }

    #[test]
    fn a_reset_must_lie_in_the_window() {
        let mut w = established(100, 900);
        assert!(w.segment(Side::Forward, ACK, &seg(101, 901, 1000, 400)));
        assert!(w.segment(Side::Reverse, ACK, &seg(901, 501, 1000, 0)));
        for sequence in [0, 100, 500, 5000, 1 << 31] {
            assert!(!w.segment(Side::Forward, RST, &seg(sequence, 0, 0, 0)), "{sequence}");
        }
        for sequence in [501, 900, 1501] {
            assert!(w.segment(Side::Forward, RST, &seg(sequence, 0, 0, 0)), "{sequence}");
        }
    }

    #[test]
    fn a_refusal_must_acknowledge_the_syn() {
        let mut w = Windows::open(SYN, Some(&seg(100, 0, 1000, 0)));
        assert!(!w.segment(Side::Reverse, RST | ACK, &seg(0, 200, 0, 0)));
        assert!(!w.segment(Side::Reverse, RST | ACK, &seg(0, 100, 0, 0)));
        assert!(w.segment(Side::Reverse, RST | ACK, &seg(0, 101, 0, 0)));
    }

    #[test]
    fn windows_are_scaled_if_both_say_so() {
        for both in [true, false] {
            let syn = Segment { scale: Some(7), ..seg(0, 0, 1000, 0) };
            let mut w = Windows::open(SYN, Some(&syn));
            let syn_ack = Segment { scale: both.then_some(7), ..seg(0, 1, 1000, 0) };
            assert!(w.segment(Side::Reverse, SYN | ACK, &syn_ack));
            assert!(w.segment(Side::Forward, ACK, &seg(1, 1, 1000, 0)));
            assert!(w.segment(Side::Reverse, ACK, &seg(1, 1, 1000, 0)));
            assert_eq!(w.segment(Side::Forward, ACK, &seg(100_001, 1, 1000, 0)), both);
        }
    }

    #[test]
    fn simultaneous_open_and_pickup() {
        let mut w = Windows::open(SYN, Some(&seg(100, 0, 1000, 0)));
        assert!(w.segment(Side::Reverse, SYN, &seg(500, 0, 1000, 0)));
        assert!(w.segment(Side::Forward, SYN | ACK, &seg(100, 501, 1000, 0)));
        assert!(w.segment(Side::Reverse, SYN | ACK, &seg(500, 101, 1000, 0)));
        assert!(w.segment(Side::Forward, ACK, &seg(101, 501, 1000, 300)));
        let mut w = Windows::open(ACK, Some(&seg(70_000, 9_000, 100, 10)));
        assert!(w.segment(Side::Reverse, ACK, &seg(9_000, 70_010, 100, 500)));
        assert!(w.segment(Side::Forward, ACK, &seg(70_010, 9_500, 100, 10)));
        assert!(!w.segment(Side::Forward, ACK, &seg(1 << 31, 9_500, 100, 10)));
    }

    #[test]
    fn options_are_read_within_their_bounds() {
        assert_eq!(scale(&[1, 3, 3, 9]), Some(9));
        assert_eq!(scale(&[2, 4, 5, 180, 1, 3, 3, 200]), Some(14));
        for bad in [&[3, 3][..], &[2, 0, 3, 3, 1], &[8], &[0, 3, 3, 1], &[2, 40]] {
            assert_eq!(scale(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn over_a_restart_the_scales_stay_and_the_numbers_are_learnt_anew() {
        let mut w = Windows::open(SYN, Some(&Segment { scale: Some(7), ..seg(100, 0, 1000, 0) }));
        assert!(w.segment(Side::Reverse, SYN | ACK, &Segment { scale: Some(2), ..seg(900, 101, 1000, 0) }));
        assert_eq!(w.scales(), [0x87, 0x82]);
        let mut w = Windows::of_scales(w.scales()).unwrap();
        // Others have forwarded ten million bytes meanwhile.
        assert!(w.segment(Side::Reverse, ACK, &seg(10_000_901, 101, 1000, 1000)));
        assert!(w.segment(Side::Forward, ACK, &seg(101, 10_001_901, 1000, 0)));
        assert!(w.segment(Side::Reverse, ACK, &seg(10_001_901, 101, 1000, 1000)));
        // The opener's window is scaled by its 7 bits, and no further.
        assert!(!w.segment(Side::Reverse, ACK, &seg(10_001_901 + (1000 << 7) + 1, 101, 1000, 1000)));
        assert_eq!(Windows::of_scales([MOST_SCALE + 1, 0]), None);
    }
}
