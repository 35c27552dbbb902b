//! Tests that need root.

use std::io::Write;

/// Set where skipping is a failure: in continuous integration.
const REQUIRED: &str = "THROUGHWAY_REQUIRE_PRIVILEGED";

/// Whether this test may make namespaces and load XDP programs. Says that it is skipped when it may not: written past
/// the test harness, which would keep it for itself.
///
/// ```no_run
/// # use throughway_tests::privileged;
/// if !privileged() {
///     return;
/// }
/// ```
#[must_use]
pub fn privileged() -> bool {
    if nix::unistd::Uid::effective().is_root() {
        return true;
    }
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    assert!(std::env::var_os(REQUIRED).is_none(), "{test} needs root, and {REQUIRED} is set");
    say_skipped(&format!("{test}: needs root (network namespaces, XDP)"));
    false
}

/// Says `skipped: WHAT` on a line of its own, in one piece whatever the test harness prints meanwhile; `make test` counts
/// these lines.
pub fn say_skipped(what: &str) {
    // Nothing can be done when even this cannot be said.
    let _ = std::io::stderr().write_all(format!("\nskipped: {what}\n").as_bytes());
}
