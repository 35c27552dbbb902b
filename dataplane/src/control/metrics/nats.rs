//! The figures of NATs: sessions, mappings and pools.

use throughway_config::value::Protocol;
use throughway_nat::Refusal;
use throughway_nat::address::PROTOCOLS;
use throughway_session::Class;

use super::{Page, SessionFigures, sessions};
use crate::app::Service;
use crate::clock;

/// By function; pools by the rule that has them.
pub(super) fn nats(page: &mut Page, service: &Service) {
    let interfaces: Vec<String> =
        service.interfaces().iter().map(|interface| interface.name.clone()).collect();
    for (name, nat) in service.nats() {
        let function = [("function", name.as_str())];
        let shared = &nat.shared;
        let table = SessionFigures {
            classes: Class::ALL.map(|class| shared.count(class)),
            capacity: nat.config.sessions,
            bytes: shared.memory(),
            stats: shared.stats(),
        };
        sessions(page, &name, &table);
        let (_, mappings) = shared.len();
        let help = "Outside ports that hosts inside have.";
        page.gauge("throughway_nat_mappings", help, &function, mappings.into());
        for pool in nat.pools(&interfaces) {
            let of = [("function", name.as_str()), ("rule", &*pool.rule), ("pool", &*pool.name)];
            let with = |label, value| [of[0], of[1], of[2], (label, value)];
            let usage = pool.pool.usage(clock::now().0);
            let help = "Outside addresses of a pool.";
            page.gauge("throughway_nat_pool_addresses", help, &of, usage.addresses as f64);
            let help = "Ports that a pool has for each protocol, of all its addresses.";
            page.gauge(
                "throughway_nat_pool_capacity_ports",
                help,
                &of,
                (usage.addresses * usage.ports) as f64,
            );
            for (protocol, ports) in PROTOCOLS.iter().zip(usage.of_addresses) {
                let protocol = Protocol::new(*protocol).to_string();
                for (state, count) in [("used", ports.taken), ("resting", ports.resting)] {
                    let labels = [of[0], of[1], of[2], ("protocol", &*protocol), ("state", state)];
                    let help = "Ports (of ICMP: identifiers) of a pool's addresses that a mapping has, or that rest after use.";
                    page.gauge("throughway_nat_pool_ports", help, &labels, count as f64);
                }
            }
            let (all, free) = usage.blocks;
            if all > 0 {
                for (state, count) in [("used", all - free), ("free", free)] {
                    let help = "Blocks of ports of a pool.";
                    page.gauge("throughway_nat_pool_blocks", help, &with("state", state), count as f64);
                }
            }
            for (refusal, count) in Refusal::ALL.iter().zip(usage.refused) {
                let help = "Times a host inside got no port of a pool, by the reason.";
                let labels = with("reason", refusal.label());
                page.counter("throughway_nat_pool_refused_total", help, &labels, count);
            }
        }
    }
}
