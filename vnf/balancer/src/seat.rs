//! What of a backend stays the same over reloads, and for as long as it has connections: where it is, and what it was given.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use throughway_vnf::Snapshot;

/// A backend's place: its connections hold it, also when the configuration no longer has it.
#[derive(Debug)]
pub struct Seat {
    /// Its address.
    pub address: IpAddr,
    /// Its port, host order; `None`: that of the packet.
    pub port: Option<u16>,
    /// What it was given.
    pub figures: Figures,
    via: Snapshot<Option<IpAddr>>,
    avoided: AtomicBool,
    taking: AtomicBool,
}

impl Seat {
    /// With no connections.
    pub fn new(address: IpAddr, port: Option<u16>) -> Seat {
        Seat {
            address,
            port,
            figures: Figures::default(),
            via: Snapshot::new(None),
            avoided: AtomicBool::new(false),
            taking: AtomicBool::new(true),
        }
    }

    /// Our own address toward it: the source of tunnels, and of packets that are to be answered to us.
    pub fn via(&self) -> Option<IpAddr> {
        **self.via.read()
    }

    /// Says which address of ours is the one toward it.
    pub fn set_via(&self, via: Option<IpAddr>) {
        if self.via() != via {
            self.via.publish(via);
        }
    }

    /// Whether what can be moved to another backend should be: it is down, and gets no new connections.
    pub fn is_avoided(&self) -> bool {
        self.avoided.load(Ordering::Relaxed)
    }

    /// Returns whether that is a change.
    pub fn set_avoided(&self, avoided: bool) -> bool {
        self.avoided.swap(avoided, Ordering::Relaxed) != avoided
    }

    /// Whether it gets new connections.
    pub fn is_taking(&self) -> bool {
        self.taking.load(Ordering::Relaxed)
    }

    /// Says whether it gets new connections.
    pub fn set_taking(&self, taking: bool) {
        self.taking.store(taking, Ordering::Relaxed);
    }
}

/// What became of a service's packets that opened nothing, or not at once. Written by all workers, on their slow path only.
#[derive(Debug, Default)]
pub struct ServiceFigures {
    hash_only: AtomicU64,
    retries: AtomicU64,
    rejected: AtomicU64,
    refused: AtomicU64,
    returned: AtomicU64,
    errors: AtomicU64,
}

/// The values of [`ServiceFigures`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ServiceCounts {
    /// Packets that the hash alone decided about: there was no room, or they open nothing.
    pub hash_only: u64,
    /// Another backend, or another port of ours, that was tried because the answers could not have been told from others'.
    pub retries: u64,
    /// Packets that found no backend.
    pub rejected: u64,
    /// Packets whose connection had to be remembered and was not: no room, or no backend and port left to try.
    pub refused: u64,
    /// New connections that went to the backend which their client had before.
    pub returned: u64,
    /// ICMP errors that were brought to who sent what they are about.
    pub errors: u64,
}

impl ServiceFigures {
    fn one(figure: &AtomicU64) {
        figure.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn hash_only(&self) {
        Self::one(&self.hash_only);
    }

    pub(crate) fn retries(&self) {
        Self::one(&self.retries);
    }

    pub(crate) fn rejected(&self) {
        Self::one(&self.rejected);
    }

    pub(crate) fn refused(&self) {
        Self::one(&self.refused);
    }

    pub(crate) fn returned(&self) {
        Self::one(&self.returned);
    }

    pub(crate) fn errors(&self) {
        Self::one(&self.errors);
    }

    /// All of them.
    pub fn get(&self) -> ServiceCounts {
        let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        ServiceCounts {
            hash_only: read(&self.hash_only),
            retries: read(&self.retries),
            rejected: read(&self.rejected),
            refused: read(&self.refused),
            returned: read(&self.returned),
            errors: read(&self.errors),
        }
    }
}

/// What a backend was given. Written by all workers, on their slow path only.
#[derive(Debug, Default)]
pub struct Figures {
    connections: AtomicU64,
    active: AtomicU32,
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Figures {
    /// One more connection, which is remembered.
    pub(crate) fn opened(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    /// One that an earlier instance remembered.
    pub(crate) fn resumed(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    /// One that was remembered has ended.
    pub(crate) fn ended(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// Packets of both directions as far as they pass here, and their IP packets' bytes.
    pub(crate) fn packets(&self, packets: u64, bytes: u64) {
        self.packets.fetch_add(packets, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Connections that are remembered now.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Connections, packets and bytes so far.
    pub fn get(&self) -> [u64; 3] {
        [&self.connections, &self.packets, &self.bytes].map(|figure| figure.load(Ordering::Relaxed))
    }
}
