//! Reading packets and summing them up: `cargo bench -p throughway-microbenches --bench packet`.
#![allow(clippy::indexing_slicing, missing_docs, reason = "a program to be run by hand")]

use std::hint::black_box;

use criterion::Throughput;
use throughway_microbenches::{LAN, Parsed, criterion, parsed};
use throughway_packet::build::PacketBuilder;
use throughway_packet::checksum::{sum, verify};
use throughway_packet::parse;

const FOUR: [[u8; 4]; 2] = [[10, 0, 0, 1], [198, 18, 0, 2]];
const SIX: [[u16; 8]; 2] = [[0xfd00, 1, 0, 0, 0, 0, 0, 1], [0xfd00, 2, 0, 0, 0, 0, 0, 2]];

fn main() {
    let mut criterion = criterion();
    let (four, six) = (|| PacketBuilder::ipv4(FOUR[0], FOUR[1]), || PacketBuilder::ipv6(SIX[0], SIX[1]));
    let packets: [(&str, Parsed); 4] = [
        ("IPv4 UDP", parsed(&four().udp(4000, 53).payload(&[0; 18]))),
        ("IPv4 TCP", parsed(&four().tcp(4000, 80, 16))),
        ("IPv6 UDP", parsed(&six().udp(4000, 53))),
        ("IPv6 TCP", parsed(&six().tcp(4000, 80, 16))),
    ];
    let mut group = criterion.benchmark_group("packet");
    group.throughput(Throughput::Elements(1));
    for (name, (frame, headers)) in &packets {
        group.bench_function(format!("parse {name}"), |bench| {
            bench.iter(|| parse(black_box(frame), LAN).is_ok());
        });
        group.bench_function(format!("verify checksums {name}"), |bench| {
            bench.iter(|| verify(black_box(frame), headers));
        });
    }
    for length in [20, 64, 1500, 9000] {
        let bytes = vec![0x5a; length];
        group.bench_function(format!("checksum of {length} bytes"), |bench| {
            bench.iter(|| sum(black_box(&bytes)));
        });
    }
    group.finish();
    criterion.final_summary();
}
