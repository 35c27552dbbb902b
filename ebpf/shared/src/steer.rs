//! How the XDP program decides what is ours.
//!
//! The program (`ebpf/steer`) reads these maps and writes the last two; those of the fast path are in [`crate::fast`]:
//!
//! * [`INTERFACES`]: ifindex (`u32`) → [`Interface`]: a frame from an interface that is not in it passes to the kernel.
//! * [`NEAR`]: the same at hand, for all but a few: [`near`] → [`Near`].
//! * [`VLANS`]: [`VlanKey`] → [`Vlan`]: the tagged frames that are ours; others pass to the kernel.
//! * [`LOCAL_ADDRESSES`]: [`LocalAddress`] → `u32` flags ([`CLAIMED`]): the host's own addresses.
//! * [`SOCKETS`]: `interface.first_socket + queue` → AF_XDP socket of that queue.
//! * [`EARLY4`], [`EARLY6`]: source prefix → [`early_value`]: what is dropped before anything else, and where, as far as the tables of
//!   [`early`](crate::early) have no room for it.
//! * [`EARLY_DROPS`]: number of a set → count, per CPU.
//! * [`STEERED`]: [`Reason`] → count, per CPU, per interface: see [`counter`].

/// Map: hash, `u32` ifindex → [`Interface`].
pub const INTERFACES: &str = "INTERFACES";
/// Map: array, [`near`] of the ifindex → [`Near`]: a look-up without a hash. An interface that is not in its place there is in
/// [`INTERFACES`].
pub const NEAR: &str = "NEAR";
/// Map: hash, [`VlanKey`] → [`Vlan`].
pub const VLANS: &str = "VLANS";
/// Map: hash, [`LocalAddress`] → `u32` flags.
pub const LOCAL_ADDRESSES: &str = "LOCAL_ADDRESSES";
/// Map: AF_XDP sockets.
pub const SOCKETS: &str = "SOCKETS";
/// Map: longest-prefix trie over IPv4 sources.
pub const EARLY4: &str = "EARLY4";
/// Map: longest-prefix trie over IPv6 sources.
pub const EARLY6: &str = "EARLY6";
/// Map: per-CPU array of counters, one for each set in the tries.
pub const EARLY_DROPS: &str = "EARLY_DROPS";
/// Map: per-CPU array of counters.
pub const STEERED: &str = "STEERED";
/// The name of the program in the object, also what the kernel shows for it.
pub const PROGRAM: &str = "throughway";

/// How many interfaces one instance can steer.
pub const MAX_INTERFACES: u32 = 64;
/// How many queues of one interface.
pub const MAX_QUEUES: u32 = 64;
/// How many addresses of its own the host may have.
pub const MAX_LOCAL_ADDRESSES: u32 = 16_384;

/// Values of [`NEAR`].
pub const NEARS: u32 = 256;

/// Where in [`NEAR`] an interface may be.
#[inline]
pub const fn near(ifindex: u32) -> u32 {
    ifindex % NEARS
}

/// How many prefixes of one family may be dropped before anything else.
pub const MAX_EARLY: u32 = 1 << 21;
/// How many sets such prefixes may be of.
pub const MAX_EARLY_SETS: u32 = 256;

/// Value of [`EARLY4`] and [`EARLY6`]: at which interfaces (the bit of each number) packets from the prefix are dropped, in two
/// words, the lower one first; and the number of the set that they are counted for, with the length of the prefix above it. Words of 32
/// bits: the trie aligns values no better.
#[inline]
pub const fn early_value(interfaces: u64, set: u32, length: u8) -> [u32; 3] {
    [interfaces as u32, (interfaces >> 32) as u32, set & 0xffff | (length as u32) << 16]
}

/// The length of the prefix that `value` is of.
#[inline(always)]
pub const fn early_length(value: &[u32; 3]) -> u32 {
    value[2] >> 16
}

/// Whether `value` is for interface `number`.
#[inline(always)]
pub const fn is_early_at(value: &[u32; 3], number: u32) -> bool {
    let word = if number < 32 { value[0] } else { value[1] };
    word >> (number & 31) & 1 != 0
}

