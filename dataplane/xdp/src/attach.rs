//! The program on an interface: attach, take over, detach.
//!
//! Over netlink rather than by a link owned by the process, so that the program stays when the process is killed: see
//! `docs/adr/0003-attach-over-netlink.md`.

use std::{fmt, io, os::fd::AsFd};

use aya::programs::{ProgramError, ProgramFd, ProgramInfo, loaded_programs};
use throughway_shared::steer::PROGRAM;

use crate::{
    SteeringError,
    netlink::{Attached, Change, Layer, Link, Refused},
    owner::Owner,
};

/// Which way of attaching is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Native where the driver can, else generic. A leftover program is replaced in the mode it has.
    #[default]
    Auto,
    /// Native or not at all.
    Native,
    /// Generic, even where native could be had.
    Generic,
}

impl Mode {
    /// What is tried, in order.
    const fn tried(self) -> &'static [Granted] {
        match self {
            Mode::Auto => &[Granted::Native, Granted::Generic],
            Mode::Native => &[Granted::Native],
            Mode::Generic => &[Granted::Generic],
        }
    }

    /// A program in that layer is where it may be.
    fn allows(self, layer: Layer) -> Option<Granted> {
        self.tried().iter().copied().find(|mode| mode.layer() == layer)
    }
}

/// Which way of attaching was granted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Granted {
    /// The driver runs the program before it makes a socket buffer.
    Native,
    /// The kernel runs the program after it has made a socket buffer: works everywhere, at a price.
    Generic,
}

impl Granted {
    /// The label used in metrics and output.
    pub const fn label(self) -> &'static str {
        match self {
            Granted::Native => "native",
            Granted::Generic => "generic",
        }
    }

    fn layer(self) -> Layer {
        match self {
            Granted::Native => Layer::Native,
            Granted::Generic => Layer::Generic,
        }
    }
}

impl fmt::Display for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layer::Native => "native",
            Layer::Generic => "generic",
            Layer::Hardware => "hardware",
        })
    }
}

/// One attempt to attach that the kernel refused.
#[derive(Debug)]
pub struct Refusal {
    /// In which mode.
    pub mode: Granted,
    /// What the kernel answered.
    pub error: io::Error,
    /// The kernel's own words, where it gave any.
    pub message: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.mode)?;
        match &self.message {
            Some(message) => write!(f, "{message} ({})", self.error)?,
            None => write!(f, "{}", self.error)?,
        }
        match self.hint() {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl Refusal {
    /// What to do about it, where that is known.
    fn hint(&self) -> Option<&'static str> {
        let said = self.message.as_deref().unwrap_or_default().to_ascii_lowercase();
        let hint = match self.error.raw_os_error()? {
            libc::EPERM | libc::EACCES => "needs CAP_NET_ADMIN and CAP_BPF, or root",
            libc::ERANGE => "lower the MTU; of a veth pair, that of the other end",
            _ if said.contains("mtu") => "lower the MTU; of a veth pair, that of the other end",
            _ if said.contains("lro") => "switch it off: ethtool -K DEVICE lro off",
            libc::EOPNOTSUPP if self.mode == Granted::Native => "the driver cannot run XDP programs",
            libc::EEXIST | libc::EBUSY => "another program holds the interface: ip link show dev DEVICE",
            libc::ENOMEM => {
                "the driver found no memory for its receive rings: fewer or smaller queues need less"
            }
            libc::ENOSPC => "the driver needs more transmit queues for XDP: use fewer channels (ethtool -L)",
            _ => return None,
        };
        Some(hint)
    }
}

