//! What is different between two configurations: what a reload would change, in lines for people.
//!
//! Everything is compared by name, as the numbers of interfaces and functions differ from file to file. Each struct is
//! taken apart whole, so that a new setting cannot be forgotten here.

use std::fmt::{self, Display};

mod balancer;
mod firewall;
mod nat;

use crate::checked::{
    Api, AtStop, Chain, Config, FastTable, Function, FunctionKind, Interface, MarkRule, Marker, Metrics,
    Route, Router, Target, Urpf, Vlan, Workers,
};
use crate::value::Mac;

/// One difference.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
#[non_exhaustive]
pub struct Change {
    /// Where in the file: the keys, joined by dots.
    pub path: String,
    /// What happened there, such as `added 10.9.0.0/16 via 10.0.0.1`.
    pub what: String,
    /// Whether the service must be started anew for it; otherwise a reload is enough.
    pub needs_restart: bool,
}

impl Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.what)
    }
}

impl Config {
    /// What makes `new` different from `old`, in the order of the sections.
    pub fn changes(old: &Config, new: &Config) -> Vec<Change> {
        let mut changes = Changes { list: Vec::new(), needs_restart: true };
        changes.interfaces(&old.interfaces, &new.interfaces);
        changes.workers(&old.workers, &new.workers);
        let FastTable { flows, keep } = new.fast_path;
        changes.value("fast-path.flows", old.fast_path.flows, flows);
        changes.value("fast-path.keep", old.fast_path.keep, keep);
        changes.needs_restart = false;
        let AtStop { program, sessions } = new.at_stop;
        changes.value("at-stop.program", old.at_stop.program, program);
        changes.value("at-stop.sessions", old.at_stop.sessions, sessions);
        changes.functions(old, new);
        changes.chains(old, new);
        changes.needs_restart = true;
        changes.metrics(old.metrics.as_ref(), new.metrics.as_ref());
        let (Api { socket: old_socket }, Api { socket: new_socket }) = (&old.api, &new.api);
        changes.value("api.socket", old_socket.display().to_string(), new_socket.display().to_string());
        changes.list
    }
}

struct Changes {
    list: Vec<Change>,
    needs_restart: bool,
}

impl Changes {
    fn push(&mut self, path: impl Into<String>, what: impl Into<String>) {
        self.list.push(Change { path: path.into(), what: what.into(), needs_restart: self.needs_restart });
    }

    /// A single value.
    fn value<T: PartialEq + Display>(&mut self, path: impl Into<String>, old: T, new: T) {
        if old != new {
            self.push(path, format!("{old} → {new}"));
        }
    }

    /// Lines of which the order matters or not.
    fn lines(&mut self, path: &str, old: &[String], new: &[String], ordered: bool) {
        let removed = less(old, new);
        let added = less(new, old);
        for line in &removed {
            self.push(path, format!("removed {line}"));
        }
        for line in &added {
            self.push(path, format!("added {line}"));
        }
        if ordered && old != new && removed.is_empty() && added.is_empty() {
            self.push(path, "put into another order");
        }
    }

