//! What is done to one packet alone, beside the edits of its flow: never remembered, always executed on the packet that it
//! was recorded for.

use throughway_shared::action::Action;
use throughway_shared::checksum::{delta, update};

use crate::edit::Edit;
use crate::embedded::{apply_embedded, edited, parse_embedded};
use crate::headers::{Flags, Headers};
use crate::mss;

/// What is done to one packet alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extra {
    mss: Option<u16>,
    fragment: Option<u16>,
    embedded: Action,
    echo: bool,
}

impl Extra {
    /// Nothing.
    pub const fn nothing() -> Self {
        Extra { mss: None, fragment: None, embedded: Action::nothing(), echo: false }
    }

    /// Whether there is nothing to be done.
    #[inline]
    pub const fn is_nothing(&self) -> bool {
        self.mss.is_none() && self.fragment.is_none() && self.embedded.edits == 0 && !self.echo
    }

    /// Has the MSS of a TCP SYN lowered to `mss`: see [`mss::clamp`]. The smallest wins.
    pub fn clamp_mss(&mut self, mss: u16) {
        self.mss = Some(self.mss.map_or(mss, |before| before.min(mss)));
    }

    /// Has the packet cut into fragments that fit a link of `mtu` bytes, once everything else is done to it: see
    /// [`fragment`](crate::fragment). The smallest wins.
    pub fn fragment_to(&mut self, mtu: u16) {
        self.fragment = Some(self.fragment.map_or(mtu, |before| before.min(mtu)));
    }

    /// The MTU that the packet is cut for, if it is.
    pub const fn fragments_of(&self) -> Option<u16> {
        self.fragment
    }

    /// The packet embedded in the ICMP error, as edited so far; `None` when there is none that can be read. `received` are the
    /// headers parsed from `frame`.
    pub fn embedded(&self, frame: &[u8], received: &Headers) -> Option<Headers> {
        let embedded = parse_embedded(frame, received).ok()?;
        Some(edited(&embedded, &self.embedded))
    }

    /// Records an edit of the packet embedded in the ICMP error: its addresses and ports. What does not fit changes nothing.
    pub fn edit_embedded(&mut self, frame: &[u8], received: &Headers, edit: Edit) {
        match edit {
            Edit::Source(_) | Edit::Destination(_) | Edit::SourcePort(_) | Edit::DestinationPort(_) => {
                if let Some(mut view) = self.embedded(frame, received) {
                    edit.record(&mut view, &mut self.embedded);
                }
            }
            _ => {}
        }
    }

    /// Makes an echo request the reply to it: its type alone, addresses are edited as any (RFC 792; RFC 4443, section 4.2).
    pub fn answer_echo(&mut self) {
        self.echo = true;
    }

    /// Does it. `headers` are those parsed from `frame`; edits of the packet itself are executed before or after.
    pub fn execute(&self, headers: &Headers, frame: &mut [u8]) {
        if let Some(mss) = self.mss {
            mss::clamp(headers, frame, mss);
        }
        if self.embedded.edits != 0 {
            apply_embedded(&self.embedded, headers, frame);
        }
        if self.echo {
            answer(headers, frame);
        }
    }
}

/// Gives an echo request the type of a reply.
fn answer(headers: &Headers, frame: &mut [u8]) {
    let (request, reply) = if headers.is_ipv4() { (8, 0) } else { (128, 129) };
    if !headers.flags.has(Flags::ICMP_QUERY) || headers.icmp_type != request {
        return;
    }
    if let Some([kind, code, high, low]) =
        frame.get_mut(usize::from(headers.l4)..).and_then(|message| message.first_chunk_mut::<4>())
    {
        let change = delta(u16::from_be_bytes([*kind, *code]), u16::from_be_bytes([reply, *code]));
        [*high, *low] = update(u16::from_be_bytes([*high, *low]), change).to_be_bytes();
        *kind = reply;
    }
}
