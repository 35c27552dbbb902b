//! What comes out is what went in, and no frame is lost on the way.

use std::time::Instant;

use super::lab::{frame, in_namespace, run, veth};
use super::*;

#[test]
fn packets_of_all_lengths_are_forwarded_unchanged() {
    in_namespace(|| {
        two_veths();
        for device in ["a0", "a1", "b0", "b1"] {
            run(&format!("ip link set {device} mtu {MAX_MTU}"));
        }
        let mut umem = Umem::new();
        let mut io = XskIo::open(&mut umem, &two_ports()).expect("sockets");
        let _programs = redirect(&io, &["a0", "b0"]);
        let (left, right) = (Wire::open("a1"), Wire::open("b1"));
        for length in (60..=MAX_MTU as usize + 14).step_by(7).chain([MAX_MTU as usize + 14]) {
            for (number, from, to) in [(1, &left, &right), (2, &right, &left)] {
                let packet = frame(number * length as u32, length);
                from.send(&packet);
                until("a packet to pass", || {
                    forward(&mut io);
                    to.receive().is_some_and(|received| {
                        assert_eq!(received, packet);
                        true
                    })
                });
            }
        }
        settle(&mut io);
        for port in [A, B] {
            let statistics = io.statistics(port, 0).expect("statistics");
            assert_eq!(statistics.own.tx_moved, 0, "plain forwarding copies nothing");
            assert_eq!(
                (statistics.own.tx_dropped, statistics.own.tx_errors, statistics.rx_dropped),
                (0, 0, 0)
            );
            assert!(!io.granted(port, 0).expect("a socket").zero_copy, "veth has no zero copy");
        }
    });
}

#[test]
fn a_hundred_thousand_packets_each_way_arrive_in_order() {
    const PACKETS: u32 = 100_000;
    const BURST: u32 = 64;
    in_namespace(|| {
        two_veths();
        let mut umem = Umem::new();
        // Few frames: they go round some two hundred times.
        let config = XskConfig { frames: 1024, ..two_ports() };
        let mut io = XskIo::open(&mut umem, &config).expect("sockets");
        let _programs = redirect(&io, &["a0", "b0"]);
        let (left, right) = (Wire::open("a1"), Wire::open("b1"));
        for first in (0..PACKETS).step_by(BURST as usize) {
            let numbers = first..(first + BURST).min(PACKETS);
            for number in numbers.clone() {
                left.send(&frame(number, 60 + number as usize % 1400));
                right.send(&frame(!number, 60 + number as usize % 1000));
            }
            let (mut to_right, mut to_left) = (numbers.clone(), numbers);
            until("a burst to pass", || {
                forward(&mut io);
                while let Some(packet) = right.receive() {
                    let number = to_right.next().expect("not more than were sent");
                    assert_eq!(packet, frame(number, 60 + number as usize % 1400));
                }
                while let Some(packet) = left.receive() {
                    let number = to_left.next().expect("not more than were sent");
                    assert_eq!(packet, frame(!number, 60 + number as usize % 1000));
                }
                to_right.is_empty() && to_left.is_empty()
            });
        }
        settle(&mut io);
        let account = io.account();
        // Half of the frames wait to receive, evenly; the others are free.
        assert_eq!((account.total, account.receiving, account.free), (1024, 512, 512));
        for port in [A, B] {
            let statistics = io.statistics(port, 0).expect("statistics");
            assert_eq!(
                (statistics.rx_dropped, statistics.rx_ring_full, statistics.rx_fill_ring_empty_descs),
                (0, 0, 0)
            );
            // What was received was replaced, and nothing else.
            assert_eq!(statistics.own.fill_refills, u64::from(PACKETS) + 256);
        }
    });
}

#[test]
fn packets_whose_start_moved_are_sent_whole() {
    in_namespace(|| {
        two_veths();
        let mut umem = Umem::new();
        let mut io = XskIo::open(&mut umem, &two_ports()).expect("sockets");
        let _programs = redirect(&io, &["a0", "b0"]);
        let (left, right) = (Wire::open("a1"), Wire::open("b1"));
        let packet = frame(9, 700);
        for (round, by) in [-1, -4, -20, -(crate::HEADROOM as isize), 1, 20, 400].into_iter().enumerate() {
            left.send(&packet);
            let mut frames = take(&mut io, A, 1);
            assert_eq!(frames[0].bytes(), packet);
            // The Ethernet header stays in front; what is between is new, or gone.
            assert!(frames[0].move_start(by));
            frames[0].bytes_mut()[..14].copy_from_slice(&packet[..14]);
            let expected = frames[0].bytes().to_vec();
            assert_eq!(expected.len() as isize, 700 - by);
            assert_eq!(io.transmit(B, &mut frames).bytes, expected.len() as u64);
            until("the packet to arrive", || {
                io.flush();
                right.receive().is_some_and(|received| {
                    assert_eq!(received, expected);
                    true
                })
            });
            settle(&mut io);
            assert_eq!(io.statistics(B, 0).expect("statistics").own.tx_moved, round as u64 + 1);
        }
    });
}

