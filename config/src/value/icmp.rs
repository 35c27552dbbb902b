//! ICMP types and codes.

use std::fmt;
use std::str::FromStr;

use super::{Misread, Value};

/// A type of message, and a code of it or every one: `echo-request`, `destination-unreachable/port-unreachable`, `3/4`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IcmpMessage<const V6: bool> {
    kind: u8,
    code: Option<u8>,
}

/// Messages of ICMP for IPv4.
pub type Icmpv4Message = IcmpMessage<false>;
/// Messages of ICMP for IPv6.
pub type Icmpv6Message = IcmpMessage<true>;

/// A type with its number and the codes that have names.
type Kind = (&'static str, u8, &'static [(&'static str, u8)]);

/// RFC 792, 950, 1191 (fragmentation-needed), 1256, 1812 (codes 9 to 15), 8335; names after IANA's registry.
const V4: &[Kind] = &[
    ("echo-reply", 0, &[]),
    (
        "destination-unreachable",
        3,
        &[
            ("net-unreachable", 0),
            ("host-unreachable", 1),
            ("protocol-unreachable", 2),
            ("port-unreachable", 3),
            ("fragmentation-needed", 4),
            ("source-route-failed", 5),
            ("net-unknown", 6),
            ("host-unknown", 7),
            ("source-host-isolated", 8),
            ("net-prohibited", 9),
            ("host-prohibited", 10),
            ("net-tos-unreachable", 11),
            ("host-tos-unreachable", 12),
            ("admin-prohibited", 13),
            ("host-precedence-violation", 14),
            ("precedence-cutoff", 15),
        ],
    ),
    ("source-quench", 4, &[]),
    (
        "redirect",
        5,
        &[("redirect-net", 0), ("redirect-host", 1), ("redirect-tos-net", 2), ("redirect-tos-host", 3)],
    ),
    ("echo-request", 8, &[]),
    ("router-advertisement", 9, &[]),
    ("router-solicitation", 10, &[]),
    ("time-exceeded", 11, &[("ttl-exceeded", 0), ("reassembly-time-exceeded", 1)]),
    ("parameter-problem", 12, &[("pointer", 0), ("required-option-missing", 1), ("bad-length", 2)]),
    ("timestamp-request", 13, &[]),
    ("timestamp-reply", 14, &[]),
    ("address-mask-request", 17, &[]),
    ("address-mask-reply", 18, &[]),
    ("extended-echo-request", 42, &[]),
    ("extended-echo-reply", 43, &[]),
];

/// RFC 4443, 2710 and 3810 (listeners), 4861 (neighbours), 8335; names after IANA's registry.
const V6: &[Kind] = &[
    (
        "destination-unreachable",
        1,
        &[
            ("no-route", 0),
            ("admin-prohibited", 1),
            ("beyond-scope", 2),
            ("address-unreachable", 3),
            ("port-unreachable", 4),
            ("policy-fail", 5),
            ("reject-route", 6),
        ],
    ),
    ("packet-too-big", 2, &[]),
    ("time-exceeded", 3, &[("hop-limit-exceeded", 0), ("reassembly-time-exceeded", 1)]),
    ("parameter-problem", 4, &[("bad-header-field", 0), ("unknown-next-header", 1), ("unknown-option", 2)]),
    ("echo-request", 128, &[]),
    ("echo-reply", 129, &[]),
    ("mld-query", 130, &[]),
    ("mld-report", 131, &[]),
    ("mld-done", 132, &[]),
    ("router-solicitation", 133, &[]),
    ("router-advertisement", 134, &[]),
    ("neighbor-solicitation", 135, &[]),
    ("neighbour-solicitation", 135, &[]),
    ("neighbor-advertisement", 136, &[]),
    ("neighbour-advertisement", 136, &[]),
    ("redirect", 137, &[]),
    ("mld2-report", 143, &[]),
    ("extended-echo-request", 160, &[]),
    ("extended-echo-reply", 161, &[]),
];

impl<const IS_V6: bool> IcmpMessage<IS_V6> {
    const KINDS: &'static [Kind] = if IS_V6 { V6 } else { V4 };

    /// Messages of that type, of one code or of every one.
    pub const fn new(kind: u8, code: Option<u8>) -> Self {
        IcmpMessage { kind, code }
    }

    /// The number of the type.
    pub const fn kind(&self) -> u8 {
        self.kind
    }

    /// The code; `None` means every one.
    pub const fn code(&self) -> Option<u8> {
        self.code
    }
}

impl<const IS_V6: bool> fmt::Display for IcmpMessage<IS_V6> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = Self::KINDS.iter().find(|(_, number, _)| *number == self.kind);
        match kind {
            Some((name, ..)) => f.write_str(name)?,
            None => write!(f, "{}", self.kind)?,
        }
        let Some(code) = self.code else { return Ok(()) };
        match kind.and_then(|(.., codes)| codes.iter().find(|(_, number)| *number == code)) {
            Some((name, _)) => write!(f, "/{name}"),
            None => write!(f, "/{code}"),
        }
    }
}

/// `text` as a number, if it is one.
fn number(what: &str, text: &str) -> Option<Result<u8, Misread>> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| {
        text.parse().map_err(|_| Misread::new(format!("the ICMP {what} `{text}` is outside 0 to 255")))
    })
}

