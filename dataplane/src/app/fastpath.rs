//! The fast path as the service has it: which interfaces take part, which devices frames can be sent to by the XDP program,
//! and the sign of life without which the program executes nothing.
//!
//! **Which devices.** A driver drops what a program redirects to it unless it has the means, and nobody counts that. So a device
//! is sent to only when its driver says that it can (`NETDEV_XDP_ACT_NDO_XMIT`, kernel 6.3 and later). A veth says so while
//! its *peer* has an XDP program or GRO (`ethtool -K PEER gro on`), whichever network namespace that is in. The devices
//! are asked again every second. Where the kernel cannot be asked, a veth is taken not to be fit, any other device with
//! native XDP to be.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use throughway_config::{Config, FastPath};
use throughway_kernel::device::{self, Devices};
use throughway_kernel::model::Link;
use throughway_vnf::nanos;
use throughway_xdp::{Back, FastConfig, Steering};

use super::InterfaceView;
use super::devices::Device;
use crate::worker::offload::Egress;

/// How often the service says that it lives.
const BEAT: Duration = Duration::from_millis(100);
/// The devices are asked every so many beats.
const ASK: u32 = 10;

/// Why a device is not sent to by the XDP program; `None`: it is.
pub type Unfit = Option<&'static str>;

/// Why a veth is not fit.
const PEER: &str =
    "the veth's peer has neither GRO nor an XDP program, and would lose the frames: ethtool -K PEER gro on";
/// Why any other device is not fit.
const DRIVER: &str = "its driver does not take frames from XDP programs";
/// Why a veth is not fit where the kernel does not tell.
const UNKNOWN: &str = "this kernel does not tell whether the veth's peer takes frames (6.3 and later do)";

/// Whether frames can be sent to a device by the XDP program.
pub fn unfit(devices: &mut Devices, ifindex: u32, veth: bool) -> Unfit {
    match devices.xdp(ifindex) {
        Ok(Some(features)) if features.redirect_target() => None,
        Ok(Some(_)) if veth => Some(PEER),
        Ok(Some(_)) => Some(DRIVER),
        // The driver decides; all with native XDP that are common can.
        Ok(None) | Err(_) if !veth => None,
        Ok(None) | Err(_) => Some(UNKNOWN),
    }
}

/// Whether a link is a veth.
pub fn is_veth(link: &Link) -> bool {
    device::driver(link).is_some_and(|driver| driver == "veth")
}

/// How much of a fast path a configuration asks for; `None`: none.
pub(super) fn wanted(config: &Config) -> Option<FastConfig> {
    let any = config.interfaces.iter().any(|interface| interface.fast_path != FastPath::Off);
    (any && config.workers.flows > 0)
        .then_some(FastConfig { workers: config.workers.cores.len() as u32, flows: config.fast_path.flows })
}

/// By interface: whether its flows take the fast path, as it was granted.
pub(super) fn granted(config: &Config, views: &[InterfaceView]) -> Vec<FastPath> {
    let both = config.interfaces.iter().zip(views);
    let granted = both.map(|(interface, view)| {
        let off = config.workers.flows == 0 || view.xdp != "native";
        if off { FastPath::Off } else { interface.fast_path }
    });
    granted.collect()
}

/// Why an interface does not take part although it was asked to.
pub(super) fn fallback(config: &Config, view: &InterfaceView, asked: FastPath) -> Option<String> {
    if asked == FastPath::Off {
        None
    } else if config.workers.flows == 0 {
        Some("workers.flows is 0: no flow is known".to_owned())
    } else {
        (view.xdp != "native").then(|| format!("it runs {} XDP", view.xdp))
    }
}

/// A port of the data plane, and what is behind it.
#[derive(Clone, Debug)]
struct Port {
    name: String,
    ifindex: u32,
    veth: bool,
    /// What was found last; nothing at first.
    found: Option<Unfit>,
}

