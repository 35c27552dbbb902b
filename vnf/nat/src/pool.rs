//! A pool: outside addresses, and how hosts inside get their ports.
//!
//! Who is inside keeps one outside address for all its mappings (paired pooling: RFC 4787, REQ-2; RFC 6888, REQ-1): the
//! one its own address hashes to. When that one has no port left, nothing is given: the host would otherwise appear under two
//! addresses, which breaks applications that have both in one session. `Pooling::Arbitrary` takes the next address instead.
//! With blocks, a host that has none may get its first one at another address: it is then paired with that.

use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use throughway_session::SessionKey;

use crate::address::{Address, Addresses, PROTOCOLS, PortUse};
use crate::blocks::{Block, BlockConfig, Blocks, Computed, spread};
use crate::ports::Parity;

/// The most addresses that a pool uses of each range: of larger ones (IPv6) the first.
pub const MOST_OF_RANGE: usize = 1 << 16;

/// Of an address with fewer ports none is taken early.
const MANY: usize = 1 << 12;

/// The most addresses that are asked for a port for one connection, with [`Pooling::Arbitrary`]: that of the host, and those after it.
pub const MOST_TRIED: usize = 64;

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
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The ports it may use of each.
    pub ports: RangeInclusive<u16>,
    /// See [`Pooling`].
    pub pooling: Pooling,
    /// Whether hosts get their ports in blocks.
    pub blocks: Option<BlockConfig>,
    /// Whether the addresses are also the host's own (masquerading): what no mapping wants is left to it.
    pub local: bool,
    /// Of `ports`, those that are left to the host: what its kernel gives to sockets.
    pub left_to_host: Option<RangeInclusive<u16>>,
}

impl PoolConfig {
    /// A pool of these addresses with all the ports that are not well known.
    pub fn new(addresses: Vec<IpAddr>) -> PoolConfig {
        PoolConfig {
            addresses,
            ports: 1024..=65535,
            pooling: Pooling::Paired,
            blocks: None,
            local: false,
            left_to_host: None,
        }
    }

    /// The ports below those that are left to the host, and above them; ranges without a port are empty.
    #[expect(clippy::reversed_empty_ranges, reason = "an empty range is meant")]
    pub fn usable(&self) -> [RangeInclusive<u16>; 2] {
        let (first, last) = (*self.ports.start(), *self.ports.end());
        let Some(left) = self.left_to_host.as_ref().filter(|left| !left.is_empty()) else {
            return [first..=last, 1..=0];
        };
        let below = left.start().checked_sub(1).map_or(1..=0, |end| first..=end.min(last));
        let above = left.end().checked_add(1).map_or(1..=0, |start| start.max(first)..=last);
        [below, above]
    }
}

/// The addresses of ranges, of each at most [`MOST_OF_RANGE`].
pub fn addresses_of(ranges: &[RangeInclusive<IpAddr>]) -> Vec<IpAddr> {
    let of = |range: &RangeInclusive<IpAddr>| {
        let count = usize::try_from(count(range)).unwrap_or(usize::MAX).min(MOST_OF_RANGE);
        let first = *range.start();
        (0..count).filter_map(move |at| nth(first, at as u128))
    };
    ranges.iter().flat_map(of).collect()
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

/// A port that was taken.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Of this address.
    pub address: Arc<Address>,
    /// The port.
    pub port: u16,
    /// The block that the host got for it.
    pub block: Option<Block>,
}

/// Why a pool gives no port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The pool has no address of the host's family, or, where blocks are computed, none for this host.
    NoAddress,
    /// The addresses that the host may have are used up.
    NoPort,
    /// All blocks are taken, or the last ones are left to hosts that have none.
    NoBlock,
    /// The host has as many blocks as it may, and they are used up.
    HostBlocks,
}

impl Refusal {
    /// All, in the order of [`PoolUse::refused`].
    pub const ALL: [Refusal; 4] =
        [Refusal::NoAddress, Refusal::NoPort, Refusal::NoBlock, Refusal::HostBlocks];