    /// Named things: reports the ones that came and went, returns the ones that stayed.
    fn named<'a, T>(
        &mut self,
        section: &str,
        old: &'a [T],
        new: &'a [T],
        name: impl Fn(&T) -> &str,
        describe: impl Fn(&T) -> String,
    ) -> Vec<(&'a T, &'a T)> {
        for gone in old.iter().filter(|old| !new.iter().any(|new| name(new) == name(old))) {
            self.push(format!("{section}.{}", name(gone)), "removed");
        }
        let mut stayed = Vec::new();
        for new in new {
            match old.iter().find(|old| name(old) == name(new)) {
                Some(old) => stayed.push((old, new)),
                None => self.push(format!("{section}.{}", name(new)), format!("added ({})", describe(new))),
            }
        }
        stayed
    }

    fn interfaces(&mut self, old: &[Interface], new: &[Interface]) {
        let describe = |interface: &Interface| format!("device {}", interface.device);
        let before = self.list.len();
        let stayed = self.named("interfaces", old, new, |interface| &interface.name, describe);
        let moved = |interfaces: &[Interface], other: &[Interface]| {
            interfaces.iter().zip(other).any(|(one, other)| one.name != other.name)
        };
        if self.list.len() == before && moved(old, new) {
            // The number of a port is its place in this list.
            self.push("interfaces", "put into another order");
        }
        for (old, new) in stayed {
            let Interface {
                name,
                device,
                queues,
                xdp,
                zero_copy,
                checksum,
                on_failure,
                fast_path,
                urpf,
                vlan,
            } = new;
            let path = |key: &str| format!("interfaces.{name}.{key}");
            let count = |queues: Option<u32>| queues.map_or("all".to_owned(), |queues| queues.to_string());
            self.value(path("device"), &old.device, device);
            self.value(path("queues"), count(old.queues), count(*queues));
            self.value(path("xdp"), old.xdp, *xdp);
            self.value(path("zero-copy"), old.zero_copy, *zero_copy);
            self.value(path("checksum"), old.checksum, *checksum);
            self.value(path("on-failure"), old.on_failure, *on_failure);
            self.value(path("fast-path"), old.fast_path, *fast_path);
            // The routers look at it, and they are made anew by a reload.
            self.needs_restart = false;
            let word = |urpf: Option<Urpf>| urpf.map_or("the routers'".to_owned(), |urpf| urpf.to_string());
            self.value(path("urpf"), word(old.urpf), word(*urpf));
            self.needs_restart = true;
            self.vlan(&path, old.vlan.as_ref(), vlan.as_ref());
        }
    }

    fn vlan(&mut self, path: &dyn Fn(&str) -> String, old: Option<&Vlan>, new: Option<&Vlan>) {
        let tags = |vlan: Option<&Vlan>| vlan.map_or("none".to_owned(), ToString::to_string);
        self.value(path("vlan"), tags(old), tags(new));
        let (Some(old), Some(new)) = (old, new) else { return };
        let Vlan { outer: _, inner: _, protocol, addresses, neighbours } = new;
        self.value(path("vlan-protocol"), old.protocol, *protocol);
        self.value(path("addresses"), list(&old.addresses), list(addresses));
        let hosts = |neighbours: &[(std::net::IpAddr, Mac)]| {
            list(neighbours.iter().map(|(address, mac)| format!("{address} at {mac}")).collect::<Vec<_>>())
        };
        self.value(path("neighbours"), hosts(&old.neighbours), hosts(neighbours));
    }

    fn workers(&mut self, old: &Workers, new: &Workers) {
        let Workers { cores, poll, frames, flows } = new;
        self.value("workers.cores", list(&old.cores), list(cores));
        self.value("workers.poll", old.poll, *poll);
        self.value("workers.frames", old.frames, *frames);
        self.value("workers.flows", old.flows, *flows);
    }

    fn functions(&mut self, old: &Config, new: &Config) {
        let describe = |function: &Function| function.kind.word().to_owned();
        let stayed =
            self.named("functions", &old.functions, &new.functions, |function| &function.name, describe);
        for (was, is) in stayed {
            let path = format!("functions.{}", is.name);
            match (&was.kind, &is.kind) {
                (FunctionKind::Router(was), FunctionKind::Router(is)) => {
                    self.router(&path, (old, was), (new, is))
                }
                (FunctionKind::Marker(was), FunctionKind::Marker(is)) => self.marker(&path, was, is),
                (FunctionKind::Firewall(was), FunctionKind::Firewall(is)) => {
                    self.firewall(&path, (old, was), (new, is))
                }
                (FunctionKind::Nat(was), FunctionKind::Nat(is)) => self.nat(&path, (old, was), (new, is)),
                (FunctionKind::LoadBalancer(was), FunctionKind::LoadBalancer(is)) => {
                    self.balancer(&path, was, is);
                }
                (was, is) => self.push(path, format!("{} → {}, without its state", was.word(), is.word())),
            }
        }
    }

    fn router(&mut self, path: &str, old: (&Config, &Router), new: (&Config, &Router)) {
        // What the interfaces say is told of the interfaces.
        let Router { table, kernel_routes, urpf, urpf_by_interface: _, forward_reserved, mss, routes } =
            new.1;
        self.value(format!("{path}.table"), old.1.table, *table);
        self.value(format!("{path}.kernel-routes"), old.1.kernel_routes, *kernel_routes);
        self.value(format!("{path}.urpf"), old.1.urpf, *urpf);
        self.value(format!("{path}.forward-reserved"), old.1.forward_reserved, *forward_reserved);
        self.value(format!("{path}.mss"), old.1.mss, *mss);
        let lines = |config: &Config, routes: &[Route]| -> Vec<String> {
            routes.iter().map(|route| describe_route(config, route)).collect()
        };
        self.lines(&format!("{path}.routes"), &lines(old.0, &old.1.routes), &lines(new.0, routes), false);
    }

    fn marker(&mut self, path: &str, old: &Marker, new: &Marker) {
        let Marker { rules } = new;
        let lines = |rules: &[MarkRule]| -> Vec<String> { rules.iter().map(describe_rule).collect() };
        self.lines(&format!("{path}.rules"), &lines(&old.rules), &lines(rules), true);
    }

    fn chains(&mut self, old: &Config, new: &Config) {
        let from =
            |config: &Config, chain: &Chain| list(chain.from.iter().map(|id| &config.interface(*id).name));
        let run =
            |config: &Config, chain: &Chain| list(chain.run.iter().map(|id| &config.function(*id).name));
        let describe = |chain: &Chain| format!("from {} run {}", from(new, chain), run(new, chain));
        let stayed = self.named("chains", &old.chains, &new.chains, |chain| &chain.name, describe);
        for (was, is) in stayed {
            let Chain { name, from: _, run: _ } = is;
            self.value(format!("chains.{name}.from"), from(old, was), from(new, is));
            self.value(format!("chains.{name}.run"), run(old, was), run(new, is));
        }
    }

    fn metrics(&mut self, old: Option<&Metrics>, new: Option<&Metrics>) {
        let listen = |metrics: Option<&Metrics>| match metrics {
            Some(Metrics { listen }) => listen.to_string(),
            None => "off".to_owned(),
        };
        self.value("metrics.listen", listen(old), listen(new));
    }
}

