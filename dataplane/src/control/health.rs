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
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use crate::assemble::balancer::{Director, Target};
use crate::assemble::state::States;

mod blocking;
mod http;
mod tunnels;

/// How often it is looked whom to ask.
const LOOKED: Duration = Duration::from_millis(50);

/// How often time is told to the load balancers.
const TOLD: Duration = Duration::from_millis(500);

/// Checks that are under way at a time; others wait for one to end.
const AT_ONCE: usize = 1024;

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
        for ipv4 in [true, false] {
            runtime.spawn(tunnels::listen(Arc::clone(&states), ipv4));
        }
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
    tasks: HashMap<Place, (Target, AbortHandle)>,
}

/// Service, address and port of a backend.
type Place = (Arc<str>, IpAddr, Option<u16>);

async fn watch(states: &States, until: &AtomicBool) {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
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
                entry.tasks.values().for_each(|(_, task)| task.abort());
            }
            stays
        });
        let now = Instant::now();
        let tell = now.duration_since(told) >= TOLD;
        for (name, director) in balancers {
            if tell {
                director.tick(now);
            }
            director.flush(now);
            let entry = asked.entry(name).or_insert_with(|| Asked {
                director: Arc::clone(&director),
                epoch: None,
                tasks: HashMap::new(),
            });
            if let Some(targets) = director.targets(&mut entry.epoch) {
                entry.follow(targets, &slots);
            }
        }
        if tell {
            told = now;
        }
    }
}

impl Asked {
    /// Asks these and no others; who was asked the same before goes on in its own time.
    fn follow(&mut self, targets: Vec<Target>, slots: &Arc<Semaphore>) {
        let mut before = std::mem::take(&mut self.tasks);
        for target in targets {
            let place = (Arc::clone(&target.service), target.address, target.port);
            let known = before.remove(&place);
            if let Some((was, task)) = &known
                && *was != target
            {
                task.abort();
            }
            let entry = known.filter(|(was, _)| *was == target).unwrap_or_else(|| {
                let task = ask(Arc::clone(&self.director), target.clone(), Arc::clone(slots));
                (target, tokio::spawn(task).abort_handle())
            });
            self.tasks.insert(place, entry);
        }
        before.values().for_each(|(_, task)| task.abort());
    }
}

/// Asks one backend again and again.
async fn ask(director: Arc<Director>, target: Target, slots: Arc<Semaphore>) {
    let randomness = RandomState::new();
    let mut number = 0u64;
    loop {
        number += 1;
        // It is never closed.
        let Ok(slot) = slots.acquire().await else { return };
        let begun = tokio::time::Instant::now();
        let answer = match tokio::time::timeout(target.check.timeout, answer(&target)).await {
            Ok(answer) => answer,
            Err(_) => Err("no answer in time".to_owned()),
        };
        drop(slot);
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
        Probe::Http { tls, path, host, status, body } => {
            let stream = connect(to).await?;
            let asked = http::Asked { to, path, host: host.as_deref(), status, body: body.as_deref() };
            match tls {
                None => http::ask(stream, &asked).await,
                Some(trust) => http::ask(http::secured(stream, &asked, trust).await?, &asked).await,
            }
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

fn contains(answer: &[u8], wanted: Option<&str>) -> Result<(), String> {
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else { return Ok(()) };
    let found = answer.windows(wanted.len()).any(|window| window == wanted.as_bytes());
    if found { Ok(()) } else { Err("the answer does not contain what it should".to_owned()) }
}
