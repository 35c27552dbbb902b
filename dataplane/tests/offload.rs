//! Flows that the XDP program executes: which they are, and that they count in every statistic. The program is played by a
//! model of it over the same table.

#![allow(clippy::unwrap_used, reason = "a failed test")]

mod common;

use std::sync::Arc;

use common::{Bench, CONFIG, HOST_LAN, LAN, WAN, facts};
use crossbeam::channel::{Receiver, bounded};
use throughway::capture::{Filter, Ring};
use throughway::stats::FastStats;
use throughway::worker::inspect::{FlowFilter, Inspection};
use throughway::worker::offload::{Egress, Offload, Stays};
use throughway::worker::tap::Tap;
use throughway_config::FastPath;
use throughway_flow::{Generations, Slot};
use throughway_packet::build::PacketBuilder;
use throughway_packet::parse;
use throughway_shared::fast::GENERATION_WORDS;
use throughway_vnf::DropReason;
use throughway_xdp::{FastFlows, FastRefusal, SharedWords};

const SECOND: u64 = 1_000_000_000;

/// A data plane whose XDP program is the model.
struct Fast {
    bench: Bench,
    words: Arc<SharedWords>,
    egress: Arc<Egress>,
    executed: u64,
}

impl Fast {
    fn new(mode: FastPath, room: u32) -> Fast {
        Fast::of(CONFIG, mode, room)
    }

    fn of(config: &str, mode: FastPath, room: u32) -> Fast {
        let words = Arc::new(SharedWords::in_memory(GENERATION_WORDS));
        let mut bench = Bench::over(config, &facts(), Generations::over(words.clone()).unwrap());
        let egress = Arc::new(Egress::default());
        (0..3).for_each(|port| egress.set(port, true));
        bench.worker.offload(Offload::new(FastFlows::in_memory(room), vec![mode; 3], egress.clone()));
        Fast { bench, words, egress, executed: 0 }
    }

    /// A packet comes in; whether it stayed in the driver.
    fn packet(&mut self, flow: u16) -> bool {
        let frame = frame(flow);
        let headers = parse(&frame, LAN).unwrap();
        let table = self.bench.worker.offloaded().unwrap().table();
        let now = self.bench.now.0;
        let executed =
            table.pretend(&headers.key, headers.packet_len(), now, (*self.words).as_ref()).is_some();
        if executed {
            self.executed += 1;
        } else {
            self.bench.receive(LAN, &frame);
            // The frames are needed again.
            self.bench.sent(WAN);
            // Flows are handed over when there is nothing to do.
            self.bench.round();
        }
        executed
    }

    fn wait(&mut self, ns: u64) {
        for _ in 0..ns / (SECOND / 50) {
            self.bench.now.0 += SECOND / 50;
            self.bench.round();
        }
    }

    fn stays(&self) -> Vec<Option<Stays>> {
        let (answer, found) = bounded(1);
        let mut next = Some(Inspection::new(FlowFilter::default(), 100_000, answer));
        while let Some(inspection) = next {
            next = self.bench.worker.inspect(inspection, self.bench.now);
        }
        found.recv().unwrap().iter().map(|found| found.stays).collect()
    }
}

/// Flows 900 to 999 go to a black hole.
fn frame(flow: u16) -> Vec<u8> {
    let to = if (900..1000).contains(&flow) { [198, 51, 100, 1] } else { [10, 2, 0, 10] };
    let builder = PacketBuilder::ipv4([10, 1, 0, 10], to).ethernet([2, 0, 0, 0, 0, 0], HOST_LAN);
    builder.udp(flow, 53).payload(&[7; 20]).finish()
}

#[test]
fn a_flow_is_handed_over_when_it_has_proven_itself_or_at_once() {
    for (mode, walked) in [(FastPath::Auto, 3), (FastPath::Eager, 1)] {
        let mut fast = Fast::new(mode, 64);
        let mut first = 0;
        while !fast.packet(1) {
            first += 1;
            assert!(first < 10);
        }
        assert_eq!(first, walked, "{mode:?}");
    }
    let mut off = Fast::new(FastPath::Off, 64);
    assert!((0..100).all(|_| !off.packet(1)));
    assert_eq!(off.stays(), [Some(Stays::Off)]);
}

