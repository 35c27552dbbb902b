//! What the paths of tunnels take: an error that a router on the way sent about an outer packet tells no client, as its address is
//! not there. So what it says is kept, and the next packet that is too large is answered from it (RFC 2003, section 5).

use std::sync::atomic::{AtomicU64, Ordering};

use throughway_packet::Headers;
use throughway_session::{Seed, SessionKey};
use throughway_vnf::{Now, Slot};

/// Backends of which it is known at a time; two that fall on one place displace each other.
const PLACES: usize = 4096;

/// For how long an error is believed (s): then the path is tried again (RFC 1191, section 6.3).
const BELIEVED: u64 = 600;

/// Less is not believed: what a host must take anyway is 576 bytes (RFC 791, section 3.2) and 1280 (RFC 8200, section 5).
const LEAST: [u16; 2] = [576, 1280];

/// What the paths to tunnels' ends take.
#[derive(Debug)]
pub(crate) struct Paths {
    seed: Seed,
    /// 16 bits of the address's hash, 32 of the time in seconds at which it is forgotten, the MTU; 0: nothing is known.
    places: Box<[AtomicU64]>,
}

impl Paths {
    pub(crate) fn new(seed: Seed) -> Paths {
        Paths { seed, places: (0..PLACES).map(|_| AtomicU64::new(0)).collect() }
    }

    fn place(&self, end: &[u8; 16]) -> Option<(&AtomicU64, u64)> {
        let bits = u128::from_be_bytes(*end);
        let hash = self.seed.hash([(bits >> 64) as u64, bits as u64]);
        Some((self.places.get(hash as usize % PLACES)?, hash >> 48))
    }

    /// The longest outer packet (bytes) that gets to `end`, as far as routers have told; `None`: none has.
    pub(crate) fn mtu(&self, end: &[u8; 16], now: Now) -> Option<u16> {
        let (place, tag) = self.place(end)?;
        let known = place.load(Ordering::Relaxed);
        let (until, mtu) = (known >> 16 & 0xffff_ffff, known as u16);
        (known != 0 && known >> 48 == tag && now.0 / 1_000_000_000 < until).then_some(mtu)
    }

    /// A router says that no more than `mtu` bytes get to `end`. Returns whether that is news: less than was known.
    pub(crate) fn learn(&self, end: &[u8; 16], ipv4: bool, mtu: u16, now: Now) -> bool {
        let [v4, v6] = LEAST;
        let mtu = mtu.max(if ipv4 { v4 } else { v6 });
        let news = self.mtu(end, now).is_none_or(|known| mtu < known);
        if let Some((place, tag)) = self.place(end).filter(|_| news) {
            let until = (now.0 / 1_000_000_000 + BELIEVED) & 0xffff_ffff;
            place.store(tag << 48 | until << 16 | u64::from(mtu), Ordering::Relaxed);
        }
        news
    }
}

/// What flows through a tunnel to `end` depend on.
pub(crate) fn slot(end: &[u8; 16]) -> Slot {
    let bits = u128::from_be_bytes(*end);
    Slot::session((bits >> 64) as u64 ^ (bits as u64).rotate_left(29))
}

/// What an ICMP error about a tunnel's outer packet says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TunnelError {
    /// The tunnel's other end: the backend.
    pub(crate) end: [u8; 16],
    pub(crate) ipv4: bool,
    /// The MTU of the next link, if that is what it says (RFC 1191, section 4; RFC 4443, section 3.2). A router older than RFC
    /// 1191 says 0.
    pub(crate) mtu: Option<u16>,
}

impl TunnelError {
    /// `None` when it is about something else than a packet in a packet.
    pub(crate) fn read(frame: &[u8], headers: &Headers, embedded: &Headers) -> Option<TunnelError> {
        const IPV4_IN_IP: u8 = 4;
        const IPV6_IN_IP: u8 = 41;
        let about = SessionKey::of(&embedded.key, 0);
        if !matches!(about.protocol, IPV4_IN_IP | IPV6_IN_IP) {
            return None;
        }
        let message = frame.get(usize::from(headers.l4)..)?.first_chunk::<8>()?;
        let [kind, code, _, _, a, b, c, d] = *message;
        let mtu = match (headers.is_ipv4(), kind, code) {
            (true, 3, 4) => Some(u16::from_be_bytes([c, d])),
            (false, 2, _) => Some(u32::from_be_bytes([a, b, c, d]).try_into().unwrap_or(u16::MAX)),
            _ => None,
        };
        Some(TunnelError { end: about.destination, ipv4: headers.is_ipv4(), mtu })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_holds_for_ten_minutes_and_for_its_backend_alone() {
        let paths = Paths::new(Seed([1, 2]));
        let at = |seconds: u64| Now(seconds * 1_000_000_000);
        let (one, other) = ([1; 16], [2; 16]);
        assert_eq!(paths.mtu(&one, at(1)), None);
        assert!(paths.learn(&one, true, 1400, at(1)));
        assert!(
            !paths.learn(&one, true, 1450, at(2)),
            "an older router's word is not forgotten for a newer one"
        );
        assert!(paths.learn(&one, true, 1300, at(3)));
        assert_eq!((paths.mtu(&one, at(602)), paths.mtu(&other, at(4))), (Some(1300), None));
        assert_eq!(paths.mtu(&one, at(603)), None);
        // Nobody makes us send crumbs.
        assert!(paths.learn(&other, true, 0, at(1)) && paths.learn(&one, false, 68, at(700)));
        assert_eq!((paths.mtu(&other, at(1)), paths.mtu(&one, at(700))), (Some(576), Some(1280)));
    }
}
