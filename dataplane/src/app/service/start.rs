//! Starting, in order.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crossbeam::channel::bounded;
use throughway_config::{Config, Interface, Poll, XdpMode, ZeroCopy};
use throughway_flow::Generations;
use throughway_io::xsk::{XskConfig, XskPort, ZeroCopy as XskZeroCopy};
use throughway_xdp::{AttachError, Attachment, Claim, Granted, Mode, Steering};

use super::{InterfaceView, Reloads, Service, SteerWatcher, WorkerView, local};
use crate::app::devices::{self, Device};
use crate::app::early::Early;
use crate::app::fastpath::{self, Pulse};
use crate::app::napi::NapiThreads;
use crate::app::remembered::Remembered;
use crate::app::restart;
use crate::app::steered::Steered;
use crate::assemble::early::Plan;
use crate::assemble::state::States;
use crate::assemble::{Blueprint, Figures};
use crate::cli::Failure;
use crate::control::events::{self, Writer};
use crate::control::health;
use crate::control::mirror;
use crate::control::own::Keeper;
use crate::host::HostFacts;
use crate::stats::WorkerStats;
use crate::worker::idle::Shared;
use crate::worker::live::{self, Launch};
use crate::worker::offload::{Egress, Offload};
use crate::worker::progress::Progress;
use crate::worker::{PortSettings, Setup};

/// Neighbours that may be asked for at a time; more are asked for again later.
const WANTED: usize = 1024;

