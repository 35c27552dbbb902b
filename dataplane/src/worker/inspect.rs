//! Looking into a worker's flow cache while it works: in slices between rounds, so that no packet waits for an answer.

use std::net::IpAddr;

use crossbeam::channel::Sender;
use throughway_flow::entry::Flow;
use throughway_io::PacketIo;
use throughway_packet::FlowKey;
use throughway_packet::headers::octets;
use throughway_vnf::Now;

use super::Worker;
use super::offload::Stays;

/// Buckets of sixteen flows that are looked at between two rounds.
const SLICE: usize = 64;

/// Which flows are wanted: all conditions that are given must hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlowFilter {
    /// Source or destination.
    pub address: Option<IpAddr>,
    /// Source or destination port, host order.
    pub port: Option<u16>,
    /// The upper-layer protocol (IANA number).
    pub protocol: Option<u8>,
    /// The port of the data plane on which its packets come in.
    pub ingress: Option<u16>,
}

impl FlowFilter {
    /// Whether a flow is wanted.
    pub fn accepts(&self, key: &FlowKey) -> bool {
        let port = self.port.map(u16::to_be_bytes);
        self.address.map(octets).is_none_or(|wanted| key.source == wanted || key.destination == wanted)
            && port.is_none_or(|wanted| key.source_port == wanted || key.destination_port == wanted)
            && self.protocol.is_none_or(|wanted| key.protocol == wanted)
            && self.ingress.is_none_or(|wanted| key.ingress == wanted)
    }
}

/// A request to look at flows, as far as it was answered.
#[derive(Debug)]
pub struct Inspection {
    filter: FlowFilter,
    most: usize,
    next: usize,
    found: Vec<Found>,
    answer: Sender<Vec<Found>>,
}

/// A flow that was found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The flow.
    pub flow: Flow,
    /// Why the XDP program does not execute it; `None`: it does.
    pub stays: Option<Stays>,
}

impl Inspection {
    /// Asks for at most `most` flows; they come through `answer`, all at once.
    pub fn new(filter: FlowFilter, most: usize, answer: Sender<Vec<Found>>) -> Self {
        Inspection { filter, most, next: 0, found: Vec::new(), answer }
    }
}

impl<I: PacketIo> Worker<I> {
    /// Looks at the next slice of flows; gives the inspection back when there is more to look at.
    pub fn inspect(&self, mut inspection: Inspection, now: Now) -> Option<Inspection> {
        let Inspection { filter, most, next, found, .. } = &mut inspection;
        if *next == 0 {
            let singles = self.engine.singles.flows(now).filter(|flow| filter.accepts(&flow.key));
            // The last ones, of which there may be many, must not hide the others.
            found.extend(
                singles.take((*most / 4).max(1)).map(|flow| Found { flow, stays: Some(Stays::Each) }),
            );
        }
        let offload = self.engine.offload.as_ref();
        let rest = self.engine.flows.as_ref().and_then(|flows| {
            flows.flows(now.0, *next, SLICE, |flow| {
                if found.len() < *most && filter.accepts(&flow.key) {
                    let why_not = |flow| offload.map_or(Stays::Off, |offload| offload.why_not(flow));
                    found.push(Found { flow, stays: (!flow.elsewhere).then(|| why_not(&flow)) });
                }
            })
        });
        match rest {
            Some(from) if inspection.found.len() < inspection.most => {
                inspection.next = from;
                Some(inspection)
            }
            _ => {
                // Who asked may have given up.
                let _ = inspection.answer.try_send(inspection.found);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use throughway_shared::flow::mapped;

    #[test]
    fn every_condition_must_hold() {
        let key = FlowKey {
            source: mapped([10, 0, 0, 1]),
            destination: mapped([192, 0, 2, 9]),
            source_port: 4000u16.to_be_bytes(),
            destination_port: 443u16.to_be_bytes(),
            ingress: 1,
            protocol: 6,
            ..FlowKey::default()
        };
        let accepts = |filter: FlowFilter| filter.accepts(&key);
        let address = |text: &str| FlowFilter { address: text.parse().ok(), ..FlowFilter::default() };
        assert!(accepts(FlowFilter::default()));
        assert!(
            accepts(address("10.0.0.1")) && accepts(address("192.0.2.9")) && !accepts(address("10.0.0.2"))
        );
        let all = FlowFilter { port: Some(443), protocol: Some(6), ingress: Some(1), ..address("10.0.0.1") };
        assert!(accepts(all));
        assert!(!accepts(FlowFilter { port: Some(444), ..all }));
        assert!(!accepts(FlowFilter { protocol: Some(17), ..all }));
        assert!(!accepts(FlowFilter { ingress: Some(0), ..all }));
    }
}
