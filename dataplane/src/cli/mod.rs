//! The command line. Exit codes: 0 done, 1 refused or failed, 2 wrong usage.

mod capture;
mod client;
mod doctor;
mod offline;
mod output;
mod pktgen;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use throughway_config::value::Protocol;

/// The NFV data plane: XDP steering, AF_XDP workers, chains of network functions from one YAML file.
#[derive(Parser, Debug)]
#[command(name = "throughway", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the data plane in the foreground (the service does this).
    Run {
        /// The configuration file.
        config: PathBuf,
        /// Overrides `api.socket`.
        #[arg(long, value_name = "SOCKET")]
        api: Option<PathBuf>,
        /// Overrides `metrics.listen`.
        #[arg(long, value_name = "ADDRESS:PORT")]
        metrics: Option<SocketAddr>,
    },
    /// Validate a configuration and print what it would build.
    Check {
        /// The configuration file.
        config: PathBuf,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of the configuration, for editors.
    Schema,
    /// Print what changes between two configurations.
    Diff {
        /// The configuration as it is.
        old: PathBuf,
        /// The configuration as it would be.
        new: PathBuf,
    },
    /// Let the running service read its configuration again; waits, and prints what changed.
    Reload {
        #[command(flatten)]
        api: Api,
    },
    /// End sessions of firewalls and NATs before their time: their next packets are judged anew.
    Sessions {
        #[command(subcommand)]
        command: Sessions,
    },
    /// Show the running service's state.
    Show {
        /// What to show.
        what: What,
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        routes: Routes,
        #[command(flatten)]
        api: Api,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Look at packets of the running service: as they come, as they leave, and why others do not.
    ///
    /// Each packet is written as it was received and as it was sent, or with the reason for which it was dropped and the function
    /// that dropped it. While a capture runs, flows that it asks for stay out of the fast path (`show flows` says so). Not seen is
    /// what the XDP program drops by itself (malformed packets, sets with `early`) or leaves to the kernel: `show drops` counts it.
    Capture(capture::Capture),
    /// Like `capture`, and tell for each packet what every function of its chain made of it.
    ///
    /// Traced packets are judged by their chain, not by the flow cache.
    Trace(capture::Capture),
    /// Take a load balancer's backend out of service without losing a connection, and back in.
    Backend {
        #[command(subcommand)]
        command: BackendCommand,
    },
    /// Run the chains over capture files: no root, no NIC.
    Replay(Replay),
    /// Tell why packets go where they go, function by function: offline, no root, no NIC.
    Explain(Explain),
    /// Network namespaces to play in.
    Lab {
        #[command(subcommand)]
        command: Lab,
    },
    /// Make and count test traffic.
    Pktgen {
        #[command(subcommand)]
        command: pktgen::Pktgen,
    },
    /// What this host, kernel and NIC can do, and what would fall back.
    Doctor {
        /// A configuration to check the host against.
        config: Option<PathBuf>,
    },
    /// Take the XDP program of a service that died off an interface, and put its offloads back.
    Detach {
        /// The interface's device.
        device: String,
        #[command(flatten)]
        api: Api,
    },
}

#[derive(Args, Debug)]
struct Api {
    /// The service's API socket.
    #[arg(long = "api", value_name = "SOCKET", default_value = throughway_config::Api::DEFAULT_SOCKET)]
    socket: PathBuf,
}

#[derive(Subcommand, Debug)]
enum Sessions {
    /// Those that all given conditions hold for; with --all, every session.
    Clear {
        #[command(flatten)]
        filter: Filter,
        /// Every session: has to be said.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        api: Api,
    },
}

#[derive(Subcommand, Debug)]
enum BackendCommand {
    /// Give a backend no new connections; those that it has go on.
    Drain {
        /// The load balancer.
        function: String,
        /// ADDRESS or ADDRESS:PORT; SERVICE/ before it for that service alone.
        backend: String,
        /// Until so long from now; without it, until it is undone. Written as in the configuration, such as 5m.
        #[arg(long = "for", value_name = "DURATION")]
        period: Option<throughway_config::value::Duration>,
        #[command(flatten)]
        api: Api,
    },
    /// Give a backend new connections again.
    Undrain {
        /// The load balancer.
        function: String,
        /// ADDRESS or ADDRESS:PORT; SERVICE/ before it for that service alone.
        backend: String,
        #[command(flatten)]
        api: Api,
    },
}

/// Which of the flows to show.
#[derive(Args, Debug)]
struct Filter {
    /// Source or destination address.
    #[arg(long)]
    address: Option<IpAddr>,
    /// Source or destination port.
    #[arg(long)]
    port: Option<u16>,
    /// Upper-layer protocol: a name such as `tcp`, or a number.
    #[arg(long)]
    protocol: Option<Protocol>,
    /// The interface on which packets come in.
    #[arg(long)]
    interface: Option<String>,
    /// The function whose sessions are meant.
    #[arg(long)]
    function: Option<String>,
    /// The load balancer's service whose backends are meant.
    #[arg(long)]
    service: Option<String>,
    /// Not more lines than this (100).
    #[arg(long)]
    limit: Option<usize>,
}

impl From<Filter> for crate::control::show::Options {
    fn from(filter: Filter) -> Self {
        let Filter { address, port, protocol, interface, function, service, limit } = filter;
        let protocol = protocol.map(|protocol| protocol.get());
        Self { address, port, protocol, interface, function, service, limit }
    }
}

/// Which routes; for `show routes`.
#[derive(Args, Debug)]
struct Routes {
    /// Explains where packets to this address go: which route is used, and why not the others.
    #[arg(long, value_name = "ADDRESS")]
    lookup: Option<IpAddr>,
    /// Of this router only.
    #[arg(long, value_name = "NAME")]
    router: Option<String>,
    /// Prefixes within this one only.
    #[arg(long, value_name = "PREFIX", value_parser = client::prefix)]
    within: Option<throughway_packet::Prefix>,
    /// All of them: without it, the first thousand.
    #[arg(long)]
    all: bool,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    /// Ports: device, granted XDP and zero-copy mode, packets, bytes.
    Interfaces,
    /// Threads: core, rounds, idle share.
    Workers,
    /// Chains: packets and bytes in and out.
    Chains,
    /// Functions: packets judged and ended.
    Functions,
    /// The routers' tables.
    Routes,
    /// The neighbours.
    Neighbours,
    /// Why packets died, and what the XDP program decided alone.
    Drops,
    /// What the workers' flow caches know (--address, --port, --protocol, --interface, --limit).
    Flows,
    /// The firewalls' rules, with what they have counted.
    Rules,
    /// The firewalls' sets: what is in them, and what was dropped early for them.
    Sets,
    /// The sessions of firewalls and NATs (--function, --address, --port, --protocol, --limit).
    Sessions,
    /// The NATs' pools and their addresses: ports in use and free, blocks, hosts, refusals (--function, --address, --limit).
    Pools,
    /// The load balancers' backends: state and why, connections, packets, bytes.
    Backends,
    /// The sessions that were taken over from the last instance at start, and why others were not.
    Restart,
    /// What the data plane knows of the host, as `replay --host` reads it.
    Host,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            What::Interfaces => "interfaces",
            What::Workers => "workers",
            What::Chains => "chains",
            What::Functions => "functions",
            What::Routes => "routes",
            What::Neighbours => "neighbours",
            What::Drops => "drops",
            What::Flows => "flows",
            What::Rules => "rules",
            What::Sets => "sets",
            What::Sessions => "sessions",
            What::Pools => "pools",
            What::Backends => "backends",
            What::Restart => "restart",
            What::Host => "host",
        }
    }
}

