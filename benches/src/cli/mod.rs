//! The command line of `throughway-bench`.

mod compare;
mod nic;
mod trial;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};

use crate::baseline::{self, Instructions, Ratios, Verdict};
use crate::error::{BenchError, Result};
use crate::generator::{Generator, Packets, Rate, Sender};
use crate::namespaces::{Cores, Placement};
use crate::peers::Peer;
use crate::plan::Plan;
use crate::run::Runner;
use crate::{instructions, micro, report};
use trial::Wanted;

/// Throughway side by side with what people would use instead, in network namespaces.
#[derive(Parser, Debug)]
#[command(name = "throughway-bench", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Everything, with a report.
    Run {
        #[command(flatten)]
        machine: Machine,
        /// The short form: some two minutes, Throughway beside the kernel.
        #[arg(long)]
        short: bool,
        /// How often everything is measured, in turn: 5, or 3 in the short form.
        #[arg(long)]
        runs: Option<usize>,
        /// Seconds of one trial: 0.3, or 0.7 in the short form.
        #[arg(long, value_parser = seconds)]
        seconds: Option<f64>,
        /// As many of the runs as fit into so many minutes, by what the first took; when they are over nothing new is begun. The report says
        /// what was cut.
        #[arg(long)]
        minutes: Option<u32>,
        /// Only subjects whose key has this in it, such as `stateful` or `one-core`, and what grows of that name, such as `flows`.
        #[arg(long)]
        only: Vec<String>,
        /// Where report.md, report.json and the charts go.
        #[arg(long, default_value = "target/bench", value_name = "DIRECTORY")]
        report: PathBuf,
        /// Compare the ratios to the kernel with the committed ones in this file.
        #[arg(long, value_name = "FILE")]
        baseline: Option<PathBuf>,
        /// Write them into it instead.
        #[arg(long, requires = "baseline")]
        write: bool,
        /// Gather what criterion left in this directory, `target/criterion`.
        #[arg(long, value_name = "DIRECTORY")]
        micro: Option<PathBuf>,
    },
    /// Throughway between two real ports of this machine, while an external generator sends.
    Nic {
        #[command(flatten)]
        machine: Machine,
        /// Where packets come in.
        #[arg(long = "in", value_name = "DEVICE")]
        input: String,
        /// Where they go out.
        #[arg(long = "out", value_name = "DEVICE")]
        output: String,
        /// router, chain-N, stateful or balancer.
        #[arg(long, value_parser = peer, default_value = "stateful")]
        peer: Peer,
    },
    /// Count the instructions that the hot path takes for a packet, and compare them with the committed ones.
    Count {
        /// The built bench `chain`.
        #[arg(long, value_name = "PROGRAM")]
        bench: String,
        /// The committed ones.
        #[arg(long, default_value = "benches/instructions.json", value_name = "FILE")]
        committed: PathBuf,
        /// Write them instead.
        #[arg(long)]
        write: bool,
        /// Where callgrind's files and `instructions.json`, which the report takes up, go.
        #[arg(long, default_value = "target/bench", value_name = "DIRECTORY")]
        report: PathBuf,
    },
    /// How fast listed sources are dropped: sets with `early` beside nftables', in turn.
    Early {
        #[command(flatten)]
        machine: Machine,
        /// Addresses in the set.
        #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
        elements: u32,
        /// Of these, how many send.
        #[arg(long, default_value_t = 10_000)]
        flows: u32,
        /// Seconds of each trial.
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
        /// How often all is repeated.
        #[arg(long, default_value_t = 3)]
        runs: usize,
    },
    /// iperf3 through the fast path beside the kernel's forwarding, in turn.
    Tcp {
        #[command(flatten)]
        machine: Machine,
        /// TCP connections at once; several are tried in turn.
        #[arg(long, value_delimiter = ',', default_value = "1,100")]
        streams: Vec<u32>,
        /// Seconds of each trial.
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        /// How often all is repeated.
        #[arg(long, default_value_t = 3)]
        runs: usize,
    },
    /// One peer at given rates: to look at something by hand.
    Trial {
        #[command(flatten)]
        machine: Machine,
        /// kernel-forward, kernel-filter, kernel-masquerade, kernel-flowtable, kernel-balance, testpmd, xdp-redirect, xdp-fib,
        /// router, chain-N, filter, stateful, balancer.
        #[arg(long, value_parser = peer)]
        peer: Vec<Peer>,
        /// Which core pays for what: own-core or one-core.
        #[arg(long, value_parser = placement, default_value = "one-core")]
        placement: Placement,
        /// Throughway's fast path.
        #[arg(long)]
        fast_path: bool,
        /// Which packets: small (64 bytes, IPv4), ipv6, imix.
        #[arg(long, value_parser = packets, default_value = "small")]
        packets: Packets,
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
        /// Every packet opens a connection. The kernel's table has room for 262,144 of them unless told otherwise, the warming up
        /// included: keep trials short.
        #[arg(long)]
        all_new: bool,
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
    /// Who sends: `kernel` (its pktgen, where it can send what is asked for), `own`, or the kernel's where it is there: `auto`.
    #[arg(long, value_parser = sender, default_value = "auto", value_name = "auto|kernel|own")]
    pub(crate) generator: Sender,
    /// The generator's core, that of what is measured and, on a machine with more than two, one for the sink. Without the last, the device
    /// pays for it: half of what AF_XDP takes to send.
    #[arg(long, value_parser = cores, default_value = "0,1", value_name = "GENERATOR,DEVICE[,SINK]")]
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

fn seconds(text: &str) -> std::result::Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "between 0.1 and 3600".to_owned())
}

