//! What can go wrong between us and the kernel.

use std::io;

/// A conversation with the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A system call on the netlink socket failed.
    #[error("cannot {action} a netlink socket: {source}")]
    Socket {
        /// What was tried: open, send to, read …
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The kernel understood the request and said no.
    #[error("the kernel refused to {request}: {source}{}", detail.as_ref().map(|d| format!(" ({d})")).unwrap_or_default())]
    Refused {
        /// What was asked.
        request: &'static str,
        /// Its error number, as an error.
        source: io::Error,
        /// Its own words (extended acknowledgement), when it had some.
        detail: Option<String>,
    },
    /// No answer in time.
    #[error("the kernel did not answer in time to the request to {request}")]
    Timeout {
        /// What was asked.
        request: &'static str,
    },
    /// Tables changed so fast that no dump of them was whole.
    #[error("could not {request} in {tries} tries: the tables changed meanwhile each time")]
    DumpInterrupted {
        /// What was asked.
        request: &'static str,
        /// How often.
        tries: u32,
    },
    /// Bytes that are no netlink message.
    #[error("the kernel sent what is no valid netlink message: {0}")]
    Malformed(String),
    /// The kernel has no such generic netlink family, mostly for want of a configuration option.
    #[error("this kernel has no netlink family {0:?}")]
    NoFamily(&'static str),
}

impl KernelError {
    /// The error number (`E…`) beneath, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Socket { source, .. } | Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// For want of `CAP_NET_ADMIN` in the owner of the network namespace.
    pub fn is_permission(&self) -> bool {
        matches!(self.errno(), Some(nix::libc::EPERM | nix::libc::EACCES))
    }

    /// The kernel or the driver cannot do this, today or ever.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::NoFamily(_))
            || matches!(self.errno(), Some(nix::libc::EOPNOTSUPP | nix::libc::ENOSYS))
    }
}
