//! What a function judged and what the flow cache told it of add up to what it would have judged without the cache: packet by
//! packet, byte by byte, whoever evicts, reloads, drops or changes routes.

#![allow(clippy::unwrap_used, reason = "a failed test")]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use common::{Bench, CONFIG, HOST_LAN, LAN, facts};
use proptest::prelude::*;
use throughway::chain::{AnyFunction, NamedFunction, Program};
use throughway::stats::FunctionStats;
use throughway::worker::offload::{Egress, Offload};
use throughway_config::FastPath;
use throughway_flow::{Generations, Slot};
use throughway_packet::build::PacketBuilder;
use throughway_packet::parse;
use throughway_shared::fast::GENERATION_WORDS;
use throughway_vnf::{Context, DropReason, Function, FunctionTag, Packet, Seen, Verdict};
use throughway_xdp::{FastFlows, SharedWords};

const SECOND: u64 = 1_000_000_000;

/// By credit: packets, and bytes of their IP packets.
type Ledger = BTreeMap<u64, (u64, u64)>;

/// What one function saw, and what it was told.
#[derive(Debug, Default)]
struct Book {
    total: Ledger,
    told: u64,
    /// The last packet of each credit, as judged or told (ns).
    last: BTreeMap<u64, u64>,
}

impl Book {
    fn add(&mut self, id: u64, packets: u64, bytes: u64, at: u64) {
        let sum = self.total.entry(id).or_default();
        *sum = (sum.0 + packets, sum.1 + bytes);
        let last = self.last.entry(id).or_default();
        *last = at.max(*last);
    }
}

/// Counts packets by credit; of some flows it drops the packets, judges each, or bears no long silence.
#[derive(Debug)]
struct Tally {
    book: Arc<Mutex<Book>>,
    /// Every so many ports have something special about them.
    odd: u16,
}

impl Function for Tally {
    const KIND: &'static str = "tally";

    fn judge(&mut self, packet: &mut Packet<'_>, context: &Context) -> Verdict {
        let port = packet.headers().source_port();
        let id = u64::from(port) << 20 | 7;
        let len = u64::from(packet.received().packet_len());
        self.book.lock().unwrap().add(id, 1, len, context.now.0);
        packet.credit(id);
        match port % self.odd {
            1 => packet.judge_each(),
            2 => packet.limit_silence(3 * SECOND),
            3 => packet.limit_silence(SECOND / 2),
            4 => return Verdict::Drop(DropReason::BlackholeRoute),
            _ => {}
        }
        Verdict::Continue
    }

    fn settle(&mut self, id: u64, seen: &Seen) {
        let mut book = self.book.lock().unwrap();
        book.add(id, seen.packets, seen.bytes, seen.last.0);
        book.told += seen.packets;
    }
}

/// Puts two tallies into the chain from the lan: at its beginning and at its end.
fn with_tallies(mut program: Program, books: &[Arc<Mutex<Book>>; 2]) -> Program {
    for ((book, odd), tag) in books.iter().zip([7, 11]).zip([200, 201]) {
        program.functions.push(NamedFunction {
            name: format!("tally-{tag}"),
            tag: FunctionTag(tag),
            function: AnyFunction::Guest(Box::new(Tally { book: Arc::clone(book), odd })),
            stats: Arc::new(FunctionStats::default()),
        });
        let index = program.functions.len() - 1;
        let run = &mut program.chains.iter_mut().find(|chain| chain.name == "outbound").unwrap().run;
        run.insert(if tag == 200 { 0 } else { run.len() }, index);
    }
    program
}

#[derive(Clone, Debug)]
enum Event {
    /// Packets of these flows.
    Packets(Vec<u8>),
    /// The configuration is loaded again.
    Reload,
    /// A route changes, and changes back.
    Flap,
    /// Milliseconds.
    Wait(u64),
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => prop::collection::vec(0u8..64, 1..100).prop_map(Event::Packets),
        1 => Just(Event::Reload),
        1 => Just(Event::Flap),
        3 => prop_oneof![1u64..1000, 1000u64..8000, 60_000u64..70_000].prop_map(Event::Wait),
    ]
}

fn frame(flow: u8) -> Vec<u8> {
    let builder = if flow & 1 == 0 {
        PacketBuilder::ipv4([10, 1, 0, 10], [10, 2, 0, 10])
    } else {
        PacketBuilder::ipv6([0xfd00, 1, 0, 0, 0, 0, 0, 0x10], [0xfd00, 2, 0, 0, 0, 0, 0, 0x10])
    };
    let builder = builder.ethernet([2, 0, 0, 0, 0, 0], HOST_LAN);
    builder.udp(1000 + u16::from(flow), 53).payload(&vec![flow; usize::from(flow)]).finish()
}

