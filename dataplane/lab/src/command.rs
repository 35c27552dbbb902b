//! `throughway lab up|exec|down`: the lab for a person to play in.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::os::unix::process::CommandExt;
use std::path::Path;

use crate::error::LabError;
use crate::lab::{Lab, LabOptions};
use crate::service::{METRICS, Service};
use crate::topology::Host;

/// The prefix of the lab for people: its namespaces are `throughway-client` and so on.
pub const PREFIX: &str = "throughway";

/// Brings the lab up and leaves it. With a `config`, `binary` runs it in the box until the lab is taken down.
/// Returns what to tell the user.
pub fn up(queues: u32, binary: &Path, config: Option<&Path>) -> Result<String, LabError> {
    if Lab::attach(PREFIX).is_ok() {
        return Err(LabError::Busy { prefix: PREFIX.to_owned() });
    }
    let lab = Lab::up(&LabOptions { queues, ..LabOptions::new(PREFIX) })?;
    let mut text = String::from("The lab is up:\n\n");
    for host in Host::ALL {
        let [ipv4, ipv6] = host.addresses();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:<8}{:<22}{ipv4:<12}{ipv6}", host.name(), lab.namespace(host));
    }
    text.push_str("\nThe box does not forward by itself: ");
    match config {
        None => {
            text.push_str("run Throughway in it, in another terminal:\n\n");
            let _ = writeln!(
                text,
                "  {} lab exec box -- {} run config/examples/edge.yaml",
                binary.display(),
                binary.display()
            );
        }
        Some(config) => {
            let service = Service::start(&lab, binary, config)?;
            let _ = writeln!(text, "Throughway runs in it with {}.\n", config.display());
            let _ =
                writeln!(text, "  {} show interfaces --api {}", binary.display(), service.socket().display());
            let _ = writeln!(text, "  {} lab exec box -- curl http://{METRICS}/metrics", binary.display());
            let _ = writeln!(text, "  its log: {}", lab.directory().join("throughway.log").display());
            service.leave();
        }
    }
    let _ = writeln!(text, "  {} lab exec client -- ping {}", binary.display(), Host::ServerA.ipv4());
    let _ =
        writeln!(text, "  {} lab exec client -- traceroute -6 {}", binary.display(), Host::ServerB.ipv6());
    let _ = write!(text, "\nTake it down with: {} lab down", binary.display());
    lab.keep();
    Ok(text)
}

/// Becomes `command` in the namespace of `host`; returns only when that fails.
pub fn exec(host: &str, command: &[String]) -> Result<Infallible, LabError> {
    let host: Host = host.parse()?;
    if !nix::unistd::Uid::effective().is_root() {
        return Err(LabError::NotRoot);
    }
    let lab = Lab::attach(PREFIX)?;
    let argv: Vec<&str> = command.iter().map(String::as_str).collect();
    let mut command = lab.command(host, &argv)?;
    let source = command.exec();
    Err(LabError::io("cannot run", command.get_program(), source))
}

/// Ends what runs in the lab and removes it. Returns what to tell the user.
pub fn down() -> Result<String, LabError> {
    let text = if Lab::down(PREFIX)? { "The lab is removed." } else { "There was no lab." };
    Ok(text.to_owned())
}
