//! The marker.

use super::*;
use crate::checked::Family;
use crate::value::{Dscp, PortRange, Prefix, Protocol};

/// A marker: the first rule that matches a packet sets its code point.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Marker {
    /// The rules; the first that matches counts.
    #[schemars(length(min = 1))]
    pub(crate) rules: At<Vec<At<MarkRule>>>,
}

/// What to match, all of it, and the code point for it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct MarkRule {
    /// What the packet carries: a name such as `udp`, or a number.
    pub(crate) protocol: Option<Written<Protocol>>,
    /// Source ports; needs `protocol` tcp, udp or sctp.
    pub(crate) from_port: Option<OneOrMany<PortRange>>,
    /// Destination ports; needs `protocol` tcp, udp or sctp.
    pub(crate) to_port: Option<OneOrMany<PortRange>>,
    /// Source addresses.
    pub(crate) source: Option<Written<Prefix>>,
    /// Destination addresses.
    pub(crate) destination: Option<Written<Prefix>>,
    /// The version of the Internet Protocol.
    pub(crate) family: Option<Written<Family>>,
    /// The code point to set: ef, af11 to af43, cs0 to cs7, or 0 to 63.
    pub(crate) dscp: Written<Dscp>,
}
