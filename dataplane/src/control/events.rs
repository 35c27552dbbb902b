//! What functions tell, written down: a line of JSON each on standard output, which is the journal under systemd.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use throughway_config::value::Protocol;
use throughway_vnf::events::{Event, Fate, PortBlock, RuleLog, What};

use super::show::end;
use crate::assemble::state::States;
use crate::clock;

/// How long an event waits at most before it is written.
const PERIOD: Duration = Duration::from_millis(50);

/// The thread that writes; ends when dropped, after what was told before.
#[derive(Debug)]
pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts writing what functions tell. `interfaces` are the names of the ports.
    pub fn start(states: Arc<States>, interfaces: Vec<String>) -> std::io::Result<Writer> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("events".to_owned()).spawn(move || {
            loop {
                let last = stopped.load(Ordering::Acquire);
                write(&states, &interfaces);
                if last {
                    return;
                }
                std::thread::sleep(PERIOD);
            }
        })?;
        Ok(Writer { stop, thread: Some(thread) })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Writes what waits to be written. Events come out in their order, whoever takes them.
pub fn write(states: &States, interfaces: &[String]) {
    let mut out = std::io::stdout().lock();
    while let Some(event) = states.events().take() {
        let function = states.name_of(event.function).unwrap_or_default();
        // Nobody reads a closed pipe; the events are taken all the same.
        let _ = writeln!(out, "{}", line(&event, &function, states, interfaces));
    }
    let _ = out.flush();
}

/// Seconds since 1970 of a moment of the process's clock.
fn unix_seconds(event: &Event) -> f64 {
    let ago = Duration::from_nanos(clock::now().0.saturating_sub(event.at.0));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (now.saturating_sub(ago).as_micros() as f64) / 1e6
}

fn line(event: &Event, function: &str, states: &States, interfaces: &[String]) -> Value {
    match &event.what {
        What::Rule(log) => {
            let line = states.origin(function, log.rule).map(|origin| origin.line);
            let mut entry = rule(log, line, unix_seconds(event), function, interfaces);
            if let Some(entry) = entry.as_object_mut() {
                entry.insert("rule".to_owned(), states.log_label(function, log.log).into());
            }
            entry
        }
        What::Block(block) => port_block(block, unix_seconds(event), function),
        _ => json!({ "time": unix_seconds(event), "function": function }),
    }
}

fn rule(log: &RuleLog, line: Option<u32>, time: f64, function: &str, interfaces: &[String]) -> Value {
    let flow = &log.flow;
    let fate = match log.fate {
        Fate::Allowed => "allowed",
        Fate::Dropped => "dropped",
        Fate::Rejected => "rejected",
        Fate::Undecided => "undecided",
    };
    json!({
        "time": time,
        "event": "rule",
        "function": function,
        "line": line,
        "fate": fate,
        "interface": interfaces.get(usize::from(flow.ingress)),
        "protocol": Protocol::new(flow.protocol).to_string(),
        "source": end(flow.family, &flow.source, flow.source_port),
        "destination": end(flow.family, &flow.destination, flow.destination_port),
        "length": log.len,
        "tcp_flags": log.tcp_flags,
        "icmp": log.icmp,
        "suppressed": log.suppressed,
    })
}

/// Who has which ports outside, from when or until when (RFC 6888, section 4): no destinations (REQ-12).
fn port_block(block: &PortBlock, time: f64, function: &str) -> Value {
    let address = |octets: &[u8; 16]| std::net::Ipv6Addr::from(*octets).to_canonical().to_string();
    json!({
        "time": time,
        "event": "port-block",
        "function": function,
        "action": if block.allocated { "allocated" } else { "released" },
        "inside": address(&block.inside),
        "outside": address(&block.outside),
        "first_port": block.first,
        "last_port": block.last,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use throughway_shared::flow::{FAMILY_IPV4, FlowKey, mapped};

    #[test]
    fn a_log_line_names_rule_and_packet() {
        let flow = FlowKey {
            source: mapped([10, 0, 0, 1]),
            destination: mapped([192, 0, 2, 9]),
            source_port: 4000u16.to_be_bytes(),
            destination_port: 22u16.to_be_bytes(),
            ingress: 1,
            protocol: 6,
            family: FAMILY_IPV4,
            ..FlowKey::default()
        };
        let log = RuleLog {
            rule: 14,
            log: 0,
            fate: Fate::Dropped,
            flow,
            len: 60,
            tcp_flags: 2,
            icmp: [0; 2],
            suppressed: 7,
        };
        let line = rule(&log, Some(14), 1.5, "edge", &["lan".to_owned(), "wan".to_owned()]);
        assert_eq!(line["function"], "edge");
        assert_eq!(
            (&line["line"], &line["fate"], &line["interface"]),
            (&14.into(), &"dropped".into(), &"wan".into())
        );
        assert_eq!(
            (&line["source"], &line["destination"]),
            (&"10.0.0.1:4000".into(), &"192.0.2.9:22".into())
        );
        assert_eq!((&line["suppressed"], &line["protocol"]), (&7.into(), &"tcp".into()));
    }

    #[test]
    fn a_block_names_who_has_which_ports() {
        let inside = mapped([100, 64, 0, 7]);
        let outside = mapped([203, 0, 113, 8]);
        let block = PortBlock { inside, outside, first: 1024, last: 1535, allocated: true };
        let line = port_block(&block, 2.5, "cgnat");
        let expected = "{\"time\":2.5,\"event\":\"port-block\",\"function\":\"cgnat\",\"action\":\"allocated\",\
            \"inside\":\"100.64.0.7\",\"outside\":\"203.0.113.8\",\"first_port\":1024,\"last_port\":1535}";
        assert_eq!(line.to_string(), expected);
        assert_eq!(port_block(&PortBlock { allocated: false, ..block }, 2.5, "cgnat")["action"], "released");
    }
}
