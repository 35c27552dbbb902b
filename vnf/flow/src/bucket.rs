//! Sixteen flows at a glance: tags and stamps.

use wide::i16x8;

/// How many flows a bucket holds.
pub(crate) const WAYS: usize = 16;

/// Bit of a stamp: the flow has proven itself.
pub(crate) const ESTABLISHED: u16 = 1 << 15;
/// Bit of a stamp: somebody is to be told of the flow's packets.
pub(crate) const CREDITED: u16 = 1 << 14;
/// Bits of a stamp: when the flow was last seen, in ticks of 2²⁸ ns (0.27 s); wraps around after 73 minutes.
pub(crate) const TICK: u16 = CREDITED - 1;

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

/// A duration (ns) in ticks: rounded up, at most half of what the ticks can tell.
pub(crate) fn ticks(duration: u64) -> u16 {
    let ticks = duration.div_ceil(1 << 28).clamp(1, u64::from(TICK / 2));
    ticks as u16
}

/// Sixteen flows at a glance: one cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    /// A part of the flow's hash, never zero; zero is a free way.
    pub(crate) tags: [u16; WAYS],
    /// See [`ESTABLISHED`], [`CREDITED`] and [`TICK`]; zero for a free way.
    pub(crate) stamps: [u16; WAYS],
}

const _: () = assert!(size_of::<Bucket>() == 64);

/// The upper half of a hash as a number below `range`.
#[inline(always)]
pub(crate) fn scale(hash: u64, range: usize) -> usize {
    (((hash >> 32) * range as u64) >> 32) as usize
}

/// The tag of a flow: never zero.
#[inline(always)]
pub(crate) fn tag(hash: u64) -> u16 {
    (hash as u16).max(1)
}

/// The ways of a bucket with one tag: a bit of each.
#[derive(Clone, Copy)]
pub(crate) struct Matches(u32);

impl Matches {
    #[inline(always)]
    pub(crate) fn of(bucket: Option<&Bucket>, tag: u16) -> Matches {
        let Some(bucket) = bucket else { return Matches(0) };
        let wanted = i16x8::splat(tag as i16);
        // Written out: `map` of an array is a call for each element where it is not inlined.
        let eight = |tags: &[u16; 8]| {
            let [a, b, c, d, e, f, g, h] = *tags;
            i16x8::new([a as i16, b as i16, c as i16, d as i16, e as i16, f as i16, g as i16, h as i16])
        };
        let (eights, _) = bucket.tags.as_chunks::<8>();
        let (lower, upper) = (eight(&eights[0]), eight(&eights[1]));
        Matches(lower.simd_eq(wanted).to_bitmask() | upper.simd_eq(wanted).to_bitmask() << 8)
    }

    /// The way of one of them; of some way, if there is none.
    #[inline(always)]
    pub(crate) const fn way(self) -> usize {
        self.0.trailing_zeros() as usize % WAYS
    }

    #[inline(always)]
    pub(crate) const fn any(self) -> bool {
        self.0 != 0
    }

    pub(crate) const fn count(self) -> u32 {
        self.0.count_ones()
    }

    pub(crate) const fn others(self) -> Matches {
        Matches(self.0 & (self.0 - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_matches_where_its_tag_is_and_nowhere_else() {
        for tag in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
            for others in
                [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff, 0x1234].into_iter().filter(|other| *other != tag)
            {
                for ways in [0u32, 1, 2, 0x10, 0x8000, 0xffff, 0xa5a5, 0x1248] {
                    let mut bucket = Bucket { tags: [others; WAYS], ..Bucket::default() };
                    (0..WAYS).filter(|way| ways >> way & 1 != 0).for_each(|way| bucket.tags[way] = tag);
                    let mut matches = Matches::of(Some(&bucket), tag);
                    assert_eq!(matches.count(), ways.count_ones());
                    let mut found = 0;
                    while matches.any() {
                        found |= 1 << matches.way();
                        matches = matches.others();
                    }
                    assert_eq!(found, ways, "{tag:x} among {others:x}");
                }
            }
        }
    }
}
