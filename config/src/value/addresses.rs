//! Ranges of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::{Misread, Prefix, Value};

/// Addresses of one family, both ends included: `192.0.2.7`, `10.0.0.0/8`, `203.0.113.8-203.0.113.15`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl AddressRange {
    /// The addresses from `first` to `last`. `None` if they are of two families, or `last` is the smaller.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(AddressRange { first, last })
    }

    /// The lowest address.
    pub const fn first(&self) -> IpAddr {
        self.first
    }

    /// The highest address.
    pub const fn last(&self) -> IpAddr {
        self.last
    }

    /// Whether these are IPv4 addresses.
    pub const fn is_ipv4(&self) -> bool {
        self.first.is_ipv4()
    }

    /// Whether `address` is one of them; never if it is of the other family.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && self.first <= address && address <= self.last
    }

    /// Whether an address is in both.
    pub fn overlaps(&self, other: &AddressRange) -> bool {
        self.is_ipv4() == other.is_ipv4() && self.first <= other.last && other.first <= self.last
    }

    /// How many addresses these are; `::/0` counts one too few.
    pub fn count(&self) -> u128 {
        (number(self.last) - number(self.first)).saturating_add(1)
    }

    /// The prefix that holds the same addresses, if there is one.
    pub fn prefix(&self) -> Option<Prefix> {
        let (first, last) = (number(self.first), number(self.last));
        let differ = 128 - (first ^ last).leading_zeros();
        let ones = 1u128.checked_shl(differ).unwrap_or(0).wrapping_sub(1);
        (first & ones == 0 && last & ones == ones)
            .then(|| Prefix::containing(self.first, self.width() - differ as u8))
            .flatten()
    }

    /// The fewest prefixes that hold the same addresses together, in ascending order; at most 254.
    pub fn prefixes(&self) -> Vec<Prefix> {
        let (mut next, last) = (number(self.first), number(self.last));
        let mut prefixes = Vec::new();
        loop {
            // As many host bits as `next` allows by its zeros and as there are addresses left.
            let room = last - next;
            let left = match room.checked_add(1) {
                Some(count) => 127 - count.leading_zeros(),
                None => 128,
            };
            let host = next.trailing_zeros().min(left).min(u32::from(self.width()));
            let length = self.width() - host as u8;
            prefixes.extend(Prefix::containing(self.address(next), length));
            let ones = 1u128.checked_shl(host).unwrap_or(0).wrapping_sub(1);
            match next.checked_add(ones).and_then(|end| end.checked_add(1)) {
                Some(after) if after <= last => next = after,
                _ => return prefixes,
            }
        }
    }

    const fn width(&self) -> u8 {
        if self.first.is_ipv4() { 32 } else { 128 }
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.first {
            IpAddr::V4(_) => Ipv4Addr::from_bits(number as u32).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(number).into(),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl From<Prefix> for AddressRange {
    fn from(prefix: Prefix) -> Self {
        let first = prefix.get().address();
        let width = if first.is_ipv4() { 32 } else { 128 };
        let host = 1u128.checked_shl(width - u32::from(prefix.get().len())).unwrap_or(0).wrapping_sub(1);
        let range = AddressRange { first, last: first };
        AddressRange { first, last: range.address(number(first) | host) }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return self.first.fmt(f);
        }
        match self.prefix() {
            Some(prefix) => prefix.fmt(f),
            None => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl FromStr for AddressRange {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        const EXPECTED: &str =
            "expected an address, a prefix such as `10.0.0.0/8`, or a range such as `10.0.0.1-10.0.0.9`";
        let Some((first, last)) = text.split_once('-') else {
            // An address or a prefix, and their complaints, but for what is neither.
            let looks_right = text.split('/').next().is_some_and(|address| address.parse::<IpAddr>().is_ok());
            return match text.parse::<Prefix>() {
                Ok(prefix) => Ok(prefix.into()),
                Err(misread) if looks_right => Err(misread),
                Err(_) => Err(Misread::new(format!("`{text}` is not an address")).help(EXPECTED)),
            };
        };
        let end = |end: &str| {
            end.trim().parse::<IpAddr>().map_err(|_| {
                Misread::new(format!("`{}` in the range `{text}` is not an address", end.trim()))
                    .help(EXPECTED)
            })
        };
        let (first, last) = (end(first)?, end(last)?);
        if first.is_ipv4() != last.is_ipv4() {
            return Err(Misread::new(format!("the range `{text}` is of IPv4 and IPv6 at once")));
        }
        AddressRange::new(first, last).ok_or_else(|| {
            Misread::new(format!("the range `{text}` ends before it starts"))
                .help(format!("did you mean `{last}-{first}`?"))
        })
    }
}

impl Value for AddressRange {
    fn schema() -> serde_json::Value {
        serde_json::json!({
            "type": "string",
            "pattern": "^[0-9A-Fa-f.:]+(/[0-9]{1,3}| *- *[0-9A-Fa-f.:]+)?$",
            "examples": ["10.0.0.0/8", "203.0.113.8-203.0.113.15", "2001:db8::/32"],
        })
    }
}