    /// Its name in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Refusal::NoAddress => "no-address",
            Refusal::NoPort => "no-port",
            Refusal::NoBlock => "no-block",
            Refusal::HostBlocks => "host-blocks",
        }
    }
}

/// A port of these ranges: the preferred one, if it is free, else any of the first range that has one.
fn free_port(address: &Address, wanted: &Wanted, ranges: &[RangeInclusive<u16>]) -> Option<u16> {
    let Wanted { protocol, parity, random, now, .. } = *wanted;
    let preferred = wanted.preferred.filter(|port| ranges.iter().any(|range| range.contains(port)));
    // Under one lock: the one that is preferred is often somebody else's.
    address.take(protocol, |ports| {
        if let Some(port) = preferred.filter(|port| ports.take(*port, now)) {
            return Some(port);
        }
        ranges.iter().find_map(|range| {
            let mut of = |parity| ports.take_in(range.clone(), parity, random, now);
            // Parity is recommended, a port is needed (RFC 4787, REQ-4).
            of(parity).or_else(|| if parity == Parity::Any { None } else { of(Parity::Any) })
        })
    })
}

/// The use of a pool, for output.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PoolUse {
    /// Addresses.
    pub addresses: usize,
    /// Ports of each that the pool may use, for each protocol.
    pub ports: usize,
    /// Ports in use and at rest, of all its addresses, by whomever; in the order of [`PROTOCOLS`].
    pub of_addresses: [PortUse; PROTOCOLS.len()],
    /// Blocks, and how many of them are free; zeros without blocks.
    pub blocks: (usize, usize),
    /// How often no port was given, in the order of [`Refusal::ALL`].
    pub refused: [u64; Refusal::ALL.len()],
}

impl PoolUse {
    /// Ports in use and at rest, of all protocols.
    pub fn total(&self) -> PortUse {
        let add = |sum: PortUse, of: &PortUse| PortUse {
            taken: sum.taken + of.taken,
            resting: sum.resting + of.resting,
        };
        self.of_addresses.iter().fold(PortUse::default(), add)
    }
}

/// The use of one address of a pool, for output.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressUse {
    /// The address.
    pub address: IpAddr,
    /// Its ports in use and at rest, by whatever pool, in the order of [`PROTOCOLS`].
    pub of_protocols: [PortUse; PROTOCOLS.len()],
    /// Ports that this pool could still give, in the same order.
    pub free: [usize; PROTOCOLS.len()],
    /// Its blocks, and how many of them are free; zeros without blocks that are given.
    pub blocks: (usize, usize),
}

/// A pool that all workers share. A lock for each address: only the first packet of a mapping takes one.
#[derive(Debug)]
pub struct Pool {
    config: PoolConfig,
    addresses: Box<[Arc<Address>]>,
    /// How many of them, the first, are IPv4.
    ipv4: usize,
    /// Ports that it may use of each.
    usable: usize,
    blocks: Option<Blocks>,
    refused: [AtomicU64; Refusal::ALL.len()],
}

impl Pool {
    /// A pool of these addresses.
    pub fn new(mut config: PoolConfig, known: &Addresses, quiet: u64) -> Pool {
        config.addresses.sort_unstable();
        config.addresses.dedup();
        let addresses: Box<[_]> = config.addresses.iter().map(|address| known.get(*address)).collect();
        let ipv4 = config.addresses.partition_point(IpAddr::is_ipv4);
        let blocks =
            config.blocks.as_ref().map(|blocks| Blocks::new(blocks, &config, addresses.len(), quiet));
        let usable = config.usable().iter().map(RangeInclusive::len).sum();
        Pool { config, addresses, ipv4, usable, blocks, refused: Default::default() }
    }

    /// How it was made.
    pub fn config(&self) -> &PoolConfig {
        &self.config
    }

    /// Whether an address is one of its.
    pub fn owns(&self, address: IpAddr) -> bool {
        self.config.addresses.binary_search(&address).is_ok()
    }

