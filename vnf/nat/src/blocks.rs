//! Blocks of ports: what a host inside gets at once, so that one log line says who had a port (RFC 6888, section 4).
//!
//! A host's first port makes a block of its address's ports its own, for all protocols; when a block is full it gets another
//! one, up to the most. Once the last mapping in a block is gone and its ports have rested, the block is free again.
//!
//! While few blocks are left, hosts that have one already get no further ones: the last sixteenth is for hosts that have none.
//!
//! With `hosts` the blocks are computed from the host's place in the list (RFC 7422): no state, nothing to log.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::{Range, RangeInclusive};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::address::lock;
use crate::pool::{PoolConfig, Refusal};

/// Parts of the table of hosts, each with its lock.
const PARTS: usize = 64;
/// How often (ns) one part is looked at for blocks that have become free: all of them within 2.1 s.
const SWEEP: u64 = 1 << 25;

/// How often another address is tried for a host's first block.
const TRIES: usize = 4;

/// How hosts get ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockConfig {
    /// Ports of a block, at least one.
    pub size: u16,
    /// The most blocks of a host, at least one.
    pub per_host: u16,
    /// Not empty: the blocks of these hosts are computed, in this order, and no other host gets any.
    pub hosts: Vec<RangeInclusive<IpAddr>>,
}

/// A block that a host has, for logs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    /// The host.
    pub inside: IpAddr,
    /// The outside address.
    pub outside: IpAddr,
    /// Its first port.
    pub first: u16,
    /// Its last port.
    pub last: u16,
}

/// The block of a host that has computed ones: the number of its address, and its ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Computed {
    pub(crate) address: usize,
    pub(crate) ports: RangeInclusive<u16>,
}

#[derive(Debug)]
struct Held {
    number: u16,
    mappings: u32,
    /// Since when (ns) there has been no mapping.
    idle: u64,
}

/// What a host has.
#[derive(Debug)]
struct Holder {
    address: usize,
    blocks: Vec<Held>,
}

/// The blocks of all addresses of a pool.
#[derive(Debug)]
pub(crate) struct Blocks {
    size: u16,
    per_host: u16,
    first: u16,
    /// Of one address, those included that hold ports which are left to the host.
    count: usize,
    /// Of one address, without those.
    usable: usize,
    /// How long (ns) a block is kept after its last mapping.
    hold: u64,
    holders: Box<[Mutex<BTreeMap<IpAddr, Holder>>]>,
    /// Of each address, the numbers of the free ones.
    free: Box<[Mutex<Vec<u16>>]>,
    /// The addresses that have a free one: so that a pool that is nearly used up need not be searched.
    some: Mutex<BTreeSet<usize>>,
    /// When (ns) a part was last looked at, and which is next.
    swept: AtomicU64,
    part: AtomicUsize,
}

/// What [`Blocks::take`] asks of an address: a port in these of it, if one is free.
pub(crate) type Ask<'a> = dyn FnMut(usize, RangeInclusive<u16>) -> Option<u16> + 'a;

impl Blocks {
    /// All free, of `addresses` addresses. A block has no port that is left to the host.
    pub(crate) fn new(config: &BlockConfig, pool: &PoolConfig, addresses: usize, hold: u64) -> Blocks {
        let size = config.size.max(1);
        let ports = &pool.ports;
        let count = ports.len() / usize::from(size);
        let first = *ports.start();
        let is_ours = |number: &u16| {
            let from = first.wrapping_add(number.wrapping_mul(size));
            let to = from.wrapping_add(size - 1);
            pool.left_to_host.as_ref().is_none_or(|left| to < *left.start() || *left.end() < from)
        };
        let numbers: Vec<u16> = (0..count).map(|number| number as u16).filter(is_ours).collect();
        let usable = numbers.len();
        let own = if config.hosts.is_empty() { addresses } else { 0 };
        Blocks {
            size,
            per_host: config.per_host.max(1),
            first,
            count,
            usable,
            hold,
            holders: (0..PARTS).map(|_| Mutex::default()).collect(),
            free: (0..own).map(|_| Mutex::new(numbers.clone())).collect(),
            some: Mutex::new((0..own).filter(|_| usable > 0).collect()),
            swept: AtomicU64::new(0),
            part: AtomicUsize::new(0),
        }
    }

    fn ports(&self, number: u16, blocks: u16) -> RangeInclusive<u16> {
        let first = self.first.wrapping_add(number.wrapping_mul(self.size));
        first..=first.wrapping_add(self.size.wrapping_mul(blocks) - 1)
    }

    fn part_with(&self, inside: IpAddr) -> &Mutex<BTreeMap<IpAddr, Holder>> {
        &self.holders[part_of(inside)]
    }

