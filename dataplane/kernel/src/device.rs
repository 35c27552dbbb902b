//! What a device has and can: queues in use, offloads, XDP features, driver.
//!
//! Asked over netlink and by interface index, so that the answer is right in any network namespace; sysfs shows the
//! namespace it was mounted in.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::KernelError;
use crate::ethtool::Generic;
use crate::model::{IfIndex, Link};

/// Names of offloads as the kernel spells them (`NETIF_F_*`; `ethtool -k` has its own names for some).
pub mod feature {
    /// Generic receive offload: received segments are joined before the stack sees them. On a veth it also switches NAPI
    /// on, without which frames redirected to its peer are lost.
    pub const RX_GRO: &str = "rx-gro";
    /// Large receive offload: the NIC joins segments. XDP does not work with it.
    pub const RX_LRO: &str = "rx-lro";
    /// The NIC takes the VLAN tag out of received frames; an XDP program then does not see it.
    pub const RX_VLAN: &str = "rx-vlan-hw-parse";
    /// The same for 802.1ad's service tags.
    pub const RX_SERVICE_VLAN: &str = "rx-vlan-stag-hw-parse";
    /// The NIC receives only frames of VLANs that the kernel has a device for.
    pub const RX_VLAN_FILTER: &str = "rx-vlan-filter";
    /// The same for 802.1ad's service tags.
    pub const RX_SERVICE_VLAN_FILTER: &str = "rx-vlan-stag-filter";
    /// The NIC checks checksums of received packets.
    pub const RX_CHECKSUM: &str = "rx-checksum";
    /// Senders leave checksums to the device: IPv4.
    pub const TX_CHECKSUM_IPV4: &str = "tx-checksum-ipv4";
    /// Senders leave checksums to the device: IPv6.
    pub const TX_CHECKSUM_IPV6: &str = "tx-checksum-ipv6";
    /// Senders leave checksums to the device: any protocol. The one a veth has.
    pub const TX_CHECKSUM_ANY: &str = "tx-checksum-ip-generic";
    /// Senders leave checksums to the device: SCTP.
    pub const TX_CHECKSUM_SCTP: &str = "tx-checksum-sctp";
    /// All of the above that concern sending (`ethtool -K … tx`).
    pub const TX_CHECKSUMS: [&str; 4] =
        [TX_CHECKSUM_IPV4, TX_CHECKSUM_IPV6, TX_CHECKSUM_ANY, TX_CHECKSUM_SCTP];
}

/// Where the number of queues is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueSource {
    /// The driver says how many are in use (`ethtool -l`).
    Channels,
    /// The network stack says so (netlink family `netdev`).
    Stack,
    /// Nobody says; these are as many as the device was made with, and fewer may be in use.
    Created,
}

/// Queues of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queues {
    /// Receive queues, numbered from 0.
    pub rx: u32,
    /// Transmit queues, numbered from 0.
    pub tx: u32,
    /// Where these numbers come from.
    pub source: QueueSource,
}

/// One offload of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// It is at work.
    pub active: bool,
    /// It was asked for, and is at work unless something else stands against it.
    pub wanted: bool,
    /// It can be switched.
    pub changeable: bool,
}

/// What became of the wish to switch an offload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switched {
    /// It is now as wished, and was not before.
    Done,
    /// It was so already; an offload the device does not have is off.
    Already,
    /// The device has no such offload, and it was to be on.
    NotSupported,
    /// The device has it but does not let it be switched, or something else holds it.
    Refused,
}

/// What [`Devices::switch`] did to a device, and how to undo it with [`Devices::restore`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The device.
    pub ifindex: IfIndex,
    /// What became of each wish, in the order they were given.
    pub outcomes: Vec<(String, Switched)>,
    /// What was wanted before of those which were switched.
    pub before: Vec<(String, bool)>,
}

/// What XDP can do on a device (`NETDEV_XDP_ACT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpFeatures {
    /// The bits themselves.
    pub bits: u64,
    /// Fragments of one packet in zero-copy mode, when the device has that mode.
    pub zero_copy_max_frags: Option<u32>,
}

impl XdpFeatures {
    /// Programs run in the driver.
    pub fn native(self) -> bool {
        self.bits & 1 != 0
    }

    /// Programs may redirect packets.
    pub fn redirect(self) -> bool {
        self.bits & 2 != 0
    }

    /// Packets may be redirected to it. Drivers that need a program or a setting for it say so only then.
    pub fn redirect_target(self) -> bool {
        self.bits & 4 != 0
    }

    /// AF_XDP sockets without copies.
    pub fn zero_copy(self) -> bool {
        self.bits & 8 != 0
    }

    /// Packets of several buffers are received.
    pub fn receives_fragments(self) -> bool {
        self.bits & 32 != 0
    }
}

/// Asks about devices of one network namespace and changes them.
pub struct Devices {
    generic: Generic,
}

impl Devices {
    /// For the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel refuses a socket.
    pub fn open() -> Result<Self, KernelError> {
        Ok(Self { generic: Generic::open()? })
    }

