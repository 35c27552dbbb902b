//! The devices behind the interfaces: are they there, are they fit, and what must be changed of them while they are ours.

use throughway_config::{Config, Interface, XdpMode};
use throughway_io::xsk::MAX_MTU;
use throughway_kernel::device::{Devices, Saved, Switched, feature};
use throughway_kernel::model::State;
use throughway_shared::steer;

use super::remembered::Remembered;

/// A device that is ready to become ours. Dropping it restores the settings that were changed.
#[derive(Debug)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// The kernel's number of it.
    pub ifindex: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// The queues it receives on.
    pub queues: u32,
    /// Whether it is one end of a veth pair.
    pub veth: bool,
    /// The offloads that were on and had to be switched off.
    offloads: Option<Saved>,
    /// What the last instance has left switched. Its program needs it so, for as long as that is attached.
    inherited: Vec<(String, bool)>,
}

impl Device {
    /// Leaves the settings as they are, for the next instance.
    pub fn leave(mut self) {
        self.offloads = None;
    }

    /// Our program is attached in place of the last instance's: from now on what that has left switched is ours to put back.
    pub fn inherit(&mut self) {
        if let Some(saved) = &mut self.offloads {
            saved.before.append(&mut self.inherited);
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(saved) = self.offloads.take()
            && let Err(error) = Devices::open().and_then(|mut devices| devices.restore(&saved))
        {
            tracing::warn!(%error, device = %self.name, "the device's offloads could not be restored");
        }
    }
}

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// It does not exist.
    #[error("interface `{interface}`: there is no device `{device}` here; there are: {known}")]
    Missing {
        /// The interface's name.
        interface: String,
        /// Its device.
        device: String,
        /// The devices of this network namespace.
        known: String,
    },
    /// It is not an Ethernet device.
    #[error("interface `{interface}`: `{device}` is not an Ethernet device")]
    NotEthernet {
        /// The interface's name.
        interface: String,
        /// Its device.
        device: String,
    },
    /// Its packets do not fit into a frame.
    #[error(
        "interface `{interface}`: the MTU of `{device}` is {mtu}, and at most {MAX_MTU} fit into one buffer; set a smaller one: ip link set {device} mtu {MAX_MTU}"
    )]
    TooLarge {
        /// The interface's name.
        interface: String,
        /// Its device.
        device: String,
        /// Its MTU in bytes.
        mtu: u32,
    },
    /// It has not the expected number of queues.
    #[error(
        "interface `{interface}`: `queues: {expected}` is configured, but `{device}` has {found}; change one of them: ethtool -L {device} combined {expected}"
    )]
    Queues {
        /// The interface's name.
        interface: String,
        /// Its device.
        device: String,
        /// Queues in the configuration.
        expected: u32,
        /// Queues of the device.
        found: u32,
    },
    /// It has fewer queues than there are workers.
    #[error(
        "interface `{interface}`: `{device}` has {found} queue(s), but workers.cores has {workers} cores: every worker needs a queue of every interface; use fewer cores, or: ethtool -L {device} combined {workers}"
    )]
    TooFewQueues {
        /// The interface's name.
        interface: String,
        /// Its device.
        device: String,
        /// Queues of the device.
        found: u32,
        /// How many workers there are.
        workers: usize,
    },
    /// It has more queues than can be steered.
    #[error("interface `{interface}`: `{device}` has {found} queues; at most {max} are supported: ethtool -L {device} combined {max}", max = steer::MAX_QUEUES)]
    TooManyQueues {
        /// The interface's name.
        interface: String,
        /// Its device.
        device: String,
        /// Queues of the device.
        found: u32,
    },
    /// The kernel cannot be asked.
    #[error("the devices cannot be examined: {0}")]
    Netlink(throughway_kernel::KernelError),
    /// The kernel would not say.
    #[error("interface `{interface}`: {error}")]
    Kernel {
        /// The interface's name.
        interface: String,
        /// What the kernel said.
        error: throughway_kernel::KernelError,
    },
}

/// Finds the devices of all interfaces and makes them ready; in the order of [`Config::devices`]. What is switched, and what the last
/// instance has left switched, is put back in the end, and until then `remembered`.
pub fn prepare(
    config: &Config,
    state: &State,
    remembered: &mut Remembered,
) -> Result<Vec<Device>, DeviceError> {
    let mut devices = Devices::open().map_err(DeviceError::Netlink)?;
    let ready = |interface| prepare_one(&mut devices, config, interface, state, remembered);
    config.devices().map(ready).collect()
}

/// Offloads that merge packets or take something off them before XDP sees them.
const UNFIT: [(&str, bool); 2] = [(feature::RX_LRO, false), (feature::RX_VLAN, false)];

/// Generic XDP runs after the kernel has merged packets.
const UNFIT_GENERIC: [(&str, bool); 3] =
    [(feature::RX_LRO, false), (feature::RX_VLAN, false), (feature::RX_GRO, false)];