/// Why the program could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// There is no such interface in this network namespace.
    #[error("{interface}: there is no interface with index {ifindex} in this network namespace")]
    NotFound {
        /// Name of the interface.
        interface: String,
        /// Its index.
        ifindex: u32,
    },
    /// A live instance has the interface.
    #[error("{interface}: another instance of throughway has this interface: stop it first")]
    InUse {
        /// Name of the interface.
        interface: String,
    },
    /// Somebody else's program is attached. It is left alone.
    #[error(
        "{interface}: another XDP program is attached: {program:?} (id {id}, {mode}): \
         `bpftool prog show id {id}` tells more, `ip link set dev {interface} {off} off` removes it",
        off = off(mode)
    )]
    Foreign {
        /// Name of the interface.
        interface: String,
        /// Name of the program.
        program: String,
        /// Id of the program.
        id: u32,
        /// `native`, `generic` or `hardware`.
        mode: String,
    },
    /// A program is attached that cannot be looked at.
    #[error(
        "{interface}: XDP program {id} is attached and cannot be identified: {source} (that needs CAP_SYS_ADMIN, or root)"
    )]
    Unidentified {
        /// Name of the interface.
        interface: String,
        /// Id of the program.
        id: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused every mode that was allowed.
    #[error("{interface}: cannot attach the XDP program: {}", list(.refusals))]
    Refused {
        /// Name of the interface.
        interface: String,
        /// One a mode.
        refusals: Vec<Refusal>,
    },
    /// The kernel refused to detach.
    #[error("{interface}: cannot detach the XDP program: {refusal}")]
    Detach {
        /// Name of the interface.
        interface: String,
        /// What it said.
        refusal: Refusal,
    },
    /// The loaded program cannot be used.
    #[error("{interface}: {source}")]
    Program {
        /// Name of the interface.
        interface: String,
        /// Why.
        source: Box<SteeringError>,
    },
    /// A system call failed.
    #[error("{interface}: {call}: {source}")]
    System {
        /// Name of the interface.
        interface: String,
        /// Which one.
        call: &'static str,
        /// What it said.
        source: io::Error,
    },
}

/// How `ip link` calls a mode.
fn off(mode: &str) -> &'static str {
    match mode {
        "generic" => "xdpgeneric",
        "hardware" => "xdpoffload",
        _ => "xdpdrv",
    }
}

fn list(refusals: &[Refusal]) -> String {
    refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The program on one interface. Detaches when dropped.
pub struct Attachment {
    interface: String,
    mode: Granted,
    fallback: Option<String>,
    took_over: bool,
    program: ProgramFd,
    id: u32,
    link: Link,
    attached: bool,
    // Last: the interface is free for others when everything else is done.
    _owner: Owner,
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachment")
            .field("interface", &self.interface)
            .field("mode", &self.mode)
            .field("fallback", &self.fallback)
            .field("took_over", &self.took_over)
            .finish_non_exhaustive()
    }
}

impl Attachment {
    /// Name of the interface when it was attached to.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The mode that was granted.
    pub fn mode(&self) -> Granted {
        self.mode
    }

    /// Why the mode is not native though [`Mode::Auto`] would have preferred it.
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// The kernel's number of the program. Who remembers it can take over from this instance, should it die, without
    /// CAP_SYS_ADMIN: see [`Steering::attach_after`](crate::Steering::attach_after).
    pub fn program_id(&self) -> u32 {
        self.id
    }

    /// Whether this replaced the program of an instance that had died.
    pub fn took_over(&self) -> bool {
        self.took_over
    }

    /// Takes the program off the interface, if it is still this one: what somebody else put there stays. Frames go to the
    /// kernel from now on, whatever the fail mode.
    ///
    /// # Errors
    ///
    /// When the kernel refuses. An interface that is gone is no error.
    pub fn detach(mut self) -> Result<(), AttachError> {
        self.take_off()
    }

    /// Leaves the program on the interface, as if this process had died: the next instance takes over from it.
    pub fn leave(mut self) {
        self.attached = false;
    }

