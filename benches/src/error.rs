//! Why a benchmark could not be run.

use std::path::PathBuf;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A process could not be started or stopped.
    #[error(transparent)]
    Lab(#[from] throughway_lab::LabError),
    /// A program said no.
    #[error("`{command}`: {message}")]
    Command {
        /// The command line.
        command: String,
        /// What it said, or what the system said of it.
        message: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A program's answer was not understood.
    #[error("{what} was not understood: {message}")]
    Answer {
        /// Whose answer.
        what: String,
        /// Why.
        message: String,
    },
    /// This machine cannot run the peer; not a fault of it.
    #[error("{0}")]
    Unavailable(String),
    /// A measurement that proves nothing, such as one in which nothing arrived.
    #[error("{0}")]
    Worthless(String),
    /// Namespaces need root.
    #[error("network namespaces need root: run this as root (sudo)")]
    NotRoot,
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl BenchError {
    pub(crate) fn file(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        BenchError::File { path: path.into(), source }
    }
}

/// What most of the harness gives back.
pub type Result<T> = std::result::Result<T, BenchError>;
