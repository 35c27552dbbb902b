//! The router.

use std::collections::HashMap;
use std::net::IpAddr;

use super::*;
use crate::value::{Flag, Number, Prefix, Value, words};

/// A router: longest prefix match over a table of the kernel and static routes.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Router {
    /// The kernel's routing table that is mirrored.
    pub table: TableId,
    /// Whether the table is mirrored at all; if not, only `routes` count.
    pub kernel_routes: bool,
    /// Which source addresses packets may have, where their interface does not say.
    pub urpf: Urpf,
    /// The same for every interface, in their order: what it says itself, else `urpf`.
    pub(crate) urpf_by_interface: Vec<Urpf>,
    /// Whether packets from and to reserved addresses are forwarded.
    pub forward_reserved: bool,
    /// To what the maximum segment size of TCP connections is lowered.
    pub mss: Mss,
    /// Static routes. No two have the same prefix and metric.
    pub routes: Vec<Route>,
}

/// A routing table of the kernel, by number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TableId(pub u32);

impl TableId {
    /// The table that `ip route` shows.
    pub const MAIN: TableId = TableId(254);
}

words! {
    /// Which source addresses packets may have (RFC 3704).
    Urpf, "reverse path check", default Off:
    /// Any.
    Off = "off",
    /// Those that there is a route to, be it the default route.
    Loose = "loose",
    /// Those that there is a route to by the interface that the packet came in on.
    Strict = "strict",
}

/// To what the maximum segment size (MSS) of TCP connections is lowered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Mss {
    /// It stays.
    #[default]
    Off,
    /// To what fits the interfaces that the connection passes.
    Clamp,
    /// To so many bytes, 64 to 65495.
    Bytes(u16),
}

/// The smallest MSS that can be asked for, in bytes: below, segments would carry next to nothing.
const SMALLEST_MSS: u32 = 64;
/// The largest that IPv4 can carry.
const LARGEST_MSS: u32 = 65_495;

impl fmt::Display for Mss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mss::Off => f.write_str("off"),
            Mss::Clamp => f.write_str("clamp"),
            Mss::Bytes(bytes) => bytes.fmt(f),
        }
    }
}

impl std::str::FromStr for Mss {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        match text {
            "off" => Ok(Mss::Off),
            "clamp" => Ok(Mss::Clamp),
            _ if text.bytes().all(|b| b.is_ascii_digit()) => {
                let bytes = text.parse::<Number<SMALLEST_MSS, LARGEST_MSS>>()?.get();
                Ok(Mss::Bytes(u16::try_from(bytes).unwrap_or(u16::MAX)))
            }
            _ => Err(Misread::new(format!("`{text}` is not a segment size"))
                .help("expected `clamp`, `off` or a number of bytes such as `1360`")),
        }
    }
}

impl Value for Mss {
    fn schema() -> serde_json::Value {
        serde_json::json!({
            "oneOf": [
                { "enum": ["off", "clamp"] },
                { "type": "integer", "minimum": SMALLEST_MSS, "maximum": LARGEST_MSS },
            ],
        })
    }
}

/// A static route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Route {
    /// Which destinations.
    pub prefix: Prefix,
    /// What is done with them.
    pub target: Target,
    /// Among routes of the same prefix the lowest metric wins.
    pub metric: u32,
}

/// What a route does with packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Sends them to a gateway of the prefix's family.
    Via {
        /// Its address.
        gateway: IpAddr,
        /// By which interface; `None` finds it by the connected routes. Always given for link-local gateways.
        interface: Option<InterfaceId>,
    },
    /// Sends them to the destination itself, which is on this interface's link.
    Interface(InterfaceId),
    /// Drops them.
    Blackhole,
    /// Drops them and answers "host unreachable".
    Unreachable,
    /// Drops them and answers "administratively prohibited".
    Prohibit,
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == TableId::MAIN { f.write_str("main") } else { self.0.fmt(f) }
    }
}

impl std::str::FromStr for TableId {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        match text {
            "main" => Ok(TableId::MAIN),
            "local" | "255" => {
                Err(Misread::new("the table `local` holds the host's own addresses, not routes")
                    .help("did you mean `main`?"))
            }
            _ if text.bytes().all(|b| b.is_ascii_digit()) => {
                Ok(TableId(text.parse::<Number<1, { u32::MAX }>>()?.get()))
            }
            _ => Err(Misread::new(format!("unknown routing table `{text}`"))
                .help("expected `main` or the number of a table, see `ip rule`")),
        }
    }
}

impl Value for TableId {
    fn schema() -> serde_json::Value {
        serde_json::json!({
            "oneOf": [
                { "const": "main" },
                { "type": "integer", "minimum": 1, "maximum": u32::MAX },
            ],
        })
    }
}

impl Router {
    /// Which source addresses packets that come in by an interface may have.
    pub fn urpf_of(&self, interface: InterfaceId) -> Urpf {
        self.urpf_by_interface.get(interface.index()).copied().unwrap_or(self.urpf)
    }