    fn take_off(&mut self) -> Result<(), AttachError> {
        if !std::mem::take(&mut self.attached) {
            return Ok(());
        }
        let change = Change::Detach(Some(self.program.as_fd()));
        let Err(refused) = self.link.change(self.mode.layer(), change) else { return Ok(()) };
        if refused.error.raw_os_error() == Some(libc::ENODEV) {
            return Ok(());
        }
        match self.link.attached() {
            Ok(attached) if attached.iter().all(|attached| attached.id != self.id) => {
                tracing::warn!(interface = self.interface, "somebody removed or replaced our XDP program");
                Ok(())
            }
            _ => {
                let (interface, refusal) = (self.interface.clone(), refusal(self.mode, refused));
                Err(AttachError::Detach { interface, refusal })
            }
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if let Err(error) = self.take_off() {
            tracing::error!(%error, "an XDP program stays attached");
        }
    }
}

fn refusal(mode: Granted, Refused { error, message }: Refused) -> Refusal {
    Refusal { mode, error, message }
}

/// An interface that is ours to change, with what an earlier instance left on it.
pub struct Claim {
    interface: String,
    owner: Owner,
    link: Link,
    /// With a descriptor, unless only the id tells that it is ours.
    leftovers: Vec<(Attached, Option<ProgramFd>)>,
}

impl Claim {
    /// Claims the interface `ifindex`, called `name`, for [`Steering::attach_claimed`](crate::Steering::attach_claimed): nobody else has it
    /// as long as the claim is there. Looked up in the network namespace of the calling thread. Where an earlier instance is known to have
    /// attached the program with the id `known` ([`Attachment::program_id`]), it is taken over even where other programs cannot be
    /// identified for want of CAP_SYS_ADMIN.
    ///
    /// # Errors
    ///
    /// When another live instance has the interface, or a foreign program is on it.
    pub fn new(ifindex: u32, name: &str, known: Option<u32>) -> Result<Claim, AttachError> {
        let interface = name.to_owned();
        let system = |call| {
            let interface = interface.clone();
            move |source| AttachError::System { interface, call, source }
        };
        let owner = Owner::acquire(ifindex).map_err(system("bind to the name of the interface"))?;
        let Some(owner) = owner else { return Err(AttachError::InUse { interface }) };
        let link = Link::open(ifindex).map_err(system("open a netlink socket"))?;
        let attached = link.attached().map_err(|refused| match refused.error.raw_os_error() {
            Some(libc::ENODEV) => AttachError::NotFound { interface: interface.clone(), ifindex },
            _ => system("ask for the interface")(refused.error),
        })?;
        let mut leftovers = Vec::new();
        for attached in attached {
            let id = attached.id;
            let unidentified =
                |source| AttachError::Unidentified { interface: interface.clone(), id, source };
            let program = match identify(id) {
                Ok(Some(program)) => program,
                Ok(None) => continue,
                // Other programs' names are for CAP_SYS_ADMIN, which a service does without.
                Err(error) if known == Some(id) && error.raw_os_error() == Some(libc::EPERM) => {
                    leftovers.push((attached, None));
                    continue;
                }
                Err(error) => return Err(unidentified(error)),
            };
            if program.name() != PROGRAM.as_bytes() {
                let program = String::from_utf8_lossy(program.name()).into_owned();
                let mode = attached.layer.to_string();
                return Err(AttachError::Foreign { interface, program, id, mode });
            }
            let program = program.fd().map_err(|error| unidentified(system_error(error)))?;
            leftovers.push((attached, Some(program)));
        }
        Ok(Claim { interface, owner, link, leftovers })
    }

    /// Name of the interface.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The mode of an earlier instance's program that will be replaced in one step when `mode` is asked for; `None`: there is no such
    /// program.
    pub fn replaces(&self, mode: Mode) -> Option<Granted> {
        self.leftovers.iter().find_map(|(attached, _)| mode.allows(attached.layer))
    }

