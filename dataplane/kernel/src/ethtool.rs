//! Generic netlink and the handful of messages we need of its families `ethtool` and `netdev`
//! (linux/genetlink.h, linux/ethtool_netlink.h, linux/netdev.h).

use std::collections::BTreeMap;

use netlink_sys::protocols::NETLINK_GENERIC;

use crate::error::KernelError;
use crate::model::IfIndex;
use crate::socket::{Netlink, Payload, attributes, number, text};

const GENL_HEADER: usize = 4;

/// A generic netlink socket and the family numbers found through it.
pub(crate) struct Generic {
    socket: Netlink,
    families: BTreeMap<&'static str, Option<u16>>,
}

/// One feature of a device, by its name in the kernel's string set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FeatureBits {
    pub(crate) changeable: bool,
    pub(crate) wanted: bool,
    pub(crate) active: bool,
    pub(crate) fixed: bool,
}

/// `ETHTOOL_MSG_CHANNELS_GET`, counts in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Channels {
    pub(crate) rx: u32,
    pub(crate) tx: u32,
    pub(crate) combined: u32,
}

impl Generic {
    pub(crate) fn open() -> Result<Self, KernelError> {
        Ok(Self { socket: Netlink::open(NETLINK_GENERIC)?, families: BTreeMap::new() })
    }

