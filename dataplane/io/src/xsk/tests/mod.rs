//! Real packets over veth pairs in a namespace of their own. Needs root; `THROUGHWAY_REQUIRE_PRIVILEGED=1` makes skipping a failure.

mod lab;
mod ownership;
mod refusals;
mod traffic;

use super::*;
use crate::Frame;
use lab::{Redirect, Wire, until};

const A: PortId = PortId(0);
const B: PortId = PortId(1);

fn port(device: &str, queues: &[u32]) -> XskPort {
    XskPort { device: device.to_owned(), queues: queues.to_vec(), zero_copy: ZeroCopy::Auto }
}

/// Ports `a0` and `b0`, on one queue each.
fn two_ports() -> XskConfig {
    XskConfig { ports: vec![port("a0", &[0]), port("b0", &[0])], ..XskConfig::default() }
}

/// Makes the veth pairs for [`two_ports`].
fn two_veths() {
    lab::veth("a0", "a1", 1);
    lab::veth("b0", "b1", 1);
}

/// Attaches the redirecting program to the devices of all ports and gives it the sockets.
fn redirect(io: &XskIo<'_>, devices: &[&str]) -> Vec<Redirect> {
    let programs: Vec<_> = devices.iter().map(|device| Redirect::attach(device)).collect();
    for (port, queue, socket) in io.sockets() {
        programs[port.index()].insert(queue, socket);
    }
    programs
}

/// One round of a worker that sends everything from each port to the other. Returns how many packets it received.
fn forward(io: &mut XskIo<'_>) -> usize {
    let mut received = 0;
    let mut frames = Vec::new();
    for (from, to) in [(A, B), (B, A)] {
        received += io.receive(from, 64, &mut frames);
        io.transmit(to, &mut frames);
        while !frames.is_empty() {
            io.flush();
            io.transmit(to, &mut frames);
        }
    }
    io.flush();
    assert!(io.account().balances(), "{:?}", io.account());
    received
}

/// Flushes until nothing is under way, and checks that every frame is where it should be.
fn settle(io: &mut XskIo<'_>) {
    until("transmission to complete", || {
        io.flush();
        assert!(io.account().balances(), "{:?}", io.account());
        io.account().sending == 0
    });
    assert_eq!(io.outstanding(), 0);
}

/// Takes `count` packets of `port` out of the rings.
fn take<'u>(io: &mut XskIo<'u>, port: PortId, count: usize) -> Vec<XskFrame<'u>> {
    let mut frames = Vec::new();
    until("packets to arrive", || {
        io.receive(port, count - frames.len(), &mut frames);
        frames.len() == count
    });
    frames
}