impl<const IS_V6: bool> FromStr for IcmpMessage<IS_V6> {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        let (kind_text, code_text) = match text.split_once('/') {
            Some((kind, code)) => (kind, Some(code)),
            None => (text, None),
        };
        let kind = match number("type", kind_text) {
            Some(kind) => kind?,
            None => match Self::KINDS.iter().find(|(name, ..)| *name == kind_text) {
                Some((_, number, _)) => *number,
                None => return Err(Self::unknown_kind(kind_text)),
            },
        };
        let Some(code_text) = code_text else { return Ok(IcmpMessage { kind, code: None }) };
        if let Some(code) = number("code", code_text) {
            return Ok(IcmpMessage { kind, code: Some(code?) });
        }
        let codes =
            Self::KINDS.iter().find(|(_, number, _)| *number == kind).map_or(&[][..], |(.., codes)| codes);
        if let Some((_, code)) = codes.iter().find(|(name, _)| *name == code_text) {
            return Ok(IcmpMessage { kind, code: Some(*code) });
        }
        let names: Vec<&str> = codes.iter().map(|(name, _)| *name).collect();
        Err(if names.is_empty() {
            Misread::new(format!("unknown code `{code_text}` of `{kind_text}`"))
                .help("the codes of this type have no names: expected 0 to 255")
        } else {
            Misread::unknown(&format!("code of `{kind_text}`"), code_text, &names)
        })
    }
}

impl<const IS_V6: bool> IcmpMessage<IS_V6> {
    fn unknown_kind(text: &str) -> Misread {
        let (ours, theirs, key) = if IS_V6 { ("ICMPv6", V4, "icmp") } else { ("ICMP", V6, "icmpv6") };
        let misread = Misread::new(format!("unknown {ours} type `{text}`"));
        // A code written as a type is common: `port-unreachable`.
        let of = Self::KINDS.iter().find(|(.., codes)| codes.iter().any(|(name, _)| *name == text));
        if let Some((kind, ..)) = of {
            return misread.help(format!("did you mean `{kind}/{text}`?"));
        }
        if theirs.iter().any(|(name, ..)| *name == text) {
            return misread.help(format!("did you mean `{key}: {text}`?"));
        }
        match crate::suggest::closest(text, Self::KINDS.iter().map(|(name, ..)| *name)) {
            Some(name) => misread.help(format!("did you mean `{name}`?")),
            None => misread.help(
                "expected a name such as `echo-request`, or 0 to 255, `/` and a code behind it if needed",
            ),
        }
    }
}

impl<const IS_V6: bool> Value for IcmpMessage<IS_V6> {
    fn schema() -> serde_json::Value {
        let mut names = Vec::new();
        for (kind, _, codes) in Self::KINDS {
            names.push((*kind).to_owned());
            names.extend(codes.iter().map(|(code, _)| format!("{kind}/{code}")));
        }
        serde_json::json!({
            "anyOf": [
                { "enum": names },
                { "type": "integer", "minimum": 0, "maximum": 255 },
                { "type": "string", "pattern": "^[a-z0-9-]+(/[a-z0-9-]+)?$" },
            ],
        })
    }
}
