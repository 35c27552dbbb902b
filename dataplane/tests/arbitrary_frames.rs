//! Ten million arbitrary frames through parse and chain: no panic, no leaked frame, every packet accounted for.

mod common;

use common::{Bench, CONFIG, HOST_LAN, LAN, facts};
use throughway_packet::PortId;
use throughway_packet::build::PacketBuilder;

const FRAMES: u64 = 10_000_000;

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Packets of every kind, which are then damaged.
fn seeds() -> Vec<Vec<u8>> {
    let four = |last: u8| {
        PacketBuilder::ipv4([10, 1, 0, 10], [10, 2, 0, last]).ethernet([2, 0, 0, 0, 0, 0], HOST_LAN)
    };
    let six = |last: u16| {
        PacketBuilder::ipv6([0xfd00, 1, 0, 0, 0, 0, 0, 0x10], [0xfd00, 2, 0, 0, 0, 0, 0, last])
            .ethernet([2, 0, 0, 0, 0, 0], HOST_LAN)
    };
    vec![
        four(10).udp(4000, 5060).payload(b"hello").finish(),
        four(10).hop_limit(1).udp(1, 2).finish(),
        four(99).tcp(1, 2, 2).finish(),
        four(10).options(&[7, 7, 4, 0, 0, 0, 0]).tcp(1, 2, 0x10).finish(),
        four(10).echo_request(1, 1).payload(&[0; 32]).finish(),
        four(10).sctp(1, 2).payload(&[0; 16]).finish(),
        four(10).vlan(100).vlan(200).udp(1, 2).finish(),
        four(10).fragment(8, true).protocol(17).payload(&[0; 64]).finish(),
        four(10).dont_fragment().udp(1, 2).payload(&[0; 1472]).finish(),
        six(0x10).udp(4000, 5060).payload(b"hello").finish(),
        six(0x99).hop_limit(1).tcp(1, 2, 2).finish(),
        six(0x10).extension(0, &[5, 2, 0, 0, 1, 0]).udp(1, 2).finish(),
        six(0x10).fragment(0, true).udp(1, 2).payload(&[0; 64]).finish(),
        six(0x10).echo_request(1, 1).finish(),
        six(0x10).icmp(3, 0, [0; 4]).payload(&[0; 48]).finish(),
    ]
}

#[test]
fn nothing_panics_and_nothing_leaks() {
    let mut bench = Bench::new(CONFIG, &facts());
    let mut random = Random(1);
    let seeds = seeds();
    let mut frame = [0u8; 1600];
    let mut done = 0;
    while done < FRAMES {
        for _ in 0..64 {
            let len = if random.next().is_multiple_of(8) {
                let len = random.below(128);
                for chunk in frame[..len].chunks_mut(8) {
                    let bytes = random.next().to_ne_bytes();
                    chunk.copy_from_slice(&bytes[..chunk.len()]);
                }
                len
            } else {
                let seed = &seeds[random.below(seeds.len())];
                frame[..seed.len()].copy_from_slice(seed);
                for _ in 0..random.below(4) {
                    // Damage is most interesting in the headers.
                    let at = random.below(seed.len().min(80));
                    frame[at] = random.next() as u8;
                }
                if random.next().is_multiple_of(4) { random.below(seed.len() + 1) } else { seed.len() }
            };
            let port = PortId(random.below(3) as u16);
            assert!(bench.worker.io().inject(port, &frame[..len]));
            done += 1;
        }
        bench.now.0 += 50_000_000;
        bench.worker.round(bench.now);
        for port in 0..3 {
            bench.worker.io().discard(PortId(port));
        }
        let _ = bench.wanted.try_iter().count();
    }
    bench.assert_balance();
    let received: u64 = bench.stats.ports.iter().map(|port| port.received.packets.get()).sum();
    assert_eq!(received, done);
    assert!(
        bench.stats.ports[LAN.index()].sent.packets.get() > 0,
        "some packets were good enough to be answered"
    );
}
