//! The niceness of a thread: -20 (runs rather) to 19.

use std::io;

/// The niceness of a thread, by its id.
///
/// # Errors
/// There is no such thread, or it may not be seen.
pub fn niceness(thread: u32) -> io::Result<i32> {
    // The result may be -1 without an error: errno tells them apart, so it is cleared first.
    // SAFETY: the location is this thread's own, and valid as long as it runs.
    unsafe { *libc::__errno_location() = 0 };
    // SAFETY: the call takes two integers.
    let niceness = unsafe { libc::getpriority(libc::PRIO_PROCESS, thread) };
    match io::Error::last_os_error() {
        error if niceness == -1 && error.raw_os_error() != Some(0) => Err(error),
        _ => Ok(niceness),
    }
}

/// Sets the niceness of a thread, by its id.
///
/// # Errors
/// There is no such thread, or it may not be changed.
pub fn set_niceness(thread: u32, niceness: i32) -> io::Result<()> {
    // SAFETY: the call takes three integers.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, thread, niceness) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_can_be_made_nicer_and_one_that_is_not_there_is_an_error() {
        // SAFETY: the call takes nothing.
        let (me, before) = (unsafe { libc::gettid() } as u32, niceness(0).unwrap());
        set_niceness(me, before + 1).unwrap();
        assert_eq!(niceness(me).unwrap(), before + 1);
        let gone = u32::MAX >> 2;
        assert_eq!(niceness(gone).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        assert_eq!(set_niceness(gone, 0).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }
}
