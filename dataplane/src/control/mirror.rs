//! Follows the kernel over netlink: what changed goes to the routers' tables at once, prefix by prefix, and to the steering
//! program's view of the host's addresses.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::Receiver;
use throughway_config::Interface;
use throughway_flow::{Generations, Slot};
use throughway_kernel::model::{RouteKind, State};
use throughway_kernel::{Changes, KernelError, Mirror, MirrorStats, Resolver, Waiter};
use throughway_packet::{PortId, Prefix};
use throughway_router::{Route, Tables};

use super::facts::{OwnPort, facts, tell, with_ports};
use super::neighbours::{self, Silent};
use crate::assemble::{Ground, RouterSpec, router};
use crate::host::HostFacts;
use crate::rib::{Kernel, PortMap, RibStats, candidate};
use crate::stats::WorkerStats;
use crate::worker::Wanted;

/// How long the threads sleep at most before they look whether they shall stop.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long the thread leaves the state to others who wait for it.
const YIELD: Duration = Duration::from_micros(200);

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
    /// New facts (without routes); `addresses_or_links` says whether local addresses, MAC addresses or link states may have
    /// changed.
    fn host_changed(&mut self, facts: &HostFacts, addresses_or_links: bool);
}

/// What was counted, for who asks.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// What the mirror has been through.
    pub mirror: MirrorStats,
    /// Routes in all tables of the kernel.
    pub routes: usize,
    /// Memory of the mirrored routes, in bytes, at most.
    pub memory: usize,
    /// Neighbours that are known not to answer.
    pub silent: usize,
    /// Neighbours that the kernel was asked to resolve.
    pub resolutions: u64,
    /// Neighbours that the kernel was told are in use.
    pub confirmations: u64,
    /// By router.
    pub routers: Vec<RouterFigures>,
}

/// What was counted of one router's table.
#[derive(Clone, Debug, Default)]
pub struct RouterFigures {
    /// The router.
    pub name: String,
    /// The control side.
    pub rib: RibStats,
    /// Prefixes, IPv4 and IPv6.
    pub prefixes: [usize; 2],
    /// Memory in bytes: what packets are looked up in, and the control side.
    pub memory: [usize; 2],
}

/// What only one thread at a time works on.
struct Following {
    mirror: Mirror,
    own: Vec<OwnPort>,
    ports: PortMap,
    facts: Arc<HostFacts>,
    silent: Silent,
    routers: Vec<RouterSpec>,
    retired: Retired,
}

/// What the threads share.
pub(super) struct Shared {
    following: Mutex<Following>,
    /// So many wait for it, beside the thread that follows the kernel.
    waiting: AtomicUsize,
    facts: Mutex<Arc<HostFacts>>,
    figures: Mutex<Figures>,
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

/// The running mirror.
pub struct MirrorHandle {
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// The mirror before it runs: the first facts are there, nothing is published yet.
pub struct Opened {
    mirror: Mirror,
    own: Vec<OwnPort>,
    ports: PortMap,
    facts: Arc<HostFacts>,
}

/// Reads the kernel's state for the interfaces of a configuration.
pub fn open(interfaces: &[Interface]) -> Result<Opened, KernelError> {
    let mirror = Mirror::open()?;
    let own = interfaces.iter().map(|interface| {
        let (name, device) = (interface.name.to_string(), interface.device.to_string());
        let ifindex = mirror.state().link_named(&device).map_or(0, |link| link.index);
        OwnPort { name, device, ifindex, vlan: interface.vlan.clone() }
    });
    let own: Vec<_> = own.collect();
    let facts = Arc::new(with_ports(facts(mirror.state(), &own, &Silent::default())));
    Ok(Opened { mirror, own, ports: PortMap::of(&facts), facts })
}

impl Opened {
    /// The host as it was found, without routes.
    pub fn facts(&self) -> &Arc<HostFacts> {
        &self.facts
    }

    /// The kernel's whole state as it was found.
    pub fn state(&self) -> &State {
        self.mirror.state()
    }

    /// What routers are built on.
    pub fn ground(&self) -> Ground<'_> {
        let kernel = Kernel { routes: &self.mirror.state().routes, ports: &self.ports };
        Ground { facts: &self.facts, kernel, running: &[] }
    }

