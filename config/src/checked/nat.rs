//! The address translator.

use std::net::IpAddr;

use super::matches::given;
use super::shadow::{report_overlaps, report_shadowed, report_short_timeouts, report_unreachable_limit};
use super::track::number;
use super::*;
use crate::raw::{Given, SourceRule};
use crate::value::{AddressRange, Flag, Number, PortRange, Prefix, Rate, RateUnit, words};

/// A network address and port translator.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Nat {
    /// The interfaces towards the outside, at least one.
    pub outside: Vec<InterfaceId>,
    /// How sources are translated; the first that matches counts.
    pub source: Vec<SourceNat>,
    /// How destinations are translated; the first that matches counts.
    pub destination: Vec<DestinationNat>,
    /// The most sessions at a time.
    pub sessions: u32,
    /// The most sessions at a time of one inside host; `None`: no limit.
    pub sessions_per_host: Option<u32>,
    /// How fast one inside host may open connections, for all of them alike: counts neither bytes nor what is over. `None`: no limit.
    pub rate_per_host: Option<Rate>,
    /// What a host inside is told that gets nothing.
    pub refuse: Refuse,
    /// How long sessions live without a packet.
    pub timeouts: Timeouts,
    /// Whether inside hosts reach each other by their outside addresses (RFC 4787, REQ-9).
    pub hairpin: bool,
}

/// How sources are translated.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SourceNat {
    /// Which packets; of its parts `from`, `to`, `source`, `destination`, `protocol` and `to_port` may be given, without sets.
    pub matches: Match,
    /// What their source becomes.
    pub target: SourceTarget,
    /// Where the rule stands in the file.
    pub place: Span,
}

/// What a source becomes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SourceTarget {
    /// It stays.
    Keep,
    /// An address of the interface that the packet leaves by.
    Masquerade(PortPolicy),
    /// An address of the packet's family of these, which do not overlap.
    Pool(Vec<AddressRange>, PortPolicy),
    /// The same host in this prefix, which is as long as the only one in `matches.source`. Ports stay.
    OneToOne(Prefix),
}

/// How ports are given to inside hosts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct PortPolicy {
    /// The ports of an outside address that are used.
    pub ports: PortRange,
    /// Whether the file says so: then all of them are, else those are left out that the host's own sockets get.
    pub ports_given: bool,
    /// Whether hosts get them in blocks.
    pub blocks: Option<PortBlocks>,
    /// On what the outside port depends beside the inside address and port.
    pub mapping: Dependence,
    /// From whom packets are let in.
    pub filtering: Dependence,
    /// Whether even ports become even ones and odd ports odd ones.
    pub parity: bool,
    /// Whether a port stays what it is where it is free.
    pub preserve_port: bool,
}

/// Blocks of ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct PortBlocks {
    /// How many ports a block has, at most as many as there are.
    pub size: u16,
    /// How many blocks a host may have.
    pub per_host: u16,
    /// Whether the blocks of a host are computed from its address (RFC 7422). There is then room for all hosts.
    pub deterministic: bool,
}

words! {
    /// What behaviour depends on, in the terms of RFC 4787.
    Dependence, "behaviour":
    /// On nothing of the other end.
    EndpointIndependent = "endpoint-independent",
    /// On its address.
    AddressDependent = "address-dependent",
    /// On its address and port.
    AddressAndPortDependent = "address-and-port-dependent",
}

words! {
    /// What becomes of a new connection for which there is no port or no room.
    Refuse, "answer", default HostUnreachable:
    /// It ends silently.
    Drop = "drop",
    /// ICMP 3/1, ICMPv6 1/3 (RFC 6888, REQ-11).
    HostUnreachable = "host-unreachable",
    /// ICMP 3/13, ICMPv6 1/1 (RFC 5508, REQ-8).
    AdminProhibited = "admin-prohibited",
}

/// How many rules there may be of each kind.
const MOST_RULES: usize = 4096;
/// Where the registered ports begin (RFC 6335, section 6): the ones below keep their meaning.
const FIRST_PORT: u16 = 1024;

