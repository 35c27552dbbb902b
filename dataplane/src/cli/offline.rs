//! Commands that need no running service.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::json;
use throughway_config::Config;
use throughway_kernel::device::{Devices, Saved};
use throughway_packet::PortId;
use throughway_vnf::{Context, Now};

use super::output::{columns, complain, print, table};
use super::{Explain, Failure, Lab, Replay};
use crate::app::early::names as early_names;
use crate::app::remembered::Remembered;
use crate::assemble::early::Plan;
use crate::assemble::findings::findings;
use crate::assemble::state::States;
use crate::assemble::{Blueprint, Figures};
use crate::explain;
use crate::host::{HostFacts, NeighbourFacts};
use crate::replay::{self, Inputs};

/// Loads a configuration; prints its warnings; what is wrong with it is the failure.
fn load(path: &Path) -> Result<Config, ExitCode> {
    match Config::load(path) {
        Ok((config, warnings)) => {
            for warning in &warnings {
                complain(&warning.to_string());
            }
            Ok(config)
        }
        Err(errors) => {
            complain(&errors.to_string());
            Err(ExitCode::FAILURE)
        }
    }
}

/// Validates, and prints what would be built.
pub(super) fn check(path: &Path, as_json: bool) -> Result<ExitCode, Failure> {
    let config = match load(path) {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    for function in &config.functions {
        if let throughway_config::FunctionKind::Firewall(firewall) = &function.kind {
            for line in findings(&function.name, firewall) {
                complain(&format!("warning: {line}"));
            }
        }
    }
    let plan = match Plan::of(&config) {
        Ok(plan) => plan,
        Err(error) => {
            complain(&format!("error: {}: {error}", path.display()));
            return Ok(ExitCode::FAILURE);
        }
    };
    let names = |ids: &[throughway_config::FunctionId]| -> Vec<String> {
        ids.iter().map(|id| config.function(*id).name.to_string()).collect()
    };
    let interfaces = config.interfaces.iter().map(|interface| {
        json!({
            "interface": interface.name.to_string(),
            "device": interface.device.to_string(),
            "vlan": interface.vlan.as_ref().map(ToString::to_string),
            "xdp": interface.xdp.to_string(),
            "zero_copy": interface.zero_copy.to_string(),
            "checksum": interface.checksum.to_string(),
            "on_failure": interface.on_failure.to_string(),
        })
    });
    let functions = config
        .functions
        .iter()
        .map(|function| json!({ "function": function.name.to_string(), "kind": function.kind.word() }));
    let chains = config.chains.iter().map(|chain| {
        let from: Vec<_> = chain.from.iter().map(|id| config.interface(*id).name.to_string()).collect();
        json!({ "chain": chain.name.to_string(), "from": from, "run": names(&chain.run) })
    });
    let early = plan.sets.iter().map(|set| {
        let from = early_names(&config, set.interfaces);
        json!({ "early_set": set.set, "function": set.function, "from": from, "prefixes": set.prefixes })
    });
    let whole = json!({
        "interfaces": interfaces.collect::<Vec<_>>(),
        "workers": config.workers.cores.iter().enumerate().map(|(number, core)| json!({ "worker": number, "core": core })).collect::<Vec<_>>(),
        "functions": functions.collect::<Vec<_>>(),
        "chains": chains.collect::<Vec<_>>(),
        "early": early.collect::<Vec<_>>(),
    });
    if as_json {
        print(&format!("{whole:#}"));
    } else {
        let parts = ["interfaces", "workers", "functions", "chains", "early"];
        let parts = parts.iter().filter_map(|part| whole.get(part));
        let there = parts.filter(|part| part.as_array().is_none_or(|rows| !rows.is_empty()));
        let text: Vec<_> = there.map(table).collect();
        print(&format!("{} is valid\n\n{}", path.display(), text.join("\n")));
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the JSON Schema.
pub(super) fn schema() -> Result<ExitCode, Failure> {
    print(&throughway_config::schema());
    Ok(ExitCode::SUCCESS)
}

/// Prints what changes from one configuration to another.
pub(super) fn diff(old: &Path, new: &Path) -> Result<ExitCode, Failure> {
    let (old, new) = match (load(old), load(new)) {
        (Ok(old), Ok(new)) => (old, new),
        (Err(code), _) | (_, Err(code)) => return Ok(code),
    };
    let changes = Config::changes(&old, &new);
    if changes.is_empty() {
        print("nothing changes");
    }
    for change in &changes {
        print(&format!("{change}{}", if change.needs_restart { "  (needs a restart)" } else { "" }));
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the chains over captures.
pub(super) fn replay(arguments: &Replay) -> Result<ExitCode, Failure> {
    let config = match load(&arguments.config) {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    if !Plan::of(&config)?.sets.is_empty() {
        complain(
            "note: sets with `early` are the XDP program's, which is not here: their packets walk the chains",
        );
    }
    let mut captures = Vec::new();
    for input in &arguments.input {
        let Some((interface, file)) = input.split_once('=') else {
            complain(&format!("error: --in {input}: write it as INTERFACE=FILE"));
            return Ok(ExitCode::from(2));
        };
        captures.push((interface.to_owned(), file.into()));
    }
    let host = host(&config, arguments.host.as_deref())?;
    let inputs = Inputs { captures, output: arguments.output.clone(), host };
    let summary = replay::replay(&config, &inputs)?;
    if arguments.json {
        let interfaces = summary.interfaces.iter();
        let interfaces =
            interfaces.map(|(name, read, sent)| json!({ "interface": name, "read": read, "sent": sent }));
        let drops =
            summary.drops.iter().map(|(reason, packets)| json!({ "reason": reason, "packets": packets }));
        let whole = json!({
            "interfaces": interfaces.collect::<Vec<_>>(),
            "drops": drops.collect::<Vec<_>>(),
            "originated": summary.originated,
        });
        print(&format!("{whole:#}"));
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = vec![["INTERFACE", "READ", "SENT"].map(str::to_owned).to_vec()];
    rows.extend(
        summary
            .interfaces
            .iter()
            .map(|(name, read, sent)| vec![name.clone(), read.to_string(), sent.to_string()]),
    );
    print(&columns(&rows));
    for (reason, packets) in &summary.drops {
        print(&format!("dropped {packets}: {reason}"));
    }
    print(&format!("originated {}", summary.originated));
    Ok(ExitCode::SUCCESS)
}

/// What is known of the host: from a file, or invented.
fn host(config: &Config, path: Option<&Path>) -> Result<HostFacts, Failure> {
    let Some(path) = path else {
        complain("note: no --host file: addresses, kernel routes and neighbours are unknown");
        let names = config.interfaces.iter().map(|port| (port.name.to_string(), port.device.to_string()));
        let mut facts = HostFacts::invented(names);
        for (port, (interface, known)) in (0u16..).zip(config.interfaces.iter().zip(&mut facts.ports)) {
            let Some(vlan) = &interface.vlan else { continue };
            known.addresses.extend(vlan.addresses.iter().map(|given| (given.address, given.len)));
            facts.local.extend(vlan.addresses.iter().map(|given| given.address));
            facts.neighbours.extend(vlan.neighbours.iter().map(|(address, mac)| NeighbourFacts {
                port,
                address: *address,
                mac: mac.0,
                state: "permanent".to_owned(),
            }));
        }
        return Ok(facts);
    };
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let facts: HostFacts =
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let theirs = facts.ports.iter().map(|port| port.name.as_str());
    if !theirs.eq(config.interfaces.iter().map(|port| &*port.name)) {
        let path = path.display();
        return Err(format!("{path}: its ports are not the interfaces of the configuration, in order").into());
    }
    Ok(facts)
}

/// Tells the way of packets.
pub(super) fn explain(arguments: &Explain) -> Result<ExitCode, Failure> {
    let config = match load(&arguments.config) {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    let facts = host(&config, arguments.host.as_deref())?;
    let states = States::new(0, Arc::default());
    let mut program = Blueprint::new(&config, &facts, &states)?.program(0, &mut Figures::default());
    let plan = Plan::of(&config)?;
    let mut all = Vec::new();
    for (number, text) in arguments.packets.iter().enumerate() {
        let written = explain::packet::read(text).map_err(|misread| format!("--packet: {misread}"))?;
        let port = config.interfaces.iter().position(|interface| *interface.name == *written.interface);
        let port = port.ok_or_else(|| format!("--packet: there is no interface `{}`", written.interface))?;
        // A second apart.
        let context = Context { now: Now((number as u64 + 1) * 1_000_000_000) };
        let port = PortId(port as u16);
        let told = explain::dropped_early(&plan, &config, port, &written.frame)
            .unwrap_or_else(|| explain::explain(&mut program, &config, port, &written.frame, &context));
        all.push((text, told));
    }
    if arguments.json {
        let rows = all.iter().map(|(packet, told)| {
            let steps = told.steps.iter().map(|step| {
                json!({ "function": step.function, "kind": step.kind, "reasons": step.reasons, "changes": step.changes })
            });
            let steps: Vec<_> = steps.collect();
            json!({ "packet": packet, "chain": told.chain, "steps": steps, "verdict": told.verdict })
        });
        print(&format!("{:#}", rows.collect::<serde_json::Value>()));
        return Ok(ExitCode::SUCCESS);
    }
    for (packet, told) in &all {
        let mut text = format!("{packet}\n");
        if let Some(chain) = &told.chain {
            text.push_str(&format!("  chain {chain}\n"));
        }
        for step in &told.steps {
            text.push_str(&format!("  {} ({})\n", step.function, step.kind));
            for line in step.reasons.iter().chain(&step.changes) {
                text.push_str(&format!("    {line}\n"));
            }
        }
        print(&format!("{text}  {}\n", told.verdict));
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes a dead service's XDP program off a device, and puts the offloads back that the service with this API socket had switched.
pub(super) fn detach(device: &str, socket: &Path) -> Result<ExitCode, Failure> {
    let mirror = throughway_kernel::Mirror::open()?;
    let link =
        mirror.state().link_named(device).ok_or_else(|| format!("there is no device `{device}` here"))?;
    // One that is about to start has the offloads as it needs them, and the device not yet.
    let is_served = UnixStream::connect(socket).is_ok();
    let mut remembered = Remembered::read(socket);
    // What is there is true, whatever becomes of this.
    remembered.started();
    let known = remembered.program(link.index);
    let Some(taken_off) = throughway_xdp::detach_leftover(link.index, device, known)? else {
        print("no program of ours is attached");
        return Ok(ExitCode::SUCCESS);
    };
    let socket = socket.display();
    // By its id: a device of another network namespace may have the same number.
    let said = if known != Some(taken_off) {
        format!(
            "its offloads stay as they are: the service of {socket} did not attach it, --api names another"
        )
    } else if is_served {
        format!("its offloads stay as they are: a service answers at {socket}")
    } else {
        let before = remembered.offloads(link.index);
        let state = |(name, on): &(String, bool)| format!("{name} {}", if *on { "on" } else { "off" });
        let switched: Vec<_> = before.iter().map(state).collect();
        Devices::open()?.restore(&Saved { ifindex: link.index, outcomes: Vec::new(), before })?;
        remembered.forget([link.index])?;
        match switched.as_slice() {
            [] => "it had switched no offload".to_owned(),
            some => format!("offloads as they were before: {}", some.join(", ")),
        }
    };
    print(&format!("detached; {said}"));
    Ok(ExitCode::SUCCESS)
}

/// Namespaces to play in.
pub(super) fn lab(command: Lab) -> Result<ExitCode, Failure> {
    match command {
        Lab::Up { queues, run } => {
            print(&throughway_lab::command::up(queues, &std::env::current_exe()?, run.as_deref())?);
        }
        Lab::Exec { host, command } => match throughway_lab::command::exec(&host, &command)? {},
        Lab::Down => print(&throughway_lab::command::down()?),
        Lab::Demo { config } => {
            throughway_lab::demo::demo(&std::env::current_exe()?, &config, &mut std::io::stdout())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