/// Offloads by which frames of a VLAN that only we know, or their tags, would not reach us.
const OF_VLANS: [(&str, bool); 3] = [
    (feature::RX_SERVICE_VLAN, false),
    (feature::RX_VLAN_FILTER, false),
    (feature::RX_SERVICE_VLAN_FILTER, false),
];

fn prepare_one(
    devices: &mut Devices,
    config: &Config,
    interface: &Interface,
    state: &State,
    remembered: &mut Remembered,
) -> Result<Device, DeviceError> {
    let workers = config.workers.cores.len();
    let name = interface.name.to_string();
    let device = interface.device.to_string();
    let Some(link) = state.link_named(&device) else {
        let known: Vec<_> = state.links.values().map(|link| link.name.as_str()).collect();
        return Err(DeviceError::Missing { interface: name, device, known: known.join(", ") });
    };
    let Some(mac) = link.mac.filter(|_| !link.loopback) else {
        return Err(DeviceError::NotEthernet { interface: name, device });
    };
    if link.mtu > MAX_MTU {
        return Err(DeviceError::TooLarge { interface: name, device, mtu: link.mtu });
    }
    let kernel = |error| DeviceError::Kernel { interface: name.clone(), error };
    let found = devices.queues(link).map_err(kernel)?.rx;
    if let Some(expected) = interface.queues.filter(|expected| *expected != found) {
        return Err(DeviceError::Queues { interface: name, device, expected, found });
    }
    if found > steer::MAX_QUEUES {
        return Err(DeviceError::TooManyQueues { interface: name, device, found });
    }
    if (found as usize) < workers {
        return Err(DeviceError::TooFewQueues { interface: name, device, found, workers });
    }
    let unfit: &[(&str, bool)] = if interface.xdp == XdpMode::Generic { &UNFIT_GENERIC } else { &UNFIT };
    // A VLAN of ours need not have a device of the kernel's.
    let vlans =
        config.interfaces.iter().any(|other| other.device == interface.device && other.vlan.is_some());
    let filter: &[(&str, bool)] = if vlans { &OF_VLANS } else { &[] };
    let unfit = [unfit, filter].concat();
    let saved = devices.switch(link.index, &unfit).map_err(kernel)?;
    for (offload, outcome) in &saved.outcomes {
        match outcome {
            Switched::Done => {
                tracing::info!(%device, %offload, "offload switched off while the device is ours")
            }
            Switched::Refused => {
                tracing::warn!(%device, %offload, "the device refuses to switch this offload off")
            }
            Switched::Already | Switched::NotSupported => {}
        }
    }
    let (inherited, before) = take_over(&saved, remembered.offloads(link.index), &unfit);
    if let Err(error) = devices.restore(&before) {
        tracing::warn!(%error, %device, "an offload that the last instance had switched off stays off");
    }
    let switched = [&saved.before[..], &inherited].concat();
    if let Err(error) = remembered.switched(link.index, &switched) {
        tracing::warn!(%error, %device, "should this instance be killed, its offloads stay as they are now");
    }
    let veth = super::fastpath::is_veth(link);
    let offloads = Some(saved);
    Ok(Device { name: device, ifindex: link.index, mac, queues: found, veth, offloads, inherited })
}

/// Of what the last instance has left `switched`: what is to be put back in the end beside what is `saved`, as it is `unfit` still; and the
/// rest, to be put back now.
fn take_over(
    saved: &Saved,
    switched: Vec<(String, bool)>,
    unfit: &[(&str, bool)],
) -> (Vec<(String, bool)>, Saved) {
    let (mut inherited, now) = switched
        .into_iter()
        .partition::<Vec<_>, _>(|(offload, _)| unfit.iter().any(|(name, _)| *name == offload));
    inherited.retain(|(offload, _)| !saved.before.iter().any(|(name, _)| name == offload));
    (inherited, Saved { ifindex: saved.ifindex, outcomes: Vec::new(), before: now })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_last_instance_left_switched_is_put_back_in_the_end_or_at_once() {
        let named = |all: &[(&str, bool)]| -> Vec<(String, bool)> {
            all.iter().map(|(name, on)| ((*name).to_owned(), *on)).collect()
        };
        let left = named(&[(feature::RX_VLAN, true), (feature::RX_LRO, true), (feature::RX_GRO, true)]);
        // Somebody has switched this one on since, and it was switched off again: before that counts.
        let before = named(&[(feature::RX_LRO, false)]);
        let saved = Saved { ifindex: 7, outcomes: Vec::new(), before };
        let (inherited, now) = take_over(&saved, left, &UNFIT);
        assert_eq!((now.ifindex, now.before), (7, named(&[(feature::RX_GRO, true)])));
        assert_eq!(inherited, named(&[(feature::RX_VLAN, true)]));
    }
}
