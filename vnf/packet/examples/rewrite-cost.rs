//! What executing a recorded action costs, by what it does: nanoseconds per packet, the median of several runs.
//!
//! `cargo run --release -p throughway-packet --example rewrite-cost`
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "an example for people")]

use std::hint::black_box;
use std::time::Instant;

use throughway_packet::build::PacketBuilder;
use throughway_packet::frame::{Frame, VecFrame};
use throughway_packet::{Edit, Encapsulation, PortId, Rewrite, Tags, apply, execute, parse};

const PACKETS: usize = 1_000_000;
const RUNS: usize = 11;

/// The median of the runs, in nanoseconds per packet.
fn median(mut run: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..PACKETS {
                run();
            }
            start.elapsed().as_nanos() as f64 / PACKETS as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[RUNS / 2]
}

fn main() {
    let frame = PacketBuilder::ipv4([192, 0, 2, 1], [198, 51, 100, 7]).hop_limit(255).tcp(1, 2, 0x10);
    let frame = frame.payload(&[7; 1000]).finish();
    let headers = parse(&frame, PortId(0)).unwrap();
    let nat = [
        Edit::Source([203, 0, 113, 9].into()),
        Edit::SourcePort(50_000),
        Edit::Ethernet { destination: [2; 6], source: [4; 6] },
        Edit::Egress(PortId(1)),
    ];
    let record = |more: &[Edit], tunnel: Option<Encapsulation>| {
        let (mut view, mut rewrite) = (headers, Rewrite::nothing());
        nat.iter().chain(more).for_each(|edit| edit.record_all(&mut view, &mut rewrite));
        assert!(tunnel.is_none_or(|tunnel| tunnel.record(&mut view, &mut rewrite)));
        rewrite
    };
    let plain = record(&[], None);
    let mut bytes = frame.clone();
    let time = median(|| apply(black_box(&plain.action), black_box(&headers), black_box(&mut bytes)));
    println!("{:40} {time:6.1} ns", "apply: NAT and MAC addresses");

    let ipip = Encapsulation::ip([203, 0, 113, 1].into(), [203, 0, 113, 2].into());
    let gue = Encapsulation::gue(ipip.source, ipip.destination, 6080);
    for (name, rewrite) in [
        ("execute: the same", plain),
        ("execute: the same and a tag", record(&[Edit::Tags(Tags::one(30))], None)),
        ("execute: the same and IP in IP", record(&[], Some(ipip))),
        ("execute: the same, two tags and GUE", record(&[Edit::Tags(Tags::two(200, 30))], Some(gue))),
    ] {
        let mut buffer = VecFrame::new(&frame, 128);
        let len = frame.len() as isize;
        let time = median(|| {
            execute(black_box(&rewrite), black_box(&headers), black_box(&mut buffer)).unwrap();
            // Back to where the packet was; its link layer is overwritten by now, which changes nothing for the next round.
            let moved = buffer.bytes().len() as isize - len;
            assert!(buffer.move_start(moved));
            if moved != 0 {
                buffer.bytes_mut()[..14].copy_from_slice(&frame[..14]);
            }
        });
        println!("{name:40} {time:6.1} ns");
    }
}
