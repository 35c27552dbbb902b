//! What the firewall costs a packet that comes to it, in nanoseconds: the slow path, one worker, nobody else.
//!
//! `cargo run --release -p throughway-firewall --example firewall-cost`
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "an example that prints figures")]

use std::sync::Arc;
use std::time::Instant;

use throughway_firewall::{
    Actions, AddressMatch, AddressRange, DefaultAction, Ending, Firewall, Matches, Options, PolicyConfig,
    PortMatch, Rule, Shared,
};
use throughway_packet::build::PacketBuilder;
use throughway_packet::{Headers, PortId, parse};
use throughway_session::Seed;
use throughway_vnf::{BATCH, Batch, Context, EventQueue, Function, Generations, Now, Packet};

const SESSIONS: u32 = 1 << 18;
const ROUNDS: usize = 5;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// A frame with its headers.
type Parsed = (Vec<u8>, Headers);

fn parsed(packet: &PacketBuilder) -> Parsed {
    let mut frame = packet.finish();
    // A SYN counts one: with sequence number 0 the rest of the conversation fits.
    if frame[47] & SYN != 0 {
        frame[38..42].fill(0);
    }
    let headers = parse(&frame, PortId(0)).unwrap();
    (frame, headers)
}

fn client(number: u32) -> [u8; 4] {
    let [_, a, b, c] = number.to_be_bytes();
    [10, a, b, c]
}

fn out(number: u32, flags: u8) -> Parsed {
    parsed(&PacketBuilder::ipv4(client(number), [198, 51, 100, 7]).tcp(4000, 80, flags))
}

fn back(number: u32, flags: u8) -> Parsed {
    parsed(&PacketBuilder::ipv4([198, 51, 100, 7], client(number)).tcp(80, 4000, flags))
}

/// A thousand rules that do not match, then one that does.
fn rules(ending: Ending) -> PolicyConfig {
    let list = |address: [u8; 4]| AddressMatch {
        ranges: vec![AddressRange::from(std::net::IpAddr::from(address))],
        ..AddressMatch::default()
    };
    let other = |number: u32| Rule {
        id: number,
        matches: Matches {
            source: Some(list([172, 16, (number >> 8) as u8, number as u8])),
            destination_ports: Some(PortMatch {
                ranges: vec![number as u16..=number as u16 + 3],
                ..PortMatch::default()
            }),
            ..Matches::default()
        },
        actions: Actions::default(),
    };
    let last = Rule { id: 0, matches: Matches::default(), actions: Actions { ending, ..Actions::default() } };
    PolicyConfig {
        rules: (1..=1000).map(other).chain([last]).collect(),
        default: DefaultAction::Drop,
        ..PolicyConfig::default()
    }
}

fn firewall(check_windows: bool, ending: Ending) -> Firewall {
    let options =
        Options { sessions: SESSIONS, half_open: SESSIONS, check_windows, ..Options::new(Seed([3, 4])) };
    let events = EventQueue::new(1).of_function(0);
    Firewall::new(Shared::new(options, rules(ending), Arc::new(Generations::default()), events).unwrap())
}

/// Nanoseconds a packet, in batches.
fn run(firewall: &mut Firewall, packets: &[Parsed]) -> f64 {
    let context = Context { now: Now(1 << 40) };
    let begin = Instant::now();
    for chunk in packets.chunks(BATCH) {
        let mut batch = Batch::new();
        for (frame, headers) in chunk {
            let _ = batch.push(Packet::new(frame, *headers));
        }
        firewall.process(&mut batch, &context);
    }
    begin.elapsed().as_nanos() as f64 / packets.len() as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn row(name: &str, measure: impl FnMut() -> f64) {
    let values: Vec<f64> = std::iter::repeat_with(measure).take(ROUNDS).collect();
    println!("{name:55} {:6.0}", median(values));
}

fn main() {
    // Scattered, so that neighbours in time are not neighbours in the table.
    let order = |number: u32| number.wrapping_mul(0x9e37_79b1) % SESSIONS;
    let all = |make: fn(u32, u8) -> Parsed, flags| -> Vec<Parsed> {
        (0..SESSIONS).map(|number| make(order(number), flags)).collect()
    };
    let (syns, answers, acks) = (all(out, SYN), all(back, SYN | ACK), all(out, ACK));
    println!("{SESSIONS} sessions, 1001 rules; median of {ROUNDS}, ns a packet");
    row("refused by a rule", || run(&mut firewall(false, Ending::Drop), &syns));
    row("invalid: no session, no SYN", || run(&mut firewall(false, Ending::Allow), &acks));
    row("opens a session", || run(&mut firewall(false, Ending::Allow), &syns));
    for check in [false, true] {
        let mut wall = firewall(check, Ending::Allow);
        let windows = if check { ", windows checked" } else { "" };
        run(&mut wall, &syns);
        let answered = run(&mut wall, &answers);
        println!("{:55} {answered:6.0}", format!("SYN ACK{windows}"));
        run(&mut wall, &acks);
        assert_eq!(wall.shared().overview().sessions, [0, SESSIONS, 0]);
        row(&format!("established{windows}"), || run(&mut wall, &acks));
    }
}
