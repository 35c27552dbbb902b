//! Packets that are longer than their egress takes and may be cut: IPv4 without DF (RFC 1812, section 5.2.6).

use throughway_io::{Frame, PacketIo};
use throughway_packet::PortId;
use throughway_packet::fragment::Fragments;
use throughway_vnf::DropReason;

use super::Engine;

impl<I: PacketIo> Engine<I> {
    /// Sends a packet, to which everything else is done, as fragments for a link of `mtu` bytes. All or none are made: the
    /// rest of a datagram is of no use to anybody.
    pub(super) fn send_fragments(
        &mut self,
        frame: I::Frame,
        chain: Option<usize>,
        ingress: PortId,
        egress: PortId,
        mtu: u16,
    ) {
        let mut fragments = std::mem::take(&mut self.fragments);
        if self.cut(&frame, ingress, mtu, &mut fragments).is_some() {
            let bytes = fragments.iter().map(|fragment| fragment.bytes().len() as u64).sum();
            self.stats.fragmented.add(1);
            self.stats.fragments.add(fragments.len() as u64);
            if let Some(chain) = chain.and_then(|chain| self.program.chains.get(chain)) {
                chain.stats.left.add(fragments.len() as u64, bytes);
            }
            for fragment in fragments.drain(..) {
                self.enqueue(fragment, ingress, egress);
            }
            self.io.release(frame);
        } else {
            for fragment in fragments.drain(..) {
                self.io.release(fragment);
            }
            self.end_edited(frame, ingress, egress, DropReason::NotFragmented);
        }
        self.fragments = fragments;
    }

    /// Makes the fragments of the packet in `frame`; `None` when it cannot be cut or there are too few frames.
    fn cut(&mut self, frame: &I::Frame, ingress: PortId, mtu: u16, into: &mut Vec<I::Frame>) -> Option<()> {
        let headers = throughway_packet::parse(frame.bytes(), ingress).ok()?;
        let mut fragments = Fragments::new(frame.bytes(), &headers, mtu)?;
        while !fragments.is_done() {
            let mut next = self.io.allocate()?;
            // No fragment is longer than the whole.
            let made =
                if next.set_len(frame.bytes().len()) { fragments.next_into(next.bytes_mut()) } else { None };
            match made {
                Some(Ok(len)) if next.set_len(len) => into.push(next),
                _ => {
                    self.io.release(next);
                    return None;
                }
            }
        }
        Some(())
    }
}
