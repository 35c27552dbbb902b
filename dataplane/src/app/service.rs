//! The running service: everything that must be started, reloaded and stopped together.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use throughway_config::Config;
use throughway_flow::{Generations, Slot};
use throughway_packet::PortId;
use throughway_xdp::{Attachment, Recipient, Steering};

use super::devices::Device;
use super::early::{Early, EarlyView};
use super::fastpath::{self, Pulse};
use super::napi::NapiThreads;
use super::remembered::Remembered;
use super::restart::Report;
use super::steered::Steered;
use crate::assemble::balancer::Director;
use crate::assemble::early::Plan;
use crate::assemble::nat::NatSpec;
use crate::assemble::state::States;
use crate::assemble::{Blueprint, ChainFigures, Figures, FunctionFigures, RouterFigures};
use crate::control::events::Writer;
use crate::control::health::HealthHandle;
use crate::control::mirror::{self, MirrorHandle, Watcher};
use crate::control::own::Keeper;
use crate::host::HostFacts;
use crate::stats::WorkerStats;
use crate::worker::inspect::{FlowFilter, Found};
use crate::worker::live::{self, Handle};
use crate::worker::progress::{Finding, Progress};

pub mod captures;
mod start;
mod stop;

/// An interface as it runs.
#[derive(Clone, Debug)]
pub struct InterfaceView {
    /// Its name in the configuration.
    pub name: String,
    /// Its device.
    pub device: String,
    /// The granted XDP mode: `native` or `generic`.
    pub xdp: String,
    /// Why it is not native although native was tried.
    pub xdp_fallback: Option<String>,
    /// Whether all its sockets were granted zero copy: `yes`, `no` or `partly`.
    pub zero_copy: String,
    /// Why it is not zero copy although that was tried.
    pub zero_copy_fallback: Option<String>,
    /// How many queues it has.
    pub queues: u32,
    /// What happens to its packets when the service dies.
    pub on_failure: String,
    /// Whether the XDP program executes flows that come from it: `auto`, `eager` or `off`.
    pub fast_path: String,
    /// Why it does not although it was to.
    pub fast_path_fallback: Option<String>,
}

/// A worker as it runs.
#[derive(Clone, Debug)]
pub struct WorkerView {
    /// Its number, from zero.
    pub number: usize,
    /// The core it is pinned to.
    pub core: u16,
    /// What it counts.
    pub stats: Arc<WorkerStats>,
}

/// How often the configuration was reloaded.
#[derive(Clone, Copy, Debug)]
pub struct Reloads {
    /// With success.
    pub applied: u64,
    /// In vain.
    pub refused: u64,
    /// Whether the last attempt succeeded.
    pub last_applied: bool,
}

/// What a reload did.
#[derive(Clone, Debug, Default)]
pub struct Reloaded {
    /// What changed, a line each.
    pub changes: Vec<String>,
    /// What is odd about the new configuration.
    pub warnings: Vec<String>,
}

/// The running service.
pub struct Service {
    path: PathBuf,
    config: Config,
    interfaces: Vec<InterfaceView>,
    devices: Vec<Device>,
    workers: Vec<WorkerView>,
    handles: Vec<Handle>,
    progress: Vec<Progress>,
    figures: Figures,
    generations: Arc<Generations>,
    states: Arc<States>,
    /// Writes what functions tell, until the service is dropped.
    _events: Writer,
    /// Leaves the host what is its own, until the service is dropped.
    _own: Keeper,
    health: HealthHandle,
    mirror: MirrorHandle,
    steering: Arc<Mutex<Steering>>,
    steered: Arc<Steered>,
    early: Early,
    attachments: Vec<Attachment>,
    pulse: Option<Pulse>,
    remembered: Remembered,
    reloads: Reloads,
    napi: NapiThreads,
    restored: Report,
    captures: captures::Captures,
    /// Everything is given back, or left to the next instance.
    stopped: bool,
}

impl Service {
    /// Reads the configuration file again: checked whole, built beside the old one, put into force at a batch boundary of every
    /// worker. On any error nothing changes, and the error says why.
    pub fn reload(&mut self) -> Result<Reloaded, String> {
        let result = self.try_reload();
        match &result {
            Ok(done) => {
                self.reloads.applied += 1;
                for warning in &done.warnings {
                    tracing::warn!("{warning}");
                }
                for change in &done.changes {
                    tracing::info!("reloaded: {change}");
                }
            }
            Err(error) => {
                self.reloads.refused += 1;
                tracing::error!("the configuration was not reloaded:\n{error}");
            }
        }
        self.reloads.last_applied = result.is_ok();
        result
    }

