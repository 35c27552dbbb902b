//! ICMP errors and TCP resets back to the senders of rejected packets, within limits (`limit`).

use throughway_io::{Frame, PacketIo};
use throughway_packet::{Edit, Extra, Headers, Rewrite, icmp, reset};
use throughway_vnf::{Answer, Context};

use super::Engine;
use super::hold::Held;
use super::limit::Suppressed;

/// The largest error that is ever built: an ICMPv6 error fills the minimum MTU (RFC 4443, section 2.4 c), and two tags.
const LARGEST: usize = 14 + 8 + 1280;

impl<I: PacketIo> Engine<I> {
    /// Tells the sender of `frame` why it was rejected. What cannot or may not be told is counted.
    pub(super) fn answer(
        &mut self,
        frame: &I::Frame,
        chain: usize,
        headers: &Headers,
        answer: Answer,
        context: &Context,
    ) {
        if let Err(reason) = self.try_answer(frame, chain, headers, answer, context) {
            self.stats.answers_suppressed.add(1);
            if let Some(counter) = self.stats.suppressed.get(reason as usize) {
                counter.add(1);
            }
        }
        // What became of the packet itself was said before.
        self.taps.done();
    }

    fn try_answer(
        &mut self,
        frame: &I::Frame,
        chain: usize,
        headers: &Headers,
        answer: Answer,
        context: &Context,
    ) -> Result<(), Suppressed> {
        let to = headers.source();
        let origin = self.program.originate(chain, to).ok_or(Suppressed::NoWayBack)?;
        match answer {
            Answer::Icmp(error) if icmp::answerable(frame.bytes(), headers, error) => {
                self.limits.admit_error(to, error, context.now)?;
            }
            Answer::Icmp(_) => return Err(Suppressed::Forbidden),
            Answer::TcpReset => self.limits.admit_reset(context.now)?,
        }
        let mut reply = self.io.allocate().ok_or(Suppressed::NoFrame)?;
        let built = match answer {
            _ if !reply.set_len(LARGEST) => None,
            Answer::Icmp(error) => {
                let source = origin.source_address;
                icmp::build_error(frame.bytes(), headers, error, source, reply.bytes_mut())
            }
            Answer::TcpReset => reset::build_reset(frame.bytes(), headers, reply.bytes_mut()),
        };
        let Some(_) = built.filter(|&len| reply.set_len(len)) else {
            self.io.release(reply);
            return Err(Suppressed::Forbidden);
        };
        self.stats.originated.add(1);
        let Ok(parsed) = throughway_packet::parse(reply.bytes(), headers.ingress()) else {
            self.io.release(reply);
            return Err(Suppressed::Forbidden);
        };
        let (mut view, mut rewrite) = (parsed, Rewrite::nothing());
        Edit::Egress(origin.port).record_all(&mut view, &mut rewrite);
        // It has the tags of the packet that it answers, and may leave by another interface.
        if let Some(tags) = self.links.retag(origin.port, &parsed) {
            Edit::Tags(tags).record_all(&mut view, &mut rewrite);
        }
        self.taps.answer();
        match origin.macs {
            Some((destination, source)) => {
                Edit::Ethernet { destination, source }.record_all(&mut view, &mut rewrite);
                match throughway_packet::execute(&rewrite, &parsed, &mut reply) {
                    Ok(()) => self.enqueue(reply, headers.ingress(), origin.port),
                    Err(error) => self.end(reply, headers.ingress(), error.into()),
                }
            }
            None => {
                let held = Held {
                    frame: reply,
                    headers: parsed,
                    rewrite,
                    extra: Extra::nothing(),
                    // An answer to an answer is never sent, so no chain is needed to route one back.
                    forwarded: false,
                    next_hop: origin.next_hop,
                    since: context.now,
                    packet: 0,
                };
                self.hold_back(held, context);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crossbeam::channel::bounded;
    use throughway_config::Config;
    use throughway_io::memory::MemoryIo;
    use throughway_packet::build::PacketBuilder;
    use throughway_packet::{PortId, checksum, parse};
    use throughway_vnf::{IcmpError, Now};

    use super::super::limit::{BURST, DESTINATION_BURST};
    use super::super::{Setup, Worker};
    use super::*;
    use crate::assemble::state::States;
    use crate::assemble::{Blueprint, Figures};
    use crate::host::{HostFacts, NeighbourFacts};
    use crate::stats::WorkerStats;

    const HOST: [u8; 6] = [2, 0, 0, 0, 1, 0x10];
    const BOX: [u8; 6] = [2, 0, 0, 0, 0, 0];

    /// A worker with one interface and a host behind it.
    fn worker() -> Worker<MemoryIo> {
        let text = "\
interfaces: { lan: { device: lan0 } }
functions: { core: { router: {} } }
chains: { all: { from: lan, run: [core] } }
";
        let (config, _) = Config::parse("test.yaml", text).expect("a configuration");
        let mut facts = HostFacts::invented([("lan".to_owned(), "lan0".to_owned())]);
        for (own, host) in [("10.1.0.1", "10.1.0.10"), ("fd00:1::1", "fd00:1::10")] {
            let (own, address) = (own.parse().expect("an address"), host.parse().expect("an address"));
            facts.ports[0].addresses.push((own, if own.is_ipv4() { 24 } else { 64 }));
            facts.neighbours.push(NeighbourFacts { port: 0, address, mac: HOST, state: "reachable".into() });
        }
        let program = Blueprint::new(&config, &facts, &States::new(0, Arc::default()))
            .expect("a blueprint")
            .program(0, &mut Figures::default());
        let setup = Setup {
            settings: Vec::new(),
            stats: WorkerStats::new(1),
            wanted: bounded(1).0,
            generations: Arc::default(),
            flows: 0,
            seed: 0,
        };
        Worker::new(MemoryIo::new(1, 16, 2048), program, setup)
    }

    /// What is sent in answer to `received`.
    fn answered(worker: &mut Worker<MemoryIo>, received: &[u8], answer: Answer) -> Option<Vec<u8>> {
        let engine = &mut worker.engine;
        let headers = parse(received, PortId(0)).expect("a packet");
        let mut frame = engine.io.allocate().expect("a frame");
        assert!(frame.set_len(received.len()));
        frame.bytes_mut().copy_from_slice(received);
        engine.answer(&frame, 0, &headers, answer, &Context { now: Now(10_000_000_000) });
        engine.io.release(frame);
        engine.send();
        let sent = engine.io.sent(PortId(0)).pop();
        assert_eq!(engine.io.outstanding(), 0);
        sent
    }

    #[test]
    fn a_segment_is_answered_by_a_reset_from_its_destination() {
        let mut worker = worker();
        let between = [
            PacketBuilder::ipv4([10, 1, 0, 10], [192, 0, 2, 1]),
            PacketBuilder::ipv6([0xfd00, 1, 0, 0, 0, 0, 0, 0x10], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
        ];
        for builder in between {
            let received = builder.clone().ethernet(BOX, HOST).tcp(1000, 80, 0x02).finish();
            let reset = answered(&mut worker, &received, Answer::TcpReset).expect("a reset");
            let (asked, headers) = (parse(&received, PortId(0)), parse(&reset, PortId(0)));
            let (asked, headers) = (asked.expect("a packet"), headers.expect("a packet"));
            assert_eq!(reset[..12], [HOST, BOX].concat());
            assert_eq!((headers.source(), headers.destination()), (asked.destination(), asked.source()));
            assert_eq!((headers.source_port(), headers.tcp_flags), (80, 0x14));
            assert!(checksum::verify(&reset, &headers));
            let udp = builder.ethernet(BOX, HOST).udp(1000, 80).finish();
            assert_eq!(answered(&mut worker, &udp, Answer::TcpReset), None, "a datagram has no reset");
            assert!(answered(&mut worker, &udp, Answer::Icmp(IcmpError::PortUnreachable)).is_some());
        }
        assert_eq!((worker.stats().originated.get(), worker.stats().answers_suppressed.get()), (4, 2));
    }

    #[test]
    fn resets_are_limited_for_the_worker_and_errors_for_each_sender() {
        let mut worker = worker();
        let builder = PacketBuilder::ipv4([10, 1, 0, 10], [192, 0, 2, 1]).ethernet(BOX, HOST);
        let received = builder.tcp(1000, 80, 0x02).finish();
        let resets =
            (0..150).filter(|_| answered(&mut worker, &received, Answer::TcpReset).is_some()).count();
        assert_eq!(resets as u64, BURST);

        let mut worker = self::worker();
        let told = Answer::Icmp(IcmpError::NetUnreachable);
        let errors = (0..150).filter(|_| answered(&mut worker, &received, told).is_some()).count();
        assert_eq!(errors as u64, DESTINATION_BURST);
        let stats = worker.stats();
        let limited = stats.suppressed[Suppressed::DestinationRate as usize].get();
        assert_eq!((limited, stats.answers_suppressed.get()), (150 - DESTINATION_BURST, limited));
    }

    #[test]
    fn each_reason_for_silence_is_counted_for_itself() {
        let mut worker = worker();
        let silent = |worker: &mut Worker<MemoryIo>, frame: &[u8]| {
            assert_eq!(answered(worker, frame, Answer::Icmp(IcmpError::NetUnreachable)), None);
            Suppressed::LABELS
                .into_iter()
                .zip(&worker.stats().suppressed)
                .filter(|(_, count)| count.get() > 0)
                .map(|(label, _)| label)
                .collect::<Vec<_>>()
        };
        let unknown = PacketBuilder::ipv4([192, 0, 2, 9], [192, 0, 2, 1]).ethernet(BOX, HOST).udp(1, 2);
        assert_eq!(silent(&mut worker, &unknown.finish()), ["no-way-back"]);
        let to_all = PacketBuilder::ipv4([10, 1, 0, 10], [224, 0, 0, 9]).ethernet(BOX, HOST).udp(1, 2);
        assert_eq!(silent(&mut worker, &to_all.finish()), ["no-way-back", "forbidden"]);
    }
}
