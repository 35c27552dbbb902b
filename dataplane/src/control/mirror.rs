//! Follows the kernel over netlink and publishes what changed: the routers' tables, and the steering program's view of the
//! host's addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};
use throughway_flow::{Generations, Slot};
use throughway_io::xsk::MAX_MTU;
use throughway_kernel::model::{self, State};
use throughway_kernel::{Changes, KernelError, Mirror, Resolver};
use throughway_packet::PortId;
use throughway_router::Tables;

use crate::assemble::{RouterSpec, router};
use crate::host::{HostFacts, NeighbourFacts, NextHopFacts, PortFacts, RouteFacts, RouteKind};
use crate::worker::Wanted;

/// How long the threads sleep at most before they look whether they shall stop.
const PATIENCE: Duration = Duration::from_millis(100);

/// How often stale neighbours are confirmed: often enough that the kernel notices within seconds who has gone.
const CONFIRM_EVERY: Duration = Duration::from_secs(5);

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
    retired: Retired,
}

/// Tables that are no longer published, until no worker reads them: freeing a large one takes long, so no worker may be the
/// last to let go of it.
#[derive(Default)]
struct Retired(Vec<Arc<Tables>>);

impl Retired {
    /// Frees what nobody reads any more. Nobody can begin to: it is not published.
    fn sweep(&mut self) {
        self.0.retain(|tables| Arc::strong_count(tables) > 1);
    }
}

/// One of our ports.
#[derive(Clone, Debug)]
struct OwnPort {
    /// Its name in the configuration.
    name: String,
    /// Its device, as the configuration calls it.
    device: String,
    /// The kernel's number of the device that our program and sockets are on. Names may change or be given to other devices
    /// while we run; this stays.
    ifindex: u32,
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
    ports: Vec<OwnPort>,
    facts: Arc<HostFacts>,
}