    fn try_reload(&mut self) -> Result<Reloaded, String> {
        // Asked for just before the stop, which went first.
        if self.stopped {
            return Err("the service has stopped".to_owned());
        }
        let (config, warnings) = Config::load(&self.path).map_err(|errors| errors.to_string())?;
        let changes = Config::changes(&self.config, &config);
        let restart: Vec<String> = changes
            .iter()
            .filter(|change| change.needs_restart)
            .map(|change| format!("  {change}"))
            .collect();
        if !restart.is_empty() {
            return Err(format!("these changes need a restart of the service:\n{}", restart.join("\n")));
        }
        let plan = Plan::of(&config).map_err(|error| error.to_string())?;
        // Before the routers: from their exchange on until the workers have the new programs, nobody follows the old tables.
        self.early.apply(&plan).map_err(|error| error.to_string())?;
        let blueprint = match self.exchange(&config) {
            Ok(blueprint) => blueprint,
            Err(error) => {
                match Plan::of(&self.config).map(|plan| self.early.apply(&plan)) {
                    Ok(Ok(())) => {}
                    result => tracing::error!(?result, "the old early sets could not be put back"),
                }
                return Err(error);
            }
        };
        blueprint.publish(&self.states);
        // What the old chains did to a flow is not done any more from here on.
        self.generations.bump([Slot::CONFIG]);
        self.figures.retain(&config);
        self.states.retain(&config);
        self.claim();
        self.tell_steered();
        self.config = config;
        Ok(Reloaded {
            changes: changes.iter().map(ToString::to_string).collect(),
            warnings: warnings.iter().map(ToString::to_string).collect(),
        })
    }

    /// Builds what `config` says and gives it to the workers; on an error they have what they had.
    fn exchange(&mut self, config: &Config) -> Result<Blueprint, String> {
        let (figures, states) = (&mut self.figures, &self.states);
        let workers = self.workers.len();
        let followed = self.mirror.routers();
        let (blueprint, programs) = self.mirror.replace_routers(|ground| {
            let blueprint = Blueprint::on(config, ground, states).map_err(|error| error.to_string())?;
            let programs: Vec<_> = (0..workers).map(|worker| blueprint.program(worker, figures)).collect();
            Ok::<_, String>((blueprint.routers(), (blueprint, programs)))
        })?;
        if let Err(error) = self.install(programs) {
            // `install` has put the old chains back; their tables are brought up to date and followed again.
            self.mirror.follow_again(followed);
            self.generations.bump([Slot::CONFIG]);
            return Err(error.to_string());
        }
        Ok(blueprint)
    }

    /// Tells the steering program which of the host's addresses functions claim.
    fn claim(&self) {
        let mut steering = self.steering.lock().unwrap_or_else(PoisonError::into_inner);
        let facts = self.mirror.facts();
        if let Err(error) = steering.local_addresses().replace(local(&facts, &self.states)) {
            tracing::error!(%error, "the XDP program could not be told of the functions' addresses");
        }
    }

    /// Tells the steering program of the interfaces, with what a reload changes of them.
    fn tell_steered(&self) {
        let mut steering = self.steering.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.steered.tell(&self.mirror.facts(), &mut steering) {
            tracing::error!(%error, "the XDP program could not be told of the interfaces");
        }
    }

    /// The sets that are dropped early.
    pub fn early(&self) -> Vec<EarlyView> {
        self.early.views(&self.config)
    }

    /// The load balancers, by name.
    pub fn balancers(&self) -> Vec<(String, Arc<Director>)> {
        self.states.balancers()
    }

