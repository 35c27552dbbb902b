//! The generator and the sink: `throughway pktgen send` and `… sink`, in their namespaces, and what they say.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::command::{command, run};
use crate::error::{BenchError, Result};
use crate::namespaces::{Cores, DESTINATION, IN_MAC, Namespaces, Place, SINK_DEVICE, SOURCE_DEVICE, VIP};

/// Which packets are sent: what makes rows of the report comparable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Packets {
    /// 64 bytes, IPv4.
    #[default]
    Small,
    /// 84 bytes, IPv6: the 64, and the 20 by which the header is longer (RFC 5180 is RFC 2544 for it).
    Ipv6,
    /// A mix of 64, 594 and 1518 bytes, IPv4.
    Imix,
}

impl Packets {
    /// All of them.
    pub const ALL: [Packets; 3] = [Packets::Small, Packets::Ipv6, Packets::Imix];

    /// As it stands in reports.
    pub fn name(self) -> &'static str {
        match self {
            Packets::Small => "64 bytes",
            Packets::Ipv6 => "IPv6, 84 bytes",
            Packets::Imix => "IMIX",
        }
    }

    /// Its name on the command line.
    pub fn key(self) -> &'static str {
        match self {
            Packets::Small => "small",
            Packets::Ipv6 => "ipv6",
            Packets::Imix => "imix",
        }
    }

    /// What it adds to names in files: nothing for the usual ones.
    pub fn suffix(self) -> String {
        if self == Packets::Small { String::new() } else { format!("-{}", self.key()) }
    }
}

/// Who sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sender {
    /// The kernel's `pktgen` where it is there and can send what is asked for, else ours.
    #[default]
    Auto,
    /// The kernel's `pktgen`; what it cannot send (stamps, new flows, IPv6 flows that differ in addresses) is sent by ours.
    Kernel,
    /// `throughway pktgen` by the fastest way that there is.
    Own,
}

/// What is sent.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Traffic {
    /// Flows: 5-tuples that differ in source address and source port.
    pub flows: u32,
    /// Bytes of a frame on the wire, FCS included, or `imix`.
    pub size: String,
    /// IPv6 instead of IPv4.
    pub ipv6: bool,
    /// To the load balancers' address instead of the sink's.
    pub to_service: bool,
    /// Every packet opens a connection: flows end as fast as packets come.
    pub all_new: bool,
}

impl Traffic {
    /// 64-byte UDP packets over IPv4.
    pub fn small(flows: u32) -> Self {
        Traffic { flows, size: "64".to_owned(), ipv6: false, to_service: false, all_new: false }
    }

    /// The same, to the load balancers' address.
    pub fn to_service(flows: u32) -> Self {
        Traffic { to_service: true, ..Traffic::small(flows) }
    }

    /// These packets, to the sink.
    pub fn of(packets: Packets, flows: u32) -> Self {
        let small = Traffic::small(flows);
        match packets {
            Packets::Small => small,
            Packets::Ipv6 => Traffic { size: "84".to_owned(), ipv6: true, ..small },
            Packets::Imix => Traffic { size: "imix".to_owned(), ..small },
        }
    }

    fn arguments(&self) -> Vec<String> {
        let (family, source, destination) = match (self.ipv6, self.to_service) {
            (true, _) => ("ipv6", "fd00:1::/64".to_owned(), "fd00:2::2".to_owned()),
            (false, false) => ("ipv4", "10.0.0.0/9".to_owned(), DESTINATION.to_string()),
            (false, true) => ("ipv4", "10.0.0.0/9".to_owned(), VIP.to_string()),
        };
        [
            ("--flows", self.flows.to_string()),
            ("--size", self.size.clone()),
            ("--family", family.to_owned()),
            ("--protocol", "udp".to_owned()),
            ("--source", source),
            ("--destination", destination),
            ("--destination-mac", IN_MAC.to_owned()),
            ("--source-ports", "1024-1039".to_owned()),
            ("--destination-ports", "53".to_owned()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect()
    }
}

/// How fast.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Rate {
    /// As fast as the generator can.
    Max,
    /// Packets a second.
    Pps(f64),
}

impl Rate {
    /// Packets a second; of the fastest, more than there can be.
    fn number(self) -> f64 {
        match self {
            Rate::Max => 1e9,
            Rate::Pps(rate) => rate,
        }
    }

    fn argument(self) -> String {
        match self {
            Rate::Max => "max".to_owned(),
            Rate::Pps(rate) => format!("{rate:.0}"),
        }
    }
}

/// What the generator says when it is done.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
pub struct Sent {
    /// How it sends: `live-frames`, `af-xdp`, `af-packet`, `kernel`.
    pub backend: String,
    /// Packets offered.
    pub packets: u64,
    /// For how long.
    pub seconds: f64,
    /// Processor time that took.
    pub cpu_seconds: f64,
}

/// What the sink says when it is done.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
pub struct Received {
    /// Packets of the generator's that arrived.
    pub packets: u64,
    /// Other packets.
    pub other: u64,
    /// Packets that arrived more than once; only of stamped ones, since the stamp has the number.
    pub duplicates: Option<u64>,
    /// Packets that arrived later than one sent after them; only of stamped ones.
    pub reordered: Option<u64>,
    /// How long packets were on their way; only of stamped ones.
    pub latency_ns: Option<Latency>,
}

/// Percentiles of the time from generator to sink, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Deserialize, Serialize)]
pub struct Latency {
    /// Half of the packets took no longer.
    pub p50: f64,
    /// Of ten, nine.
    pub p90: f64,
    /// Of a hundred, ninety-nine.
    pub p99: f64,
    /// Of a thousand, 999.
    pub p999: f64,
    /// None took longer.
    pub max: f64,
}

/// The program that generates and counts: `throughway`.
#[derive(Clone, Debug)]
pub struct Generator {
    binary: String,
    cores: Cores,
    kernel: bool,
}

impl Generator {
    /// `binary` is the path of `throughway`.
    ///
    /// # Errors
    /// When the kernel's generator is asked for and is not there.
    pub fn new(binary: &str, cores: Cores, sender: Sender) -> Result<Self> {
        let there = || {
            // Without the module, or where it is built in, this fails and does not matter.
            let _ = run(&["modprobe", "pktgen"]);
            Path::new("/proc/net/pktgen").exists()
        };
        let kernel = sender != Sender::Own && there();
        if sender == Sender::Kernel && !kernel {
            return Err(BenchError::Unavailable("this kernel has no pktgen (modprobe pktgen)".to_owned()));
        }
        Ok(Generator { binary: binary.to_owned(), cores, kernel })
    }