#[test]
fn everything_counts_as_if_the_worker_had_seen_it() {
    let figures = |mode| {
        let mut fast = Fast::new(mode, 256);
        for _ in 0..50 {
            (0..40).chain(900..910).for_each(|flow| {
                fast.packet(flow);
            });
            fast.wait(SECOND / 10);
        }
        fast.wait(2 * SECOND);
        fast.bench.assert_balance();
        let port = |port: usize| {
            let stats = &fast.bench.stats.ports[port];
            [&stats.received, &stats.sent].map(|volume| (volume.packets.get(), volume.bytes.get()))
        };
        let chains: Vec<_> = fast
            .bench
            .figures
            .chains()
            .iter()
            .map(|chain| {
                let volume = |volume: &throughway::stats::Volume| (volume.packets.get(), volume.bytes.get());
                (chain.name.clone(), volume(&chain.stats.entered), volume(&chain.stats.left))
            })
            .collect();
        let functions: Vec<_> = fast
            .bench
            .figures
            .functions()
            .iter()
            .map(|function| {
                (function.name.clone(), function.stats.packets.get(), function.stats.dropped.get())
            })
            .collect();
        let drops = fast.bench.drops(LAN, DropReason::BlackholeRoute);
        (fast.executed, (port(0), port(WAN.index()), chains, functions, drops))
    };
    let (none, without) = figures(FastPath::Off);
    assert_eq!(none, 0);
    for (mode, least) in [(FastPath::Auto, 2300), (FastPath::Eager, 2400)] {
        let (executed, with) = figures(mode);
        assert!(executed >= least, "{mode:?}: {executed}");
        assert_eq!(with, without, "{mode:?}");
    }
}

#[test]
fn a_flow_whose_egress_is_not_fit_stays() {
    let mut fast = Fast::new(FastPath::Auto, 64);
    fast.egress.set(WAN.0, false);
    assert!((0..50).all(|_| !fast.packet(1)));
    assert_eq!(fast.stays(), [Some(Stays::Egress)]);
    // A drop leaves by no device.
    assert!((0..50).any(|_| fast.packet(900)));
    fast.egress.set(WAN.0, true);
    fast.wait(SECOND / 2);
    assert!((0..50).any(|_| fast.packet(1)));
    assert_eq!(fast.stays(), [None, None]);
}

/// A packet of each of so many flows.
fn first_packets(flows: u32) -> Vec<Vec<u8>> {
    let packets = (0..flows).map(|number| {
        let [_, a, b, c] = number.to_be_bytes();
        let builder =
            PacketBuilder::ipv4([10, a, b, c], [10, 2, 0, 10]).ethernet([2, 0, 0, 0, 0, 0], HOST_LAN);
        builder.udp(1000, 53).payload(&[7; 20]).finish()
    });
    packets.collect()
}

