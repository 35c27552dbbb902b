//! A network namespace with veth pairs, a program that redirects to sockets, and raw sockets at the far ends.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// Runs `test` in a thread with a network namespace of its own, or skips it without root.
pub(super) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    // One at a time: they measure time and share two cores with whatever else is tested.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // SAFETY: the call takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        assert!(
            std::env::var_os("THROUGHWAY_REQUIRE_PRIVILEGED").is_none_or(|value| value != "1"),
            "privileged tests are required, and this is not root"
        );
        println!("skipped: needs root");
        return;
    }
    let namespaced = thread::spawn(|| {
        // SAFETY: the call takes only flags, and affects this thread alone.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "{}", io::Error::last_os_error());
        test();
    });
    if let Err(panic) = namespaced.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command in this namespace.
pub(super) fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().expect("a program")).args(words).output().expect(command);
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes a veth pair `near`–`far` that is up, without IPv6 chatter and checksum offload.
pub(super) fn veth(near: &str, far: &str, queues: u32) {
    let queues = format!("numrxqueues {queues} numtxqueues {queues}");
    run(&format!("ip link add {near} {queues} type veth peer name {far} {queues}"));
    for device in [near, far] {
        run(&format!("ip link set {device} addrgenmode none"));
        run(&format!("ip link set {device} up"));
    }
    run(&format!("ethtool -K {far} tx off"));
}

fn index(device: &str) -> u32 {
    let name = std::ffi::CString::new(device).expect("a name");
    // SAFETY: `name` is a C string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "{device}: {}", io::Error::last_os_error());
    index
}

/// Calls bpf(2) with an attribute whose size the caller's type gives.
fn bpf<T>(command: u32, attribute: &T) -> io::Result<libc::c_long> {
    // SAFETY: the attribute is as large as said, and what it points to lives until the call returns.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attribute), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn bpf_fd<T>(command: u32, attribute: &T) -> OwnedFd {
    let fd = bpf(command, attribute).expect("bpf(2)");
    // SAFETY: the command made a new descriptor.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// An XDP program that redirects every packet of a device to the socket of its queue; detached when dropped.
#[derive(Debug)]
pub(super) struct Redirect {
    map: OwnedFd,
    _program: OwnedFd,
    _link: OwnedFd,
}

impl Redirect {
    pub(super) fn attach(device: &str) -> Self {
        const MAP_CREATE: u32 = 0;
        const PROG_LOAD: u32 = 5;
        const LINK_CREATE: u32 = 28;
        const XSKMAP: u32 = 17;
        const XDP: u32 = 6;
        const ATTACH_XDP: u32 = 37;
        const DRIVER_MODE: u32 = 4;
        #[repr(C)]
        struct Program {
            kind: u32,
            count: u32,
            instructions: u64,
            license: u64,
        }
        // Type, key size, value size, entries.
        let map = bpf_fd(MAP_CREATE, &[XSKMAP, 4, 4, 16]);
        let fd = map.as_raw_fd() as u64;
        let instructions: [u64; 7] = [
            0x0000_0000_0010_1261,            // r2 = ctx->rx_queue_index
            0x0000_0000_0000_1118 | fd << 32, // r1 = map
            0,
            0x0000_0002_0000_03b7, // r3 = XDP_PASS, where there is no socket
            0x0000_0033_0000_0085, // call bpf_redirect_map
            0x0000_0000_0000_0095, // exit
            0,
        ];
        let program = bpf_fd(
            PROG_LOAD,
            &Program {
                kind: XDP,
                count: 6,
                instructions: instructions.as_ptr() as u64,
                license: c"GPL".as_ptr() as u64,
            },
        );
        let link = bpf_fd(LINK_CREATE, &[program.as_raw_fd() as u32, index(device), ATTACH_XDP, DRIVER_MODE]);
        Self { map, _program: program, _link: link }
    }

    pub(super) fn insert(&self, queue: u32, socket: BorrowedFd<'_>) {
        const MAP_UPDATE_ELEM: u32 = 2;
        let value = socket.as_raw_fd();
        let update = [self.map.as_raw_fd() as u64, &raw const queue as u64, &raw const value as u64, 0];
        bpf(MAP_UPDATE_ELEM, &update).expect("the socket goes into the map");
    }
}

/// A raw socket on one device that sends whole frames and receives whole IPv4 frames.
#[derive(Debug)]
pub(super) struct Wire(OwnedFd);

impl Wire {
    pub(super) fn open(device: &str) -> Self {
        let protocol = (libc::ETH_P_IP as u16).to_be();
        // SAFETY: the call takes three integers.
        let fd =
            unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol.into()) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: the descriptor was just opened.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let buffer: libc::c_int = 64 << 20;
        // SAFETY: the value is an int, and its size is given.
        let result = unsafe {
            libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, (&raw const buffer).cast(), 4)
        };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        // SAFETY: zero is a value of every field.
        let mut address: libc::sockaddr_ll = unsafe { MaybeUninit::zeroed().assume_init() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = index(device) as i32;
        // SAFETY: the address is as large as said.
        let result =
            unsafe { libc::bind(fd, (&raw const address).cast(), size_of_val(&address) as libc::socklen_t) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        Self(socket)
    }

    pub(super) fn send(&self, packet: &[u8]) {
        // SAFETY: the buffer is as long as said.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), packet.as_ptr().cast(), packet.len(), 0) };
        assert_eq!(sent, packet.len() as isize, "{}", io::Error::last_os_error());
    }

    /// The next frame, if one is there.
    pub(super) fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 4096];
        // SAFETY: the buffer is as long as said.
        let length = unsafe {
            libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT)
        };
        if length < 0 {
            assert_eq!(io::Error::last_os_error().kind(), io::ErrorKind::WouldBlock);
            return None;
        }
        buffer.truncate(length as usize);
        Some(buffer)
    }
}

/// An Ethernet, IPv4 and UDP frame of `length` bytes, whose bytes depend on `number`.
pub(super) fn frame(number: u32, length: usize) -> Vec<u8> {
    let mut packet = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    packet.extend([0x45, 0]);
    packet.extend((length as u16 - 14).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend((number as u16).to_be_bytes());
    packet.extend(7u16.to_be_bytes());
    packet.extend((length as u16 - 34).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(number.to_be_bytes());
    packet.resize_with(length, {
        let mut state = number.wrapping_mul(2_654_435_761) | 1;
        move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        }
    });
    packet
}

/// Calls `step` until it says that it is done.
pub(super) fn until(what: &str, mut step: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !step() {
        assert!(Instant::now() < deadline, "not in time: {what}");
    }
}
