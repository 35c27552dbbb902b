//! Limits: how much in a span of time, how many at once.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{Misread, Value};

/// How much may pass in a span of time: `1000/s`, `10 Mbit/s`, `5 connections/s per source /24, burst 100`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rate {
    over: bool,
    amount: u64,
    unit: RateUnit,
    interval: Duration,
    per: Option<Per>,
    burst: u64,
}

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RateUnit {
    /// Packets.
    Packets,
    /// Bytes of IP packets, headers included.
    Bytes,
    /// New sessions.
    Connections,
}

/// How many may be at once: `20`, `20 per source`, `over 20 per source /24`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ceiling {
    over: bool,
    count: u32,
    per: Option<Per>,
}

/// Which packets share a limit: those whose address of one end is in the same prefix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Per {
    /// The address that counts.
    pub side: PerSide,
    /// How many bits of an IPv4 address count, 0 to 32.
    pub ipv4: u8,
    /// How many bits of an IPv6 address count, 0 to 128.
    pub ipv6: u8,
}

/// The address that tells limits apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PerSide {
    /// The source of the packet; of a session, who opened it.
    Source,
    /// The destination.
    Destination,
}

/// A host has an IPv6 /64 for itself (RFC 4291, 7934): limits on single addresses would be none.
const IPV6_HOST: u8 = 64;

const INTERVALS: &[(&str, u64)] = &[("s", 1), ("min", 60), ("h", 3600), ("d", 86_400)];

/// Bytes, or bits, in each of them.
const SIZES: &[(&str, u64, bool)] = &[
    ("bit", 1, true),
    ("kbit", 1_000, true),
    ("Mbit", 1_000_000, true),
    ("Gbit", 1_000_000_000, true),
    ("B", 1, false),
    ("kB", 1_000, false),
    ("MB", 1_000_000, false),
    ("GB", 1_000_000_000, false),
    ("KiB", 1 << 10, false),
    ("MiB", 1 << 20, false),
    ("GiB", 1 << 30, false),
];

/// The largest frame that most links carry: no bucket of bytes may be smaller.
const FRAME: u64 = 1500;

impl Rate {
    /// Whether what exceeds the limit matches, instead of what is within.
    pub const fn over(&self) -> bool {
        self.over
    }

    /// How much, in [`Rate::unit`], at least one.
    pub const fn amount(&self) -> u64 {
        self.amount
    }

    /// What is counted.
    pub const fn unit(&self) -> RateUnit {
        self.unit
    }

    /// In which time: a second, a minute, an hour or a day.
    pub const fn interval(&self) -> Duration {
        self.interval
    }

    /// Which packets share the limit; `None`: all that the rule sees.
    pub const fn per(&self) -> Option<Per> {
        self.per
    }

    /// The depth of the bucket, in [`Rate::unit`], at least one (bytes: 1500): what may come at once after a pause.
    pub const fn burst(&self) -> u64 {
        self.burst
    }
}

impl Ceiling {
    /// Whether what exceeds the limit matches, instead of what is within.
    pub const fn over(&self) -> bool {
        self.over
    }

    /// How many, at least one.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Which of them share the limit; `None`: all.
    pub const fn per(&self) -> Option<Per> {
        self.per
    }
}

