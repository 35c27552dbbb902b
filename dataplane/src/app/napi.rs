//! Who goes first on a core that a worker shares with the kernel's receiving.
//!
//! Where a device's NAPI is threaded and its thread is pinned to a worker's core, both want the core when more packets come than
//! it can carry. As equals, the kernel's thread takes half of it to receive packets that the worker then has no time for: receive
//! livelock (Mogul and Ramakrishnan 1997). So the kernel's thread is made nicer. The worker is told, and sleeps as soon as its rings are
//! empty: the thread always has the core then. Measurements: `docs/adr/0025-who-goes-first-on-a-shared-core.md`.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::{Pid, getpgid};
use rustix::process::{getpriority_process, setpriority_process};
use throughway_kernel::device::Devices;

use super::cores;
use super::devices::Device;
use crate::worker::idle::Shared;

/// The niceness of the kernel's thread beside a worker: a third of the worker's weight. Nicer ones starve when others use the core.
const NICENESS: i32 = 5;
/// How often threads are looked for: they are made anew when somebody switches threading on.
const EVERY: Duration = Duration::from_secs(5);

/// The kernel's threads that were made nicer; dropped, they get their niceness back.
#[derive(Debug)]
pub(super) struct NapiThreads {
    wanted: bool,
    /// The workers' cores, and how each worker learns whether it shares its own.
    workers: Vec<(u16, Shared)>,
    changed: Vec<(u32, i32)>,
    next: Option<Instant>,
    complained: bool,
}

impl NapiThreads {
    /// None yet; none ever unless `wanted`. `workers` are told by their cores.
    pub(super) fn new(wanted: bool, workers: Vec<(u16, Shared)>) -> Self {
        NapiThreads { wanted, workers, changed: Vec::new(), next: None, complained: false }
    }

    /// Looks for threads on the workers' cores, if it is time to, and tells the workers.
    pub(super) fn look(&mut self, devices: &[Device], now: Instant) {
        if !self.wanted || self.next.is_some_and(|next| now < next) {
            return;
        }
        self.next = Some(now + EVERY);
        let mut taken: Vec<u16> = Vec::new();
        for device in devices {
            let threads = Devices::open().and_then(|mut kernel| kernel.napi_threads(device.ifindex));
            let threads = threads.unwrap_or_default();
            if threads.is_empty() && is_threaded(device) {
                // A kernel that does not tell which threads they are: any core may be meant.
                taken.extend(self.workers.iter().map(|(core, _)| *core));
            }
            for thread in threads {
                let cores = shares(thread, &self.cores());
                if !cores.is_empty() {
                    self.step_back(thread, &device.name);
                    taken.extend(cores);
                }
            }
        }
        for (core, shared) in &self.workers {
            shared.set(taken.contains(core));
        }
    }

    fn cores(&self) -> Vec<u16> {
        self.workers.iter().map(|(core, _)| *core).collect()
    }

    fn step_back(&mut self, thread: u32, device: &str) {
        // Once is enough: who gives it another niceness afterwards has a reason.
        if self.changed.iter().any(|(known, _)| *known == thread) {
            return;
        }
        let Some(id) = id(thread) else { return };
        let Ok(before) = getpriority_process(Some(id)) else { return };
        if before >= NICENESS {
            return;
        }
        match setpriority_process(Some(id), NICENESS) {
            Ok(()) => {
                tracing::info!(
                    device,
                    thread,
                    before,
                    niceness = NICENESS,
                    "the kernel's NAPI thread shares its core with a worker: it was made nicer"
                );
                self.changed.push((thread, before));
            }
            Err(error) if !self.complained => {
                self.complained = true;
                tracing::warn!(
                    device, thread, %error,
                    "the kernel's NAPI thread shares its core with a worker and could not be made nicer: overload may starve the worker"
                );
            }
            Err(_) => {}
        }
    }
}

impl Drop for NapiThreads {
    fn drop(&mut self) {
        for (thread, before) in self.changed.drain(..) {
            // One that is gone needs nothing, and without CAP_SYS_NICE nothing can be done.
            let Some(id) = id(thread) else { continue };
            if let Err(error) = setpriority_process(Some(id), before) {
                tracing::debug!(thread, %error, "a NAPI thread keeps its niceness");
            }
        }
    }
}

/// A thread's number as the calls take it, for which none would be the caller itself.
fn id(thread: u32) -> Option<rustix::process::Pid> {
    i32::try_from(thread).ok().and_then(rustix::process::Pid::from_raw)
}

/// Whether sysfs says that the device's NAPI is threaded; sysfs may show another network namespace, and then says nothing.
fn is_threaded(device: &Device) -> bool {
    let folder = Path::new("/sys/class/net").join(&device.name);
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap_or_default();
    read("threaded").trim() == "1" && read("ifindex").trim() == device.ifindex.to_string()
}

/// Those of `cores` that a thread of the kernel's may run on; none when it may run elsewhere, too.
fn shares(thread: u32, cores: &[u16]) -> Vec<u16> {
    let Ok(thread) = i32::try_from(thread).map(Pid::from_raw) else { return Vec::new() };
    // Only the kernel's own threads belong to no process group: in another pid namespace than the first, the number may be
    // somebody else's.
    if getpgid(Some(thread)) != Ok(Pid::from_raw(0)) {
        return Vec::new();
    }
    let Ok(places) = cores::of(thread) else { return Vec::new() };
    let own = |place: usize| cores.iter().find(|core| usize::from(**core) == place).copied();
    places.map(own).collect::<Option<Vec<_>>>().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_learns_that_its_core_is_its_own_once_it_was_looked() {
        let (shared, mut now) = (Shared::default(), Instant::now());
        let told = |threads: &mut NapiThreads, now| {
            threads.look(&[], now);
            shared.get()
        };
        let mut off = NapiThreads::new(false, vec![(0, shared.clone())]);
        assert!(told(&mut off, now), "nobody looks where a worker never sleeps");
        let mut threads = NapiThreads::new(true, vec![(0, shared.clone())]);
        assert!(!told(&mut threads, now));
        shared.set(true);
        assert!(told(&mut threads, now), "it is not looked every time");
        now += EVERY;
        assert!(!told(&mut threads, now));
    }

    #[test]
    fn only_threads_of_the_kernel_that_cannot_go_elsewhere_share_a_core() {
        // Our own process is none of the kernel's, whatever cores there are; nor is one that does not exist.
        let all: Vec<u16> = (0..1024).collect();
        assert!(shares(std::process::id(), &all).is_empty());
        assert!(shares(u32::MAX, &all).is_empty());
    }
}
