//! What a function says of a packet, and the one list of reasons why packets die.

use throughway_packet::{ExecuteError, ParseError};

/// What a function says of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// On to the next function; after the last one, out by the egress port.
    Continue,
    /// The packet ends here, silently for its sender.
    Drop(DropReason),
    /// The packet ends here, and its sender is told.
    Reject(DropReason, Answer),
}

/// What is sent back to the sender of a rejected packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// An ICMP or ICMPv6 error, by the family of the packet.
    Icmp(IcmpError),
    /// A TCP reset, as if the destination had refused the segment (RFC 9293, section 3.10.7.1). Packets that cannot be
    /// answered by one (no TCP, a reset themselves) are not answered at all.
    TcpReset,
}

pub use throughway_packet::icmp::IcmpError;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal,)+) => {
        /// Why a packet ended without being sent. One list for everything: it makes the counters, the metric's labels and the
        /// documentation. The number of a reason may change between versions; its label does not.
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum DropReason { $($(#[doc = $doc])+ $name,)+ }

        impl DropReason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)+];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The label used in metrics, traces and captures.
            pub const fn label(self) -> &'static str {
                match self { $(DropReason::$name => $label,)+ }
            }

            /// One sentence for people: what happened and, where it helps, what to do.
            pub const fn explanation(self) -> &'static str {
                match self { $(DropReason::$name => concat!($($doc),+),)+ }
            }
        }
    };
}

reasons! {
    /// The frame is shorter than an Ethernet header and its tags.
    TruncatedEthernet = "truncated-ethernet",
    /// More than two VLAN tags.
    TooManyTags = "too-many-tags",
    /// Neither IPv4 nor IPv6.
    NotIp = "not-ip",
    /// The frame is shorter than the IPv4 header or its total length.
    TruncatedIpv4 = "truncated-ipv4",
    /// The IPv4 header is malformed: version, header length or total length.
    BadIpv4Header = "bad-ipv4-header",
    /// The IPv4 header checksum is wrong.
    BadIpv4Checksum = "bad-ipv4-checksum",
    /// The frame is shorter than the IPv6 header or its payload length.
    TruncatedIpv6 = "truncated-ipv6",
    /// The IPv6 header is malformed: version, or an IPv4-mapped address on the wire.
    BadIpv6Header = "bad-ipv6-header",
    /// IPv6 extension headers are truncated, out of order or more than are followed.
    BadExtensionHeaders = "bad-extension-headers",
    /// The fragment's offset and length exceed what a datagram can be, or a non-last fragment is not a multiple of eight bytes.
    BadFragment = "bad-fragment",
    /// The packet ends inside its TCP header, or the TCP data offset is wrong.
    TruncatedTcp = "truncated-tcp",
    /// The packet ends inside its UDP header, or the UDP length is wrong.
    TruncatedUdp = "truncated-udp",
    /// The packet ends inside its SCTP header.
    TruncatedSctp = "truncated-sctp",
    /// The packet ends inside its ICMP or ICMPv6 header.
    TruncatedIcmp = "truncated-icmp",

    /// Tagged for a VLAN that is no interface, or untagged where only VLANs are: the steering program gives those to the kernel, so it reached a worker only in a replay.
    UnclaimedVlan = "unclaimed-vlan",
    /// No chain starts at the interface.
    NoChain = "no-chain",
    /// The chain ended and no function had chosen an egress.
    NoEgress = "no-egress",
    /// Source or destination address that never may be forwarded (unspecified, loopback, multicast, broadcast, link-local source).
    MartianAddress = "martian-address",
    /// Source or destination address that is reserved and in use nowhere (class E, the discard prefix, IPv4-mapped); a port may be told to forward them.
    ReservedAddress = "reserved-address",
    /// No route leads back to the source, or none by the port it came in on: its address is forged, or routing is not symmetric and strict checking is wrong here.
    SpoofedSource = "spoofed-source",
    /// The destination is one of the host's own addresses, and no function wants the packet. The steering program gives such packets to the kernel, so it reached a worker only in a race, in a replay, or to an address that a function claims; of those, answers to the host's pings and errors about its packets are given to it and not counted here.
    LocalDestination = "local-destination",
    /// TTL or hop limit ran out; the sender is told.
    HopLimitExceeded = "hop-limit-exceeded",
    /// No route to the destination; the sender is told.
    NoRoute = "no-route",
    /// A blackhole route: silent by intent.
    BlackholeRoute = "blackhole-route",
    /// An unreachable route; the sender is told.
    UnreachableRoute = "unreachable-route",
    /// A prohibit route; the sender is told.
    ProhibitRoute = "prohibit-route",
    /// The route leads to an interface that is not ours.
    EgressNotOurs = "egress-not-ours",
    /// The egress interface is down.
    EgressDown = "egress-down",
    /// Larger than the egress MTU and must not be fragmented; the sender is told.
    TooBig = "too-big",
    /// The neighbour did not answer in time; the sender is told.
    NeighbourUnreachable = "neighbour-unreachable",
    /// Too many packets already wait for neighbours.
    NeighbourQueueFull = "neighbour-queue-full",

    /// NAT: no port of the pool is left for the host inside.
    NatNoPort = "nat-no-port",
    /// NAT: a TCP segment that opens no connection and belongs to none.
    NatNoSession = "nat-no-session",
    /// NAT: a TCP segment that does not fit the state of its connection.
    NatInvalidState = "nat-invalid-state",
    /// NAT: from outside to a host inside that has not sent to this address (RFC 4787, section 5).
    NatFiltered = "nat-filtered",
    /// NAT: the answer's addresses and ports belong to another session.
    NatConflict = "nat-conflict",
    /// NAT: the session table is full.
    NatSessionTableFull = "nat-session-table-full",
    /// NAT: the host inside has as many sessions as a host may have.
    NatHostLimit = "nat-host-limit",
    /// NAT: the host inside opens connections faster than a host may.
    NatHostRate = "nat-host-rate",
    /// NAT: to an outside address and port that no host inside has.
    NatNoMapping = "nat-no-mapping",
    /// NAT: an ICMP error about a packet of no session.
    NatUnrelatedError = "nat-unrelated-error",
    /// NAT: an ICMP error whose checksum is wrong (RFC 5508, section 4.1).
    NatBadError = "nat-bad-error",
    /// NAT: an ICMP message that is neither a query nor an error: nothing tells whose it is (RFC 5508, section 5).
    NatNotTranslatable = "nat-not-translatable",

    /// Load balancer: no backend of the service takes new connections.
    NoBackend = "no-backend",
    /// Load balancer: a TCP segment that does not fit the state of its connection.
    BalancerInvalidState = "balancer-invalid-state",
    /// Load balancer: with every backend or port that was tried, the answer's addresses and ports belong to another connection.
    BalancerConflict = "balancer-conflict",
    /// Load balancer: there is no room to remember a connection whose source is translated: its answers would not find back.
    BalancerTableFull = "balancer-table-full",
    /// Load balancer: no address of this box is known that leads to the backend, to be the source of a tunnel or of what is translated.
    BalancerNoSource = "balancer-no-source",
    /// Load balancer: an ICMP error about a packet in a tunnel to a backend. It was taken note of: whose packets are too big is told so.
    BalancerTunnelError = "balancer-tunnel-error",
    /// A rule of a firewall says drop; its counter and its log name it.
    FirewallRule = "firewall-rule",
    /// A rule of a firewall says reject; the sender is told.
    FirewallReject = "firewall-reject",
    /// No rule of the firewall decided, and its default is not to allow.
    FirewallDefault = "firewall-default",
    /// The packet belongs to no known connection and cannot open one, or does not fit its connection; no rule that names the state `invalid` allows it.
    InvalidState = "invalid-state",
    /// The session table is full, and no half-open session could make room: raise the limit on sessions.
    SessionTableFull = "session-table-full",
    /// The source has as many sessions as one may have.
    TooManySessionsOfSource = "too-many-sessions-of-source",
    /// As many half-open sessions as there may be, and none may be displaced.
    HalfOpenLimit = "half-open-limit",
    /// A later fragment whose first one did not come, nor within the second that it waited: it cannot be judged.
    FragmentBeforeFirst = "fragment-before-first",
    /// The oldest of the fragments that waited for their first one made room for others: more than 512 wait in one worker.
    FragmentQueueFull = "fragment-queue-full",
    /// The fragment overlaps another one of its datagram, or disagrees with where the datagram ends: all that follow of it are dropped.
    FragmentOverlap = "fragment-overlap",
    /// The very fragment was seen already; the first one was sent on.
    DuplicateFragment = "duplicate-fragment",
    /// The datagram has more fragments than are kept track of.
    TooManyFragments = "too-many-fragments",
    /// Fragments of too many datagrams are on their way at the same time.
    FragmentTableFull = "fragment-table-full",

    /// The transmit ring stayed full.
    TransmitRingFull = "transmit-ring-full",
    /// The frame has no room for a tag or a tunnel's header before the packet.
    NoHeadroom = "no-headroom",
    /// More tunnels were to be put on or taken off one after the other than can be.
    TunnelTooDeep = "tunnel-too-deep",
    /// The packet that was to be taken out of its tunnel is malformed.
    BadTunnelled = "bad-tunnelled",
    /// The tunnel met congestion, and the packet in it cannot carry the mark (RFC 6040, section 4.2).
    CongestionMarkLost = "congestion-mark-lost",
    /// The packet had to be cut into fragments, and could not be: there was no free frame, or the MTU is too small.
    NotFragmented = "not-fragmented",
    /// No free frame.
    NoFreeFrame = "no-free-frame",
    /// The worker has no queue of the egress interface.
    NoEgressQueue = "no-egress-queue",
    /// A packet held back when the worker stopped.
    Shutdown = "shutdown",
}

