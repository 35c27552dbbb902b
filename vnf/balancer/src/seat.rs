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
}

impl Seat {
    /// With no connections.
    pub fn new(address: IpAddr, port: Option<u16>) -> Seat {
        let (via, avoided) = (Snapshot::new(None), AtomicBool::new(false));
        Seat { address, port, figures: Figures::default(), via, avoided }
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
