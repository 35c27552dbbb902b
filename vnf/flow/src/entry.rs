//! What is kept of a flow, to the byte.
//!
//! A hit touches two cache lines: a bucket of sixteen ways with a tag and a stamp each (4 bytes a flow), and one entry (64
//! bytes). What flows have in common is in their template (`template.rs`), of which there are few. What only the slow
//! path, ageing and output need is in the cold part (16 bytes, `cold.rs`). Together 84 bytes for every flow the cache has room for,
//! 40 more for one whose action replaces IPv6 addresses, and 24 more for one that is credited to more than one function, and
//! once more for one of more than 65,535 packets.

use throughway_shared::action::Action;
use throughway_shared::flow::FlowKey;
use throughway_shared::tunnel::Tunnel;

use crate::bucket::{Bucket, WAYS};
use crate::cold;
use crate::generation::Dependencies;
use crate::key::Key;
use crate::own::{Form, Own, Record, Records};
use crate::plan::Plan;
use crate::template::{self, Template};

/// One flow, as far as a hit needs it: one cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Entry {
    /// The key's addresses. Of IPv4 these are in the first word; in the second those that packets leave with, in the third the
    /// delta of the header checksum and, in its upper half, that with the hops in the machine's byte order (see
    /// [`Own::final_sum`]).
    pub(crate) addresses: [u64; 4],
    /// The key's ports.
    pub(crate) ports: u32,
    /// The generation at which it was made or last found true.
    pub(crate) generation: u32,
    /// What it was made from.
    pub(crate) dependencies: Dependencies,
    /// Bytes since they were last told.
    pub(crate) bytes: u32,
    /// Packets since they were last told.
    pub(crate) packets: u16,
    /// The rest of key and action.
    pub(crate) template: u16,
    /// The ports that packets leave with, or the number of the flow's [`Record`].
    pub(crate) own: u32,
    /// Delta of the upper layer's checksum, as it lies in the packet.
    pub(crate) l4_delta: [u8; 2],
    /// For so many ticks without a packet it stays true; [`ENDLESS`]: for any time.
    pub(crate) silence: u8,
    /// Where the flow's own part of the action is.
    pub(crate) form: Form,
}

const _: () = assert!(size_of::<Entry>() == 64);

/// See [`Entry::silence`].
pub(crate) const ENDLESS: u8 = u8::MAX;

impl Entry {
    /// Whether it is of the flow with this key.
    #[inline(always)]
    pub(crate) fn is_of(&self, key: &Key, plan: &Plan) -> bool {
        let [a0, a1, a2, a3] = self.addresses;
        let [b0, b1, b2, b3, b4, context] = key.0;
        // Of IPv4, only the first word; without branches, as families come mixed.
        let more = if key.is_ipv4() { 0 } else { u64::MAX };
        let differ = (a0 ^ b0) | (((a1 ^ b1) | (a2 ^ b2) | (a3 ^ b3)) & more) | (u64::from(self.ports) ^ b4);
        (differ | (plan.context ^ context)) == 0
    }

    /// [`Entry::is_of`] for a key of IPv4.
    #[inline(always)]
    pub(crate) fn is_of_ipv4(&self, key: &Key, plan: &Plan) -> bool {
        let ([addresses, ..], [wanted, .., ports, context]) = (self.addresses, key.0);
        (addresses ^ wanted) | (u64::from(self.ports) ^ ports) | (plan.context ^ context) == 0
    }

    /// The key, with the rest of it from the template.
    pub(crate) fn key(&self, template: &Template) -> Key {
        let [a, b, c, d] = self.addresses;
        let whole = Key([a, b, c, d, u64::from(self.ports), template.context]);
        if whole.is_ipv4() { Key([a, 0, 0, 0, u64::from(self.ports), template.context]) } else { whole }
    }

    /// The whole action again.
    pub(crate) fn action(&self, template: &Template, records: &Records) -> Option<Action> {
        let [_, addresses, sum, _] = self.addresses;
        let (made, l4_delta) = (template.action.edits, u16::from_be_bytes(self.l4_delta));
        let own = match self.form {
            Form::Apart => Own::of_record(*records.get(self.own)?),
            Form::Plain => Own { l4_delta, ..Own::of_final(self.own, None, made) },
            Form::Narrow => {
                let own = Own::of_final(self.own, Some(addresses), made);
                Own { l3_delta: sum as u16, l4_delta, ..own }
            }
        };
        Some(own.with(&template.action))
    }
}

/// Memory for each flow the cache has room for, in bytes, of either family: what a hit touches of it alone, and all.
pub const HOT_BYTES: usize = size_of::<Entry>();
/// See [`HOT_BYTES`].
pub const BYTES_PER_FLOW: usize = size_of::<Entry>() + size_of::<Bucket>() / WAYS + cold::BYTES;
/// As much more for a flow whose action replaces IPv6 addresses, when there is one.
pub const BYTES_PER_REWRITTEN: usize = size_of::<Record>();
/// As much more for a flow that is credited to more than one function, and again for one of more than 65,535 packets or 4 GiB.
pub const BYTES_PER_RECORD: usize = cold::BYTES_OF_RECORD;
/// Memory for each template, of which there is room for one for each 64 flows, and 1024 at least.
pub const BYTES_PER_TEMPLATE: usize = template::BYTES;

/// Whom to credit with a flow's packets: identifiers that mean something to who installs (a rule, a service, a backend, a
/// session of a function); zero is nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Credits(pub [u64; 3]);

/// What the slow path has to say of a flow.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow<'a> {
    /// What the chain did; a drop with its reason is as good as any.
    pub action: &'a Action,
    /// What an action that encapsulates puts the packet into.
    pub tunnel: Option<&'a Tunnel>,
    /// What it was made from.
    pub dependencies: Dependencies,
    /// Whom to credit.
    pub credits: Credits,
    /// The longest IP packet that the action holds for: the MTU of the egress; `u16::MAX` for drops.
    pub limit: u16,
    /// How long (ns) the flow may be silent for the action to hold: after a longer silence its next packet is not answered.
    /// `u64::MAX`: for any time. It is rounded down to ticks of 0.27 s, so that a silence is never taken for shorter than
    /// it was; one that is shorter than a tick cannot be kept, and the flow is refused.
    pub silence: u64,
}

/// Packets that the cache forwarded and nobody has been credited with yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settled {
    /// The flow.
    pub key: FlowKey,
    /// Whom to credit.
    pub credits: Credits,
    /// Packets since the last time.
    pub packets: u64,
    /// Bytes of their frames' IP packets since the last time.
    pub bytes: u64,
    /// When the last of them was seen, in nanoseconds: rounded down to a quarter of a second.
    pub last: u64,
}

/// A flow, for output.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// The flow.
    pub key: FlowKey,
    /// What happens to its packets.
    pub action: Action,
    /// What an action that encapsulates puts them into.
    pub tunnel: Tunnel,
    /// Whom its packets are credited to.
    pub credits: Credits,
    /// Packets that took the short way.
    pub packets: u64,
    /// Bytes of their IP packets.
    pub bytes: u64,
    /// Nanoseconds since a packet was last seen, to a quarter of a second; wraps around after 73 minutes, as does `age`.
    pub idle: u64,
    /// Nanoseconds since it was installed.
    pub age: u64,
    /// Whether it has proven itself, and a flood of others cannot drive it out.
    pub established: bool,
    /// Whether its action is executed elsewhere, too: see [`absorb`](crate::absorb).
    pub elsewhere: bool,
}