    /// Takes a port for a host out of one of its blocks, or of a new one. `family`: the addresses that it may have; `home`: the one it is
    /// paired with. Returns address, port, and the block if it is new.
    pub(crate) fn take(
        &self,
        inside: IpAddr,
        family: Range<usize>,
        home: usize,
        random: u64,
        ask: &mut Ask<'_>,
    ) -> Result<(usize, u16, Option<RangeInclusive<u16>>), Refusal> {
        let mut holders = lock(self.part_with(inside));
        if let Some(holder) = holders.get_mut(&inside) {
            let address = holder.address;
            for held in &mut holder.blocks {
                if let Some(port) = ask(address, self.ports(held.number, 1)) {
                    held.mappings += 1;
                    return Ok((address, port, None));
                }
            }
            if holder.blocks.len() >= usize::from(self.per_host) {
                return Err(Refusal::HostBlocks);
            }
            // The last ones are for those who have none.
            let number = self.grab(address, self.usable / 16, random).ok_or(Refusal::NoBlock)?;
            let ports = self.ports(number, 1);
            let Some(port) = ask(address, ports.clone()) else {
                self.put_back(address, number);
                return Err(Refusal::NoPort);
            };
            holder.blocks.push(Held { number, mappings: 1, idle: 0 });
            return Ok((address, port, Some(ports)));
        }
        if family.is_empty() {
            return Err(Refusal::NoAddress);
        }
        // Another worker may take the last one of an address meanwhile.
        let found = (0..TRIES).find_map(|_| {
            let address = self.with_some(&family, home)?;
            Some((address, self.grab(address, 0, random)?))
        });
        let (address, number) = found.ok_or(Refusal::NoBlock)?;
        let ports = self.ports(number, 1);
        let Some(port) = ask(address, ports.clone()) else {
            self.put_back(address, number);
            return Err(Refusal::NoPort);
        };
        let blocks = vec![Held { number, mappings: 1, idle: 0 }];
        holders.insert(inside, Holder { address, blocks });
        Ok((address, port, Some(ports)))
    }

    /// Takes a port for a host out of a block that it has already, at most half of which is in use: so there is nothing to tell of, and
    /// who gives it back soon has kept it from nobody. Returns address and port.
    pub(crate) fn take_early(&self, inside: IpAddr, ask: &mut Ask<'_>) -> Option<(usize, u16)> {
        let mut holders = lock(self.part_with(inside));
        let Holder { address, blocks } = holders.get_mut(&inside)?;
        let held = blocks.iter_mut().find(|held| held.mappings < u32::from(self.size))?;
        if held.mappings * 2 > u32::from(self.size) {
            return None;
        }
        let port = ask(*address, self.ports(held.number, 1))?;
        held.mappings += 1;
        Some((*address, port))
    }

    /// A free block of an address, if more than `reserve` are.
    fn grab(&self, address: usize, reserve: usize, random: u64) -> Option<u16> {
        let mut free = lock(self.free.get(address)?);
        if free.len() <= reserve {
            return None;
        }
        let at = random as usize % free.len();
        let number = free.swap_remove(at);
        if free.is_empty() {
            lock(&self.some).remove(&address);
        }
        Some(number)
    }

    /// The first address from `home` on, around the end, that has a free block.
    fn with_some(&self, family: &Range<usize>, home: usize) -> Option<usize> {
        let some = lock(&self.some);
        let first = |range: Range<usize>| some.range(range).next().copied();
        first(home..family.end).or_else(|| first(family.start..home))
    }

    fn put_back(&self, address: usize, number: u16) {
        if let Some(free) = self.free.get(address) {
            let mut free = lock(free);
            if free.is_empty() {
                lock(&self.some).insert(address);
            }
            free.push(number);
        }
    }

    /// A mapping of a host has ended.
    pub(crate) fn leave(&self, inside: IpAddr, port: u16, now: u64) {
        let number = port.wrapping_sub(self.first) / self.size;
        if let Some(holder) = lock(self.part_with(inside)).get_mut(&inside)
            && let Some(held) = holder.blocks.iter_mut().find(|held| held.number == number)
        {
            held.mappings = held.mappings.saturating_sub(1);
            held.idle = now;
        }
    }

    /// One more mapping in a block that the host has: whether it has it.
    pub(crate) fn rejoin(&self, inside: IpAddr, address: usize, port: u16) -> bool {
        let Some(number) = port.checked_sub(self.first).map(|above| above / self.size) else { return false };
        let mut holders = lock(self.part_with(inside));
        let holder = holders.get_mut(&inside).filter(|holder| holder.address == address);
        let held = holder.and_then(|holder| holder.blocks.iter_mut().find(|held| held.number == number));
        held.map(|held| held.mappings += 1).is_some()
    }

