//! Devices.

use super::*;
use crate::checked::{Checksum, FailMode, XdpMode, ZeroCopy};
use crate::value::{DeviceName, Number};

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
}
