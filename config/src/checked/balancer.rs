//! The load balancer.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::matches::given;
use super::nat::unusable;
use super::track::number;
use super::*;
use crate::value::{AddressRange, Flag, Number, PortRange, Protocol, SourceAddress, family_of, words};

/// A load balancer.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct LoadBalancer {
    /// The services, at least one. No two take the same packet.
    pub services: Vec<Service>,
    /// The most connections that are remembered.
    pub connections: u32,
    /// Entries of a service's Maglev table, a prime; `None`: what fits each service.
    pub table_size: Option<u32>,
}

/// A service.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Service {
    /// Its name, which no other service of the balancer has.
    pub name: Option<Name>,
    /// The addresses that clients use, at least one.
    pub vips: Vec<IpAddr>,
    /// The ports that clients use; empty: every one.
    pub ports: Vec<PortRange>,
    /// The protocols that are balanced; empty: every one. They have ports if there are `ports`.
    pub protocols: Vec<Protocol>,
    /// How packets reach the backends.
    pub forward: Forwarding,
    /// What their source becomes; `None`: it stays. Only with [`Forwarding::Nat`].
    pub source_nat: Option<BalancerSource>,
    /// The servers, at least one. No two are the same.
    pub backends: Vec<Backend>,
    /// How it is found out which of them are alive; `None`: they always are.
    pub health: Option<Health>,
    /// What stays with the same backend.
    pub affinity: Affinity,
    /// For how long after its last connection a client stays with its backend, whoever comes or goes; zero: the hash alone
    /// decides. Only with [`Affinity::Source`].
    pub affinity_timeout: Duration,
    /// Whether echo requests to its addresses are answered here.
    pub answer_ping: bool,
    /// What is done while no backend is alive, those that are backups left out.
    pub when_all_down: WhenAllDown,
    /// Over how long a backend that came up is given its full share; zero: at once.
    pub slow_start: Duration,
    /// Where it stands in the file.
    pub place: Span,
}

/// A server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Backend {
    /// Its address; with [`Forwarding::Nat`] and [`Forwarding::Dsr`] of the family of every address of the service.
    pub address: IpAddr,
    /// Its port; `None`: the one that the client uses. Only with [`Forwarding::Nat`] and one port of the service.
    pub port: Option<u16>,
    /// Its share, relative to the others, up to 1000; 0 gets no new connections.
    pub weight: u16,
    /// Whether it is used only while all others are down.
    pub backup: bool,
    /// Where it stands in the file.
    pub place: Span,
}

/// What the source of balanced packets becomes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BalancerSource {
    /// An address of the interface that the packet leaves by.
    Egress,
    /// One of these, at least one.
    Pool(Vec<AddressRange>),
}

words! {
    /// How packets reach the backends.
    Forwarding, "way to forward", default Nat:
    /// By another destination address and port; answers come back this way.
    Nat = "nat",
    /// By the backend's link-layer address; it has the service's address itself and answers directly.
    Dsr = "dsr",
    /// In an IP tunnel (RFC 2003, RFC 2473); the backend answers directly.
    Ipip = "ipip",
}

words! {
    /// What stays with the same backend.
    Affinity, "affinity", default Connection:
    /// A connection.
    Connection = "connection",
    /// All connections of a client address.
    Source = "source",
}

words! {
    /// What is done while no backend is alive.
    WhenAllDown, "way", default Reject:
    /// New connections are rejected: a TCP reset, or "port unreachable".
    Reject = "reject",
    /// Backends are used as if all were alive: the checks may be what is broken.
    Keep = "keep",
    /// The backends that are backups are used.
    Backup = "backup",
}

const MOST_SERVICES: usize = 16_384;
const MOST_BACKENDS: usize = 4096;
const LONGEST_AFFINITY: Duration = Duration::from_secs(7 * 86_400);
/// Entries of a Maglev table for each backend, for shares that differ by 1 % (Eisenbud et al., NSDI 2016, section 5.3).
const ENTRIES_FOR_EACH: usize = 100;

