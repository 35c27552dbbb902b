//! The host's own addresses, as the program knows them.

use std::{collections::BTreeMap, net::IpAddr};

use aya::maps::{HashMap, MapData};
use throughway_shared::steer::{CLAIMED, LOCAL_ADDRESSES, MAX_LOCAL_ADDRESSES};

use crate::steering::{SteeringError, in_map, is_absent};

/// Who gets what is sent to one of the host's own addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recipient {
    /// The kernel, always.
    Kernel,
    /// A function claims the address (a NAT pool, a virtual service): the kernel gets what a local TCP or UDP socket
    /// owns, the workers get the rest.
    Function,
}

impl Recipient {
    fn flags(self) -> u32 {
        match self {
            Recipient::Kernel => 0,
            Recipient::Function => CLAIMED,
        }
    }
}

/// What [`LocalAddresses::replace`] changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AddressChanges {
    /// Addresses that were not there before.
    pub added: usize,
    /// Addresses whose recipient is another one now.
    pub changed: usize,
    /// Addresses that are there no longer.
    pub removed: usize,
}

/// The host's own addresses, as the program knows them.
///
/// Directed broadcast addresses of the host's subnets belong here, too, as addresses of the kernel: nothing in a packet
/// tells 192.0.2.255/24 from a host. Groups, limited broadcast and link-local addresses need not be here.
pub struct LocalAddresses {
    map: HashMap<MapData, [u8; 16], u32>,
    /// What is in the map.
    known: BTreeMap<[u8; 16], u32>,
}

impl LocalAddresses {
    pub(crate) fn new(map: HashMap<MapData, [u8; 16], u32>) -> Self {
        LocalAddresses { map, known: BTreeMap::new() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Makes `addresses` the host's own addresses, by as few changes as it takes: an address that stays is known to the
    /// program all the time. Of an address that is named twice, the function's claim wins.
    ///
    /// # Errors
    ///
    /// When there are more than [`MAX_LOCAL_ADDRESSES`] (then nothing is changed), or the map cannot be written (then
    /// some changes are made, and the next call makes the rest).
    pub fn replace(
        &mut self,
        addresses: impl IntoIterator<Item = (IpAddr, Recipient)>,
    ) -> Result<AddressChanges, SteeringError> {
        let mut wanted = BTreeMap::<[u8; 16], u32>::new();
        for (address, recipient) in addresses {
            *wanted.entry(key(address)).or_default() |= recipient.flags();
        }
        if wanted.len() > MAX_LOCAL_ADDRESSES as usize {
            return Err(too_many(wanted.len()));
        }
        // Removed first, so that there is room; no address is in both sets.
        let gone: Vec<_> = self.known.keys().filter(|key| !wanted.contains_key(*key)).copied().collect();
        let mut changes = AddressChanges { removed: gone.len(), ..AddressChanges::default() };
        for key in gone {
            self.erase(key)?;
        }
        for (key, flags) in wanted {
            match self.known.get(&key) {
                Some(&known) if known == flags => continue,
                Some(_) => changes.changed += 1,
                None => changes.added += 1,
            }
            self.write(key, flags)?;
        }
        Ok(changes)
    }

    /// Adds `address`, or changes who gets what is sent to it.
    ///
    /// # Errors
    ///
    /// When there are [`MAX_LOCAL_ADDRESSES`] already, or the map cannot be written.
    pub fn add(&mut self, address: IpAddr, recipient: Recipient) -> Result<(), SteeringError> {
        let key = key(address);
        if !self.known.contains_key(&key) && self.known.len() >= MAX_LOCAL_ADDRESSES as usize {
            return Err(too_many(self.known.len() + 1));
        }
        self.write(key, recipient.flags())
    }

    /// Removes `address`. Returns whether it was there.
    ///
    /// # Errors
    ///
    /// When the map cannot be written.
    pub fn remove(&mut self, address: IpAddr) -> Result<bool, SteeringError> {
        let key = key(address);
        let known = self.known.contains_key(&key);
        self.erase(key)?;
        Ok(known)
    }

    fn write(&mut self, key: [u8; 16], flags: u32) -> Result<(), SteeringError> {
        self.map.insert(key, flags, 0).map_err(in_map(LOCAL_ADDRESSES))?;
        self.known.insert(key, flags);
        Ok(())
    }

    fn erase(&mut self, key: [u8; 16]) -> Result<(), SteeringError> {
        match self.map.remove(&key) {
            Err(error) if !is_absent(&error) => return Err(in_map(LOCAL_ADDRESSES)(error)),
            _ => {}
        }
        self.known.remove(&key);
        Ok(())
    }
}

/// The address as the program looks it up: `throughway_shared::steer::LocalAddress`.
fn key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn too_many(count: usize) -> SteeringError {
    SteeringError::Limit {
        what: "number of local addresses",
        value: u32::try_from(count).unwrap_or(u32::MAX),
        limit: MAX_LOCAL_ADDRESSES + 1,
    }
}