/// The thread that says that the service lives, and watches the devices.
#[derive(Debug)]
pub(super) struct Pulse {
    stop: Arc<AtomicBool>,
    /// Whether the last word is that the program may go on for a while.
    leave: Arc<AtomicBool>,
    found: Arc<Mutex<Vec<Unfit>>>,
    thread: Option<JoinHandle<()>>,
}

impl Pulse {
    /// Starts it for the untagged interfaces of `config`, with the devices of all of them (by [`Config::device_numbers`]).
    pub(super) fn start(
        config: &Config,
        devices: &[Device],
        steering: Arc<Mutex<Steering>>,
        egress: Arc<Egress>,
    ) -> std::io::Result<Pulse> {
        let numbers = config.device_numbers();
        let ports = config.interfaces.iter().zip(numbers).map(|(interface, number)| {
            let device = devices.get(number);
            Port {
                name: interface.name.to_string(),
                ifindex: device.map_or(0, |device| device.ifindex),
                veth: device.is_some_and(|device| device.veth),
                found: None,
            }
        });
        let mut ports: Vec<Port> = ports.collect();
        let found = Arc::new(Mutex::new(Vec::new()));
        let (stop, leave) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let keep = nanos(config.fast_path.keep.get());
        let beat = {
            let (stop, leave, found) = (Arc::clone(&stop), Arc::clone(&leave), Arc::clone(&found));
            move || {
                let mut devices = Devices::open();
                let mut beats = 0u32;
                while !stop.load(Ordering::Acquire) {
                    if let Ok(devices) = &mut devices
                        && beats.is_multiple_of(ASK)
                    {
                        let now = look(devices, &mut ports, &steering, &egress);
                        *found.lock().unwrap_or_else(PoisonError::into_inner) = now;
                    }
                    beats = beats.wrapping_add(1);
                    let until = crate::clock::now().0.saturating_add(keep);
                    steering.lock().unwrap_or_else(PoisonError::into_inner).alive_until(until);
                    std::thread::park_timeout(BEAT);
                }
                // Nothing is executed any more from here on, or for a last time.
                let left = leave.load(Ordering::Acquire);
                let until = if left { crate::clock::now().0.saturating_add(keep) } else { 0 };
                steering.lock().unwrap_or_else(PoisonError::into_inner).alive_until(until);
            }
        };
        let thread = std::thread::Builder::new().name("pulse".to_owned()).spawn(beat)?;
        Ok(Pulse { stop, leave, found, thread: Some(thread) })
    }

    /// By interface: why it is not sent to by the XDP program.
    pub(super) fn unfit(&self) -> Vec<Unfit> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it; the program goes on with what it knows for `fast-path.keep`, and no longer.
    pub(super) fn leave(&mut self) {
        self.leave.store(true, Ordering::Release);
        self.stop();
    }

    /// Ends it; from then on the program executes nothing.
    pub(super) fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Asks all devices, tells who must know, and says what has changed.
fn look(
    devices: &mut Devices,
    ports: &mut [Port],
    steering: &Mutex<Steering>,
    egress: &Egress,
) -> Vec<Unfit> {
    for (number, port) in (0u16..).zip(ports.iter_mut()) {
        let unfit = unfit(devices, port.ifindex, port.veth);
        if port.found == Some(unfit) {
            continue;
        }
        let mut steering = steering.lock().unwrap_or_else(PoisonError::into_inner);
        let told = match unfit {
            None => {
                let back = if port.veth { Back::Redirect } else { Back::Transmit };
                steering.set_egress(number, port.ifindex, back)
            }
            Some(_) => steering.clear_egress(number),
        };
        drop(steering);
        egress.set(number, unfit.is_none() && told.is_ok());
        match (unfit, told) {
            (_, Err(error)) => {
                tracing::error!(%error, interface = %port.name, "the XDP program could not be told of an egress")
            }
            (None, Ok(())) => {
                tracing::info!(interface = %port.name, "known flows leave by this interface in the driver")
            }
            (Some(reason), Ok(())) => tracing::warn!(interface = %port.name, %reason,
                "flows that leave by this interface stay with the workers"),
        }
        port.found = Some(unfit);
    }
    ports.iter().map(|port| port.found.flatten()).collect()
}