    /// Gives every worker its program. When one does not take it, those that did get their old one back.
    fn install(&self, programs: Vec<crate::chain::Program>) -> Result<(), live::WorkerError> {
        // What was replaced is freed here, off the packets' way.
        let mut replaced = Vec::with_capacity(programs.len());
        for (number, (handle, program)) in self.handles.iter().zip(programs).enumerate() {
            match handle.install(number, program) {
                Ok(old) => replaced.push(old),
                Err(error) => {
                    for (number, (handle, old)) in self.handles.iter().zip(replaced).enumerate() {
                        if let Err(error) = handle.install(number, old) {
                            tracing::error!(%error, "the old chains could not be put back");
                        }
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Whether the kernel is followed, and every worker runs and makes rounds; the error names what does not. To be asked
    /// regularly.
    pub fn check(&mut self) -> Result<(), String> {
        if !self.mirror.is_alive() {
            return Err("the thread that follows the kernel has ended unexpectedly".to_owned());
        }
        self.napi.look(&self.devices, Instant::now());
        for ((view, handle), progress) in self.workers.iter().zip(&self.handles).zip(&mut self.progress) {
            if !handle.is_alive() {
                return Err(format!("worker {} has ended unexpectedly", view.number));
            }
            match progress.check(view.stats.rounds.get(), handle.thread(), Instant::now()) {
                Finding::Runs => {}
                Finding::Starves => {
                    tracing::warn!(
                        worker = view.number,
                        core = view.core,
                        "the worker gets no processor time: others have its core"
                    );
                }
                Finding::RunsAgain(after) => {
                    tracing::warn!(
                        worker = view.number,
                        core = view.core,
                        ?after,
                        "the worker has its core again"
                    );
                }
                Finding::Hangs => return Err(format!("worker {} makes no progress", view.number)),
            }
        }
        Ok(())
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The interfaces, in the order of the configuration.
    pub fn interfaces(&self) -> &[InterfaceView] {
        &self.interfaces
    }

    /// The first interface on a device: where figures of the device are shown.
    pub fn interface_of_device(&self, device: PortId) -> Option<&InterfaceView> {
        let position = self.config.device_numbers().iter().position(|number| *number == device.index());
        self.interfaces.get(position?)
    }

    /// The workers, by number.
    pub fn workers(&self) -> &[WorkerView] {
        &self.workers
    }

    /// The chains' figures.
    pub fn chain_stats(&self) -> Vec<ChainFigures> {
        self.figures.chains()
    }

    /// The functions' figures.
    pub fn function_stats(&self) -> Vec<FunctionFigures> {
        self.figures.functions()
    }

    /// The firewalls, by name.
    pub fn firewalls(&self) -> Vec<(String, Arc<throughway_firewall::Shared>)> {
        self.states.firewalls()
    }

    /// The NATs in force, by name.
    pub fn nats(&self) -> Vec<(String, NatSpec)> {
        self.states.nats()
    }

    /// How many events of functions were lost because nobody could write them fast enough.
    pub fn lost_events(&self) -> u64 {
        self.states.events().lost()
    }

    /// At most `most` flows of every worker's cache that `filter` accepts, by worker.
    pub fn flows(
        &self,
        filter: FlowFilter,
        most: usize,
    ) -> Result<Vec<(usize, Vec<Found>)>, live::WorkerError> {
        let workers = self.handles.iter().enumerate();
        workers.map(|(number, handle)| Ok((number, handle.flows(number, filter, most)?))).collect()
    }

    /// By interface: why known flows do not leave by it in the driver; empty without a fast path.
    pub fn unfit(&self) -> Vec<fastpath::Unfit> {
        self.pulse.as_ref().map(Pulse::unfit).unwrap_or_default()
    }

    /// What came of the sessions of the instance before.
    pub fn restored(&self) -> &Report {
        &self.restored
    }

    /// How often the configuration was reloaded.
    pub fn reloads(&self) -> Reloads {
        self.reloads
    }

    /// What was counted of the kernel mirror and the routers' tables.
    pub fn kernel_figures(&self) -> mirror::Figures {
        self.mirror.figures()
    }

    /// The routers' figures.
    pub fn router_stats(&self) -> Vec<RouterFigures> {
        self.figures.routers()
    }

    /// The kernel mirror, to look things up in.
    pub fn mirror(&self) -> &MirrorHandle {
        &self.mirror
    }

    /// The host as it is now, without its routes.
    pub fn host(&self) -> Arc<HostFacts> {
        self.mirror.facts()
    }

    /// What the XDP program decided: interface, label of the reason, frames.
    pub fn steered(&self) -> Vec<(String, &'static str, u64)> {
        let steering = self.steering.lock().unwrap_or_else(PoisonError::into_inner);
        let counters = steering.counters().unwrap_or_else(|error| {
            tracing::warn!(%error, "the XDP program's counters cannot be read");
            Vec::new()
        });
        let mut all = Vec::new();
        for counts in counters {
            let interface = counts.interface.and_then(|number| self.interfaces.get(number as usize));
            let name = interface.map_or_else(|| "(not ours)".to_owned(), |interface| interface.name.clone());
            all.extend(counts.iter().map(|(reason, count)| (name.clone(), reason.label(), count)));
        }
        all
    }
}

/// What the kernel receives itself: the host's own addresses and directed broadcasts. Of those that a function claims, only
/// what a socket of the host owns.
fn local(facts: &HostFacts, states: &States) -> impl Iterator<Item = (std::net::IpAddr, Recipient)> {
    let claims = states.claims(&facts.local);
    facts.local.iter().chain(&facts.broadcast).map(move |address| {
        let claimed = claims.contains(address);
        (*address, if claimed { Recipient::Function } else { Recipient::Kernel })
    })
}

/// Keeps the steering program's maps true to the host.
struct SteerWatcher {
    steering: Arc<Mutex<Steering>>,
    steered: Arc<Steered>,
    states: Arc<States>,
    generations: Arc<Generations>,
}

impl Watcher for SteerWatcher {
    fn host_changed(&mut self, facts: &HostFacts, addresses_or_links: bool) {
        if !addresses_or_links {
            return;
        }
        let nats = self.states.nats();
        if nats.iter().filter(|(_, nat)| nat.host_changed(facts)).count() > 0 {
            self.generations.bump([Slot::CONFIG]);
        }
        let mut steering = self.steering.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = steering.local_addresses().replace(local(facts, &self.states)) {
            tracing::error!(%error, "the XDP program could not be told of the host's addresses");
        }
        if let Err(error) = self.steered.tell(facts, &mut steering) {
            tracing::error!(%error, "the XDP program could not be told of the interfaces");
        }
    }
}
