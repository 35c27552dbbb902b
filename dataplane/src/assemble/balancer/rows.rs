//! Backends and services, for people and for metrics.

use std::sync::Arc;
use std::time::Instant;

use throughway_balancer::{Health, Seat, ServiceCounts};

use super::place::place;
use super::{Desk, Director};

/// A backend.
#[derive(Clone, Debug)]
pub struct Row {
    /// The service.
    pub service: String,
    /// The backend: address and port.
    pub backend: String,
    /// Its weight in the configuration.
    pub weight: u16,
    /// Its share of new connections, of the whole service's.
    pub share: f64,
    /// `up`, `starting`, `unknown`, `down`, `draining` or `removed`.
    pub state: &'static str,
    /// Seconds since it went up or down; `None`: it never did.
    pub since: Option<u64>,
    /// Whether it may get new connections.
    pub up: bool,
    /// Why it is not simply up.
    pub why: String,
    /// Connections that are remembered.
    pub active: u32,
    /// Connections, packets and bytes so far.
    pub figures: [u64; 3],
    /// Connections, packets and bytes a second, lately.
    pub rates: [f64; 3],
}

/// A service.
#[derive(Clone, Debug)]
pub struct ServiceRow {
    /// Its name.
    pub service: String,
    /// Backends that may get new connections, and all.
    pub backends: [usize; 2],
    /// Entries of its Maglev table.
    pub table_size: usize,
    /// What became of its packets.
    pub counts: ServiceCounts,
}

impl Director {
    /// All backends, or those of one service.
    pub fn rows(&self, service: Option<&str>) -> Vec<Row> {
        let now = Instant::now();
        let mut inner = self.inner();
        // What is told shall be in force.
        self.flush_inner(&mut inner, now);
        let mut rows = Vec::new();
        for desk in inner.desks.iter().filter(|desk| service.is_none_or(|wanted| *wanted == *desk.name)) {
            desk.rows(now, &mut rows);
        }
        for ((service, ..), seat) in
            inner.leaving.iter().filter(|((name, ..), _)| service.is_none_or(|wanted| *wanted == **name))
        {
            rows.push(gone(service, seat));
        }
        rows
    }

    /// All services.
    pub fn services(&self) -> Vec<ServiceRow> {
        let inner = self.inner();
        let row = |desk: &Desk| ServiceRow {
            service: desk.name.to_string(),
            backends: [
                desk.backends.iter().filter(|known| known.health() == Health::Up).count(),
                desk.backends.len(),
            ],
            table_size: desk.built.as_ref().map_or(0, |built| built.table().size()),
            counts: desk.figures.get(),
        };
        inner.desks.iter().map(row).collect()
    }
}

impl Desk {
    fn rows(&self, now: Instant, rows: &mut Vec<Row>) {
        let weights = self.built.as_ref().map_or(&[][..], |built| built.weights());
        let whole: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        for (known, weight) in self.backends.iter().zip(weights) {
            rows.push(Row {
                service: self.name.to_string(),
                backend: place(&known.seat),
                weight: known.config.weight,
                share: if whole == 0 { 0.0 } else { f64::from(*weight) / whole as f64 },
                state: known.state(),
                since: known.since.map(|since| now.saturating_duration_since(since).as_secs()),
                up: known.health() == Health::Up,
                why: known.why(self.config.health.as_ref(), now),
                active: known.seat.figures.active(),
                figures: known.seat.figures.get(),
                rates: known.rates,
            });
        }
    }
}

/// A backend that the configuration no longer has.
fn gone(service: &str, seat: &Arc<Seat>) -> Row {
    Row {
        service: service.to_owned(),
        backend: place(seat),
        weight: 0,
        share: 0.0,
        state: "removed",
        since: None,
        up: false,
        why: "no longer configured; it finishes what it has".to_owned(),
        active: seat.figures.active(),
        figures: seat.figures.get(),
        rates: [0.0; 3],
    }
}
