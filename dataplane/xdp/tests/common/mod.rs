//! What the tests of this crate share: privileges, private network namespaces, the object under test.

#![allow(dead_code, reason = "every test binary uses its part")]

pub(crate) mod frames;

use std::{
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use nix::sched::{CloneFlags, unshare};
use throughway_xdp::{OBJECT, Steering};

/// Whether the tests that need root can run. Says so when they cannot; panics when they must
/// (`THROUGHWAY_REQUIRE_PRIVILEGED=1`).
pub(crate) fn privileged() -> bool {
    const NEEDED: [u64; 3] = [12, 21, 39]; // CAP_NET_ADMIN, CAP_SYS_ADMIN (namespaces), CAP_BPF
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let effective = u64::from_str_radix(effective.trim(), 16).unwrap();
    let privileged = NEEDED.iter().all(|capability| effective >> capability & 1 == 1);
    if !privileged {
        let required = std::env::var("THROUGHWAY_REQUIRE_PRIVILEGED").is_ok_and(|value| value == "1");
        assert!(!required, "privileges are required and missing: needs root (CAP_NET_ADMIN, CAP_BPF)");
        #[allow(clippy::print_stdout, reason = "a skipped test says so")]
        {
            println!("skipped: needs root (CAP_NET_ADMIN, CAP_BPF)");
        }
    }
    privileged
}

/// The program under test: `THROUGHWAY_BPF_OBJECT`, or the committed one.
pub(crate) fn object() -> Vec<u8> {
    match std::env::var_os("THROUGHWAY_BPF_OBJECT") {
        Some(path) => std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        None => OBJECT.to_vec(),
    }
}

/// The program under test, loaded.
pub(crate) fn load() -> Steering {
    Steering::load_object(&object(), None).unwrap()
}

/// Runs `test` in a network namespace of its own, which goes when the test ends; skips it without root.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !privileged() {
        return;
    }
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set dev lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` with `arguments` in the namespace of the calling thread.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The index of the interface `name` in the namespace of the calling thread. Not from /sys, which shows another one.
pub(crate) fn ifindex(name: &str) -> u32 {
    let output = Command::new("ip").args(["-o", "link", "show", "dev", name]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = String::from_utf8(output.stdout).unwrap();
    output.split(':').next().unwrap().parse().unwrap()
}

/// Another namespace, with a name; removed when dropped.
pub(crate) struct Namespace(pub(crate) String);

impl Namespace {
    /// Makes one.
    pub(crate) fn new() -> Namespace {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = Namespace(format!("twxdp-{}-{number}", std::process::id()));
        ip(&format!("netns add {}", namespace.0));
        namespace
    }

    /// A command that will run in it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}
