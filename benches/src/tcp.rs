//! Real TCP through the box: iperf3 over Throughway's fast path beside the kernel's own forwarding and a bare XDP redirect, in the same
//! namespaces.
//!
//! Over veth the kernel forwards frames of 64 KiB that no wire carries, as long as both hosts leave segmentation to a device that is
//! not there. XDP sees single packets. So each is measured with the hosts' offloads as they are by default (with Throughway, the
//! checksum offload is off, as it must be), and as if there were wires: hosts segment what they send, and whoever has a network stack joins
//! what it receives (GRO), as behind any card.

use std::time::Duration;

use serde_json::Value;

use crate::error::{BenchError, Result};
use crate::namespaces::{
    Cores, DESTINATION, IN_DEVICE, Namespaces, OUT_ADDRESS, OUT_DEVICE, Place, SINK_DEVICE, SOURCE_DEVICE,
};
use crate::peers::{Running, ours, xdp};

/// The source's address, and the box's on its link.
const SOURCE: &str = "10.255.0.2";
const GATEWAY: &str = "10.255.0.1";

/// Who forwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forwarder {
    /// The kernel.
    Kernel,
    /// A bare XDP program on either device, which sends all to the other side.
    Redirect,
    /// Throughway's fast path.
    Ours,
}

impl Forwarder {
    /// All, in the order in which they take turns.
    pub const ALL: [Forwarder; 3] = [Forwarder::Kernel, Forwarder::Redirect, Forwarder::Ours];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Forwarder::Kernel => "kernel",
            Forwarder::Redirect => "bare XDP redirect",
            Forwarder::Ours => "Throughway",
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The path of `throughway`.
    pub binary: &'a str,
    /// The worker's core.
    pub cores: Cores,
    /// Who forwards.
    pub by: Forwarder,
    /// Hosts send single packets.
    pub single: bool,
    /// TCP connections at once.
    pub streams: u32,
    /// How long.
    pub duration: Duration,
}

/// One trial: bits a second that arrived.
///
/// # Errors
/// When something does not run.
pub fn trial(at: &Namespaces, wanted: &Wanted<'_>) -> Result<f64> {
    address(at)?;
    let _running = start(at, wanted)?;
    for (place, device) in [(Place::Source, SOURCE_DEVICE), (Place::Sink, SINK_DEVICE)] {
        if wanted.by != Forwarder::Kernel {
            at.run(place, &["ethtool", "-K", device, "tx", "off"])?;
        }
        if wanted.single {
            at.run(place, &["ethtool", "-K", device, "tso", "off", "gso", "off", "gro", "on"])?;
        }
    }
    if wanted.single && wanted.by == Forwarder::Kernel {
        for device in [IN_DEVICE, OUT_DEVICE] {
            at.run(Place::Device, &["ethtool", "-K", device, "gro", "on"])?;
        }
    }
    let server = at.spawn(Place::Sink, None, &["iperf3", "--server", "--one-off"], "iperf3-server.log")?;
    let (seconds, streams) = (wanted.duration.as_secs().max(1).to_string(), wanted.streams.to_string());
    let to = DESTINATION.to_string();
    let argv = ["iperf3", "--client", &to, "--parallel", &streams, "--time", &seconds, "--json"];
    let text = eventually(|| at.run(Place::Source, &argv))?;
    drop(server);
    let said: Value = serde_json::from_str(&text)
        .map_err(|error| BenchError::Answer { what: "iperf3".to_owned(), message: error.to_string() })?;
    let rate = said["end"]["sum_received"]["bits_per_second"].as_f64();
    rate.ok_or_else(|| BenchError::Worthless(format!("iperf3 has measured nothing: {text}")))
}

/// The server may take a moment to listen; a client that does not reach it may say so and end well.
fn eventually(mut run: impl FnMut() -> Result<String>) -> Result<String> {
    let mut last = run();
    for _ in 0..50 {
        if last.as_ref().is_ok_and(|said| !said.contains("unable to connect")) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        last = run();
    }
    last
}

/// Hosts at both ends; the box has its addresses.
fn address(at: &Namespaces) -> Result<()> {
    let (sink, gateway) = (format!("{DESTINATION}/24"), OUT_ADDRESS.to_string());
    for (place, device, address, gateway) in [
        (Place::Source, SOURCE_DEVICE, format!("{SOURCE}/24"), GATEWAY),
        (Place::Sink, SINK_DEVICE, sink, gateway.as_str()),
    ] {
        at.run(place, &["ip", "address", "replace", &address, "dev", device])?;
        at.run(place, &["ip", "route", "replace", "default", "via", gateway])?;
    }
    Ok(())
}

fn mac(at: &Namespaces, place: Place, device: &str) -> Result<String> {
    let text = at.run(place, &["cat", &format!("/sys/class/net/{device}/address")])?;
    Ok(text.trim().to_owned())
}

fn start(at: &Namespaces, wanted: &Wanted<'_>) -> Result<Running> {
    if wanted.by != Forwarder::Ours {
        // Address resolution passes to the kernel, by which the ends know its addresses.
        at.run(Place::Device, &["sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
    }
    match wanted.by {
        Forwarder::Kernel => return Ok(Running::default()),
        Forwarder::Redirect => {
            xdp::attach(at, IN_DEVICE, "xdp/forward", OUT_DEVICE, &mac(at, Place::Sink, SINK_DEVICE)?)?;
            xdp::attach(at, OUT_DEVICE, "xdp/forward", IN_DEVICE, &mac(at, Place::Source, SOURCE_DEVICE)?)?;
            // Frames sent by XDP are lost at an end without NAPI.
            for (place, device) in [(Place::Source, SOURCE_DEVICE), (Place::Sink, SINK_DEVICE)] {
                at.run(place, &["ethtool", "-K", device, "gro", "on"])?;
            }
            return Ok(Running::default());
        }
        Forwarder::Ours => {}
    }
    let text = format!(
        "interfaces:\n  lan: {{ device: {IN_DEVICE}, fast-path: eager }}\n  wan: {{ device: {OUT_DEVICE}, fast-path: eager }}\n\
         workers: {{ cores: [{}] }}\nfunctions: {{ core: {{ router: {{}} }} }}\nchains: {{ all: {{ from: [lan, wan], run: [core] }} }}\n",
        wanted.cores.device
    );
    ours::serve(at, wanted.binary, &text, false)
}