impl Nat {
    pub(super) fn check(raw: &crate::raw::Nat, known: &Known<'_>, report: &mut Report<'_>) -> Option<Self> {
        let outside = Nat::check_outside(&raw.outside, known, report);
        let source_rules = raw.source.as_deref().unwrap_or_default();
        let destination_rules = raw.destination.as_deref().unwrap_or_default();
        let source_end = source_rules.get(MOST_RULES).map(|rule| rule.span);
        let destination_end = destination_rules.get(MOST_RULES).map(|rule| rule.span);
        if let Some(place) = source_end.or(destination_end) {
            report.error(place, format!("there are more than {MOST_RULES} rules"));
            return None;
        }
        if source_rules.is_empty() && destination_rules.is_empty() {
            report.warning(raw.outside.span, "the translator has no rules: it translates nothing");
        }
        let limits = raw.limits.as_ref();
        let sessions = number(limits.and_then(|limits| limits.sessions.as_ref()), report);
        let per_host_written = limits.and_then(|limits| limits.sessions_per_host.as_ref());
        let per_host = number(per_host_written, report);
        let rate = check_rate(limits.and_then(|limits| limits.rate_per_host.as_ref()), report);
        let refuse =
            limits.map_or(Some(Refuse::default()), |limits| limits.refuse.read_or(Refuse::default(), report));
        let source: Vec<_> = source_rules.iter().map(|rule| SourceNat::check(rule, known, report)).collect();
        let destination: Vec<_> =
            destination_rules.iter().map(|rule| DestinationNat::check(rule, known, report)).collect();
        report_shadowed(source.iter().flatten().map(|rule| (&rule.matches, rule.place)), report);
        report_shadowed(destination.iter().flatten().map(|rule| (&rule.matches, rule.place)), report);
        report_overlaps(source_rules, &source, report);
        if let (Some(Some(limit)), Some(written)) = (per_host, per_host_written) {
            report_unreachable_limit(limit, written.span, &source, report);
        }
        let timeouts = Timeouts::check(raw.timeouts.as_ref(), Timeouts::NAT, report);
        if let (Some(timeouts), Some(raw)) = (&timeouts, &raw.timeouts) {
            report_short_timeouts(timeouts, raw, report);
        }
        let hairpin = raw.hairpin.read_or(Flag::True, report);
        Some(Nat {
            outside: outside?,
            source: source.into_iter().collect::<Option<_>>()?,
            destination: destination.into_iter().collect::<Option<_>>()?,
            sessions: sessions?.unwrap_or(Track::SESSIONS),
            sessions_per_host: per_host?,
            rate_per_host: rate?,
            refuse: refuse?,
            timeouts: timeouts?,
            hairpin: hairpin?.into(),
        })
    }

    fn check_outside(
        raw: &OneOrMany<Name>,
        known: &Known<'_>,
        report: &mut Report<'_>,
    ) -> Option<Vec<InterfaceId>> {
        if raw.list.is_empty() {
            let misread = Misread::new("the list is empty");
            report.error(raw.span, misread.help("name the interfaces towards the outside"));
            return None;
        }
        let ids: Vec<_> = raw.list.iter().map(|written| known.interface(written, report)).collect();
        ids.into_iter().collect()
    }
}

impl Timeouts {
    /// The defaults of a translator: RFC 4787 (UDP, REQ-5), RFC 5382 (TCP, REQ-5) and RFC 5508 (ICMP, REQ-2).
    pub const NAT: Timeouts = {
        let transitory = std::time::Duration::from_secs(240);
        Timeouts {
            tcp_syn_sent: transitory,
            tcp_syn_received: transitory,
            tcp_established: std::time::Duration::from_secs(2 * 3600 + 240),
            tcp_fin_wait: transitory,
            tcp_close_wait: transitory,
            tcp_last_ack: transitory,
            tcp_time_wait: transitory,
            tcp_close: transitory,
            udp: std::time::Duration::from_secs(300),
            udp_stream: std::time::Duration::from_secs(300),
            icmp: std::time::Duration::from_secs(60),
            other: std::time::Duration::from_secs(600),
        }
    };
}