fn sender(text: &str) -> std::result::Result<Sender, String> {
    match text {
        "auto" => Ok(Sender::Auto),
        "kernel" => Ok(Sender::Kernel),
        "own" => Ok(Sender::Own),
        _ => Err("auto, kernel or own".to_owned()),
    }
}

fn packets(text: &str) -> std::result::Result<Packets, String> {
    let found = Packets::ALL.into_iter().find(|packets| packets.key() == text);
    found.ok_or_else(|| "small, ipv6 or imix".to_owned())
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
    let all: Option<Vec<usize>> = text.split(',').map(|core| core.parse().ok()).collect();
    match all.as_deref() {
        Some(&[generator, device]) if generator != device => Ok(Cores { generator, device, sink: None }),
        Some(&[generator, device, sink]) if generator != device && sink != device => {
            Ok(Cores { generator, device, sink: Some(sink) })
        }
        _ => Err("two or three cores, the device's its own, such as 0,1 or 0,1,2".to_owned()),
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
    if nice == 0 || !Path::new(path).exists() {
        return Ok(());
    }
    // Fails for the leader of a group, who has a session or shell of its own already.
    let _ = nix::unistd::setsid();
    std::fs::write(path, nice.to_string()).map_err(|source| BenchError::file(path, source))
}

/// Checks that the machine lets us, and makes this process stand out.
pub(crate) fn prepare(machine: &Machine) -> Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        return Err(BenchError::NotRoot);
    }
    stand_out(machine.nice)
}

/// Set when somebody wants us to end.
pub(crate) fn interrupted() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|source| BenchError::file("signals", source))?;
    }
    Ok(stop)
}

