//! The kernel's own generator, where the kernel has it (module `pktgen`, `Documentation/networking/pktgen.rst`).
//!
//! It is driven by files under `/proc/net/pktgen` of the network namespace: one for each core, one for each device, and one
//! that starts and stops. It makes UDP only, with its own tag; the sink knows that, too, but it has no sequence numbers for it.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use throughway_traffic::{IPV6, Plan, STAMPED, State, TCP};

use crate::device::Device;
use crate::send::Effort;
use crate::{Error, Sizes, Traffic};

/// Of the namespace of the calling thread: plain `/proc/net` is that of the process.
const FOLDER: &str = "/proc/thread-self/net/pktgen";
/// How often it is looked whether time is up.
const LOOK: Duration = Duration::from_millis(5);

fn write(path: &Path, command: &str) -> Result<(), Error> {
    // The kernel cuts the last byte off.
    fs::write(path, format!("{command}\n")).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Error::Impossible(
            "this kernel has no generator of its own (modprobe pktgen), or it is not here".to_owned(),
        ),
        _ => Error::System { what: format!("pktgen refuses `{command}` ({})", path.display()), source },
    })
}

/// The commands for the device that make it send `traffic`.
fn commands(traffic: &Traffic, plan: &Plan) -> Result<Vec<String>, Error> {
    let impossible = |what: &str| Err(Error::Impossible(format!("the kernel's pktgen cannot do {what}")));
    if plan.has(TCP) {
        return impossible("TCP");
    }
    if plan.has(STAMPED) {
        return impossible("our stamps");
    }
    if plan.new_flows != 0 {
        return impossible("new flows");
    }
    let mac = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
    let lengths = traffic.sizes.as_ref().map(Sizes::entries).unwrap_or_default();
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, ..] = plan.ethernet;
    let mut commands = vec![
        // Every packet is a new buffer: a virtual device cannot send one twice.
        "clone_skb 0".to_owned(),
        format!("count {}", traffic.packets.unwrap_or(0)),
        format!("pkt_size {}", plan.classes.first().map_or(60, |class| class.length)),
        format!("dst_mac {}", mac(&[d0, d1, d2, d3, d4, d5])),
        format!("src_mac {}", mac(&[s0, s1, s2, s3, s4, s5])),
    ];
    if lengths.len() > 1 {
        let weights = plan.classes.iter().zip(lengths).map(|(class, (_, weight))| (class.length, weight));
        let weights: Vec<String> = weights.map(|(length, weight)| format!("{length},{weight}")).collect();
        commands.push(format!("imix_weights {}", weights.join(" ")));
    }
    match traffic.rate {
        Some(rate) => commands.push(format!("ratep {rate}")),
        None => commands.push("delay 0".to_owned()),
    }
    let Some((sources, ports)) = ranges(plan) else {
        return impossible("so many flows from so few sources: give more source addresses or ports");
    };
    for (side, address, count) in [("src", &plan.source, sources), ("dst", &plan.destination, 1)] {
        let number = u128::from_be_bytes(*address);
        let last = number + u128::from(count) - 1;
        if plan.has(IPV6) {
            commands.push(format!("{side}6_min {}", Ipv6Addr::from(number)));
            commands.push(format!("{side}6_max {}", Ipv6Addr::from(last)));
            if count == 1 {
                commands.push(format!("{side}6 {}", Ipv6Addr::from(number)));
            }
        } else {
            commands.push(format!("{side}_min {}", Ipv4Addr::from(number as u32)));
            commands.push(format!("{side}_max {}", Ipv4Addr::from(last as u32)));
        }
    }
    if plan.has(IPV6) && sources != 1 {
        return impossible("IPv6 flows that differ in addresses: let them differ in ports");
    }
    for (side, first, count) in [("src", plan.source_port, ports), ("dst", plan.destination_port, 1)] {
        // The kernel stops before the greatest, where it is not the only one.
        let end = if count == 1 { first } else { (first + count).min(u16::MAX.into()) };
        commands.push(format!("udp_{side}_min {first}"));
        commands.push(format!("udp_{side}_max {end}"));
    }
    // Each flow in its turn, and what `min` and `max` span is gone through in order for as many flows.
    commands.push(format!("flows {}", plan.flows));
    commands.push("flowlen 1".to_owned());
    commands.push("flag FLOW_SEQ".to_owned());
    Ok(commands)
}

/// How many source addresses and source ports make the flows. The kernel takes the next of both for every packet, so numbers that share
/// a factor would make fewer flows: beside more than one address (a power of two of them, then) the ports are odd in number.
fn ranges(plan: &Plan) -> Option<(u64, u64)> {
    let sources = plan.flows.min(1 << plan.source_bits);
    let each = plan.flows.div_ceil(sources.max(1));
    let ports = if sources > 1 { each | 1 } else { each };
    (ports <= plan.source_ports).then_some((sources, ports))
}

