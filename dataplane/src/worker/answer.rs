//! ICMP errors and TCP resets back to the senders of rejected packets, within a rate limit (RFC 1812, section 4.3.2.8; RFC
//! 4443, section 2.4 f).

use throughway_io::{Frame, PacketIo};
use throughway_packet::{Action, Edit, Extra, Headers, PortId, icmp, reset};
use throughway_vnf::{Answer, Context, Now};

use super::Worker;
use super::hold::Held;

/// Answers a second that one worker sends at most.
pub const RATE: u64 = 1000;
/// How many may come at once.
pub const BURST: u64 = 100;

/// The largest error that is ever built: an ICMPv6 error fills the minimum MTU (RFC 4443, section 2.4 c), and two tags.
const LARGEST: usize = 14 + 8 + 1280;

/// A token bucket, in nanoseconds of credit.
#[derive(Debug, Default)]
pub struct Limiter {
    spent_until: u64,
}

impl Limiter {
    /// Takes one token, if there is one.
    pub fn admit(&mut self, now: Now) -> bool {
        const COST: u64 = 1_000_000_000 / RATE;
        let floor = now.0.saturating_sub(BURST * COST);
        let spent = self.spent_until.max(floor) + COST;
        if spent > now.0 {
            return false;
        }
        self.spent_until = spent;
        true
    }
}

impl<I: PacketIo> Worker<I> {
    /// Tells the sender of `frame` why it was rejected. What cannot or may not be told is counted.
    pub(super) fn answer(
        &mut self,
        frame: &I::Frame,
        chain: usize,
        headers: &Headers,
        answer: Answer,
        context: &Context,
    ) {
        if self.try_answer(frame, chain, headers, answer, context).is_none() {
            self.stats.answers_suppressed.add(1);
        }
    }

    fn try_answer(
        &mut self,
        frame: &I::Frame,
        chain: usize,
        headers: &Headers,
        answer: Answer,
        context: &Context,
    ) -> Option<()> {
        let origin = self.program.originate(chain, headers.source())?;
        if !self.limiter.admit(context.now) {
            return None;
        }
        let mut reply = self.io.allocate()?;
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
            return None;
        };
        self.stats.originated.add(1);
        let Ok(parsed) = throughway_packet::parse(reply.bytes(), headers.ingress()) else {
            self.io.release(reply);
            return None;
        };
        let mut action = Action::nothing();
        Edit::Egress(PortId(origin.port.0)).record(&mut parsed.clone(), &mut action);
        match origin.macs {
            Some((destination, source)) => {
                Edit::Ethernet { destination, source }.record(&mut parsed.clone(), &mut action);
                throughway_packet::apply(&action, &parsed, reply.bytes_mut());
                self.enqueue(reply, headers.ingress(), origin.port);
            }
            None => {
                let held = Held {
                    frame: reply,
                    headers: parsed,
                    rewrite: action.into(),
                    extra: Extra::nothing(),
                    // An answer to an answer is never sent, so no chain is needed to route one back.
                    forwarded: false,
                    next_hop: origin.next_hop,
                    since: context.now,
                };
                self.hold_back(held, context);
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limiter_allows_a_burst_then_the_rate() {
        let mut limiter = Limiter::default();
        let start = 10_000_000_000;
        let admitted = (0..1000).filter(|_| limiter.admit(Now(start))).count() as u64;
        assert_eq!(admitted, BURST);
        let later = (0..1000).filter(|_| limiter.admit(Now(start + 10_000_000))).count() as u64;
        assert_eq!(later, RATE / 100);
    }
}
