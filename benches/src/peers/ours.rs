//! Throughway: `throughway run` with the configuration that a peer stands for.

use std::fmt::Write;
use std::time::{Duration, Instant};

use super::kernel::{MASQUERADED, POOL, add_routes};
use super::{Peer, Running, Scale, Setup};
use crate::command::run;
use crate::error::{BenchError, Result};
use crate::namespaces::{BACKENDS, IN_DEVICE, Namespaces, OUT_DEVICE, Place, VIP};

/// How long it may take to open its sockets and read the kernel's tables.
const PATIENCE: Duration = Duration::from_secs(30);
const LOG: &str = "throughway.log";
/// The API's socket, in the directory of the namespaces.
pub const SOCKET: &str = "throughway.sock";

pub(super) fn start(peer: Peer, fast_path: bool, setup: &Setup<'_>) -> Result<Running> {
    add_routes(setup.at, setup.scale.routes)?;
    let text = configuration(
        peer,
        &Settings {
            devices: (IN_DEVICE, OUT_DEVICE),
            core: setup.cores.device,
            workers: setup.workers,
            fast_path,
            scale: setup.scale,
            flows: setup.traffic.flows,
        },
    );
    serve(setup.at, setup.binary, &text, fast_path)
}

/// Runs it with a configuration; `fast_path`: that has one.
///
/// # Errors
/// When it does not become ready.
pub fn serve(at: &Namespaces, binary: &str, text: &str, fast_path: bool) -> Result<Running> {
    let directory = at.directory();
    let (file, socket) = (directory.join("throughway.yaml"), directory.join(SOCKET));
    std::fs::write(&file, text).map_err(|source| BenchError::file(&file, source))?;
    let (file, socket) = (file.to_string_lossy(), socket.to_string_lossy());
    let argv = [binary, "run", &file, "--api", &socket];
    let mut guard = at.spawn(Place::Device, None, &argv, LOG)?;
    if !is_ready(binary, &socket, || guard.ended().is_some()) {
        let log = std::fs::read_to_string(directory.join(LOG)).unwrap_or_default();
        return Err(BenchError::Command { command: argv.join(" "), message: log });
    }
    let ask = [binary, "show", "workers", "--json", "--api", &socket].map(str::to_owned);
    Ok(Running { guards: vec![guard], ask: fast_path.then(|| ask.to_vec()) })
}

/// Waits until the service with this API socket answers, unless it has `ended` or takes too long; says whether it does.
pub(crate) fn is_ready(binary: &str, socket: &str, mut ended: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while run(&[binary, "show", "interfaces", "--json", "--api", socket]).is_err() {
        if ended() || Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// What a configuration is made of, beside the peer.
pub(crate) struct Settings<'a> {
    /// Where packets come in and go out.
    pub(crate) devices: (&'a str, &'a str),
    /// The worker's core.
    pub(crate) core: usize,
    /// More of the section `workers`.
    pub(crate) workers: &'a str,
    /// Established flows stay in the driver.
    pub(crate) fast_path: bool,
    /// How large tables are.
    pub(crate) scale: Scale,
    /// How many flows there will be.
    pub(crate) flows: u32,
}

/// The YAML of a peer.
pub(crate) fn configuration(peer: Peer, settings: &Settings<'_>) -> String {
    let Settings { devices: (lan, wan), scale, flows, .. } = *settings;
    let fast = if settings.fast_path { ", fast-path: auto" } else { "" };
    let room = format!("fast-path: {{ flows: {} }}\n", (flows * 5 / 4).max(65_536));
    let room = if settings.fast_path { room } else { String::new() };
    let mut text = format!(
        "{room}interfaces:\n  lan: {{ device: {lan}{fast} }}\n  wan: {{ device: {wan}{fast} }}\n\
         workers: {{ cores: [{}], flows: {}{}{} }}\nfunctions:\n",
        settings.core,
        scale.flows.max(flows * 5 / 4),
        if settings.workers.is_empty() { "" } else { ", " },
        settings.workers
    );
    let mut run: Vec<String> = Vec::new();
    match peer {
        Peer::Chain(functions) => {
            for number in 1..functions {
                let _ = writeln!(
                    text,
                    "  m{number}: {{ marker: {{ rules: [ {{ protocol: tcp, to-port: 1-99, dscp: cs1 }}, {{ dscp: ef }} ] }} }}"
                );
                run.push(format!("m{number}"));
            }
        }
        Peer::Filter | Peer::Stateful => {
            let sessions = scale.flows.max(flows) * 4;
            let _ = writeln!(
                text,
                "  edge:\n    firewall:\n      default: drop\n      track: {{ sessions: {sessions}, half-open: {sessions} }}\n      rules:"
            );
            for number in 0..scale.rules {
                let [_, _, high, low] = number.to_be_bytes();
                let _ = writeln!(
                    text,
                    "        - {{ drop: {{ protocol: tcp, to-port: 25, destination: 192.{}.{low}.0/24 }} }}",
                    18 + high % 100
                );
            }
            text.push_str("        - { drop: { protocol: tcp, to-port: 25 } }\n        - { allow: { from: lan, protocol: udp } }\n");
            run.push("edge".to_owned());
            if peer == Peer::Stateful {
                let how =
                    if flows > MASQUERADED { format!("pool: {POOL}") } else { "masquerade: true".to_owned() };
                let _ = writeln!(
                    text,
                    "  outer: {{ nat: {{ outside: wan, limits: {{ sessions: {sessions} }}, source: [ {{ match: {{ source: 10.0.0.0/8 }}, {how} }} ] }} }}"
                );
                run.push("outer".to_owned());
            }
        }
        Peer::Balancer => {
            let backends: Vec<String> =
                BACKENDS.iter().map(|address| format!("{{ address: {address}, port: 53 }}")).collect();
            let _ = writeln!(
                text,
                "  front: {{ load-balancer: {{ connections: {}, services: [ {{ name: dns, vip: {VIP}, port: 53, protocol: udp, forward: nat, backends: [ {} ] }} ] }} }}",
                scale.flows.max(flows) * 2,
                backends.join(", ")
            );
            run.push("front".to_owned());
        }
        _ => {}
    }
    run.push("core".to_owned());
    let _ = writeln!(
        text,
        "  core: {{ router: {{}} }}\nchains: {{ out: {{ from: lan, run: [{}] }} }}",
        run.join(", ")
    );
    text.push_str("metrics: { listen: \"127.0.0.1:9464\" }\n");
    text
}