impl LoadBalancer {
    pub(super) fn check(
        raw: &crate::raw::LoadBalancer,
        folder: &Path,
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let services = &raw.services.value;
        if services.is_empty() {
            report.error(raw.services.span, "there are no services");
            return None;
        }
        if let Some(service) = services.get(MOST_SERVICES) {
            report.error(service.span, format!("there are more than {MOST_SERVICES} services"));
            return None;
        }
        let connections = number(raw.connections.as_ref(), report);
        let table_size = match &raw.table_size {
            None => Some(None),
            Some(written) => written.read(report).map(Number::get).and_then(|size| {
                let next = (size..).find(|number| is_prime(*number));
                if next == Some(size) {
                    return Some(Some(size));
                }
                let misread = Misread::new(format!("`{size}` is not a prime"));
                let help = next.map(|next| format!("did you mean `{next}`?")).unwrap_or_default();
                report.error(written.span, misread.help(help));
                None
            }),
        };
        let checked: Vec<_> =
            services.iter().map(|service| Service::check(service, folder, report)).collect();
        let mut names = HashMap::new();
        for written in services.iter().filter_map(|service| service.value.name.as_ref()) {
            if let Some(first) = names.insert(written.text.as_str(), written.span.line) {
                let misread = Misread::new(format!("a second service is called `{}`", written.text));
                report.error(written.span, misread.help(format!("the first is at line {first}")));
            }
        }
        report_overlaps(services, &checked, report);
        if let Some(Some(size)) = table_size {
            for service in services {
                let backends = service.value.backends.value.len();
                if backends * ENTRIES_FOR_EACH > size as usize {
                    let misread = Misread::new(format!("{backends} backends are many for a table of {size}"));
                    let help = format!(
                        "shares will be uneven: `table-size` should be {} or more",
                        backends * ENTRIES_FOR_EACH
                    );
                    report.warning(service.value.backends.span, misread.help(help));
                }
            }
        }
        Some(LoadBalancer {
            services: checked.into_iter().collect::<Option<_>>()?,
            connections: connections?.unwrap_or(Track::SESSIONS),
            table_size: table_size?,
        })
    }
}

fn is_prime(number: u32) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}

/// Refuses services of which some packets would go to an earlier one.
fn report_overlaps(raw: &[At<crate::raw::Service>], services: &[Option<Service>], report: &mut Report<'_>) {
    let mut by_vip: HashMap<IpAddr, Vec<&Service>> = HashMap::new();
    for (raw, service) in raw.iter().zip(services) {
        let Some(service) = service else { continue };
        for (vip, written) in service.vips.iter().zip(&raw.value.vip.list) {
            let earlier = by_vip.entry(*vip).or_default();
            if let Some(other) = earlier.iter().find(|other| other.shares_packets(service)) {
                let misread = Misread::new(format!("another service takes the same packets to {vip}"));
                report.error(written.span, misread.help(format!("the one at line {}", other.place.line)));
            }
            earlier.push(service);
        }
    }
}

impl Service {
    /// Whether there are packets to an address that both take.
    fn shares_packets(&self, other: &Service) -> bool {
        let protocols = self.protocols.is_empty()
            || other.protocols.is_empty()
            || self.protocols.iter().any(|protocol| other.protocols.contains(protocol));
        let ports = self.ports.is_empty()
            || other.ports.is_empty()
            || self.ports.iter().any(|one| {
                other.ports.iter().any(|other| one.first() <= other.last() && other.first() <= one.last())
            });
        protocols && ports
    }

