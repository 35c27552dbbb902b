//! What of an action is a flow's own, and where it is kept: new addresses, new ports, checksum deltas.
//!
//! An entry holds addresses and ports as packets leave with them, whether they are new or not, so that a hit need not ask; the
//! edits of the template say which of them the action has.

use throughway_shared::action::{Action, edits};
use throughway_shared::flow::mapped;

use crate::key::{Key, join, split, unpair};

/// Where a flow's own part of its action is.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Form {
    /// IPv6, and the addresses stay.
    #[default]
    Plain,
    /// IPv4 to IPv4: the addresses are beside those of the key.
    Narrow,
    /// In a [`Record`].
    Apart,
}

/// What of an action is a flow's own; the rest is its template's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Own {
    pub(crate) source: [u8; 16],
    pub(crate) destination: [u8; 16],
    /// As they lie in the packet.
    pub(crate) ports: u32,
    pub(crate) l3_delta: u16,
    pub(crate) l4_delta: u16,
}

/// An [`Own`] in five words, where an entry has no room for it: new IPv6 addresses.
pub(crate) type Record = [u64; 5];

/// The records of a cache: room for as many as flows.
pub(crate) type Records = crate::records::Records<5>;

impl Own {
    /// Divides the action of a flow with this key: its own part, where that can be kept, and the rest, for the template.
    pub(crate) fn divide(action: &Action, key: &Key) -> (Own, Form, Action) {
        let ([a, b], [c, d]) = (action.source_port, action.destination_port);
        let own = Own {
            source: action.source,
            destination: action.destination,
            ports: u32::from_ne_bytes([a, b, c, d]),
            l3_delta: action.l3_delta,
            l4_delta: action.l4_delta,
        };
        (own, own.form(key, action.edits), Own::default().with(action))
    }

    /// `rest` with these fields: the whole action again.
    pub(crate) fn with(&self, rest: &Action) -> Action {
        let [a, b, c, d] = self.ports.to_ne_bytes();
        Action {
            source: self.source,
            destination: self.destination,
            source_port: [a, b],
            destination_port: [c, d],
            l3_delta: self.l3_delta,
            l4_delta: self.l4_delta,
            ..*rest
        }
    }

    /// The form that can hold it, for a flow of this key and with these edits.
    fn form(&self, key: &Key, made: u16) -> Form {
        let [a, b, c, d] = self.ports.to_ne_bytes();
        let port = |port: [u8; 2], edit| made & edit != 0 || port == [0; 2];
        if !port([a, b], edits::SOURCE_PORT) || !port([c, d], edits::DESTINATION_PORT) {
            return Form::Apart;
        }
        let narrow = |address: [u8; 16], edit| address == narrow_address(last(address), made & edit != 0);
        if key.is_ipv4() {
            let fits = narrow(self.source, edits::SOURCE) && narrow(self.destination, edits::DESTINATION);
            if fits { Form::Narrow } else { Form::Apart }
        } else if self.source == [0; 16] && self.destination == [0; 16] && self.l3_delta == 0 {
            Form::Plain
        } else {
            Form::Apart
        }
    }

    pub(crate) fn record(&self) -> Record {
        let ([a, b], [c, d]) = (split(&self.source), split(&self.destination));
        let last = u64::from(self.ports) | u64::from(self.l3_delta) << 32 | u64::from(self.l4_delta) << 48;
        [a, b, c, d, last]
    }

    #[inline(always)]
    pub(crate) fn of_record([a, b, c, d, last]: Record) -> Own {
        Own {
            source: join(a, b),
            destination: join(c, d),
            ports: last as u32,
            l3_delta: (last >> 32) as u16,
            l4_delta: (last >> 48) as u16,
        }
    }

    /// From what an entry holds: the ports that packets leave with, and of [`Form::Narrow`] their addresses.
    pub(crate) fn of_final(ports: u32, addresses: Option<u64>, made: u16) -> Own {
        let [a, b, c, d] = ports.to_ne_bytes();
        let [a, b] = if made & edits::SOURCE_PORT != 0 { [a, b] } else { [0; 2] };
        let [c, d] = if made & edits::DESTINATION_PORT != 0 { [c, d] } else { [0; 2] };
        let (source, destination) = unpair(addresses.unwrap_or(0));
        let new = |address, edit| narrow_address(address, addresses.is_some() && made & edit != 0);
        Own {
            source: new(source, edits::SOURCE),
            destination: new(destination, edits::DESTINATION),
            ports: u32::from_ne_bytes([a, b, c, d]),
            ..Own::default()
        }
    }
}

const fn last([.., a, b, c, d]: [u8; 16]) -> [u8; 4] {
    [a, b, c, d]
}

/// A new IPv4 address, if there is one.
const fn narrow_address(address: [u8; 4], new: bool) -> [u8; 16] {
    if new { mapped(address) } else { [0; 16] }
}
