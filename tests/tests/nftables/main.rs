//! The firewall against nftables: the same rules, the same packets, the same verdicts. What the two see differently on
//! purpose is in `docs/firewall-and-nftables.md`, and is kept out of the packets sent here.
//!
//! `THROUGHWAY_RULE_SETS=1000` tries more rule sets; `THROUGHWAY_RULE_SEED=N` begins with that one.

#![allow(unreachable_pub, reason = "files of one test")]

#[path = "../../../dataplane/tests/common/mod.rs"]
mod common;
mod kernel;
mod probes;
mod rules;

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::net::IpAddr;

use common::{Bench, LAN, WAN};
use kernel::{BOX, HOST, Kernel};
use probes::{Probe, Probes, mark, marked};
use rules::{Random, RuleSet};
use throughway::host::{HostFacts, NeighbourFacts};
use throughway_packet::build::PacketBuilder;
use throughway_tests::privileged;

/// Lets this through: it tells that everything before it has been judged.
const FENCE: &str = "ip saddr 203.0.113.1";
const FENCE_NUMBER: u32 = u32::MAX;

fn facts() -> HostFacts {
    let names = ["lan", "wan", "dmz"].map(|name| (name.to_owned(), format!("{name}0")));
    let mut facts = HostFacts::invented(names);
    for (side, port) in facts.ports.iter_mut().take(2).enumerate() {
        let net = side + 1;
        port.mac = BOX[side];
        port.addresses.push((format!("192.0.{net}.1").parse().expect("an address"), 24));
        port.addresses.push((format!("fd99:{net}::1").parse().expect("an address"), 64));
        facts.local.extend(port.addresses.iter().map(|(address, _)| *address));
        for address in [format!("192.0.{net}.10"), format!("fd99:{net}::10")] {
            let address: IpAddr = address.parse().expect("an address");
            let state = "reachable".to_owned();
            facts.neighbours.push(NeighbourFacts { port: side as u16, address, mac: HOST[side], state });
        }
    }
    facts
}

/// The probes that come out on the other side than they went in.
fn throughway(set: &RuleSet, probes: &[Probe]) -> HashSet<u32> {
    let mut bench = Bench::new(&set.yaml(), &facts());
    let mut passed = HashSet::new();
    for probe in probes {
        for frame in &probe.frames {
            bench.receive([LAN, WAN][probe.side], frame);
        }
        passed.extend(bench.sent([WAN, LAN][probe.side]).iter().filter_map(|frame| marked(frame)));
        bench.sent([LAN, WAN][probe.side]);
    }
    bench.assert_balance();
    passed
}

fn nftables(kernel: &Kernel, set: &RuleSet, zone: u16, probes: &[Probe]) -> HashSet<u32> {
    kernel.nft(&set.nft(zone, FENCE));
    for side in [0, 1] {
        kernel.received(side);
    }
    let mut passed = HashSet::new();
    for probe in probes {
        for frame in &probe.frames {
            kernel.send(probe.side, frame);
        }
        passed.extend(kernel.received(1 - probe.side).iter().filter_map(|frame| marked(frame)));
        kernel.received(probe.side);
    }
    // Both ways: what is judged in order is judged before the last.
    let fence = PacketBuilder::ipv4([203, 0, 113, 1], [10, 2, 0, 250]).ethernet(BOX[0], HOST[0]).udp(9, 9);
    kernel.send(0, &fence.payload(&mark(FENCE_NUMBER)).finish());
    let late = kernel.received_until(1, |frame| marked(frame) == Some(FENCE_NUMBER));
    passed.extend(late.iter().chain(&kernel.received(0)).filter_map(|frame| marked(frame)));
    passed.remove(&FENCE_NUMBER);
    passed
}

fn variable(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[test]
fn verdicts_agree() {
    if !privileged() {
        return;
    }
    let (sets, first) = (variable("THROUGHWAY_RULE_SETS", 50), variable("THROUGHWAY_RULE_SEED", 1));
    let kernel = Kernel::new("random");
    let mut counts: BTreeMap<&str, [u64; 3]> = BTreeMap::new();
    let (mut rules, mut differences) = (0, Vec::new());
    for seed in first..first + sets {
        let mut random = Random(seed);
        let set = RuleSet::random(&mut random);
        let probes = Probes::of(&set, &mut random);
        rules += set.rules.len();
        let ours = throughway(&set, &probes);
        let theirs = nftables(&kernel, &set, seed as u16, &probes);
        for (number, probe) in (0_u32..).zip(&probes) {
            let verdicts = [ours.contains(&number), theirs.contains(&number)];
            let count = counts.entry(probe.kind).or_default();
            count[0] += 1;
            count[1] += u64::from(verdicts[1]);
            if verdicts[0] != verdicts[1] {
                count[2] += 1;
                differences.push(format!(
                    "set {seed}, probe {number}: Throughway {}, nftables {}: {}",
                    verdicts[0], verdicts[1], probe.text
                ));
            }
        }
        if let Some(difference) = differences.first().filter(|_| differences.len() > 20) {
            panic!("{difference}\n{:#?}\n{}\n{}", &differences, set.yaml(), set.nft(seed as u16, FENCE));
        }
    }
    let mut err = std::io::stderr().lock();
    let _ = writeln!(err, "{sets} rule sets, {rules} rules; packets: sent, passed, judged differently");
    for (kind, [sent, passed, differ]) in &counts {
        let _ = writeln!(err, "  {kind}: {sent}, {passed}, {differ}");
    }
    assert!(differences.is_empty(), "{differences:#?}");
    let edges = counts["edge"];
    assert!(edges[1] * 10 > edges[0] && edges[1] * 10 < edges[0] * 9, "packets that tell nothing: {edges:?}");
}

#[test]
fn what_differs_does_so_as_documented() {
    if !privileged() {
        return;
    }
    let kernel = Kernel::new("documented");
    for (number, case) in (1_u16..).zip(probes::documented()) {
        let sorted = |passed: HashSet<u32>| passed.into_iter().collect::<std::collections::BTreeSet<_>>();
        let ours = sorted(throughway(&case.set, &case.probes));
        let theirs = sorted(nftables(&kernel, &case.set, number, &case.probes));
        assert!(ours.iter().eq(&case.ours), "{}: Throughway lets {ours:?} pass", case.text);
        assert!(theirs.iter().eq(&case.theirs), "{}: nftables lets {theirs:?} pass", case.text);
    }
}