/// Number under which frames from interfaces that are not ours are counted.
pub const UNKNOWN_INTERFACE: u32 = MAX_INTERFACES;
/// Entries of [`SOCKETS`].
pub const SOCKET_SLOTS: u32 = MAX_INTERFACES * MAX_QUEUES;
/// Entries of [`STEERED`].
pub const COUNTERS: u32 = (MAX_INTERFACES + 1) * Reason::COUNT;

/// Where in [`SOCKETS`] the sockets of interface `number` begin: what to put into [`Interface::first_socket`].
#[inline]
pub const fn first_socket(number: u32) -> u32 {
    number * MAX_QUEUES
}

/// Where in [`STEERED`] the frames of interface `number` that were decided for `reason` are counted.
#[inline]
pub const fn counter(number: u32, reason: Reason) -> u32 {
    number * Reason::COUNT + reason as u32
}

/// Flag of a local address: a function claims it, so what no local socket owns goes to the workers.
pub const CLAIMED: u32 = 1 << 0;

/// Flag of [`Interface::flags`]: when no socket takes a frame, drop it (fail closed) rather than pass it to the kernel.
pub const FAIL_CLOSED: u32 = 1 << 0;
/// Flag of [`Interface::flags`]: untagged frames of the device are the kernel's; only those of its [`VLANS`] are ours.
pub const TAGGED_ONLY: u32 = 1 << 1;

/// Flag of [`Interface::flags`]: established flows are executed in the driver ([`crate::fast`]).
pub const FAST: u32 = 1 << 2;

/// Flag of [`Interface::flags`]: sources in [`EARLY4`] and [`EARLY6`] that are for the interface are dropped.
pub const EARLY: u32 = 1 << 3;

/// What the XDP program knows of a device and of its untagged frames.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Interface {
    /// The interface's number among ours, below [`MAX_INTERFACES`]: where its counters are.
    pub number: u32,
    /// Where its sockets begin in [`SOCKETS`].
    pub first_socket: u32,
    /// [`FAIL_CLOSED`], [`TAGGED_ONLY`], [`FAST`], [`EARLY`].
    pub flags: u32,
    /// Its MAC address: frames to another one pass to the kernel.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
}

const _: () = assert!(size_of::<Interface>() == Interface::SIZE);

impl Interface {
    /// Size in bytes: there is no padding.
    pub const SIZE: usize = 20;

    /// The value as it lies in the map.
    pub const fn to_bytes(&self) -> [u8; Self::SIZE] {
        let [n0, n1, n2, n3] = self.number.to_ne_bytes();
        let [s0, s1, s2, s3] = self.first_socket.to_ne_bytes();
        let [f0, f1, f2, f3] = self.flags.to_ne_bytes();
        let [m0, m1, m2, m3, m4, m5] = self.mac;
        let [r0, r1] = self.reserved;
        [n0, n1, n2, n3, s0, s1, s2, s3, f0, f1, f2, f3, m0, m1, m2, m3, m4, m5, r0, r1]
    }

    /// The value that lies in the map as `bytes`.
    pub const fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let [n0, n1, n2, n3, s0, s1, s2, s3, f0, f1, f2, f3, m0, m1, m2, m3, m4, m5, r0, r1] = *bytes;
        Interface {
            number: u32::from_ne_bytes([n0, n1, n2, n3]),
            first_socket: u32::from_ne_bytes([s0, s1, s2, s3]),
            flags: u32::from_ne_bytes([f0, f1, f2, f3]),
            mac: [m0, m1, m2, m3, m4, m5],
            reserved: [r0, r1],
        }
    }
}

/// An [`Interface`] and whose it is.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Near {
    /// What is known of it.
    pub interface: Interface,
    /// Its ifindex; zero: nothing is here.
    pub ifindex: u32,
}

const _: () = assert!(size_of::<Near>() == Near::SIZE);

impl Near {
    /// Size in bytes: there is no padding.
    pub const SIZE: usize = Interface::SIZE + 4;

    /// The value as it lies in the map.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let (front, back) = bytes.split_at_mut(Interface::SIZE);
        front.copy_from_slice(&self.interface.to_bytes());
        back.copy_from_slice(&self.ifindex.to_ne_bytes());
        bytes
    }
}