    fn family(&mut self, name: &'static str) -> Result<u16, KernelError> {
        const GENL_ID_CTRL: u16 = 16;
        const CTRL_CMD_GETFAMILY: u8 = 3;
        const CTRL_ATTR_FAMILY_ID: u16 = 1;
        const CTRL_ATTR_FAMILY_NAME: u16 = 2;

        if let Some(known) = self.families.get(name) {
            return known.ok_or(KernelError::NoFamily(name));
        }
        let mut payload = Payload::new(&[CTRL_CMD_GETFAMILY, 1, 0, 0]);
        payload.put_text(CTRL_ATTR_FAMILY_NAME, name);
        let mut id = None;
        let result =
            self.socket.request("find a netlink family", GENL_ID_CTRL, 0, payload.bytes(), |frame| {
                id = attributes(frame.payload.get(GENL_HEADER..).unwrap_or_default())
                    .find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID)
                    .and_then(|(_, value)| value.first_chunk::<2>().map(|bytes| u16::from_ne_bytes(*bytes)))
                    .or(id);
            });
        match result {
            Err(error) if error.errno() != Some(nix::libc::ENOENT) => return Err(error),
            _ => {}
        }
        self.families.insert(name, id);
        id.ok_or(KernelError::NoFamily(name))
    }

    fn ethtool(
        &mut self,
        request: &'static str,
        command: u8,
        ifindex: IfIndex,
        fill: impl FnOnce(&mut Payload),
        mut on_attribute: impl FnMut(u16, &[u8]),
    ) -> Result<(), KernelError> {
        const HEADER: u16 = 1;
        const HEADER_DEV_INDEX: u16 = 1;

        let family = self.family("ethtool")?;
        let mut payload = Payload::new(&[command, 1, 0, 0]);
        payload.nest(HEADER, |header| {
            header.put(HEADER_DEV_INDEX, &ifindex.to_ne_bytes());
        });
        fill(&mut payload);
        self.socket.request(request, family, 0, payload.bytes(), |frame| {
            for (kind, value) in attributes(frame.payload.get(GENL_HEADER..).unwrap_or_default()) {
                on_attribute(kind, value);
            }
        })
    }

    /// Queues in use, as the driver tells. Many virtual drivers do not (`EOPNOTSUPP`).
    pub(crate) fn channels(&mut self, ifindex: IfIndex) -> Result<Channels, KernelError> {
        const CHANNELS_GET: u8 = 17;
        const RX_COUNT: u16 = 6;
        const TX_COUNT: u16 = 7;
        const COMBINED_COUNT: u16 = 9;

        let mut channels = Channels::default();
        self.ethtool(
            "show a device's channels",
            CHANNELS_GET,
            ifindex,
            |_| {},
            |kind, value| {
                let count = number(value).unwrap_or_default();
                match kind {
                    RX_COUNT => channels.rx = count,
                    TX_COUNT => channels.tx = count,
                    COMBINED_COUNT => channels.combined = count,
                    _ => {}
                }
            },
        )?;
        Ok(channels)
    }

    /// All features of a device by name.
    pub(crate) fn features(
        &mut self,
        ifindex: IfIndex,
    ) -> Result<BTreeMap<String, FeatureBits>, KernelError> {
        const FEATURES_GET: u8 = 11;
        const HW: u16 = 2;
        const WANTED: u16 = 3;
        const ACTIVE: u16 = 4;
        const NOCHANGE: u16 = 5;

        let mut features: BTreeMap<String, FeatureBits> = BTreeMap::new();
        self.ethtool(
            "show a device's features",
            FEATURES_GET,
            ifindex,
            |_| {},
            |kind, value| {
                let set: fn(&mut FeatureBits) = match kind {
                    HW => |bits| bits.changeable = true,
                    WANTED => |bits| bits.wanted = true,
                    ACTIVE => |bits| bits.active = true,
                    NOCHANGE => |bits| bits.fixed = true,
                    _ => return,
                };
                for name in bit_names(value) {
                    set(features.entry(name).or_default());
                }
            },
        )?;
        Ok(features)
    }

    /// Asks for features to be on or off. The kernel passes over what it cannot change; look again to see.
    pub(crate) fn want_features<'a>(
        &mut self,
        ifindex: IfIndex,
        wanted: impl Iterator<Item = (&'a str, bool)>,
    ) -> Result<(), KernelError> {
        const FEATURES_SET: u8 = 12;
        const WANTED: u16 = 3;

        self.ethtool(
            "change a device's features",
            FEATURES_SET,
            ifindex,
            |payload| {
                payload.nest(WANTED, |bitset| {
                    bitset.nest(BITSET_BITS, |bits| {
                        for (name, on) in wanted {
                            bits.nest(BITS_BIT, |bit| {
                                bit.put_text(BIT_NAME, name);
                                if on {
                                    bit.put(BIT_VALUE, &[]);
                                }
                            });
                        }
                    });
                });
            },
            |_, _| {},
        )
    }

    /// Queues in use as the core of the stack knows them (Linux 6.8 and later), whatever the driver: receive, transmit.
    /// A device that is down has none.
    pub(crate) fn netdev_queues(&mut self, ifindex: IfIndex) -> Result<(u32, u32), KernelError> {
        const QUEUE_GET: u8 = 10;
        const QUEUE_IFINDEX: u16 = 2;
        const QUEUE_TYPE: u16 = 3;

        let family = self.family("netdev")?;
        let mut payload = Payload::new(&[QUEUE_GET, 1, 0, 0]);
        payload.put(QUEUE_IFINDEX, &ifindex.to_ne_bytes());
        let mut counts = (0u32, 0u32);
        self.socket.dump(
            "show a device's queues",
            family,
            payload.bytes(),
            &mut counts,
            |counts| *counts = (0, 0),
            |counts, frame| {
                let kind = attributes(frame.payload.get(GENL_HEADER..).unwrap_or_default())
                    .find(|(kind, _)| *kind == QUEUE_TYPE);
                match kind.and_then(|(_, value)| number(value)) {
                    Some(0) => counts.0 += 1,
                    Some(1) => counts.1 += 1,
                    _ => {}
                }
            },
        )?;
        Ok(counts)
    }

    /// What XDP can do on a device (Linux 6.3 and later): feature bits, and fragments per zero-copy packet.
    pub(crate) fn xdp(&mut self, ifindex: IfIndex) -> Result<(u64, Option<u32>), KernelError> {
        const DEV_GET: u8 = 1;
        const DEV_IFINDEX: u16 = 1;
        const DEV_XDP_FEATURES: u16 = 3;
        const DEV_XDP_ZC_MAX_SEGS: u16 = 4;

        let family = self.family("netdev")?;
        let mut payload = Payload::new(&[DEV_GET, 1, 0, 0]);
        payload.put(DEV_IFINDEX, &ifindex.to_ne_bytes());
        let mut found = (0, None);
        self.socket.request("show a device's XDP features", family, 0, payload.bytes(), |frame| {
            for (kind, value) in attributes(frame.payload.get(GENL_HEADER..).unwrap_or_default()) {
                match kind {
                    DEV_XDP_FEATURES => {
                        found.0 = value.first_chunk::<8>().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
                    }
                    DEV_XDP_ZC_MAX_SEGS => found.1 = number(value),
                    _ => {}
                }
            }
        })?;
        Ok(found)
    }

    /// The kernel threads that receive for a device, where its NAPI is threaded (Linux 6.8 and later tell).
    pub(crate) fn napi_threads(&mut self, ifindex: IfIndex) -> Result<Vec<u32>, KernelError> {
        const NAPI_GET: u8 = 11;
        const NAPI_IFINDEX: u16 = 1;
        const NAPI_PID: u16 = 4;

        let family = self.family("netdev")?;
        let mut payload = Payload::new(&[NAPI_GET, 1, 0, 0]);
        payload.put(NAPI_IFINDEX, &ifindex.to_ne_bytes());
        let mut threads = Vec::new();
        self.socket.dump(
            "list a device's NAPI instances",
            family,
            payload.bytes(),
            &mut threads,
            |threads| threads.clear(),
            |threads, frame| {
                let attributes = attributes(frame.payload.get(GENL_HEADER..).unwrap_or_default());
                threads.extend(
                    attributes.filter(|(kind, _)| *kind == NAPI_PID).filter_map(|(_, value)| number(value)),
                );
            },
        )?;
        Ok(threads)
    }
}