impl Service {
    /// Starts everything, in order; on an error, what was started is undone.
    pub fn start(path: &Path, config: Config, mut remembered: Remembered) -> Result<Self, Failure> {
        let opened = mirror::open(&config.interfaces)?;
        let mut devices = devices::prepare(&config, opened.state(), &mut remembered)?;

        let facts = Arc::clone(opened.facts());
        // What cannot be built fails before anything is touched.
        let plan = Plan::of(&config)?;
        let fast = fastpath::wanted(&config);
        let mut steering = Steering::load_for(fast, plan.room())?;
        // Where the XDP program reads them too.
        let shared = steering.fast_generations().and_then(|words| Generations::over(words));
        let generations = Arc::new(shared.unwrap_or_default());
        let states = Arc::new(States::new(seed(), Arc::clone(&generations)));
        let blueprint = Blueprint::on(&config, opened.ground(), &states)?;
        blueprint.publish(&states);
        // Before sessions come back: what is the host's own is known, and events of blocks that do not come back have a reader.
        let own = Keeper::start(Arc::clone(&states))?;
        let names = names_of(&config);
        let events = Writer::start(Arc::clone(&states), names.clone())?;
        // While a program that the last instance has left still executes what it knows.
        let write = || events::write(&states, &names);
        let restored = restart::restore(&remembered.sessions(), &config, &states, write);
        let unused = restart::Unused::new(&restored, remembered.sessions(), &config, &states);
        steering.local_addresses().replace(local(&facts, &states))?;
        // Known to the program before it is attached: until the sockets are there, the fail mode holds. So an interface that
        // fails closed is never open, not even while the service of a dead one is taken over.
        let mut early = Early::new(steering.take_early().ok_or("the XDP program has no early sets")?);
        early.apply(&plan)?;
        let steered = Arc::new(Steered::of(&config, &devices, early.at()));
        steered.tell(&facts, &mut steering)?;
        let claims = claim(&devices, &remembered)?;
        // Where programs of the last instance are replaced, sockets come first: no packet finds the new program without them. Elsewhere
        // the program does: it may reset queues, and drivers want it for zero copy.
        let replaced: Option<Vec<Granted>> =
            config.devices().zip(&claims).map(|(interface, claim)| claim.replaces(mode(interface))).collect();
        let mut attachments = Vec::new();
        let (early_modes, claims) = match replaced {
            Some(modes) => (modes, Some(claims)),
            None => {
                attachments = attach(&steering, &config, claims, &devices, &mut remembered)?;
                (attachments.iter().map(Attachment::mode).collect(), None)
            }
        };
        let by_device = config.devices().zip(&devices).zip(early_modes).map(|((interface, device), mode)| {
            InterfaceView {
                name: interface.name.to_string(),
                device: device.name.clone(),
                xdp: mode.label().to_owned(),
                xdp_fallback: None,
                zero_copy: String::new(),
                zero_copy_fallback: None,
                queues: device.queues,
                on_failure: interface.on_failure.to_string(),
                fast_path: String::new(),
                fast_path_fallback: None,
            }
        });
        let by_device: Vec<_> = by_device.collect();
        let device_numbers = config.device_numbers();
        let mut interfaces = views(&config, &device_numbers, &by_device);
        tell_of_vlans(&config, &facts);
        let modes = fastpath::granted(&config, &interfaces);
        for ((view, granted), interface) in interfaces.iter_mut().zip(&modes).zip(&config.interfaces) {
            view.fast_path = granted.to_string();
            view.fast_path_fallback = fastpath::fallback(&config, view, interface.fast_path);
            if let Some(reason) = &view.fast_path_fallback {
                tracing::warn!(interface = %view.name, %reason, "flows of this interface stay with the workers");
            }
        }
        let egress = Arc::new(Egress::default());

        let (wanted, wanted_from) = bounded(WANTED);
        let mut figures = Figures::default();
        let mut workers = Vec::new();
        let mut handles = Vec::new();
        let mut shared = Vec::new();
        for (number, &core) in config.workers.cores.iter().enumerate() {
            let stats = WorkerStats::new(config.interfaces.len());
            let launch = Launch {
                number,
                core: core.into(),
                xsk: xsk_config(&config, &devices, number),
                busy: config.workers.poll == Poll::Busy,
                shared: Shared::default(),
                program: blueprint.program(number, &mut figures),
                own: own.sender(),
                setup: Setup {
                    settings: PortSettings::of(&config),
                    stats: Arc::clone(&stats),
                    wanted: wanted.clone(),
                    generations: Arc::clone(&generations),
                    flows: config.workers.flows as usize,
                    seed: seed(),
                },
                offload: steering
                    .take_fast_flows(number as u32)
                    .map(|table| Offload::new(table, modes.clone(), Arc::clone(&egress))),
            };
            shared.push((core, launch.shared.clone()));
            let (handle, sockets) = live::start(launch)?;
            handles.push(handle);
            for socket in &sockets {
                steering.register_socket(socket.port.0.into(), socket.queue, &socket.fd)?;
            }
            note_zero_copy(&mut interfaces, &device_numbers, &sockets);
            workers.push(WorkerView { number, core, stats });
        }
        if let Some(claims) = claims {
            attachments = attach(&steering, &config, claims, &devices, &mut remembered)?;
        }
        devices.iter_mut().for_each(Device::inherit);
        for (view, number) in interfaces.iter_mut().zip(&device_numbers) {
            let fallback = attachments.get(*number).and_then(Attachment::fallback);
            view.xdp_fallback = fallback.map(str::to_owned);
        }
        for view in
            config.devices().filter_map(|first| interfaces.iter().find(|view| view.name == *first.name))
        {
            if let Some(reason) = &view.zero_copy_fallback {
                tracing::info!(interface = %view.name, %reason, "zero copy was refused: packets are copied");
            }
        }

        let health = health::start(Arc::clone(&states))?;
        let steering = Arc::new(Mutex::new(steering));
        let pulse = fast
            .map(|_| Pulse::start(&config, &devices, Arc::clone(&steering), Arc::clone(&egress)))
            .transpose()?;
        let watcher = SteerWatcher {
            steering: Arc::clone(&steering),
            steered: Arc::clone(&steered),
            states: Arc::clone(&states),
            generations: Arc::clone(&generations),
        };
        let stats = workers.iter().map(|worker| Arc::clone(&worker.stats)).collect();
        let mirror =
            opened.follow(blueprint.routers(), wanted_from, stats, Arc::clone(&generations), watcher)?;
        let progress = vec![Progress::new(Instant::now()); workers.len()];
        let reloads = Reloads { applied: 0, refused: 0, last_applied: true };
        // A worker that never sleeps would starve a nicer thread for ever.
        let mut napi = NapiThreads::new(config.workers.poll == Poll::Adaptive, shared);
        napi.look(&devices, Instant::now());
        unused.forget();
        remembered.started();
        Ok(Service {
            path: path.to_owned(),
            config,
            interfaces,
            devices,
            workers,
            handles,
            progress,
            figures,
            generations,
            _events: events,
            _own: own,
            states,
            health,
            mirror,
            steering,
            steered,
            early,
            attachments,
            pulse,
            remembered,
            reloads,
            napi,
            restored,
            captures: super::captures::Captures::default(),
            stopped: false,
        })
    }
}