/// The tags of a VLAN of a device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct VlanKey {
    /// The device.
    pub ifindex: u32,
    /// Identifier of the outer tag, 1 to 4094.
    pub outer: u16,
    /// Identifier of the inner tag, 1 to 4094; zero when there is one tag.
    pub inner: u16,
}

impl VlanKey {
    /// Size in bytes, as it lies in the map.
    pub const SIZE: usize = 8;

    /// The key as two words: the program makes it of words, see `ebpf/steer/src/classify.rs`.
    #[inline]
    pub const fn words(&self) -> [u32; 2] {
        [self.ifindex, (self.outer as u32) << 16 | self.inner as u32]
    }

    /// The key as it lies in the map.
    pub const fn to_bytes(&self) -> [u8; Self::SIZE] {
        let [first, second] = self.words();
        let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
        [a, b, c, d, e, f, g, h]
    }
}

/// What the XDP program knows of an interface that is a VLAN of its device.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Vlan {
    /// The interface's number among ours, below [`MAX_INTERFACES`]: where its counters are.
    pub number: u32,
    /// Its MAC address, which may differ from that of the device.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
}

const _: () = assert!(size_of::<Vlan>() == Vlan::SIZE);

impl Vlan {
    /// Size in bytes: there is no padding.
    pub const SIZE: usize = 12;

    /// The value as it lies in the map.
    pub const fn to_bytes(&self) -> [u8; Self::SIZE] {
        let [n0, n1, n2, n3] = self.number.to_ne_bytes();
        let [m0, m1, m2, m3, m4, m5] = self.mac;
        let [r0, r1] = self.reserved;
        [n0, n1, n2, n3, m0, m1, m2, m3, m4, m5, r0, r1]
    }
}

/// One of the host's own addresses; IPv4 in its mapped form.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct LocalAddress {
    /// The address in network order.
    pub address: [u8; 16],
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal,)+) => {
        /// What the XDP program decided of a frame, and why. The order is the layout of [`STEERED`].
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)+];
            /// How many reasons there are.
            pub const COUNT: u32 = Self::ALL.len() as u32;
            /// The label used in metrics and output.
            pub const fn label(self) -> &'static str {
                match self { $(Reason::$name => $label,)+ }
            }
        }
    };
}

reasons! {
    /// To the worker: a chain claims it.
    ToWorker = "to-worker",
    /// To the kernel: the interface is not (or no longer) ours.
    UnknownInterface = "unknown-interface",
    /// To the kernel: neither IPv4 nor IPv6 (ARP, LLDP, MPLS and others).
    NotIp = "not-ip",
    /// To the kernel: tagged for a VLAN that no interface of ours claims, or untagged where only VLANs are claimed.
    UnclaimedVlan = "unclaimed-vlan",
    /// To the kernel: sent to another MAC address, or to a group of them.
    OtherMac = "other-mac",
    /// To the kernel: multicast or broadcast at the IP layer (routing protocols, DHCP, MLD, mDNS).
    Multicast = "multicast",
    /// To the kernel: link-local addresses, neighbour discovery; never forwarded (RFC 4291, section 2.5.6).
    LinkLocal = "link-local",
    /// To the kernel: a DHCP reply to this interface itself, for an address that is not the host's yet.
    DhcpReply = "dhcp-reply",
    /// To the kernel: to one of the host's own addresses, and no function claims it.
    LocalAddress = "local-address",
    /// To the kernel: to one of the host's own addresses that a function claims, but a local socket owns it.
    LocalSocket = "local-socket",
    /// To the kernel (fail open): no worker is bound to this queue.
    NoSocketPass = "no-socket-pass",
    /// Dropped (fail closed): no worker is bound to this queue.
    NoSocketDrop = "no-socket-drop",
    /// Dropped: shorter than its headers say.
    Truncated = "truncated",
    /// Dropped: its source is in a set that is dropped before anything else.
    EarlyDrop = "early-drop",
    /// Executed in the driver and sent: its flow is established.
    FastPath = "fast-path",
    /// Dropped in the driver, as a function decided for its flow.
    FastDrop = "fast-drop",
    /// Dropped: executed in the driver, and the device to send it to went away at that instant.
    FastNoEgress = "fast-no-egress",
}
