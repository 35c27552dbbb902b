//! What to send, as a person says it, and as the programs want it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use throughway_packet::Prefix;
use throughway_traffic::{
    Class, IPV6, MAX_CLASSES, MAX_FLOWS, MIX, MIXED, Plan, STAMPED, SYN, TCP, frame, tag,
};

use crate::device::Device;
use crate::{Error, Sizes};

/// IPv4 or IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Family {
    /// IPv4.
    #[default]
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// UDP or TCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Protocol {
    /// UDP.
    #[default]
    Udp,
    /// TCP.
    Tcp,
}

/// A range of ports, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// From `first` to `last`; `None` when `last` is before `first`.
    pub fn new(first: u16, last: u16) -> Option<Ports> {
        (first <= last).then_some(Ports { first, last })
    }

    fn count(self) -> u64 {
        u64::from(self.last - self.first) + 1
    }
}

/// What to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Traffic {
    /// By which device.
    pub device: String,
    /// Packets per second; `None`: as fast as it goes.
    pub rate: Option<u64>,
    /// Ends after this time; at least one of this and `packets` is given.
    pub duration: Option<Duration>,
    /// Ends after this many packets.
    pub packets: Option<u64>,
    /// Flows that exist at one time.
    pub flows: u32,
    /// Flows that end and are replaced by new ones, per second.
    pub new_flows: u64,
    /// Frame lengths; `None`: the shortest that hold headers and tag.
    pub sizes: Option<Sizes>,
    /// IPv4 or IPv6.
    pub family: Family,
    /// UDP or TCP.
    pub protocol: Protocol,
    /// Source addresses: flows have different ones, as far as they go. `None`: one of the benchmarks' (RFC 2544, RFC 5180).
    pub source: Option<Prefix>,
    /// Destination addresses; `None` as above.
    pub destination: Option<Prefix>,
    /// Source ports.
    pub source_ports: Ports,
    /// Destination ports.
    pub destination_ports: Ports,
    /// Source MAC address; `None`: the device's.
    pub source_mac: Option<[u8; 6]>,
    /// Destination MAC address.
    pub destination_mac: [u8; 6],
    /// TCP: the first packet of a flow is a SYN. Without it all are ACKs, as in the middle of connections.
    pub syn: bool,
    /// Frames carry sequence number, flow number and time.
    pub stamp: bool,
    /// Which run it is, for a sink that sees several; `None`: told apart by process.
    pub run: Option<u32>,
    /// The core to send from.
    pub cpu: Option<usize>,
}

/// The most frames in one burst: what the kernel's XDP redirect takes in four goes.
const MAX_BURST: u64 = 64;
/// A paced burst is not longer than this many ns, so that 16 frames are one at 1 Mpps.
const BURST_TIME: u64 = 16_000;
/// So much of what was missed, in ns, is made up for, or as many packets as the largest burst has: rings hold that.
const PATIENCE: u64 = 100_000;
/// No rate above, in packets per second: no machine sends so fast, and arithmetic stays exact.
const MAX_RATE: u64 = 1_000_000_000;

impl Traffic {
    /// UDP over IPv4 in 64 byte frames, one flow, as fast as it goes, until stopped.
    pub fn new(device: impl Into<String>, destination_mac: [u8; 6]) -> Traffic {
        Traffic {
            device: device.into(),
            rate: None,
            duration: None,
            packets: None,
            flows: 1,
            new_flows: 0,
            sizes: None,
            family: Family::default(),
            protocol: Protocol::default(),
            source: None,
            destination: None,
            source_ports: Ports { first: 1024, last: u16::MAX },
            destination_ports: Ports { first: 9, last: 9 },
            source_mac: None,
            destination_mac,
            syn: false,
            stamp: false,
            run: None,
            cpu: None,
        }
    }