#[test]
fn many_flows_are_handed_over_though_packets_never_end_and_all_counts_arrive_in_time() {
    // More than are handed over in one round by far, and than those of which the cache is told in every turn.
    const FLOWS: u32 = 70_000;
    let mut fast = Fast::of(&format!("{CONFIG}workers: {{ flows: 100000 }}"), FastPath::Eager, 100_000);
    let frames = first_packets(FLOWS);
    let used = |fast: &Fast| fast.bench.worker.offloaded().unwrap().table().used();
    let mut most = 0;
    for frames in frames.chunks(64).chain(std::iter::repeat_n(&frames[..1], 30)) {
        let before = used(&fast);
        frames.iter().for_each(|frame| assert!(fast.bench.worker.io().inject(LAN, frame)));
        fast.bench.round();
        fast.bench.sent(WAN);
        most = most.max(used(&fast) - before);
    }
    let handed_over = used(&fast);
    assert!(handed_over * 100 > FLOWS as usize * 99, "{handed_over} handed over, {most} in a round");
    assert!(most <= 256, "{most} in one round");
    let executed = execute(&fast, &frames);
    assert_eq!(executed, handed_over as u64);
    // No session waits for a sign of life, so these flows are visited in every other lap.
    fast.wait(throughway_vnf::credit::HARVEST);
    let told = fast.bench.stats.fast.packets.get();
    assert!((executed / 2..executed).contains(&told), "{told} of {executed}");
    fast.wait(throughway_vnf::credit::HARVEST);
    assert_eq!(fast.bench.stats.fast.packets.get(), executed);
    let (answer, found) = bounded(1);
    let mut next = Some(Inspection::new(FlowFilter::default(), FLOWS as usize, answer));
    while let Some(inspection) = next {
        next = fast.bench.worker.inspect(inspection, fast.bench.now);
    }
    let shown: u64 = found.recv().unwrap().iter().map(|found| found.flow.packets).sum();
    // And 30 hits; a flow where one turn ends and the next begins may be told one turn later.
    assert!(
        (executed..=executed + 30).contains(&shown),
        "{shown} of {executed}: the cache by the turn after"
    );
}

/// A data plane with room for so many flows in the driver, and that many flows there or as many as there is room for; and a frame of each.
fn crowded(flows: u32, cached: u32, room: u32) -> (Fast, Vec<Vec<u8>>) {
    let mut fast = Fast::of(&format!("{CONFIG}workers: {{ flows: {cached} }}"), FastPath::Eager, room);
    let frames = first_packets(flows);
    // No time goes by, so that nothing is told yet.
    let begun = fast.bench.now;
    for frames in frames.chunks(64) {
        frames.iter().for_each(|frame| assert!(fast.bench.worker.io().inject(LAN, frame)));
        for _ in 0..3 {
            fast.bench.now = begun;
            fast.bench.round();
            fast.bench.sent(WAN);
        }
    }
    (fast, frames)
}

/// Whether the program executes a frame.
fn executes(fast: &Fast, frame: &[u8]) -> bool {
    let table = fast.bench.worker.offloaded().unwrap().table();
    let headers = parse(frame, LAN).unwrap();
    let words = (*fast.words).as_ref();
    table.pretend(&headers.key, headers.packet_len(), fast.bench.now.0, words).is_some()
}

/// Packets of these frames that the program executes.
fn execute(fast: &Fast, frames: &[Vec<u8>]) -> u64 {
    frames.iter().filter(|frame| executes(fast, frame)).count() as u64
}

/// Packets of all flows, as the cache tells them.
fn shown(fast: &Fast, flows: usize) -> u64 {
    let (answer, found) = bounded(1);
    let mut next = Some(Inspection::new(FlowFilter::default(), flows, answer));
    while let Some(inspection) = next {
        next = fast.bench.worker.inspect(inspection, fast.bench.now);
    }
    found.recv().unwrap().iter().map(|found| found.flow.packets).sum()
}

#[test]
fn a_flow_that_is_driven_out_takes_no_count_with_it() {
    // So many that not all are told in each turn, and more than there is room for: the lightest have to go.
    let (mut fast, frames) = crowded(72_000, 100_000, 68_000);
    fast.bench.now.0 += 3 * SECOND / 2;
    let executed = execute(&fast, &frames);
    assert!(executed > 66_000, "{executed}");
    fast.wait(throughway_vnf::credit::FIGURES);
    assert!(fast.bench.stats.fast.driven_out.get() > 200, "{}", fast.bench.stats.fast.driven_out.get());
    assert_eq!(fast.bench.stats.fast.packets.get(), executed);
    assert_eq!(shown(&fast, frames.len()), executed);
}

