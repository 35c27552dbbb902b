//! The router's tables, from the host's facts and the static routes of the configuration.

use std::sync::{Arc, Mutex};

use throughway_config::{InterfaceId, Router, Urpf};
use throughway_packet::PortId;
use throughway_router::{
    Fib, InterfaceAddress, Mss, Neighbours, Options, Port, PortSettings, Ports, SourceCheck, Tables,
};
use throughway_vnf::Snapshot;

use super::RouterSpec;
use crate::host::HostFacts;
use crate::rib::{Kernel, Rib, facts as rib_facts};

/// Builds a router over what the kernel mirror knows.
pub fn follow(name: &str, config: &Router, facts: &HostFacts, kernel: Kernel<'_>) -> RouterSpec {
    let rib = Rib::new(config, facts, kernel);
    let fib = Arc::clone(rib.fib());
    RouterSpec {
        name: name.to_owned(),
        config: config.clone(),
        tables: Snapshot::new(tables(facts, config, Some(fib))),
        rib: Arc::new(Mutex::new(rib)),
    }
}

/// Builds a router's tables from facts alone, once. What did not change is taken over from `fib`, if it is given.
pub fn tables(facts: &HostFacts, config: &Router, fib: Option<Arc<Fib>>) -> Tables {
    let fib = fib.unwrap_or_else(|| {
        let (routes, ports) = rib_facts::routes(facts);
        Arc::clone(Rib::new(config, facts, Kernel { routes: &routes, ports: &ports }).fib())
    });
    Tables { ports: Arc::new(ports(facts, config)), neighbours: Arc::new(neighbours(facts)), fib }
}

/// The ports as a router of this configuration sees them.
pub fn ports(facts: &HostFacts, config: &Router) -> Ports {
    let source_check = |number| match config.urpf_of(InterfaceId(number)) {
        Urpf::Off => SourceCheck::Off,
        Urpf::Loose => SourceCheck::Loose { allow_default: true },
        Urpf::Strict => SourceCheck::Strict,
    };
    let ports = (0..).zip(&facts.ports).map(|(number, port)| Port {
        mac: port.mac,
        mtu: port.mtu,
        up: port.up,
        addresses: port
            .addresses
            .iter()
            .filter_map(|(own, len)| InterfaceAddress::new(*own, *len).ok())
            .collect(),
        settings: PortSettings {
            source_check: source_check(number),
            forward_reserved: config.forward_reserved,
        },
    });
    Ports::new(ports.collect())
}

/// The neighbours as the router sees them.
pub fn neighbours(facts: &HostFacts) -> Neighbours {
    let known =
        facts.neighbours.iter().map(|neighbour| (PortId(neighbour.port), neighbour.address, neighbour.mac));
    let silent = facts.unreachable.iter().map(|(port, address)| (PortId(*port), *address));
    known.collect::<Neighbours>().with_silent(silent)
}

/// What a router does beside routing.
pub fn options(config: &Router) -> Options {
    let mss = match config.mss {
        throughway_config::Mss::Off => Mss::Keep,
        throughway_config::Mss::Clamp => Mss::Links,
        throughway_config::Mss::Bytes(bytes) => Mss::Bytes(bytes),
    };
    Options { mss }
}

#[cfg(test)]
mod tests {
    use throughway_config::{Config, FunctionKind};

    use super::*;

    #[test]
    fn each_port_is_checked_as_its_interface_says() {
        let text = "\
interfaces: { lan: { device: lan0, urpf: strict }, wan: { device: wan0 }, dmz: { device: dmz0, urpf: off } }
functions: { core: { router: { urpf: loose, forward-reserved: true } } }
chains: { all: { from: lan, run: [core] } }
";
        let (config, _) = Config::parse("test.yaml", text).expect("a configuration");
        let FunctionKind::Router(router) = &config.functions[0].kind else { panic!("{config:?}") };
        let names = ["lan", "wan", "dmz"].map(|name| (name.to_owned(), format!("{name}0")));
        let ports = ports(&HostFacts::invented(names), router);
        let settings: Vec<_> = ports.iter().map(|(_, port)| port.settings).collect();
        let checks: Vec<_> = settings.iter().map(|settings| settings.source_check).collect();
        assert_eq!(
            checks,
            [SourceCheck::Strict, SourceCheck::Loose { allow_default: true }, SourceCheck::Off]
        );
        assert!(settings.iter().all(|settings| settings.forward_reserved));
    }
}
