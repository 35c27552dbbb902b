//! A pool: outside addresses, and for each the ports of every protocol.
//!
//! Who is inside keeps one outside address for all its mappings (paired pooling: RFC 4787, REQ-2; RFC 6888, REQ-1): the
//! one its own address hashes to. When that one has no port left, nothing is given: the host would otherwise appear under two
//! addresses, which breaks applications that have both in one session. `Pooling::Arbitrary` takes the next address instead.
//!
//! Memory: 8.6 KiB for each address and protocol in use; addresses nobody uses cost some hundred bytes.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ports::{Parity, Ports};

/// Protocols with ports of their own (IANA numbers). ICMP and ICMPv6 have identifiers.
const PROTOCOLS: [u8; 5] = [1, 6, 17, 58, 132];

/// What happens when a host's address has no port left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Pooling {
    /// The host gets nothing.
    #[default]
    Paired,
    /// It gets a port of another address.
    Arbitrary,
}

/// How a pool is made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolConfig {
    /// Its addresses, each once.
    pub addresses: Vec<IpAddr>,
    /// The ports it may use of each.
    pub ports: std::ops::RangeInclusive<u16>,
    /// How long (ns) a port rests after use.
    pub quiet: u64,
    /// See [`Pooling`].
    pub pooling: Pooling,
}

/// What is wanted of a pool.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The host inside.
    pub inside: IpAddr,
    /// The upper-layer protocol (IANA number).
    pub protocol: u8,
    /// This port, if it is free.
    pub preferred: Option<u16>,
    /// Else one of this parity.
    pub parity: Parity,
    /// Unpredictable bits.
    pub random: u64,
    /// The time (ns).
    pub now: u64,
}

/// The use of a pool, for output.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PoolUse {
    /// Ports of addresses and protocols that were ever used.
    pub owned: usize,
    /// Of these, free now.
    pub available: usize,
    /// Of these, at rest.
    pub resting: usize,
}

/// A pool that all workers share. A lock for each address: only the first packet of a mapping takes one.
#[derive(Debug)]
pub struct Pool {
    addresses: Box<[Address]>,
    config: PoolConfig,
}

#[derive(Debug)]
struct Address {
    address: IpAddr,
    ports: Mutex<[Option<Box<Ports>>; PROTOCOLS.len()]>,
}

impl Address {
    fn lock(&self) -> MutexGuard<'_, [Option<Box<Ports>>; PROTOCOLS.len()]> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// A pool with all its ports free.
    pub fn new(mut config: PoolConfig) -> Pool {
        config.addresses.sort_unstable();
        config.addresses.dedup();
        let addresses = config.addresses.iter();
        let addresses =
            addresses.map(|address| Address { address: *address, ports: Mutex::default() }).collect();
        Pool { addresses, config }
    }

    /// How it was made.
    pub fn config(&self) -> &PoolConfig {
        &self.config
    }

    /// Whether an address is one of its.
    pub fn owns(&self, address: IpAddr) -> bool {
        self.config.addresses.binary_search(&address).is_ok()
    }

    /// Takes a port for a host: its outside address and port. `None`: no port is left for it, or the protocol has none.
    pub fn take(&self, wanted: &Wanted) -> Option<(IpAddr, u16)> {
        let count = self.addresses.len();
        let first = home(wanted.inside, count)?;
        let tries = if self.config.pooling == Pooling::Paired { 1 } else { count };
        (first..first + tries).find_map(|at| self.take_of(self.addresses.get(at % count)?, wanted))
    }

    fn take_of(&self, address: &Address, wanted: &Wanted) -> Option<(IpAddr, u16)> {
        let side = PROTOCOLS.iter().position(|protocol| *protocol == wanted.protocol)?;
        let mut ports = address.lock();
        let ports = ports
            .get_mut(side)?
            .get_or_insert_with(|| Box::new(Ports::new(self.config.ports.clone(), self.config.quiet)));
        let preferred = wanted.preferred.filter(|port| ports.take(*port, wanted.now));
        let port = preferred.or_else(|| ports.take_any(wanted.parity, wanted.random, wanted.now))?;
        Some((address.address, port))
    }

    /// Takes this very port of this address, if it is free: for a mapping that is to be kept.
    pub fn take_this(&self, address: IpAddr, protocol: u8, port: u16, now: u64) -> bool {
        let Ok(at) = self.config.addresses.binary_search(&address) else { return false };
        let side = PROTOCOLS.iter().position(|known| *known == protocol);
        let (Some(address), Some(side)) = (self.addresses.get(at), side) else { return false };
        let mut ports = address.lock();
        ports.get_mut(side).is_some_and(|ports| {
            let new = || Box::new(Ports::new(self.config.ports.clone(), self.config.quiet));
            ports.get_or_insert_with(new).take(port, now)
        })
    }

    /// Gives back what was taken: once for each take.
    pub fn give_back(&self, address: IpAddr, protocol: u8, port: u16, now: u64) {
        let Ok(at) = self.config.addresses.binary_search(&address) else { return };
        let side = PROTOCOLS.iter().position(|known| *known == protocol);
        if let (Some(address), Some(side)) = (self.addresses.get(at), side)
            && let Some(Some(ports)) = address.lock().get_mut(side)
        {
            ports.give_back(port, now);
        }
    }

    /// How much of it is in use.
    pub fn usage(&self) -> PoolUse {
        let mut sum = PoolUse::default();
        for address in &self.addresses {
            for ports in address.lock().iter().flatten() {
                sum.owned += ports.owned();
                sum.available += ports.available();
                sum.resting += ports.resting();
            }
        }
        sum
    }
}

/// The address of a pool that a host is paired with: the same as long as the pool has as many addresses.
fn home(inside: IpAddr, count: usize) -> Option<usize> {
    let bits = match inside {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        // A subscriber is a /64 at least.
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    };
    // Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3, section 6.4): neighbours are spread evenly.
    let spread = bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    (count > 0).then(|| ((spread * count as u64) >> 32) as usize)
}
