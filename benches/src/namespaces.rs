//! Where is measured: a source, a device under test and a sink, each in a network namespace of its own.
//!
//! ```text
//!      source                 device under test                   sink
//!   ┌──────────┐          ┌───────────────────────┐          ┌──────────┐
//!   │   bsrc0 ─┼── veth ──┼─ bin0           bout0 ┼── veth ──┼─ bsnk0   │
//!   └──────────┘          └───────────────────────┘          └──────────┘
//!                     10.255.0.1/24, fd00::1/64     198.18.0.1/24, fd00:2::1/64
//! ```
//!
//! The generator sends by `bsrc0`; whatever is measured moves packets from `bin0` to `bout0`; the sink counts at `bsnk0`.
//! Next hops are permanent neighbours, so that nobody has to answer ARP.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use throughway_lab::Guard;

use crate::command::{command, run};
use crate::error::{BenchError, Result};

/// The generator's device.
pub const SOURCE_DEVICE: &str = "bsrc0";
/// Where packets come into the device under test.
pub const IN_DEVICE: &str = "bin0";
/// Where they leave it.
pub const OUT_DEVICE: &str = "bout0";
/// The sink's device.
pub const SINK_DEVICE: &str = "bsnk0";
/// MAC address of [`IN_DEVICE`].
pub const IN_MAC: &str = "02:00:00:00:0b:02";
/// MAC address of [`SINK_DEVICE`].
pub const SINK_MAC: &str = "02:00:00:00:0b:04";
/// Where the traffic goes: the sink, on the link of [`OUT_DEVICE`].
pub const DESTINATION: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// The device under test on that link.
pub const OUT_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The backends of load balancers: further names of the sink.
pub const BACKENDS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(198, 18, 0, 11),
    Ipv4Addr::new(198, 18, 0, 12),
    Ipv4Addr::new(198, 18, 0, 13),
    Ipv4Addr::new(198, 18, 0, 14),
];
/// The address that load balancers serve.
pub const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);

const SOURCE_MAC: &str = "02:00:00:00:0b:01";
const OUT_MAC: &str = "02:00:00:00:0b:03";
/// Where logs and configurations of a run are kept.
const HOME: &str = "/run/throughway-bench";
/// How long the kernel may take to make a NAPI thread.
const PATIENCE: Duration = Duration::from_secs(3);

/// One of the three namespaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The generator's.
    Source,
    /// What is measured.
    Device,
    /// The sink's.
    Sink,
}

impl Place {
    const ALL: [Place; 3] = [Place::Source, Place::Device, Place::Sink];

    fn suffix(self) -> &'static str {
        match self {
            Place::Source => "src",
            Place::Device => "dut",
            Place::Sink => "snk",
        }
    }
}

/// Which core pays for what. The generator always has [`Cores::generator`] and the device under test [`Cores::device`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Placement {
    /// The receive softirq runs on the generator's core (inline, in the context of the sender), so that what is measured has
    /// its own core for itself. Only for user-space data planes: the kernel's own forwarding *is* the softirq.
    OwnCore,
    /// The receive softirq is a thread (`threaded` NAPI) on the core of the device under test: one core pays for everything.
    OneCore,
}

impl Placement {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Placement::OwnCore => "own core",
            Placement::OneCore => "one core",
        }
    }

    /// Its name on the command line and in files.
    pub fn key(self) -> &'static str {
        match self {
            Placement::OwnCore => "own-core",
            Placement::OneCore => "one-core",
        }
    }
}

/// The cores of a measurement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cores {
    /// The generator's, and in [`Placement::OwnCore`] the receive softirq's.
    pub generator: usize,
    /// The worker's.
    pub device: usize,
    /// The one of the sink's softirq. Without it that runs where packets are sent from: on the core of what is measured.
    pub sink: Option<usize>,
}

/// The namespaces; removed when dropped.
#[derive(Debug)]
pub struct Namespaces {
    prefix: String,
    directory: PathBuf,
    /// The kernel threads that do NAPI, where it is threaded.
    napi: Vec<u32>,
    nice: i32,
}

