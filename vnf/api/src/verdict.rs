//! What a function says of a packet, and the one list of reasons why packets die.

use throughway_packet::ParseError;

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
    /// The destination is one of the host's own addresses: the steering program gives those to the kernel, so it reached a worker only in a race, or in a replay.
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

    /// The transmit ring stayed full.
    TransmitRingFull = "transmit-ring-full",
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
