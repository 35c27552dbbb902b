//! What is known of the host, as plain data: our ports, the host's addresses, routes and neighbours.
//!
//! The kernel mirror makes it while the service runs; `throughway show host --json` prints it and `throughway replay --host`
//! reads it, so that a capture is replayed with the tables of the machine it came from.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use throughway_packet::Prefix;

/// The host as the data plane sees it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostFacts {
    /// Our ports, in the order of the configuration.
    pub ports: Vec<PortFacts>,
    /// All addresses of the host, of every interface.
    pub local: Vec<IpAddr>,
    /// The directed broadcast addresses of the host's prefixes.
    #[serde(default)]
    pub broadcast: Vec<IpAddr>,
    /// The routes of all tables, without those of the kernel's own `local` table.
    pub routes: Arc<Vec<RouteFacts>>,
    /// The neighbours that can be sent to, by our ports.
    pub neighbours: Vec<NeighbourFacts>,
    /// The neighbours that were asked for not long ago and did not answer: our port, address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreachable: Vec<(u16, IpAddr)>,
    /// The ports that the kernel gives to sockets which ask for none: first and last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral_ports: Option<(u16, u16)>,
}

/// One of our ports.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortFacts {
    /// Its name in the configuration.
    pub name: String,
    /// Its device.
    pub device: String,
    /// The kernel's number of the device; zero when the device is missing.
    #[serde(default)]
    pub ifindex: u32,
    /// Its MAC address.
    #[serde(with = "mac_text")]
    pub mac: [u8; 6],
    /// Its MTU in bytes, without the link layer.
    pub mtu: u32,
    /// Whether it is up and has a carrier.
    pub up: bool,
    /// Its addresses with their prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// One route.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteFacts {
    /// The kernel's table number (254 is `main`).
    pub table: u32,
    /// The destination.
    pub prefix: (IpAddr, u8),
    /// What it does.
    pub kind: RouteKind,
    /// Among routes of one prefix, the lowest wins.
    pub metric: u32,
    /// Who made it: `kernel`, `static`, `bird`, or the protocol's number.
    pub protocol: String,
    /// Where it leads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next_hops: Vec<NextHopFacts>,
}

/// What a route does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteKind {
    /// Forwards.
    Unicast,
    /// Drops in silence.
    Blackhole,
    /// Answers: host unreachable.
    Unreachable,
    /// Answers: administratively prohibited.
    Prohibit,
    /// Ends the look-up in this table, as if there were no route.
    Throw,
}

/// Where a route leads.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NextHopFacts {
    /// Our port; `None` when the device is not one of ours.
    pub port: Option<u16>,
    /// The gateway; `None` when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Its share among several, from 1.
    pub weight: u16,
}

/// A neighbour that can be sent to.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NeighbourFacts {
    /// Our port.
    pub port: u16,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address.
    #[serde(with = "mac_text")]
    pub mac: [u8; 6],
    /// The kernel's state of it, such as `reachable`.
    pub state: String,
}

impl HostFacts {
    /// The facts for a replay where nothing is known of the host: ports with made-up MAC addresses (02:00:00:00:00:NN, locally
    /// administered), up, MTU 1500, and no addresses.
    pub fn invented(names: impl IntoIterator<Item = (String, String)>) -> Self {
        let ports = names.into_iter().enumerate().map(|(index, (name, device))| PortFacts {
            name,
            device,
            ifindex: 0,
            mac: [2, 0, 0, 0, (index >> 8) as u8, index as u8],
            mtu: 1500,
            up: true,
            addresses: Vec::new(),
        });
        HostFacts { ports: ports.collect(), ..HostFacts::default() }
    }

    /// The port whose own prefix holds `address`: where a neighbour with that address is.
    pub fn port_on_link(&self, address: IpAddr) -> Option<u16> {
        let ports = self.ports.iter().enumerate();
        let matching = ports.flat_map(|(index, port)| {
            port.addresses
                .iter()
                .filter(move |(own, len)| {
                    Prefix::containing(*own, *len).is_ok_and(|prefix| prefix.contains(address))
                })
                .map(move |(_, len)| (*len, index as u16))
        });
        matching.max_by_key(|(len, _)| *len).map(|(_, index)| index)
    }
}

/// A MAC address as people write it.
pub fn mac_to_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

mod mac_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(mac: &[u8; 6], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::mac_to_text(*mac))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 6], D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes: Option<Vec<u8>> = text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| D::Error::custom(format!("`{text}` is not a MAC address like 02:00:00:00:00:01")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_survive_json() {
        let mut facts = HostFacts::invented([("lan".to_owned(), "eth1".to_owned())]);
        facts.neighbours.push(NeighbourFacts {
            port: 0,
            address: "10.0.0.2".parse().unwrap(),
            mac: [2, 0, 0, 0, 0, 0xaa],
            state: "reachable".to_owned(),
        });
        let text = serde_json::to_string(&facts).unwrap();
        assert!(text.contains("02:00:00:00:00:aa"));
        assert_eq!(serde_json::from_str::<HostFacts>(&text).unwrap(), facts);
    }

    #[test]
    fn the_longest_prefix_names_the_port() {
        let mut facts = HostFacts::invented([("a".into(), "a".into()), ("b".into(), "b".into())]);
        facts.ports[0].addresses.push(("10.0.0.1".parse().unwrap(), 8));
        facts.ports[1].addresses.push(("10.9.0.1".parse().unwrap(), 16));
        assert_eq!(facts.port_on_link("10.9.3.3".parse().unwrap()), Some(1));
        assert_eq!(facts.port_on_link("10.8.3.3".parse().unwrap()), Some(0));
        assert_eq!(facts.port_on_link("192.0.2.1".parse().unwrap()), None);
    }
}
