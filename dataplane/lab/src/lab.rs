//! Brings a lab up, runs things in it, removes it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

use crate::error::LabError;
use crate::process::{Guard, Output, run_for};
use crate::tools::{find, run};
use crate::topology::{HOST_DEVICE, Host, LINKS, Link};

/// How long [`Lab::exec`] waits for a command.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where iproute2 keeps the names of namespaces.
const NAMES: &str = "/run/netns";
/// Where labs keep their files.
const HOME: &str = "/run/throughway-lab";

/// What a lab shall be like.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// The namespaces are named `PREFIX-client`, `PREFIX-box`, `PREFIX-a`, `PREFIX-b`.
    pub prefix: String,
    /// How many queues each end of each link has: as many as Throughway shall have workers.
    pub queues: u32,
    /// The MTU of the link to server b, in bytes: smaller than the others' 1500, for path MTU discovery.
    pub dmz_mtu: u32,
    /// Leave checksum offload on in the hosts: what they send then has partial checksums, which only a port that
    /// recomputes them forwards well.
    pub checksum_offload: bool,
    /// Wait for the lab's name when another process uses it, instead of failing.
    pub wait: bool,
}

impl LabOptions {
    /// One queue, full checksums, MTU 1400 to server b.
    pub fn new(prefix: &str) -> Self {
        LabOptions {
            prefix: prefix.to_owned(),
            queues: 1,
            dmz_mtu: 1400,
            checksum_offload: false,
            wait: false,
        }
    }
}

/// A lab that is up. One made by [`Lab::up`] is removed when dropped.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    directory: PathBuf,
    owned: bool,
    interrupt: Arc<AtomicBool>,
    /// Held for as long as the lab is ours; the kernel lets go of it even when we are killed.
    _lock: Option<File>,
}

impl Lab {
    /// Makes the namespaces, links, addresses and routes. What a dead run of the same prefix left is removed first.
    pub fn up(options: &LabOptions) -> Result<Lab, LabError> {
        check_prefix(&options.prefix)?;
        if !Uid::effective().is_root() {
            return Err(LabError::NotRoot);
        }
        find("ip")?;
        find("ethtool")?;
        let lock = lock(options)?;
        remove(&options.prefix)?;
        let directory = directory(&options.prefix);
        std::fs::create_dir_all(&directory)
            .map_err(|source| LabError::io("cannot make", &directory, source))?;
        // From here on, whatever fails, dropping it removes what there is.
        let lab = Lab {
            prefix: options.prefix.clone(),
            directory,
            owned: true,
            interrupt: Arc::new(AtomicBool::new(false)),
            _lock: Some(lock),
        };
        for host in Host::ALL {
            lab.make_host(host)?;
        }
        for link in LINKS {
            lab.make_link(&link, options)?;
        }
        Ok(lab)
    }

    /// A lab that is already up. Dropping it leaves it alone.
    pub fn attach(prefix: &str) -> Result<Lab, LabError> {
        check_prefix(prefix)?;
        let present = namespaces(prefix);
        if present.len() < Host::ALL.len() {
            return Err(LabError::Absent { prefix: prefix.to_owned() });
        }
        Ok(Lab {
            prefix: prefix.to_owned(),
            directory: directory(prefix),
            owned: false,
            interrupt: Arc::new(AtomicBool::new(false)),
            _lock: None,
        })
    }

    /// Ends what runs in the lab of this prefix and removes it. Returns whether there was one.
    pub fn down(prefix: &str) -> Result<bool, LabError> {
        check_prefix(prefix)?;
        let there = !namespaces(prefix).is_empty();
        if there && !Uid::effective().is_root() {
            return Err(LabError::NotRoot);
        }
        remove(prefix)?;
        Ok(there)
    }

    /// Leaves the lab up when this value is dropped.
    pub fn keep(mut self) {
        self.owned = false;
    }

    /// Commands that are running end, and later ones fail with [`LabError::Interrupted`], once `flag` is set.
    pub fn stop_on(&mut self, flag: Arc<AtomicBool>) {
        self.interrupt = flag;
    }

    /// [`LabError::Interrupted`] when the flag of [`Lab::stop_on`] is set.
    pub fn check_interrupt(&self) -> Result<(), LabError> {
        if self.interrupt.load(Ordering::Relaxed) { Err(LabError::Interrupted) } else { Ok(()) }
    }

    /// A directory for sockets, logs and captures, removed together with the lab.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The name of a host's namespace.
    pub fn namespace(&self, host: Host) -> String {
        namespace(&self.prefix, host)
    }

    /// Runs a command in a host's namespace to its end, for at most a minute. The exit status is the caller's to judge.
    pub fn exec(&self, host: Host, argv: &[&str]) -> Result<Output, LabError> {
        self.exec_for(host, argv, PATIENCE)
    }

