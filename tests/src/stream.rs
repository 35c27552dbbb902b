//! A stream of numbered datagrams to an address that two hosts have: which of them got which, and when.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use throughway_lab::{Host, LabError};

use crate::Scene;

/// The receivers' port.
const PORT: u16 = 9001;
/// Between two datagrams.
const PERIOD: Duration = Duration::from_micros(500);

type Arrivals = JoinHandle<Result<Vec<(Instant, u64)>, LabError>>;

/// The stream, from the client.
#[derive(Debug)]
pub struct Stream {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<Result<u64, LabError>>,
    receivers: Vec<Arrivals>,
}

/// What came of it.
#[derive(Debug)]
pub struct Arrived {
    /// How many were sent.
    pub sent: u64,
    /// When each host got which number, in order, for the hosts in the order in which they were given.
    pub by_host: Vec<Vec<(Instant, u64)>>,
}

impl Stream {
    /// Starts sending to `address`, which all of `receivers` have.
    pub fn start(scene: &Scene, receivers: &[Host], address: IpAddr) -> Stream {
        let stop = Arc::new(AtomicBool::new(false));
        let to = SocketAddr::new(address, PORT);
        let receivers = receivers.iter().map(|host| {
            let socket = scene.lab.within(*host, || UdpSocket::bind(to)).expect("the host is there");
            let socket = socket.expect("the host has the address");
            socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout can be set");
            let done = Arc::clone(&stop);
            scene.lab.thread(*host, move || {
                let mut all = Vec::new();
                let mut buffer = [0; 64];
                loop {
                    match socket.recv(&mut buffer) {
                        Ok(_) => {
                            let number =
                                buffer.first_chunk::<8>().map_or(0, |word| u64::from_be_bytes(*word));
                            all.push((Instant::now(), number));
                        }
                        Err(_) if done.load(Ordering::Relaxed) => return all,
                        Err(_) => {}
                    }
                }
            })
        });
        let receivers = receivers.collect();
        let until = Arc::clone(&stop);
        let sender = scene.lab.thread(Host::Client, move || {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).expect("a port is free");
            let begun = Instant::now();
            let mut number = 0u64;
            while !until.load(Ordering::Relaxed) {
                // Errors that come back (host unreachable) are the receivers' to tell.
                let _ = socket.send_to(&[number.to_be_bytes(), [0; 8]].concat(), to);
                number += 1;
                let due = begun + PERIOD * number as u32;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            number
        });
        Stream { stop, sender, receivers }
    }

    /// Stops and tells who got what.
    pub fn finish(self) -> Arrived {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("the thread did not panic").expect("the host is there");
        let by_host = self
            .receivers
            .into_iter()
            .map(|receiver| receiver.join().expect("the thread did not panic").expect("the host is there"));
        Arrived { sent, by_host: by_host.collect() }
    }
}

impl Arrived {
    /// How many different ones arrived at all.
    pub fn arrived(&self) -> u64 {
        let mut numbers: Vec<u64> = self.by_host.iter().flatten().map(|(_, number)| *number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.len() as u64
    }

    /// The first arrival at `host` (by position) after `moment`.
    pub fn first_after(&self, host: usize, moment: Instant) -> Option<Instant> {
        self.by_host.get(host)?.iter().map(|(at, _)| *at).find(|at| *at > moment)
    }
}
