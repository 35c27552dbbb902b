//! Which of the kernel's devices are ours.

use throughway_packet::PortId;

use crate::host::HostFacts;

/// From the kernel's numbers of devices to our ports. There are few: they are searched in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PortMap(Vec<Port>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Port {
    ifindex: u32,
    up: bool,
}

impl PortMap {
    /// The ports of a host. A port without a device has the number zero, which no device has.
    pub fn of(host: &HostFacts) -> Self {
        PortMap(host.ports.iter().map(|port| Port { ifindex: port.ifindex, up: port.up }).collect())
    }

    /// The ports of facts that were written down, which know no devices: port *n* has the number *n* + 1.
    pub fn numbered(host: &HostFacts) -> Self {
        PortMap((1..).zip(&host.ports).map(|(ifindex, port)| Port { ifindex, up: port.up }).collect())
    }

    /// The port on device `ifindex`.
    pub fn port(&self, ifindex: u32) -> Option<PortId> {
        let position = self.0.iter().position(|port| port.ifindex == ifindex && ifindex != 0)?;
        u16::try_from(position).ok().map(PortId)
    }

    /// The device of a port.
    pub fn ifindex(&self, port: PortId) -> Option<u32> {
        self.0.get(port.index()).map(|port| port.ifindex)
    }

    /// Whether a port is up and has a carrier.
    pub fn is_up(&self, port: PortId) -> bool {
        self.0.get(port.index()).is_some_and(|port| port.up)
    }

    /// Whether the same devices are the same ports, up or not.
    pub fn same_devices(&self, other: &PortMap) -> bool {
        self.0.iter().map(|port| port.ifindex).eq(other.0.iter().map(|port| port.ifindex))
    }
}
