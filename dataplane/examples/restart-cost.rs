//! What a restart costs with many sessions: `cargo run --release -p throughway --example restart-cost -- [SESSIONS]`.
#![expect(clippy::print_stdout, reason = "prints a table")]
#![expect(clippy::expect_used, reason = "a failure ends the measurement")]

use std::sync::Arc;
use std::time::Instant;

use throughway::app::restart;
use throughway::assemble::state::States;
use throughway::assemble::{Blueprint, Figures};
use throughway::clock;
use throughway::host::HostFacts;
use throughway_config::Config;
use throughway_flow::Generations;
use throughway_packet::build::PacketBuilder;
use throughway_packet::{PortId, parse};
use throughway_vnf::{BATCH, Batch, Context, Packet};

fn yaml(sessions: u32) -> String {
    let room = sessions + sessions / 8 + 64;
    format!(
        "interfaces: {{ lan: {{ device: lan0 }}, wan: {{ device: wan0 }} }}\nfunctions:\n  \
         edge: {{ firewall: {{ default: drop, rules: [ {{ allow: {{ from: lan }} }} ], track: {{ sessions: {room}, half-open: {room} }} }} }}\n  \
         outer: {{ nat: {{ outside: wan, source: [ {{ match: {{ source: 10.0.0.0/8 }}, pool: 203.0.113.0-203.0.113.127 }} ], \
         limits: {{ sessions: {room} }} }} }}\n  \
         core: {{ router: {{ routes: [ {{ prefix: 0.0.0.0/0, blackhole: true }} ] }} }}\n\
         chains: {{ outbound: {{ from: lan, run: [edge, outer, core] }}, inbound: {{ from: wan, run: [outer, edge, core] }} }}\n"
    )
}

fn made(config: &Config, facts: &HostFacts) -> (States, Blueprint) {
    let states = States::new(7, Arc::new(Generations::default()));
    let blueprint = Blueprint::new(config, facts, &states).expect("it is built");
    blueprint.publish(&states);
    (states, blueprint)
}

/// Sends one packet for each session from the LAN, and one answer for each, so that they are no longer half-open.
fn open(config: &Config, facts: &HostFacts, sessions: u32) -> States {
    let (states, blueprint) = made(config, facts);
    let mut program = blueprint.program(0, &mut Figures::default());
    let frame = |number: u32| {
        let [_, a, b, c] = (number / 16).to_be_bytes();
        let packet = PacketBuilder::ipv4([10, a, b, c], [198, 51, 100, 7]);
        packet.udp(4000 + (number % 16) as u16, 53).finish()
    };
    let numbers: Vec<u32> = (0..sessions).collect();
    for part in numbers.chunks(BATCH) {
        let frames: Vec<_> = part.iter().map(|number| frame(*number)).collect();
        // Twice: who speaks again is no longer half-open.
        for _ in 0..2 {
            let mut batch = Batch::new();
            for frame in &frames {
                let headers = parse(frame, PortId(0)).expect("a packet");
                assert!(batch.push(Packet::new(frame, headers)).is_ok());
            }
            program.walk(0, &mut batch, 0, &Context { now: clock::now() });
        }
    }
    states
}

/// Milliseconds that this thread has run: other work on the machine does not count.
fn on_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").expect("Linux");
    let run = stat.split(' ').next().and_then(|run| run.parse::<f64>().ok());
    run.expect("a number") / 1e6
}

/// A line of the table.
fn tell<R>(what: &str, work: impl FnOnce() -> R) -> R {
    let (begun, ran) = (Instant::now(), on_cpu());
    let result = work();
    println!("| {what} | {:.0} | {:.0} |", begun.elapsed().as_secs_f64() * 1e3, on_cpu() - ran);
    result
}

fn main() {
    let argument = std::env::args().nth(1);
    let sessions = argument.map_or(1_000_000, |number| number.parse().expect("a number"));
    let (config, _) = Config::parse("cost.yaml", &yaml(sessions)).expect("a configuration");
    let facts =
        HostFacts::invented([("lan", "lan0"), ("wan", "wan0")].map(|(a, b)| (a.to_owned(), b.to_owned())));
    let folder = std::env::temp_dir().join(format!("throughway-restart-cost-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("sessions");
    let states = open(&config, &facts, sessions);
    let there: u32 =
        states.firewalls().iter().map(|(_, shared)| shared.overview().sessions.iter().sum::<u32>()).sum();
    println!(
        "{there} sessions in a firewall, as many in a NAT\n\n| | ms | ms on the core |\n| --- | --- | --- |"
    );
    tell("write them", || restart::save(&path, &config, &states));
    let bytes = path.metadata().expect("it was written").len();
    drop(states);
    let (states, _blueprint) = made(&config, &facts);
    let report = tell("take them over", || restart::restore(&path, &config, &states, || {}));
    println!("\n{:.1} MB, {:.1} bytes a session", bytes as f64 / 1e6, bytes as f64 / f64::from(there) / 2.0);
    for function in &report.functions {
        println!(
            "{} {}: {} came back, {} did not",
            function.kind,
            function.name,
            function.restored.sessions,
            function.restored.all_lost()
        );
    }
    std::fs::remove_dir_all(&folder).expect("it is ours");
}