#[test]
fn frames_are_bounded_by_their_chunk() {
    in_namespace(|| {
        two_veths();
        let mut umem = Umem::new();
        let mut io = XskIo::open(&mut umem, &two_ports()).expect("sockets");
        let mut frame = io.allocate().expect("a free frame");
        assert!(frame.bytes().is_empty());
        assert!(!frame.set_len(MAX_PACKET + 1));
        assert!(frame.set_len(MAX_PACKET));
        frame.bytes_mut().fill(0xa5);
        assert!(!frame.move_start(-1), "it would be too long to be sent");
        assert!(frame.set_len(10) && frame.bytes() == [0xa5; 10]);
        assert!(!frame.move_start(11));
        assert!(frame.move_start(10) && frame.bytes().is_empty());
        assert!(!frame.move_start(-(CHUNK as isize)));
        assert!(frame.move_start(-(crate::HEADROOM as isize) - 10));
        assert_eq!(frame.bytes().len(), crate::HEADROOM + 10);
        assert_eq!(frame.bytes()[crate::HEADROOM..], [0xa5; 10]);
        assert!(!frame.move_start(isize::MIN) && !frame.move_start(isize::MAX));
        io.release(frame);
        assert_eq!(io.outstanding(), 0);
    });
}

#[test]
fn a_full_transmit_ring_leaves_frames_behind_and_recovers() {
    in_namespace(|| {
        two_veths();
        let mut umem = Umem::new();
        let config = XskConfig { frames: 2048, tx_ring: 64, ..two_ports() };
        let mut io = XskIo::open(&mut umem, &config).expect("sockets");
        let right = Wire::open("b1");
        let mut frames: Vec<_> = (0..500)
            .map(|number| {
                let mut new = io.allocate().expect("a free frame");
                let packet = frame(number, 100);
                assert!(new.set_len(packet.len()));
                new.bytes_mut().copy_from_slice(&packet);
                new
            })
            .collect();
        assert_eq!(io.outstanding(), 500);
        assert_eq!(io.transmit(B, &mut frames), Sent { frames: 64, bytes: 6400 });
        assert_eq!(io.transmit(B, &mut frames), Sent::default(), "the ring is full until a flush");
        assert_eq!(frames.len(), 436);
        assert_eq!(io.outstanding(), 436);
        assert!(io.account().balances());
        until("all frames to be taken", || {
            io.flush();
            io.transmit(B, &mut frames);
            frames.is_empty()
        });
        settle(&mut io);
        let mut expected = 0..500;
        while let Some(packet) = right.receive() {
            assert_eq!(packet, frame(expected.next().expect("not more than were sent"), 100));
        }
        assert!(expected.is_empty(), "missing: {expected:?}");
        let own = io.statistics(B, 0).expect("statistics").own;
        assert!(own.tx_full >= 2 && own.tx_wakeups >= 8, "{own:?}");
        assert_eq!((own.tx_errors, own.tx_dropped), (0, 0));
    });
}

#[test]
fn receiving_goes_on_when_transmission_fails() {
    in_namespace(|| {
        two_veths();
        let mut umem = Umem::new();
        let mut io = XskIo::open(&mut umem, &XskConfig { frames: 512, ..two_ports() }).expect("sockets");
        let _programs = redirect(&io, &["a0", "b0"]);
        let (left, right) = (Wire::open("a1"), Wire::open("b1"));
        run("ip link set b0 down");
        let mut received = 0;
        let mut stuck = Vec::new();
        for number in 0..2000 {
            left.send(&frame(number, 100));
            received += io.receive(A, 64, &mut stuck);
            io.transmit(B, &mut stuck);
            io.flush();
            // What a worker does with what it cannot send: it counts it as dropped.
            for frame in stuck.drain(..) {
                io.release(frame);
            }
            assert!(io.account().balances(), "{:?}", io.account());
        }
        until("the last packets", || {
            received += io.receive(A, 64, &mut stuck);
            for frame in stuck.drain(..) {
                io.release(frame);
            }
            received == 2000
        });
        let own = io.statistics(B, 0).expect("statistics").own;
        assert_eq!(own.tx_error, Some(libc::ENETDOWN));
        assert!(own.tx_errors > 0 && own.tx_full > 0, "{own:?}");
        let waiting = io.account().sending;
        assert_eq!(waiting, 64, "a quarter of the frames, shared by two ports");
        run("ip link set b0 up");
        settle(&mut io);
        until("what waited to come out", || {
            let mut arrived = 0;
            while let Some(packet) = right.receive() {
                assert_eq!(packet, frame(arrived, 100));
                arrived += 1;
            }
            arrived as usize == waiting
        });
    });
}

