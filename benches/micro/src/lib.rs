//! Microbenchmarks with criterion, in `benches/`: `make bench-micro`, a file for each room. What they share is here: how long each
//! is measured, packets, and how a function gets them.
//!
//! Times are for a batch of 64, throughput is in packets or look-ups. `known` is a packet that misses the flow cache, as of a connection that
//! the function remembers; `opens` makes a session, and another one ends, so that the table neither grows nor fills.
#![forbid(unsafe_code)]
#![allow(clippy::expect_used, reason = "a failure ends the measurement")]

use std::time::Duration;

use criterion::Criterion;
use throughway_packet::build::PacketBuilder;
use throughway_packet::{Headers, PortId, parse};
use throughway_vnf::packet::State;
use throughway_vnf::{BATCH, Batch, Context, Function, Now, Packet};

/// Where packets come in.
pub const LAN: PortId = PortId(0);
/// Where they go out.
pub const WAN: PortId = PortId(1);
/// When it all begins.
pub const BEGIN: Now = Now(1 << 40);
/// Time from one batch of new connections to the next: with it those of a thousand batches are alive at a time.
const STEP: u64 = 500_000_000;

/// Short: all benches together take three minutes at most. `--measurement-time` and the like give more.
pub fn criterion() -> Criterion {
    let short = Criterion::default()
        .warm_up_time(Duration::from_millis(150))
        .measurement_time(Duration::from_millis(600))
        .sample_size(20)
        .nresamples(5_000)
        .without_plots();
    short.configure_from_args()
}

/// A frame with its headers.
pub type Parsed = (Vec<u8>, Headers);

/// The frame of a builder, as if it had come in by [`LAN`].
pub fn parsed(packet: &PacketBuilder) -> Parsed {
    let frame = packet.finish();
    let headers = parse(&frame, LAN).expect("well formed");
    (frame, headers)
}

/// A number below 2²⁴ in an order that no cache foresees.
pub const fn scattered(number: u32) -> u32 {
    number.wrapping_mul(0x9e37_79b1) & 0x00ff_ffff
}

/// UDP from so many hosts of 10.0.0.0/8 to a server.
pub fn udp(count: u32) -> Vec<Parsed> {
    let of = |number: u32| {
        let [_, a, b, c] = scattered(number).to_be_bytes();
        parsed(&PacketBuilder::ipv4([10, a, b, c], [198, 51, 100, 7]).udp(4000, 53).payload(&[0; 18]))
    };
    (0..count).map(of).collect()
}

/// Batches of some packets, one after the other and round again, with the time at which they come.
#[derive(Debug)]
pub struct Turns<'a> {
    packets: &'a [Parsed],
    at: usize,
    now: Now,
    step: u64,
}

impl<'a> Turns<'a> {
    /// All at one instant: nothing ages.
    pub fn still(packets: &'a [Parsed]) -> Self {
        Turns { packets, at: 0, now: BEGIN, step: 0 }
    }

    /// Each batch half a second after the one before: what was opened when its packets came last is over when they come again,
    /// if there are 65,536 or more.
    pub fn ageing(packets: &'a [Parsed]) -> Self {
        Turns { step: STEP, ..Turns::still(packets) }
    }

    /// Gives `function` the next batch, as a worker does; returns how many packets it let pass.
    pub fn run(&mut self, function: &mut impl Function) -> usize {
        let (context, mut batch) = (Context { now: self.now }, Batch::new());
        for (frame, headers) in self.packets.iter().cycle().skip(self.at).take(BATCH) {
            let _ = batch.push(Packet::new(frame, *headers));
        }
        self.at = (self.at + BATCH) % self.packets.len();
        self.now = Now(self.now.0 + self.step);
        function.process(&mut batch, &context);
        if self.step > 0 {
            // A worker has many rounds in that time.
            (0..4).for_each(|_| function.tick(&context));
        }
        batch.packets().iter().filter(|packet| packet.state() == State::Alive).count()
    }

    /// Gives it every packet once, and says whether all passed.
    pub fn all(&mut self, function: &mut impl Function) -> bool {
        (0..self.packets.len() / BATCH).all(|_| self.run(function) == BATCH)
    }
}
