//! What a hit needs of an action, made ready once: the plan of a template, and its execution on the bytes of a packet.
//!
//! For packets without tags whose action only replaces fields. It writes the same bytes as [`throughway_packet::apply()`], with
//! everything that can be known before the packet comes worked out when the plan and the entry are made: what is not edited is
//! written all the same, as it was, and the deltas of the checksums say that nothing has changed. The rest is executed from the
//! whole [`Action`](throughway_shared::action::Action).

use throughway_packet::parse::{TCP, UDP};
use throughway_shared::action::edits;
use throughway_shared::checksum;

use crate::entry::Entry;
use crate::key::{Key, split};
use crate::own::{Form, Own, Records};
use crate::peek::{IPV4, IPV6, L3, Probe};
use crate::template::Template;

/// How a template's action is executed.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Manner {
    /// By the plan.
    Quick,
    /// From the whole action.
    Whole,
    /// The frame's front moves, which is for who has the frame and not only its bytes.
    Front,
    /// Not at all: the packet ends.
    Drop,
}

/// What a hit needs of a template: half a cache line.
#[repr(C, align(32))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Plan {
    /// See [`Template::context`].
    pub(crate) context: u64,
    /// See [`Template::limit`].
    pub(crate) limit: u16,
    egress: u16,
    /// The lower byte: nothing above it is executed here.
    edits: u8,
    /// Whether the upper layer is UDP.
    udp: bool,
    pub(crate) hops: u8,
    /// Where it stands in the traffic class.
    dscp: u8,
    drop: u8,
    judged: u8,
    manner: Manner,
    /// Where the checksum of the upper layer lies in a frame without tags.
    l4_checksum: u8,
    /// Destination and source.
    macs: [u8; 12],
}

const _: () = assert!(size_of::<Plan>() == 32);

impl Plan {
    /// That of no flow.
    pub(crate) const VOID: Plan = Plan {
        context: u64::MAX,
        limit: 0,
        egress: 0,
        edits: 0,
        udp: false,
        hops: 0,
        dscp: 0,
        drop: 0,
        judged: 0,
        manner: Manner::Whole,
        l4_checksum: 0,
        macs: [0; 12],
    };

    pub(crate) fn of(template: &Template) -> Plan {
        let action = &template.action;
        let key = Key([0, 0, 0, 0, 0, template.context]);
        let protocol = key.protocol();
        let l4 = L3 + if key.is_ipv4() { IPV4 } else { IPV6 };
        let manner = if action.has(edits::DROP) {
            Manner::Drop
        } else if action.edits & edits::FRONT != 0 {
            Manner::Front
        } else if matches!(protocol, TCP | UDP) {
            Manner::Quick
        } else {
            Manner::Whole
        };
        let [a, b, c, d, e, f] = action.ethernet_destination;
        let [g, h, i, j, k, l] = action.ethernet_source;
        Plan {
            context: template.context,
            limit: template.limit,
            egress: action.egress,
            edits: action.edits as u8,
            udp: protocol == UDP,
            hops: action.hops,
            dscp: action.dscp << 2,
            drop: action.drop,
            judged: action.judged,
            manner,
            l4_checksum: (l4 + if protocol == TCP { 16 } else { 6 }) as u8,
            macs: [a, b, c, d, e, f, g, h, i, j, k, l],
        }
    }

    /// What becomes of a packet.
    #[inline(always)]
    pub(crate) const fn done(&self) -> Done {
        Done { egress: self.egress, drop: self.drop, judged: self.judged, manner: self.manner }
    }

    #[inline(always)]
    const fn has(&self, edit: u16) -> bool {
        self.edits & edit as u8 != 0
    }

    /// Executes it on a frame for the IPv4 flow of `entry`. `false`: it is not for this to do.
    #[inline(always)]
    pub(crate) fn execute_ipv4(&self, entry: &Entry, probe: &Probe, frame: &mut [u8]) -> bool {
        if self.manner != Manner::Quick || usize::from(probe.l3) != L3 || entry.form != Form::Narrow {
            return false;
        }
        let Some(head) = frame.first_chunk_mut::<{ L3 + IPV4 + 8 }>() else { return false };
        if self.has(edits::ETHERNET) {
            head[..12].copy_from_slice(&self.macs);
        }
        let [_, addresses, sum, _] = entry.addresses;
        let mut sum = (sum >> 32) as u32;
        if self.has(edits::DSCP) {
            let old = head[15];
            head[15] = self.dscp | old & 0b11;
            sum += u32::from((!u16::from(old)).to_be()) + u32::from(u16::from(head[15]).to_be());
        }
        // There are more hops left than are taken: lookups see to that.
        head[22] = probe.hop_limit.wrapping_sub(self.hops);
        // RFC 1624, equation 3, in the machine's byte order (RFC 1071, section 2).
        sum += u32::from(!u16::from_ne_bytes([head[24], head[25]]));
        head[24..26].copy_from_slice(&(!fold(sum)).to_ne_bytes());
        head[26..34].copy_from_slice(&addresses.to_ne_bytes());
        head[34..38].copy_from_slice(&entry.own.to_ne_bytes());
        self.l4_checksum(entry.l4_delta, frame);
        true
    }

