//! Processes that do not outlive their guard.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::LabError;

/// How often a process that is waited for is looked at.
const GLANCE: Duration = Duration::from_millis(5);
/// How long a process may take to end after it was asked to: a generator took more than five seconds once, beside a build at the lowest
/// priority. (Supposed, not traced: it waited for RCU when it gave its program back.)
pub(crate) const GRACE: Duration = Duration::from_secs(30);

/// What a process left behind.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to its standard output, as text.
    pub stdout: String,
    /// What it wrote to its standard error, as text.
    pub stderr: String,
}

impl From<std::process::Output> for Output {
    fn from(output: std::process::Output) -> Self {
        Output { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Output {
    /// The output when the process ended well, otherwise an error that says what it said.
    pub fn success(self, command: &str) -> Result<Self, LabError> {
        if self.status.success() {
            return Ok(self);
        }
        let message = format!("{}{}", self.stderr, self.stdout).trim().to_owned();
        Err(LabError::Failed { command: command.to_owned(), status: self.status.to_string(), message })
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A running process; dropped, it is asked to end and then made to.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    command: String,
}

impl Guard {
    /// Starts `command` in a process group of its own, so that Ctrl-C at the terminal reaches only us and we decide.
    /// What it writes goes to `log`, or nowhere.
    pub fn spawn(mut command: Command, line: String, log: Option<&Path>) -> Result<Self, LabError> {
        use std::os::unix::process::CommandExt;
        let (out, err) = match log {
            None => (Stdio::null(), Stdio::null()),
            Some(path) => {
                let file = File::create(path).map_err(|source| LabError::io("cannot write", path, source))?;
                let twin = file.try_clone().map_err(|source| LabError::io("cannot write", path, source))?;
                (Stdio::from(file), Stdio::from(twin))
            }
        };
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(|source| LabError::io("cannot run", command.get_program(), source))?;
        Ok(Guard { child, command: line })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status when it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        // A process that has already ended is what was wanted.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
    }

    /// Waits for its end, at most `patience`.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus, LabError> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(LabError::TimedOut {
                    command: self.command.clone(),
                    seconds: patience.as_secs(),
                });
            }
            std::thread::sleep(GLANCE);
        }
    }

    /// Asks it to end (SIGTERM) and waits for that.
    pub fn stop(&mut self) -> Result<ExitStatus, LabError> {
        self.signal(Signal::SIGTERM);
        self.wait(GRACE)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.ended().is_none() && self.stop().is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Runs `command` to its end, at most `patience`, or until `interrupt` is set.
pub(crate) fn run_for(
    mut command: Command,
    line: &str,
    patience: Duration,
    interrupt: &Arc<AtomicBool>,
) -> Result<Output, LabError> {
    use std::os::unix::process::CommandExt;
    let mut child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| LabError::io("cannot run", command.get_program(), source))?;
    let stdout = child.stdout.take().map(collect);
    let stderr = child.stderr.take().map(collect);
    let mut guard = Guard { child, command: line.to_owned() };
    let deadline = Instant::now() + patience;
    let status = loop {
        if let Some(status) = guard.ended() {
            break status;
        }
        if interrupt.load(Ordering::Relaxed) {
            return Err(LabError::Interrupted);
        }
        if Instant::now() >= deadline {
            return Err(LabError::TimedOut { command: line.to_owned(), seconds: patience.as_secs() });
        }
        std::thread::sleep(GLANCE);
    };
    Ok(Output { status, stdout: collected(stdout), stderr: collected(stderr) })
}

/// Reads a pipe to its end beside us, so that a full pipe does not stop its writer.
fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is still what was written.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

fn collected(reader: Option<JoinHandle<Vec<u8>>>) -> String {
    text(reader.and_then(|thread| thread.join().ok()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_guard_takes_its_process_along() {
        let guard = Guard::spawn(shell("exec sleep 60"), "sleep".to_owned(), None).unwrap();
        let pid = Pid::from_raw(guard.pid().cast_signed());
        assert!(kill(pid, None).is_ok());
        drop(guard);
        assert!(kill(pid, None).is_err());
    }

    #[test]
    fn a_run_ends_at_its_deadline_and_on_request() {
        let begun = Instant::now();
        let idle = Arc::new(AtomicBool::new(false));
        let error = run_for(shell("exec sleep 60"), "sleep", Duration::from_millis(50), &idle).unwrap_err();
        assert!(matches!(error, LabError::TimedOut { .. }), "{error}");
        let stop = Arc::new(AtomicBool::new(true));
        let error = run_for(shell("exec sleep 60"), "sleep", Duration::from_secs(60), &stop).unwrap_err();
        assert!(matches!(error, LabError::Interrupted), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(10));
        let output = run_for(shell("echo a; echo b >&2"), "echo", Duration::from_secs(10), &idle).unwrap();
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("a\n", "b\n"));
    }
}
