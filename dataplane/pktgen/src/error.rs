//! Why traffic could not be sent or counted.

use std::io;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;

/// Why traffic could not be sent or counted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What is asked for contradicts itself or does not fit.
    #[error("{0}")]
    Impossible(String),
    /// There is no such device in this network namespace.
    #[error("there is no device {device} here")]
    NoDevice {
        /// Its name.
        device: String,
    },
    /// The kernel refused the object.
    #[error("cannot load the programs: {0} (CAP_BPF and CAP_NET_ADMIN, or root, are needed)")]
    Load(#[from] EbpfError),
    /// The kernel refused a program, or to run or attach it.
    #[error("{what}: {source}")]
    Program {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: ProgramError,
    },
    /// The object lacks something that this version needs.
    #[error("the BPF object has no {0}")]
    Missing(&'static str),
    /// A map could not be read or written.
    #[error("BPF map {map}: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What the kernel said.
        source: MapError,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A thread of ours ended in a panic.
    #[error("the sending thread died")]
    Died,
}

impl Error {
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let what = what.into();
        move |source| Error::System { what, source }
    }

    pub(crate) fn errno(what: impl Into<String>) -> impl FnOnce(nix::Error) -> Error {
        let what = what.into();
        move |source| Error::System { what, source: source.into() }
    }

    pub(crate) fn program(what: impl Into<String>) -> impl FnOnce(ProgramError) -> Error {
        let what = what.into();
        move |source| Error::Program { what, source }
    }

    pub(crate) fn map(map: &'static str) -> impl Fn(MapError) -> Error {
        move |source| Error::Map { map, source }
    }
}
