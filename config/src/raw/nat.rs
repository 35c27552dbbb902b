//! The address translator.

use super::*;
use crate::checked::{Dependence, Refuse};
use crate::value::{Address, AddressRange, Flag, Forward, Name, Number, PortRange, Prefix, Rate};

/// A network address and port translator.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Nat {
    /// The interfaces towards the outside: what leaves by them has its source translated.
    pub(crate) outside: OneOrMany<Name>,
    /// How sources are translated on the way out; the first rule that matches counts.
    pub(crate) source: Option<Vec<At<SourceRule>>>,
    /// How destinations are translated on the way in (port forwarding); the first rule that matches counts.
    pub(crate) destination: Option<Vec<At<DestinationRule>>>,
    /// How much state there may be.
    pub(crate) limits: Option<NatLimits>,
    /// How long sessions live without a packet. The defaults are those of RFC 4787, 5382 and 5508.
    pub(crate) timeouts: Option<Timeouts>,
    /// Whether inside hosts reach each other by their outside addresses. Default: true.
    pub(crate) hairpin: Option<Written<Flag>>,
}

/// Which sources become what: one of `pool`, `masquerade`, `to`, `none`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct SourceRule {
    /// What to translate; `{}` is everything.
    #[serde(rename = "match")]
    pub(crate) matches: At<NatMatch>,
    /// Addresses that many hosts share: addresses, prefixes and ranges.
    #[serde(default)]
    pub(crate) pool: Given<OneOrMany<AddressRange>>,
    /// Takes the address of the interface that the packet leaves by.
    #[serde(default)]
    pub(crate) masquerade: Given<Written<Flag>>,
    /// One to one: the prefix that takes the place of the one in `match: { source: … }`, without ports.
    #[serde(default)]
    pub(crate) to: Given<Written<Prefix>>,
    /// Leaves these packets as they are.
    #[serde(default)]
    pub(crate) none: Given<Written<Flag>>,
    /// The ports of an address that hosts inside get. Default: 1024-65535; with `masquerade`, without those that the kernel gives to its own sockets (net.ipv4.ip_local_port_range).
    #[serde(default)]
    pub(crate) ports: Given<Written<PortRange>>,
    /// Gives each host ports in blocks of this size, so that one line of a log tells who had a port.
    #[serde(default)]
    pub(crate) block_size: Given<Written<Number<1, 65535>>>,
    /// How many blocks a host may have. Default: 1.
    #[serde(default)]
    pub(crate) blocks_per_host: Given<Written<Number<1, 1024>>>,
    /// Computes the blocks of a host from its address, so that nothing need be logged (RFC 7422). Default: false.
    #[serde(default)]
    pub(crate) deterministic: Given<Written<Flag>>,
    /// On what the outside port of an inside port depends (RFC 4787, section 4.1). Default: endpoint-independent.
    #[serde(default)]
    pub(crate) mapping: Given<Written<Dependence>>,
    /// From whom packets are let in to a mapping (RFC 4787, section 5). Default: address-dependent.
    #[serde(default)]
    pub(crate) filtering: Given<Written<Dependence>>,
    /// Whether even ports become even ones, for RTP (RFC 4787, REQ-4). Default: false.
    #[serde(default)]
    pub(crate) port_parity: Given<Written<Flag>>,
    /// Whether a port stays what it is where it is free. Default: true, without blocks.
    #[serde(default)]
    pub(crate) preserve_port: Given<Written<Flag>>,
}

/// Which destinations become what.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct DestinationRule {
    /// What to translate.
    #[serde(rename = "match")]
    pub(crate) matches: At<NatMatch>,
    /// Where it goes: an address, an address with a port or a range of ports, or a prefix (one to one).
    pub(crate) to: Written<Forward>,
    /// Translates the source as well, to this address (twice NAT), so that answers come back this way.
    #[serde(default)]
    pub(crate) twice: Given<Written<Address>>,
}

/// How much state there may be.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct NatLimits {
    /// The most sessions at a time. Default: 1000000.
    pub(crate) sessions: Option<Written<Number<1, { 1 << 30 }>>>,
    /// The most sessions at a time of one inside host. Default: no limit.
    pub(crate) sessions_per_host: Option<Written<Number<1, { 1 << 30 }>>>,
    /// How fast one inside host may open connections, such as `50/s, burst 200`. Default: no limit.
    pub(crate) rate_per_host: Option<Written<Rate>>,
    /// What a host inside is told whose new connection gets nothing because too much is taken: RFC 6888, REQ-11, wants it to be host-unreachable, RFC 5508, REQ-8, admin-prohibited. Default: host-unreachable.
    pub(crate) refuse: Option<Written<Refuse>>,
}