    fn check(
        At { value: raw, span }: &At<crate::raw::Service>,
        folder: &Path,
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let name = given(&raw.name, report);
        let vips = raw.vip.read(report);
        let ports = raw.port.as_ref().map_or(Some(Vec::new()), |ports| ports.read(report));
        let protocols = raw.protocol.as_ref().map_or(Some(Vec::new()), |list| list.read(report));
        let forward = given(&raw.forward, report);
        let source_nat = raw.source_nat.as_ref().map_or(Some(None), |list| check_source(list, report));
        let health =
            raw.health.as_ref().map_or(Some(None), |health| Health::check(health, folder, report).map(Some));
        let affinity = given(&raw.affinity, report);
        let affinity_timeout = given(&raw.affinity_timeout, report);
        let answer_ping = given(&raw.answer_ping, report);
        let when_all_down = given(&raw.when_all_down, report);
        let slow_start = given(&raw.slow_start, report);
        let backends = Backend::check_list(&raw.backends, report);
        let mut service = Service {
            name: name?,
            vips: vips?.into_iter().map(|address| address.0).collect(),
            ports: ports?,
            protocols: protocols?,
            forward: forward?.unwrap_or_default(),
            source_nat: source_nat?,
            backends: backends?,
            health: health?,
            affinity: affinity?.unwrap_or_default(),
            affinity_timeout: affinity_timeout?.map_or(Duration::ZERO, crate::value::Duration::get),
            answer_ping: answer_ping? == Some(Flag::True),
            when_all_down: WhenAllDown::default(),
            slow_start: slow_start?.map_or(Duration::ZERO, crate::value::Duration::get),
            place: *span,
        };
        for (vip, written) in service.vips.iter().zip(&raw.vip.list) {
            if let Some(what) = unusable(*vip) {
                report.error(written.span, format!("`{vip}` is {what}, which no service can be"));
                return None;
            }
        }
        service.check_affinity(raw, report)?;
        service.check_ports(raw, report)?;
        service.check_backends(raw, report)?;
        service.when_all_down = service.check_all_down(raw, when_all_down?, report)?;
        Some(service)
    }

    fn check_affinity(&self, raw: &crate::raw::Service, report: &mut Report<'_>) -> Option<()> {
        let Some(written) = raw.affinity_timeout.as_ref() else { return Some(()) };
        let misread = if self.affinity != Affinity::Source {
            Misread::new("`affinity-timeout` without `affinity: source`")
                .help("connections stay with their backend by themselves")
        } else if self.affinity_timeout > LONGEST_AFFINITY {
            Misread::new(format!("`{}` is longer than 7d", written.text))
        } else {
            return Some(());
        };
        report.error(written.span, misread);
        None
    }

    fn check_ports(&self, raw: &crate::raw::Service, report: &mut Report<'_>) -> Option<()> {
        let Some(ports) = raw.port.as_ref() else { return Some(()) };
        let misread = match self.protocols.iter().find(|protocol| !protocol.has_ports()) {
            Some(protocol) => Misread::new(format!("`port` with protocol `{protocol}`, which has no ports"))
                .help("tcp, udp and sctp have"),
            None if self.protocols.is_empty() => Misread::new("`port` without `protocol`")
                .help("add `protocol: tcp`, `udp`, `sctp`, or a list of them"),
            None => return Some(()),
        };
        report.error(ports.span, misread);
        None
    }

    /// What backends may have depends on how packets reach them.
    fn check_backends(&self, raw: &crate::raw::Service, report: &mut Report<'_>) -> Option<()> {
        if let (Some(list), true) = (raw.source_nat.as_ref(), self.source_nat.is_some())
            && self.forward != Forwarding::Nat
        {
            let misread = Misread::new(format!("`source-nat` with `forward: {}`", self.forward));
            report.error(
                list.span,
                misread.help("backends then answer the client, whose address they must see"),
            );
            return None;
        }
        let one_port = match self.ports.as_slice() {
            [range] => range.first() == range.last(),
            _ => false,
        };
        for (backend, written) in self.backends.iter().zip(&raw.backends.value) {
            let vip = self.vips.iter().find(|vip| vip.is_ipv4() != backend.address.is_ipv4());
            if let Some(vip) = vip.filter(|_| self.forward != Forwarding::Ipip) {
                let place = written.value.address.span;
                let (ours, theirs) = (family_of(backend.address), family_of(*vip));
                let misread = Misread::new(format!("an {ours} backend for the {theirs} address {vip}"));
                report.error(place, misread.help("only `forward: ipip` joins the families"));
                return None;
            }
            let Some(port) = written.value.port.as_ref() else { continue };
            let misread = if self.forward != Forwarding::Nat {
                Misread::new(format!("a backend's `port` with `forward: {}`", self.forward))
                    .help("ports are changed by `forward: nat` only; the health check has its own `port`")
            } else if !one_port {
                Misread::new("a backend's `port` for a service without exactly one port")
                    .help("leave it out: ports then stay what they are")
            } else {
                continue;
            };
            report.error(port.span, misread);
            return None;
        }
        if let (Some(health), Some(written)) = (&self.health, &raw.health)
            && !matches!(health.probe, Probe::Icmp | Probe::Exec(_))
            && health.port.is_none()
            && !one_port
        {
            let misread = Misread::new(format!("the health check `{}` has no port", health.probe.word()));
            report.error(
                written.span,
                misread.help("the service does not have exactly one: add `port` to the check"),
            );
            return None;
        }
        Some(())
    }