/// Whether the XDP program executes known flows, and how many of them it has room for.
#[derive(Clone, Copy, PartialEq)]
enum Fast {
    Off,
    On(FastPath, u32),
}

/// What the two functions know at the end, and how much of it they were told.
fn run(events: &[Event], flows: u32, fast: Fast) -> [Book; 2] {
    let config = format!("workers: {{ flows: {flows} }}\n{CONFIG}");
    let books: [Arc<Mutex<Book>>; 2] = Default::default();
    let words = Arc::new(SharedWords::in_memory(GENERATION_WORDS));
    let mut bench = Bench::over(&config, &facts(), Generations::over(words.clone()).unwrap());
    if let Fast::On(mode, room) = fast {
        let egress = Arc::new(Egress::default());
        (0..3).for_each(|port| egress.set(port, true));
        bench.worker.offload(Offload::new(FastFlows::in_memory(room), vec![mode; 3], egress));
    }
    let load = |bench: &mut Bench| {
        let program = with_tallies(bench.blueprint.program(0, &mut bench.figures), &books);
        drop(bench.worker.install(program));
        bench.generations.bump([Slot::CONFIG]);
    };
    load(&mut bench);
    for event in events {
        match event {
            Event::Packets(numbers) => {
                for number in numbers {
                    let frame = frame(*number);
                    let headers = parse(&frame, LAN).unwrap();
                    let table = bench.worker.offloaded().map(Offload::table);
                    let len = headers.packet_len();
                    let executed = table
                        .and_then(|table| table.pretend(&headers.key, len, bench.now.0, (*words).as_ref()));
                    if executed.is_none() {
                        assert!(bench.worker.io().inject(LAN, &frame));
                    }
                }
                while bench.round() > 0 {}
            }
            Event::Reload => load(&mut bench),
            Event::Flap => {
                bench.generations.bump([Slot::ROUTES]);
            }
            Event::Wait(milliseconds) => bench.now.0 += milliseconds * 1_000_000,
        }
        bench.round();
        bench.assert_balance();
    }
    // Within the promised time after the last packet everything is told.
    for _ in 0..20 {
        bench.now.0 += throughway_vnf::credit::HARVEST / 20;
        bench.round();
    }
    drop(bench);
    books.map(|book| Arc::into_inner(book).unwrap().into_inner().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn judged_and_told_add_up(events in prop::collection::vec(events(), 1..40)) {
        let without = run(&events, 0, Fast::Off);
        for (flows, fast) in [
            (16, Fast::Off),
            (4096, Fast::Off),
            (4096, Fast::On(FastPath::Auto, 256)),
            (64, Fast::On(FastPath::Eager, 16)),
        ] {
            let with = run(&events, flows, fast);
            for (with, without) in with.iter().zip(&without) {
                prop_assert_eq!(&with.total, &without.total);
                prop_assert_eq!(without.told, 0);
                for (id, last) in &with.last {
                    // Never later than it was, and less than half a second earlier.
                    let behind = without.last[id].checked_sub(*last);
                    prop_assert!(behind.is_some_and(|behind| behind < SECOND / 2), "{} {:?}", id, behind);
                }
            }
        }
    }
}

#[test]
fn the_cache_tells() {
    let all = Event::Packets((0..64).collect());
    let [first, last] = run(&vec![all; 20], 4096, Fast::Off);
    // Of seven ports one is judged each time, one is too impatient for the cache, and one is dropped at once.
    assert!(first.told > 18 * 64 * 4 / 7, "{}", first.told);
    // And of eleven two at the end of the chain, which sees what the first one does not drop.
    assert!(last.told > 18 * 64 * 4 / 7 * 8 / 11, "{}", last.told);
}

/// What the XDP program executed counts in every statistic as if the worker had: with the same packets, the same figures.
#[test]
fn the_program_executes_and_everything_counts() {
    let all = Event::Packets((0..64).collect());
    let events =
        [vec![all.clone(); 20], vec![Event::Wait(300), all.clone(), Event::Flap, all.clone(), all]].concat();
    let mut judged = Vec::new();
    for fast in [Fast::Off, Fast::On(FastPath::Auto, 256), Fast::On(FastPath::Eager, 256)] {
        let [first, last] = run(&events, 4096, fast);
        judged.push((first.total, last.total));
    }
    assert!(judged.iter().all(|same| *same == judged[0]));
}