/// The words of a limit, one after the other.
struct Words<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> Words<'a> {
    fn new(text: &'a str) -> Self {
        Words { text, rest: text.trim() }
    }

    fn peek(&self) -> Option<&'a str> {
        self.rest.split_whitespace().next()
    }

    fn next(&mut self) -> Option<&'a str> {
        let word = self.peek()?;
        self.rest = self.rest[word.len()..].trim_start();
        Some(word)
    }

    fn take(&mut self, word: &str) -> bool {
        let taken = self.peek().is_some_and(|next| next.trim_end_matches(',') == word);
        if taken {
            self.next();
        }
        taken
    }

    /// Digits at the front, with or without a space behind them.
    fn number(&mut self, what: &str) -> Result<u64, Misread> {
        let digits = self.rest.len() - self.rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, rest) = self.rest.split_at(digits);
        if number.is_empty() {
            return Err(Misread::new(format!("`{}` is not {what}", self.text)));
        }
        let number = number
            .parse::<u64>()
            .ok()
            .filter(|number| *number > 0)
            .ok_or_else(|| Misread::new(format!("`{number}` in `{}` is zero or too large", self.text)))?;
        self.rest = rest.trim_start();
        Ok(number)
    }

    /// `per source`, `per source /24`, `per source /24 /56`, or nothing.
    fn per(&mut self) -> Result<Option<Per>, Misread> {
        if !self.take("per") {
            return Ok(None);
        }
        let side = match self.next().unwrap_or_default().trim_end_matches(',') {
            "source" => PerSide::Source,
            "destination" => PerSide::Destination,
            other => return Err(Misread::unknown("side", other, &["source", "destination"])),
        };
        let mut per = Per { side, ipv4: 32, ipv6: IPV6_HOST };
        let mut lengths = Vec::new();
        while let Some(word) = self.peek().filter(|word| word.starts_with('/')) {
            self.next();
            let digits = word.trim_start_matches('/').trim_end_matches(',');
            let length = digits
                .parse::<u8>()
                .ok()
                .filter(|length| *length <= 128 && digits.bytes().all(|b| b.is_ascii_digit()))
                .ok_or_else(|| {
                    Misread::new(format!("`{word}` is not a prefix length")).help("expected /0 to /128")
                })?;
            lengths.push(length);
        }
        match lengths.as_slice() {
            [] => {}
            [ipv4] if *ipv4 <= 32 => per.ipv4 = *ipv4,
            [ipv6] => per.ipv6 = *ipv6,
            [ipv4, ipv6] if *ipv4 <= 32 => (per.ipv4, per.ipv6) = (*ipv4, *ipv6),
            [ipv4, _] => {
                return Err(Misread::new(format!("/{ipv4} is no prefix length of IPv4"))
                    .help("expected the one of IPv4, then the one of IPv6, such as `/24 /56`"));
            }
            _ => {
                return Err(Misread::new(format!("`{}` has more than two prefix lengths", self.text))
                    .help("expected the one of IPv4, then the one of IPv6, such as `/24 /56`"));
            }
        }
        Ok(Some(per))
    }

    fn end(&self) -> Result<(), Misread> {
        match self.peek() {
            None => Ok(()),
            Some(word) => Err(Misread::unknown("word", word, &["per", "source", "destination", "burst"])),
        }
    }
}

/// A unit, and how many of what it counts are one.
fn unit(text: &str) -> Result<(RateUnit, u64, u64), Misread> {
    match text {
        "" | "packet" | "packets" | "p" => Ok((RateUnit::Packets, 1, 1)),
        "connection" | "connections" => Ok((RateUnit::Connections, 1, 1)),
        _ => match SIZES.iter().find(|(name, ..)| *name == text) {
            Some((_, size, true)) => Ok((RateUnit::Bytes, *size, 8)),
            Some((_, size, false)) => Ok((RateUnit::Bytes, *size, 1)),
            None => {
                let mut names = vec!["packets", "connections"];
                names.extend(SIZES.iter().map(|(name, ..)| *name));
                Err(Misread::unknown("unit", text, &names))
            }
        },
    }
}