#[test]
fn the_few_that_find_no_place_in_a_full_table_drive_nobody_out() {
    let (mut fast, frames) = crowded(65_536, 100_000, 65_536);
    let stayed = |fast: &Fast, why| {
        let place = FastStats::STAYS.iter().position(|label| *label == why).unwrap();
        fast.bench.stats.fast.stays[place].get()
    };
    let crowded = stayed(&fast, "crowded");
    assert!((1..65).contains(&crowded) && stayed(&fast, "full") == 0, "{crowded}");
    let mut heavy = &frames[0];
    for _ in 0..10 {
        fast.bench.now.0 += SECOND;
        // They come to the worker, and are nominated again and again.
        let (_, left): (Vec<_>, Vec<_>) = frames.iter().partition(|frame| executes(&fast, frame));
        assert_eq!(left.len() as u64, crowded);
        for frame in left {
            fast.bench.receive(LAN, frame);
            fast.bench.sent(WAN);
            heavy = frame;
        }
        fast.wait(SECOND);
    }
    assert_eq!(fast.bench.stats.fast.driven_out.get(), 0);
    let is_crowded = |stays: &&Option<Stays>| **stays == Some(Stays::Refused(FastRefusal::Crowded));
    assert_eq!(fast.stays().iter().filter(is_crowded).count() as u64, crowded);
    // But if one of them is heavy, somebody makes way who has been silent since.
    fast.wait(SECOND);
    for _ in 0..200 {
        if !executes(&fast, heavy) {
            fast.bench.receive(LAN, heavy);
            fast.bench.sent(WAN);
            fast.bench.round();
        }
    }
    assert!(executes(&fast, heavy));
    assert_eq!(fast.bench.stats.fast.driven_out.get(), 1);
    fast.wait(throughway_vnf::credit::FIGURES);
    // What came to the worker is in the cache's figures, too.
    let told = fast.bench.stats.fast.packets.get();
    let at_worker = shown(&fast, frames.len()) - told;
    assert!((1..1000).contains(&at_worker), "{at_worker} beside {told}");
}

#[test]
fn a_worker_does_not_sleep_while_flows_are_due() {
    // Many for a cache so small, of which a few buckets are due.
    let (mut fast, frames) = crowded(7000, 8192, 8192);
    assert!(execute(&fast, &frames) > 6900);
    let mut visits = 0;
    for _ in 0..50 {
        fast.bench.now.0 += SECOND / 50;
        fast.bench.round();
        visits += 64;
        while fast.bench.worker.is_behind() {
            fast.bench.round();
            visits += 64;
        }
    }
    // All of them once in a second, and as many again for the places between them.
    assert!(visits > 7500, "{visits}");
}

#[test]
fn a_change_brings_a_flow_back_and_it_is_handed_over_again_by_its_next_packet() {
    let mut fast = Fast::new(FastPath::Auto, 64);
    while !fast.packet(1) {}
    for slot in [Slot::CONFIG, Slot::ROUTES] {
        fast.bench.generations.bump([slot]);
        assert!(!fast.packet(1), "{slot:?}");
        assert!(fast.packet(1), "one packet is enough");
    }
    // Something else has changed.
    fast.bench.generations.bump([Slot::session(77)]);
    assert!(fast.packet(1));
}

#[test]
fn a_flow_that_only_the_driver_sees_is_not_forgotten_and_one_that_is_silent_is() {
    let mut fast = Fast::new(FastPath::Auto, 64);
    while !fast.packet(1) || !fast.packet(2) {}
    for _ in 0..100 {
        fast.wait(SECOND);
        assert!(fast.packet(1));
    }
    fast.wait(SECOND);
    assert_eq!(fast.bench.stats.fast.flows.get(), 1, "the other one was silent for longer than a minute");
    assert!(!fast.packet(2));
}