    /// How many queues of a device are in use.
    ///
    /// # Errors
    /// There is no such device, or the kernel cannot be asked.
    pub fn queues(&mut self, link: &Link) -> Result<Queues, KernelError> {
        match self.generic.channels(link.index) {
            Ok(channels) => {
                let (rx, tx) = (channels.rx + channels.combined, channels.tx + channels.combined);
                if rx > 0 && tx > 0 {
                    return Ok(Queues { rx, tx, source: QueueSource::Channels });
                }
            }
            Err(error) if error.is_unsupported() => {}
            Err(error) => return Err(error),
        }
        match self.generic.netdev_queues(link.index) {
            Ok((rx, tx)) if rx > 0 && tx > 0 => Ok(Queues { rx, tx, source: QueueSource::Stack }),
            // Refused where the family is older than the request.
            Ok(_) | Err(KernelError::NoFamily(_) | KernelError::Refused { .. }) => {
                Ok(Queues { rx: link.rx_queues, tx: link.tx_queues, source: QueueSource::Created })
            }
            Err(error) => Err(error),
        }
    }

    /// The offloads of a device by name.
    ///
    /// # Errors
    /// There is no such device, or the kernel cannot be asked.
    pub fn features(&mut self, ifindex: IfIndex) -> Result<BTreeMap<String, Feature>, KernelError> {
        let bits = self.generic.features(ifindex)?;
        Ok(bits
            .into_iter()
            .map(|(name, bits)| {
                let changeable = bits.changeable && !bits.fixed;
                (name, Feature { active: bits.active, wanted: bits.wanted, changeable })
            })
            .collect())
    }

    /// Switches offloads on or off. What the device cannot do is no error but an outcome.
    ///
    /// # Errors
    /// There is no such device, or it is not permitted (`CAP_NET_ADMIN`). Nothing was changed then.
    pub fn switch(&mut self, ifindex: IfIndex, wishes: &[(&str, bool)]) -> Result<Saved, KernelError> {
        let before = self.features(ifindex)?;
        let differs = |name: &str, on: bool| {
            before
                .get(name)
                .is_some_and(|feature| feature.changeable && (feature.active != on || feature.wanted != on))
        };
        let todo = || wishes.iter().copied().filter(|(name, on)| differs(name, *on));
        let after = if todo().next().is_some() {
            self.generic.want_features(ifindex, todo())?;
            self.features(ifindex)?
        } else {
            before.clone()
        };
        let active = |features: &BTreeMap<String, Feature>, name: &str| {
            features.get(name).is_some_and(|feature| feature.active)
        };
        let outcome = |name: &str, on: bool| {
            let supported = before.get(name).is_some_and(|feature| feature.active || feature.changeable);
            match (active(&before, name) == on, active(&after, name) == on) {
                (true, true) => Switched::Already,
                (false, true) => Switched::Done,
                (_, false) if supported => Switched::Refused,
                (_, false) => Switched::NotSupported,
            }
        };
        Ok(Saved {
            ifindex,
            outcomes: wishes.iter().map(|(name, on)| ((*name).to_owned(), outcome(name, *on))).collect(),
            before: todo()
                .filter_map(|(name, _)| before.get(name).map(|feature| (name.to_owned(), feature.wanted)))
                .collect(),
        })
    }

    /// Puts offloads back as they were before [`Devices::switch`]. Does nothing when the device is gone.
    ///
    /// # Errors
    /// It is not permitted any more, or the kernel cannot be asked.
    pub fn restore(&mut self, saved: &Saved) -> Result<(), KernelError> {
        if saved.before.is_empty() {
            return Ok(());
        }
        let wanted = saved.before.iter().map(|(name, on)| (name.as_str(), *on));
        match self.generic.want_features(saved.ifindex, wanted) {
            Err(error) if error.errno() == Some(nix::libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// What XDP can do on a device; none where the kernel does not tell (before 6.3).
    ///
    /// # Errors
    /// There is no such device, or the kernel cannot be asked.
    pub fn xdp(&mut self, ifindex: IfIndex) -> Result<Option<XdpFeatures>, KernelError> {
        match self.generic.xdp(ifindex) {
            Ok((bits, zero_copy_max_frags)) => Ok(Some(XdpFeatures { bits, zero_copy_max_frags })),
            Err(error) if error.is_unsupported() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The kernel threads that receive for a device, by process id of the first pid namespace; none where its NAPI is not
    /// threaded or the kernel does not tell (before 6.8).
    ///
    /// # Errors
    /// There is no such device, or the kernel cannot be asked.
    pub fn napi_threads(&mut self, ifindex: IfIndex) -> Result<Vec<u32>, KernelError> {
        match self.generic.napi_threads(ifindex) {
            Err(error) if error.is_unsupported() => Ok(Vec::new()),
            other => other,
        }
    }
}

impl std::fmt::Debug for Devices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Devices").finish_non_exhaustive()
    }
}

/// The driver's name: the kind of a virtual device, else what sysfs says, if that shows the same device: it may belong to
/// another network namespace.
pub fn driver(link: &Link) -> Option<String> {
    if link.kind.is_some() {
        return link.kind.clone();
    }
    let device = Path::new("/sys/class/net").join(&link.name);
    let read = |file: &str| std::fs::read_to_string(device.join(file)).ok();
    let mac = link.mac.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
    let same = read("ifindex").is_some_and(|index| index.trim() == link.index.to_string())
        && mac.is_none_or(|mac| read("address").is_some_and(|address| address.trim() == mac));
    if !same {
        return None;
    }
    let driver = std::fs::read_link(device.join("device/driver")).ok()?;
    Some(driver.file_name()?.to_str()?.to_owned())
}
