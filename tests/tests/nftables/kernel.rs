//! The kernel's side: two namespaces, of which one forwards under nftables and the other is what both its links end in.

use std::fs::File;
use std::io::{IoSlice, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, sendmsg, socket,
};

/// The box that forwards, and the sockets at the far ends of its links: `lan0`, then `wan0`.
pub struct Kernel {
    inner: String,
    outer: String,
    ends: [OwnedFd; 2],
}

/// The MAC addresses of `lan0` and `wan0`.
pub const BOX: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
/// The MAC addresses of the hosts behind them.
pub const HOST: [[u8; 6]; 2] = [[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 2]];

fn run(argv: &str) {
    let mut words = argv.split(' ');
    let output =
        Command::new(words.next().expect("a command")).args(words).output().expect("it is installed");
    assert!(output.status.success(), "{argv}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Does `work` on a thread inside a namespace.
fn within<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let enter = || {
            let file = File::open(format!("/run/netns/{namespace}")).expect("the namespace is there");
            setns(file, CloneFlags::CLONE_NEWNET).expect("root may enter");
            work()
        };
        scope.spawn(enter).join().expect("the work is done")
    })
}

fn set(path: &str, value: &str) {
    let path = format!("/proc/sys/net/{path}");
    std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// A raw socket on a device, for what comes and for what is sent.
fn end(device: &str) -> OwnedFd {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let raw =
        socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).expect("a raw socket");
    let address: LinkAddr = nix::ifaddrs::getifaddrs()
        .expect("the devices are known")
        .filter(|entry| entry.interface_name == device)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .expect("the device has an address");
    bind(raw.as_raw_fd(), &address).expect("the device takes a socket");
    raw
}

impl Kernel {
    /// `name` tells the namespaces of one test from another's.
    pub fn new(name: &str) -> Kernel {
        let process = std::process::id();
        let (inner, outer) = (format!("tw-nft-{name}-{process}"), format!("tw-ends-{name}-{process}"));
        for name in [&inner, &outer] {
            run(&format!("ip netns add {name}"));
        }
        within(&inner, || {
            set("ipv4/ip_forward", "1");
            set("ipv6/conf/all/forwarding", "1");
            for which in ["all", "default"] {
                set(&format!("ipv4/conf/{which}/rp_filter"), "0");
                set(&format!("ipv6/conf/{which}/accept_dad"), "0");
            }
        });
        within(&outer, || set("ipv6/conf/default/disable_ipv6", "1"));
        for (side, device) in ["lan0", "wan0"].into_iter().enumerate() {
            let (near, far) = (mac(BOX[side]), mac(HOST[side]));
            run(&format!(
                "ip link add {device} netns {inner} address {near} type veth peer name {device} netns {outer} address {far}"
            ));
            run(&format!("ip -n {outer} link set {device} up"));
            run(&format!("ip -n {inner} link set {device} up"));
            let net = side + 1;
            run(&format!("ip -n {inner} address add 192.0.{net}.1/24 dev {device}"));
            run(&format!("ip -n {inner} address add fd99:{net}::1/64 dev {device}"));
            for gateway in [format!("192.0.{net}.10"), format!("fd99:{net}::10")] {
                run(&format!(
                    "ip -n {inner} neighbour add {gateway} lladdr {far} nud permanent dev {device}"
                ));
            }
            run(&format!("ip -n {inner} route add 10.{net}.0.0/16 via 192.0.{net}.10"));
            run(&format!("ip -n {inner} route add fd00:{net}::/32 via fd99:{net}::10"));
        }
        let kernel = Kernel { ends: within(&outer, || [end("lan0"), end("wan0")]), inner, outer };
        kernel.nft(
            "table inet t {\n chain f { type filter hook forward priority 0;\n ct state new accept\n }\n}",
        );
        // As Throughway judges without options: no connection is picked up in its middle, windows are not looked at.
        within(&kernel.inner, || {
            set("netfilter/nf_conntrack_tcp_loose", "0");
            set("netfilter/nf_conntrack_tcp_be_liberal", "1");
        });
        kernel
    }

    /// Puts rules into force in place of all others.
    pub fn nft(&self, rules: &str) {
        let text = format!("flush ruleset\n{rules}\n");
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.inner, "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nft is installed");
        child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("nft reads");
        let output = child.wait_with_output().expect("nft ends");
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Lets a frame in from the host behind a link.
    pub fn send(&self, side: usize, frame: &[u8]) {
        let sent =
            sendmsg::<()>(self.ends[side].as_raw_fd(), &[IoSlice::new(frame)], &[], MsgFlags::empty(), None);
        assert_eq!(sent.expect("the device takes a frame"), frame.len());
    }

    /// The frames that have come out at a link.
    pub fn received(&self, side: usize) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(len) = recv(self.ends[side].as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            all.push(buffer[..len].to_vec());
        }
        all
    }

    /// As [`Kernel::received`], until `last` is among them: what was sent before has then come out or will not.
    pub fn received_until(&self, side: usize, last: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut all = Vec::new();
        loop {
            let new = self.received(side);
            let done = new.iter().any(|frame| last(frame));
            all.extend(new);
            if done {
                return all;
            }
            assert!(Instant::now() < deadline, "the kernel forwards nothing");
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

fn mac(octets: [u8; 6]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}

impl Drop for Kernel {
    fn drop(&mut self) {
        for name in [&self.inner, &self.outer] {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}
