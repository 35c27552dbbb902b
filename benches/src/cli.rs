//! The command line of `throughway-bench`.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::error::{BenchError, Result};
use crate::generator::{Generator, Rate, Traffic};
use crate::namespaces::{Cores, Namespaces, Placement};
use crate::peers::{Peer, Scale, Setup, Subject};
use crate::trial::Bench;

/// Throughway side by side with what people would use instead, in network namespaces.
#[derive(Parser, Debug)]
#[command(name = "throughway-bench", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// One peer at given rates: to look at something by hand.
    Trial {
        #[command(flatten)]
        machine: Machine,
        /// kernel-forward, kernel-filter, kernel-masquerade, kernel-flowtable, kernel-balance, testpmd, xdp-redirect, xdp-fib,
        /// router, chain-N, stateful, balancer.
        #[arg(long, value_parser = peer)]
        peer: Vec<Peer>,
        /// Which core pays for what: own-core or one-core.
        #[arg(long, value_parser = placement, default_value = "one-core")]
        placement: Placement,
        /// Throughway's fast path.
        #[arg(long)]
        fast_path: bool,
        /// Packets a second, or `max`; several are tried in turn.
        #[arg(long, value_parser = rate, value_delimiter = ',', default_value = "max")]
        rate: Vec<Rate>,
        /// Seconds of each trial.
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
        /// Flows.
        #[arg(long, default_value_t = 10_000)]
        flows: u32,
        /// How often all is repeated.
        #[arg(long, default_value_t = 1)]
        runs: usize,
        /// Put time stamps into the packets and print latencies.
        #[arg(long)]
        stamp: bool,
        /// A command to be run by the shell once the peer runs, with NAPI (its kernel threads) and PIDS in the environment.
        #[arg(long)]
        then: Option<String>,
    },
}

/// What is measured with.
#[derive(Args, Debug)]
pub(crate) struct Machine {
    /// The program `throughway`.
    #[arg(long, default_value = "target/release/throughway")]
    pub(crate) throughway: String,
    /// The program that generates and counts, where it is another one.
    #[arg(long)]
    pub(crate) pktgen: Option<String>,
    /// The generator's core and that of what is measured.
    #[arg(long, value_parser = cores, default_value = "0,1", value_name = "GENERATOR,DEVICE")]
    pub(crate) cores: Cores,
    /// Niceness of generator, peers and their kernel threads, all alike: below 0 on a machine that is shared with others.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) nice: i32,
    /// More of Throughway's section `workers`, such as `poll: busy`.
    #[arg(long, default_value = "")]
    pub(crate) workers: String,
    /// The namespaces are named PREFIX-src, PREFIX-dut, PREFIX-snk.
    #[arg(long, default_value = "twbench")]
    pub(crate) prefix: String,
}

fn peer(text: &str) -> std::result::Result<Peer, String> {
    Peer::of_key(text).ok_or_else(|| "no such peer".to_owned())
}

fn placement(text: &str) -> std::result::Result<Placement, String> {
    let all = [Placement::OwnCore, Placement::OneCore];
    all.into_iter().find(|one| one.key() == text).ok_or_else(|| "own-core or one-core".to_owned())
}

fn rate(text: &str) -> std::result::Result<Rate, String> {
    if text == "max" {
        return Ok(Rate::Max);
    }
    text.parse().map(Rate::Pps).map_err(|_| "packets a second, or max".to_owned())
}

fn cores(text: &str) -> std::result::Result<Cores, String> {
    let two = text.split_once(',').and_then(|(one, two)| Some((one.parse().ok()?, two.parse().ok()?)));
    match two {
        Some((generator, device)) if generator != device => Ok(Cores { generator, device }),
        _ => Err("two different cores, such as 0,1".to_owned()),
    }
}

/// Prints to standard output. A closed pipe is not an error: the reader has seen enough.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// Gives this process and its children the niceness of the run among other sessions, where the kernel groups processes by
/// session (autogroup): there the niceness of a process counts only within its session. The worker and the kernel's NAPI thread keep
/// their standing to each other.
fn stand_out(nice: i32) -> Result<()> {
    let path = "/proc/self/autogroup";
    if nice == 0 || !std::path::Path::new(path).exists() {
        return Ok(());
    }
    // Fails for the leader of a group, who has a session or shell of its own already.
    let _ = nix::unistd::setsid();
    std::fs::write(path, nice.to_string()).map_err(|source| BenchError::file(path, source))
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Trial { machine, peer, placement, fast_path, rate, seconds, flows, runs, stamp, then } => {
            let wanted =
                Wanted { peers: peer, placement, fast_path, rates: rate, seconds, flows, runs, stamp, then };
            trials(&machine, &wanted)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "throughway-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Wanted {
    peers: Vec<Peer>,
    placement: Placement,
    fast_path: bool,
    rates: Vec<Rate>,
    seconds: f64,
    flows: u32,
    runs: usize,
    stamp: bool,
    then: Option<String>,
}

fn trials(machine: &Machine, wanted: &Wanted) -> Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        return Err(BenchError::NotRoot);
    }
    stand_out(machine.nice)?;
    let pktgen = machine.pktgen.as_ref().unwrap_or(&machine.throughway);
    let generator = Generator::new(pktgen, machine.cores);
    for _ in 0..wanted.runs {
        for &peer in &wanted.peers {
            let mut at = Namespaces::up(&machine.prefix, machine.nice)?;
            let subject = Subject { peer, placement: wanted.placement, fast_path: wanted.fast_path };
            let traffic = if peer.balances() {
                Traffic::to_service(wanted.flows)
            } else {
                Traffic::small(wanted.flows)
            };
            let mut setup = Setup {
                at: &mut at,
                cores: machine.cores,
                scale: Scale::default(),
                traffic: &traffic,
                binary: &machine.throughway,
                workers: &machine.workers,
            };
            let running = subject.start(&mut setup)?;
            if let Some(then) = &wanted.then {
                let words =
                    |numbers: &[u32]| numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
                let line = format!(
                    "export NAPI='{}' PIDS='{}' NS='{}'; {then}",
                    words(at.napi()),
                    words(&running.pids()),
                    at.name(crate::namespaces::Place::Device)
                );
                say(crate::command::run(&["sh", "-c", &line])?.trim_end());
            }
            let bench = Bench {
                at: &at,
                generator: &generator,
                cores: machine.cores,
                running: &running,
                traffic: &traffic,
            };
            bench.warm_up()?;
            for &rate in &wanted.rates {
                let trial = bench.trial(rate, Duration::from_secs_f64(wanted.seconds), wanted.stamp)?;
                let latency = trial.latency.filter(|_| wanted.stamp).map_or(String::new(), |latency| {
                    format!("  p50 {:.0} us p99 {:.0} us", latency.p50 / 1e3, latency.p99 / 1e3)
                });
                say(&format!(
                    "{:<42} offered {:>6.3} Mpps  arrived {:>6.3}  loss {:>7.3} %  worker {:.2} softirq {:.2} generator {:.2} others {:.2} stolen {:.2}{latency}",
                    subject.name(),
                    trial.offered / 1e6,
                    trial.arrived / 1e6,
                    trial.loss * 100.0,
                    trial.cpu.worker,
                    trial.cpu.softirq,
                    trial.cpu.generator,
                    trial.cpu.others,
                    trial.cpu.stolen
                ));
            }
        }
    }
    Ok(())
}
