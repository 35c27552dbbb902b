//! What the tests over the whole product share. Each file in `tests/` is one topic.
//!
//! * [`privileged()`]: tests that need root say so when they are skipped, or fail where skipping is not allowed.
//! * [`binary()`]: the `throughway` under test.
//! * [`backends`]: servers that say who they are, and clients that ask them.
//! * [`nginx`]: nginx as backends, and clients that speak HTTP to it.
//! * [`pktgen`]: `throughway pktgen` between client and servers.
//! * [`raw`]: packets made by hand, and the other end of a tunnel.
//! * [`scene`]: a lab with a service in its box; tells its state when a test fails.
//! * [`config`]: configurations for the lab.
//! * [`daemons`]: BIRD and FRR in the hosts of a lab.
//! * [`servers`]: DNS, FTP, HTTP and STUN servers.
//! * [`stream`]: datagrams to an address that two hosts have.
//! * [`datagrams`]: numbered datagrams, counted one by one.
//! * [`echo`]: a TCP connection that goes on for as long as a test does.
//! * [`systemd`]: systemd itself in a host of a lab.
//! * [`wire`]: frames byte by byte.
//! * [`capture`]: capture files.

pub mod backends;
pub mod binary;
pub mod capture;
pub mod config;
pub mod daemons;
pub mod datagrams;
pub mod echo;
pub mod nginx;
pub mod pktgen;
pub mod privileged;
pub mod raw;
pub mod scene;
pub mod servers;
pub mod stream;
pub mod systemd;
pub mod wire;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use binary::binary;
pub use privileged::privileged;
pub use scene::Scene;

/// Says a figure that a test has found, past the test harness.
pub fn note(what: &str) {
    // Nothing can be done when even this cannot be said.
    let _ = std::io::stderr().write_all(format!("{what}\n").as_bytes());
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(PathBuf::from).unwrap_or(here)
}

/// Asks again and again until the answer is `Some`, for as long as it may take where nothing else runs, `patience`, and that again and
/// again: on a machine with other work some steps took seconds longer. (Supposed, not traced: what runs at the lowest priority beside busy
/// polling holds up RCU.) Panics with `what` otherwise. Not for bounds that are promised: those are measured.
#[track_caller]
pub fn eventually<T>(what: &str, patience: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let patience = 4 * patience;
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
