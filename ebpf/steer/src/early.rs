//! What is dropped before anything else: packets from sources in a firewall's early sets. How these lie in memory is in
//! `throughway_shared::early`.

use core::ptr;

use aya_ebpf::{
    Global,
    macros::map,
    maps::{
        Array, PerCpuArray,
        lpm_trie::{Key, LpmTrie},
    },
};
use throughway_shared::{
    early::{
        self, KEY4, KEY6, LENGTHS6, MORE, ROOTS, ROOTS_IN_LINE, Root, VERDICTS, WAYS6, WORDS4, WORDS6, key4,
        tail6, verdict_of,
    },
    steer::{EARLY, Interface, MAX_EARLY, MAX_EARLY_SETS, early_length, is_early_at},
};

use crate::{
    classify::{Address, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, TAG, View, is_tag},
    maps::MMAPABLE,
};

/// A cache line of roots.
type RootLine = [u32; ROOTS_IN_LINE];

#[map]
static EARLY_ROOTS4: Array<RootLine> = Array::with_max_entries((ROOTS / ROOTS_IN_LINE) as u32, MMAPABLE);

#[map]
static EARLY_ROOTS6: Array<RootLine> = Array::with_max_entries((ROOTS / ROOTS_IN_LINE) as u32, MMAPABLE);

// One value each until the loader says how many.

#[map]
static EARLY_TABLE4: Array<[u64; WORDS4]> = Array::with_max_entries(1, MMAPABLE);

#[map]
static EARLY_TABLE6: Array<[u64; WORDS6]> = Array::with_max_entries(1, MMAPABLE);

#[map]
static EARLY_VERDICTS: Array<[u64; 2]> = Array::with_max_entries(VERDICTS as u32, MMAPABLE);

#[map]
static EARLY4: LpmTrie<u32, [u32; 3]> = LpmTrie::with_max_entries(MAX_EARLY, 0);

#[map]
static EARLY6: LpmTrie<Address, [u32; 3]> = LpmTrie::with_max_entries(MAX_EARLY, 0);

#[map]
static EARLY_DROPS: PerCpuArray<u64> = PerCpuArray::with_max_entries(MAX_EARLY_SETS, 0);

#[unsafe(no_mangle)]
static EARLY_BUCKETS4: Global<u32> = Global::new(1);

#[unsafe(no_mangle)]
static EARLY_BUCKETS6: Global<u32> = Global::new(1);

#[unsafe(no_mangle)]
static EARLY_SEED: Global<u64> = Global::new(0);

/// A word of shared memory, which may change under our hands.
macro_rules! load {
    ($place:expr) => {
        // SAFETY: a reference to a value of a map, all of which is initialised, valid with any bits, and lives as long as the program;
        // volatile, as user space writes it meanwhile.
        unsafe { ptr::read_volatile(&raw const $place) }
    };
}

/// Whether the frame is such a packet, whatever its tags and whoever it is sent to.
#[inline(always)]
pub(crate) fn is_dropped<V: View>(view: &V, interface: &Interface) -> bool {
    if interface.flags & EARLY == 0 {
        return false;
    }
    let mut l3 = ETHERNET;
    for _ in 0..3 {
        let Some(kind) = view.bytes::<2>(l3 - 2) else { return false };
        let kind = u16::from_be_bytes(kind);
        if !is_tag(kind) {
            return from(view, l3, kind, interface.number);
        }
        l3 += TAG;
    }
    false
}

#[inline(always)]
fn from<V: View>(view: &V, l3: usize, kind: u16, number: u32) -> bool {
    match kind {
        ETHERTYPE_IPV4 => {
            view.words::<1>(l3 + 12).is_some_and(|[source]| is_early4(u32::from_be(source), number) != 0)
        }
        ETHERTYPE_IPV6 => view
            .double_words::<2>(l3 + 8)
            .is_some_and(|[high, low]| is_early6(u64::from_be(high), u64::from_be(low), number) != 0),
        _ => false,
    }
}

/// What is known of sources that begin like this.
#[inline(always)]
fn root(roots: &Array<RootLine>, number: u32) -> Root {
    let Some(line) = roots.get(number / ROOTS_IN_LINE as u32) else { return Root(0) };
    Root(load!(line[number as usize % ROOTS_IN_LINE]))
}

/// The longest prefix so far.
struct Best {
    verdict: u32,
    length: u32,
}

