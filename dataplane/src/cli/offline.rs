//! Commands that need no running service.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use throughway_config::Config;

use super::output::{columns, complain, print, table};
use super::{Failure, Lab, Replay};
use crate::host::HostFacts;
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
    let names = |ids: &[throughway_config::FunctionId]| -> Vec<String> {
        ids.iter().map(|id| config.function(*id).name.to_string()).collect()
    };
    let interfaces = config.interfaces.iter().map(|interface| {
        json!({
            "interface": interface.name.to_string(),
            "device": interface.device.to_string(),
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
    let whole = json!({
        "interfaces": interfaces.collect::<Vec<_>>(),
        "workers": config.workers.cores.iter().enumerate().map(|(number, core)| json!({ "worker": number, "core": core })).collect::<Vec<_>>(),
        "functions": functions.collect::<Vec<_>>(),
        "chains": chains.collect::<Vec<_>>(),
    });
    if as_json {
        print(&format!("{whole:#}"));
    } else {
        let parts = ["interfaces", "workers", "functions", "chains"];
        let text: Vec<_> = parts.iter().filter_map(|part| whole.get(part)).map(table).collect();
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
    let mut captures = Vec::new();
    for input in &arguments.input {
        let Some((interface, file)) = input.split_once('=') else {
            complain(&format!("error: --in {input}: write it as INTERFACE=FILE"));
            return Ok(ExitCode::from(2));
        };
        captures.push((interface.to_owned(), file.into()));
    }
    let host = match &arguments.host {
        None => {
            complain("note: no --host file: addresses, kernel routes and neighbours are unknown");
            let names = config.interfaces.iter().map(|port| (port.name.to_string(), port.device.to_string()));
            HostFacts::invented(names)
        }
        Some(path) => {
            let text =
                std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            let facts: HostFacts =
                serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
            let theirs = facts.ports.iter().map(|port| port.name.as_str());
            if !theirs.eq(config.interfaces.iter().map(|port| &*port.name)) {
                return Err(format!(
                    "{}: its ports are not the interfaces of the configuration, in order",
                    path.display()
                )
                .into());
            }
            facts
        }
    };
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

/// Takes a dead service's XDP program off a device.
pub(super) fn detach(device: &str) -> Result<ExitCode, Failure> {
    let mirror = throughway_kernel::Mirror::open()?;
    let link =
        mirror.state().link_named(device).ok_or_else(|| format!("there is no device `{device}` here"))?;
    let found = throughway_xdp::detach_leftover(link.index, device)?;
    print(if found { "detached" } else { "no program of ours is attached" });
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
