//! The cores of everything that is no worker.
//!
//! A thread of ours that wakes up on a worker's core keeps the worker from its packets until it sleeps again, some ten or hundred
//! microseconds a time, and while a reload compiles rules for a scheduler's slice. So they run elsewhere, where there is anywhere else.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The cores that a thread may run on; of number 0, the calling one.
///
/// # Errors
/// When the kernel refuses, or there is no such thread.
pub(super) fn of(thread: Pid) -> nix::Result<impl Iterator<Item = usize>> {
    let allowed = sched_getaffinity(thread)?;
    Ok((0..CpuSet::count()).filter(move |core| allowed.is_set(*core) == Ok(true)))
}

/// Keeps the calling thread, and those that it starts from now on, off the cores of `workers`; says whether there are others. Without any,
/// it stays where it may run now.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn leave_to(workers: &[u16]) -> nix::Result<bool> {
    let this = Pid::from_raw(0);
    let mut rest = CpuSet::new();
    let mut any = false;
    for core in of(this)? {
        if !workers.iter().any(|worker| usize::from(*worker) == core) {
            rest.set(core)?;
            any = true;
        }
    }
    if any {
        sched_setaffinity(this, &rest)?;
    }
    Ok(any)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Vec<u16> {
        of(Pid::from_raw(0)).unwrap().map(|core| core as u16).collect()
    }

    #[test]
    fn other_threads_keep_off_the_workers_cores_where_there_are_others() {
        std::thread::spawn(|| {
            let all = here();
            assert_eq!(leave_to(&all), Ok(false));
            assert_eq!(here(), all, "there is nowhere else");
            let Some((first, rest)) = all.split_first().filter(|(_, rest)| !rest.is_empty()) else { return };
            assert_eq!(leave_to(&[*first, 1023]), Ok(true));
            assert_eq!(here(), rest);
            assert_eq!(std::thread::spawn(here).join().unwrap(), rest, "threads that it starts, too");
        })
        .join()
        .unwrap();
    }
}
