//! Loads the XDP steering program, attaches it to interfaces, and tells it what is ours.
//!
//! * [`Steering`]: the loaded program and its maps: interfaces, local addresses, AF_XDP sockets, counters.
//! * [`Attachment`]: the program on one interface; detached when dropped.
//! * [`EarlySets`]: sources whose packets are dropped before anything else.
//! * [`FastFlows`]: the established flows of a worker that the program executes by itself, in shared memory.
//! * [`detach_leftover`]: cleans up after an instance that was killed.
//!
//! # Order
//!
//! 1. [`Steering::load`], then [`Steering::set_interface`] and the local addresses: an interface that the program does
//!    not know passes everything to the kernel, fail closed or not.
//! 2. [`Steering::attach`] *before* AF_XDP sockets are bound: attaching may reset the queues that sockets are bound to. Replacing the program
//!    of an earlier instance ([`Claim::replaces`]) does not: then sockets come first, and no packet is without one.
//! 3. Bind the sockets, then [`Steering::register_socket`]: from now on frames reach the workers.
//!
//! At exit the other way round: detach *before* the sockets are closed, so that no frame is sent to a closed one.
//!
//! # When the process dies
//!
//! The program is attached over netlink, not by a link owned by the process: it stays when the process is killed. The
//! kernel takes the process's sockets out of the map, so every frame finds no worker and goes to the kernel (fail open)
//! or is dropped (fail closed). The next instance takes the interface over atomically. An orderly exit detaches.
#![deny(unsafe_code)]

mod attach;
mod claims;
mod counters;
mod early;
mod fast;
mod netlink;
mod owner;
mod steering;
mod trial;

pub use attach::{AttachError, Attachment, Claim, Granted, Mode, Refusal, detach_leftover};
pub use claims::{AddressChanges, LocalAddresses, Recipient};
pub use counters::Counters;
pub use early::{EarlyPrefix, EarlyRoom, EarlySets, MOST_EARLY_PREFIXES};
pub use fast::{
    Back, FAST_VISIT, FastConfig, FastCount, FastFlow, FastFlows, FastPlace, FastRefusal, NotExecutable,
    SharedWords, Word,
};
pub use steering::{OBJECT, Steering, SteeringError};
pub use trial::Trial;
