//! What of the functions' sessions outlives a restart: they are written when the service stops in an orderly way, and taken over by the
//! next one before the first packet.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use throughway_config::Config;
use throughway_packet::PortId;
use throughway_vnf::save::{Lost, Moment, Restored};

use super::saved::{self, Refusal, Saved, Section, Stamp};
use crate::assemble::state::States;
use crate::clock;

/// What came of the sessions of the instance before.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Why none of them was taken over although there was a file: a label, and a sentence.
    pub refused: Option<(&'static str, String)>,
    /// How long ago that instance stopped; `None`: it has left nothing, or nothing that was taken over.
    pub age: Option<Duration>,
    /// How long taking over took.
    pub took: Duration,
    /// What came back, by function.
    pub functions: Vec<OfFunction>,
}

/// What came back of one function.
#[derive(Clone, Debug)]
pub struct OfFunction {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What came back.
    pub restored: Restored,
}

/// Takes over the sessions that the last instance has left beside its socket, and says so in the log. `write` takes out the events that
/// wait: functions tell of each block of ports that does not come back, of more than the queue has room for.
pub fn restore(path: &Path, config: &Config, states: &States, mut write: impl FnMut()) -> Report {
    let begin = Instant::now();
    let within = config.at_stop.sessions.get();
    let taken = Stamp::now().map_err(Refusal::from).and_then(|stamp| Saved::take(path, &stamp, within));
    let saved = match taken {
        Ok(None) => return Report::default(),
        Ok(Some(saved)) => saved,
        Err(refusal) => {
            let path = path.display();
            tracing::warn!(file = %path, reason = %refusal, "the sessions of the last instance are not taken over");
            return Report { refused: Some((refusal.label(), refusal.to_string())), ..Report::default() };
        }
    };
    let port = |name: &String| config.interface_named(name).map(|id| PortId(id.0));
    let ports: Vec<Option<PortId>> = saved.interfaces.iter().map(port).collect();
    let moment = Moment { now: clock::now(), gap: saved.age, ports: &ports };
    let functions = saved.sections().map(|section| one(&section, &moment, states, &mut write)).collect();
    let report = Report { refused: None, age: Some(saved.age), took: begin.elapsed(), functions };
    for function in &report.functions {
        let OfFunction { kind, name, restored } = function;
        let (sessions, lost) = (restored.sessions, lost_of(restored));
        tracing::info!(function = %name, %kind, sessions, %lost, "sessions of the last instance are taken over");
    }
    let (age, took) = (millis(saved.age), millis(report.took));
    tracing::info!(age_ms = age, took_ms = took, "all sessions of the last instance are read");
    report
}

/// Sessions that were taken over by a start that is under way. Should it fail, they are written again, for the next one; dropped when
/// whatever was started has ended.
#[derive(Debug)]
pub struct Unused<'a> {
    path: Option<PathBuf>,
    config: &'a Config,
    states: &'a States,
}

impl<'a> Unused<'a> {
    /// What [`restore`] has taken over.
    pub fn new(report: &Report, path: PathBuf, config: &'a Config, states: &'a States) -> Self {
        Unused { path: report.age.map(|_| path), config, states }
    }

    /// The start has come to its end: from now on they are in use.
    pub fn forget(mut self) {
        self.path = None;
    }
}

impl Drop for Unused<'_> {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            save(path, self.config, self.states);
        }
    }
}

fn one(section: &Section<'_>, moment: &Moment<'_>, states: &States, write: &mut impl FnMut()) -> OfFunction {
    let Section { kind, name, .. } = *section;
    let mut records = section.records().inspect(|_| {
        if states.events().is_half_full() {
            write();
        }
    });
    let restore = |function: &dyn throughway_vnf::save::Save| function.restore(&mut records, moment);
    let restored = states.lasting(kind, name, restore).unwrap_or_else(|| {
        let mut restored = Restored::default();
        restored.lose(Lost::Function, section.sessions());
        restored
    });
    OfFunction { kind: kind.to_owned(), name: name.to_owned(), restored }
}

/// The reasons why sessions were lost, with their numbers.
fn lost_of(restored: &Restored) -> String {
    let lost = Lost::ALL.iter().zip(restored.lost).filter(|(_, count)| *count > 0);
    let lost: Vec<String> = lost.map(|(lost, count)| format!("{} {count}", lost.label())).collect();
    if lost.is_empty() { "none".to_owned() } else { lost.join(", ") }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Writes all sessions beside the socket, and says so in the log. To be called when no worker runs any more.
pub fn save(path: &Path, config: &Config, states: &States) {
    // What is there is older, whatever comes of this.
    let _ = std::fs::remove_file(path);
    if config.at_stop.sessions.get().is_zero() {
        return;
    }
    let begin = Instant::now();
    let names: Vec<String> = config.interfaces.iter().map(|interface| interface.name.to_string()).collect();
    let mut left = 0;
    let written = Stamp::now().and_then(|stamp| {
        saved::save(path, &stamp, &names, |writer| {
            for (kind, name) in states.all_lasting() {
                let save = |function: &dyn throughway_vnf::save::Save| {
                    writer.section(kind, &name, |sink| function.save(clock::now(), sink))
                };
                left += states.lasting(kind, &name, save).unwrap_or(0);
            }
        })
    });
    let took = millis(begin.elapsed());
    match written {
        Ok(written) => {
            let saved::Written { sessions, bytes } = written;
            tracing::info!(sessions, bytes, took_ms = took, "sessions are written for the next instance");
            if left > 0 {
                tracing::warn!(sessions = left, "sessions had no room in the file: they begin anew");
            }
        }
        Err(error) => {
            let path = path.display();
            tracing::error!(%error, file = %path, "sessions cannot be written: they begin anew with the next instance");
        }
    }
}