    /// Whether hosts have blocks that must be given back.
    pub(crate) fn keeps_blocks(&self) -> bool {
        self.config.blocks.as_ref().is_some_and(|blocks| blocks.hosts.is_empty())
    }

    /// Its addresses of the host's family: the first, and how many.
    fn family(&self, inside: IpAddr) -> (usize, usize) {
        if inside.is_ipv4() { (0, self.ipv4) } else { (self.ipv4, self.addresses.len() - self.ipv4) }
    }

    /// The addresses that a host may have, the one it is paired with first.
    fn choices(&self, inside: IpAddr, all: bool) -> impl Iterator<Item = usize> + use<> {
        let (first, count) = self.family(inside);
        let home = ((spread(inside) * count as u64) >> 32) as usize;
        let tries = count.min(if all { MOST_TRIED } else { 1 });
        (home..home + tries).map(move |at| first + at % count.max(1))
    }

    /// The outside address of a host for protocols without ports.
    pub fn address_for(&self, inside: IpAddr) -> Option<IpAddr> {
        let address = match self.computed(inside) {
            Some(computed) => computed.address,
            None => self.choices(inside, false).next()?,
        };
        self.addresses.get(address).map(|address| address.address())
    }

    /// Takes a port for a host; counts refusals.
    ///
    /// # Errors
    /// No port is left for it.
    pub fn take(&self, wanted: &Wanted) -> Result<Taken, Refusal> {
        self.try_take(wanted).inspect_err(|refusal| {
            let counter = Refusal::ALL.iter().zip(&self.refused).find(|(known, _)| *known == refusal);
            if let Some((_, counter)) = counter {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        })
    }

    /// Whether [`Pool::take_early`] ever gives one: not where blocks are computed.
    pub(crate) fn gives_early(&self) -> bool {
        (self.blocks.is_none() || self.keeps_blocks()) && self.usable >= MANY
    }

    /// The port that [`Pool::take`] would give, unless ports are short or the host would get a block for it: for whoever may give it
    /// back at once.
    pub(crate) fn take_early(&self, wanted: &Wanted) -> Option<(&Arc<Address>, u16)> {
        if !self.gives_early() {
            return None;
        }
        if let Some(blocks) = &self.blocks {
            let mut ask = |at: usize, ports: RangeInclusive<u16>| self.ask(at, &ports, wanted);
            let (at, port) = blocks.take_early(wanted.inside, &mut ask)?;
            return Some((self.addresses.get(at)?, port));
        }
        let address = self.addresses.get(self.choices(wanted.inside, false).next()?)?;
        if address.in_use(wanted.protocol) * 2 > self.usable {
            return None;
        }
        let port = free_port(address, wanted, &self.either_side(wanted.random))?;
        Some((address, port))
    }

    /// A port of these of an address.
    fn ask(&self, at: usize, ports: &RangeInclusive<u16>, wanted: &Wanted) -> Option<u16> {
        free_port(self.addresses.get(at)?, wanted, std::slice::from_ref(ports))
    }

    /// The address of an outside end.
    pub(crate) fn address_of(&self, outside: &SessionKey) -> Option<&Arc<Address>> {
        let address = Ipv6Addr::from(outside.destination).to_canonical();
        self.addresses.get(self.config.addresses.binary_search(&address).ok()?)
    }

    fn try_take(&self, wanted: &Wanted) -> Result<Taken, Refusal> {
        let mut ask = |at: usize, ports: RangeInclusive<u16>| self.ask(at, &ports, wanted);
        let (at, port, ports) = match (&self.blocks, &self.config.blocks) {
            (Some(_), Some(config)) if !config.hosts.is_empty() => {
                let Computed { address, ports } = self.computed(wanted.inside).ok_or(Refusal::NoAddress)?;
                (address, ask(address, ports).ok_or(Refusal::HostBlocks)?, None)
            }
            (Some(blocks), _) => {
                let (first, count) = self.family(wanted.inside);
                let home = self.choices(wanted.inside, false).next().unwrap_or(first);
                blocks.take(wanted.inside, first..first + count, home, wanted.random, &mut ask)?
            }
            _ => {
                let all = self.config.pooling == Pooling::Arbitrary;
                let mut refusal = Refusal::NoAddress;
                let mut of = |at: usize| {
                    refusal = Refusal::NoPort;
                    let address = self.addresses.get(at)?;
                    free_port(address, wanted, &self.either_side(wanted.random))
                };
                let mut choices = self.choices(wanted.inside, all);
                let found = choices.find_map(|at| Some((at, of(at)?, None)));
                found.ok_or(refusal)?
            }
        };
        let address = Arc::clone(self.addresses.get(at).ok_or(Refusal::NoAddress)?);
        let block = ports.map(|ports| block(wanted.inside, address.address(), &ports));
        Ok(Taken { address, port, block })
    }

    /// The ports below and above those that are left to the host, in random order: each port is as likely as any other.
    fn either_side(&self, random: u64) -> [RangeInclusive<u16>; 2] {
        let [below, above] = self.config.usable();
        let (few, all) = (below.len() as u64, (below.len() + above.len()) as u64);
        if (u64::from(random as u32) * all) >> 32 < few { [below, above] } else { [above, below] }
    }

    /// The computed ports of a host.
    fn computed(&self, inside: IpAddr) -> Option<Computed> {
        let config = self.config.blocks.as_ref().filter(|config| !config.hosts.is_empty())?;
        let mut before = 0u128;
        for range in config.hosts.iter().filter(|range| range.start().is_ipv4() == inside.is_ipv4()) {
            if range.contains(&inside) {
                let place = before + number(inside) - number(*range.start());
                let mut computed = self.blocks.as_ref()?.computed(place)?;
                let (first, count) = self.family(inside);
                if computed.address >= count {
                    return None;
                }
                computed.address += first;
                return Some(computed);
            }
            before = before.saturating_add(count(range));
        }
        None
    }

    /// The ports that a host always has, where they are computed (RFC 7422).
    pub fn block_of(&self, inside: IpAddr) -> Option<Block> {
        let Computed { address, ports } = self.computed(inside)?;
        Some(block(inside, self.addresses.get(address)?.address(), &ports))
    }

    /// The host that always has this port, where they are computed: what a log would otherwise say.
    pub fn host_of(&self, outside: IpAddr, port: u16) -> Option<IpAddr> {
        let config = self.config.blocks.as_ref().filter(|config| !config.hosts.is_empty())?;
        let (first, _) = self.family(outside);
        let address = self.config.addresses.binary_search(&outside).ok()? - first;
        let mut place = self.blocks.as_ref()?.place_of(address, port)?;
        for range in config.hosts.iter().filter(|range| range.start().is_ipv4() == outside.is_ipv4()) {
            if place < count(range) {
                return nth(*range.start(), place);
            }
            place -= count(range);
        }
        None
    }

    /// A mapping of a host has ended that had this port.
    pub(crate) fn leave(&self, inside: IpAddr, port: u16, now: u64) {
        if let Some(blocks) = &self.blocks {
            blocks.leave(inside, port, now);
        }
    }

    /// A host has this outside end again that it had before a restart: whether it may, which depends on blocks alone. What it joins is
    /// [left](Pool::leave) as after [`Pool::take`].
    pub(crate) fn rejoin(&self, inside: IpAddr, outside: IpAddr, port: u16) -> bool {
        match &self.blocks {
            None => true,
            Some(blocks) if self.keeps_blocks() => {
                let at = self.config.addresses.binary_search(&outside);
                at.is_ok_and(|at| blocks.rejoin(inside, at, port))
            }
            Some(_) => self.host_of(outside, port) == Some(inside),
        }
    }

    /// A host has this block again that it had before a restart, without mappings since `idle` (ns): whether it may.
    pub(crate) fn reclaim_block(&self, block: &Block, idle: u64) -> bool {
        let (Some(blocks), true) = (&self.blocks, self.keeps_blocks()) else { return false };
        let at = self.config.addresses.binary_search(&block.outside);
        at.is_ok_and(|at| blocks.reclaim(block.inside, at, block.first..=block.last, idle))
    }

    /// Shows the blocks that hosts have, and since when (ns) there has been no mapping in them.
    pub(crate) fn held_blocks(&self, mut show: impl FnMut(Block, Option<u64>)) {
        if let Some(blocks) = &self.blocks {
            blocks.each_held(|inside, at, ports, idle| {
                if let Some(address) = self.addresses.get(at) {
                    show(block(inside, address.address(), &ports), idle);
                }
            });
        }
    }

    /// Frees blocks that are not used any more; `gone` is given each.
    pub(crate) fn tick(&self, now: u64, mut gone: impl FnMut(Block)) {
        if let (Some(blocks), true) = (&self.blocks, self.keeps_blocks()) {
            blocks.tick(now, |inside, at, ports| {
                if let Some(address) = self.addresses.get(at) {
                    gone(block(inside, address.address(), &ports));
                }
            });
        }
    }

    /// Shows the blocks that hosts have, with how many mappings are in each.
    pub fn blocks(&self, mut show: impl FnMut(Block, u32)) {
        if let Some(blocks) = &self.blocks {
            blocks.each(|inside, at, ports, mappings| {
                if let Some(address) = self.addresses.get(at) {
                    show(block(inside, address.address(), &ports), mappings);
                }
            });
        }
    }

    /// How many blocks there are, and how many of them are free; zeros without blocks.
    pub(crate) fn usage_of_blocks(&self) -> (usize, usize) {
        self.blocks.as_ref().map(Blocks::usage).unwrap_or_default()
    }

    /// Shows how much of each of its addresses is in use.
    pub fn addresses(&self, now: u64, mut show: impl FnMut(AddressUse)) {
        let usable = self.config.usable();
        let blocks = self.blocks.as_ref().filter(|_| self.keeps_blocks());
        for (at, address) in self.addresses.iter().enumerate() {
            // Those that have rested long enough are woken first.
            let of_protocols = address.usage(now);
            show(AddressUse {
                address: address.address(),
                of_protocols,
                free: address.available(&usable),
                blocks: blocks.map_or((0, 0), |blocks| blocks.usage_of(at)),
            });
        }
    }

    /// How much of it is in use.
    pub fn usage(&self, now: u64) -> PoolUse {
        let mut of_addresses = [PortUse::default(); PROTOCOLS.len()];
        for address in &self.addresses {
            for (sum, usage) in of_addresses.iter_mut().zip(address.usage(now)) {
                sum.taken += usage.taken;
                sum.resting += usage.resting;
            }
        }
        PoolUse {
            addresses: self.addresses.len(),
            ports: self.config.usable().iter().map(RangeInclusive::len).sum(),
            of_addresses,
            blocks: self.usage_of_blocks(),
            refused: self.refused.each_ref().map(|refused| refused.load(Ordering::Relaxed)),
        }
    }
}

fn block(inside: IpAddr, outside: IpAddr, ports: &RangeInclusive<u16>) -> Block {
    Block { inside, outside, first: *ports.start(), last: *ports.end() }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address so many after `first`.
fn nth(first: IpAddr, at: u128) -> Option<IpAddr> {
    let number = number(first).checked_add(at)?;
    match first {
        IpAddr::V4(_) => Some(IpAddr::V4(u32::try_from(number).ok()?.into())),
        IpAddr::V6(_) => Some(IpAddr::V6(number.into())),
    }
}

/// How many addresses a range has.
fn count(range: &RangeInclusive<IpAddr>) -> u128 {
    number(*range.end()).checked_sub(number(*range.start())).map_or(0, |last| last.saturating_add(1))
}
