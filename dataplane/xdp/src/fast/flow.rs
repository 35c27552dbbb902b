//! What a worker says of a flow, and how that lies in the table.

use throughway_shared::{
    action::{Rewrite, edits},
    fast::{ENDLESS, Entry, LAST_SHIFT, SILENCE_SHIFT, Template, Wide, context, halves},
    flow::{FAMILY_IPV4, FAMILY_IPV6, FlowKey},
    tunnel::{Tunnel, kind},
};

/// TCP and UDP (IANA).
const PROTOCOLS: [u8; 2] = [6, 17];

/// A flow that the XDP program is to execute.
#[derive(Clone, Copy, Debug)]
pub struct FastFlow<'a> {
    /// The flow as it enters.
    pub key: &'a FlowKey,
    /// What is done to its packets.
    pub rewrite: &'a Rewrite,
    /// The generation at which that was made or found true.
    pub generation: u32,
    /// The slots it was made from, beside configuration and routes.
    pub dependencies: [u16; 4],
    /// The longest IP packet that it holds for: the MTU of the egress; `u16::MAX` for drops.
    pub limit: u16,
    /// How long (ns) the flow may be silent for it to hold; `u64::MAX`: for any time. Measured to some 20 ms, so that a silence
    /// is never taken for shorter than it was; no longer than 18 minutes.
    pub silence: u64,
    /// The worker's own: [`FastFlows::sweep`](super::FastFlows::sweep) gives it back.
    pub token: u32,
}

/// What the XDP program counted of a flow since it was installed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FastCount {
    /// Packets.
    pub packets: u64,
    /// Bytes of their IP packets, as in the flow cache; their frames have 14 more each.
    pub bytes: u64,
    /// When the last one came (ns of `CLOCK_MONOTONIC`), rounded down to a millisecond; before the first, when it was installed.
    pub last: u64,
}

/// Why a flow is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FastRefusal {
    /// There are as many flows as there may be.
    #[error("no room in the table")]
    Full,
    /// There is room, but not where this one could be: the lot of a few in ten thousand when the table is nearly full.
    #[error("no room where its hash leads")]
    Crowded,
    /// It is there.
    #[error("the flow is there already")]
    AlreadyThere,
    /// There are too many different actions.
    #[error("too many different actions")]
    Diverse,
    /// The program could not execute it.
    #[error("{0}")]
    NotExecutable(#[from] NotExecutable),
}

/// Why the XDP program could not execute a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotExecutable {
    /// Neither TCP nor UDP.
    #[error("neither TCP nor UDP")]
    Protocol,
    /// Its packets are taken out of a tunnel, or put into one that is not known.
    #[error("a tunnel that the program does not know")]
    Front,
    /// It neither leaves nor is dropped.
    #[error("no egress")]
    NoEgress,
    /// A silence too short to be measured.
    #[error("must not be silent for so short a time")]
    Silence,
}

impl FastRefusal {
    /// The label used in metrics and output.
    pub const fn label(self) -> &'static str {
        match self {
            FastRefusal::Full => "full",
            FastRefusal::Crowded => "crowded",
            FastRefusal::AlreadyThere => "already-there",
            FastRefusal::Diverse => "too-many-actions",
            FastRefusal::NotExecutable(NotExecutable::Protocol) => "protocol",
            FastRefusal::NotExecutable(NotExecutable::Front) => "front",
            FastRefusal::NotExecutable(NotExecutable::NoEgress) => "no-egress",
            FastRefusal::NotExecutable(NotExecutable::Silence) => "silence",
        }
    }
}

/// A flow as it lies in the table; the number of its template is still missing.
pub(super) struct Laid {
    pub(super) entry: Entry,
    pub(super) wide: Option<Wide>,
    pub(super) template: Template,
}