    /// Starts to follow the kernel, to resolve the neighbours that workers ask for, and to have those confirmed that they
    /// use.
    pub fn follow(
        self,
        routers: Vec<RouterSpec>,
        wanted: Receiver<Wanted>,
        workers: Vec<Arc<WorkerStats>>,
        generations: Arc<Generations>,
        mut watcher: impl Watcher + 'static,
    ) -> Result<MirrorHandle, FollowError> {
        let Opened { mirror, own, ports, facts } = self;
        let resolver = Resolver::open()?;
        let waiter = mirror.waiter()?;
        let following = Following {
            mirror,
            own,
            ports,
            facts: Arc::clone(&facts),
            silent: Silent::default(),
            routers,
            retired: Retired::default(),
        };
        let figures = Mutex::new(following.figures(&Figures::default()));
        let shared = Arc::new(Shared {
            following: Mutex::new(following),
            waiting: AtomicUsize::new(0),
            facts: Mutex::new(facts),
            figures,
        });
        let stop = Arc::new(AtomicBool::new(false));
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(FollowError::Thread)
        };
        let following = {
            let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
            let body = move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Err(error) = shared.step(&waiter, &generations, &mut watcher) {
                        tracing::error!(%error, "the kernel's state cannot be followed; trying again");
                        std::thread::sleep(PATIENCE);
                    }
                }
            };
            spawn("mirror", Box::new(body))?
        };
        let resolving = {
            let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
            let body = move || neighbours::resolve(resolver, &wanted, &shared, &workers, &stop);
            spawn("resolver", Box::new(body))?
        };
        Ok(MirrorHandle { shared, stop, threads: vec![following, resolving] })
    }
}

/// What somebody who asks may look at; nothing changes meanwhile.
pub struct View<'a> {
    following: MutexGuard<'a, Following>,
}

impl View<'_> {
    /// The kernel's whole state.
    pub fn state(&self) -> &State {
        self.following.mirror.state()
    }

    /// What routes lead to.
    pub fn kernel(&self) -> Kernel<'_> {
        self.following.kernel()
    }

    /// The host, without its routes.
    pub fn facts(&self) -> &HostFacts {
        &self.following.facts
    }

    /// The routers.
    pub fn routers(&self) -> &[RouterSpec] {
        &self.following.routers
    }
}

impl MirrorHandle {
    /// The host as it is now, without its routes.
    pub fn facts(&self) -> Arc<HostFacts> {
        self.shared.facts()
    }

    /// The host as it is now, with all its routes.
    pub fn whole_facts(&self) -> HostFacts {
        let view = self.view();
        let routes = Arc::new(crate::rib::facts::facts(view.kernel()));
        HostFacts { routes, ..view.facts().clone() }
    }

    /// The state as it is now. Nothing is followed while it is held.
    pub fn view(&self) -> View<'_> {
        View { following: self.shared.following() }
    }

    /// Follows other routers from now on. `make` builds them from the facts of this very moment, so that no change is missed.
    ///
    /// When `make` fails, the old ones are followed on.
    pub fn replace_routers<T, E>(
        &self,
        make: impl FnOnce(Ground<'_>) -> Result<(Vec<RouterSpec>, T), E>,
    ) -> Result<T, E> {
        let mut following = self.shared.following();
        let ground =
            Ground { facts: &following.facts, kernel: following.kernel(), running: &following.routers };
        let (routers, rest) = make(ground)?;
        following.routers = routers;
        Ok(rest)
    }

    /// Follows routers again that were replaced meanwhile: what they have missed is made up for.
    pub fn follow_again(&self, routers: Vec<RouterSpec>) {
        let mut following = self.shared.following();
        following.routers = routers;
        let kernel = following.kernel();
        for spec in &following.routers {
            let mut rib = lock(&spec.rib);
            rib.host_changed(&following.facts, kernel);
            rib.update_all(kernel);
            let fib = Arc::clone(rib.fib());
            drop(rib);
            spec.tables.publish(router::tables(&following.facts, &spec.config, Some(fib)));
        }
    }

    /// The routers that are followed now.
    pub fn routers(&self) -> Vec<RouterSpec> {
        self.shared.following().routers.clone()
    }

    /// What was counted so far. Waits for nobody.
    pub fn figures(&self) -> Figures {
        lock(&self.shared.figures).clone()
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

pub(super) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn facts(&self) -> Arc<HostFacts> {
        Arc::clone(&lock(&self.facts))
    }

    pub(super) fn count(&self, count: impl FnOnce(&mut Figures)) {
        count(&mut lock(&self.figures));
    }

    /// The state, for who asks. The thread that follows steps back: a lock alone would let a flood of news keep others out.
    fn following(&self) -> MutexGuard<'_, Following> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let following = lock(&self.following);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        following
    }

    /// Waits for news, a while, and puts it into force.
    fn step(
        &self,
        waiter: &Waiter,
        generations: &Generations,
        watcher: &mut impl Watcher,
    ) -> Result<(), KernelError> {
        let pending = lock(&self.following).mirror.is_pending();
        if !pending {
            waiter.wait(PATIENCE)?;
        }
        while self.waiting.load(Ordering::Relaxed) > 0 {
            std::thread::sleep(YIELD);
        }
        let mut following = lock(&self.following);
        following.retired.sweep();
        let result = following.mirror.wait(Duration::ZERO);
        let (changes, error) = match result {
            Ok(changes) => (changes, None),
            Err(error) => (Changes::default(), Some(error)),
        };
        let now = Instant::now();
        let forgotten = following.silent.expire(now);
        if !changes.is_empty() || changes.overrun || forgotten {
            let addresses_or_links =
                changes.overrun || !(changes.addresses.is_empty() && changes.links.is_empty());
            following.apply(&changes, now, generations);
            let facts = Arc::clone(&following.facts);
            let figures = following.figures(&lock(&self.figures));
            drop(following);
            *lock(&self.facts) = Arc::clone(&facts);
            self.count(|known| {
                *known =
                    Figures { resolutions: known.resolutions, confirmations: known.confirmations, ..figures };
            });
            watcher.host_changed(&facts, addresses_or_links);
        }
        error.map_or(Ok(()), Err)
    }
}