impl SourceNat {
    fn check(raw: &At<SourceRule>, known: &Known<'_>, report: &mut Report<'_>) -> Option<Self> {
        let At { value: raw, span } = raw;
        let matches = Match::check_nat(&raw.matches.value, known, report);
        let pool = raw.pool.as_ref().map(|pool| (check_pool(pool, report), pool.span));
        let masquerade = flag(&raw.masquerade, report);
        let to = given(&raw.to, report);
        let none = flag(&raw.none, report);
        let policy = PortPolicy::check(raw, report);
        let (matches, masquerade, to, none, policy) = (matches?, masquerade?, to?, none?, policy?);
        let given =
            [("pool", pool.is_some()), ("masquerade", masquerade), ("to", to.is_some()), ("none", none)];
        let given: Vec<&str> = given.iter().filter(|(_, given)| *given).map(|(key, _)| *key).collect();
        let [target] = given.as_slice() else {
            let misread = match given.as_slice() {
                [] => Misread::new("the rule does not say what sources become")
                    .help("add one of `pool`, `masquerade: true`, `to`, `none: true`"),
                [first, second, ..] => Misread::new(format!("the rule has `{first}` and `{second}`"))
                    .help("leave only one of them"),
                [_] => return None,
            };
            report.error(*span, misread);
            return None;
        };
        if matches!(*target, "to" | "none")
            && let Some((key, place)) = policy_keys(raw).next()
        {
            let misread = Misread::new(format!("`{key}` beside `{target}`"));
            report.error(place, misread.help("ports are chosen only for `pool` and `masquerade`"));
            return None;
        }
        let source_span = raw.matches.value.source.as_ref().map_or(raw.matches.span, |source| source.span);
        let target = match (*target, pool, to) {
            ("pool", Some((pool, place)), _) => {
                let pool = pool?;
                check_pool_family(&pool, place, &matches, report)?;
                if policy.blocks.is_some_and(|blocks| blocks.deterministic) {
                    check_deterministic(&pool, &policy, &matches, source_span, report)?;
                }
                SourceTarget::Pool(pool, policy)
            }
            ("to", _, Some(to)) => {
                let place = raw.to.as_ref().map_or(*span, |to| to.span);
                check_one_to_one("source", matches.source.as_ref(), to, place, report)?;
                SourceTarget::OneToOne(to)
            }
            ("masquerade", ..) => {
                if policy.blocks.is_some_and(|blocks| blocks.deterministic) {
                    let place = raw.deterministic.as_ref().map_or(*span, |written| written.span);
                    let misread = Misread::new("`deterministic` with `masquerade`, whose address may change");
                    report.error(place, misread.help("name the addresses as `pool`"));
                    return None;
                }
                SourceTarget::Masquerade(policy)
            }
            _ => SourceTarget::Keep,
        };
        Some(SourceNat { matches, target, place: *span })
    }
}

/// Hosts are told apart by their addresses, and connections are counted: nothing else may be said.
fn check_rate(written: Option<&Written<Rate>>, report: &mut Report<'_>) -> Option<Option<Rate>> {
    let Some(written) = written else { return Some(None) };
    let rate = written.read(report)?;
    let wrong = if rate.unit() == RateUnit::Bytes {
        "connections are counted here, not bytes"
    } else if rate.over() {
        "this limit has no `over`"
    } else if rate.per().is_some() {
        "this limit is for each inside host, without `per`"
    } else {
        return Some(Some(rate));
    };
    report.error(written.span, Misread::new(wrong).help("such as `50/s, burst 200`"));
    None
}

fn flag(written: &Given<Written<Flag>>, report: &mut Report<'_>) -> Option<bool> {
    given(written, report).map(|flag| flag == Some(Flag::True))
}

