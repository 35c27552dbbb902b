//! What the steering program is told of the interfaces.

use std::sync::atomic::Ordering;

use throughway_config::{Config, FailMode, FastPath};
use throughway_shared::steer::{self, VlanKey};
use throughway_xdp::{Steering, SteeringError};

use super::devices::Device;
use super::early::EarlyAt;
use crate::assemble::early::standing;
use crate::host::HostFacts;

/// What of it stays the same while the service runs, by interface, and what does not.
pub(super) struct Steered {
    entries: Vec<Entry>,
    early: EarlyAt,
}

struct Entry {
    /// The device.
    ifindex: u32,
    /// Where the device's sockets begin.
    first_socket: u32,
    /// The flags of the device, if it is this interface that stands for it: the one that is untagged, else the first.
    device: Option<u32>,
    /// The VLAN that it is.
    vlan: Option<VlanKey>,
}

impl Steered {
    /// The interfaces of `config` on its devices. `early`: where packets are dropped early.
    pub(super) fn of(config: &Config, devices: &[Device], early: EarlyAt) -> Self {
        let numbers = config.device_numbers();
        let standing = standing(config);
        let on = |number: usize| {
            let numbered = config.interfaces.iter().zip(&numbers).enumerate();
            numbered
                .filter(move |(_, (_, of))| **of == number)
                .map(|(index, (interface, _))| (index, interface))
        };
        let entries =
            config.interfaces.iter().zip(&numbers).enumerate().filter_map(|(index, (interface, number))| {
                let device = devices.get(*number)?;
                let untagged = on(*number).find(|(_, interface)| interface.vlan.is_none());
                let stands = standing.get(index).is_some_and(|stands| *stands as usize == index);
                let closed = match interface.on_failure {
                    FailMode::Open => 0,
                    FailMode::Closed => steer::FAIL_CLOSED,
                };
                let fast = on(*number).any(|(_, interface)| interface.fast_path != FastPath::Off);
                let fast = if fast { steer::FAST } else { 0 };
                let tagged_only = if untagged.is_none() { steer::TAGGED_ONLY } else { 0 };
                Some(Entry {
                    ifindex: device.ifindex,
                    first_socket: steer::first_socket(*number as u32),
                    device: stands.then_some(closed | tagged_only | fast),
                    vlan: interface.vlan.as_ref().map(|vlan| VlanKey {
                        ifindex: device.ifindex,
                        outer: vlan.outer,
                        inner: vlan.inner.unwrap_or_default(),
                    }),
                })
            });
        Steered { entries: entries.collect(), early }
    }

    /// Tells the program, with the addresses that the interfaces have now.
    ///
    /// # Errors
    /// The first one; the other interfaces are told all the same.
    pub(super) fn tell(&self, facts: &HostFacts, steering: &mut Steering) -> Result<(), SteeringError> {
        let mut result = Ok(());
        let early = self.early.load(Ordering::Acquire);
        for (number, (entry, port)) in (0u32..).zip(self.entries.iter().zip(&facts.ports)) {
            // A device that went away took its program with it.
            if port.mac == [0; 6] {
                continue;
            }
            let (mac, reserved) = (port.mac, [0; 2]);
            if let Some(flags) = entry.device {
                let first_socket = entry.first_socket;
                let early = early.checked_shr(number).is_some_and(|mask| mask & 1 != 0);
                let flags = flags | if early { steer::EARLY } else { 0 };
                let interface = steer::Interface { number, first_socket, flags, mac, reserved };
                result = result.and(steering.set_interface(entry.ifindex, interface));
            }
            if let Some(key) = entry.vlan {
                result = result.and(steering.set_vlan(key, steer::Vlan { number, mac, reserved }));
            }
        }
        result
    }
}
