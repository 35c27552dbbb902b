//! What of a flow is not looked at on a hit: whom to credit, what was told so far, when it came.
//!
//! Sixteen bytes hold that of most flows. What does not fit lies in records that are shared out as flows need them: the credits of
//! a flow that has more than one, and the totals of one that has run for long.

use crate::entry::Credits;
use crate::records::Records;

/// One flow's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cold {
    /// The only credit, or (with [`MANY`]) the number of the record that has them.
    credit: [u32; 2],
    /// Bytes told so far, or (with [`FAR`]) the number of the record with the totals.
    bytes: u32,
    /// Packets told so far.
    packets: u16,
    /// When it was installed, in ticks, and two bits.
    when: u16,
}

/// For each flow the cache has room for, in bytes.
pub(crate) const BYTES: usize = size_of::<Cold>();

const _: () = assert!(BYTES == 16);

/// Bit of [`Cold::when`]: the credits are in a record.
const MANY: u16 = 1 << 15;
/// Bit of [`Cold::when`]: the totals are in a record.
const FAR: u16 = 1 << 14;
/// Bits of [`Cold::when`]: the tick.
const TICK: u16 = FAR - 1;

/// Three credits; or packets told, bytes told, and, in the lower and the upper half, how often the entry's packets and bytes ran
/// over since they were last told.
type Record = [u64; 3];

/// The size of a record, in bytes.
pub(crate) const BYTES_OF_RECORD: usize = size_of::<Record>();

/// All flows', by their place.
#[derive(Debug)]
pub(crate) struct Colds {
    colds: Box<[Cold]>,
    /// Room for two for each place, as many as can be wanted.
    records: Records<3>,
}

impl Colds {
    pub(crate) fn new(places: usize) -> Self {
        Colds { colds: vec![Cold::default(); places].into_boxed_slice(), records: Records::new(places * 2) }
    }

    /// Brings a flow's into the cache.
    #[inline]
    pub(crate) fn touch(&self, place: usize) -> u64 {
        self.colds.get(place).map_or(0, |cold| u64::from(cold.packets))
    }

    /// Another flow has come to a place, at this tick.
    pub(crate) fn begin(&mut self, place: usize, tick: u16) {
        let Some(cold) = self.colds.get_mut(place) else { return };
        let before = std::mem::replace(cold, Cold { when: tick & TICK, ..Cold::default() });
        if before.when & MANY != 0 {
            self.records.remove(before.credit[0]);
        }
        if before.when & FAR != 0 {
            self.records.remove(before.bytes);
        }
    }

    /// When the flow was installed, in ticks.
    pub(crate) fn installed(&self, place: usize) -> u16 {
        self.colds.get(place).map_or(0, |cold| cold.when & TICK)
    }

    pub(crate) fn credits(&self, place: usize) -> Credits {
        let Some(cold) = self.colds.get(place) else { return Credits::default() };
        let [low, high] = cold.credit;
        if cold.when & MANY != 0 {
            return Credits(self.records.get(low).copied().unwrap_or_default());
        }
        Credits([u64::from(high) << 32 | u64::from(low), 0, 0])
    }

    pub(crate) fn set_credits(&mut self, place: usize, credits: Credits) {
        let Some(Cold { credit: [number, _], when, .. }) = self.colds.get(place).copied() else { return };
        let Credits([first, second, third]) = credits;
        let many = second | third != 0;
        let record = match (when & MANY != 0, many) {
            (true, true) => Some(number),
            (false, true) => self.records.insert(credits.0),
            (true, false) => {
                self.records.remove(number);
                None
            }
            (false, false) => None,
        };
        let held = record.and_then(|number| self.records.get_mut(number));
        if let Some(held) = held {
            *held = credits.0;
        }
        if let Some(cold) = self.colds.get_mut(place) {
            cold.credit = record.map_or([first as u32, (first >> 32) as u32], |number| [number, 0]);
            cold.when = cold.when & !MANY | if record.is_some() { MANY } else { 0 };
        }
    }

    /// Packets and bytes told so far.
    pub(crate) fn told(&self, place: usize) -> (u64, u64) {
        match (self.colds.get(place), self.far(place)) {
            (_, Some([packets, bytes, _])) => (*packets, *bytes),
            (Some(cold), None) => (u64::from(cold.packets), u64::from(cold.bytes)),
            (None, None) => (0, 0),
        }
    }

