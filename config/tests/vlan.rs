//! Interfaces on VLANs: what they share with others on their device, and what is their own.

use throughway_config::{Config, FailMode, VlanProtocol, XdpMode};

const FILE: &str = "\
interfaces:
  lan: { device: eth1 }
  wan: { device: eth2, vlan: 100 }
  mgmt: { device: eth2, on-failure: closed, queues: 2 }
  guest:
    device: eth1
    vlan: [200, 30]
    xdp: native
    addresses: [192.0.2.1/24, \"2001:db8::1/64\"]
    neighbours: [ { address: 192.0.2.9, mac: \"02:00:00:00:00:0A\" } ]
  odd: { device: eth1, vlan: [200, 31], vlan-protocol: 802.1q }
functions: { core: { router: {} } }
chains: { all: { from: [lan, wan, mgmt, guest, odd], run: [core] } }
";

#[test]
fn interfaces_of_a_device_share_what_is_the_devices() {
    let (config, _) = Config::parse("test.yaml", FILE).unwrap();
    assert_eq!(config.device_numbers(), [0, 1, 1, 0, 0]);
    let devices: Vec<_> = config.devices().map(|interface| interface.name.as_str()).collect();
    assert_eq!(devices, ["lan", "wan"]);
    let [lan, wan, mgmt, guest, odd] = config.interfaces.as_slice() else { unreachable!() };
    for interface in [lan, guest, odd] {
        assert_eq!((interface.xdp, interface.on_failure), (XdpMode::Native, FailMode::Open));
    }
    for interface in [wan, mgmt] {
        assert_eq!((interface.on_failure, interface.queues), (FailMode::Closed, Some(2)));
    }
    assert!(lan.vlan.is_none() && mgmt.vlan.is_none());

    let tags = |interface: &throughway_config::Interface| {
        let vlan = interface.vlan.as_ref().unwrap();
        (vlan.outer, vlan.inner, vlan.protocol)
    };
    assert_eq!(tags(wan), (100, None, VlanProtocol::Dot1q));
    assert_eq!(tags(guest), (200, Some(30), VlanProtocol::Dot1ad));
    assert_eq!(tags(odd), (200, Some(31), VlanProtocol::Dot1q));
    let vlan = guest.vlan.as_ref().unwrap();
    let addresses: Vec<_> = vlan.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.0.2.1/24", "2001:db8::1/64"]);
    assert_eq!(vlan.neighbours[0].1.to_string(), "02:00:00:00:00:0a");
}

#[test]
fn a_vlan_that_changes_needs_a_restart() {
    let (old, _) = Config::parse("test.yaml", FILE).unwrap();
    for (before, after, path) in [
        ("vlan: 100", "vlan: 101", "interfaces.wan.vlan"),
        ("vlan: [200, 30]", "vlan: 200", "interfaces.guest.vlan"),
        ("192.0.2.1/24", "192.0.2.2/24", "interfaces.guest.addresses"),
        ("00:0A", "00:0B", "interfaces.guest.neighbours"),
        ("vlan-protocol: 802.1q", "vlan-protocol: 802.1ad", "interfaces.odd.vlan-protocol"),
    ] {
        assert!(FILE.contains(before));
        let (new, _) = Config::parse("test.yaml", &FILE.replace(before, after)).unwrap();
        let changes = Config::changes(&old, &new);
        assert!(
            changes.iter().any(|change| change.path == path && change.needs_restart),
            "{path}: {changes:?}"
        );
    }
}
