//! `throughway pktgen`: test traffic from one device, counted at another.

use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use throughway_config::value;
use throughway_packet::Prefix;
use throughway_pktgen::{Backend, Family, Ports, Protocol, Received, Sent, Sink, Sizes, Traffic, send};

use super::Failure;
use super::output::{columns, complain, print};

/// How often the end of the sink's time and signals are looked for.
const LOOK: Duration = Duration::from_millis(10);
/// So long `run` waits for packets that are still on their way, after the last one that came.
const QUIET: Duration = Duration::from_millis(200);

#[derive(Subcommand, Debug)]
pub(super) enum Pktgen {
    /// Send test traffic.
    Send(Send),
    /// Count test traffic and drop it; other frames pass to the kernel. Says `ready` on standard error when it counts.
    Sink {
        /// The device that it comes in on.
        #[arg(long)]
        device: String,
        /// Ends after this time; without it, by SIGINT or SIGTERM.
        #[arg(long)]
        duration: Option<value::Duration>,
        /// The core of the command itself. The counting is done where the kernel receives.
        #[arg(long, value_name = "CORE")]
        cpu: Option<usize>,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Send by one device and count at another, both in this network namespace.
    Run {
        /// The device that it is sent by.
        #[arg(long = "out", value_name = "DEVICE")]
        output: String,
        /// The device that it comes in on.
        #[arg(long = "in", value_name = "DEVICE")]
        input: String,
        #[command(flatten)]
        stream: Stream,
    },
}

#[derive(Args, Debug)]
pub(super) struct Send {
    /// The device that it is sent by.
    #[arg(long)]
    device: String,
    #[command(flatten)]
    stream: Stream,
}

/// What to send.
#[derive(Args, Debug)]
pub(super) struct Stream {
    /// Packets per second, or `max`.
    #[arg(long, value_name = "PPS", default_value = "max")]
    rate: Pace,
    /// Ends after this time. Without --packets: 5s.
    #[arg(long)]
    duration: Option<value::Duration>,
    /// Ends after so many packets.
    #[arg(long, value_name = "N")]
    packets: Option<u64>,
    /// Flows that exist at one time: they differ in source address, then source port, then destination.
    #[arg(long, value_name = "N", default_value_t = 1)]
    flows: u32,
    /// Bytes of a frame with its check sequence, or `imix`, or a mix such as 64:7,594:4,1518:1. Without it: the shortest.
    #[arg(long, value_name = "BYTES")]
    size: Option<Sizes>,
    /// Address family.
    #[arg(long, value_enum, default_value_t = FamilyName::Ipv4)]
    family: FamilyName,
    /// Transport protocol.
    #[arg(long, value_enum, default_value_t = ProtocolName::Udp)]
    protocol: ProtocolName,
    /// Source addresses. Without it: 198.18.0.1 or 2001:2::1.
    #[arg(long, value_name = "PREFIX", value_parser = super::client::prefix)]
    source: Option<Prefix>,
    /// Destination addresses. Without it: 198.19.0.1 or 2001:2:0:1::1.
    #[arg(long, value_name = "PREFIX", value_parser = super::client::prefix)]
    destination: Option<Prefix>,
    /// Source MAC address. Without it: the device's.
    #[arg(long, value_name = "MAC")]
    source_mac: Option<value::Mac>,
    /// Destination MAC address: that of the next hop.
    #[arg(long, value_name = "MAC")]
    destination_mac: value::Mac,
    /// Source ports.
    #[arg(long, value_name = "A-B", default_value = "1024-65535")]
    source_ports: value::PortRange,
    /// Destination ports.
    #[arg(long, value_name = "A-B", default_value = "9")]
    destination_ports: value::PortRange,
    /// Flows that end and are replaced by new ones, per second.
    #[arg(long, value_name = "PPS", default_value_t = 0)]
    new_flows: u64,
    /// With TCP: the first packet of a flow is a SYN; without it all are ACKs.
    #[arg(long)]
    syn: bool,
    /// Put sequence number and time into each frame: the sink then tells loss, duplicates, reordering and latency.
    #[arg(long)]
    stamp: bool,
    /// How frames get to the device.
    #[arg(long, value_enum, default_value_t = BackendName::Auto)]
    backend: BackendName,
    /// The core to send from.
    #[arg(long, value_name = "CORE")]
    cpu: Option<usize>,
    /// For programs.
    #[arg(long)]
    json: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum FamilyName {
    Ipv4,
    Ipv6,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum ProtocolName {
    Udp,
    Tcp,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum BackendName {
    /// The fastest that there is.
    Auto,
    /// A BPF program on live frames: some 10 Mpps a core.
    LiveFrames,
    /// An AF_XDP socket: some 1 to 2 Mpps a core.
    AfXdp,
    /// An AF_PACKET socket: works with every device, some 1 Mpps a core.
    AfPacket,
    /// The kernel's own generator, where the kernel has it.
    Kernel,
}

/// Packets per second; `None`: as fast as it goes.
#[derive(Clone, Copy, Debug)]
struct Pace(Option<u64>);

impl FromStr for Pace {
    type Err = String;

    fn from_str(text: &str) -> Result<Pace, String> {
        if text == "max" {
            return Ok(Pace(None));
        }
        let rate = text
            .parse()
            .map_err(|_| format!("`{text}` is neither `max` nor a number of packets per second"))?;
        Ok(Pace(Some(rate)))
    }
}

impl Stream {
    fn traffic(&self, device: &str) -> Result<Traffic, Failure> {
        let ports = |range: value::PortRange| {
            Ports::new(range.first(), range.last()).ok_or_else(|| format!("no ports in {range}"))
        };
        let duration = self.duration.map(value::Duration::get);
        Ok(Traffic {
            rate: self.rate.0,
            duration: match (duration, self.packets) {
                (None, None) => Some(Duration::from_secs(5)),
                (duration, _) => duration,
            },
            packets: self.packets,
            flows: self.flows,
            new_flows: self.new_flows,
            sizes: self.size.clone(),
            family: match self.family {
                FamilyName::Ipv4 => Family::Ipv4,
                FamilyName::Ipv6 => Family::Ipv6,
            },
            protocol: match self.protocol {
                ProtocolName::Udp => Protocol::Udp,
                ProtocolName::Tcp => Protocol::Tcp,
            },
            source: self.source,
            destination: self.destination,
            source_ports: ports(self.source_ports)?,
            destination_ports: ports(self.destination_ports)?,
            source_mac: self.source_mac.map(|mac| mac.0),
            syn: self.syn,
            stamp: self.stamp,
            cpu: self.cpu,
            ..Traffic::new(device, self.destination_mac.0)
        })
    }

    fn backend(&self) -> Option<Backend> {
        match self.backend {
            BackendName::Auto => None,
            BackendName::LiveFrames => Some(Backend::LiveFrames),
            BackendName::AfXdp => Some(Backend::AfXdp),
            BackendName::AfPacket => Some(Backend::AfPacket),
            BackendName::Kernel => Some(Backend::Kernel),
        }
    }
}

/// Set by SIGINT and SIGTERM.
fn stopped() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

pub(super) fn pktgen(command: Pktgen) -> Result<ExitCode, Failure> {
    match command {
        Pktgen::Send(Send { device, stream }) => {
            let stop = stopped()?;
            let sent = transmit(&stream.traffic(&device)?, stream.backend(), &stop)?;
            if stream.json {
                print(&sent_json(&sent).to_string());
            } else {
                print(&columns(&sent_rows(&sent)));
            }
        }
        Pktgen::Sink { device, duration, cpu, json } => {
            if let Some(id) = cpu
                && !core_affinity::set_for_current(core_affinity::CoreId { id })
            {
                return Err(format!("core {id} does not exist, or this process may not use it").into());
            }
            let stop = stopped()?;
            let sink = attach(&device)?;
            complain("ready");
            let end = duration.map(|span| Instant::now() + span.get());
            while !stop.load(Ordering::Relaxed) && end.is_none_or(|end| Instant::now() < end) {
                std::thread::sleep(LOOK);
            }
            let received = sink.received()?;
            if json {
                print(&received_json(&received, &sink).to_string());
            } else {
                print(&columns(&received_rows(&received)));
            }
        }
        Pktgen::Run { output, input, stream } => {
            let stop = stopped()?;
            let traffic = stream.traffic(&output)?;
            let sink = attach(&input)?;
            let sent = transmit(&traffic, stream.backend(), &stop)?;
            settle(&sink, &stop)?;
            let received = sink.received()?;
            let missing = sent.packets.saturating_sub(received.packets);
            if stream.json {
                let both = json!({
                    "sent": sent_json(&sent),
                    "received": received_json(&received, &sink),
                    "missing": missing,
                });
                print(&both.to_string());
            } else {
                let mut rows = sent_rows(&sent);
                rows.extend(received_rows(&received));
                let share = missing as f64 * 100.0 / (sent.packets.max(1)) as f64;
                rows.push(row("missing", format!("{missing} ({share:.4} %)")));
                print(&columns(&rows));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn attach(device: &str) -> Result<Sink, Failure> {
    let sink = Sink::attach(device)?;
    if let Some(refused) = sink.refused() {
        complain(&format!("note: the sink on {device} is not in its driver, which is slower: {refused}"));
    }
    Ok(sink)
}

fn transmit(traffic: &Traffic, backend: Option<Backend>, stop: &AtomicBool) -> Result<Sent, Failure> {
    let sent = send(traffic, backend, stop)?;
    for (backend, reason) in &sent.refused {
        complain(&format!("note: sent by {} instead of {backend}, which is faster: {reason}", sent.backend));
    }
    Ok(sent)
}

/// Waits until nothing has come for a while.
fn settle(sink: &Sink, stop: &AtomicBool) -> Result<(), Failure> {
    let mut seen = sink.packets()?;
    let mut since = Instant::now();
    while since.elapsed() < QUIET && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK);
        let now = sink.packets()?;
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
    Ok(())
}

fn sent_json(sent: &Sent) -> Value {
    json!({
        "backend": sent.backend.label(),
        "packets": sent.packets,
        "bytes": sent.bytes,
        "seconds": sent.duration.as_secs_f64(),
        "rate_pps": sent.rate(),
        "cpu_seconds": sent.cpu.as_secs_f64(),
        "flows": sent.flows,
        "skipped": sent.skipped,
    })
}

fn received_json(received: &Received, sink: &Sink) -> Value {
    let stamped = received.stamped.as_ref();
    json!({
        "packets": received.packets,
        "bytes": received.bytes,
        "other": received.other,
        "mode": sink.mode().label(),
        "first_ns": received.first,
        "last_ns": received.last,
        "rate_pps": received.rate,
        "lost": stamped.map(|stamped| stamped.lost),
        "duplicates": stamped.map(|stamped| stamped.duplicates),
        "reordered": stamped.map(|stamped| stamped.reordered),
        "unknown": stamped.map(|stamped| stamped.unknown),
        "latency_ns": stamped.map(|stamped| {
            let latency = &stamped.latency;
            json!({
                "count": latency.count,
                "min": latency.min,
                "p50": latency.p50,
                "p90": latency.p90,
                "p99": latency.p99,
                "p999": latency.p999,
                "max": latency.max,
            })
        }),
    })
}

fn row(what: &str, value: impl ToString) -> Vec<String> {
    vec![what.to_owned(), value.to_string()]
}

fn sent_rows(sent: &Sent) -> Vec<Vec<String>> {
    let mut rows = vec![
        row("sent", format!("{} packets, {} bytes, {} flows", sent.packets, sent.bytes, sent.flows)),
        row("by", sent.backend),
        row("in", format!("{:.3} s, {:.3} s of a core", sent.duration.as_secs_f64(), sent.cpu.as_secs_f64())),
        row("rate", format!("{:.0} packets/s", sent.rate())),
    ];
    if sent.skipped != 0 {
        rows.push(row(
            "given up",
            format!("{} packets: the generator was too slow for the rate", sent.skipped),
        ));
    }
    rows
}

fn received_rows(received: &Received) -> Vec<Vec<String>> {
    let mut rows = vec![
        row("received", format!("{} packets, {} bytes", received.packets, received.bytes)),
        row("rate", format!("{:.0} packets/s", received.rate)),
        row("other", format!("{} frames", received.other)),
    ];
    if let Some(stamped) = &received.stamped {
        rows.push(row("lost", stamped.lost));
        rows.push(row("duplicates", stamped.duplicates));
        rows.push(row("reordered", stamped.reordered));
        let latency = &stamped.latency;
        let micro = |ns: u64| format!("{:.1}", ns as f64 / 1000.0);
        rows.push(row(
            "latency",
            format!(
                "{} min, {} median, {} 90 %, {} 99 %, {} 99.9 %, {} max (µs)",
                micro(latency.min),
                micro(latency.p50),
                micro(latency.p90),
                micro(latency.p99),
                micro(latency.p999),
                micro(latency.max)
            ),
        ));
    }
    rows
}
