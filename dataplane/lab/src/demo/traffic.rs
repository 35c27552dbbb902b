//! What the demo sends, and what must come back.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::LabError;
use crate::lab::Lab;
use crate::topology::{Host, LAN};
use crate::web;

/// Sends something; says in a few words what was seen, or an error when it is not what it must be.
type Run = Box<dyn Fn(&Lab) -> Result<String, LabError>>;

/// One kind of traffic.
pub(super) struct Step {
    pub(super) name: String,
    pub(super) run: Run,
}

/// All of it, in order.
pub(super) fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for server in [Host::ServerA, Host::ServerB] {
        for address in server.addresses() {
            steps.push(step(format!("ping {address}"), move |lab| ping(lab, address)));
        }
    }
    for address in Host::ServerB.addresses() {
        steps.push(step(format!("traceroute {address}"), move |lab| traceroute(lab, address)));
    }
    for address in Host::ServerA.addresses() {
        steps.push(step(format!("curl {}", url(address)), move |lab| curl(lab, address)));
    }
    for address in Host::ServerA.addresses() {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        let kinds: [(&str, &[&str]); 3] = [
            ("TCP out", &[]),
            ("TCP in", &["--reverse"]),
            ("UDP out", &["--udp", "--bitrate", "400M", "--length", "1400"]),
        ];
        for (kind, options) in kinds {
            steps.push(step(format!("iperf3 {family} {kind}"), move |lab| iperf(lab, address, options)));
        }
    }
    steps
}

fn step(name: String, run: impl Fn(&Lab) -> Result<String, LabError> + 'static) -> Step {
    Step { name, run: Box::new(run) }
}

fn unexpected(step: &str, message: impl Into<String>) -> LabError {
    LabError::Unexpected { step: step.to_owned(), message: message.into() }
}

fn url(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("http://{address}:{}/", web::PORT),
        IpAddr::V6(address) => format!("http://[{address}]:{}/", web::PORT),
    }
}

fn ping(lab: &Lab, address: IpAddr) -> Result<String, LabError> {
    let output =
        lab.run(Host::Client, &["ping", "-n", "-c", "10", "-i", "0.05", "-W", "2", &address.to_string()])?;
    if !output.stdout.contains(" 0% packet loss") {
        return Err(unexpected("ping", output.stdout));
    }
    // rtt min/avg/max/mdev = 0.035/0.040/0.050/0.005 ms
    let average =
        output.stdout.rsplit_once("= ").and_then(|(_, times)| times.split('/').nth(1)).unwrap_or("?");
    Ok(format!("10 of 10 came back, {average} ms"))
}

fn traceroute(lab: &Lab, address: IpAddr) -> Result<String, LabError> {
    let output =
        lab.run(Host::Client, &["traceroute", "-n", "-q", "1", "-w", "2", "-m", "5", &address.to_string()])?;
    let hops: Vec<&str> =
        output.stdout.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().nth(1)).collect();
    let gateway = if address.is_ipv4() { IpAddr::V4(LAN.box_ipv4()) } else { IpAddr::V6(LAN.box_ipv6()) };
    if hops != [gateway.to_string(), address.to_string()] {
        return Err(unexpected("traceroute", output.stdout));
    }
    Ok(format!("{} (the box), {}", hops[0], hops[1]))
}

fn curl(lab: &Lab, address: IpAddr) -> Result<String, LabError> {
    let script = format!("curl --silent --show-error --fail '{}' | sha256sum", url(address));
    let begun = Instant::now();
    let output = lab.run(Host::Client, &["sh", "-c", &script])?;
    let seconds = begun.elapsed().as_secs_f64();
    if !output.stdout.starts_with(&web::sha256(super::FILE)?) {
        return Err(unexpected("curl", format!("the checksum is wrong: {}{}", output.stdout, output.stderr)));
    }
    let megabytes = super::FILE as f64 / 1e6;
    Ok(format!("{megabytes:.0} MB, SHA-256 right, {:.0} Mbit/s", megabytes * 8.0 / seconds))
}

fn iperf(lab: &Lab, address: IpAddr, options: &[&str]) -> Result<String, LabError> {
    let address = address.to_string();
    let mut argv = vec!["iperf3", "--client", &address, "--time", "3", "--json"];
    argv.extend(options);
    let mut output = lab.exec_for(Host::Client, &argv, Duration::from_secs(30))?;
    // The server may still be starting, or be busy with saying goodbye to the test before.
    for _ in 0..20 {
        if output.status.success() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        output = lab.exec_for(Host::Client, &argv, Duration::from_secs(30))?;
    }
    let output = output.success(&argv.join(" "))?;
    let result: Value =
        serde_json::from_str(&output.stdout).map_err(|error| unexpected("iperf3", error.to_string()))?;
    let end = &result["end"];
    if options.contains(&"--udp") {
        let sum = &end["sum"];
        let number = |key: &str| sum[key].as_f64().unwrap_or(0.0);
        let received = (number("packets") - number("lost_packets")).max(0.0);
        if received < 1.0 {
            return Err(unexpected("iperf3", "no datagram arrived"));
        }
        let mbits = number("bits_per_second") / 1e6;
        return Ok(format!(
            "{mbits:.0} Mbit/s, {:.0} packets/s, {:.2} % lost",
            received / number("seconds").max(0.001),
            number("lost_percent"),
        ));
    }
    let mbits = end["sum_received"]["bits_per_second"].as_f64().unwrap_or(0.0) / 1e6;
    if mbits < 1.0 {
        return Err(unexpected("iperf3", format!("{mbits} Mbit/s: nothing gets through")));
    }
    let resent = end["sum_sent"]["retransmits"].as_u64().unwrap_or(0);
    Ok(format!("{mbits:.0} Mbit/s, {resent} segments sent again"))
}