impl Namespaces {
    /// Makes them. What a dead run of the same prefix left is removed first.
    ///
    /// # Errors
    /// When a namespace, device or address cannot be made.
    pub fn up(prefix: &str, nice: i32) -> Result<Self> {
        remove(prefix);
        let directory = Path::new(HOME).join(prefix);
        std::fs::create_dir_all(&directory).map_err(|source| BenchError::file(&directory, source))?;
        // From here on, whatever fails, dropping it removes what there is.
        let new = Namespaces { prefix: prefix.to_owned(), directory, napi: Vec::new(), nice };
        for place in Place::ALL {
            let name = new.name(place);
            run(&["ip", "netns", "add", &name])?;
            run(&["ip", "-n", &name, "link", "set", "lo", "up"])?;
        }
        new.link(Place::Source, (SOURCE_DEVICE, SOURCE_MAC), (IN_DEVICE, IN_MAC))?;
        new.link(Place::Sink, (SINK_DEVICE, SINK_MAC), (OUT_DEVICE, OUT_MAC))?;
        new.configure()?;
        Ok(new)
    }

    fn link(&self, far: Place, far_end: (&str, &str), near_end: (&str, &str)) -> Result<()> {
        let (far, near) = (self.name(far), self.name(Place::Device));
        let ((device, mac), (near_device, near_mac)) = (far_end, near_end);
        run(&[
            "ip",
            "-n",
            &far,
            "link",
            "add",
            device,
            "address",
            mac,
            "type",
            "veth",
            "peer",
            "name",
            near_device,
            "address",
            near_mac,
            "netns",
            &near,
        ])?;
        for (namespace, device) in [(&far, device), (&near, near_device)] {
            // Hosts shall not answer or probe on their own: nothing but the generator's packets may be on the link.
            run(&["ip", "-n", namespace, "link", "set", device, "addrgenmode", "none"])?;
            run(&["ip", "-n", namespace, "link", "set", device, "up"])?;
            // A veth takes frames from XDP (redirected ones, and the generator's) only where NAPI runs, which GRO turns on; switched
            // on while the device is down it has no effect.
            run(&["ip", "netns", "exec", namespace, "ethtool", "-K", device, "gro", "on"])?;
        }
        Ok(())
    }

    fn configure(&self) -> Result<()> {
        let name = self.name(Place::Device);
        for (device, address) in [
            (IN_DEVICE, "10.255.0.1/24".to_owned()),
            (OUT_DEVICE, format!("{OUT_ADDRESS}/24")),
            (IN_DEVICE, "fd00::1/64".to_owned()),
            (OUT_DEVICE, "fd00:2::1/64".to_owned()),
        ] {
            let mut argv = vec!["ip", "-n", &name, "address", "add", &address, "dev", device];
            if address.contains(':') {
                argv.push("nodad");
            }
            run(&argv)?;
        }
        let sinks = [DESTINATION].into_iter().chain(BACKENDS).map(|address| address.to_string());
        for address in sinks.chain(["fd00:2::2".to_owned()]) {
            let neighbour = ["neighbour", "replace", &address, "lladdr", SINK_MAC, "dev", OUT_DEVICE];
            run(&[&["ip", "-n", &name], neighbour.as_slice(), &["nud", "permanent"]].concat())?;
        }
        // Sources are invented, so nothing may be checked backwards; forwarding itself is the peer's to switch on.
        for setting in
            ["net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0", "net.ipv4.ip_forward=0"]
        {
            self.run(Place::Device, &["sysctl", "-qw", setting])?;
        }
        self.run(Place::Device, &["sysctl", "-qw", &format!("net.ipv4.conf.{IN_DEVICE}.rp_filter=0")])?;
        Ok(())
    }

    /// The name of a namespace.
    pub fn name(&self, place: Place) -> String {
        format!("{}-{}", self.prefix, place.suffix())
    }