    fn check_all_down(
        &self,
        raw: &crate::raw::Service,
        given: Option<WhenAllDown>,
        report: &mut Report<'_>,
    ) -> Option<WhenAllDown> {
        let backups = self.backends.iter().any(|backend| backend.backup);
        let place = raw.when_all_down.as_ref().map_or(raw.backends.span, |written| written.span);
        match given {
            None if backups => Some(WhenAllDown::Backup),
            None => Some(WhenAllDown::default()),
            Some(WhenAllDown::Backup) if !backups => {
                let misread = Misread::new("no backend is a backup");
                report.error(place, misread.help("give one of them `backup: true`"));
                None
            }
            Some(way) => {
                if backups && way != WhenAllDown::Backup {
                    let misread =
                        Misread::new(format!("with `when-all-down: {way}` the backups are never used"));
                    report.warning(place, misread);
                }
                Some(way)
            }
        }
    }
}

fn check_source(list: &OneOrMany<SourceAddress>, report: &mut Report<'_>) -> Option<Option<BalancerSource>> {
    let values = list.read(report)?;
    match values.as_slice() {
        [SourceAddress::Off] => return Some(None),
        [SourceAddress::Egress] => return Some(Some(BalancerSource::Egress)),
        _ => {}
    }
    let mut pool = Vec::new();
    for (value, written) in values.iter().zip(&list.list) {
        match value {
            SourceAddress::Range(range) => pool.push(*range),
            SourceAddress::Off | SourceAddress::Egress => {
                report.error(written.span, format!("`{value}` in a list of addresses"));
                return None;
            }
        }
    }
    Some(Some(BalancerSource::Pool(pool)))
}

impl Backend {
    fn check_list(raw: &At<Vec<At<crate::raw::Backend>>>, report: &mut Report<'_>) -> Option<Vec<Self>> {
        if raw.value.is_empty() {
            report.error(raw.span, "the service has no backends");
            return None;
        }
        if let Some(backend) = raw.value.get(MOST_BACKENDS) {
            report.error(backend.span, format!("the service has more than {MOST_BACKENDS} backends"));
            return None;
        }
        let mut seen = HashMap::new();
        let mut backends = Vec::new();
        for At { value: raw, span } in &raw.value {
            let address = raw.address.read(report).map(|address| address.0);
            let port = given(&raw.port, report);
            let weight = given(&raw.weight, report);
            let backup = given(&raw.backup, report);
            let (Some(address), Some(port), Some(weight), Some(backup)) = (address, port, weight, backup)
            else {
                continue;
            };
            if let Some(what) = unusable(address) {
                report.error(raw.address.span, format!("`{address}` is {what}, which no backend can be"));
                continue;
            }
            let port = port.and_then(|port| u16::try_from(port.get()).ok());
            if let Some(first) = seen.insert((address, port), raw.address.span.line) {
                let misread = Misread::new(format!("the backend {address} is already in this service"));
                report
                    .error(raw.address.span, misread.help(format!("at line {first}: give it more `weight`")));
                continue;
            }
            let weight = weight.map_or(1, |weight| u16::try_from(weight.get()).unwrap_or(u16::MAX));
            backends.push(Backend {
                address,
                port,
                weight,
                backup: backup == Some(Flag::True),
                place: *span,
            });
        }
        if backends.len() == raw.value.len()
            && backends.iter().all(|backend| backend.weight == 0 || backend.backup)
        {
            report.warning(raw.span, "no backend gets new connections: all have weight 0 or are backups");
        }
        (backends.len() == raw.value.len()).then_some(backends)
    }
}