impl From<ParseError> for DropReason {
    fn from(error: ParseError) -> Self {
        match error {
            ParseError::TruncatedEthernet => DropReason::TruncatedEthernet,
            ParseError::TooManyTags => DropReason::TooManyTags,
            ParseError::NotIp => DropReason::NotIp,
            ParseError::TruncatedIpv4 => DropReason::TruncatedIpv4,
            ParseError::BadIpv4Header => DropReason::BadIpv4Header,
            ParseError::BadIpv4Checksum => DropReason::BadIpv4Checksum,
            ParseError::TruncatedIpv6 => DropReason::TruncatedIpv6,
            ParseError::BadIpv6Header => DropReason::BadIpv6Header,
            ParseError::BadExtensionHeaders => DropReason::BadExtensionHeaders,
            ParseError::BadFragment => DropReason::BadFragment,
            ParseError::TruncatedTcp => DropReason::TruncatedTcp,
            ParseError::TruncatedUdp => DropReason::TruncatedUdp,
            ParseError::TruncatedSctp => DropReason::TruncatedSctp,
            ParseError::TruncatedIcmp => DropReason::TruncatedIcmp,
        }
    }
}

impl From<ExecuteError> for DropReason {
    fn from(error: ExecuteError) -> Self {
        match error {
            ExecuteError::NoHeadroom => DropReason::NoHeadroom,
            ExecuteError::TooDeep => DropReason::TunnelTooDeep,
            ExecuteError::Inner(_) => DropReason::BadTunnelled,
            ExecuteError::CongestionMarkLost => DropReason::CongestionMarkLost,
        }
    }
}
