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

/// Milliseconds that all threads have run: other work on the machine does not count.
fn on_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    // In hundredths of a second (proc_pid_stat(5)), whatever the kernel's own clock.
    let ticks = |field: Option<&&str>| field.and_then(|field| field.parse::<f64>().ok()).expect("a number");
    (ticks(fields.get(11)) + ticks(fields.get(12))) * 10.0
}

fn balancer(config: &Config) -> &LoadBalancer {
    let found = config.functions.iter().find_map(|function| match &function.kind {
        FunctionKind::LoadBalancer(balancer) => Some(balancer),
        _ => None,
    });
    found.expect("a load balancer")
}

/// So many services, each with an address, a name and backends of its own, made of the first that was read.
fn many(read: &LoadBalancer, services: u32, backends: u32) -> LoadBalancer {
    let mut all = read.clone();
    let first = all.services.first().expect("one").clone();
    all.services = (0..services)
        .map(|number| {
            let mut service = first.clone();
            service.name = Some(format!("s{number}").parse().expect("a name"));
            service.vips = vec![Ipv4Addr::from(0xc612_0000 + number).into()];
            for (backend, entry) in (0..).zip(&mut service.backends) {
                entry.address = Ipv4Addr::from(0x0a00_0000 + number * backends + backend + 1).into();
            }
            service
        })
        .collect();
    all
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|number| number.parse().expect("a number"));
    let (services, backends) = (arguments.next().unwrap_or(10_000), arguments.next().unwrap_or(100));
    println!(
        "{services} services with {backends} backends each\n\n| | ms | ms on all cores | MiB in all |\n| --- | --- | --- | --- |"
    );
    let mut ran = 0.0;
    let mut tell = |what: &str, begun: Instant| {
        let (elapsed, now) = (begun.elapsed().as_secs_f64() * 1e3, on_cpu());
        println!("| {what} | {elapsed:.0} | {:.0} | {:.0} |", now - ran, resident());
        ran = on_cpu();
    };
    // The reader stops at two million nodes, so that no file eats the host.
    let read = services.min(300_000 / backends.max(1)).max(1);
    let text = yaml(read, backends);
    let begun = Instant::now();
    let (config, _) = Config::parse("load.yaml", &text).expect("a configuration");
    tell(&format!("read {:.0} MB of YAML, {read} services", text.len() as f64 / 1e6), begun);
    let all = many(balancer(&config), services, backends);
    drop((config, text));
    let facts = HostFacts::default();
    let begun = Instant::now();
    let director = Director::new(&all, &facts, Seed([1, 2]), Arc::default()).expect("it is built");
    tell("fill the tables, put them into force", begun);
    let begun = Instant::now();
    director.apply(director.plan(&all, &facts).expect("a plan"));
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
