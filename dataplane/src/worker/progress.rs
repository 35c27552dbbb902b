//! Whether a worker that makes no rounds hangs, or waits for a core that others have.
//!
//! A worker that hangs is never cured but by another instance. One that gets no processor time (a flood that the kernel receives on
//! its core, a neighbour with a higher priority, a virtual machine that is paused) goes on by itself as soon as it gets some; to end the service
//! for it would turn a slow moment into an outage.

use std::time::{Duration, Instant};

use nix::unistd::Pid;

/// How many checks in a row may see no round. More than one: when the whole process was stopped, the first check afterwards may come
/// before the worker's first round.
const PATIENCE: u32 = 2;
/// Processor time in one round, in ticks of 10 ms (`USER_HZ`), after which the worker is in an endless loop. The longest rounds,
/// those that put new chains in force, take milliseconds.
const ENDLESS: u64 = 200;
/// How long a worker may wait for the kernel itself: far longer than memory or a driver's lock keeps anybody who will go on.
const STUCK: Duration = Duration::from_secs(30);

/// What the kernel says of a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Thread {
    /// `R` running or waiting for a core, `S` asleep, `D` waiting for the kernel itself: proc_pid_stat(5).
    state: char,
    /// Processor time it has had, in ticks of 10 ms (`USER_HZ`).
    ticks: u64,
}

impl Thread {
    /// A thread of this process; `None` when the kernel does not tell.
    pub fn look(thread: Pid) -> Option<Thread> {
        Thread::parse(&std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).ok()?)
    }

    /// Reads `stat`, whose second field is a name that may hold anything, blanks and brackets included.
    fn parse(stat: &str) -> Option<Thread> {
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        // The 14th and 15th of all.
        let user: u64 = fields.nth(10)?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        Some(Thread { state, ticks: user + system })
    }
}

/// What a check found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finding {
    /// It makes rounds, or may yet.
    Runs,
    /// It has had no core for several checks: to be said once.
    Starves,
    /// It makes rounds again after so long.
    RunsAgain(Duration),
    /// It will make no more rounds.
    Hangs,
}

/// What was seen of a worker's rounds.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    rounds: u64,
    /// Its processor time when its last round was seen.
    ticks: u64,
    /// When that was.
    at: Instant,
    /// Checks in a row that saw no further round.
    missed: u32,
    starves: bool,
}

impl Progress {
    /// Nothing seen yet.
    pub fn new(now: Instant) -> Progress {
        Progress { rounds: 0, ticks: 0, at: now, missed: 0, starves: false }
    }

    /// What to think of a worker that is at `rounds`, and of whose `thread` the kernel says this. To be asked regularly.
    pub fn check(&mut self, rounds: u64, thread: Option<Thread>, now: Instant) -> Finding {
        if rounds != self.rounds {
            let starved = self.starves.then(|| now - self.at);
            *self = Progress { rounds, ticks: thread.map_or(0, |thread| thread.ticks), ..Progress::new(now) };
            return starved.map_or(Finding::Runs, Finding::RunsAgain);
        }
        self.missed = self.missed.saturating_add(1);
        if self.missed <= PATIENCE {
            return Finding::Runs;
        }
        match thread {
            Some(Thread { state: 'D', .. }) if now - self.at > STUCK => Finding::Hangs,
            Some(Thread { state: 'R' | 'D', ticks }) if ticks.saturating_sub(self.ticks) < ENDLESS => {
                if std::mem::replace(&mut self.starves, true) {
                    Finding::Runs
                } else {
                    Finding::Starves
                }
            }
            _ => Finding::Hangs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(state: char, ticks: u64) -> Option<Thread> {
        Some(Thread { state, ticks })
    }

    fn findings<const N: usize>(seen: [(u64, Option<Thread>); N]) -> [Finding; N] {
        let start = Instant::now();
        let mut progress = Progress::new(start);
        let mut at = start;
        seen.map(|(rounds, thread)| {
            at += Duration::from_secs(1);
            progress.check(rounds, thread, at)
        })
    }

    use Finding::{Hangs, Runs, RunsAgain, Starves};

    #[test]
    fn one_that_makes_rounds_runs_however_slowly() {
        let asleep = thread('S', 0);
        assert_eq!(findings([1, 2, 2, 2, 3, 3, 3].map(|rounds| (rounds, asleep))), [Runs; 7]);
    }

    #[test]
    fn one_that_sleeps_for_ever_hangs() {
        let asleep = thread('S', 7);
        assert_eq!(findings([3, 3, 3, 3].map(|rounds| (rounds, asleep))), [Runs, Runs, Runs, Hangs]);
        assert_eq!(findings([(3, None); 4]), [Runs, Runs, Runs, Hangs]);
    }

    #[test]
    fn one_in_an_endless_loop_hangs() {
        let at = |second: u64| (3, thread('R', 50 + 100 * second));
        assert_eq!(findings([at(0), at(1), at(2), at(3)]), [Runs, Runs, Runs, Hangs]);
    }

    #[test]
    fn one_without_a_core_starves_and_goes_on() {
        let waits = (3, thread('R', 50));
        let seen = findings([waits, waits, waits, waits, waits, (4, thread('R', 51)), (5, thread('S', 52))]);
        assert_eq!(seen, [Runs, Runs, Runs, Starves, Runs, RunsAgain(Duration::from_secs(5)), Runs]);
    }

    #[test]
    fn one_that_waits_for_the_kernel_for_ever_hangs() {
        let seen = findings([(3, thread('D', 50)); 33]);
        assert_eq!(seen[3], Starves);
        assert_eq!((seen[30], seen[31]), (Runs, Hangs));
    }

    #[test]
    fn the_kernel_tells_of_threads() {
        let text = "4711 (worker-0) x) R 1 2 3 4 5 6 7 8 9 10 120 30 0 0 20 0 1 0 99";
        assert_eq!(Thread::parse(text), thread('R', 150));
        for cut in ["", "1 (x", "1 (x)", "1 (x) R 1 2 3 4 5 6 7 8 9 10 120"] {
            assert_eq!(Thread::parse(cut), None, "{cut}");
        }
        let own = Thread::look(nix::unistd::gettid()).expect("a thread knows itself");
        assert_eq!(own.state, 'R');
        assert_eq!(Thread::look(Pid::from_raw(0)), None);
    }
}
