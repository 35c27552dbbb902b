//! Load balancers: their differences, and their services in words.

use super::firewall::time;
use super::{Changes, list};
use crate::checked::{Backend, BalancerSource, Health, LoadBalancer, Probe, Service, Trust};

impl Changes {
    pub(super) fn balancer(&mut self, path: &str, old: &LoadBalancer, new: &LoadBalancer) {
        let LoadBalancer { services, connections, table_size } = new;
        self.value(format!("{path}.connections"), old.connections, *connections);
        let size = |size: Option<u32>| size.map_or("what fits".to_owned(), |size| size.to_string());
        self.value(format!("{path}.table-size"), size(old.table_size), size(*table_size));
        // What a service is, and only then how it does it: a backend that comes or goes is one line.
        let key = |service: &Service| identity(service);
        let old_keys: Vec<String> = old.services.iter().map(key).collect();
        let new_keys: Vec<String> = services.iter().map(key).collect();
        self.lines(&format!("{path}.services"), &old_keys, &new_keys, false);
        for (key, is) in new_keys.iter().zip(services) {
            let Some(was) = old.services.iter().find(|service| identity(service) == *key) else { continue };
            let path =
                format!("{path}.services.{}", is.name.as_ref().map_or(key.as_str(), |name| name.as_str()));
            let lines = |service: &Service| -> Vec<String> { service.backends.iter().map(backend).collect() };
            self.lines(&format!("{path}.backends"), &lines(was), &lines(is), false);
            self.service(&path, was, is);
        }
    }

    fn service(&mut self, path: &str, old: &Service, new: &Service) {
        let Service {
            name: _,
            vips: _,
            ports: _,
            protocols: _,
            forward,
            source_nat,
            backends: _,
            health,
            affinity,
            affinity_timeout,
            answer_ping,
            when_all_down,
            slow_start,
            place: _,
        } = new;
        let source = |source: &Option<BalancerSource>| match source {
            None => "false".to_owned(),
            Some(BalancerSource::Egress) => "true".to_owned(),
            Some(BalancerSource::Pool(pool)) => list(pool),
        };
        let check = |health: &Option<Health>| health.as_ref().map_or("none".to_owned(), describe_health);
        self.value(format!("{path}.forward"), old.forward, *forward);
        self.value(format!("{path}.source-nat"), source(&old.source_nat), source(source_nat));
        self.value(format!("{path}.health"), check(&old.health), check(health));
        self.value(format!("{path}.affinity"), old.affinity, *affinity);
        self.value(format!("{path}.affinity-timeout"), time(old.affinity_timeout), time(*affinity_timeout));
        self.value(format!("{path}.answer-ping"), old.answer_ping, *answer_ping);
        self.value(format!("{path}.when-all-down"), old.when_all_down, *when_all_down);
        self.value(format!("{path}.slow-start"), time(old.slow_start), time(*slow_start));
    }
}

/// What tells services apart: the packets they take.
fn identity(service: &Service) -> String {
    let ports =
        if service.ports.is_empty() { String::new() } else { format!(" port {}", list(&service.ports)) };
    let protocols =
        if service.protocols.is_empty() { String::new() } else { format!(" {}", list(&service.protocols)) };
    let name = service.name.as_ref().map_or(String::new(), |name| format!("{name} "));
    format!("{name}{}{protocols}{ports}", list(&service.vips))
}

fn backend(backend: &Backend) -> String {
    let Backend { address, port, weight, backup, place: _ } = backend;
    let port = port.map_or(String::new(), |port| format!(" port {port}"));
    format!("{address}{port} weight {weight}{}", if *backup { " backup" } else { "" })
}

fn describe_health(health: &Health) -> String {
    let Health { probe, port, interval, jitter, timeout, rise, fall } = health;
    let what = match probe {
        Probe::Tcp | Probe::Icmp => String::new(),
        Probe::Http { tls, path, host, status, body } => {
            let verified = match tls {
                None | Some(Trust::Nothing) => String::new(),
                Some(Trust::System) => " verify system".to_owned(),
                Some(Trust::File(file)) => format!(" ca-file {}", file.display()),
            };
            let host = host.as_ref().map_or(String::new(), |host| format!(" host {host}"));
            let body = body.as_ref().map_or(String::new(), |body| format!(" body {body:?}"));
            format!(" {path}{host} status {}{body}{verified}", list(status))
        }
        Probe::Udp { payload, body } => {
            let body = body.as_ref().map_or(String::new(), |body| format!(" body {body:?}"));
            format!(" {payload:?}{body}")
        }
        Probe::Exec(words) => format!(" {}", list(words)),
    };
    let port = port.map_or(String::new(), |port| format!(" port {port}"));
    format!(
        "{}{what}{port} every {} (+{}) timeout {} rise {rise} fall {fall}",
        probe.word(),
        time(*interval),
        time(*jitter),
        time(*timeout)
    )
}