    /// What the programs are told.
    pub(crate) fn plan(&self, device: &Device) -> Result<Plan, Error> {
        let (ipv6, tcp) = (self.family == Family::Ipv6, self.protocol == Protocol::Tcp);
        let impossible = |what: String| Err(Error::Impossible(what));
        if self.flows == 0 || self.flows > MAX_FLOWS {
            return impossible(format!("between 1 and {MAX_FLOWS} flows, please"));
        }
        if self.rate.is_some_and(|rate| rate == 0 || rate > MAX_RATE) {
            return impossible(format!("between 1 and {MAX_RATE} packets per second, please"));
        }
        if self.new_flows > MAX_RATE {
            return impossible(format!("not more than {MAX_RATE} new flows per second, please"));
        }
        if self.syn && !tcp {
            return impossible("a SYN is TCP's: --protocol tcp".to_owned());
        }
        let (source, source_bits) = self.addresses("source", self.source, SOURCES)?;
        let (destination, destination_bits) =
            self.addresses("destination", self.destination, DESTINATIONS)?;
        let most = (self.source_ports.count() * self.destination_ports.count())
            .saturating_mul(1 << source_bits.min(31))
            .saturating_mul(1 << destination_bits.min(31));
        if u64::from(self.flows) > most {
            return impossible(format!(
                "these addresses and ports make {most} flows, not {}: give a --source prefix or more ports",
                self.flows
            ));
        }

        let mut flags = 0;
        for (flag, set) in
            [(IPV6, ipv6), (TCP, tcp), (STAMPED, self.stamp), (SYN, self.syn), (MIXED, self.mixed())]
        {
            if set {
                flags |= flag;
            }
        }
        let mut ethernet = [0; 16];
        let ethertype: u16 = if ipv6 { 0x86dd } else { 0x0800 };
        let header = self.destination_mac.into_iter().chain(self.source_mac.unwrap_or(device.mac));
        for (byte, value) in ethernet.iter_mut().zip(header.chain(ethertype.to_be_bytes())) {
            *byte = value;
        }
        let burst = match self.rate {
            None => MAX_BURST,
            Some(rate) => (rate * BURST_TIME / 1_000_000_000).clamp(1, MAX_BURST),
        };
        let burst_time =
            self.rate.map_or(0, |rate| (u128::from(burst) * 256_000_000_000 / u128::from(rate)) as u64);
        let mut plan = Plan {
            flags,
            ethernet,
            source,
            destination,
            source_bits,
            destination_bits,
            source_port: self.source_ports.first.into(),
            source_ports: self.source_ports.count(),
            destination_port: self.destination_ports.first.into(),
            destination_ports: self.destination_ports.count(),
            flows: self.flows.into(),
            new_flows: self.new_flows,
            tag: tag::head(self.run.unwrap_or_else(std::process::id), self.stamp).into(),
            burst,
            burst_time,
            patience: (PATIENCE << 8).max(burst_time.saturating_mul(MAX_BURST / burst)),
            end: self.duration.map_or(u64::MAX, |span| span.as_nanos().try_into().unwrap_or(u64::MAX)),
            limit: self.packets.unwrap_or(u64::MAX),
            classes: [Class::default(); MAX_CLASSES],
            mix: [0; MIX],
        };
        let least = frame::least(ipv6, tcp, self.stamp) as u16;
        let lengths = match &self.sizes {
            None => vec![least],
            Some(sizes) => {
                let shortest = sizes.shortest() - crate::sizes::CHECK_SEQUENCE;
                if !sizes.mixed() && shortest < least {
                    return impossible(format!(
                        "frames of {} bytes are too short for these headers{}: {} at least",
                        sizes.shortest(),
                        if self.stamp { " and the stamp" } else { "" },
                        least + crate::sizes::CHECK_SEQUENCE
                    ));
                }
                plan.mix = sizes.shares();
                sizes.frames(least)
            }
        };
        let mut classes = plan.classes;
        for (class, length) in classes.iter_mut().zip(lengths) {
            *class = frame::sums(&plan, length);
        }
        plan.classes = classes;
        Ok(plan)
    }

    fn mixed(&self) -> bool {
        self.sizes.as_ref().is_some_and(Sizes::mixed)
    }

    /// The first address of the prefix as the plan holds it, and how many bits may vary.
    fn addresses(
        &self,
        what: &str,
        prefix: Option<Prefix>,
        default: (Ipv4Addr, Ipv6Addr),
    ) -> Result<([u8; 16], u64), Error> {
        let ipv6 = self.family == Family::Ipv6;
        let prefix = prefix.unwrap_or_else(|| {
            Prefix::host(if ipv6 { IpAddr::V6(default.1) } else { IpAddr::V4(default.0) })
        });
        let (bytes, width) = match prefix.address() {
            IpAddr::V4(address) if !ipv6 => {
                let [a, b, c, d] = address.octets();
                ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d], 32)
            }
            IpAddr::V6(address) if ipv6 => (address.octets(), 128),
            _ => return Err(Error::Impossible(format!("{what} {prefix} is of the other address family"))),
        };
        Ok((bytes, u64::from(width - prefix.len()).min(31)))
    }
}

/// Networks for benchmarks: 198.18.0.0/15 (RFC 2544, appendix C.2.2) and 2001:2::/48 (RFC 5180, section 8).
const SOURCES: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(198, 18, 0, 1), Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 1));
const DESTINATIONS: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(198, 19, 0, 1), Ipv6Addr::new(0x2001, 2, 0, 1, 0, 0, 0, 1));