    /// Takes a leftover program off.
    fn remove(&self, attached: Attached, program: Option<&ProgramFd>) -> Result<(), AttachError> {
        let mode = if attached.layer == Layer::Generic { Granted::Generic } else { Granted::Native };
        let program = program.map(AsFd::as_fd);
        self.link.change(attached.layer, Change::Detach(program)).map_err(|refused| AttachError::Detach {
            interface: self.interface.clone(),
            refusal: refusal(mode, refused),
        })
    }
}

/// The loaded program `id`; `None` when it is gone by now.
fn identify(id: u32) -> io::Result<Option<ProgramInfo>> {
    for program in loaded_programs() {
        match program.map_err(system_error) {
            Ok(program) if program.id() == id => return Ok(Some(program)),
            Ok(_) => {}
            // A program that went while it was looked at.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn system_error(error: ProgramError) -> io::Error {
    match error {
        ProgramError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("interface", &self.interface).finish_non_exhaustive()
    }
}

/// Attaches `program`, whose id is `id`.
pub(crate) fn attach(
    program: &ProgramFd,
    id: u32,
    mut claim: Claim,
    mode: Mode,
) -> Result<Attachment, AttachError> {
    let program = program.try_clone().map_err(|source| AttachError::System {
        interface: claim.interface.clone(),
        call: "duplicate the program's descriptor",
        source,
    })?;
    let mut refusals = Vec::new();
    let mut granted = None;
    let took_over = !claim.leftovers.is_empty();
    for (attached, old) in std::mem::take(&mut claim.leftovers) {
        let Some(mode) = mode.allows(attached.layer).filter(|_| granted.is_none()) else {
            // Not where it is to be. The kernel allows one mode at a time, so this cannot be done in one step.
            claim.remove(attached, old.as_ref())?;
            continue;
        };
        let change = Change::Replace { old: old.as_ref().map(AsFd::as_fd), new: program.as_fd() };
        match claim.link.change(attached.layer, change) {
            Ok(()) => granted = Some(mode),
            Err(refused) => {
                refusals.push(refusal(mode, refused));
                return Err(AttachError::Refused { interface: claim.interface, refusals });
            }
        }
    }
    let mut fallback = (granted == Some(Granted::Generic) && mode == Mode::Auto)
        .then(|| "took over from an instance that ran in generic mode".to_owned());
    if granted.is_none() {
        for &mode in mode.tried() {
            match claim.link.change(mode.layer(), Change::Attach(program.as_fd())) {
                Ok(()) => {
                    granted = Some(mode);
                    break;
                }
                Err(refused) => refusals.push(refusal(mode, refused)),
            }
        }
        fallback = (!refusals.is_empty()).then(|| list(&refusals));
    }
    let Claim { interface, owner, link, .. } = claim;
    match granted {
        Some(mode) => Ok(Attachment {
            interface,
            mode,
            fallback,
            took_over,
            program,
            id,
            link,
            attached: true,
            _owner: owner,
        }),
        None => Err(AttachError::Refused { interface, refusals }),
    }
}

/// Takes our program off the interface `ifindex`, called `name`, after the instance that attached it has died; `known` as for
/// [`Claim::new`]. Returns its id; `None`: none was there. Looked up in the network namespace of the calling thread.
///
/// # Errors
///
/// When a live instance has the interface, a foreign program is on it, or the kernel refuses.
pub fn detach_leftover(ifindex: u32, name: &str, known: Option<u32>) -> Result<Option<u32>, AttachError> {
    let mut claim = Claim::new(ifindex, name, known)?;
    let leftovers = std::mem::take(&mut claim.leftovers);
    for (attached, program) in &leftovers {
        claim.remove(*attached, program.as_ref())?;
    }
    Ok(leftovers.first().map(|(attached, _)| attached.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(mode: Granted, errno: i32, message: Option<&str>) -> String {
        let error = io::Error::from_raw_os_error(errno);
        Refusal { mode, error, message: message.map(str::to_owned) }.to_string()
    }

    #[test]
    fn refusals_say_what_to_do() {
        let mtu = refusal(Granted::Native, libc::ERANGE, Some("Peer MTU is too large to set XDP"));
        assert!(
            mtu.starts_with("native: Peer MTU is too large to set XDP (") && mtu.contains("lower the MTU"),
            "{mtu}"
        );
        let capability = refusal(Granted::Generic, libc::EPERM, None);
        assert!(capability.contains("CAP_NET_ADMIN"), "{capability}");
        let driver = refusal(Granted::Native, libc::EOPNOTSUPP, None);
        assert!(driver.contains("the driver cannot run XDP programs"), "{driver}");
        let unknown = refusal(Granted::Native, libc::EINVAL, None);
        assert_eq!(unknown, format!("native: {}", io::Error::from_raw_os_error(libc::EINVAL)));
    }
}
