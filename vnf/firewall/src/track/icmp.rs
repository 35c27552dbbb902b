//! ICMP and ICMPv6 queries (RFC 792, RFC 950, RFC 4443, RFC 8335): questions and answers that carry an identifier.

use throughway_session::SessionKey;

/// A question or an answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Query {
    /// The type of the question (that belongs to the answer).
    pub(crate) request: u8,
    /// Whether it is an answer.
    pub(crate) reply: bool,
}

impl Query {
    /// By the type; `None` if it is no query.
    pub(crate) fn of(ipv4: bool, kind: u8) -> Option<Query> {
        let (request, reply) = match (ipv4, kind) {
            (true, 8 | 13 | 15 | 17 | 42) | (false, 128 | 160) => (kind, false),
            (true, 0) => (8, true),
            (true, 14 | 16 | 18 | 43) | (false, 129 | 161) => (kind - 1, true),
            _ => return None,
        };
        Some(Query { request, reply })
    }

    /// Puts the type of the question in the place of the port of who is asked, so that two hosts may use the same identifier to
    /// ask each other, or for two kinds of questions.
    pub(crate) fn put_into(self, key: &mut SessionKey) {
        let kind = [self.request, u8::MAX];
        if self.reply {
            key.source_port = kind;
        } else {
            key.destination_port = kind;
        }
    }
}

/// Messages of the link or its groups, which nobody answers in a way that could be followed: multicast listeners, neighbour
/// discovery, router advertisements and their like (RFC 4890, section 4.4).
pub(crate) fn is_untracked(ipv4: bool, kind: u8) -> bool {
    if ipv4 { matches!(kind, 9 | 10) } else { matches!(kind, 130..=137 | 141..=143 | 148 | 149 | 151..=153) }
}
