//! Devices.

use super::*;
use crate::checked::{Checksum, FailMode, FastPath, Urpf, VlanProtocol, XdpMode, ZeroCopy};
use crate::value::{Address, DeviceName, InterfaceAddress, Mac, Number};

/// A network device and how it is attached to.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Interface {
    /// The kernel's device, such as `eth1`.
    pub(crate) device: Written<DeviceName>,
    /// How many queues the device must have. Without it, as many as it has.
    pub(crate) queues: Option<Written<Number<1, 64>>>,
    /// How the steering program is attached. Default: auto.
    pub(crate) xdp: Option<Written<XdpMode>>,
    /// Whether frames are shared with the driver instead of copied. Default: auto.
    pub(crate) zero_copy: Option<Written<ZeroCopy>>,
    /// What is made of the TCP and UDP checksums of received packets. Default: trust.
    pub(crate) checksum: Option<Written<Checksum>>,
    /// What becomes of packets when the service dies. Default: open.
    pub(crate) on_failure: Option<Written<FailMode>>,
    /// Whether the XDP program itself forwards packets of known flows that come in here. Default: off.
    pub(crate) fast_path: Option<Written<FastPath>>,
    /// Which source addresses packets that come in here may have. Default: what each router's `urpf` says.
    pub(crate) urpf: Option<Written<Urpf>>,
    /// The VLAN of the device that this is: an identifier, or an outer and an inner one. Without it, untagged frames.
    #[serde(default)]
    pub(crate) vlan: Given<OneOrMany<Number<1, 4094>>>,
    /// What announces the outer tag of frames that are sent. Default: 802.1q, with two tags 802.1ad.
    pub(crate) vlan_protocol: Option<Written<VlanProtocol>>,
    /// Addresses on a VLAN, where the kernel has no VLAN device.
    #[serde(default)]
    pub(crate) addresses: Given<OneOrMany<InterfaceAddress>>,
    /// Neighbours on a VLAN, where the kernel has no VLAN device.
    pub(crate) neighbours: Option<Vec<Neighbour>>,
}

/// A host on a VLAN.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Neighbour {
    /// Its address.
    pub(crate) address: Written<Address>,
    /// Its MAC address.
    pub(crate) mac: Written<Mac>,
}
