//! What is measured side by side: Throughway, and what people would use instead.
//!
//! * [`kernel`]: the kernel's own forwarding, with and without nftables.
//! * [`testpmd`]: DPDK's testpmd over two AF_XDP ports, the measure of AF_XDP itself.
//! * [`xdp`]: bare XDP programs, the limit of staying in the driver.
//! * Throughway itself: [`ours`].
//!
//! Each is set up in fresh namespaces from Debian's packages, and is gone when its [`Running`] is dropped.

pub mod kernel;
pub mod ours;
pub mod testpmd;
pub mod xdp;

use throughway_lab::Guard;

use crate::error::Result;
use crate::generator::{Packets, Traffic};
use crate::namespaces::{Cores, Namespaces, Placement};

/// What forwards.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Peer {
    /// The kernel's routing, nothing else.
    KernelForward,
    /// … and an nftables filter with connection tracking.
    KernelFilter,
    /// … and source NAT.
    KernelMasquerade,
    /// The same, established connections in an nftables flowtable.
    KernelFlowtable,
    /// nftables destination NAT to one of several backends by a hash of the source.
    KernelBalance,
    /// DPDK testpmd, MAC forwarding between two AF_XDP ports.
    Testpmd,
    /// An XDP program that redirects every packet to the other device.
    XdpRedirect,
    /// An XDP program that asks the kernel's forwarding table and redirects.
    XdpFib,
    /// Throughway: a router.
    Router,
    /// Throughway: markers, then a router; so many functions in all (2 to 8).
    Chain(u8),
    /// Throughway: firewall and router.
    Filter,
    /// Throughway: firewall, NAT and router.
    Stateful,
    /// Throughway: load balancer and router.
    Balancer,
}

/// How large the tables are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scale {
    /// Filter rules that do not match, before the one that does.
    pub rules: u32,
    /// Routes beside the one that is used.
    pub routes: u32,
    /// Flows that Throughway's cache and session tables are made for.
    pub flows: u32,
}

impl Default for Scale {
    fn default() -> Self {
        Scale { rules: 0, routes: 0, flows: 131_072 }
    }
}

/// A peer with how it is run: one line of the report.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Subject {
    /// What forwards.
    pub peer: Peer,
    /// Which core pays for what.
    pub placement: Placement,
    /// Throughway only: established flows stay in the driver.
    pub fast_path: bool,
    /// What it is sent.
    pub packets: Packets,
}

/// A peer that runs; dropped, it is stopped.
#[derive(Debug, Default)]
pub struct Running {
    /// Its processes.
    pub guards: Vec<Guard>,
    /// With the fast path: the command that tells how many flows stay in the driver, as JSON.
    pub ask: Option<Vec<String>>,
}

impl Running {
    /// Process ids, for the account of processor time.
    pub fn pids(&self) -> Vec<u32> {
        self.guards.iter().map(Guard::pid).collect()
    }
}

/// What a peer is set up with.
pub struct Setup<'a> {
    /// Where.
    pub at: &'a mut Namespaces,
    /// On which cores.
    pub cores: Cores,
    /// How large.
    pub scale: Scale,
    /// What will be sent to it.
    pub traffic: &'a Traffic,
    /// The path of `throughway`.
    pub binary: &'a str,
    /// More of Throughway's section `workers`, such as `poll: busy`.
    pub workers: &'a str,
}

impl Peer {
    /// Its name in reports.
    pub fn name(self) -> String {
        match self {
            Peer::KernelForward => "kernel forwarding".to_owned(),
            Peer::KernelFilter => "kernel, nftables stateful filter".to_owned(),
            Peer::KernelMasquerade => "kernel, filter + masquerade".to_owned(),
            Peer::KernelFlowtable => "kernel, filter + masquerade, flowtable".to_owned(),
            Peer::KernelBalance => "kernel, nftables DNAT balancing".to_owned(),
            Peer::Testpmd => "dpdk-testpmd, MAC forwarding over AF_XDP".to_owned(),
            Peer::XdpRedirect => "bare XDP redirect".to_owned(),
            Peer::XdpFib => "bare XDP, kernel's forwarding table".to_owned(),
            Peer::Router => "Throughway router".to_owned(),
            Peer::Chain(functions) => format!("Throughway chain of {functions}"),
            Peer::Filter => "Throughway firewall + router".to_owned(),
            Peer::Stateful => "Throughway firewall + NAT + router".to_owned(),
            Peer::Balancer => "Throughway load balancer + router".to_owned(),
        }
    }