impl FromStr for Rate {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        const EXPECTED: &str =
            "expected something like `1000/s`, `10 Mbit/s`, `5 connections/s per source, burst 20`";
        let large = || Misread::new(format!("the rate `{text}` is too large"));
        let small = || Misread::new(format!("the rate `{text}` is less than one byte"));
        let mut words = Words::new(text);
        let over = words.take("over");
        let count = words.number("a rate").map_err(|misread| misread.help(EXPECTED))?;
        let word = words.next().unwrap_or_default();
        let Some((unit_text, interval)) = word.trim_end_matches(',').split_once('/') else {
            let misread = Misread::new(format!("the rate `{text}` does not say in which time"));
            return Err(if words.peek().is_none() {
                misread.help(format!("did you mean `{}/s`?", text.trim()))
            } else {
                misread.help(EXPECTED)
            });
        };
        let (unit_of, numerator, denominator) = unit(unit_text)?;
        if interval == "m" || interval == "minute" {
            return Err(Misread::new(format!("unknown interval `{interval}`")).help("did you mean `min`?"));
        }
        let seconds = INTERVALS
            .iter()
            .find(|(name, _)| *name == interval)
            .map(|(_, seconds)| *seconds)
            .ok_or_else(|| Misread::unknown("interval", interval, &["s", "min", "h", "d"]))?;
        let amount = count.checked_mul(numerator).ok_or_else(large)? / denominator;
        if amount == 0 {
            return Err(small());
        }
        let per = words.per()?;
        let burst = if words.take("burst") {
            let count = words
                .number("a burst")
                .map_err(|misread| misread.help("expected a number, as in `burst 100`"))?;
            let word = match words.peek() {
                Some("per") | None => "",
                Some(word) => words.next().map_or(word, |word| word.trim_end_matches(',')),
            };
            let (burst_unit, numerator, denominator) =
                if word.is_empty() { (unit_of, 1, 1) } else { unit(word)? };
            if burst_unit != unit_of {
                return Err(Misread::new(format!("the burst in `{text}` is not of what is counted"))
                    .help("write it in the unit of the rate"));
            }
            Some(count.checked_mul(numerator).ok_or_else(large)? / denominator)
        } else {
            None
        };
        let per = match per {
            None => words.per()?,
            some => some,
        };
        words.end()?;
        let least = if unit_of == RateUnit::Bytes { FRAME } else { 1 };
        let burst = match burst {
            Some(burst) if burst < least => {
                return Err(Misread::new(format!("the burst in `{text}` is smaller than one packet"))
                    .help(format!("expected at least {least}")));
            }
            Some(burst) => burst,
            None => amount.max(least),
        };
        Ok(Rate { over, amount, unit: unit_of, interval: Duration::from_secs(seconds), per, burst })
    }
}

impl FromStr for Ceiling {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        let mut words = Words::new(text);
        let over = words.take("over");
        let count = words
            .number("a number of connections")
            .map_err(|misread| misread.help("expected something like `20` or `20 per source`"))?;
        let count = u32::try_from(count).map_err(|_| Misread::new(format!("`{count}` is too large")))?;
        if words.rest.starts_with('/') {
            return Err(Misread::new(format!("`{text}` is not a number of connections"))
                .help("connections per second are `rate: 20 connections/s`"));
        }
        let per = words.per()?;
        words.end()?;
        Ok(Ceiling { over, count, per })
    }
}

impl fmt::Display for Per {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            PerSide::Source => "source",
            PerSide::Destination => "destination",
        };
        write!(f, " per {side}")?;
        match (self.ipv4, self.ipv6) {
            (32, IPV6_HOST) => Ok(()),
            (ipv4, IPV6_HOST) => write!(f, " /{ipv4}"),
            (ipv4, ipv6) => write!(f, " /{ipv4} /{ipv6}"),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rate { over, amount, unit, interval, per, burst } = self;
        if *over {
            f.write_str("over ")?;
        }
        let unit = match unit {
            RateUnit::Packets => "",
            RateUnit::Bytes => " B",
            RateUnit::Connections => " connections",
        };
        let interval = INTERVALS
            .iter()
            .find(|(_, seconds)| *seconds == interval.as_secs())
            .map_or("s", |(name, _)| name);
        write!(f, "{amount}{unit}/{interval}")?;
        per.iter().try_for_each(|per| per.fmt(f))?;
        if *burst == *amount { Ok(()) } else { write!(f, " burst {burst}") }
    }
}

impl fmt::Display for Ceiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ceiling { over, count, per } = self;
        if *over {
            f.write_str("over ")?;
        }
        write!(f, "{count}")?;
        per.iter().try_for_each(|per| per.fmt(f))
    }
}

impl Value for Rate {
    fn schema() -> serde_json::Value {
        serde_json::json!({
            "type": "string",
            "examples": ["1000/s", "10 Mbit/s", "5 connections/s per source", "over 100/s per source /24, burst 200"],
        })
    }
}

impl Value for Ceiling {
    fn schema() -> serde_json::Value {
        serde_json::json!({
            "anyOf": [
                { "type": "integer", "minimum": 1, "maximum": u32::MAX },
                { "type": "string", "examples": ["20 per source", "over 100 per destination"] },
            ],
        })
    }
}
