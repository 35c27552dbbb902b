//! `throughway run` inside the box, as systemd would run it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::error::LabError;
use crate::lab::Lab;
use crate::process::{GRACE, Guard, Output};
use crate::topology::Host;

/// Where the service's metrics are, inside the box.
pub const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);
/// How long the service may take to become ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running service; dropped, it is stopped.
#[derive(Debug)]
pub struct Service {
    guard: Guard,
    binary: PathBuf,
    config: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    notices: Notices,
}

/// What the service may do in the lab: what its systemd unit lets it do, and CAP_IPC_LOCK for the unit's unlimited locked
/// memory. So whatever works here works there.
const CAPABILITIES: &str = "-all,+net_admin,+net_raw,+bpf,+perfmon,+sys_nice,+ipc_lock";

impl Service {
    /// Starts `binary run config` in the box and waits until it says that it is ready.
    pub fn start(lab: &Lab, binary: &Path, config: &Path) -> Result<Service, LabError> {
        Self::start_with(lab, binary, config, "throughway")
    }

    /// As [`Service::start`], with another name for its log and sockets.
    pub fn start_with(lab: &Lab, binary: &Path, config: &Path, name: &str) -> Result<Service, LabError> {
        Self::start_again(lab, binary, config, name, (name, &[]))
    }

    /// As [`Service::start_with`]: the same service once more, with a log of another name and more environment variables.
    pub fn start_again(
        lab: &Lab,
        binary: &Path,
        config: &Path,
        name: &str,
        (log_name, variables): (&str, &[(&str, &str)]),
    ) -> Result<Service, LabError> {
        let directory = lab.directory();
        let socket = directory.join(format!("{name}.sock"));
        let log_file = format!("{log_name}.log");
        let log = directory.join(&log_file);
        let notify = directory.join(format!("{name}.notify"));
        let notices = Notices::listen(&notify)?;
        let metrics = METRICS.to_string();
        let [binary_text, config_text, socket_text, notify_text] =
            [binary, config, &socket, &notify].map(|path| path.to_string_lossy().into_owned());
        let confined =
            ["setpriv", "--bounding-set", CAPABILITIES, "--inh-caps", CAPABILITIES, "--no-new-privs"];
        let run = [binary_text.as_str(), "run", &config_text, "--api", &socket_text, "--metrics", &metrics];
        let argv: Vec<&str> = confined.into_iter().chain(run).collect();
        let env = [&[("NOTIFY_SOCKET", notify_text.as_str())], variables].concat();
        let guard = lab.spawn_with(Host::Box, &argv, &log_file, &env)?;
        let mut service =
            Service { guard, binary: binary.to_owned(), config: config.to_owned(), socket, log, notices };
        service.wait_ready(lab)?;
        Ok(service)
    }

    fn wait_ready(&mut self, lab: &Lab) -> Result<(), LabError> {
        let deadline = Instant::now() + PATIENCE;
        while !self.notices.heard("READY=1") {
            lab.check_interrupt()?;
            if let Some(status) = self.guard.ended() {
                return Err(LabError::NotReady { reason: format!("it ended ({status})"), log: self.log() });
            }
            if Instant::now() > deadline {
                let reason = format!("no READY=1 within {} s", PATIENCE.as_secs());
                return Err(LabError::NotReady { reason, log: self.log() });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The process.
    pub fn process(&mut self) -> &mut Guard {
        &mut self.guard
    }

    /// Its API socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The configuration file it was started with, which a reload reads again.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it told its service manager so far, one `KEY=VALUE` each.
    pub fn notices(&self) -> Vec<String> {
        self.notices.all()
    }

    /// Runs `throughway ARGUMENTS --api SOCKET` in the box.
    pub fn ask(&self, lab: &Lab, arguments: &[&str]) -> Result<Output, LabError> {
        let binary = self.binary.to_string_lossy();
        let socket = self.socket.to_string_lossy();
        let mut argv = vec![binary.as_ref()];
        argv.extend(arguments);
        argv.extend(["--api", socket.as_ref()]);
        lab.exec(Host::Box, &argv)
    }

    /// `throughway show WHAT --json`; `what` may be followed by options, with spaces between.
    pub fn show(&self, lab: &Lab, what: &str) -> Result<Value, LabError> {
        let words = ["show"].into_iter().chain(what.split(' ')).chain(["--json"]);
        let output =
            self.ask(lab, &words.collect::<Vec<_>>())?.success(&format!("throughway show {what}"))?;
        serde_json::from_str(&output.stdout).map_err(|error| LabError::Unexpected {
            step: format!("throughway show {what} --json"),
            message: format!("{error}\n{}", output.stdout),
        })
    }

    /// `throughway reload`: the exit status is the caller's to judge.
    pub fn reload(&self, lab: &Lab) -> Result<Output, LabError> {
        self.ask(lab, &["reload"])
    }

    /// The metrics page.
    pub fn metrics(&self, lab: &Lab) -> Result<String, LabError> {
        lab.within(Host::Box, || get(METRICS, "/metrics"))?
            .map_err(|source| LabError::io("cannot read the metrics at", METRICS.to_string(), source))
    }

    /// Leaves it running: it ends with its lab.
    pub fn leave(self) {
        std::mem::forget(self);
    }

    /// Asks it to end (SIGTERM) and waits for that.
    pub fn stop(&mut self) -> Result<ExitStatus, LabError> {
        self.guard.stop()
    }

    /// Kills it so that it can clean nothing up (SIGKILL).
    pub fn kill(&mut self) -> Result<ExitStatus, LabError> {
        self.guard.signal(Signal::SIGKILL);
        self.guard.wait(GRACE)
    }
}

/// The body of an HTTP answer; an error unless its status is 200.
fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.split_ascii_whitespace().nth(1) == Some("200") {
        return Ok(body.to_owned());
    }
    Err(std::io::Error::other(head.lines().next().unwrap_or("no answer").to_owned()))
}

/// What a service tells its manager by `sd_notify`. Read all the time: the socket holds few messages, and a service
/// whose messages nobody reads would block.
#[derive(Debug)]
struct Notices {
    heard: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Notices {
    fn listen(path: &Path) -> Result<Self, LabError> {
        // Left by an earlier service of the same name; one that is not there is fine.
        let _ = std::fs::remove_file(path);
        let socket =
            UnixDatagram::bind(path).map_err(|source| LabError::io("cannot listen on", path, source))?;
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .map_err(|source| LabError::io("cannot listen on", path, source))?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (into, until) = (Arc::clone(&heard), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut buffer = [0_u8; 4096];
            while !until.load(Ordering::Relaxed) {
                if let Ok(len) = socket.recv(&mut buffer) {
                    let message = String::from_utf8_lossy(&buffer[..len]).into_owned();
                    into.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .extend(message.lines().map(str::to_owned));
                }
            }
        });
        Ok(Notices { heard, stop, thread: Some(thread) })
    }

    fn all(&self) -> Vec<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn heard(&self, message: &str) -> bool {
        self.all().iter().any(|line| line == message)
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_heard_line_by_line() {
        let path = std::env::temp_dir().join(format!("throughway-notices-{}", std::process::id()));
        let notices = Notices::listen(&path).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        sender.send_to(b"READY=1\nSTATUS=up", &path).unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while !notices.heard("STATUS=up") && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(notices.all(), ["READY=1", "STATUS=up"]);
        std::fs::remove_file(path).unwrap();
    }
}