/// Sends `traffic` by the kernel's generator until all is sent or `stop` is set.
pub(crate) fn send(
    traffic: &Traffic,
    plan: &Plan,
    device: &Device,
    stop: &AtomicBool,
) -> Result<Effort, Error> {
    let folder = Path::new(FOLDER);
    let commands = commands(traffic, plan)?;
    let thread_file = folder.join(format!("kpktgend_{}", traffic.cpu.unwrap_or(0)));
    let device_file = folder.join(&device.name);
    let control = folder.join("pgctrl");
    write(&thread_file, "rem_device_all")?;
    write(&thread_file, &format!("add_device {}", device.name))?;
    let outcome = (|| {
        for command in &commands {
            write(&device_file, command)?;
        }
        run(traffic, &control, stop)?;
        let text = fs::read_to_string(&device_file).map_err(Error::system("cannot read pktgen's result"))?;
        parse(&text).ok_or_else(|| Error::Impossible(format!("pktgen's result is not understood:\n{text}")))
    })();
    let removed = write(&thread_file, "rem_device_all");
    let (packets, nanoseconds) = outcome?;
    removed?;
    let length = if plan.has(throughway_traffic::MIXED) {
        let lengths = traffic.sizes.as_ref().map(Sizes::entries).unwrap_or_default();
        let weight: u64 = lengths.iter().map(|&(_, weight)| u64::from(weight)).sum();
        let bytes: u64 = plan
            .classes
            .iter()
            .zip(lengths)
            .map(|(class, &(_, weight))| class.length * u64::from(weight))
            .sum();
        bytes as f64 / weight.max(1) as f64
    } else {
        plan.classes.first().map_or(0.0, |class| class.length as f64)
    };
    let state =
        State { packets, bytes: (packets as f64 * length) as u64, elapsed: nanoseconds, ..State::default() };
    // A thread of the kernel, which spins.
    Ok(Effort { state, cpu: Duration::from_nanos(nanoseconds) })
}

/// Starts it, and stops it when time is up. Writing `start` lasts as long as it runs.
fn run(traffic: &Traffic, control: &Path, stop: &AtomicBool) -> Result<(), Error> {
    // The path of this thread's namespace, not of the other thread's: those are the same, but the path names a thread.
    let control: PathBuf = control.to_owned();
    thread::scope(|scope| {
        let starting = scope.spawn(|| write(&control, "start"));
        let end = traffic.duration.map(|span| Instant::now() + span);
        let mut stopped = Ok(());
        while !starting.is_finished() {
            let over = stop.load(Ordering::Relaxed) || end.is_some_and(|end| Instant::now() >= end);
            if over {
                stopped = write(&control, "stop");
            }
            thread::sleep(LOOK);
        }
        starting.join().map_err(|_| Error::Died)??;
        stopped
    })
}

/// Packets sent and nanoseconds taken, of what the device's file says: `Result: OK: 1234(c1000+d234) usec, 5678 (60byte,0frags)`.
fn parse(text: &str) -> Option<(u64, u64)> {
    let result = text.lines().find_map(|line| line.trim().strip_prefix("Result: OK: "))?;
    let (micros, rest) = result.split_once('(')?;
    let (_, rest) = rest.split_once("usec, ")?;
    let packets = rest.split_whitespace().next()?.parse().ok()?;
    Some((packets, micros.parse::<u64>().ok()? * 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The flows that the kernel makes of these commands: it takes the next of each range for every packet (`mod_cur_headers`).
    fn flows(source: &str, ports: (u16, u16), flows: u32) -> Option<usize> {
        let device = Device::find("lo").unwrap();
        let mut traffic = Traffic::new("x", [2; 6]);
        traffic.source = source.parse().ok();
        traffic.source_ports = crate::Ports::new(ports.0, ports.1).unwrap();
        traffic.flows = flows;
        let commands = commands(&traffic, &traffic.plan(&device).unwrap()).ok()?;
        let of = |name: &str| {
            let value = commands.iter().find_map(|line| line.strip_prefix(&format!("{name} "))).unwrap();
            value.parse().unwrap_or_else(|_| u32::from(value.parse::<Ipv4Addr>().unwrap()))
        };
        let addresses = of("src_max") - of("src_min") + 1;
        let ports = (of("udp_src_max") - of("udp_src_min")).max(1);
        assert_eq!(of("dst_min"), of("dst_max"));
        let seen: std::collections::HashSet<_> =
            (0..4 * flows).map(|packet| (packet % addresses, packet % ports)).collect();
        Some(seen.len())
    }

    #[test]
    fn the_kernel_makes_as_many_flows_as_are_asked_for() {
        assert_eq!(flows("10.0.0.0/9", (1024, 1039), 10_000), Some(10_000));
        assert_eq!(flows("10.0.0.1/32", (1024, 1087), 64), Some(64));
        assert_eq!(flows("10.0.0.1/32", (9, 9), 1), Some(1));
        // A port more: every address meets every port.
        assert_eq!(flows("10.0.0.0/24", (1024, 2047), 1024), Some(1280));
        assert_eq!(flows("10.0.0.0/24", (1024, 1027), 1024), None);
    }

    #[test]
    fn the_result_is_read() {
        let text = "Params: count 1000  min_pkt_size: 60  max_pkt_size: 60\n\
            Current:\n     pkts-sofar: 1000  errors: 0\n\
            Result: OK: 50003(c49001+d1002) usec, 1000 (60byte,0frags)\n\
            \x20 19998pps 9Mb/sec (9599040bps) errors: 0\n";
        assert_eq!(parse(text), Some((1000, 50_003_000)));
        assert_eq!(parse("Result: Idle\n"), None);
    }
}
