//! Numbered datagrams, counted one by one: what is lost has a number.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use throughway_lab::{Host, Lab, LabError};

/// The receiver's port.
pub const PORT: u16 = 9000;
/// The payload's size in bytes: a number and padding.
const SIZE: usize = 64;
/// Room for a second of traffic, in bytes, so that a receiver that is not scheduled loses nothing.
const BUFFER: usize = 256 << 20;
/// With nothing for so long, everything has arrived.
const QUIET: Duration = Duration::from_millis(700);

/// A stream of numbered datagrams from one host to another.
#[derive(Debug)]
pub struct Datagrams {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    sender: JoinHandle<Result<Sending, LabError>>,
    receiver: JoinHandle<Result<Seen, LabError>>,
}

#[derive(Debug)]
struct Sending {
    sent: u64,
    seconds: f64,
}

/// What arrived.
#[derive(Debug, Default)]
struct Seen {
    /// One bit for each number.
    numbers: Vec<u64>,
    arrived: u64,
    duplicates: u64,
    reordered: u64,
    damaged: u64,
    highest: u64,
}

/// What became of them.
#[derive(Clone, Debug)]
pub struct Report {
    /// How many were sent.
    pub sent: u64,
    /// How many different ones arrived.
    pub arrived: u64,
    /// The numbers of those that did not, the first hundred.
    pub lost: Vec<u64>,
    /// How many arrived again.
    pub duplicates: u64,
    /// How many arrived after one with a higher number.
    pub reordered: u64,
    /// How many arrived with other bytes than were sent.
    pub damaged: u64,
    /// Datagrams sent in a second.
    pub rate: f64,
}

impl Datagrams {
    /// Starts sending `rate` datagrams a second (or as many as this machine can) to `to`, an address of `receiver`.
    pub fn start(lab: &Lab, sender: Host, receiver: Host, to: IpAddr, rate: u64) -> Datagrams {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let address = SocketAddr::new(to, PORT);
        let socket = lab
            .within(receiver, || UdpSocket::bind(address))
            .unwrap_or_else(|error| panic!("{error}"))
            .expect("the receiver's port is free");
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).expect("root may force a receive buffer");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout can be set");
        let done = Arc::clone(&stop);
        let receiver = lab.thread(receiver, move || receive(&socket, &done));
        let (until, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let sender = lab.thread(sender, move || send(address, rate, &until, &count));
        Datagrams { stop, sent, sender, receiver }
    }

    /// How many have been sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until `count` more have been sent.
    pub fn let_pass(&self, count: u64) {
        let until = self.sent() + count;
        crate::eventually("sending", Duration::from_secs(60), || (self.sent() >= until).then_some(()));
    }

    /// Stops sending, waits for what is under way, and counts.
    pub fn finish(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let sending = joined(self.sender);
        let seen = joined(self.receiver);
        let lost = (0..sending.sent).filter(|&number| !contains(&seen.numbers, number)).take(100).collect();
        Report {
            sent: sending.sent,
            arrived: seen.arrived,
            lost,
            duplicates: seen.duplicates,
            reordered: seen.reordered,
            damaged: seen.damaged,
            rate: sending.sent as f64 / sending.seconds.max(0.001),
        }
    }
}

fn joined<T>(thread: JoinHandle<Result<T, LabError>>) -> T {
    thread.join().expect("the thread did not panic").unwrap_or_else(|error| panic!("{error}"))
}

/// Every byte of a datagram follows from its number.
fn datagram(number: u64) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    for (position, word) in (0_u64..).zip(bytes.chunks_exact_mut(8)) {
        word.copy_from_slice(&number.rotate_left(position as u32 * 8).to_be_bytes());
    }
    bytes
}

fn send(to: SocketAddr, rate: u64, stop: &AtomicBool, count: &AtomicU64) -> Sending {
    let any: SocketAddr =
        if to.is_ipv4() { "0.0.0.0:0".parse() } else { "[::]:0".parse() }.expect("an address");
    let socket = UdpSocket::bind(any).expect("a port is free");
    socket.connect(to).expect("there is a route");
    let begun = Instant::now();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
        if number >= due {
            std::thread::sleep(Duration::from_micros(200));
            continue;
        }
        // A sender that was not scheduled catches up in steps, not in one burst that no queue could hold.
        for _ in 0..(due - number).min(64) {
            // A datagram that the sender's own kernel refuses was never sent: the number is tried again.
            if socket.send(&datagram(number)).is_ok() {
                number += 1;
            }
        }
        count.store(number, Ordering::Relaxed);
    }
    Sending { sent: number, seconds: begun.elapsed().as_secs_f64() }
}

fn receive(socket: &UdpSocket, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut buffer = [0; 2 * SIZE];
    let mut last = Instant::now();
    loop {
        match socket.recv(&mut buffer) {
            Ok(len) => {
                last = Instant::now();
                seen.take(&buffer[..len]);
            }
            Err(_) if stop.load(Ordering::Relaxed) && last.elapsed() > QUIET => return seen,
            Err(_) => {}
        }
    }
}

impl Seen {
    fn take(&mut self, bytes: &[u8]) {
        let Some(number) = bytes.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes)) else {
            self.damaged += 1;
            return;
        };
        // The bound keeps a damaged number from taking all memory.
        if bytes != datagram(number) || number > 1 << 32 {
            self.damaged += 1;
            return;
        }
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if word >= self.numbers.len() {
            self.numbers.resize(word + 1, 0);
        }
        if self.numbers[word] & bit != 0 {
            self.duplicates += 1;
            return;
        }
        self.numbers[word] |= bit;
        self.arrived += 1;
        if number < self.highest {
            self.reordered += 1;
        }
        self.highest = self.highest.max(number);
    }
}

fn contains(numbers: &[u64], number: u64) -> bool {
    numbers.get((number / 64) as usize).is_some_and(|word| word & (1 << (number % 64)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_counted_once_and_damage_is_seen() {
        let mut seen = Seen::default();
        for number in [0, 1, 3, 2, 3, 200] {
            seen.take(&datagram(number));
        }
        let mut bad = datagram(5);
        bad[60] ^= 1;
        seen.take(&bad);
        assert_eq!((seen.arrived, seen.duplicates, seen.reordered, seen.damaged), (5, 1, 1, 1));
        assert!(
            contains(&seen.numbers, 200) && !contains(&seen.numbers, 5) && !contains(&seen.numbers, 9999)
        );
    }
}
