//! Follows the kernel over netlink and publishes what changed: the routers' tables, and the steering program's view of the
//! host's addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError};
use throughway_kernel::model::{self, State};
use throughway_kernel::{Changes, KernelError, Mirror, Resolver};

use crate::assemble::{RouterSpec, router};
use crate::host::{HostFacts, NeighbourFacts, NextHopFacts, PortFacts, RouteFacts, RouteKind};
use crate::worker::Wanted;

/// How long the threads sleep at most before they look whether they shall stop.
const PATIENCE: Duration = Duration::from_millis(100);

/// Why the kernel cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// It would not be asked.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A thread could not be made.
    #[error("a thread could not be started: {0}")]
    Thread(std::io::Error),
}

/// Is told what changed of the host, after the routers' tables were published.
pub trait Watcher: Send {
    /// New facts; `addresses_or_links` says whether local addresses, MAC addresses or link states may have changed.
    fn host_changed(&mut self, facts: &HostFacts, addresses_or_links: bool);
}

struct Shared {
    facts: Arc<HostFacts>,
    routers: Vec<RouterSpec>,
    generation: u64,
}

/// The running mirror.
pub struct MirrorHandle {
    shared: Arc<Mutex<Shared>>,
    overruns: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// The mirror before it runs: the first facts are there, nothing is published yet.
pub struct Opened {
    mirror: Mirror,
    names: Vec<(String, String)>,
    facts: Arc<HostFacts>,
}

/// Reads the kernel's state for the ports `names` (name in the configuration, device).
pub fn open(names: Vec<(String, String)>) -> Result<Opened, KernelError> {
    let mirror = Mirror::open()?;
    let facts = Arc::new(facts(mirror.state(), &names));
    Ok(Opened { mirror, names, facts })
}

impl Opened {
    /// The host as it was found.
    pub fn facts(&self) -> &Arc<HostFacts> {
        &self.facts
    }

    /// The kernel's whole state as it was found.
    pub fn state(&self) -> &State {
        self.mirror.state()
    }

    /// Starts to follow the kernel, and to resolve the neighbours that workers ask for.
    pub fn follow(
        self,
        routers: Vec<RouterSpec>,
        wanted: Receiver<Wanted>,
        mut watcher: impl Watcher + 'static,
    ) -> Result<MirrorHandle, FollowError> {
        let Opened { mut mirror, names, facts } = self;
        let resolver = Resolver::open()?;
        let shared = Arc::new(Mutex::new(Shared { facts, routers, generation: 1 }));
        let overruns = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(FollowError::Thread)
        };
        let following = {
            let (shared, stop, overruns) = (Arc::clone(&shared), Arc::clone(&stop), Arc::clone(&overruns));
            spawn(
                "mirror",
                Box::new(move || {
                    while !stop.load(Ordering::Relaxed) {
                        match mirror.wait(PATIENCE) {
                            Ok(changes) if changes.is_empty() => {}
                            Ok(changes) => {
                                if changes.overrun {
                                    overruns.fetch_add(1, Ordering::Relaxed);
                                }
                                apply(&mirror, &names, &changes, &shared, &mut watcher);
                            }
                            Err(error) => {
                                tracing::error!(%error, "the kernel's state cannot be followed; trying again");
                                std::thread::sleep(PATIENCE);
                            }
                        }
                    }
                }),
            )?
        };
        let resolving = {
            let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
            spawn("resolver", Box::new(move || resolve(resolver, &wanted, &shared, &stop)))?
        };
        Ok(MirrorHandle { shared, overruns, stop, threads: vec![following, resolving] })
    }
}

impl MirrorHandle {
    /// The host as it is now.
    pub fn facts(&self) -> Arc<HostFacts> {
        Arc::clone(&lock(&self.shared).facts)
    }

    /// Follows other routers from now on. `make` builds them from the facts of this very moment, so that no change is missed.
    ///
    /// When `make` fails, the old ones are followed on.
    pub fn replace_routers<T, E>(
        &self,
        make: impl FnOnce(&HostFacts) -> Result<(Vec<RouterSpec>, T), E>,
    ) -> Result<T, E> {
        let mut shared = lock(&self.shared);
        let (routers, rest) = make(&shared.facts)?;
        shared.routers = routers;
        Ok(rest)
    }

    /// The routers that are followed now.
    pub fn routers(&self) -> Vec<RouterSpec> {
        lock(&self.shared).routers.clone()
    }

    /// How often the netlink socket overflowed.
    pub fn overruns(&self) -> u64 {
        self.overruns.load(Ordering::Relaxed)
    }

    /// Stops following.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn apply(
    mirror: &Mirror,
    names: &[(String, String)],
    changes: &Changes,
    shared: &Mutex<Shared>,
    watcher: &mut impl Watcher,
) {
    let facts = Arc::new(facts(mirror.state(), names));
    let routes_changed = changes.overrun
        || !(changes.routes.is_empty()
            && changes.links.is_empty()
            && changes.addresses.is_empty()
            && changes.nexthops.is_empty());
    {
        let mut shared = lock(shared);
        shared.generation += 1;
        shared.facts = Arc::clone(&facts);
        for spec in &shared.routers {
            let fib = (!routes_changed).then(|| Arc::clone(&spec.tables.read().fib));
            spec.tables.publish(router::tables(&facts, &spec.config, fib, shared.generation));
        }
    }
    let addresses_or_links = changes.overrun || !(changes.addresses.is_empty() && changes.links.is_empty());
    watcher.host_changed(&facts, addresses_or_links);
}