const BITSET_NOMASK: u16 = 1;
const BITSET_BITS: u16 = 3;
const BITS_BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;

/// Names of the bits that are set in a verbose bitset. With a mask, those without a value flag are masked but unset.
fn bit_names(bitset: &[u8]) -> Vec<String> {
    let list = attributes(bitset).any(|(kind, _)| kind == BITSET_NOMASK);
    let bits = attributes(bitset).filter(|(kind, _)| *kind == BITSET_BITS);
    bits.flat_map(|(_, bits)| attributes(bits))
        .filter(|(kind, bit)| {
            *kind == BITS_BIT && (list || attributes(bit).any(|(kind, _)| kind == BIT_VALUE))
        })
        .filter_map(|(_, bit)| {
            attributes(bit).find(|(kind, _)| *kind == BIT_NAME).map(|(_, name)| text(name))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_of_a_list_are_set_and_bits_of_a_mask_need_a_value() {
        let bit = |name: &str, on: bool| {
            let mut bit = Payload::default();
            bit.put_text(BIT_NAME, name);
            if on {
                bit.put(BIT_VALUE, &[]);
            }
            bit
        };
        let mut masked = Payload::default();
        masked.nest(BITSET_BITS, |bits| {
            bits.put(BITS_BIT, bit("rx-gro", true).bytes());
            bits.put(BITS_BIT, bit("rx-lro", false).bytes());
        });
        assert_eq!(bit_names(masked.bytes()), ["rx-gro"]);
        let mut list = Payload::default();
        list.put(BITSET_NOMASK, &[]);
        list.nest(BITSET_BITS, |bits| {
            bits.put(BITS_BIT, bit("rx-gro", false).bytes());
            bits.put(BITS_BIT, bit("rx-lro", false).bytes());
        });
        assert_eq!(bit_names(list.bytes()), ["rx-gro", "rx-lro"]);
    }
}
