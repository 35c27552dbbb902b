//! Outside addresses: each one's ports, whichever pool or interface has the address.
//!
//! An address has its ports once. Two pools that share it, or two configurations one after the other, never give one port twice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use throughway_packet::headers::octets;
use throughway_packet::parse::{ICMP, ICMPV6, SCTP, TCP, UDP};

use crate::ports::Ports;

/// Protocols with ports of their own (IANA numbers). ICMP and ICMPv6 have identifiers.
pub const PROTOCOLS: [u8; 5] = [ICMP, TCP, UDP, ICMPV6, SCTP];

/// Which of its tables a protocol has.
fn side(protocol: u8) -> Option<usize> {
    PROTOCOLS.iter().position(|known| *known == protocol)
}

/// Whether packets of a protocol are told apart by ports or identifiers.
pub(crate) fn has_ports(protocol: u8) -> bool {
    side(protocol).is_some()
}

/// A mutex that a panic elsewhere does not close: what it holds is right after every step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many ports of something are in which state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortUse {
    /// In use by a mapping.
    pub taken: usize,
    /// At rest after use.
    pub resting: usize,
}

/// One outside address. 8.6 KiB for each protocol that is in use.
#[derive(Debug)]
pub struct Address {
    address: IpAddr,
    quiet: u64,
    lost: AtomicBool,
    /// Ports in use and at rest, by protocol: what was true when somebody last took or gave back one.
    in_use: [AtomicUsize; PROTOCOLS.len()],
    ports: Mutex<[Option<Box<Ports>>; PROTOCOLS.len()]>,
}

impl Address {
    /// The address itself.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether the host has lost it.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    fn with<R>(&self, protocol: u8, work: impl FnOnce(&mut Ports) -> R) -> Option<R> {
        let side = side(protocol)?;
        let mut ports = lock(&self.ports);
        // Port 0 means none (RFC 768; RFC 9293 does not forbid it, but sockets cannot have it). An identifier may well be 0.
        let new = || Box::new(Ports::new(1..=u16::MAX, self.quiet));
        let ports = ports.get_mut(side)?.get_or_insert_with(new);
        let done = work(ports);
        if let Some(in_use) = self.in_use.get(side) {
            in_use.store(ports.owned() - ports.available(), Ordering::Relaxed);
        }
        Some(done)
    }

    /// How many of its ports are in use or at rest.
    pub(crate) fn in_use(&self, protocol: u8) -> usize {
        let in_use = side(protocol).and_then(|side| self.in_use.get(side));
        in_use.map_or(0, |in_use| in_use.load(Ordering::Relaxed))
    }

    /// Has `work` take a port, or none.
    pub(crate) fn take(&self, protocol: u8, work: impl FnOnce(&mut Ports) -> Option<u16>) -> Option<u16> {
        self.with(protocol, work)?
    }

    /// Gives back what was taken, once for each take; `unused`: nobody outside has seen it, it need not rest.
    pub(crate) fn give_back(&self, protocol: u8, port: u16, unused: bool, now: u64) {
        self.with(protocol, |ports| if unused { ports.release(port) } else { ports.give_back(port, now) });
    }

    /// The ports that rest, and until when (ns), in the order in which they wake.
    pub(crate) fn resting(&self, protocol: u8) -> Vec<(u16, u64)> {
        let side = side(protocol);
        let ports = lock(&self.ports);
        let of = side.and_then(|side| ports.get(side)?.as_ref());
        of.map_or_else(Vec::new, |ports| ports.rests().collect())
    }

    /// A port rests until then (ns), if it is free: after a restart.
    pub(crate) fn rest(&self, protocol: u8, port: u16, until: u64) {
        self.with(protocol, |ports| ports.rest_until(port, until));
    }

    /// Which of its ports are somebody else's.
    pub(crate) fn exclude_only(&self, protocol: u8, excluded: &BTreeSet<u16>) {
        self.with(protocol, |ports| ports.exclude_only(excluded));
    }

    /// How many ports of these ranges are free, by protocol, in the order of [`PROTOCOLS`]. Where none was ever taken, all are.
    pub(crate) fn available(&self, ranges: &[RangeInclusive<u16>]) -> [usize; PROTOCOLS.len()] {
        let mut of = [ranges.iter().map(RangeInclusive::len).sum(); PROTOCOLS.len()];
        for (available, ports) in of.iter_mut().zip(lock(&self.ports).iter()) {
            if let Some(ports) = ports {
                *available = ranges.iter().map(|range| ports.available_in(range)).sum();
            }
        }
        of
    }

    /// The use of its ports by protocol, in the order of [`PROTOCOLS`], after waking those that have rested long enough.
    pub fn usage(&self, now: u64) -> [PortUse; PROTOCOLS.len()] {
        let mut of = [PortUse::default(); PROTOCOLS.len()];
        for (usage, ports) in of.iter_mut().zip(lock(&self.ports).iter_mut()) {
            if let Some(ports) = ports {
                ports.wake(now, usize::MAX);
                usage.resting = ports.resting();
                usage.taken = ports.owned() - ports.available() - usage.resting;
            }
        }
        of
    }
}

