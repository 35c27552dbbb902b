//! `throughway lab demo`: real traffic through Throughway, in namespaces that are gone afterwards.

mod report;
mod traffic;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::error::LabError;
use crate::lab::{Lab, LabOptions};
use crate::metrics::Page;
use crate::service::Service;
use crate::tools::find;
use crate::topology::Host;
use crate::web::FileServer;

/// The prefix of the demo's namespaces.
pub const PREFIX: &str = "throughway-demo";
/// The size of the file that is fetched, in bytes.
const FILE: u64 = 100_000_000;

/// Brings a lab up, runs `binary run config` in its box, sends traffic through it, writes a report to `out` and removes
/// everything: at the end, after a failure, and after Ctrl-C.
pub fn demo(binary: &Path, config: &Path, out: &mut dyn Write) -> Result<(), LabError> {
    for program in ["ip", "ethtool", "ping", "traceroute", "curl", "sha256sum", "iperf3"] {
        find(program)?;
    }
    let config = config.canonicalize().map_err(|source| LabError::io("cannot read", config, source))?;
    // From now on a signal sets a flag; every wait looks at it, and all guards are dropped on the way out.
    let interrupt = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&interrupt))
            .map_err(|source| LabError::io("cannot watch", "signals", source))?;
    }
    let begun = Instant::now();
    let mut lab = Lab::up(&LabOptions::new(PREFIX))?;
    lab.stop_on(interrupt);
    let mut service = Service::start(&lab, binary, &config)?;
    say(
        out,
        &format!(
            "Throughway runs {} between four namespaces; the kernel forwards nothing.\n",
            config.display()
        ),
    );

    let outcome = show_it(&lab, &service, out);
    if outcome.is_err() && service.process().ended().is_some() {
        say(out, &format!("\nthroughway ended. Its log:\n{}", service.log()));
    }
    outcome?;
    let status = service.stop()?;
    if !status.success() {
        let message = format!("it ended with {status}\n{}", service.log());
        return Err(LabError::Unexpected { step: "stop".to_owned(), message });
    }
    drop(service);
    drop(lab);
    say(out, &format!("\nEverything is removed again. {:.0} s.", begun.elapsed().as_secs_f64()));
    Ok(())
}

fn show_it(lab: &Lab, service: &Service, out: &mut dyn Write) -> Result<(), LabError> {
    let _web = FileServer::start(lab, Host::ServerA, FILE)?;
    let _iperf = lab.spawn(Host::ServerA, &["iperf3", "--server"], "iperf3.log")?;
    for step in traffic::steps() {
        let seen = (step.run)(lab)?;
        say(out, &format!("  {:<32}{seen}", step.name));
    }
    let text = service.metrics(lab)?;
    let page =
        Page::parse(&text).map_err(|message| LabError::Unexpected { step: "metrics".to_owned(), message })?;
    say(out, &report::report(&page));
    Ok(())
}

/// Writes a line at once. A reader that has gone away is no reason to stop half way.
fn say(out: &mut dyn Write, line: &str) {
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