    /// Its name on the command line and in files.
    pub fn key(self) -> String {
        match self {
            Peer::KernelForward => "kernel-forward".to_owned(),
            Peer::KernelFilter => "kernel-filter".to_owned(),
            Peer::KernelMasquerade => "kernel-masquerade".to_owned(),
            Peer::KernelFlowtable => "kernel-flowtable".to_owned(),
            Peer::KernelBalance => "kernel-balance".to_owned(),
            Peer::Testpmd => "testpmd".to_owned(),
            Peer::XdpRedirect => "xdp-redirect".to_owned(),
            Peer::XdpFib => "xdp-fib".to_owned(),
            Peer::Router => "router".to_owned(),
            Peer::Chain(functions) => format!("chain-{functions}"),
            Peer::Filter => "filter".to_owned(),
            Peer::Stateful => "stateful".to_owned(),
            Peer::Balancer => "balancer".to_owned(),
        }
    }

    /// All peers, chains of markers left out.
    pub const ALL: [Peer; 12] = [
        Peer::KernelForward,
        Peer::KernelFilter,
        Peer::KernelMasquerade,
        Peer::KernelFlowtable,
        Peer::KernelBalance,
        Peer::Testpmd,
        Peer::XdpRedirect,
        Peer::XdpFib,
        Peer::Router,
        Peer::Filter,
        Peer::Stateful,
        Peer::Balancer,
    ];

    /// The peer of that [`Peer::key`].
    pub fn of_key(key: &str) -> Option<Peer> {
        let chain = key.strip_prefix("chain-").and_then(|count| count.parse().ok()).map(Peer::Chain);
        chain.or_else(|| Peer::ALL.into_iter().find(|peer| peer.key() == key))
    }

    /// Whether it is Throughway.
    pub fn is_ours(self) -> bool {
        matches!(self, Peer::Router | Peer::Chain(_) | Peer::Filter | Peer::Stateful | Peer::Balancer)
    }

    /// Whether it forwards in user space: only then the softirq may be elsewhere.
    pub fn in_user_space(self) -> bool {
        self.is_ours() || self == Peer::Testpmd
    }

    /// Whether it does something else with a flow's first packet than with later ones.
    pub fn knows_flows(self) -> bool {
        !matches!(self, Peer::KernelForward | Peer::Testpmd | Peer::XdpRedirect | Peer::XdpFib)
    }

    /// With a core for itself.
    pub fn on_own_core(self) -> Subject {
        Subject { peer: self, placement: Placement::OwnCore, fast_path: false, packets: Packets::Small }
    }

    /// With one core that pays for everything.
    pub fn on_one_core(self) -> Subject {
        Subject { placement: Placement::OneCore, ..self.on_own_core() }
    }

    /// Whether it takes packets to the load balancers' address.
    pub fn balances(self) -> bool {
        matches!(self, Peer::KernelBalance | Peer::Balancer)
    }
}

impl Subject {
    /// Its name in reports, placement left out.
    pub fn name(&self) -> String {
        let fast = if self.fast_path { ", fast path" } else { "" };
        format!("{}{fast}", self.peer.name())
    }

    /// The same with other packets.
    #[must_use]
    pub fn sent(self, packets: Packets) -> Subject {
        Subject { packets, ..self }
    }

    /// Its name in files.
    pub fn key(&self) -> String {
        let fast = if self.fast_path { "+fast-path" } else { "" };
        format!("{}{fast}{}@{}", self.peer.key(), self.packets.suffix(), self.placement.key())
    }

    /// Starts it. When this returns, it forwards.
    ///
    /// # Errors
    /// [`crate::error::BenchError::Unavailable`] when this machine cannot run it.
    pub fn start(&self, setup: &mut Setup<'_>) -> Result<Running> {
        // The kernel's own forwarding is the softirq: that has the device's core in either placement.
        let placement = if self.peer.in_user_space() { self.placement } else { Placement::OneCore };
        setup.at.place(placement, setup.cores)?;
        let running = match self.peer {
            Peer::KernelForward
            | Peer::KernelFilter
            | Peer::KernelMasquerade
            | Peer::KernelFlowtable
            | Peer::KernelBalance => kernel::start(self.peer, setup)?,
            Peer::Testpmd => testpmd::start(setup)?,
            Peer::XdpRedirect | Peer::XdpFib => xdp::start(self.peer, setup)?,
            Peer::Router | Peer::Chain(_) | Peer::Filter | Peer::Stateful | Peer::Balancer => {
                ours::start(self.peer, self.fast_path, setup)?
            }
        };
        setup.at.place(placement, setup.cores)?;
        Ok(running)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_their_peers() {
        for peer in Peer::ALL.into_iter().chain([Peer::Chain(3)]) {
            assert_eq!(Peer::of_key(&peer.key()), Some(peer));
        }
        assert_eq!(Peer::of_key("chain-x"), None);
        assert_eq!(Peer::of_key("vpp"), None);
    }
}
