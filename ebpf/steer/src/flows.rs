//! The flows that workers handed over, in memory that is shared with them: see `throughway_shared::fast`.

use core::{arch::asm, ptr};

use aya_ebpf::{Global, helpers::bpf_ktime_get_coarse_ns, macros::map, maps::Array};
use throughway_shared::fast::{
    ALIVE_UNTIL, BUCKET_WORDS, CONTROL_WORDS, CURRENT, ENDLESS, Entry, GENERATION_WORDS, HORIZON, Hash,
    LAST_SHIFT, SILENCE_SHIFT, SLOT_CONFIG, SLOT_ROUTES, Template, WAYS, Wide, first_place, matches, way,
};

use crate::maps::MMAPABLE;

// One value each until the loader says how many.

#[map]
static FAST_BUCKETS: Array<[u64; BUCKET_WORDS]> = Array::with_max_entries(1, MMAPABLE);

#[map]
static FAST_ENTRIES: Array<Entry> = Array::with_max_entries(1, MMAPABLE);

#[map]
static FAST_WIDE: Array<Wide> = Array::with_max_entries(1, MMAPABLE);

#[map]
static FAST_TEMPLATES: Array<Template> = Array::with_max_entries(1, MMAPABLE);

#[map]
static FAST_GENERATIONS: Array<[u32; GENERATION_WORDS]> = Array::with_max_entries(1, MMAPABLE);

#[map]
static FAST_CONTROL: Array<[u64; CONTROL_WORDS]> = Array::with_max_entries(1, MMAPABLE);

// Constants: the verifier sees what the loader writes here, and leaves out what cannot happen.

#[unsafe(no_mangle)]
static FAST_WORKERS: Global<u32> = Global::new(0);

#[unsafe(no_mangle)]
static FAST_BUCKETS_EACH: Global<u32> = Global::new(1);

#[unsafe(no_mangle)]
static FAST_TEMPLATES_EACH: Global<u32> = Global::new(1);

#[unsafe(no_mangle)]
static FAST_SEED: Global<u64> = Global::new(0);

#[unsafe(no_mangle)]
static FAST_SEED_LAST: Global<u64> = Global::new(0);

/// How many flows of a bucket with the same tag are looked at: a third is not found, and walks its chain.
const TRIES: usize = 2;

/// A field of shared memory, which may change under our hands.
macro_rules! load {
    ($pointer:expr, $field:ident) => {
        // SAFETY: the pointer is to a value of a map, all of which is initialised, valid with any bits, and lives as long as the
        // program; volatile, as user space writes it meanwhile.
        unsafe { ptr::read_volatile(&raw const (*$pointer).$field) }
    };
}

/// Sets a field of shared memory.
macro_rules! store {
    ($pointer:expr, $field:ident = $value:expr) => {{
        let value = $value;
        // SAFETY: as above. What is written here no worker writes, but for the generation, of which either's is right; and a
        // flow comes by one queue, which is one CPU's.
        unsafe { ptr::write_volatile(&raw mut (*$pointer).$field, value) }
    }};
}

/// The part of the tables that belongs to one worker.
#[derive(Clone, Copy)]
pub(crate) struct Region {
    worker: u32,
}

/// A flow that was found.
pub(crate) struct Found {
    pub(crate) entry: *mut Entry,
    /// Of IPv6; null of IPv4.
    pub(crate) wide: *const Wide,
    template: *const Template,
}

impl Region {
    /// That of the worker which serves `queue`; `None` when there is no fast path.
    #[inline(always)]
    pub(crate) fn of(queue: u32) -> Option<Region> {
        match FAST_WORKERS.load() {
            0 => None,
            1 => Some(Region { worker: 0 }),
            workers => Some(Region { worker: queue % workers }),
        }
    }

    /// The flow with these IPv4 addresses, ports and rest of key.
    #[inline(always)]
    pub(crate) fn find4(self, addresses: u64, ports: u32, key: u64) -> Option<Found> {
        let hash = Hash::narrow(seed(), addresses, ports, key);
        self.find(hash, |place| {
            let entry = FAST_ENTRIES.get_ptr_mut(place)?;
            if load!(entry, addresses) != addresses || load!(entry, ports) != ports {
                return None;
            }
            Some(Found { entry, wide: ptr::null(), template: self.template(entry, key)? })
        })
    }

