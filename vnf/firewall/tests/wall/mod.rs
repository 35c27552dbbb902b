//! A firewall with a clock: frames in, verdicts out.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use throughway_firewall::show::SessionView;
use throughway_firewall::{
    Actions, AddressMatch, AddressRange, DefaultAction, Ending, Firewall, LogConfig, Matches, Options,
    PolicyConfig, Rule, Shared, State, States,
};
use throughway_packet::build::PacketBuilder;
use throughway_packet::{PortId, parse};
use throughway_session::{Cursor, Seed};
use throughway_vnf::credit::FunctionTag;
use throughway_vnf::{
    Context, DropReason, EventQueue, Function, Generations, Now, Packet, Prefix, Seen, Verdict,
};

pub const SECOND: u64 = 1_000_000_000;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// Both ends of a conversation, in both families: the first is inside and may open, the second may not.
pub const ENDS: [(&str, &str); 2] = [("10.0.0.1", "198.51.100.7"), ("2001:db8::1", "2001:db8:1::7")];

pub const INVALID: Verdict = Verdict::Drop(DropReason::InvalidState);
pub const DEFAULT: Verdict = Verdict::Drop(DropReason::FirewallDefault);
pub const RULE: Verdict = Verdict::Drop(DropReason::FirewallRule);
pub const PASS: Verdict = Verdict::Continue;

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn between(source: &str, destination: &str) -> PacketBuilder {
    PacketBuilder::between(ip(source), ip(destination))
}

pub fn prefix(text: &str) -> AddressMatch {
    let (address, length) = text.split_once('/').unwrap();
    let prefix = Prefix::new(ip(address), length.parse().unwrap()).unwrap();
    AddressMatch { ranges: vec![AddressRange::from(prefix)], ..AddressMatch::default() }
}

pub fn actions(ending: Ending) -> Actions {
    Actions { ending, count: true, ..Actions::default() }
}

pub fn rule(id: u32, matches: Matches, ending: Ending) -> Rule {
    Rule { id, matches, actions: actions(ending) }
}

pub fn from(text: &str) -> Matches {
    Matches { source: Some(prefix(text)), ..Matches::default() }
}

pub fn in_state(states: &[State]) -> Matches {
    Matches { states: Some(States::of(states)), ..Matches::default() }
}

/// The inside may open whatever it likes; nobody else may anything.
pub fn inside_out() -> PolicyConfig {
    PolicyConfig {
        rules: vec![
            rule(1, from("10.0.0.0/8"), Ending::Allow),
            rule(2, from("2001:db8::/64"), Ending::Allow),
        ],
        default: DefaultAction::Drop,
        logs: vec![LogConfig { label: "log".into(), per_second: 1, burst: 2 }],
        ..PolicyConfig::default()
    }
}

/// What came of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent {
    pub verdict: Verdict,
    pub repeatable: bool,
    pub credit: u64,
    pub silence: u64,
    pub slots: usize,
}

pub struct Wall {
    pub shared: Arc<Shared>,
    pub firewall: Firewall,
    pub generations: Arc<Generations>,
    pub events: Arc<EventQueue>,
    pub now: Now,
}

pub fn options() -> Options {
    Options { sessions: 1000, half_open: 100, datagrams: 16, ..Options::new(Seed([1, 2])) }
}

impl Wall {
    pub fn new(options: Options, rules: PolicyConfig) -> Wall {
        let generations = Arc::new(Generations::default());
        let events = EventQueue::new(64);
        let shared = Shared::new(options, rules, Arc::clone(&generations), events.of_function(3)).unwrap();
        let firewall = Firewall::new(Arc::clone(&shared));
        Wall { shared, firewall, generations, events, now: Now(1000 * SECOND) }
    }

    pub fn simple() -> Wall {
        Wall::new(options(), inside_out())
    }

    /// Time passes, with ageing as a worker would do it.
    pub fn wait(&mut self, time: Duration) {
        self.now = Now(self.now.0 + time.as_nanos() as u64);
        for _ in 0..100 {
            self.firewall.tick(&Context { now: self.now });
        }
    }

    pub fn on(&mut self, port: u16, frame: &[u8]) -> Sent {
        let headers = parse(frame, PortId(port)).unwrap();
        let explained = self.firewall.explain(&Packet::new(frame, headers), self.now);
        let mut packet = Packet::new(frame, headers);
        packet.pass_on(FunctionTag(9));
        let verdict = self.firewall.judge(&mut packet, &Context { now: self.now });
        assert_eq!(explained.verdict, verdict, "explained: {explained:?}");
        let credit = packet.credits().iter().next().map_or(0, |credit| credit.id());
        Sent {
            verdict,
            repeatable: packet.is_repeatable(),
            credit,
            silence: packet.silence(),
            slots: packet.dependencies().slots().count(),
        }
    }

    pub fn send(&mut self, packet: &PacketBuilder) -> Verdict {
        self.on(0, &packet.finish()).verdict
    }

    pub fn raw(&mut self, frame: &[u8]) -> Verdict {
        self.on(0, frame).verdict
    }

    pub fn sessions(&self) -> Vec<SessionView> {
        let mut all = Vec::new();
        let mut cursor = Some(Cursor::default());
        while let Some(at) = cursor {
            cursor = self.shared.sessions(at, |session| all.push(session));
        }
        all
    }

    pub fn state(&self) -> &'static str {
        let sessions = self.sessions();
        assert_eq!(sessions.len(), 1, "{sessions:?}");
        sessions[0].state
    }

    /// What a flow cache would tell.
    pub fn settle(&mut self, credit: u64, packets: u64) {
        self.firewall.settle(credit, &Seen { packets, bytes: packets * 100, last: self.now });
    }

    /// Opens a TCP connection between two ends; the opener has this port.
    pub fn establish(&mut self, (a, b): (&str, &str), port: u16) {
        assert_eq!(self.send(&between(a, b).tcp(port, 80, SYN)), PASS);
        assert_eq!(self.send(&between(b, a).tcp(80, port, SYN | ACK)), PASS);
        assert_eq!(self.send(&between(a, b).tcp(port, 80, ACK)), PASS);
    }

    pub fn packets_of_rule(&self, rule: Option<u32>) -> u64 {
        self.shared.rules().iter().filter(|view| view.rule == rule).map(|view| view.stats.packets).sum()
    }
}
