//! What it takes to load many services: `cargo run --release -p throughway --example balancer-load -- [SERVICES] [BACKENDS]`.
#![expect(clippy::print_stdout, reason = "prints a table")]
#![expect(clippy::expect_used, reason = "a failure ends the measurement")]

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use throughway::assemble::balancer::Director;
use throughway::host::HostFacts;
use throughway_config::{Config, FunctionKind, LoadBalancer};
use throughway_session::Seed;

/// Services at addresses of their own, each with backends of its own.
fn yaml(services: u32, backends: u32) -> String {
    let mut text = String::from(
        "interfaces: { lan: { device: lan0 } }\nchains: { inbound: { from: lan, run: [front, core] } }\nfunctions:\n  core: { router: {} }\n  front:\n    load-balancer:\n      services:\n",
    );
    for service in 0..services {
        let vip = Ipv4Addr::from(0xc612_0000 + service);
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "        - {{ name: s{service}, vip: {vip}, port: 80, protocol: tcp, health: {{ tcp: true }}, backends: [ "
        );
        for backend in 0..backends {
            let address = Ipv4Addr::from(0x0a00_0000 + service * backends + backend + 1);
            let comma = if backend == 0 { "" } else { ", " };
            let _ = write!(text, "{comma}{{ address: {address}, port: 8080 }}");
        }
        text.push_str(" ] }\n");
    }
    text
}

fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line of it");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}

fn balancer(config: &Config) -> &LoadBalancer {
    let found = config.functions.iter().find_map(|function| match &function.kind {
        FunctionKind::LoadBalancer(balancer) => Some(balancer),
        _ => None,
    });
    found.expect("a load balancer")
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|number| number.parse().expect("a number"));
    let (services, backends) = (arguments.next().unwrap_or(10_000), arguments.next().unwrap_or(100));
    println!("{services} services with {backends} backends each\n\n| | ms | MiB in all |\n| --- | --- | --- |");
    let tell = |what: &str, begun: Instant| {
        println!("| {what} | {:.0} | {:.0} |", begun.elapsed().as_secs_f64() * 1e3, resident());
    };
    let text = yaml(services, backends);
    let begun = Instant::now();
    let (config, _) = Config::parse("load.yaml", &text).expect("a configuration");
    tell(&format!("read {:.0} MB of YAML", text.len() as f64 / 1e6), begun);
    let facts = HostFacts::default();
    let begun = Instant::now();
    let director = Director::new(balancer(&config), &facts, Seed([1, 2]), Arc::default()).expect("it is built");
    tell("fill the tables, put them into force", begun);
    let begun = Instant::now();
    director.apply(director.plan(balancer(&config), &facts).expect("a plan"));
    tell("reload without a change", begun);
    let begun = Instant::now();
    let targets = director.targets(&mut None).expect("they are new");
    tell("list whom to ask", begun);
    let begun = Instant::now();
    if let Some(target) = targets.first() {
        director.report(target, Err("refused".to_owned()), Instant::now());
    }
    tell("one backend goes down", begun);
    let begun = Instant::now();
    director.tick(Instant::now());
    tell("a tick", begun);
    let begun = Instant::now();
    for target in &targets {
        director.report(target, Ok(()), Instant::now());
    }
    director.flush(Instant::now());
    tell("all backends answer their first check", begun);
}
