//! Asks backends whether they are alive: a thread with an event loop of its own, beside everything else.
//!
//! Every backend that is to be asked has a task. What it hears goes to the load balancer's [`Director`], which decides what
//! follows from it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use throughway_config::Probe;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::AbortHandle;

use crate::assemble::balancer::{Director, Target};
use crate::assemble::state::States;

mod blocking;

/// How often it is looked whom to ask.
const LOOKED: Duration = Duration::from_millis(50);

/// How often time is told to the load balancers.
const TOLD: Duration = Duration::from_millis(500);

/// More of an answer is not read.
const LONGEST_ANSWER: usize = 256 * 1024;

/// Threads for what cannot be asked without one: `icmp` and `exec`.
const THREADS: usize = 64;

/// The running thread.
#[derive(Debug)]
pub struct HealthHandle {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Starts it: it asks for whatever load balancers are in `states`.
///
/// # Errors
/// When the thread or its event loop cannot be made.
pub fn start(states: Arc<States>) -> std::io::Result<HealthHandle> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(THREADS).build()?;
    let stop = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&stop);
    let thread = std::thread::Builder::new().name("health".to_owned()).spawn(move || {
        runtime.block_on(watch(&states, &until));
        // What still waits for an answer is not waited for.
        runtime.shutdown_background();
    })?;
    Ok(HealthHandle { stop, thread: Some(thread) })
}

impl HealthHandle {
    /// Stops asking.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the health checks ended badly");
        }
    }
}

