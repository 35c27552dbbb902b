//! Start, reload, stop: in order.
//!
//! Start: configuration → kernel state → XDP program attached (the fail mode holds: the kernel's, or dropped) → workers and
//! their sockets → sockets into the program's map, and packets come → ready. Where the last instance has left its program, that is
//! replaced once the sockets are in the map. Stop is the reverse: the interfaces are given back
//! to the kernel, the program is detached, then the sockets close, and the sessions are written for the next instance. With `at-stop`
//! the program stays, and the interfaces with it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Failure;
use crate::control::{api, metrics};

mod cores;
pub mod devices;
pub mod early;
pub mod fastpath;
mod napi;
pub mod remembered;
pub mod restart;
pub mod saved;
pub mod service;
mod steered;

use remembered::Remembered;
pub use service::{InterfaceView, Reloaded, Reloads, Service, WorkerView};

/// How long a reload may take: a second for every hundred thousand elements of sets, several on a busy machine. As long the
/// command waits for it, and the watchdog is told that the service lives.
pub const RELOAD_PATIENCE: Duration = Duration::from_secs(600);

/// What the command line says over the configuration.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Instead of `api.socket`.
    pub api: Option<PathBuf>,
    /// Instead of `metrics.listen`.
    pub metrics: Option<SocketAddr>,
}

/// Runs the service until it is told to stop.
pub fn run(path: &Path, overrides: Overrides) -> Result<ExitCode, Failure> {
    logs();
    let (config, warnings) = match throughway_config::Config::load(path) {
        Ok(loaded) => loaded,
        Err(errors) => return Err(errors.to_string().into()),
    };
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let socket_path = overrides.api.clone().unwrap_or_else(|| config.api.socket.clone());
    let metrics_address = overrides.metrics.or_else(|| config.metrics.as_ref().map(|metrics| metrics.listen));

    // Before any other thread is made: they run where this one may.
    match cores::leave_to(&config.workers.cores) {
        Ok(true) => {}
        Ok(false) => tracing::info!("all cores are workers': other threads of the service share them"),
        Err(error) => tracing::warn!(%error, "threads of the service may run on workers' cores"),
    }

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before anything is touched: the second of two services must fail here.
        let socket = api::open(&socket_path)
            .await
            .map_err(|error| format!("api.socket {}: {error}", socket_path.display()))?;
        let listener = match metrics_address {
            Some(address) => Some(
                metrics::listen(address)
                    .await
                    .map_err(|error| format!("metrics.listen {address}: {error}"))?,
            ),
            None => None,
        };
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;

        let service = Arc::new(Mutex::new(Service::start(path, config, Remembered::read(&socket_path))?));
        tokio::spawn(api::serve(socket, Arc::clone(&service)));
        if let Some(listener) = listener {
            let served = metrics::serve(listener, Arc::clone(&service));
            tokio::spawn(async {
                if let Err(error) = served.await {
                    tracing::error!(%error, "the metrics page is no longer served");
                }
            });
        }
        // Not under systemd is not an error.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        tracing::info!(config = %path.display(), "running");

        // Beside the loop: a reload of large sets takes long, and meanwhile the watchdog and a stop must be heard.
        let reloaded = Arc::clone(&service);
        let reloads = tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                reload(&reloaded).await;
            }
        });
        let mut watchdog = tokio::time::interval(watchdog_period());
        // Ticks that were missed (the process was stopped, the machine was suspended) must not come at once: the workers could
        // not have done anything between them.
        watchdog.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut held_since: Option<Instant> = None;
        let end = loop {
            tokio::select! {
                _ = terminate.recv() => break Ok(()),
                _ = interrupt.recv() => break Ok(()),
                _ = watchdog.tick() => {
                    // Not waited for: while a reload has it, signals must be heard. One of large sets takes long; one that
                    // hangs is not alive, and systemd is not told so.
                    let checked = match service.try_lock() {
                        Ok(mut service) => Some(service.check()),
                        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner().check()),
                        Err(TryLockError::WouldBlock) => None,
                    };
                    match checked {
                        Some(Err(dead)) => break Err(dead),
                        Some(Ok(())) => held_since = None,
                        None if held_since.get_or_insert_with(Instant::now).elapsed() > RELOAD_PATIENCE => continue,
                        None => {}
                    }
                    let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
                }
            }
        };
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        reloads.abort();
        tracing::info!("stopping");
        if matches!(service.try_lock(), Err(TryLockError::WouldBlock)) {
            // A reload of large sets comes to its end first: killed before, the sessions would be lost.
            let patience = u32::try_from(RELOAD_PATIENCE.as_micros()).unwrap_or(u32::MAX);
            let _ = sd_notify::notify(&[sd_notify::NotifyState::ExtendTimeoutUsec(patience)]);
        }
        lock(&service).stop(end.is_ok());
        end.map(|()| ExitCode::SUCCESS).map_err(|dead| dead.into())
    })
}

/// A file of a service's own: beside its API socket, and of its name, as several services may have theirs in one folder.
fn beside(socket: &Path, what: &str) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    PathBuf::from(name)
}

fn lock(service: &Mutex<Service>) -> std::sync::MutexGuard<'_, Service> {
    service.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn reload(service: &Arc<Mutex<Service>>) {
    let _ = sd_notify::notify(&[
        sd_notify::NotifyState::Reloading,
        sd_notify::NotifyState::monotonic_usec_now().unwrap_or(sd_notify::NotifyState::MonotonicUsec(0)),
    ]);
    let service = Arc::clone(service);
    let done = tokio::task::spawn_blocking(move || lock(&service).reload()).await;
    // What came of it is in the log already, whoever asked for it.
    if let Err(error) = done {
        tracing::error!(%error, "the reload failed inside");
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

/// Half of what systemd's watchdog allows; once a second without one, to notice dead workers.
fn watchdog_period() -> Duration {
    let systemd = sd_notify::watchdog_enabled();
    systemd.map_or(Duration::from_secs(1), |period| (period / 2).min(Duration::from_secs(1)))
}

fn logs() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("THROUGHWAY_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // The journal stamps the time itself.
    let under_systemd = std::env::var_os("JOURNAL_STREAM").is_some();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false);
    let _ = if under_systemd { builder.without_time().try_init() } else { builder.try_init() };
}