    /// The flow with these IPv6 addresses, ports and rest of key.
    #[inline(always)]
    pub(crate) fn find6(self, addresses: &[u64; 4], ports: u32, key: u64) -> Option<Found> {
        let hash = Hash::wide(seed(), *addresses, ports, key);
        self.find(hash, |place| {
            let entry = FAST_ENTRIES.get_ptr_mut(place)?;
            let wide = FAST_WIDE.get_ptr(place)?;
            let [a, b, c, d] = load!(wide, addresses);
            let [e, f, g, h] = *addresses;
            if (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) != 0 || load!(entry, ports) != ports {
                return None;
            }
            Some(Found { entry, wide, template: self.template(entry, key)? })
        })
    }

    #[inline(always)]
    fn find(self, hash: Hash, is_at: impl Fn(u32) -> Option<Found>) -> Option<Found> {
        let buckets = FAST_BUCKETS_EACH.load();
        let tag = hash.tag();
        for number in [hash.first(buckets), hash.second(buckets)] {
            let bucket = FAST_BUCKETS.get_ptr(self.worker * buckets + number)?;
            let [front, back, front_places, back_places] = load_bucket(bucket);
            let mut marks = [matches(front, tag), matches(back, tag)];
            for _ in 0..TRIES {
                let [front, back] = marks;
                if front | back == 0 {
                    break;
                }
                // In which half it is cannot be foretold: no branch.
                let in_back = if_zero(front);
                let half = front | back & in_back;
                let places = (front_places & !in_back) | (back_places & in_back);
                let place = (places >> (way(half) * 16)) as u32 & 0xffff;
                if let Some(found) = is_at(self.worker * buckets * WAYS as u32 + first_place(number) + place)
                {
                    return Some(found);
                }
                let rest = half & (half - 1);
                marks = [rest & !in_back, (back & !in_back) | (rest & in_back)];
            }
        }
        None
    }

    /// The template of an entry, if it is of flows with this rest of key.
    #[inline(always)]
    fn template(self, entry: *mut Entry, key: u64) -> Option<*const Template> {
        let number = self.worker * FAST_TEMPLATES_EACH.load() + u32::from(load!(entry, template));
        let template = FAST_TEMPLATES.get_ptr(number)?;
        if load!(template, context) == key { Some(template) } else { None }
    }
}

impl Found {
    /// What the flow has in common with others.
    #[inline(always)]
    pub(crate) fn template(&self) -> &Template {
        // SAFETY: a value of a map lives as long as the program, and a template is not written to while an entry names it, nor for a
        // while afterwards.
        unsafe { &*self.template }
    }

    /// The flow itself. Not to be used for what changes under our hands.
    #[inline(always)]
    pub(crate) fn entry(&self) -> &Entry {
        // SAFETY: a value of a map lives as long as the program, and but for generation and counters an entry is not written to
        // while its tag is in a bucket, nor for a while afterwards.
        unsafe { &*self.entry }
    }

    /// The flow's IPv6 addresses.
    #[inline(always)]
    pub(crate) fn wide(&self) -> Option<&Wide> {
        // SAFETY: as for the entry.
        unsafe { self.wide.as_ref() }
    }

    /// Whether the flow still holds, and for a packet of this length and hop limit.
    #[inline(always)]
    pub(crate) fn admits(&self, len: u16, hop_limit: u8) -> bool {
        let template = self.template();
        len <= template.limit && hop_limit > template.hops && self.is_true() && self.is_fresh()
    }

