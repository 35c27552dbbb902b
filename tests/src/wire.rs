//! Frames written to and read from a host's device, byte by byte, past its own network stack.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use throughway_lab::Host;

use crate::Scene;

/// Sends each line of its input, a frame in hexadecimal digits, and writes each frame that comes in.
const SCRIPT: &str = "import socket, sys, threading\n\
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); s.bind(('eth0', 0))\n\
def receive():\n while True:\n  frame, address = s.recvfrom(65536)\n  \
if address[2] != 4: print(frame.hex(), flush=True)\n\
threading.Thread(target=receive, daemon=True).start()\n\
print('', flush=True)\n\
for line in sys.stdin: s.send(bytes.fromhex(line))\n";

/// How long a frame is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// The device of a host; ends with this value.
#[derive(Debug)]
pub struct Wire {
    child: Child,
    input: ChildStdin,
    frames: Receiver<Vec<u8>>,
    /// Destination and source of every frame that is sent: the box, and the host.
    macs: [u8; 12],
}

fn mac(scene: &Scene, host: Host, device: &str) -> (String, Vec<u8>) {
    let text = scene.run(host, &["cat", &format!("/sys/class/net/{device}/address")]).stdout;
    let text = text.trim().to_owned();
    let octets = text.split(':').filter_map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    (text, octets)
}

impl Wire {
    /// The device of `host`, which the box reaches by `device`. The box takes `addresses` for neighbours there; the host has none of them, so
    /// its kernel answers nothing.
    pub fn of(scene: &Scene, host: Host, device: &str, addresses: &[&str]) -> Wire {
        let (text, own) = mac(scene, host, "eth0");
        let (_, boxed) = mac(scene, Host::Box, device);
        for address in addresses {
            let neighbour = ["ip", "neighbour", "replace", address, "lladdr", &text, "dev", device];
            scene.run(Host::Box, &[&neighbour[..], &["nud", "permanent"]].concat());
        }
        let command = scene.lab.command(host, &["python3", "-c", SCRIPT]);
        let mut command = command.unwrap_or_else(|error| panic!("{error}"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python starts");
        let input = child.stdin.take().expect("a pipe");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        // It listens.
        assert!(matches!(lines.next(), Some(Ok(line)) if line.is_empty()));
        let (sender, frames) = channel();
        std::thread::spawn(move || {
            let octet = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap_or(""), 16).ok();
            for line in lines.map_while(Result::ok) {
                let frame = line.trim().as_bytes().chunks(2).filter_map(octet).collect();
                if sender.send(frame).is_err() {
                    return;
                }
            }
        });
        let macs = [boxed, own].concat().try_into().expect("two addresses of six bytes");
        Wire { child, input, frames, macs }
    }

    /// Sends a frame to the box, whatever addresses its Ethernet header has.
    pub fn send(&mut self, frame: &[u8]) {
        let mut line = String::new();
        for octet in self.macs.iter().chain(frame.iter().skip(12)) {
            line.push_str(&format!("{octet:02x}"));
        }
        line.push('\n');
        self.input.write_all(line.as_bytes()).and_then(|()| self.input.flush()).expect("python reads");
    }

    /// The next frame that `wanted` makes something of; others are thrown away.
    pub fn next<T>(&mut self, mut wanted: impl FnMut(&[u8]) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            if let Some(found) = wanted(&self.frames.recv_timeout(left).ok()?) {
                return Some(found);
            }
        }
        None
    }

    /// What `wanted` makes of the frames that are there; others are thrown away.
    pub fn waiting<T>(&mut self, mut wanted: impl FnMut(&[u8]) -> Option<T>) -> Vec<T> {
        self.frames.try_iter().filter_map(|frame| wanted(&frame)).collect()
    }

    /// Whether no frame is there that `wanted` makes something of.
    pub fn is_silent<T>(&mut self, mut wanted: impl FnMut(&[u8]) -> Option<T>) -> bool {
        self.frames.try_iter().all(|frame| wanted(&frame).is_none())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
