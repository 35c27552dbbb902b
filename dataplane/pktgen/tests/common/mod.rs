//! What the tests of this crate share: private network namespaces with a cable in them.

#![allow(dead_code, reason = "every test binary uses its part")]

use std::process::Command;
use std::sync::Mutex;
use std::thread;

use nix::sched::{CloneFlags, unshare};

/// MAC address of `b0`.
pub(crate) const B0: [u8; 6] = [0x02, 0, 0, 0, 0, 0xb0];

/// Runs `test` in a network namespace of its own with a veth pair `a0`–`b0`; skips it without root. One at a time: a
/// generator takes a core for itself.
pub(crate) fn on_a_cable(test: impl FnOnce() + Send + 'static) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !nix::unistd::Uid::effective().is_root() {
        let required = std::env::var("THROUGHWAY_REQUIRE_PRIVILEGED").is_ok_and(|value| value == "1");
        assert!(!required, "privileges are required and missing: needs root");
        #[allow(clippy::print_stdout, reason = "a skipped test says so")]
        {
            println!("skipped: needs root (network namespaces, XDP)");
        }
        return;
    }
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        run("ip link add a0 address 02:00:00:00:00:a0 type veth peer name b0 address 02:00:00:00:00:b0");
        for device in ["a0", "b0"] {
            run(&format!("ip link set {device} addrgenmode none"));
            run(&format!("ip link set {device} up"));
        }
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command in the namespace of the calling thread.
pub(crate) fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}