#[derive(Args, Debug)]
struct Replay {
    /// The configuration file.
    #[arg(short, long)]
    config: PathBuf,
    /// Packets for an interface, from a pcap or pcapng file. May be given several times.
    #[arg(long = "in", value_name = "INTERFACE=FILE", required = true)]
    input: Vec<String>,
    /// The folder for what is sent, one pcapng file per interface.
    #[arg(long = "out", value_name = "FOLDER")]
    output: PathBuf,
    /// The host's addresses, routes and neighbours, as `throughway show host --json` prints them.
    #[arg(long, value_name = "FILE")]
    host: Option<PathBuf>,
    /// For programs.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct Explain {
    /// The configuration file.
    #[arg(short, long)]
    config: PathBuf,
    /// A packet, such as `lan tcp 192.0.2.9:1234 > 198.51.100.1:443 syn`. May be given several times: later ones find the
    /// sessions that earlier ones have opened.
    #[arg(short, long = "packet", value_name = "PACKET", required = true)]
    packets: Vec<String>,
    /// The host's addresses, routes and neighbours, as `throughway show host --json` prints them.
    #[arg(long, value_name = "FILE")]
    host: Option<PathBuf>,
    /// For programs.
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand, Debug)]
enum Lab {
    /// Make the namespaces: client, box, server-a, server-b.
    Up {
        /// Queues of every device.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=2))]
        queues: u32,
        /// Also run Throughway in the box, with this configuration.
        #[arg(long, value_name = "CONFIG")]
        run: Option<PathBuf>,
    },
    /// Run a command in one of them.
    Exec {
        /// client, box, a or b.
        host: String,
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Remove the namespaces and what runs in them.
    Down,
    /// Show the whole thing at work on real traffic, and remove it again.
    Demo {
        /// The configuration to run in the box.
        #[arg(default_value = "config/examples/edge.yaml")]
        config: PathBuf,
    },
}

/// A failure that ends the command: what to print, and the exit code 1.
pub(crate) type Failure = Box<dyn std::error::Error>;

/// Runs the command; the process's exit code.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
            let _ = error.print();
            return code;
        }
    };
    match dispatch(arguments.command) {
        Ok(code) => code,
        Err(failure) => {
            output::complain(&format!("error: {}", chain_of_causes(failure.as_ref())));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Run { config, api, metrics } => {
            crate::app::run(&config, crate::app::Overrides { api, metrics })
        }
        Command::Check { config, json } => offline::check(&config, json),
        Command::Schema => offline::schema(),
        Command::Diff { old, new } => offline::diff(&old, &new),
        Command::Reload { api } => client::reload(&api.socket),
        Command::Show { what: What::Routes, routes, api, json, .. } => {
            client::routes(&routes, &api.socket, json)
        }
        Command::Show { what, filter, routes, api, json } => {
            if routes.lookup.is_some() || routes.router.is_some() || routes.within.is_some() || routes.all {
                output::complain("error: --lookup, --router, --within and --all are for `show routes`");
                return Ok(ExitCode::from(2));
            }
            client::show(what.name(), &filter.into(), &api.socket, json)
        }
        Command::Sessions { command: Sessions::Clear { filter, all, api } } => {
            if filter.service.is_some() {
                output::complain("error: --service is for `show backends`");
                return Ok(ExitCode::from(2));
            }
            let options = filter.into();
            if options == crate::control::show::Options::default() && !all {
                output::complain(
                    "error: say which sessions (--function, --address, --port, --protocol), or --all",
                );
                return Ok(ExitCode::from(2));
            }
            client::clear_sessions(&options, &api.socket)
        }
        Command::Backend { command: BackendCommand::Drain { function, backend, period, api } } => {
            let period = period.map(throughway_config::value::Duration::get);
            client::drain(&function, &backend, true, period, &api.socket)
        }
        Command::Backend { command: BackendCommand::Undrain { function, backend, api } } => {
            client::drain(&function, &backend, false, None, &api.socket)
        }
        Command::Capture(wanted) => capture::capture(&wanted, false),
        Command::Trace(wanted) => capture::capture(&wanted, true),
        Command::Replay(replay) => offline::replay(&replay),
        Command::Explain(explain) => offline::explain(&explain),
        Command::Lab { command } => offline::lab(command),
        Command::Pktgen { command } => pktgen::pktgen(command),
        Command::Doctor { config } => doctor::doctor(config.as_deref()),
        Command::Detach { device, api } => offline::detach(&device, &api.socket),
    }
}

fn chain_of_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        // Some errors already print their cause.
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = error.source();
    }
    text
}