#[test]
fn a_flow_that_was_silent_for_longer_than_the_driver_may_wait_is_soon_executed_there_again() {
    // A session of 30 s: the cache may answer after 26 s of silence, the driver, of which functions hear later, after 10.
    let config = CONFIG
        .replace(
            "functions:",
            "functions:\n  wall: { firewall: { default: drop, rules: [ { allow: { from: lan } } ] } }",
        )
        .replace("run: [classes", "run: [wall, classes");
    let mut fast = Fast::of(&config, FastPath::Auto, 64);
    while !fast.packet(1) {}
    for _ in 0..3 {
        fast.wait(8 * SECOND);
        assert!(fast.packet(1));
    }
    fast.wait(15 * SECOND);
    assert!(!fast.packet(1));
    fast.wait(throughway_vnf::credit::HARVEST);
    assert!(fast.packet(1));
    assert_eq!(fast.bench.stats.fast.removed.get(), 0, "the same flow as before");
}

#[test]
fn heavy_flows_have_the_room_and_a_flood_does_not_drive_them_out() {
    for mode in [FastPath::Auto, FastPath::Eager] {
        let mut fast = Fast::new(mode, 64);
        // Many light flows are there first: three packets each time, but seldom.
        for _ in 0..3 {
            (100..400).for_each(|flow| {
                fast.packet(flow);
            });
        }
        let mut new = 1000;
        let mut executed = 0;
        for turn in 0..200 {
            for _ in 0..10 {
                for flow in 0..16 {
                    executed += u32::from(fast.packet(flow) && turn >= 150);
                }
                // New flows of a packet each.
                for _ in 0..10 {
                    new += 1;
                    fast.packet(new);
                }
            }
            fast.wait(SECOND / 10);
        }
        // Of the last fifty turns nearly all packets of the heavy flows.
        assert!(executed > 16 * 10 * 50 * 9 / 10, "{mode:?}: {executed}");
        fast.bench.assert_balance();
    }
}

/// Opens a capture; whether its flows are back is told through what it returns.
fn capture(fast: &mut Fast, number: u64, filter: Filter) -> Receiver<()> {
    let (ready, is_ready) = bounded(1);
    let tap = Tap::new(number, filter, false, Arc::new(Ring::new(64, 64, false, 3)));
    assert!(fast.bench.worker.tap(Box::new(tap), ready).is_ok());
    is_ready
}

#[test]
fn what_a_capture_asks_for_comes_back_and_goes_again_when_it_ends() {
    for mode in [FastPath::Auto, FastPath::Eager] {
        let mut fast = Fast::new(mode, 64);
        for flow in (0..20).chain(900..905) {
            while !fast.packet(flow) {}
        }
        let port = |port| Filter { source_port: Some(port), ..Filter::default() };
        let is_ready = capture(&mut fast, 1, port(7));
        let dropped = capture(&mut fast, 2, Filter { dropped: true, ..Filter::default() });
        assert!(is_ready.is_empty(), "the cache has to be gone through");
        while is_ready.is_empty() || dropped.is_empty() {
            assert!(fast.bench.worker.is_behind(), "no sleep before");
            fast.bench.round();
        }
        for _ in 0..200 {
            assert!(!fast.packet(7) && !fast.packet(901));
            fast.wait(SECOND / 50);
        }
        assert!(fast.packet(8), "others stay");
        let captured =
            |fast: &Fast| fast.stays().iter().filter(|stays| **stays == Some(Stays::Captured)).count();
        assert_eq!(captured(&fast), 6, "{:?}", fast.stays());
        // A new flow is not handed over either.
        (0..100).for_each(|_| assert!(!fast.packet(906)));
        let stayed = fast.bench.stats.fast.stays.iter().map(|count| count.get()).sum::<u64>();
        assert!(stayed > 0, "{mode:?}: it is counted");

        let end = |fast: &mut Fast, number| {
            assert!(fast.bench.worker.untap(number).is_some());
            // Once through the cache.
            (0..10_000).for_each(|_| {
                fast.bench.round();
            });
            fast.wait(SECOND);
        };
        end(&mut fast, 1);
        assert!(fast.packet(7), "without another packet");
        assert!(!fast.packet(901));
        end(&mut fast, 2);
        assert!((900..905).all(|flow| fast.packet(flow)));
        assert_eq!(captured(&fast), 0);
        fast.wait(2 * SECOND);
        fast.bench.assert_balance();
    }
}