fn resolve(mut resolver: Resolver, wanted: &Receiver<Wanted>, shared: &Mutex<Shared>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let (port, address) = match wanted.recv_timeout(PATIENCE) {
            Ok(wanted) => wanted,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let ifindex = lock(shared).facts.ports.get(port.index()).map(|port| port.ifindex);
        if let Some(ifindex) = ifindex
            && let Err(error) = resolver.resolve(ifindex, address)
        {
            tracing::debug!(%error, %address, "the kernel would not resolve a neighbour");
        }
    }
}

/// The kernel's state as the data plane sees it.
pub fn facts(state: &State, names: &[(String, String)]) -> HostFacts {
    let links: Vec<Option<&model::Link>> = names.iter().map(|(_, device)| state.link_named(device)).collect();
    let port_of = |ifindex: u32| -> Option<u16> {
        let position = links.iter().position(|link| link.is_some_and(|link| link.index == ifindex));
        position.map(|index| index as u16)
    };
    let ports = names.iter().zip(&links).map(|((name, device), link)| {
        let addresses =
            |ifindex| state.addresses_of(ifindex).map(|(key, _)| (key.address, key.prefix_len)).collect();
        PortFacts {
            name: name.clone(),
            device: device.clone(),
            ifindex: link.map_or(0, |link| link.index),
            mac: link.and_then(|link| link.mac).unwrap_or_default(),
            mtu: link.map_or(0, |link| link.mtu),
            up: link.is_some_and(model::Link::usable),
            addresses: link.map(|link| addresses(link.index)).unwrap_or_default(),
        }
    });
    let neighbours = state.neighbours.iter().filter_map(|(key, neighbour)| {
        let mac = neighbour.mac.filter(|_| neighbour.state.usable())?;
        let port = port_of(key.ifindex)?;
        let state = format!("{:?}", neighbour.state).to_lowercase();
        Some(NeighbourFacts { port, address: key.address, mac, state })
    });
    HostFacts {
        ports: ports.collect(),
        local: state.addresses.keys().map(|key| key.address).collect::<BTreeSet<_>>().into_iter().collect(),
        broadcast: broadcasts(state).into_iter().collect(),
        routes: routes(state, &port_of),
        neighbours: neighbours.collect(),
    }
}

/// The directed broadcasts of the host's own prefixes (RFC 919).
fn broadcasts(state: &State) -> BTreeSet<IpAddr> {
    state.addresses.values().filter_map(|address| address.broadcast.map(IpAddr::V4)).collect()
}

fn routes(state: &State, port_of: &impl Fn(u32) -> Option<u16>) -> Vec<RouteFacts> {
    let mut facts = Vec::new();
    for (key, routes) in &state.routes {
        // Routes by source or TOS need policy routing, which is not followed.
        if key.table == model::table::LOCAL || key.source.is_some() || key.tos != 0 {
            continue;
        }
        let Some((kind, first)) = routes.first().and_then(|route| Some((kind(route.kind)?, route))) else {
            continue;
        };
        // IPv6 lists the paths of a multipath route one by one; of equal IPv4 routes the kernel uses the first.
        let used = if key.prefix.address.is_ipv4() { 1 } else { routes.len() };
        let hops = routes.iter().take(used).flat_map(|route| &route.next_hops);
        let hops = hops.filter(|hop| !hop.dead && !hop.encapsulates);
        let next_hops = hops.map(|hop| NextHopFacts {
            port: hop.ifindex.and_then(port_of),
            gateway: hop.gateway,
            weight: hop.weight,
        });
        facts.push(RouteFacts {
            table: key.table,
            prefix: (key.prefix.address, key.prefix.len),
            kind,
            metric: key.metric,
            protocol: protocol(first.protocol),
            next_hops: next_hops.collect(),
        });
    }
    facts
}

fn kind(kind: model::RouteKind) -> Option<RouteKind> {
    match kind {
        model::RouteKind::Unicast => Some(RouteKind::Unicast),
        model::RouteKind::Blackhole => Some(RouteKind::Blackhole),
        model::RouteKind::Unreachable => Some(RouteKind::Unreachable),
        model::RouteKind::Prohibit => Some(RouteKind::Prohibit),
        model::RouteKind::Throw => Some(RouteKind::Throw),
        model::RouteKind::Local
        | model::RouteKind::Broadcast
        | model::RouteKind::Anycast
        | model::RouteKind::Multicast
        | model::RouteKind::Other(_) => None,
    }
}

fn protocol(protocol: model::RouteProtocol) -> String {
    let known = [
        (model::RouteProtocol::REDIRECT, "redirect"),
        (model::RouteProtocol::KERNEL, "kernel"),
        (model::RouteProtocol::BOOT, "boot"),
        (model::RouteProtocol::STATIC, "static"),
        (model::RouteProtocol::RA, "ra"),
        (model::RouteProtocol::BIRD, "bird"),
        (model::RouteProtocol::DHCP, "dhcp"),
        (model::RouteProtocol::BGP, "bgp"),
    ];
    let name = known.iter().find(|(number, _)| *number == protocol).map(|(_, name)| (*name).to_owned());
    name.unwrap_or_else(|| protocol.0.to_string())
}