    pub(super) fn check(
        raw: &crate::raw::Router,
        known: &Known<'_>,
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let table = raw.table.read_or(TableId::MAIN, report);
        let kernel_routes = raw.kernel_routes.read_or(Flag::True, report);
        if let (Some(table), Some(Flag::False)) = (&raw.table, kernel_routes) {
            report.warning(table.span, "`table` has no effect with `kernel-routes: false`");
        }
        let urpf = raw.urpf.read_or(Urpf::default(), report);
        // What is wrong with an interface's own is reported there.
        let own = known.interfaces.list.iter().map(|entry| entry.value.urpf.as_ref()?.text.parse().ok());
        let urpf_by_interface = own.map(|own| own.or(urpf).unwrap_or_default()).collect();
        let forward_reserved = raw.forward_reserved.read_or(Flag::False, report);
        let mss = raw.mss.read_or(Mss::default(), report);
        let written = raw.routes.as_deref().unwrap_or_default();
        let routes: Vec<_> = written.iter().map(|route| Route::check(route, known, report)).collect();
        report_duplicates(written, &routes, report);
        if let (Some(flag), Some(Flag::False), []) = (&raw.kernel_routes, kernel_routes, written) {
            report.error(flag.span, "a router without routes can never send a packet");
        }
        Some(Router {
            table: table?,
            kernel_routes: kernel_routes?.into(),
            urpf: urpf?,
            urpf_by_interface,
            forward_reserved: forward_reserved?.into(),
            mss: mss?,
            routes: routes.into_iter().collect::<Option<_>>()?,
        })
    }
}

fn report_duplicates(written: &[At<crate::raw::Route>], routes: &[Option<Route>], report: &mut Report<'_>) {
    let mut seen = HashMap::new();
    for (written, route) in written.iter().zip(routes) {
        let Some(route) = route else { continue };
        let line = written.value.prefix.span.line;
        if let Some(first) = seen.insert((route.prefix, route.metric), line) {
            report.error(
                written.value.prefix.span,
                Misread::new(format!("a second route to {} with metric {}", route.prefix, route.metric))
                    .help(format!("the first is at line {first}")),
            );
        }
    }
}

impl Route {
    fn check(route: &At<crate::raw::Route>, known: &Known<'_>, report: &mut Report<'_>) -> Option<Self> {
        let raw = &route.value;
        let prefix = raw.prefix.read(report);
        let metric = raw.metric.as_ref().map_or(Some(0), |metric| metric.read(report).map(Number::get));
        let gateway = raw.via.as_ref().map(|via| (via.read(report), via.span));
        let interface = raw.interface.as_ref().map(|name| known.interface(name, report));
        let mut sinks = Vec::new();
        let mut misread = false;
        for (key, flag, target) in [
            ("blackhole", &raw.blackhole, Target::Blackhole),
            ("unreachable", &raw.unreachable, Target::Unreachable),
            ("prohibit", &raw.prohibit, Target::Prohibit),
        ] {
            match flag.read_or(Flag::False, report) {
                Some(Flag::True) => sinks.push((key, target)),
                Some(Flag::False) => {}
                None => misread = true,
            }
        }
        if misread {
            return None;
        }
        let target = match (gateway, interface, sinks.as_slice()) {
            (Some((gateway, span)), interface, []) => {
                let gateway = gateway?.0;
                if let Some(prefix) = prefix {
                    check_gateway(gateway, span, prefix, interface.is_some(), report)?;
                }
                let interface = match interface {
                    Some(known) => Some(known?),
                    None => None,
                };
                Target::Via { gateway, interface }
            }
            (None, Some(interface), []) => Target::Interface(interface?),
            (None, None, [(_, target)]) => *target,
            (None, None, []) => {
                report.error(
                    raw.prefix.span,
                    Misread::new("the route leads nowhere")
                        .help("add one of `via`, `interface`, `blackhole: true`, `unreachable: true`, `prohibit: true`"),
                );
                return None;
            }
            (gateway, interface, sinks) => {
                let mut keys: Vec<&str> = sinks.iter().map(|(key, _)| *key).collect();
                keys.extend(interface.is_some().then_some("interface"));
                keys.extend(gateway.is_some().then_some("via"));
                let keys: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
                report.error(
                    raw.prefix.span,
                    Misread::new(format!("the route has {}", keys.join(" and ")))
                        .help("leave only one of them"),
                );
                return None;
            }
        };
        Some(Route { prefix: prefix?, target, metric: metric? })
    }
}

/// Whether `gateway` can be one for `prefix`.
fn check_gateway(
    gateway: IpAddr,
    span: Span,
    prefix: Prefix,
    with_interface: bool,
    report: &mut Report<'_>,
) -> Option<()> {
    let (link_local, broadcast) = match gateway {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.is_broadcast()),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), false),
    };
    let problem = if gateway.is_ipv4() != prefix.is_ipv4() {
        let (wanted, given) = if prefix.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
        Misread::new(format!("an {given} gateway for the {wanted} prefix {prefix}"))
            .help(format!("expected an {wanted} address"))
    } else if gateway.is_unspecified() || gateway.is_multicast() || gateway.is_loopback() || broadcast {
        Misread::new(format!("`{gateway}` cannot be a gateway")).help("expected the address of a neighbour")
    } else if link_local && !with_interface {
        Misread::new(format!("the gateway {gateway} is link-local"))
            .help("add `interface`, as every link has such addresses")
    } else {
        return Some(());
    };
    report.error(span, problem);
    None
}