    /// Sends for so long and waits for the end.
    ///
    /// # Errors
    /// When the generator fails or says something unknown.
    pub fn send(
        &self,
        at: &Namespaces,
        traffic: &Traffic,
        rate: Rate,
        duration: Duration,
        stamp: bool,
    ) -> Result<Sent> {
        let core = self.cores.generator.to_string();
        let all_new = traffic.all_new;
        let new_flows = if all_new { rate.number() } else { 0.0 };
        let (rate, new_flows) = (rate.argument(), format!("{new_flows:.0}"));
        let duration = format!("{}ms", duration.as_millis());
        let (ipv6, traffic) = (traffic.ipv6, traffic.arguments());
        let mut argv =
            vec![self.binary.as_str(), "pktgen", "send", "--device", SOURCE_DEVICE, "--json", "--cpu", &core];
        argv.extend(["--rate", &rate, "--duration", &duration, "--new-flows", &new_flows]);
        argv.extend(traffic.iter().map(String::as_str));
        if stamp {
            argv.push("--stamp");
        }
        if self.kernel && !stamp && !ipv6 && !all_new {
            argv.extend(["--backend", "kernel"]);
        }
        let output = started(at, Place::Source, &argv)?.output();
        let output = output.map_err(|source| BenchError::file(&self.binary, source))?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(BenchError::Command { command: argv.join(" "), message });
        }
        answer("the generator's answer", &output.stdout)
    }

    /// Starts to count.
    ///
    /// # Errors
    /// When the sink does not become ready.
    pub fn sink(&self, at: &Namespaces) -> Result<Sink> {
        let core = self.cores.sink.unwrap_or(self.cores.device).to_string();
        let argv =
            [self.binary.as_str(), "pktgen", "sink", "--device", SINK_DEVICE, "--json", "--cpu", &core];
        let mut child = started(at, Place::Sink, &argv)?
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| BenchError::file(&self.binary, source))?;
        let mut said = String::new();
        if let Some(stderr) = child.stderr.take() {
            let mut lines = BufReader::new(stderr);
            while !said.contains("ready") {
                if !lines.read_line(&mut said).is_ok_and(|count| count > 0) {
                    let _ = child.wait();
                    return Err(BenchError::Command { command: argv.join(" "), message: said });
                }
            }
            // It may go on talking, and must not meet a closed pipe.
            std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        }
        Ok(Sink { child })
    }
}

/// A sink that counts; dropped, it is stopped.
#[derive(Debug)]
pub struct Sink {
    child: Child,
}

impl Sink {
    /// Stops counting.
    ///
    /// # Errors
    /// When it says something unknown.
    pub fn finish(mut self) -> Result<Received> {
        self.interrupt();
        let mut text = Vec::new();
        if let Some(stdout) = &mut self.child.stdout {
            stdout.read_to_end(&mut text).map_err(|source| BenchError::file("the sink", source))?;
        }
        let _ = self.child.wait();
        answer("the sink's answer", &text)
    }

    fn interrupt(&self) {
        // One that has already ended is what was wanted.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT);
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            self.interrupt();
            let _ = self.child.wait();
        }
    }
}

fn started(at: &Namespaces, place: Place, argv: &[&str]) -> Result<Command> {
    let line = at.line(place, None, argv);
    command(&line.iter().map(String::as_str).collect::<Vec<_>>())
}

fn answer<T: for<'a> Deserialize<'a>>(what: &str, text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|error| BenchError::Answer {
        what: what.to_owned(),
        message: format!("{error}: {}", String::from_utf8_lossy(text).trim()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_understood_and_those_that_are_not_are_shown() {
        let sent: Sent = answer(
            "it",
            br#"{"backend":"live-frames","packets":640,"bytes":1,"seconds":0.5,"rate_pps":1280,"cpu_seconds":0.4,"flows":1}"#,
        )
        .unwrap();
        assert_eq!((sent.packets, sent.seconds), (640, 0.5));
        let received: Received = answer(
            "it",
            br#"{"packets":7,"bytes":1,"other":1,"first_ns":1,"last_ns":2,"rate_pps":1,"lost":null,"duplicates":null,"reordered":null,"latency_ns":null}"#,
        )
        .unwrap();
        assert_eq!((received.packets, received.latency_ns), (7, None));
        let error = answer::<Sent>("it", b"no such device").unwrap_err().to_string();
        assert!(error.contains("no such device"), "{error}");
    }

    #[test]
    fn rates_and_traffic_become_arguments() {
        assert_eq!(
            (Rate::Max.argument(), Rate::Pps(1_500_000.4).argument()),
            ("max".into(), "1500000".into())
        );
        let arguments = Traffic::to_service(10).arguments().join(" ");
        assert!(
            arguments.contains("--flows 10") && arguments.contains("--destination 203.0.113.80"),
            "{arguments}"
        );
    }
}