/// Reads the kernel's state for the ports `names` (name in the configuration, device).
pub fn open(names: Vec<(String, String)>) -> Result<Opened, KernelError> {
    let mirror = Mirror::open()?;
    let ports = names.into_iter().map(|(name, device)| {
        let ifindex = mirror.state().link_named(&device).map_or(0, |link| link.index);
        OwnPort { name, device, ifindex }
    });
    let ports: Vec<_> = ports.collect();
    let facts = Arc::new(facts(mirror.state(), &ports, None));
    Ok(Opened { mirror, ports, facts })
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
        generations: Arc<Generations>,
        mut watcher: impl Watcher + 'static,
    ) -> Result<MirrorHandle, FollowError> {
        let Opened { mut mirror, ports, facts } = self;
        let resolver = Resolver::open()?;
        let shared = Arc::new(Mutex::new(Shared { facts, routers, retired: Retired::default() }));
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
                        lock(&shared).retired.sweep();
                        match mirror.wait(PATIENCE) {
                            Ok(changes) if changes.is_empty() => {}
                            Ok(changes) => {
                                if changes.overrun {
                                    overruns.fetch_add(1, Ordering::Relaxed);
                                }
                                apply(&mirror, &ports, &changes, &shared, &generations, &mut watcher);
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

    /// Whether its threads still run.
    pub fn is_alive(&self) -> bool {
        !self.threads.iter().any(JoinHandle::is_finished)
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
    ports: &[OwnPort],
    changes: &Changes,
    shared: &Mutex<Shared>,
    generations: &Generations,
    watcher: &mut impl Watcher,
) {
    let routes_changed = changes.overrun
        || !(changes.routes.is_empty()
            && changes.links.is_empty()
            && changes.addresses.is_empty()
            && changes.nexthops.is_empty());
    let known = Arc::clone(&lock(shared).facts);
    // A full table is large: it is copied only when it has changed.
    let routes = (!routes_changed).then(|| Arc::clone(&known.routes));
    let facts = Arc::new(facts(mirror.state(), ports, routes));
    tell(&known, &facts, mirror.state(), changes);
    let changed = changed_slots(&known, &facts, changes);
    // Who replaces the routers from here on builds them from the new facts, so nothing is missed; and the tables are built
    // without holding up anybody.
    let routers = {
        let mut shared = lock(shared);
        shared.facts = Arc::clone(&facts);
        shared.routers.clone()
    };
    let replaced = routers.iter().map(|spec| {
        let fib = (!routes_changed).then(|| Arc::clone(&spec.tables.read().fib));
        spec.tables.publish(router::tables(&facts, &spec.config, fib))
    });
    let replaced: Vec<_> = replaced.collect();
    // After the tables: who sees the new generation sees them too.
    if !changed.is_empty() {
        generations.bump(changed);
    }
    lock(shared).retired.0.extend(replaced);
    let addresses_or_links = changes.overrun || !(changes.addresses.is_empty() && changes.links.is_empty());
    watcher.host_changed(&facts, addresses_or_links);
}

/// What the flow caches must not take for true any more.
fn changed_slots(old: &HostFacts, new: &HostFacts, changes: &Changes) -> Vec<Slot> {
    // Ports and addresses are in everything that a router says; they seldom change.
    if changes.overrun
        || old.ports != new.ports
        || old.local != new.local
        || old.broadcast != new.broadcast
        || !changes.nexthops.is_empty()
    {
        return vec![Slot::CONFIG];
    }
    let routes = changes.routes.iter().flat_map(|key| Slot::of_prefix(key.prefix.address, key.prefix.len));
    // The kernel's states of a neighbour come and go; only where it is matters.
    let places = |facts: &HostFacts| -> BTreeSet<(u16, IpAddr, [u8; 6])> {
        facts.neighbours.iter().map(|neighbour| (neighbour.port, neighbour.address, neighbour.mac)).collect()
    };
    let (before, after) = (places(old), places(new));
    let moved = before.symmetric_difference(&after);
    routes.chain(moved.map(|(port, address, _)| Slot::neighbour(PortId(*port), *address))).collect()
}

/// Says what happened to our ports.
fn tell(old: &HostFacts, new: &HostFacts, state: &State, changes: &Changes) {
    for (old, new) in old.ports.iter().zip(&new.ports) {
        let (interface, device) = (&new.name, &new.device);
        if old.ifindex != 0 && new.ifindex == 0 {
            tracing::error!(%interface, %device, "the device has gone: the interface is down until the service is started again");
            continue;
        }
        if new.ifindex == 0
            && state.link_named(device).is_some_and(|link| changes.links.contains(&link.index))
        {
            // It has no program: its packets go to the kernel, whatever `on-failure` says.
            tracing::error!(%interface, %device, "a new device has this name, and it is not ours: start the service again to use it");
        }
        if old.up != new.up {
            tracing::info!(%interface, %device, "the interface is {}", if new.up { "up" } else { "down" });
        }
        if old.mac != new.mac {
            tracing::info!(%interface, %device, mac = %crate::host::mac_to_text(new.mac), "the interface has a new MAC address");
        }
        if old.mtu != new.mtu {
            tracing::info!(%interface, %device, mtu = new.mtu, "the interface has a new MTU");
            if new.mtu > MAX_MTU {
                tracing::error!(%interface, %device, mtu = new.mtu, "packets above {MAX_MTU} bytes will be lost: they do not fit into one buffer");
            }
        }
    }
}

fn resolve(mut resolver: Resolver, wanted: &Receiver<Wanted>, shared: &Mutex<Shared>, stop: &AtomicBool) {
    let mut confirmed = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if confirmed.elapsed() >= CONFIRM_EVERY {
            confirmed = Instant::now();
            let facts = Arc::clone(&lock(shared).facts);
            for (ifindex, address) in stale(&facts) {
                if let Err(error) = resolver.confirm(ifindex, address) {
                    tracing::debug!(%error, %address, "the kernel would not confirm a neighbour");
                }
            }
        }
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

/// The neighbours that have to be confirmed, by the kernel's number of their device.
///
/// The kernel sees nothing of what is forwarded to them, so without being told it would never ask whether they are still
/// there, and packets would go to a MAC address that nobody has any more.
fn stale(facts: &HostFacts) -> impl Iterator<Item = (u32, IpAddr)> {
    let stale = facts.neighbours.iter().filter(|neighbour| neighbour.state == "stale");
    stale.filter_map(|neighbour| {
        let port = facts.ports.get(usize::from(neighbour.port))?;
        Some((port.ifindex, neighbour.address))
    })
}

/// The kernel's state as the data plane sees it.
///
/// `known` are the routes, where they have not changed.
fn facts(state: &State, own: &[OwnPort], known: Option<Arc<Vec<RouteFacts>>>) -> HostFacts {
    let links: Vec<Option<&model::Link>> = own.iter().map(|port| state.links.get(&port.ifindex)).collect();
    let port_of = |ifindex: u32| -> Option<u16> {
        let position = links.iter().position(|link| link.is_some_and(|link| link.index == ifindex));
        position.map(|index| index as u16)
    };
    let ports = own.iter().zip(&links).map(|(own, link)| {
        // A tentative address is no source yet (RFC 4862, section 5.4).
        let addresses = |ifindex| {
            let ready = state.addresses_of(ifindex).filter(|(_, address)| !address.tentative);
            ready.map(|(key, _)| (key.address, key.prefix_len)).collect()
        };
        PortFacts {
            name: own.name.clone(),
            device: own.device.clone(),
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
        routes: known.unwrap_or_else(|| Arc::new(routes(state, &port_of))),
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
        let hops = hops.filter(|hop| !hop.dead);
        let next_hops = hops.map(|hop| NextHopFacts {
            // What the kernel would encapsulate is not for us to send.
            port: hop.ifindex.filter(|_| !hop.encapsulates).and_then(port_of),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> model::Link {
        model::Link { index, name: name.to_owned(), mac: Some([2, 0, 0, 0, 0, 1]), ..model::Link::default() }
    }

    fn own() -> [OwnPort; 1] {
        [OwnPort { name: "wan".to_owned(), device: "eth1".to_owned(), ifindex: 4 }]
    }

    #[test]
    fn a_device_that_took_the_name_of_ours_is_not_ours() {
        let mut state = State::default();
        state.links.insert(9, link(9, "eth1"));
        let port = facts(&state, &own(), None).ports.remove(0);
        assert_eq!((port.ifindex, port.up), (0, false));
        // And ours stays ours under another name.
        state.links.insert(4, link(4, "renamed"));
        assert_eq!(facts(&state, &own(), None).ports[0].ifindex, 4);
    }

    #[test]
    fn tentative_addresses_are_no_sources() {
        let mut state = State::default();
        state.links.insert(4, link(4, "eth1"));
        for (last, tentative) in [(1, false), (2, true)] {
            let key = model::AddressKey {
                ifindex: 4,
                address: format!("fd00::{last}").parse().unwrap(),
                prefix_len: 64,
                peer: None,
            };
            state.addresses.insert(key, model::Address { tentative, ..model::Address::default() });
        }
        let facts = facts(&state, &own(), None);
        assert_eq!(facts.ports[0].addresses, [("fd00::1".parse().unwrap(), 64)]);
        assert_eq!(facts.local.len(), 2, "what is sent to it is the kernel's all the same");
    }

    #[test]
    fn stale_neighbours_are_confirmed_and_no_others() {
        let mut facts = HostFacts::invented([("wan".to_owned(), "eth1".to_owned())]);
        facts.ports[0].ifindex = 4;
        for (last, state) in [(1, "reachable"), (2, "stale"), (3, "permanent")] {
            let address = IpAddr::from([192, 0, 2, last]);
            facts.neighbours.push(NeighbourFacts { port: 0, address, mac: [2; 6], state: state.to_owned() });
        }
        assert_eq!(stale(&facts).collect::<Vec<_>>(), [(4, IpAddr::from([192, 0, 2, 2]))]);
    }

    #[test]
    fn a_worker_is_never_the_last_to_let_go_of_tables() {
        let tables = throughway_vnf::Snapshot::new(Tables::default());
        let reading = tables.read();
        let mut retired = Retired::default();
        retired.0.push(tables.publish(Tables::default()));
        retired.sweep();
        assert_eq!(retired.0.len(), 1, "somebody reads it");
        drop(reading);
        assert_eq!(Arc::strong_count(&retired.0[0]), 1);
        retired.sweep();
        assert!(retired.0.is_empty());
    }
}
