//! The few system calls that xsk-rs does not have, or whose results it swallows.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

// From asm-generic/socket.h and linux/if_xdp.h; libc does not have them for every target.
const SO_BUSY_POLL: libc::c_int = 46;
const SO_PREFER_BUSY_POLL: libc::c_int = 69;
const SO_BUSY_POLL_BUDGET: libc::c_int = 70;
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// How long the kernel may poll the device for one call, in microseconds. Calls do not block, so this only has to be non-zero.
const BUSY_POLL_MICROSECONDS: libc::c_int = 20;
/// How many packets the kernel may take from the device for one call.
const BUSY_POLL_BUDGET: libc::c_int = 64;

fn check(result: libc::ssize_t) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the kernel work on the transmit ring.
#[inline]
pub(super) fn kick_transmit(fd: RawFd) -> io::Result<()> {
    // SAFETY: no buffer and no address are passed.
    check(unsafe { libc::sendto(fd, ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) })
}

/// Makes the kernel work on the fill ring, and poll the device when busy polling.
#[inline]
pub(super) fn kick_receive(fd: RawFd) -> io::Result<()> {
    // SAFETY: no buffer and no address are passed.
    check(unsafe {
        libc::recvfrom(fd, ptr::null_mut(), 0, libc::MSG_DONTWAIT, ptr::null_mut(), ptr::null_mut())
    })
}

/// Waits until one of `fds` is ready or `timeout` has passed.
pub(super) fn poll(fds: &mut [libc::pollfd], timeout: Duration) -> io::Result<()> {
    let timeout = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: `fds` is valid for its length; `timeout` lives until the call returns; no signal mask is given.
    let ready = unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, &timeout, ptr::null()) };
    check(ready as libc::ssize_t)
}

fn set_option(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is an int, and its size is given.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), size) } as libc::ssize_t)
}

/// Has the kernel process the queue in our calls instead of in interrupts.
pub(super) fn prefer_busy_poll(fd: RawFd) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, SO_PREFER_BUSY_POLL, 1)?;
    set_option(fd, libc::SOL_SOCKET, SO_BUSY_POLL, BUSY_POLL_MICROSECONDS)?;
    set_option(fd, libc::SOL_SOCKET, SO_BUSY_POLL_BUDGET, BUSY_POLL_BUDGET)
}

/// Lets one call transmit more packets than 32 in copy mode (Linux 6.17 and newer).
pub(super) fn set_transmit_budget(fd: RawFd, packets: u32) -> io::Result<()> {
    set_option(
        fd,
        libc::SOL_XDP,
        XDP_MAX_TX_SKB_BUDGET,
        libc::c_int::try_from(packets).unwrap_or(libc::c_int::MAX),
    )
}

/// Whether the kernel granted zero copy to a bound socket.
pub(super) fn zero_copy(fd: RawFd) -> io::Result<bool> {
    let mut options = libc::xdp_options { flags: 0 };
    let mut size = size_of::<libc::xdp_options>() as libc::socklen_t;
    // SAFETY: `options` is as large as `size` says, and both live until the call returns.
    check(unsafe {
        libc::getsockopt(fd, libc::SOL_XDP, libc::XDP_OPTIONS, (&raw mut options).cast(), &mut size)
    } as libc::ssize_t)?;
    Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// The MTU of a device in the namespace of this thread.
pub(super) fn mtu(device: &str) -> io::Result<u32> {
    // SAFETY: `ifreq` is plain integers and bytes, for which zero is a value.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    // The last byte stays zero: the name is a C string.
    if device.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: the call takes three integers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(fd as libc::ssize_t)?;
    // SAFETY: the descriptor was just opened and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: SIOCGIFMTU reads the name from an `ifreq` and writes the MTU into it.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU as _, &raw mut request) };
    check(result as libc::ssize_t)?;
    // SAFETY: SIOCGIFMTU has filled in this member of the union.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    Ok(u32::try_from(mtu).unwrap_or(0))
}

const _: () = assert!(size_of::<libc::xdp_options>() == 4);