    /// Adds to what was told so far.
    pub(crate) fn tell(&mut self, place: usize, packets: u64, bytes: u64) {
        let told = self.told(place);
        let sum = (told.0.saturating_add(packets), told.1.saturating_add(bytes));
        let Some(cold) = self.colds.get_mut(place) else { return };
        if cold.when & FAR == 0
            && let (Ok(packets), Ok(bytes)) = (u16::try_from(sum.0), u32::try_from(sum.1))
        {
            (cold.packets, cold.bytes) = (packets, bytes);
        } else if let Some([packets, bytes, _]) = self.go_far(place) {
            (*packets, *bytes) = sum;
        }
    }

    /// Packets and bytes that ran over from the entry's fields and were not told yet.
    pub(crate) fn carried(&self, place: usize) -> (u64, u64) {
        let carried = self.far(place).map_or(0, |[_, _, carried]| *carried);
        ((carried & 0xffff_ffff) << 16, carried >> 32 << 32)
    }

    /// The entry's packets, or bytes, or both, ran over.
    pub(crate) fn carry(&mut self, place: usize, packets: bool, bytes: bool) {
        if let Some([_, _, carried]) = self.go_far(place) {
            *carried = carried.wrapping_add(u64::from(packets) | u64::from(bytes) << 32);
        }
    }

    /// What ran over is told.
    pub(crate) fn clear_carried(&mut self, place: usize) {
        if self.far(place).is_some()
            && let Some([_, _, carried]) = self.go_far(place)
        {
            *carried = 0;
        }
    }

    /// The totals of a flow that has them in a record.
    fn far(&self, place: usize) -> Option<&Record> {
        let cold = self.colds.get(place).filter(|cold| cold.when & FAR != 0)?;
        self.records.get(cold.bytes)
    }

    /// The same, of a flow that has not had them there, too.
    fn go_far(&mut self, place: usize) -> Option<&mut Record> {
        let cold = self.colds.get(place).copied()?;
        if cold.when & FAR != 0 {
            return self.records.get_mut(cold.bytes);
        }
        let number = self.records.insert([cold.packets.into(), cold.bytes.into(), 0])?;
        let moved = self.colds.get_mut(place)?;
        moved.bytes = number;
        moved.when |= FAR;
        self.records.get_mut(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As wide as can be.
    #[derive(Clone, Copy, Default)]
    struct Wide {
        credits: [u64; 3],
        told: (u64, u64),
        carried: (u64, u64),
        installed: u16,
    }

    #[test]
    fn says_what_wide_fields_would_say() {
        const PLACES: usize = 24;
        let mut colds = Colds::new(PLACES);
        let mut wide = [Wide::default(); PLACES];
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 16) % below
        };
        for step in 0..200_000 {
            let place = random(PLACES as u64) as usize;
            let model = &mut wide[place];
            match random(8) {
                0 if random(4) == 0 => {
                    let tick = random(1 << 14) as u16;
                    colds.begin(place, tick);
                    *model = Wide { installed: tick, ..Wide::default() };
                }
                0 | 1 => {
                    let mut credits = [random(u64::MAX), random(u64::MAX), random(u64::MAX)];
                    credits.iter_mut().skip(random(4) as usize).for_each(|credit| *credit = 0);
                    colds.set_credits(place, Credits(credits));
                    model.credits = credits;
                }
                2 => {
                    let (packets, bytes) = (random(2) == 0, random(2) == 0);
                    colds.carry(place, packets, bytes);
                    model.carried.0 += u64::from(packets) << 16;
                    model.carried.1 += u64::from(bytes) << 32;
                }
                3 => {
                    colds.clear_carried(place);
                    model.carried = (0, 0);
                }
                4 if random(50) == 0 => {
                    let (packets, bytes) = (random(1 << 40), random(1 << 50));
                    colds.tell(place, packets, bytes);
                    model.told = (model.told.0 + packets, model.told.1 + bytes);
                }
                _ => {
                    let (packets, bytes) = (random(300), random(1 << 20));
                    colds.tell(place, packets, bytes);
                    model.told = (model.told.0 + packets, model.told.1 + bytes);
                }
            }
            for (place, wide) in wide.iter().enumerate() {
                assert_eq!(colds.credits(place).0, wide.credits, "step {step}");
                assert_eq!(
                    (colds.told(place), colds.carried(place)),
                    (wide.told, wide.carried),
                    "step {step}"
                );
                assert_eq!(colds.installed(place), wide.installed);
            }
        }
        assert!(colds.records.most() <= 2 * PLACES, "records are given back");
    }
}
