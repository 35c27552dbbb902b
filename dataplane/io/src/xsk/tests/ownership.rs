//! Whatever one does with frames, in whatever order: none is lost, and none is in two hands.

use std::collections::HashMap;

use super::lab::{frame, in_namespace, run};
use super::*;

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % sides
    }
}

#[test]
fn no_frame_is_lost_or_in_two_hands() {
    const STEPS: usize = 30_000;
    in_namespace(|| {
        two_veths();
        for device in ["a0", "a1", "b0", "b1"] {
            run(&format!("ip link set {device} mtu {MAX_MTU}"));
        }
        let mut umem = Umem::new();
        // Few frames and short rings, so that all of them run full and empty.
        let config = XskConfig { frames: 512, rx_ring: 128, tx_ring: 64, fill_ring: 128, ..two_ports() };
        let mut io = XskIo::open(&mut umem, &config).expect("sockets");
        let _programs = redirect(&io, &["a0", "b0"]);
        let wires = [Wire::open("a1"), Wire::open("b1")];
        let mut dice = Dice(0x5eed_5eed_5eed_5eed);
        // What must be in each frame that is held, and what was sent and must arrive at each wire, by number.
        let mut held: Vec<(XskFrame<'_>, Vec<u8>)> = Vec::new();
        let mut sent = [HashMap::new(), HashMap::new()];
        let mut number = 0u32;
        let (mut received, mut arrived, mut refused) = (0, 0, 0);
        let number_of = |bytes: &[u8]| u32::from_be_bytes(bytes[42..46].try_into().expect("four bytes"));
        for _ in 0..STEPS {
            let side = dice.throw(2);
            let port = PortId(side as u16);
            match dice.throw(30) {
                0..=9 => {
                    number += 1;
                    wires[side].send(&frame(number, 60 + dice.throw(1400)));
                }
                10..=15 => {
                    let mut new = Vec::new();
                    received += io.receive(port, 1 + dice.throw(20), &mut new);
                    for frame in new {
                        let content = frame.bytes().to_vec();
                        assert_eq!(content, lab::frame(number_of(&content), content.len()));
                        held.push((frame, content));
                    }
                }
                16..=24 => match io.allocate() {
                    Some(mut new) => {
                        number += 1;
                        let content = frame(number, 60 + dice.throw(3000));
                        assert!(new.move_start(-(dice.throw(200) as isize)) || new.bytes().is_empty());
                        assert!(new.set_len(content.len()));
                        new.bytes_mut().copy_from_slice(&content);
                        held.push((new, content));
                    }
                    None => refused += 1,
                },
                25 if !held.is_empty() => {
                    let (frame, content) = held.swap_remove(dice.throw(held.len()));
                    assert_eq!(frame.bytes(), content);
                    io.release(frame);
                }
                26..=28 => {
                    let count = dice.throw(held.len().min(80) + 1);
                    let (mut frames, contents): (Vec<_>, Vec<_>) = held.drain(held.len() - count..).unzip();
                    for (frame, content) in frames.iter().zip(&contents) {
                        assert_eq!(frame.bytes(), content);
                    }
                    let taken = io.transmit(port, &mut frames).frames;
                    assert_eq!(taken + frames.len(), count);
                    refused += frames.len();
                    let mut contents = contents.into_iter();
                    for content in contents.by_ref().take(taken) {
                        assert!(sent[side].insert(number_of(&content), content).is_none());
                    }
                    held.extend(frames.into_iter().zip(contents));
                }
                _ => io.flush(),
            }
            while let Some(packet) = wires[side].receive() {
                // Packets that we sent into the wire ourselves come with other numbers than those sent out of it.
                let expected = sent[side].remove(&number_of(&packet)).expect("it was sent");
                assert_eq!(packet, expected);
                arrived += 1;
            }
            assert!(io.account().balances(), "{:?}", io.account());
            assert_eq!(io.outstanding(), held.len());
        }
        for (frame, content) in held {
            assert_eq!(frame.bytes(), content);
            io.release(frame);
        }
        settle(&mut io);
        for (wire, mut sent) in wires.iter().zip(sent) {
            until("the last packets", || {
                while let Some(packet) = wire.receive() {
                    assert_eq!(sent.remove(&number_of(&packet)), Some(packet));
                    arrived += 1;
                }
                sent.is_empty()
            });
        }
        assert!(received > 2000 && arrived > 4000 && refused > 100, "{received} {arrived} {refused}");
    });
}
