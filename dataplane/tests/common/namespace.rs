//! Tests with the kernel's own programs and devices.

use nix::sched::{CloneFlags, unshare};

/// Runs `ip ARGUMENTS`, which must succeed.
pub fn ip(arguments: &str) -> String {
    let output = std::process::Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `test` in a network namespace of its own; says so when it cannot.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            let required = std::env::var("THROUGHWAY_REQUIRE_PRIVILEGED").is_ok_and(|value| value == "1");
            assert!(!required, "privileges are required and missing: {error}");
            #[allow(clippy::print_stdout, reason = "a skipped test says so")]
            {
                println!("skipped: needs root (CAP_NET_ADMIN, CAP_BPF): {error}");
            }
            return;
        }
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
