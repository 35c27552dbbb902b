//! A box with three ports in memory, made from a configuration text as the service makes it.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a fixture that cannot be made is a failed test")]

pub mod namespace;

use std::sync::Arc;

use crossbeam::channel::{Receiver, bounded};
use throughway::assemble::state::States;
use throughway::assemble::{Blueprint, Figures};
use throughway::host::{HostFacts, NeighbourFacts};
use throughway::stats::WorkerStats;
use throughway::worker::{PortSettings, Setup, Wanted, Worker};
use throughway_config::Config;
use throughway_flow::Generations;
use throughway_io::PacketIo;
use throughway_io::memory::MemoryIo;
use throughway_packet::PortId;
use throughway_vnf::{DropReason, Now};

pub const LAN: PortId = PortId(0);
pub const WAN: PortId = PortId(1);
pub const DMZ: PortId = PortId(2);

pub const HOST_LAN: [u8; 6] = [2, 0, 0, 0, 1, 0x10];
pub const HOST_WAN: [u8; 6] = [2, 0, 0, 0, 2, 0x10];

pub const CONFIG: &str = "\
interfaces: { lan: { device: lan0 }, wan: { device: wan0 }, dmz: { device: dmz0 } }
functions:
  classes: { marker: { rules: [ { protocol: udp, to-port: 5060, dscp: ef } ] } }
  core: { router: { routes: [ { prefix: 198.51.100.0/24, blackhole: true } ] } }
chains:
  outbound: { from: lan, run: [classes, core] }
  inbound: { from: [wan, dmz], run: [core] }
";

/// The interfaces of a configuration: number *n* has 10.*n*.0.1/24 and fd00:*n*::1/64, and known neighbours at .10 with `mac(n)`.
pub fn facts_of(config: &Config, mac: impl Fn(usize) -> [u8; 6]) -> HostFacts {
    let names = config.interfaces.iter().map(|port| (port.name.to_string(), port.device.to_string()));
    let mut facts = HostFacts::invented(names);
    for (number, port) in facts.ports.iter_mut().enumerate() {
        port.addresses.push((format!("10.{number}.0.1").parse().unwrap(), 24));
        port.addresses.push((format!("fd00:{number}::1").parse().unwrap(), 64));
        facts.local.extend(port.addresses.iter().map(|(address, _)| *address));
        for address in [format!("10.{number}.0.10"), format!("fd00:{number}::10")] {
            facts.neighbours.push(NeighbourFacts {
                port: number as u16,
                address: address.parse().unwrap(),
                mac: mac(number),
                state: "reachable".to_owned(),
            });
        }
    }
    facts
}

/// Three ports with an address in both families each, and a known neighbour at lan and wan. The dmz has MTU 1400.
pub fn facts() -> HostFacts {
    let names = ["lan", "wan", "dmz"].map(|name| (name.to_owned(), format!("{name}0")));
    let mut facts = HostFacts::invented(names);
    for (index, port) in facts.ports.iter_mut().enumerate() {
        let net = index + 1;
        port.addresses.push((format!("10.{net}.0.1").parse().unwrap(), 24));
        port.addresses.push((format!("fd00:{net}::1").parse().unwrap(), 64));
        facts.local.extend(port.addresses.iter().map(|(address, _)| *address));
    }
    facts.ports[2].mtu = 1400;
    for (port, mac) in [(0, HOST_LAN), (1, HOST_WAN)] {
        for address in [format!("10.{}.0.10", port + 1), format!("fd00:{}::10", port + 1)] {
            let address = address.parse().unwrap();
            facts.neighbours.push(NeighbourFacts { port, address, mac, state: "reachable".to_owned() });
        }
    }
    facts
}

pub struct Bench {
    pub worker: Worker<MemoryIo>,
    pub stats: Arc<WorkerStats>,
    pub blueprint: Blueprint,
    pub states: States,
    pub wanted: Receiver<Wanted>,
    pub figures: Figures,
    pub generations: Arc<Generations>,
    pub now: Now,
}

impl Bench {
    pub fn new(config: &str, facts: &HostFacts) -> Self {
        Self::with_settings(config, facts, vec![PortSettings::default(); 3])
    }

    pub fn with_settings(config: &str, facts: &HostFacts, settings: Vec<PortSettings>) -> Self {
        Self::made(config, facts, settings, Generations::default())
    }

    /// With generations that others read, too.
    pub fn over(config: &str, facts: &HostFacts, generations: Generations) -> Self {
        Self::made(config, facts, vec![PortSettings::default(); 3], generations)
    }

    /// With all of it.
    pub fn made(
        config: &str,
        facts: &HostFacts,
        settings: Vec<PortSettings>,
        generations: Generations,
    ) -> Self {
        let (config, _) = Config::parse("test.yaml", config).unwrap();
        let generations = Arc::new(generations);
        let states = States::new(1, Arc::clone(&generations));
        let blueprint = Blueprint::new(&config, facts, &states).unwrap();
        let mut figures = Figures::default();
        let (wanted, wanted_from) = bounded(64);
        let stats = WorkerStats::new(settings.len().max(3));
        let io = MemoryIo::new(3, 4096, 2048);
        let program = blueprint.program(0, &mut figures);
        let setup = Setup {
            settings,
            stats: Arc::clone(&stats),
            wanted,
            generations: Arc::clone(&generations),
            flows: config.workers.flows as usize,
            seed: 1,
        };
        let worker = Worker::new(io, program, setup);
        Bench {
            worker,
            stats,
            blueprint,
            states,
            wanted: wanted_from,
            figures,
            generations,
            now: Now(1_000_000_000),
        }
    }

    /// Lets a packet in and runs one round.
    pub fn receive(&mut self, port: PortId, frame: &[u8]) {
        assert!(self.worker.io().inject(port, frame));
        self.round();
    }

    pub fn round(&mut self) -> usize {
        self.now.0 += 2_000_000;
        self.worker.round(self.now)
    }

    pub fn sent(&mut self, port: PortId) -> Vec<Vec<u8>> {
        self.worker.io().sent(port)
    }

    pub fn drops(&self, port: PortId, reason: DropReason) -> u64 {
        self.stats.ports[port.index()].drops[reason as usize].get()
    }

    /// Everything that came in was sent, is held, or was dropped for a counted reason; and no frame is missing.
    pub fn assert_balance(&mut self) {
        let received: u64 = self.stats.ports.iter().map(|port| port.received.packets.get()).sum();
        let sent: u64 = self.stats.ports.iter().map(|port| port.sent.packets.get()).sum();
        let dropped: u64 =
            self.stats.ports.iter().flat_map(|port| &port.drops).map(|counter| counter.get()).sum();
        let held = self.stats.held.get() + self.stats.held_fragments.get();
        let originated = self.stats.originated.get();
        let (fragments, fragmented) = (self.stats.fragments.get(), self.stats.fragmented.get());
        assert_eq!(
            received + originated + fragments,
            sent + dropped + held + fragmented,
            "packets are conserved"
        );
        let outstanding = self.worker.io().outstanding() as u64;
        assert_eq!(outstanding, held, "frames are neither leaked nor given back twice");
    }
}
