//! What rules match packets by.

use super::*;
use crate::checked::{Family, State, TcpFlag};
use crate::value::{
    AddressRange, Dscp, Flag, Icmpv4Message, Icmpv6Message, LengthRange, Name, OrSet, PortRange, Protocol,
    VlanRange,
};

/// What to match: every key that is given must. `{}` matches every packet.
#[derive(Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Match {
    /// The interfaces that packets come from.
    pub(crate) from: Given<Several<Name>>,
    /// The interfaces that packets leave by.
    pub(crate) to: Given<Several<Name>>,
    /// Source addresses: addresses, prefixes, ranges, and sets such as "@bogons".
    pub(crate) source: Given<Several<OrSet<AddressRange>>>,
    /// Destination addresses: addresses, prefixes, ranges, and sets such as "@servers".
    pub(crate) destination: Given<Several<OrSet<AddressRange>>>,
    /// The version of the Internet Protocol.
    pub(crate) family: Given<Written<Family>>,
    /// What the packet carries: names such as `udp`, or numbers.
    pub(crate) protocol: Given<Several<Protocol>>,
    /// Source ports and sets of ports; needs `protocol` tcp, udp or sctp.
    pub(crate) from_port: Given<Several<OrSet<PortRange>>>,
    /// Destination ports and sets of ports; needs `protocol` tcp, udp or sctp.
    pub(crate) to_port: Given<Several<OrSet<PortRange>>>,
    /// Flags of TCP that must be set and clear.
    pub(crate) tcp_flags: Given<At<TcpFlags>>,
    /// Messages of ICMP (IPv4).
    pub(crate) icmp: Given<OneOrMany<Icmpv4Message>>,
    /// Messages of ICMPv6.
    pub(crate) icmpv6: Given<OneOrMany<Icmpv6Message>>,
    /// Code points: ef, af11 to af43, cs0 to cs7, or 0 to 63.
    pub(crate) dscp: Given<Several<Dscp>>,
    /// Bytes of the IP packet, header included.
    pub(crate) length: Given<Several<LengthRange>>,
    /// Whether it is a fragment, the first one included.
    pub(crate) fragment: Given<Written<Flag>>,
    /// The VLAN that the packet came in.
    pub(crate) vlan: Given<Several<VlanRange>>,
    /// What the packet is to the sessions.
    pub(crate) state: Given<Several<State>>,
}

/// Flags of TCP; the ones that are not named may be either.
#[derive(Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct TcpFlags {
    /// The flags that must be set.
    pub(crate) set: Given<OneOrMany<TcpFlag>>,
    /// The flags that must be clear.
    pub(crate) clear: Given<OneOrMany<TcpFlag>>,
}

/// What to translate: every key that is given must match. `{}` matches every packet.
#[derive(Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct NatMatch {
    /// The interfaces that packets come from.
    pub(crate) from: Given<Several<Name>>,
    /// The interfaces that packets leave by.
    pub(crate) to: Given<Several<Name>>,
    /// Source addresses: addresses, prefixes and ranges.
    pub(crate) source: Given<Several<AddressRange>>,
    /// Destination addresses: addresses, prefixes and ranges.
    pub(crate) destination: Given<Several<AddressRange>>,
    /// What the packet carries: names such as `udp`, or numbers.
    pub(crate) protocol: Given<Several<Protocol>>,
    /// Destination ports; needs `protocol` tcp, udp or sctp.
    pub(crate) port: Given<Several<PortRange>>,
}