/// The keys about ports that a rule has.
fn policy_keys(raw: &SourceRule) -> impl Iterator<Item = (&'static str, Span)> {
    [
        ("ports", raw.ports.as_ref().map(|written| written.span)),
        ("block-size", raw.block_size.as_ref().map(|written| written.span)),
        ("blocks-per-host", raw.blocks_per_host.as_ref().map(|written| written.span)),
        ("deterministic", raw.deterministic.as_ref().map(|written| written.span)),
        ("mapping", raw.mapping.as_ref().map(|written| written.span)),
        ("filtering", raw.filtering.as_ref().map(|written| written.span)),
        ("port-parity", raw.port_parity.as_ref().map(|written| written.span)),
        ("preserve-port", raw.preserve_port.as_ref().map(|written| written.span)),
    ]
    .into_iter()
    .filter_map(|(key, span)| Some((key, span?)))
}

impl PortPolicy {
    /// How many ports of an address are used.
    pub fn port_count(&self) -> u32 {
        u32::from(self.ports.last()) - u32::from(self.ports.first()) + 1
    }

    fn check(raw: &SourceRule, report: &mut Report<'_>) -> Option<Self> {
        let ports = given(&raw.ports, report);
        let size = given(&raw.block_size, report);
        let per_host = given(&raw.blocks_per_host, report);
        let deterministic = flag(&raw.deterministic, report);
        let mapping = given(&raw.mapping, report);
        let filtering = given(&raw.filtering, report);
        let parity = flag(&raw.port_parity, report);
        let preserve = given(&raw.preserve_port, report);
        let ports = ports?;
        let ports_given = ports.is_some();
        let ports = ports.or(PortRange::new(FIRST_PORT, u16::MAX))?;
        let size = size?.and_then(|size| u16::try_from(size.get()).ok());
        let per_host = u16::try_from(per_host?.map_or(1, Number::get)).ok()?;
        let deterministic = deterministic?;
        let count = u32::from(ports.last()) - u32::from(ports.first()) + 1;
        let blocks = match (size, raw.block_size.as_ref()) {
            (Some(size), Some(written)) => {
                if u32::from(size) * u32::from(per_host) > count {
                    let misread = Misread::new(format!(
                        "{per_host} × {size} ports are more than the {count} of an address"
                    ));
                    report.error(written.span, misread.help("make the blocks smaller or fewer"));
                    return None;
                }
                if !count.is_multiple_of(u32::from(size)) {
                    let rest = count % u32::from(size);
                    let misread = Misread::new(format!("{rest} of {count} ports are in no block of {size}"));
                    report.warning(written.span, misread);
                }
                Some(PortBlocks { size, per_host, deterministic })
            }
            _ => {
                for (key, place) in [
                    ("blocks-per-host", raw.blocks_per_host.as_ref().map(|written| written.span)),
                    ("deterministic", raw.deterministic.as_ref().map(|written| written.span)),
                ] {
                    if let Some(place) = place {
                        report.error(place, Misread::new(format!("`{key}` without `block-size`")));
                        return None;
                    }
                }
                None
            }
        };
        let (parity, mapping) = (parity?, mapping?.unwrap_or(Dependence::EndpointIndependent));
        Some(PortPolicy {
            ports,
            ports_given,
            blocks,
            mapping,
            filtering: filtering?.unwrap_or(Dependence::AddressDependent),
            parity,
            preserve_port: preserve?.map_or(blocks.is_none(), bool::from),
        })
    }
}

fn check_pool(raw: &OneOrMany<AddressRange>, report: &mut Report<'_>) -> Option<Vec<AddressRange>> {
    let pool = raw.read(report)?;
    for (index, (range, written)) in pool.iter().zip(&raw.list).enumerate() {
        if let Some(other) = pool.iter().take(index).find(|other| other.overlaps(range)) {
            report.error(written.span, format!("`{range}` overlaps with `{other}` in the same pool"));
            return None;
        }
        if let Some(what) = [range.first(), range.last()].into_iter().find_map(unusable) {
            report.error(written.span, format!("`{range}` has {what} addresses, which no host can have"));
            return None;
        }
    }
    Some(pool)
}