/// Whether packets from an IPv4 source (host order) are dropped at interface `number`; counts those that are. Functions of their own, which
/// the verifier looks at once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_early4(source: u32, number: u32) -> u32 {
    let root = root(&EARLY_ROOTS4, source >> 16);
    if root.0 == 0 {
        return 0;
    }
    let mut best = Best { verdict: root.verdict(), length: 16 };
    let mut lengths = root.lengths();
    let mut length = 32;
    // The longest first.
    for _ in 0..16 {
        if lengths == 0 {
            break;
        }
        if lengths & 0x8000 != 0 {
            let verdict = find4(source >> (32 - length) << (32 - length), length);
            if verdict != 0 {
                best = Best { verdict, length };
                break;
            }
        }
        lengths = lengths << 1 & 0xffff;
        length -= 1;
    }
    if root.asks_trie() && best.length < 32 {
        let found = EARLY4.get(Key::new(32, source.to_be()));
        if let Some(dropped) = of_trie(found, &best, number) {
            return dropped;
        }
    }
    judge(best.verdict, number)
}

/// The number of the verdict of a prefix in the table; zero: it is not there.
#[inline(always)]
fn find4(prefix: u32, length: u32) -> u32 {
    let key = key4(prefix, length);
    let (hash, buckets) = (early::hash4(EARLY_SEED.load(), key), EARLY_BUCKETS4.load());
    let Some(bucket) = EARLY_TABLE4.get(early::first(hash, buckets)) else { return 0 };
    let found = in_bucket4(bucket, key);
    if found != 0 || load!(bucket[0]) & MORE == 0 {
        return found;
    }
    EARLY_TABLE4.get(early::second(hash, buckets)).map_or(0, |bucket| in_bucket4(bucket, key))
}

#[inline(always)]
fn in_bucket4(bucket: &[u64; WORDS4], key: u64) -> u32 {
    for way in bucket {
        let word = load!(*way);
        if word & KEY4 == key {
            return verdict_of(word);
        }
    }
    0
}

/// As [`is_early4`], of IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_early6(high: u64, low: u64, number: u32) -> u32 {
    let root = root(&EARLY_ROOTS6, (high >> 48) as u32);
    if root.0 == 0 {
        return 0;
    }
    let mut best = Best { verdict: root.verdict(), length: 16 };
    let lengths = root.lengths();
    for number in 0..LENGTHS6.len() {
        let number = LENGTHS6.len() - 1 - number;
        if lengths >> number & 1 != 0 {
            let length = u32::from(LENGTHS6[number]);
            let (high, low) =
                if length == 128 { (high, low) } else { (high >> (64 - length) << (64 - length), 0) };
            let verdict = find6(high, low, length);
            if verdict != 0 {
                best = Best { verdict, length };
                break;
            }
        }
    }
    if root.asks_trie() && best.length < 128 {
        let found = EARLY6.get(Key::new(128, [high.to_be(), low.to_be()]));
        if let Some(dropped) = of_trie(found, &best, number) {
            return dropped;
        }
    }
    judge(best.verdict, number)
}

/// As [`find4`], of IPv6. A function of its own, as it is asked for up to sixteen lengths.
#[inline(never)]
fn find6(high: u64, low: u64, length: u32) -> u32 {
    let (hash, buckets) = (early::hash6(EARLY_SEED.load(), high, low, length), EARLY_BUCKETS6.load());
    let tail = tail6(hash, length);
    let Some(bucket) = EARLY_TABLE6.get(early::first(hash, buckets)) else { return 0 };
    let found = in_bucket6(bucket, tail, high, low);
    if found != 0 || load!(bucket[0]) & MORE == 0 {
        return found;
    }
    EARLY_TABLE6.get(early::second(hash, buckets)).map_or(0, |bucket| in_bucket6(bucket, tail, high, low))
}

#[inline(always)]
fn in_bucket6(bucket: &[u64; WORDS6], tail: u64, high: u64, low: u64) -> u32 {
    let (tails, addresses) = bucket.split_at(WAYS6);
    for (way, address) in tails.iter().zip(addresses.as_chunks::<2>().0) {
        let word = load!(*way);
        if word & KEY6 == tail && load!(address[0]) == high && load!(address[1]) == low {
            return verdict_of(word);
        }
    }
    0
}

/// What the trie says, if it knows a longer prefix.
#[inline(always)]
fn of_trie(found: Option<&[u32; 3]>, best: &Best, number: u32) -> Option<u32> {
    let value = found?;
    if best.verdict != 0 && early_length(value) < best.length {
        return None;
    }
    if !is_early_at(value, number) {
        return Some(0);
    }
    count(value[2] & 0xffff);
    Some(1)
}

#[inline(always)]
fn judge(verdict: u32, number: u32) -> u32 {
    if verdict == 0 {
        return 0;
    }
    let Some(said) = EARLY_VERDICTS.get(verdict) else { return 0 };
    if load!(said[0]) >> (number & 63) & 1 == 0 {
        return 0;
    }
    count(load!(said[1]) as u32);
    1
}

#[inline(always)]
fn count(set: u32) {
    if let Some(counter) = EARLY_DROPS.get_ptr_mut(set) {
        // SAFETY: the kernel returned a pointer to this CPU's own value, and XDP does not migrate or nest on a CPU.
        unsafe { *counter += 1 }
    }
}