    /// As [`Lab::exec`], for at most `patience`.
    pub fn exec_for(&self, host: Host, argv: &[&str], patience: Duration) -> Result<Output, LabError> {
        run_for(self.command(host, argv)?, &argv.join(" "), patience, &self.interrupt)
    }

    /// As [`Lab::exec`], and an error when the command fails.
    pub fn run(&self, host: Host, argv: &[&str]) -> Result<Output, LabError> {
        self.exec(host, argv)?.success(&argv.join(" "))
    }

    /// Starts a command in a host's namespace; what it writes goes to `log`, a file in [`Lab::directory`].
    pub fn spawn(&self, host: Host, argv: &[&str], log: &str) -> Result<Guard, LabError> {
        self.spawn_with(host, argv, log, &[])
    }

    /// As [`Lab::spawn`], with environment variables.
    pub fn spawn_with(
        &self,
        host: Host,
        argv: &[&str],
        log: &str,
        env: &[(&str, &str)],
    ) -> Result<Guard, LabError> {
        let mut command = self.command(host, argv)?;
        command.envs(env.iter().copied());
        Guard::spawn(command, argv.join(" "), Some(&self.directory.join(log)))
    }

    /// The command line that runs `argv` in a host's namespace. `ip netns exec` becomes the command (it does not fork),
    /// so the process id is the command's, and it gives it the namespace's own `/sys`.
    pub fn command(&self, host: Host, argv: &[&str]) -> Result<Command, LabError> {
        if let Some(program) = argv.first().filter(|program| !program.contains('/')) {
            find(program)?;
        }
        let mut command = Command::new(find("ip")?);
        command.args(["netns", "exec", &self.namespace(host)]).args(argv);
        Ok(command)
    }

    /// Runs `work` on a thread of its own inside a host's network namespace: sockets that it opens are the host's.
    pub fn within<T: Send>(&self, host: Host, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        let path = self.path(host);
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| enter(&path).map(|()| work()));
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Starts `work` on a thread of its own inside a host's network namespace.
    pub fn thread<T: Send + 'static>(
        &self,
        host: Host,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<Result<T, LabError>> {
        let path = self.path(host);
        std::thread::spawn(move || enter(&path).map(|()| work()))
    }

    fn path(&self, host: Host) -> PathBuf {
        Path::new(NAMES).join(self.namespace(host))
    }

    fn make_host(&self, host: Host) -> Result<(), LabError> {
        let name = self.namespace(host);
        run(&["ip", "netns", "add", &name])?;
        self.within(host, || {
            // A new namespace may inherit the machine's settings: say all of them.
            sysctl("ipv4/ip_forward", "0")?;
            sysctl("ipv4/conf/all/rp_filter", "0")?;
            sysctl("ipv4/conf/default/rp_filter", "0")?;
            sysctl("ipv6/conf/all/forwarding", "0")?;
            sysctl("ipv6/conf/default/forwarding", "0")?;
            sysctl("ipv6/conf/default/accept_ra", "0")?;
            // Addresses shall be usable at once, the link-local ones too.
            sysctl("ipv6/conf/all/accept_dad", "0")?;
            sysctl("ipv6/conf/default/accept_dad", "0")
        })??;
        run(&["ip", "-n", &name, "link", "set", "lo", "up"])?;
        Ok(())
    }

    fn make_link(&self, link: &Link, options: &LabOptions) -> Result<(), LabError> {
        let (inner, outer) = (self.namespace(Host::Box), self.namespace(link.host));
        let queues = options.queues.to_string();
        let mtu = if link.host == Host::ServerB { options.dmz_mtu } else { 1500 }.to_string();
        // Both ends are born where they belong: no device of ours is ever seen in the machine's own namespace.
        run(&[
            "ip",
            "-n",
            &inner,
            "link",
            "add",
            link.device,
            "mtu",
            &mtu,
            "numtxqueues",
            &queues,
            "numrxqueues",
            &queues,
            "type",
            "veth",
            "peer",
            "name",
            HOST_DEVICE,
            "netns",
            &outer,
            "mtu",
            &mtu,
            "numtxqueues",
            &queues,
            "numrxqueues",
            &queues,
        ])?;
        let ends = [
            (&inner, link.device, link.box_ipv4(), link.box_ipv6()),
            (&outer, HOST_DEVICE, link.host_ipv4(), link.host_ipv6()),
        ];
        for (namespace, device, ipv4, ipv6) in ends {
            run(&["ip", "-n", namespace, "address", "add", &format!("{ipv4}/24"), "dev", device])?;
            run(&["ip", "-n", namespace, "address", "add", &format!("{ipv6}/64"), "dev", device, "nodad"])?;
        }
        self.set_offloads(&outer, options)?;
        run(&["ip", "-n", &inner, "link", "set", link.device, "up"])?;
        run(&["ip", "-n", &outer, "link", "set", HOST_DEVICE, "up"])?;
        run(&["ip", "-n", &outer, "route", "add", "default", "via", &link.box_ipv4().to_string()])?;
        run(&["ip", "-n", &outer, "-6", "route", "add", "default", "via", &link.box_ipv6().to_string()])?;
        Ok(())
    }