/// The way of attaching that is asked for.
fn mode(interface: &Interface) -> Mode {
    match interface.xdp {
        XdpMode::Auto => Mode::Auto,
        XdpMode::Native => Mode::Native,
        XdpMode::Generic => Mode::Generic,
    }
}

/// Makes all devices ours, in their order.
fn claim(devices: &[Device], remembered: &Remembered) -> Result<Vec<Claim>, AttachError> {
    let claim =
        |device: &Device| Claim::new(device.ifindex, &device.name, remembered.program(device.ifindex));
    devices.iter().map(claim).collect()
}

/// Attaches the program to all of them.
fn attach(
    steering: &Steering,
    config: &Config,
    claims: Vec<Claim>,
    devices: &[Device],
    remembered: &mut Remembered,
) -> Result<Vec<Attachment>, AttachError> {
    let mut attachments = Vec::with_capacity(claims.len());
    for ((interface, device), claim) in config.devices().zip(devices).zip(claims) {
        let attachment = steering.attach_claimed(claim, mode(interface))?;
        if let Err(error) = remembered.attached(device.ifindex, attachment.program_id()) {
            tracing::warn!(%error, "should this instance be killed, the next one needs CAP_SYS_ADMIN to take over");
        }
        if let Some(reason) = attachment.fallback() {
            tracing::warn!(interface = %interface.name, %reason, "native XDP was refused: running generic XDP, which is slower");
        }
        attachments.push(attachment);
    }
    Ok(attachments)
}

/// What is shown of every interface, from what its device was granted.
fn views(config: &Config, numbers: &[usize], by_device: &[InterfaceView]) -> Vec<InterfaceView> {
    let numbered = config.interfaces.iter().zip(numbers);
    let views = numbered.filter_map(|(interface, number)| {
        Some(InterfaceView { name: interface.name.to_string(), ..by_device.get(*number)?.clone() })
    });
    views.collect()
}

/// Says which VLANs the kernel has no device for: there it answers no ARP and resolves no neighbour.
fn tell_of_vlans(config: &Config, facts: &HostFacts) {
    for (interface, port) in config.interfaces.iter().zip(&facts.ports) {
        if let Some(vlan) = interface.vlan.as_ref().filter(|_| port.ifindex == 0) {
            tracing::info!(interface = %interface.name, device = %interface.device, %vlan,
                "the kernel has no device for this VLAN: only addresses and neighbours of the configuration are known");
        }
    }
}

/// A seed that nobody outside can guess: the standard library's own, drawn from the system's randomness.
fn seed() -> u128 {
    use std::hash::{BuildHasher, RandomState};
    let draw = || u128::from(RandomState::new().hash_one(0u8));
    draw() << 64 | draw()
}

fn names_of(config: &Config) -> Vec<String> {
    config.interfaces.iter().map(|interface| interface.name.to_string()).collect()
}

/// The sockets of worker `number`: queue q of every interface belongs to worker q modulo the number of workers.
fn xsk_config(config: &Config, devices: &[Device], number: usize) -> XskConfig {
    let workers = config.workers.cores.len();
    let ports = config.devices().zip(devices).map(|(interface, device)| XskPort {
        device: device.name.clone(),
        queues: (0..device.queues).filter(|queue| *queue as usize % workers == number).collect(),
        zero_copy: match interface.zero_copy {
            ZeroCopy::Auto => XskZeroCopy::Auto,
            ZeroCopy::Require => XskZeroCopy::Require,
            ZeroCopy::Off => XskZeroCopy::Off,
        },
    });
    XskConfig {
        ports: ports.collect(),
        frames: config.workers.frames,
        busy_poll: config.workers.poll == Poll::Busy,
        ..XskConfig::default()
    }
}

fn note_zero_copy(interfaces: &mut [InterfaceView], numbers: &[usize], sockets: &[live::OpenSocket]) {
    for (view, number) in interfaces.iter_mut().zip(numbers) {
        for socket in sockets.iter().filter(|socket| socket.port.index() == *number) {
            let granted = if socket.granted.zero_copy { "yes" } else { "no" };
            view.zero_copy = match view.zero_copy.as_str() {
                "" => granted.to_owned(),
                known if known == granted => known.to_owned(),
                _ => "partly".to_owned(),
            };
            if view.zero_copy_fallback.is_none() {
                view.zero_copy_fallback.clone_from(&socket.granted.fallback_reason);
            }
        }
    }
}
