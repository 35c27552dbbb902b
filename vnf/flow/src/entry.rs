//! What is kept of a flow, to the byte.
//!
//! A lookup touches three cache lines: a bucket of sixteen ways with a tag and a stamp each (4 bytes a flow), and the two
//! lines of one entry (128 bytes). What only the slow path, ageing and output need is in a third place, the cold part (48
//! bytes). Together 180 bytes for every flow the cache has room for.

use throughway_shared::action::Action;
use throughway_shared::flow::FlowKey;

use crate::generation::Dependencies;

/// How many flows a bucket holds.
pub(crate) const WAYS: usize = 16;

/// Bit of a stamp: the flow has proven itself.
pub(crate) const ESTABLISHED: u16 = 1 << 15;
/// Bits of a stamp: when the flow was last seen, in ticks of 2²⁸ ns (0.27 s); wraps around after 2.4 hours.
pub(crate) const TICK: u16 = ESTABLISHED - 1;

/// The tick of a time in nanoseconds.
#[inline]
pub(crate) const fn tick(now: u64) -> u16 {
    (now >> 28) as u16 & TICK
}

/// Ticks from a stamp to `now`.
#[inline]
pub(crate) const fn elapsed(stamp: u16, now: u16) -> u16 {
    now.wrapping_sub(stamp) & TICK
}

/// Sixteen flows at a glance: one cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    /// A part of the flow's hash, never zero; zero is a free way.
    pub(crate) tags: [u16; WAYS],
    /// See [`ESTABLISHED`] and [`TICK`].
    pub(crate) stamps: [u16; WAYS],
}

const _: () = assert!(size_of::<Bucket>() == 64);

/// One flow, as far as a hit needs it: two cache lines.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Entry {
    pub(crate) addresses: [u64; 4],
    pub(crate) ports: u64,
    pub(crate) rest: u32,
    /// The generation at which it was made or last found true.
    pub(crate) generation: u32,
    pub(crate) action: Action,
    pub(crate) dependencies: Dependencies,
    /// Bytes since the last harvest.
    pub(crate) bytes: u32,
    /// Packets since the last harvest.
    pub(crate) packets: u16,
    /// The longest IP packet that the action holds for.
    pub(crate) limit: u16,
}

const _: () = assert!(size_of::<Entry>() == 128);

impl Entry {
    #[inline(always)]
    pub(crate) const fn key(&self) -> crate::Key {
        let [a, b, c, d] = self.addresses;
        crate::Key([a, b, c, d, self.ports, self.rest as u64])
    }
}

/// What is not looked at on a hit.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cold {
    /// Packets harvested so far.
    pub(crate) packets: u64,
    /// Bytes harvested so far.
    pub(crate) bytes: u64,
    pub(crate) credits: Credits,
    /// How often the entry's 16 bits of packets ran over since the last harvest.
    pub(crate) packets_carried: u16,
    /// How often the entry's 32 bits of bytes ran over since the last harvest.
    pub(crate) bytes_carried: u16,
    /// When it was installed, in ticks.
    pub(crate) installed: u16,
    pub(crate) reserved: u16,
}

const _: () = assert!(size_of::<Cold>() == 48);

/// Memory for each flow the cache has room for, in bytes: what a hit touches, and all.
pub const HOT_BYTES: usize = size_of::<Entry>();
/// See [`HOT_BYTES`].
pub const BYTES_PER_FLOW: usize = size_of::<Entry>() + size_of::<Bucket>() / WAYS + size_of::<Cold>();

/// Whom to credit with a flow's packets: identifiers that mean something to who installs (a rule, a service, a backend, a
/// session of a function); zero is nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Credits(pub [u64; 3]);

/// What the slow path has to say of a flow.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow<'a> {
    /// What the chain did; a drop with its reason is as good as any.
    pub action: &'a Action,
    /// What it was made from.
    pub dependencies: Dependencies,
    /// Whom to credit.
    pub credits: Credits,
    /// The longest IP packet that the action holds for: the MTU of the egress; `u16::MAX` for drops.
    pub limit: u16,
}

/// Packets that the cache forwarded and nobody has been credited with yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settled {
    /// The flow.
    pub key: FlowKey,
    /// Whom to credit.
    pub credits: Credits,
    /// What its answer was made from: the neighbour that it is sent to is among that.
    pub dependencies: Dependencies,
    /// Packets since the last time.
    pub packets: u64,
    /// Bytes of their frames' IP packets since the last time.
    pub bytes: u64,
    /// When the last of them was seen, in nanoseconds: rounded down to a quarter of a second.
    pub last: u64,
}

/// A flow, for output.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// The flow.
    pub key: FlowKey,
    /// What happens to its packets.
    pub action: Action,
    /// Whom its packets are credited to.
    pub credits: Credits,
    /// Packets that took the short way.
    pub packets: u64,
    /// Bytes of their IP packets.
    pub bytes: u64,
    /// Nanoseconds since a packet was last seen, to a quarter of a second; wraps around after 2.4 hours, as does `age`.
    pub idle: u64,
    /// Nanoseconds since it was installed.
    pub age: u64,
    /// Whether it has proven itself, and a flood of others cannot drive it out.
    pub established: bool,
}