    fn set_offloads(&self, namespace: &str, options: &LabOptions) -> Result<(), LabError> {
        let mut features = vec!["netns", "exec", namespace, "ethtool", "-K", HOST_DEVICE];
        if !options.checksum_offload {
            // A veth has no wire, so a sender with offload never finishes its checksums: whoever reads the frame as it
            // is (AF_XDP, XDP) would see wrong ones.
            features.extend(["tx", "off"]);
        }
        // Frames larger than the MTU exist only inside one kernel; a wire never carries them.
        features.extend(["tso", "off", "gso", "off"]);
        // XDP may redirect frames into this link from its other end: veth takes them only where NAPI runs, which GRO
        // (or an XDP program) turns on.
        features.extend(["gro", "on"]);
        let mut argv = vec!["ip"];
        argv.extend(features);
        run(&argv)?;
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.owned {
            // Nobody is left to tell; the next run of this prefix tries again.
            let _ = remove(&self.prefix);
        }
    }
}

fn namespace(prefix: &str, host: Host) -> String {
    format!("{prefix}-{}", host.name())
}

fn directory(prefix: &str) -> PathBuf {
    Path::new(HOME).join(prefix)
}

fn check_prefix(prefix: &str) -> Result<(), LabError> {
    let fits = (1..=32).contains(&prefix.len())
        && prefix.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if fits { Ok(()) } else { Err(LabError::BadPrefix(prefix.to_owned())) }
}

fn lock(options: &LabOptions) -> Result<File, LabError> {
    std::fs::create_dir_all(HOME).map_err(|source| LabError::io("cannot make", HOME, source))?;
    let path = Path::new(HOME).join(format!("{}.lock", options.prefix));
    let file = File::create(&path).map_err(|source| LabError::io("cannot write", &path, source))?;
    if options.wait {
        file.lock().map_err(|source| LabError::io("cannot lock", &path, source))?;
    } else if file.try_lock().is_err() {
        return Err(LabError::Busy { prefix: options.prefix.clone() });
    }
    Ok(file)
}

/// The namespaces of this prefix that exist.
fn namespaces(prefix: &str) -> Vec<String> {
    Host::ALL
        .iter()
        .map(|&host| namespace(prefix, host))
        .filter(|name| Path::new(NAMES).join(name).exists())
        .collect()
}

/// Ends every process in the namespaces of this prefix and removes them.
fn remove(prefix: &str) -> Result<(), LabError> {
    let names = namespaces(prefix);
    for (signal, patience) in [(Signal::SIGTERM, 3000), (Signal::SIGKILL, 1000)] {
        let deadline = Instant::now() + Duration::from_millis(patience);
        for pid in inhabitants(&names)? {
            // One that has ended meanwhile is what was wanted.
            let _ = kill(pid, signal);
        }
        while !inhabitants(&names)?.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    for name in &names {
        run(&["ip", "netns", "delete", name])?;
    }
    match std::fs::remove_dir_all(directory(prefix)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(LabError::io("cannot remove", directory(prefix), error))
        }
        _ => Ok(()),
    }
}

/// The processes in these namespaces; never ourselves, who may have a thread there.
fn inhabitants(names: &[String]) -> Result<Vec<Pid>, LabError> {
    let mut all = Vec::new();
    for name in names {
        let output = run(&["ip", "netns", "pids", name])?;
        all.extend(output.stdout.lines().filter_map(|line| line.trim().parse().ok()).map(Pid::from_raw));
    }
    all.retain(|&pid| pid != Pid::this());
    Ok(all)
}

fn enter(path: &Path) -> Result<(), LabError> {
    let file = File::open(path).map_err(|source| LabError::io("cannot open", path, source))?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| LabError::io("cannot enter", path, errno.into()))
}

/// Writes a setting of the calling thread's network namespace.
fn sysctl(name: &str, value: &str) -> Result<(), LabError> {
    let path = Path::new("/proc/sys/net").join(name);
    std::fs::write(&path, value).map_err(|source| LabError::io("cannot write", path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_cannot_reach_outside_its_names() {
        for bad in ["", "a/b", "..", "A", "a b", &"x".repeat(33)] {
            assert!(matches!(check_prefix(bad), Err(LabError::BadPrefix(_))), "{bad}");
        }
        assert!(check_prefix("tw-2").is_ok());
    }

    #[test]
    fn what_is_not_up_cannot_be_attached_to() {
        assert!(matches!(Lab::attach("surely-not-there"), Err(LabError::Absent { .. })));
        assert!(!Lab::down("surely-not-there").unwrap());
    }
}
