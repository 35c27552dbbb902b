//! What can go wrong with a lab.

use std::io;
use std::path::PathBuf;

/// Why a lab could not be brought up or used.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Namespaces need root.
    #[error("network namespaces need root: run this as root (sudo)")]
    NotRoot,
    /// A program is missing.
    #[error("`{program}` is not installed: it is in the package {package} (apt-get install {package})")]
    Missing {
        /// The program that was looked for.
        program: String,
        /// The Debian and Ubuntu package that has it.
        package: &'static str,
    },
    /// A program said no.
    #[error("`{command}` failed ({status}): {message}")]
    Failed {
        /// The command line.
        command: String,
        /// Its exit status, in words.
        status: String,
        /// What it wrote.
        message: String,
    },
    /// A program took longer than it may.
    #[error("`{command}` did not end within {seconds} s")]
    TimedOut {
        /// The command line.
        command: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// Another process uses the lab of that name.
    #[error("the lab `{prefix}` is up already, or in use by another process")]
    Busy {
        /// The lab's prefix.
        prefix: String,
    },
    /// There is no such lab.
    #[error("there is no lab `{prefix}`: bring it up with `throughway lab up`")]
    Absent {
        /// The lab's prefix.
        prefix: String,
    },
    /// A prefix must be usable as part of a namespace's name.
    #[error("`{0}` cannot be the prefix of a lab: 1 to 32 lower-case letters, digits and dashes")]
    BadPrefix(String),
    /// A host that is not in the lab.
    #[error("there is no host `{0}` in the lab: the hosts are client, box, a and b")]
    NoSuchHost(String),
    /// `throughway run` did not become ready.
    #[error("throughway did not become ready: {reason}\n{log}")]
    NotReady {
        /// What happened instead.
        reason: String,
        /// What it logged.
        log: String,
    },
    /// A file or a namespace could not be used.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A step of the demo showed something else than it must.
    #[error("{step}: {message}")]
    Unexpected {
        /// The step.
        step: String,
        /// What was seen.
        message: String,
    },
    /// Ctrl-C, or a request to end.
    #[error("interrupted")]
    Interrupted,
}

impl LabError {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        LabError::Io { what, path: path.into(), source }
    }
}