impl Following {
    fn kernel(&self) -> Kernel<'_> {
        Kernel { routes: &self.mirror.state().routes, ports: &self.ports }
    }

    /// Puts changes into force: what concerns all prefixes at once first, then prefix by prefix.
    fn apply(&mut self, changes: &Changes, now: Instant, generations: &Generations) {
        let old = Arc::clone(&self.facts);
        let old_ports = self.ports.clone();
        self.host(changes, now, generations);
        let new = &self.facts;
        let state = self.mirror.state();
        let kernel = Kernel { routes: &state.routes, ports: &self.ports };
        let hosts_differ = old.ports != new.ports || old.local != new.local;
        let mut slots = Vec::new();
        for spec in &self.routers {
            let mut rib = lock(&spec.rib);
            if !old_ports.same_devices(&self.ports) {
                rib.host_changed(new, kernel);
                rib.update_all(kernel);
            } else if hosts_differ {
                rib.host_changed(new, kernel);
                if old_ports != self.ports {
                    rib.update_contested(kernel);
                }
            }
            if !changes.nexthops.is_empty() {
                rib.update_groups(|id| group(state, &self.ports, id));
            }
            let mut last = None;
            let prefixes = changes.routes.iter().filter(|key| Some(key.table) == rib.table());
            let prefixes: Vec<Prefix> = prefixes
                .filter(|key| last.replace(key.prefix) != Some(key.prefix))
                .filter_map(|key| Prefix::new(key.prefix.address, key.prefix.len).ok())
                .collect();
            rib.update(kernel, prefixes);
            slots.append(&mut rib.take_changes());
        }
        // After the tables: who sees the new generation sees them too.
        if !slots.is_empty() {
            generations.bump(slots);
        }
    }

    /// Links, addresses and neighbours: they hold for all prefixes, and are in force before any of these is looked at.
    fn host(&mut self, changes: &Changes, now: Instant, generations: &Generations) {
        let state = self.mirror.state();
        self.silent.note(state, changes, now);
        let new = with_ports(facts(state, &self.own, &self.silent));
        if new == *self.facts && !changes.overrun {
            return;
        }
        let old = std::mem::replace(&mut self.facts, Arc::new(new));
        let new = &self.facts;
        tell(&old, new, state, changes);
        self.ports = PortMap::of(new);
        let mut slots = Vec::new();
        // Ports and addresses are in everything that a router says; they seldom change.
        if changes.overrun
            || old.ports != new.ports
            || old.local != new.local
            || old.broadcast != new.broadcast
        {
            slots.push(Slot::CONFIG);
        }
        let neighbours = Arc::new(router::neighbours(new));
        for spec in &self.routers {
            let mut rib = lock(&spec.rib);
            for (number, (before, port)) in old.ports.iter().zip(&new.ports).enumerate() {
                if before.up != port.up {
                    rib.port_lost(PortId(number as u16), !port.up);
                }
            }
            slots.append(&mut rib.take_changes());
            let tables = Tables {
                ports: Arc::new(router::ports(new, &spec.config)),
                neighbours: Arc::clone(&neighbours),
                fib: Arc::clone(rib.fib()),
            };
            let before = spec.tables.publish(tables);
            // The kernel's states of a neighbour come and go; only where it is matters.
            slots.extend(changes.neighbours.iter().filter_map(|key| {
                let port = self.ports.port(key.ifindex)?;
                let moved = before.neighbours.get(port, key.address) != neighbours.get(port, key.address);
                moved.then(|| Slot::neighbour(port, key.address))
            }));
            self.retired.0.push(before);
        }
        if !slots.is_empty() {
            generations.bump(slots);
        }
    }

    fn figures(&self, known: &Figures) -> Figures {
        let routers = self.routers.iter().map(|spec| {
            let rib = lock(&spec.rib);
            let fib = rib.fib();
            RouterFigures {
                name: spec.name.clone(),
                rib: rib.stats(),
                prefixes: [fib.ipv4_prefixes(), fib.ipv6_prefixes()],
                memory: [fib.memory(), rib.memory()],
            }
        });
        let routes = &self.mirror.state().routes;
        Figures {
            mirror: self.mirror.stats(),
            routes: routes.len(),
            memory: routes.memory(),
            silent: self.silent.iter().count(),
            routers: routers.collect(),
            ..*known
        }
    }
}

/// What a nexthop object stands for.
fn group(state: &State, ports: &PortMap, id: u32) -> Option<Route> {
    match state.nexthop(id)? {
        (RouteKind::Unicast, hops) => candidate::forward(hops.iter(), ports),
        _ => Some(Route::Blackhole),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