    /// Where logs, configurations and sockets may lie; removed together with the namespaces.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Runs a command in a namespace to its end.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(&self, place: Place, argv: &[&str]) -> Result<String> {
        run(&[&["ip", "netns", "exec", &self.name(place)], argv].concat())
    }

    /// Starts a command in a namespace, at the niceness of the run, on `core` where one is given. What it writes goes to the
    /// file `log` in [`Namespaces::directory`]. `ip netns exec`, `nice` and `taskset` become the command, so the process id is the
    /// command's.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn spawn(&self, place: Place, core: Option<usize>, argv: &[&str], log: &str) -> Result<Guard> {
        let line = self.line(place, core, argv);
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        Ok(Guard::spawn(command(&line)?, argv.join(" "), Some(&self.directory.join(log)))?)
    }

    /// The command line that runs `argv` in a namespace, at the niceness of the run.
    pub fn line(&self, place: Place, core: Option<usize>, argv: &[&str]) -> Vec<String> {
        let mut line: Vec<String> =
            ["ip", "netns", "exec", &self.name(place)].map(str::to_owned).into_iter().collect();
        if let Some(core) = core {
            line.extend(["taskset".to_owned(), "-c".to_owned(), core.to_string()]);
        }
        line.extend(argv.iter().map(|&argument| argument.to_owned()));
        line
    }

    /// Puts the receive softirq of [`IN_DEVICE`] where `placement` says, and that of [`SINK_DEVICE`] on the sink's core where it has one. To
    /// be called again after whatever is measured has started: attaching XDP may make the kernel's thread anew.
    ///
    /// # Errors
    /// When the kernel has no threaded NAPI, or its thread is not found.
    pub fn place(&mut self, placement: Placement, cores: Cores) -> Result<()> {
        let known = std::mem::take(&mut self.napi);
        self.napi = match placement {
            Placement::OwnCore => {
                self.set_threaded(Place::Device, IN_DEVICE, false)?;
                Vec::new()
            }
            Placement::OneCore => self.pin_napi(Place::Device, IN_DEVICE, cores.device, &known)?,
        };
        if let Some(core) = cores.sink {
            self.pin_napi(Place::Sink, SINK_DEVICE, core, &[])?;
        }
        Ok(())
    }

    fn set_threaded(&self, place: Place, device: &str, threaded: bool) -> Result<()> {
        let path = format!("/sys/class/net/{device}/threaded");
        self.run(place, &["sh", "-c", &format!("echo {} > {path}", u8::from(threaded))])?;
        Ok(())
    }

    /// Has threads do the receive softirq of a device, on one core, and returns them; `known` are those of before.
    fn pin_napi(&self, place: Place, device: &str, core: usize, known: &[u32]) -> Result<Vec<u32>> {
        self.set_threaded(place, device, true)?;
        let deadline = Instant::now() + PATIENCE;
        let mut threads = Vec::new();
        while threads.is_empty() {
            if Instant::now() > deadline {
                return Err(BenchError::Worthless(format!("the NAPI thread of {device} was not found")));
            }
            threads = threads_named(&format!("napi/{device}-"));
        }
        for thread in &threads {
            // One of before may have got a niceness of its own from what is measured: that comes on top.
            let own = if known.contains(thread) {
                niceness(*thread).filter(|own| *own != self.nice).unwrap_or(0)
            } else {
                0
            };
            let nice = (self.nice + own).min(19).to_string();
            let (thread, core) = (thread.to_string(), core.to_string());
            run(&["taskset", "-pc", &core, &thread])?;
            run(&["renice", "-n", &nice, "-p", &thread])?;
        }
        Ok(threads)
    }

    /// The kernel threads that do NAPI for [`IN_DEVICE`], where it is threaded.
    pub fn napi(&self) -> &[u32] {
        &self.napi
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        remove(&self.prefix);
        // Nobody is left to tell; the next run of this prefix tries again.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Removes what there is of a prefix. Processes in it are the guards' to end.
fn remove(prefix: &str) {
    for place in Place::ALL {
        let name = format!("{prefix}-{}", place.suffix());
        if Path::new("/run/netns").join(&name).exists() {
            let _ = run(&["ip", "netns", "delete", &name]);
        }
    }
}

/// The niceness of a thread: the nineteenth field of its `stat` (proc(5)).
fn niceness(thread: u32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{thread}/stat")).ok()?;
    // Behind the name in brackets, which may have blanks, comes the third field.
    stat.rsplit_once(") ")?.1.split(' ').nth(16)?.parse().ok()
}

/// Kernel threads whose name begins so.
pub(crate) fn threads_named(start: &str) -> Vec<u32> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let numbers = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let named = numbers.filter(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with(start))
    });
    named.collect()
}