impl FastFlow<'_> {
    /// Whether the program could execute it.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn check(&self) -> Result<(), NotExecutable> {
        self.lay(0).map(|_| ())
    }

    /// Lays the flow out, installed at `now` (ns).
    pub(super) fn lay(&self, now: u64) -> Result<Laid, NotExecutable> {
        let FastFlow { key, rewrite: Rewrite { action, tunnel }, .. } = *self;
        if !PROTOCOLS.contains(&key.protocol) || !matches!(key.family, FAMILY_IPV4 | FAMILY_IPV6) {
            return Err(NotExecutable::Protocol);
        }
        let drop = action.has(edits::DROP);
        let known = matches!(tunnel.kind, kind::IP | kind::GUE);
        let unknown = action.edits & (edits::DECAPSULATE | edits::TOO_DEEP) != 0;
        if !drop && (unknown || action.has(edits::ENCAPSULATE) && !known) {
            return Err(NotExecutable::Front);
        }
        if !drop && !action.has(edits::EGRESS) {
            return Err(NotExecutable::NoEgress);
        }
        let silence = silence(self.silence).ok_or(NotExecutable::Silence)?;
        let ipv4 = key.family == FAMILY_IPV4;
        let new = |address: [u8; 16], edit| if action.has(edit) { address } else { [0; 16] };
        let new_source = new(action.source, edits::SOURCE);
        let new_destination = new(action.destination, edits::DESTINATION);
        let entry = Entry {
            addresses: if ipv4 { pair(key.source, key.destination) } else { 0 },
            new_addresses: if ipv4 { pair(new_source, new_destination) } else { 0 },
            ports: ports(key.source_port, key.destination_port),
            new_ports: ports(action.source_port, action.destination_port),
            generation: self.generation,
            template: 0,
            silence,
            dependencies: self.dependencies,
            packets: 0,
            bytes: 0,
            last: (now >> LAST_SHIFT) as u32,
            l3_delta: u16::from_ne_bytes(action.l3_delta.to_be_bytes()),
            l4_delta: u16::from_ne_bytes(action.l4_delta.to_be_bytes()),
        };
        let wide = Wide {
            addresses: quad(key.source, key.destination),
            new_addresses: quad(new_source, new_destination),
        };
        Ok(Laid { entry, wide: (!ipv4).then_some(wide), template: template(key, self.rewrite, self.limit) })
    }
}

fn template(key: &FlowKey, Rewrite { action, tunnel }: &Rewrite, limit: u16) -> Template {
    let context = context(key.ingress, [key.outer_vlan, key.inner_vlan], key.protocol, key.family);
    if action.has(edits::DROP) {
        // Nothing else is executed then; and the longest packet is dropped as well.
        return Template { context, edits: edits::DROP, limit, hops: action.hops, ..Template::default() };
    }
    let [a, b, c, d, e, f] = action.ethernet_destination;
    let [g, h, i, j, k, l] = action.ethernet_source;
    let macs = [[a, b, c, d], [e, f, g, h], [i, j, k, l]];
    Template {
        context,
        edits: action.edits,
        egress: action.egress,
        limit,
        hops: action.hops,
        dscp: action.dscp,
        ethernet: if action.has(edits::ETHERNET) { macs.map(u32::from_ne_bytes) } else { [0; 3] },
        outer_tag: action.outer_tag,
        inner_tag: action.inner_tag,
        tunnel: if action.has(edits::ENCAPSULATE) { words(tunnel) } else { [0; 8] },
        ..Template::default()
    }
}

/// A tunnel as the words that lie in memory as it does.
fn words(tunnel: &Tunnel) -> [u64; 8] {
    let Tunnel { kind, family, hop_limit, dscp, flags, source, destination, .. } = *tunnel;
    let ([s0, s1, d0, d1], [p0, p1], [p2, p3]) =
        (quad(source, destination), tunnel.source_port, tunnel.destination_port);
    // The addresses begin at the second word; what only VXLAN has is zero.
    let first = u64::from_ne_bytes([kind, family, hop_limit, dscp, flags, 0, 0, 0]);
    [first, s0, s1, d0, d1, u64::from_ne_bytes([p0, p1, p2, p3, 0, 0, 0, 0]), 0, 0]
}

/// A silence (ns) in the units of an entry: rounded down, and two less, for the coarse clock and for packets counted in
/// units of a millisecond. `None` when nothing is left.
fn silence(duration: u64) -> Option<u16> {
    if duration == u64::MAX {
        return Some(ENDLESS);
    }
    let units = (duration >> SILENCE_SHIFT).checked_sub(2).filter(|units| *units > 0)?;
    Some(units.min(u64::from(ENDLESS - 1)) as u16)
}

/// Both IPv4 addresses, from their mapped form, as one word.
fn pair(source: [u8; 16], destination: [u8; 16]) -> u64 {
    let last = |[.., a, b, c, d]: [u8; 16]| u32::from_ne_bytes([a, b, c, d]);
    halves(last(source), last(destination))
}

fn ports([a, b]: [u8; 2], [c, d]: [u8; 2]) -> u32 {
    u32::from_ne_bytes([a, b, c, d])
}

/// Both IPv6 addresses as four words.
fn quad(source: [u8; 16], destination: [u8; 16]) -> [u64; 4] {
    let split = |[a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]: [u8; 16]| {
        [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
    };
    let ([a, b], [c, d]) = (split(source), split(destination));
    [a, b, c, d]
}