    /// Gives a host this very block, without mappings since `idle` (ns): whether it is a block, free, and the host may have it.
    pub(crate) fn reclaim(
        &self,
        inside: IpAddr,
        address: usize,
        ports: RangeInclusive<u16>,
        idle: u64,
    ) -> bool {
        let number = ports.start().checked_sub(self.first).map(|above| above / self.size);
        let Some(number) = number.filter(|number| self.ports(*number, 1) == ports) else { return false };
        let mut holders = lock(self.part_with(inside));
        let known = holders.get(&inside);
        let may = known.is_none_or(|holder| {
            holder.address == address && holder.blocks.len() < usize::from(self.per_host)
        });
        let Some(free) = self.free.get(address).filter(|_| may) else { return false };
        let mut free = lock(free);
        let Some(at) = free.iter().position(|known| *known == number) else { return false };
        free.swap_remove(at);
        if free.is_empty() {
            lock(&self.some).remove(&address);
        }
        let holder = holders.entry(inside).or_insert_with(|| Holder { address, blocks: Vec::new() });
        holder.blocks.push(Held { number, mappings: 0, idle });
        true
    }

    /// Shows who has which, and since when (ns) there has been no mapping in it.
    pub(crate) fn each_held(&self, mut show: impl FnMut(IpAddr, usize, RangeInclusive<u16>, Option<u64>)) {
        for part in &self.holders {
            for (inside, holder) in lock(part).iter() {
                for held in &holder.blocks {
                    let idle = (held.mappings == 0).then_some(held.idle);
                    show(*inside, holder.address, self.ports(held.number, 1), idle);
                }
            }
        }
    }

    /// Frees blocks that nobody has used for long enough: one part of the hosts at a time. `gone` is given each.
    pub(crate) fn tick(&self, now: u64, mut gone: impl FnMut(IpAddr, usize, RangeInclusive<u16>)) {
        let last = self.swept.load(Ordering::Relaxed);
        if now < last.saturating_add(SWEEP) {
            return;
        }
        let round = Ordering::Relaxed;
        // One worker does it.
        if self.swept.compare_exchange(last, now, round, round).is_err() {
            return;
        }
        let part = self.part.fetch_add(1, Ordering::Relaxed) % PARTS;
        let Some(part) = self.holders.get(part) else { return };
        lock(part).retain(|inside, holder| {
            let address = holder.address;
            holder.blocks.retain(|held| {
                let keep = held.mappings > 0 || now < held.idle.saturating_add(self.hold);
                if !keep {
                    self.put_back(address, held.number);
                    gone(*inside, address, self.ports(held.number, 1));
                }
                keep
            });
            !holder.blocks.is_empty()
        });
    }

    /// The ports of the host with this place in the list (RFC 7422, section 2: in sequence).
    pub(crate) fn computed(&self, place: u128) -> Option<Computed> {
        let hosts =
            u128::try_from(self.count / usize::from(self.per_host)).ok().filter(|hosts| *hosts > 0)?;
        let number = u16::try_from(place % hosts).ok()?.checked_mul(self.per_host)?;
        let address = usize::try_from(place / hosts).ok()?;
        Some(Computed { address, ports: self.ports(number, self.per_host) })
    }

    /// The place in the list of who has this port of this address.
    pub(crate) fn place_of(&self, address: usize, port: u16) -> Option<u128> {
        let hosts = self.count / usize::from(self.per_host);
        let each = self.size.checked_mul(self.per_host)?;
        let number = usize::from(port.checked_sub(self.first)? / each);
        (number < hosts).then(|| (address * hosts + number) as u128)
    }

    /// How many blocks there are, and how many are free.
    pub(crate) fn usage(&self) -> (usize, usize) {
        let free = self.free.iter().map(|free| lock(free).len()).sum();
        (self.usable * self.free.len(), free)
    }

    /// The same of one address.
    pub(crate) fn usage_of(&self, address: usize) -> (usize, usize) {
        (self.usable, self.free.get(address).map_or(0, |free| lock(free).len()))
    }

    /// Shows who has which.
    pub(crate) fn each(&self, mut show: impl FnMut(IpAddr, usize, RangeInclusive<u16>, u32)) {
        for part in &self.holders {
            for (inside, holder) in lock(part).iter() {
                for held in &holder.blocks {
                    show(*inside, holder.address, self.ports(held.number, 1), held.mappings);
                }
            }
        }
    }
}

/// Which part a host is in.
fn part_of(inside: IpAddr) -> usize {
    (spread(inside) >> 26) as usize % PARTS
}

/// A number for a host, 32 bits; neighbours are far apart (Fibonacci hashing: Knuth, The Art of Computer Programming, volume 3,
/// section 6.4).
pub(crate) fn spread(inside: IpAddr) -> u64 {
    let bits = match inside {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        // A subscriber is a /64 at least.
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    };
    bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}