impl Machine {
    fn pktgen(&self) -> &str {
        self.pktgen.as_ref().unwrap_or(&self.throughway)
    }
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run { machine, short, runs, seconds, minutes, only, report, baseline, write, micro } => {
            let plan = if short { Plan::short(runs.unwrap_or(3)) } else { Plan::whole(runs.unwrap_or(5)) };
            let time = minutes.map(|minutes| Duration::from_secs(u64::from(minutes) * 60));
            let plan = Plan { seconds: seconds.unwrap_or(plan.seconds), ..plan.only(&only) };
            measure(&machine, &plan, time, &report, micro.as_deref()).and_then(|results| match baseline {
                Some(file) => ratios(&results, &file, write),
                None => Ok(true),
            })
        }
        Command::Nic { machine, input, output, peer } => {
            nic::watch(&machine, peer, &input, &output).map(|()| true)
        }
        Command::Count { bench, committed, write, report } => count(&bench, &committed, write, &report),
        Command::Early { machine, elements, flows, seconds, runs } => {
            compare::early(&machine, elements, flows, seconds, runs).map(|()| true)
        }
        Command::Tcp { machine, streams, seconds, runs } => {
            compare::tcp(&machine, &streams, seconds, runs).map(|()| true)
        }
        Command::Trial {
            machine,
            peer,
            placement,
            fast_path,
            packets,
            rate,
            seconds,
            flows,
            runs,
            stamp,
            all_new,
            then,
        } => {
            let peers = peer;
            let rates = rate;
            let wanted = Wanted {
                peers,
                placement,
                fast_path,
                packets,
                rates,
                seconds,
                flows,
                runs,
                stamp,
                all_new,
                then,
            };
            trial::trials(&machine, &wanted).map(|()| true)
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "throughway-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(
    machine: &Machine,
    plan: &Plan,
    time: Option<Duration>,
    into: &Path,
    from: Option<&Path>,
) -> Result<crate::results::Results> {
    prepare(machine)?;
    let stop = interrupted()?;
    let generator = Generator::new(machine.pktgen(), machine.cores, machine.generator)?;
    let limit = time.map_or_else(String::new, |time| format!(", of which {} are there", time.as_secs() / 60));
    say(&format!("{} runs: some {:.0} minutes{limit}", plan.runs, plan.time().as_secs_f64() / 60.0));
    let runner = Runner {
        binary: &machine.throughway,
        generator: &generator,
        cores: machine.cores,
        nice: machine.nice,
        prefix: &machine.prefix,
        workers: &machine.workers,
        stop,
        deadline: time.and_then(|time| Instant::now().checked_add(time)),
    };
    let mut results = runner.run(plan)?;
    results.micro = from.map(micro::gather).unwrap_or_default();
    // Counted by an earlier command, or not at all.
    results.instructions = baseline::read(&into.join("instructions.json")).unwrap_or_default();
    report::write(&results, into)?;
    say(&format!("\n{}", report::markdown(&results)));
    say(&format!("written: {}", into.join("report.md").display()));
    Ok(results)
}

/// Compares, or writes; whether all is well.
fn ratios(results: &crate::results::Results, file: &Path, write: bool) -> Result<bool> {
    let now = results.ratios();
    if write {
        let ratios =
            now.iter().map(|(name, figure)| (name.clone(), (figure.median * 1000.0).round() / 1000.0));
        let measured = results.machine.text();
        baseline::write(file, &Ratios { tolerance: 0.25, measured, ratios: ratios.collect() })?;
        return Ok(true);
    }
    let committed: Ratios = baseline::read(file)?;
    Ok(judge("Ratios to the kernel", &committed.compare(&now)))
}

fn count(bench: &str, file: &Path, write: bool, report: &Path) -> Result<bool> {
    let (now, compiler) = (instructions::count(bench, report)?, instructions::compiler()?);
    let rows: std::collections::BTreeMap<_, _> =
        now.into_iter().map(|(name, count)| (name, (count * 10.0).round() / 10.0)).collect();
    baseline::write(&report.join("instructions.json"), &rows)?;
    if write {
        baseline::write(file, &Instructions { tolerance: 0.03, compiler, rows })?;
        return Ok(true);
    }
    let committed: Instructions = baseline::read(file)?;
    let holds = judge("Instructions a packet", &committed.compare(&rows));
    if committed.compiler == compiler {
        return Ok(holds);
    }
    say(&format!("not held: counted with {compiler}, committed with {}", committed.compiler));
    Ok(true)
}

fn judge(title: &str, verdicts: &[Verdict]) -> bool {
    say(title);
    for verdict in verdicts {
        say(&format!("  {}", verdict.text()));
    }
    verdicts.iter().all(|verdict| verdict.holds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_has_a_core_of_its_own() {
        assert_eq!(cores("0,1"), Ok(Cores { generator: 0, device: 1, sink: None }));
        assert_eq!(cores("2,1,3"), Ok(Cores { generator: 2, device: 1, sink: Some(3) }));
        for wrong in ["0", "1,1", "0,1,1", "0,1,2,3", "a,b", ""] {
            assert!(cores(wrong).is_err(), "{wrong}");
        }
    }
}
