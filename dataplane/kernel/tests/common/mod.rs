//! Network namespaces for tests, with the `ip` command as the actor outside.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use throughway_kernel::{Changes, Mirror, NudState, State, snapshot};

type Job = Box<dyn FnOnce() + Send>;

/// A fresh network namespace. It lives as long as its thread, which does what it is told, and is gone after it.
pub(crate) struct Namespace {
    jobs: Option<Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
    tid: i32,
}

/// A namespace, or nothing where that is not permitted; with THROUGHWAY_REQUIRE_PRIVILEGED=1 that is a failure.
pub(crate) fn namespace() -> Option<Namespace> {
    let (jobs, todo): (Sender<Job>, Receiver<Job>) = channel();
    let (started, start) = channel();
    let thread = thread::spawn(move || {
        let result = unshare(CloneFlags::CLONE_NEWNET).map(|()| nix::unistd::gettid().as_raw());
        started.send(result).unwrap();
        for job in todo {
            job();
        }
    });
    match start.recv().unwrap() {
        Ok(tid) => {
            let namespace = Namespace { jobs: Some(jobs), thread: Some(thread), tid };
            namespace.ip("link set lo up");
            Some(namespace)
        }
        Err(errno) => {
            assert!(
                std::env::var_os("THROUGHWAY_REQUIRE_PRIVILEGED").is_none_or(|value| value != "1"),
                "cannot make a network namespace: {errno}"
            );
            println!("skipped: needs root ({errno})");
            None
        }
    }
}

impl Namespace {
    /// Does something in the namespace.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        self.jobs.as_ref().unwrap().send(Box::new(move || drop(done.send(work())))).unwrap();
        result.recv().expect("the work in the namespace panicked")
    }

    /// What `ip link set … netns` takes.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/task/{}/ns/net", std::process::id(), self.tid)
    }

    /// Runs `ip` with these words; it must succeed.
    pub(crate) fn ip(&self, words: &str) -> String {
        self.command("ip", words)
    }

    pub(crate) fn command(&self, program: &'static str, words: &str) -> String {
        let arguments: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        let output = self.run(move || Command::new(program).args(arguments).output().unwrap());
        assert!(output.status.success(), "{program} {words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Feeds lines to `ip -batch`; those which fail are passed over when `force`.
    pub(crate) fn batch(&self, lines: String, force: bool) {
        let output = self.run(move || {
            let mut command = Command::new("ip");
            if force {
                command.arg("-force");
            }
            let mut child = command
                .args(["-batch", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        });
        assert!(force || output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub(crate) fn mirror(&self) -> Mirror {
        self.run(Mirror::open).unwrap()
    }

    pub(crate) fn snapshot(&self) -> State {
        self.run(snapshot).unwrap()
    }

    /// The index of an interface, by `ip` and not by the code under test.
    pub(crate) fn index(&self, name: &str) -> u32 {
        let text = self.ip(&format!("-o link show dev {name}"));
        text.split(':').next().unwrap().parse().unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.jobs.take());
        drop(self.thread.take().map(thread::JoinHandle::join));
    }
}

/// Follows the kernel until `wanted` holds, for at most five seconds. Returns all changes on the way.
pub(crate) fn until(mirror: &mut Mirror, what: &str, wanted: impl Fn(&State) -> bool) -> Changes {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut all = Changes::default();
    while !wanted(mirror.state()) {
        assert!(Instant::now() < deadline, "not seen: {what}\n{:#?}", mirror.state());
        let changes = mirror.wait(Duration::from_millis(100)).unwrap();
        all.links.extend(changes.links);
        all.addresses.extend(changes.addresses);
        all.routes.extend(changes.routes);
        all.neighbours.extend(changes.neighbours);
        all.nexthops.extend(changes.nexthops);
        all.overrun |= changes.overrun;
    }
    all
}

/// What two readings a moment apart agree on: neighbours change state silently and with time.
pub(crate) fn comparable(state: &State) -> State {
    let mut state = state.clone();
    state.neighbours.retain(|_, neighbour| neighbour.state == NudState::Permanent);
    state
}

/// Follows the kernel until the mirror is what a fresh reading gives.
pub(crate) fn until_true(mirror: &mut Mirror, namespace: &Namespace) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        while !mirror.wait(Duration::from_millis(30)).unwrap().is_empty() {}
        let (mine, theirs) = (comparable(mirror.state()), comparable(&namespace.snapshot()));
        if mine == theirs {
            return;
        }
        if Instant::now() > deadline {
            report_difference(&mine, &theirs);
            panic!("the mirror is not what the kernel says ({:?})", mirror.stats());
        }
    }
}

fn report_difference(mine: &State, theirs: &State) {
    fn each<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
        mine: &std::collections::BTreeMap<K, V>,
        theirs: &std::collections::BTreeMap<K, V>,
    ) {
        for key in mine.keys().chain(theirs.keys().filter(|key| !mine.contains_key(key))) {
            if mine.get(key) != theirs.get(key) {
                println!("{key:?}\n  mirror: {:?}\n  kernel: {:?}", mine.get(key), theirs.get(key));
            }
        }
    }
    each(&mine.links, &theirs.links);
    each(&mine.addresses, &theirs.addresses);
    let slots = |state: &State| state.routes.iter().map(|(key, slot)| (*key, slot.to_vec())).collect();
    each(&slots(mine), &slots(theirs));
    each(&mine.neighbours, &theirs.neighbours);
    each(&mine.nexthops, &theirs.nexthops);
}
