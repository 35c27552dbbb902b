//! What is the host's own on addresses that functions use too: ports of its sockets are left to it, and answers that workers took for
//! it are given to it.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender};
use throughway_kernel::{Delivery, OwnedPort, Sockets};

use crate::assemble::state::States;
use crate::worker::own::{OwnPacket, own_packets};

/// How often the kernel is asked for the ports of sockets: a socket that is opened meanwhile shares its port with a mapping that has
/// it until that ends; packets that nobody inside has asked for are the socket's.
const PERIOD: Duration = Duration::from_secs(1);

/// How long threads sleep at most before they look whether they shall stop.
const PATIENCE: Duration = Duration::from_millis(100);

/// The threads; they end when this is dropped.
#[derive(Debug)]
pub struct Keeper {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    sender: Option<Sender<OwnPacket>>,
}

impl Keeper {
    /// Leaves the host its ports from now on, and takes what workers give it.
    ///
    /// # Errors
    /// A thread could not be made.
    pub fn start(states: Arc<States>) -> io::Result<Keeper> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut keeper = Keeper { stop: Arc::clone(&stop), threads: Vec::new(), sender: None };
        let mut ports = Ports::default();
        // Before the first packet.
        ports.keep(&states);
        let stopped = Arc::clone(&stop);
        keeper.spawn("own-ports", move || {
            let mut next = Instant::now() + PERIOD;
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(PATIENCE);
                if Instant::now() >= next {
                    ports.keep(&states);
                    next = Instant::now() + PERIOD;
                }
            }
        })?;
        match Delivery::open() {
            Ok(delivery) => {
                let (sender, receiver) = own_packets();
                keeper.sender = Some(sender);
                keeper.spawn("to-host", move || deliver(&delivery, &receiver, &stop))?;
            }
            Err(error) => tracing::warn!(
                %error,
                "no raw socket: answers to pings of this host by addresses that functions use do not reach it"
            ),
        }
        Ok(keeper)
    }

    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.threads.push(std::thread::Builder::new().name(name.to_owned()).spawn(body)?);
        Ok(())
    }

    /// Where workers put what is the host's own; `None`: nobody would take it.
    pub fn sender(&self) -> Option<Sender<OwnPacket>> {
        self.sender.clone()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The ports of the host's sockets.
#[derive(Default)]
struct Ports {
    sockets: Option<Sockets>,
    failed: bool,
}

impl Ports {
    /// Has every NAT that masquerades leave the host its ports.
    fn keep(&mut self, states: &States) {
        let nats = states.nats();
        if !nats.iter().any(|(_, nat)| nat.masquerades()) {
            return;
        }
        match self.ask() {
            Ok(owned) => {
                nats.iter().for_each(|(_, nat)| nat.leave_to_host(&owned));
                self.failed = false;
            }
            Err(error) => {
                self.sockets = None;
                if !std::mem::replace(&mut self.failed, true) {
                    tracing::error!(%error, "the ports of this host's sockets are not known: hosts inside may get one of them");
                }
            }
        }
    }

    fn ask(&mut self) -> Result<BTreeSet<OwnedPort>, throughway_kernel::KernelError> {
        let sockets = match self.sockets.take() {
            Some(sockets) => sockets,
            None => Sockets::open()?,
        };
        self.sockets.insert(sockets).owned()
    }
}

fn deliver(delivery: &Delivery, receiver: &Receiver<OwnPacket>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if let Ok(OwnPacket { packet, destination }) = receiver.recv_timeout(PATIENCE)
            && let Err(error) = delivery.give(&packet, destination)
        {
            tracing::debug!(%error, %destination, "the host did not take a packet");
        }
    }
}