#[test]
fn packets_that_the_driver_drops_are_counted() {
    in_namespace(|| {
        two_veths();
        let mut umem = Umem::new();
        let mut io = XskIo::open(&mut umem, &two_ports()).expect("sockets");
        run("ip link set b1 down");
        let mut frames: Vec<_> = (0..100)
            .map(|_| {
                let mut new = io.allocate().expect("a free frame");
                assert!(new.set_len(60));
                new
            })
            .collect();
        assert_eq!(io.transmit(B, &mut frames).frames, 100);
        settle(&mut io);
        assert_eq!(io.statistics(B, 0).expect("statistics").own.tx_dropped, 100);
    });
}

#[test]
fn a_port_receives_from_all_its_queues_and_sends_by_the_first() {
    const PACKETS: u32 = 2000;
    in_namespace(|| {
        veth("a0", "a1", 2);
        veth("b0", "b1", 1);
        let config = XskConfig { ports: vec![port("a0", &[0, 1]), port("b0", &[])], ..XskConfig::default() };
        let mut umem = Umem::new();
        let mut io = XskIo::open(&mut umem, &config).expect("sockets");
        let _programs = redirect(&io, &["a0", "b0"]);
        assert_eq!(io.sockets().map(|(port, queue, _)| (port, queue)).collect::<Vec<_>>(), [(A, 0), (A, 1)]);
        let left = Wire::open("a1");
        let mut seen = vec![false; PACKETS as usize];
        let mut frames = Vec::new();
        let mut count = 0;
        for number in 0..PACKETS {
            // Ports differ, so the kernel spreads them over the transmit queues of a1: the receive queues of a0.
            left.send(&frame(number, 100));
            io.receive(A, 64, &mut frames);
            io.flush();
        }
        until("all packets", || {
            io.receive(A, 64, &mut frames);
            for frame in frames.drain(..) {
                let number = u32::from_be_bytes(frame.bytes()[42..46].try_into().expect("four bytes"));
                assert_eq!(frame.bytes(), lab::frame(number, 100));
                assert!(!std::mem::replace(&mut seen[number as usize], true), "once");
                count += 1;
                io.release(frame);
            }
            io.flush();
            count == PACKETS
        });
        let refills = |queue| io.statistics(A, queue).expect("statistics").own.fill_refills;
        let share = u64::from(config.fill_ring);
        assert_eq!(refills(0) + refills(1), u64::from(PACKETS) + 2 * share);
        assert!(refills(0) > share + 200 && refills(1) > share + 200, "both queues had traffic");

        assert!(io.has_queue(A) && !io.has_queue(B) && !io.has_queue(PortId(2)));
        let mut new = io.allocate().expect("a free frame");
        assert!(new.set_len(60));
        frames.push(new);
        assert_eq!(io.receive(B, 1, &mut frames), 0);
        assert_eq!(io.transmit(B, &mut frames), Sent::default());
        assert_eq!(io.transmit(PortId(2), &mut frames), Sent::default());
        assert_eq!(frames.len(), 1);
        frames[0].bytes_mut().copy_from_slice(&frame(5, 60));
        assert_eq!(io.transmit(A, &mut frames).frames, 1);
        until("the packet to arrive", || {
            io.flush();
            left.receive().is_some_and(|packet| packet == frame(5, 60))
        });
        settle(&mut io);
    });
}

#[test]
fn waiting_ends_with_a_packet_or_the_timeout() {
    in_namespace(|| {
        two_veths();
        let mut umem = Umem::new();
        let config = XskConfig { busy_poll: true, ..two_ports() };
        let mut io = XskIo::open(&mut umem, &config).expect("sockets");
        let _programs = redirect(&io, &["a0", "b0"]);
        let granted = io.granted(A, 0).expect("a socket").clone();
        assert_ne!(granted.busy_poll, granted.busy_poll_refused.is_some(), "{granted:?}");
        let begin = Instant::now();
        io.wait(Duration::from_millis(50));
        assert!(begin.elapsed() >= Duration::from_millis(50));
        let left = Wire::open("a1");
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(30));
                left.send(&frame(1, 60));
            });
            let begin = Instant::now();
            io.wait(Duration::from_secs(10));
            assert!(begin.elapsed() < Duration::from_secs(5));
        });
        for received in take(&mut io, A, 1) {
            assert_eq!(received.bytes(), frame(1, 60));
            io.release(received);
        }
    });
}