    /// Whether nothing that the flow was made from has changed: as `throughway_flow::Epoch::unchanged` does.
    #[inline(always)]
    fn is_true(&self) -> bool {
        let Some(words) = FAST_GENERATIONS.get_ptr(0) else { return false };
        let then = load!(self.entry, generation);
        let now = word(words, CURRENT);
        if then == now {
            return true;
        }
        let after = after(now);
        let changed = |slot: usize| (word(words, slot + after).wrapping_sub(then) as i32 > 0) as u32;
        let [a, b, c, d] = load!(self.entry, dependencies).map(usize::from);
        let any =
            changed(SLOT_CONFIG) | changed(SLOT_ROUTES) | changed(a) | changed(b) | changed(c) | changed(d);
        if any != 0 || now.wrapping_sub(then) >= HORIZON {
            return false;
        }
        store!(self.entry, generation = now);
        true
    }

    /// Whether the flow was not silent for too long, and the workers live; notes that it is not silent now.
    #[inline(always)]
    fn is_fresh(&self) -> bool {
        let Some(control) = FAST_CONTROL.get_ptr(0) else { return false };
        // SAFETY: the helper has no preconditions.
        let now = unsafe { bpf_ktime_get_coarse_ns() };
        // SAFETY: `ALIVE_UNTIL` is within the value; see `load`.
        if now >= unsafe { ptr::read_volatile(control.cast::<u64>().add(ALIVE_UNTIL)) } {
            return false;
        }
        let now = (now >> LAST_SHIFT) as u32;
        let silence = load!(self.entry, silence);
        // One more, as both are rounded down; and less than none, when it was installed after the last tick of this coarse clock.
        let silent = now.wrapping_sub(load!(self.entry, last)).wrapping_add(1) as i32;
        if silence != ENDLESS && silent > i32::from(silence) << (SILENCE_SHIFT - LAST_SHIFT) {
            return false;
        }
        store!(self.entry, last = now);
        true
    }

    /// Counts a packet of `len` bytes.
    #[inline(always)]
    pub(crate) fn count(&self, len: u16) {
        store!(self.entry, packets = load!(self.entry, packets) + 1);
        store!(self.entry, bytes = load!(self.entry, bytes) + u64::from(len));
    }
}

#[inline(always)]
fn seed() -> [u64; 2] {
    [FAST_SEED.load(), FAST_SEED_LAST.load()]
}

/// A word of the generations; `number` is at most [`CURRENT`].
#[inline(always)]
fn word(words: *const [u32; GENERATION_WORDS], number: usize) -> u32 {
    // SAFETY: within the value, as a slot is a number of 16 bits; see `load`.
    unsafe { ptr::read_volatile(words.cast::<u32>().add(number)) }
}

/// Zero, computed from `value`: what is read at a place that depends on it is read after it, on processors too that let loads
/// overtake each other (the slots are written before the generation, so they are to be read after it).
#[inline(always)]
fn after(value: u32) -> usize {
    let mut after = u64::from(value);
    // SAFETY: one instruction on a register.
    unsafe { asm!("{0} &= 0", inlateout(reg) after, options(pure, nomem, nostack, preserves_flags)) };
    after as usize
}

/// All ones if `word` is zero, else zero.
#[inline(always)]
fn if_zero(word: u64) -> u64 {
    let mut sign = (word | word.wrapping_neg()) >> 63;
    // SAFETY: one instruction, without effect. It hides from the compiler what is known of the value, which would otherwise make branches
    // of it that are foretold wrongly half of the time.
    unsafe { asm!("{0} &= 1", inlateout(reg) sign, options(pure, nomem, nostack, preserves_flags)) };
    sign.wrapping_sub(1)
}

/// The tags of a bucket, and its places.
#[inline(always)]
fn load_bucket(bucket: *const [u64; BUCKET_WORDS]) -> [u64; BUCKET_WORDS] {
    let bucket = bucket.cast::<u64>();
    // SAFETY: all within the value; see `load`. Each is read at once. A place is written before its tag, and the processor reads it
    // after or before: a place that is no longer or not yet that of the tag has another flow's entry, whose key tells.
    unsafe {
        [
            ptr::read_volatile(bucket),
            ptr::read_volatile(bucket.add(1)),
            ptr::read_volatile(bucket.add(2)),
            ptr::read_volatile(bucket.add(3)),
        ]
    }
}
