//! Frame lengths, and mixes of them.

use std::fmt;
use std::str::FromStr;

use throughway_traffic::{MAX_CLASSES, MIX};

use crate::Error;

/// Bytes of the Ethernet frame check sequence: lengths are given with it, as in RFC 2544, but no buffer holds it.
pub(crate) const CHECK_SEQUENCE: u16 = 4;
/// The shortest Ethernet frame.
const SHORTEST: u16 = 64;
/// The longest frame that fits into a page of the kernel beside what it needs itself.
const LONGEST: u16 = 3072;

/// Lengths of frames in bytes with their frame check sequence, and how many of each, in proportion.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sizes(Vec<(u16, u32)>);

impl Sizes {
    /// All frames of one length.
    ///
    /// # Errors
    ///
    /// When no frame can have it.
    pub fn one(bytes: u16) -> Result<Sizes, Error> {
        Sizes::mix(&[(bytes, 1)])
    }

    /// The "simple IMIX": 7 frames of 64 bytes, 4 of 594, 1 of 1518. Its mean is 362 bytes.
    pub fn imix() -> Sizes {
        Sizes(vec![(1518, 1), (594, 4), (64, 7)])
    }

    /// Length and weight of each.
    ///
    /// # Errors
    ///
    /// When there is none, there are too many, a length is none that a frame can have or comes twice, or a weight is zero.
    pub fn mix(sizes: &[(u16, u32)]) -> Result<Sizes, Error> {
        if sizes.is_empty() || sizes.len() > MAX_CLASSES {
            return Err(Error::Impossible(format!("between one and {MAX_CLASSES} frame lengths, please")));
        }
        let mut sizes = sizes.to_vec();
        // The longest first: that is how the kernel prepares its buffers.
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        for &(bytes, weight) in &sizes {
            if !(SHORTEST..=LONGEST).contains(&bytes) {
                return Err(Error::Impossible(format!(
                    "a frame of {bytes} bytes cannot be sent: {SHORTEST} to {LONGEST}, frame check sequence included"
                )));
            }
            if !(1..=MIX as u32).contains(&weight) {
                return Err(Error::Impossible(format!("the weight {weight} is not between 1 and {MIX}")));
            }
        }
        if sizes.windows(2).any(|pair| matches!(pair, [(a, _), (b, _)] if a == b)) {
            return Err(Error::Impossible("a frame length is given twice".to_owned()));
        }
        Ok(Sizes(sizes))
    }

    /// Lengths without frame check sequence, longest first, none shorter than `least`: those are made so long.
    pub(crate) fn frames(&self, least: u16) -> Vec<u16> {
        self.0.iter().map(|&(bytes, _)| (bytes - CHECK_SEQUENCE).max(least)).collect()
    }

    /// Which class each of [`MIX`] entries is of, in proportion to the weights.
    pub(crate) fn shares(&self) -> [u8; MIX] {
        let total: u64 = self.0.iter().map(|&(_, weight)| u64::from(weight)).sum();
        let mut shares = [0; MIX];
        let mut until = 0;
        let mut begin = 0;
        for (class, &(_, weight)) in self.0.iter().enumerate() {
            until += u64::from(weight);
            let end = ((until * MIX as u64 + total / 2) / total.max(1)) as usize;
            for share in shares.iter_mut().take(end).skip(begin) {
                *share = class as u8;
            }
            begin = end;
        }
        shares
    }

    /// The shortest frame, in bytes with its frame check sequence.
    pub fn shortest(&self) -> u16 {
        self.0.last().map_or(SHORTEST, |&(bytes, _)| bytes)
    }

    /// Whether frames are of different lengths.
    pub fn mixed(&self) -> bool {
        self.0.len() > 1
    }

    /// Length and weight of each, longest first.
    pub fn entries(&self) -> &[(u16, u32)] {
        &self.0
    }
}

impl FromStr for Sizes {
    type Err = Error;

    /// `64`, `imix`, or `64:7,594:4,1518:1`.
    fn from_str(text: &str) -> Result<Sizes, Error> {
        if text.eq_ignore_ascii_case("imix") {
            return Ok(Sizes::imix());
        }
        let wrong =
            || Error::Impossible(format!("`{text}` is neither a length, nor `imix`, nor LENGTH:WEIGHT,…"));
        let entry = |entry: &str| {
            let (bytes, weight) = entry.split_once(':').unwrap_or((entry, "1"));
            Ok((bytes.trim().parse().map_err(|_| wrong())?, weight.trim().parse().map_err(|_| wrong())?))
        };
        let entries: Result<Vec<_>, Error> = text.split(',').map(entry).collect();
        Sizes::mix(&entries?)
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [(bytes, _)] = self.0.as_slice() {
            return write!(f, "{bytes}");
        }
        for (number, (bytes, weight)) in self.0.iter().rev().enumerate() {
            let separator = if number == 0 { "" } else { "," };
            write!(f, "{separator}{bytes}:{weight}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        assert_eq!("64".parse::<Sizes>().unwrap(), Sizes::one(64).unwrap());
        assert_eq!("imix".parse::<Sizes>().unwrap(), Sizes::imix());
        assert_eq!("64:7,594:4,1518:1".parse::<Sizes>().unwrap(), Sizes::imix());
        assert_eq!(Sizes::imix().to_string(), "64:7,594:4,1518:1");
        assert_eq!(Sizes::one(128).unwrap().to_string(), "128");
        for wrong in
            ["", "63", "4000", "64:0", "64:7,64:1", "many", "64:7,594:x", "64,65,66,67,68,69,70,71,72"]
        {
            assert!(wrong.parse::<Sizes>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_class_has_its_share() {
        let sizes = Sizes::imix();
        assert_eq!(sizes.frames(60), [1514, 590, 60]);
        assert_eq!(sizes.frames(80), [1514, 590, 80]);
        let shares = sizes.shares();
        let count = |class| shares.iter().filter(|&&share| share == class).count();
        // 1/12, 4/12 and 7/12 of 256.
        assert_eq!([count(0), count(1), count(2)], [21, 86, 149]);
        assert!(Sizes::one(64).unwrap().shares().iter().all(|&share| share == 0));
    }
}