impl Drop for HealthHandle {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The tasks of one load balancer.
struct Asked {
    director: Arc<Director>,
    epoch: Option<u64>,
    tasks: Vec<(Target, AbortHandle)>,
}

async fn watch(states: &States, until: &AtomicBool) {
    let mut asked: HashMap<String, Asked> = HashMap::new();
    let mut told = Instant::now();
    let mut looked = tokio::time::interval(LOOKED);
    looked.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !until.load(Ordering::Relaxed) {
        looked.tick().await;
        let balancers = states.balancers();
        asked.retain(|name, entry| {
            let same = |(there, director): &(String, Arc<Director>)| {
                there == name && Arc::ptr_eq(director, &entry.director)
            };
            let stays = balancers.iter().any(same);
            if !stays {
                entry.tasks.iter().for_each(|(_, task)| task.abort());
            }
            stays
        });
        let now = Instant::now();
        let tell = now.duration_since(told) >= TOLD;
        for (name, director) in balancers {
            if tell {
                director.tick(now);
            }
            let entry = asked.entry(name).or_insert_with(|| Asked {
                director: Arc::clone(&director),
                epoch: None,
                tasks: Vec::new(),
            });
            if let Some(targets) = director.targets(&mut entry.epoch) {
                entry.follow(targets);
            }
        }
        if tell {
            told = now;
        }
    }
}

impl Asked {
    /// Asks these and no others; who was asked the same before goes on in its own time.
    fn follow(&mut self, targets: Vec<Target>) {
        let mut before = std::mem::take(&mut self.tasks);
        for target in targets {
            match before.iter().position(|(known, _)| *known == target) {
                Some(at) => self.tasks.push(before.swap_remove(at)),
                None => {
                    let task = tokio::spawn(ask(Arc::clone(&self.director), target.clone()));
                    self.tasks.push((target, task.abort_handle()));
                }
            }
        }
        before.iter().for_each(|(_, task)| task.abort());
    }
}

/// Asks one backend again and again.
async fn ask(director: Arc<Director>, target: Target) {
    let randomness = RandomState::new();
    let mut number = 0u64;
    loop {
        number += 1;
        let begun = tokio::time::Instant::now();
        let answer = match tokio::time::timeout(target.check.timeout, answer(&target)).await {
            Ok(answer) => answer,
            Err(_) => Err("no answer in time".to_owned()),
        };
        director.report(&target, answer, Instant::now());
        let share = (randomness.hash_one(number) >> 32) as u32;
        let jitter = target.check.jitter.mul_f64(f64::from(share) / f64::from(u32::MAX));
        tokio::time::sleep_until(begun + target.check.interval + jitter).await;
    }
}

/// One answer, or why there is none.
async fn answer(target: &Target) -> Result<(), String> {
    let to = SocketAddr::new(target.address, target.asked);
    match &target.check.probe {
        Probe::Tcp => connect(to).await.map(drop),
        Probe::Http { path, host, status, body, .. } => {
            let mut stream = connect(to).await?;
            let host = host.clone().unwrap_or_else(|| host_of(to));
            // Version 1.0, so that the body comes in one piece and the connection ends with it (RFC 1945).
            let request = format!(
                "GET {path} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: throughway/{}\r\nConnection: close\r\n\r\n",
                env!("CARGO_PKG_VERSION")
            );
            stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
            let got = read(&mut stream, body.as_deref()).await?;
            let code = status_of(&got).ok_or("what came is no answer of HTTP")?;
            if !status.iter().any(|good| (good.first()..=good.last()).contains(&code)) {
                return Err(format!("status {code}"));
            }
            let ended =
                got.windows(4).position(|window| window == b"\r\n\r\n").map_or(got.len(), |at| at + 4);
            contains(got.get(ended..).unwrap_or_default(), body.as_deref())
        }
        Probe::Udp { payload, body } => {
            let any: IpAddr = match to {
                SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
            };
            let told = |error: std::io::Error| error.to_string();
            let socket = UdpSocket::bind((any, 0)).await.map_err(told)?;
            socket.connect(to).await.map_err(told)?;
            socket.send(payload.as_bytes()).await.map_err(told)?;
            let mut buffer = vec![0; 65_536];
            let len = socket.recv(&mut buffer).await.map_err(told)?;
            contains(buffer.get(..len).unwrap_or_default(), body.as_deref())
        }
        Probe::Icmp => {
            let (address, timeout) = (target.address, target.check.timeout);
            in_a_thread(move || blocking::ping(address, timeout)).await
        }
        Probe::Exec(argv) => {
            let (argv, timeout) = (argv.clone(), target.check.timeout);
            in_a_thread(move || blocking::run(&argv, to, timeout)).await
        }
    }
}

async fn in_a_thread(work: impl FnOnce() -> Result<(), String> + Send + 'static) -> Result<(), String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err("the check failed inside".to_owned()))
}

async fn connect(to: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(to).await.map_err(|error| error.to_string())?;
    // Nothing of it is worth a port in TIME_WAIT on this host.
    let _ = stream.set_zero_linger();
    Ok(stream)
}

/// Reads the head of an answer; with a body that is looked for, everything.
async fn read(stream: &mut TcpStream, body: Option<&str>) -> Result<Vec<u8>, String> {
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    while got.len() < LONGEST_ANSWER {
        if body.is_none() && got.contains(&b'\n') {
            break;
        }
        match stream.read(&mut buffer).await {
            Ok(0) => break,
            Ok(len) => got.extend_from_slice(buffer.get(..len).unwrap_or_default()),
            Err(error) if got.is_empty() => return Err(error.to_string()),
            Err(_) => break,
        }
    }
    Ok(got)
}

/// The status code of an answer (RFC 9112, section 4).
fn status_of(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let (version, rest) = line.split_once(' ')?;
    let code = rest.get(..3)?;
    version.starts_with("HTTP/").then(|| code.parse().ok())?
}

fn contains(answer: &[u8], wanted: Option<&str>) -> Result<(), String> {
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else { return Ok(()) };
    let found = answer.windows(wanted.len()).any(|window| window == wanted.as_bytes());
    if found { Ok(()) } else { Err("the answer does not contain what it should".to_owned()) }
}

/// As a `Host` header names it: brackets around IPv6, and the port.
fn host_of(to: SocketAddr) -> String {
    if to.port() == 80 {
        match to.ip() {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        }
    } else {
        to.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes_are_read_from_answers_alone() {
        assert_eq!(status_of(b"HTTP/1.1 204 No Content\r\nServer: x\r\n"), Some(204));
        assert_eq!(status_of(b"HTTP/1.0 503\r\n"), Some(503));
        for wrong in ["", "HTTP/1.1", "HTTP/1.1 2", "SSH-2.0 200 OK", "HTTP/1.1 abc"] {
            assert_eq!(status_of(wrong.as_bytes()), None, "{wrong}");
        }
        assert!(contains(b"all is well", Some("well")).is_ok() && contains(b"", None).is_ok());
        assert!(contains(b"all is", Some("well")).is_err() && contains(b"", Some("well")).is_err());
    }
}