/// Why no host can have `address`.
pub(super) fn unusable(address: IpAddr) -> Option<&'static str> {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_unspecified() {
        Some("unspecified")
    } else if address.is_loopback() {
        Some("loopback")
    } else if address.is_multicast() {
        Some("multicast")
    } else if broadcast {
        Some("broadcast")
    } else {
        None
    }
}

/// The ranges of a match that names them, not what they are not.
pub(super) fn ranges(addresses: Option<&Several<Addresses>>) -> Option<Vec<AddressRange>> {
    let Several { not: false, any_of } = addresses? else { return None };
    let ranges = any_of.iter().map(|addresses| match addresses {
        Addresses::Range(range) => Some(*range),
        Addresses::Set(_) => None,
    });
    ranges.collect()
}

/// Every family that is translated must be in the pool.
fn check_pool_family(
    pool: &[AddressRange],
    place: Span,
    matches: &Match,
    report: &mut Report<'_>,
) -> Option<()> {
    for range in ranges(matches.source.as_ref()).unwrap_or_default() {
        if !pool.iter().any(|of| of.is_ipv4() == range.is_ipv4()) {
            let (needed, had) = if range.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
            let misread = Misread::new(format!("an {had} pool for the {needed} source {range}"));
            report.error(place, misread.help(format!("add {needed} addresses; families are not translated")));
            return None;
        }
    }
    Some(())
}

/// Every inside host needs its own blocks.
fn check_deterministic(
    pool: &[AddressRange],
    policy: &PortPolicy,
    matches: &Match,
    place: Span,
    report: &mut Report<'_>,
) -> Option<()> {
    let Some(hosts) = ranges(matches.source.as_ref()) else {
        let misread = Misread::new("`deterministic` without knowing the hosts");
        report.error(place, misread.help("name them: `match: { source: 100.64.0.0/16 }`"));
        return None;
    };
    let blocks = policy.blocks?;
    let per_address = u128::from(policy.port_count() / u32::from(blocks.size)) / u128::from(blocks.per_host);
    for ipv4 in [true, false] {
        let count = |ranges: &[AddressRange]| {
            let counts = ranges.iter().filter(|range| range.is_ipv4() == ipv4).map(AddressRange::count);
            counts.fold(0u128, u128::saturating_add)
        };
        let (wanted, room) = (count(&hosts), count(pool).saturating_mul(per_address));
        if wanted > room {
            let misread = Misread::new(format!("the pool has room for {room} hosts, not for {wanted}"));
            report.error(place, misread.help("`deterministic` needs blocks for every host: enlarge the pool, or make the blocks smaller"));
            return None;
        }
    }
    Some(())
}

/// One prefix takes the place of another, which must be as long.
pub(super) fn check_one_to_one(
    key: &str,
    addresses: Option<&Several<Addresses>>,
    to: Prefix,
    place: Span,
    report: &mut Report<'_>,
) -> Option<()> {
    let length = to.get().len();
    let one = ranges(addresses).filter(|ranges| ranges.len() == 1);
    let Some(from) = one.and_then(|ranges| ranges.first().and_then(AddressRange::prefix)) else {
        let misread = Misread::new(format!("one to one without one prefix as `{key}`"));
        report
            .error(place, misread.help(format!("write `match: {{ {key}: … }}` with a prefix of /{length}")));
        return None;
    };
    if from.is_ipv4() != to.is_ipv4() {
        report.error(place, Misread::new(format!("`{from}` and `{to}` are of two families")));
        return None;
    }
    if from.get().len() != length {
        let misread = Misread::new(format!("`{from}` and `{to}` are not of the same size"));
        report.error(place, misread.help(format!("expected a prefix of /{}", from.get().len())));
        return None;
    }
    Some(())
}