    /// The same for IPv6.
    #[inline(always)]
    pub(crate) fn execute_ipv6(
        &self,
        entry: &Entry,
        records: &Records,
        probe: &Probe,
        frame: &mut [u8],
    ) -> bool {
        if self.manner != Manner::Quick || usize::from(probe.l3) != L3 {
            return false;
        }
        let Some(head) = frame.first_chunk_mut::<{ L3 + IPV6 + 8 }>() else { return false };
        let (mut ports, mut l4_delta) = (entry.own, entry.l4_delta);
        if entry.form == Form::Apart {
            let Some(own) = records.get(entry.own).copied().map(Own::of_record) else { return false };
            (ports, l4_delta) = (own.final_ports(&probe.key, self.edits.into()), own.l4_delta.to_be_bytes());
            if self.has(edits::SOURCE) {
                head[22..38].copy_from_slice(&own.source);
            }
            if self.has(edits::DESTINATION) {
                head[38..54].copy_from_slice(&own.destination);
            }
        }
        if self.has(edits::ETHERNET) {
            head[..12].copy_from_slice(&self.macs);
        }
        if self.has(edits::DSCP) {
            // The traffic class lies across two bytes, between version and flow label.
            let class = self.dscp | head[15] >> 4 & 0b11;
            head[14] = head[14] & 0xf0 | class >> 4;
            head[15] = class << 4 | head[15] & 0x0f;
        }
        head[21] = probe.hop_limit.wrapping_sub(self.hops);
        head[54..58].copy_from_slice(&ports.to_ne_bytes());
        self.l4_checksum(l4_delta, frame);
        true
    }

    /// A UDP checksum of zero stays (RFC 768, RFC 6936); one that becomes zero is sent as 0xffff.
    #[inline(always)]
    fn l4_checksum(&self, delta: [u8; 2], frame: &mut [u8]) {
        let at = usize::from(self.l4_checksum);
        let Some(field) = frame.get_mut(at..at + 2) else { return };
        let old = u16::from_ne_bytes([field[0], field[1]]);
        let mut new = !fold(u32::from(!old) + u32::from(u16::from_ne_bytes(delta)));
        if self.udp {
            new = if new == 0 { u16::MAX } else { new };
            new = if old == 0 { 0 } else { new };
        }
        field.copy_from_slice(&new.to_ne_bytes());
    }
}

/// As [`checksum::fold`], in fewer steps.
#[inline(always)]
const fn fold(sum: u32) -> u16 {
    let (sum, carry) = (sum as u16).overflowing_add((sum >> 16) as u16);
    sum.wrapping_add(carry as u16)
}

/// What became of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    egress: u16,
    drop: u8,
    judged: u8,
    manner: Manner,
}

impl Done {
    /// The port that the packet leaves by.
    #[inline(always)]
    pub const fn egress(&self) -> u16 {
        self.egress
    }

    /// How many functions of the chain judged it.
    #[inline(always)]
    pub const fn judged(&self) -> u8 {
        self.judged
    }

    /// The number of the reason for which it ends, if it does.
    #[inline(always)]
    pub const fn drop(&self) -> Option<u8> {
        if matches!(self.manner, Manner::Drop) { Some(self.drop) } else { None }
    }

    /// Whether nothing was executed yet, because the front of the frame moves: tags or outer headers come or go. See
    /// [`FlowCache::rewrite`](crate::FlowCache::rewrite).
    #[inline(always)]
    pub const fn moves_front(&self) -> bool {
        matches!(self.manner, Manner::Front)
    }

    /// Whether there is something to be done to the bytes of the packet.
    pub(crate) const fn is_to_be_executed(&self) -> bool {
        matches!(self.manner, Manner::Quick | Manner::Whole)
    }
}

/// What of a flow's action its entry holds ready for a plan.
impl Own {
    /// The ports that packets of this flow leave with, as they lie there.
    #[inline(always)]
    pub(crate) fn final_ports(&self, key: &Key, made: u16) -> u32 {
        let ([a, b, c, d], [e, f, g, h]) = (self.ports.to_ne_bytes(), key.ports().to_ne_bytes());
        let [a, b] = if made & edits::SOURCE_PORT != 0 { [a, b] } else { [e, f] };
        let [c, d] = if made & edits::DESTINATION_PORT != 0 { [c, d] } else { [g, h] };
        u32::from_ne_bytes([a, b, c, d])
    }

    /// The addresses that packets of this IPv4 flow leave with, as they lie there.
    pub(crate) fn final_addresses(&self, key: &Key, made: u16) -> u64 {
        let [source, destination] = [&self.source, &self.destination].map(|address| split(address)[1] >> 32);
        let (old, half) = (key.0[0], u64::from(u32::MAX));
        let first = if made & edits::SOURCE != 0 { source } else { old & half };
        let second = if made & edits::DESTINATION != 0 { destination } else { old >> 32 };
        first | second << 32
    }

    /// What is added to the header checksum of IPv4 but for DSCP, in the machine's byte order: the addresses, and the hops that
    /// are taken.
    pub(crate) fn final_sum(&self, hops: u8) -> u16 {
        // ~m + m′ for the word with the hop limit: as it falls by the hops, this is the same for all packets.
        let hops = if hops > 0 { !(u16::from(hops) << 8) } else { 0 };
        checksum::add(self.l3_delta, hops).to_be()
    }
}