/// What is in `list` more often than in `other`.
fn less(list: &[String], other: &[String]) -> Vec<String> {
    let mut other: Vec<&String> = other.iter().collect();
    let mut rest = Vec::new();
    for line in list {
        match other.iter().position(|candidate| *candidate == line) {
            Some(index) => {
                other.swap_remove(index);
            }
            None => rest.push(line.clone()),
        }
    }
    rest
}

fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    format!("[{}]", items.join(", "))
}

fn describe_route(config: &Config, route: &Route) -> String {
    let Route { prefix, target, metric } = route;
    let target = match target {
        Target::Via { gateway, interface: None } => format!("via {gateway}"),
        Target::Via { gateway, interface: Some(id) } => {
            format!("via {gateway} interface {}", config.interface(*id).name)
        }
        Target::Interface(id) => format!("interface {}", config.interface(*id).name),
        Target::Blackhole => "blackhole".to_owned(),
        Target::Unreachable => "unreachable".to_owned(),
        Target::Prohibit => "prohibit".to_owned(),
    };
    let metric = if *metric == 0 { String::new() } else { format!(" metric {metric}") };
    format!("{prefix} {target}{metric}")
}

fn describe_rule(rule: &MarkRule) -> String {
    let MarkRule { protocol, from_port, to_port, source, destination, family, dscp } = rule;
    let ports = |key: &str, ports: &[crate::value::PortRange]| match ports {
        [] => None,
        [one] => Some(format!("{key} {one}")),
        many => Some(format!("{key} {}", list(many))),
    };
    let parts = [
        protocol.map(|protocol| protocol.to_string()),
        ports("from-port", from_port),
        ports("to-port", to_port),
        source.map(|source| format!("source {source}")),
        destination.map(|destination| format!("destination {destination}")),
        family.map(|family| family.to_string()),
        Some(format!("dscp {dscp}")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}