/// All outside addresses that are in use.
#[derive(Debug)]
pub struct Addresses {
    known: Mutex<BTreeMap<IpAddr, Weak<Address>>>,
    quiet: u64,
    /// A bit for each address that was ever in use, by a hash: who has many addresses looks in vain now and then.
    ever: Box<[AtomicU64]>,
}

/// Words of [`Addresses::ever`]: 4 KiB.
const EVER: usize = 512;

/// Word and bit of an address. Not keyed: who makes addresses meet makes us look one up, no more.
fn ever_at(address: &[u8; 16]) -> (usize, u64) {
    let whole = u128::from_be_bytes(*address);
    let hash = ((whole >> 64) as u64 ^ (whole as u64).rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((hash >> 48) as usize % EVER, 1 << (hash >> 57 & 63))
}

impl Addresses {
    /// None yet. `quiet`: how long (ns) ports rest after use.
    pub fn new(quiet: u64) -> Addresses {
        let ever = (0..EVER).map(|_| AtomicU64::new(0)).collect();
        Addresses { known: Mutex::default(), quiet, ever }
    }

    /// An address; the same one for everybody who asks while somebody has it. Not lost any more.
    pub fn get(&self, address: IpAddr) -> Arc<Address> {
        let (word, bit) = ever_at(&octets(address));
        if let Some(word) = self.ever.get(word) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
        let mut known = lock(&self.known);
        if let Some(found) = known.get(&address).and_then(Weak::upgrade) {
            found.lost.store(false, Ordering::Relaxed);
            return found;
        }
        // What nobody has any more is forgotten now and then.
        if known.len().is_power_of_two() {
            known.retain(|_, address| address.strong_count() > 0);
        }
        let (lost, in_use, ports) = (AtomicBool::new(false), Default::default(), Mutex::default());
        let made = Arc::new(Address { address, quiet: self.quiet, lost, in_use, ports });
        known.insert(address, Arc::downgrade(&made));
        made
    }

    /// Ports of an address that sockets of the host hold: given to nobody, as soon as no mapping has them. Replaces what was said
    /// for this address and protocol before. Says whether anybody uses the address.
    pub fn exclude(&self, address: IpAddr, protocol: u8, ports: &BTreeSet<u16>) -> bool {
        let found = lock(&self.known).get(&address).and_then(Weak::upgrade);
        found.map(|found| found.exclude_only(protocol, ports)).is_some()
    }

    /// Whether an address (in network order, IPv4 mapped) may be one that mappings have. Says yes of a few others, too.
    #[inline]
    pub(crate) fn may_have(&self, address: &[u8; 16]) -> bool {
        let (word, bit) = ever_at(address);
        self.ever.get(word).is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// Whether an address (in network order, IPv4 mapped) is one that pools or mappings have.
    pub(crate) fn knows(&self, address: &[u8; 16]) -> bool {
        let address_of = || Ipv6Addr::from(*address).to_canonical();
        self.may_have(address)
            && lock(&self.known).get(&address_of()).is_some_and(|known| known.strong_count() > 0)
    }

    /// Whether an address is in use, and not lost.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        let found = lock(&self.known).get(&address).and_then(Weak::upgrade);
        found.is_some_and(|found| !found.is_lost())
    }

    /// The host has lost an address: its mappings take no more sessions.
    pub(crate) fn lose(&self, address: IpAddr) {
        if let Some(found) = lock(&self.known).get(&address).and_then(Weak::upgrade) {
            found.lost.store(true, Ordering::Relaxed);
        }
    }
}
