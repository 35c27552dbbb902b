//! What is measured: the whole, or the short form that continuous integration runs.

use std::time::Duration;

use crate::generator::{Packets, Traffic};
use crate::method::Search;
use crate::peers::{Peer, Scale, Subject};
use crate::trial::warm_seconds;

/// Packets a second that are offered to what stays in the driver.
const FAST_RATE: f64 = 6e6;
/// Seconds that a trial takes beside its own: generator and sink are started, and what is under way arrives.
const AROUND: f64 = 0.25;
/// Seconds until a peer runs in namespaces of its own.
const SETUP: f64 = 0.8;
/// Trials of a search in the first run: some rates get another chance, and what one search tried the next one knows.
const FIRST: usize = 5;
/// The same in later runs, which know where to look.
const LATER: usize = 3;
/// Latency takes so many times as long as another trial: the slowest hundredth of fewer packets comes from one or two moments.
pub const LATENCY_TRIALS: u32 = 3;

/// A table that grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dimension {
    /// Flows that packets are sent of.
    Flows,
    /// The same, where known flows stay in the driver: Throughway with its fast path, beside bare XDP programs.
    FastFlows,
    /// Filter rules that do not match.
    Rules,
    /// Routes beside the one that is used.
    Routes,
    /// Idle sessions beside those of 10,000 flows.
    Sessions,
    /// Functions in the chain.
    Functions,
}

impl Dimension {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Dimension::Flows => "flows",
            Dimension::FastFlows => "fast-path flows",
            Dimension::Rules => "rules",
            Dimension::Routes => "routes",
            Dimension::Sessions => "idle sessions",
            Dimension::Functions => "functions",
        }
    }
}

/// One growing table, and who is measured with it.
#[derive(Clone, Debug)]
pub struct Scaling {
    /// What grows.
    pub dimension: Dimension,
    /// How large it gets.
    pub points: Vec<u32>,
    /// Who.
    pub peers: Vec<Peer>,
}

/// Everything that is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How often, each time one after the other and not one many times: what the machine does meanwhile meets all alike.
    pub runs: usize,
    /// Seconds of one trial.
    pub seconds: f64,
    /// Who.
    pub subjects: Vec<Subject>,
    /// Offered rates in packets a second, besides as fast as the generator can.
    pub rates: Vec<f64>,
    /// The same for rows with other packets than the usual ones.
    pub few_rates: Vec<f64>,
    /// The searches for the highest rate with that loss, for rows with the usual packets.
    pub searches: Vec<Search>,
    /// Whether latency at half of the best rate is measured.
    pub latency: bool,
    /// What grows.
    pub scaling: Vec<Scaling>,
    /// In how many of the runs that is measured.
    pub scaling_runs: usize,
    /// Packets a second that are offered there.
    pub scaling_rate: f64,
    /// Flows, where they do not grow.
    pub flows: u32,
}

impl Plan {
    /// Everything; [`Plan::time`] says how long that takes.
    pub fn whole(runs: usize) -> Self {
        let mut subjects = Vec::new();
        for peer in [
            Peer::KernelForward,
            Peer::KernelFilter,
            Peer::KernelMasquerade,
            Peer::KernelFlowtable,
            Peer::KernelBalance,
            Peer::XdpRedirect,
            Peer::XdpFib,
        ] {
            subjects.push(peer.on_one_core());
        }
        for peer in [Peer::Testpmd, Peer::Router, Peer::Stateful, Peer::Balancer] {
            subjects.extend([peer.on_own_core(), peer.on_one_core()]);
        }
        for peer in [Peer::Router, Peer::Stateful, Peer::Balancer] {
            subjects.push(Subject { fast_path: true, ..peer.on_one_core() });
        }
        let others = [
            (Packets::Ipv6, Peer::KernelForward.on_one_core()),
            (Packets::Ipv6, Peer::KernelFilter.on_one_core()),
            (Packets::Ipv6, Peer::Testpmd.on_own_core()),
            (Packets::Ipv6, Peer::Filter.on_own_core()),
            (Packets::Ipv6, Peer::Testpmd.on_one_core()),
            (Packets::Ipv6, Peer::Filter.on_one_core()),
            (Packets::Imix, Peer::KernelForward.on_one_core()),
            (Packets::Imix, Peer::KernelMasquerade.on_one_core()),
            (Packets::Imix, Peer::Testpmd.on_own_core()),
            (Packets::Imix, Peer::Stateful.on_own_core()),
            (Packets::Imix, Peer::Testpmd.on_one_core()),
            (Packets::Imix, Peer::Stateful.on_one_core()),
        ];
        subjects.extend(others.map(|(packets, subject)| subject.sent(packets)));
        let scaling = |dimension, points: &[u32], peers: &[Peer]| Scaling {
            dimension,
            points: points.to_vec(),
            peers: peers.to_vec(),
        };
        Plan {
            runs,
            seconds: 0.3,
            subjects,
            rates: [0.4, 0.8, 1.2, 1.6, 2.0, 2.5, 4.0].map(|rate| rate * 1e6).to_vec(),
            few_rates: [0.8, 1.2, 1.6, 2.0].map(|rate| rate * 1e6).to_vec(),
            searches: [0.0, 0.001].map(|loss| Search { loss, steps: 3, tries: 2 }).to_vec(),
            latency: true,
            scaling: vec![
                scaling(
                    Dimension::Flows,
                    &[1, 100, 1_000, 10_000, 100_000],
                    &[Peer::KernelForward, Peer::KernelMasquerade, Peer::Router, Peer::Stateful],
                ),
                scaling(
                    Dimension::FastFlows,
                    &[1, 10_000, 100_000, 1_000_000],
                    &[Peer::XdpRedirect, Peer::XdpFib, Peer::Stateful],
                ),
                scaling(Dimension::Rules, &[1, 10, 100, 1_000], &[Peer::KernelMasquerade, Peer::Stateful]),
                scaling(
                    Dimension::Routes,
                    &[1, 1_000, 100_000],
                    &[Peer::KernelForward, Peer::XdpFib, Peer::Router],
                ),
                scaling(
                    Dimension::Sessions,
                    &[1, 10_000, 100_000],
                    &[Peer::KernelMasquerade, Peer::Stateful],
                ),
                scaling(Dimension::Functions, &[1, 2, 3, 4], &[Peer::Router]),
            ],
            scaling_runs: runs.min(3),
            scaling_rate: 2.5e6,
            flows: 10_000,
        }
    }

    /// The short form: Throughway beside the kernel, from which ratios are compared with the committed ones.
    pub fn short(runs: usize) -> Self {
        let mut subjects: Vec<Subject> = [Peer::KernelForward, Peer::KernelMasquerade, Peer::KernelBalance]
            .map(Peer::on_one_core)
            .to_vec();
        subjects.extend([Peer::Router, Peer::Stateful, Peer::Balancer].map(Peer::on_own_core));
        subjects.push(Peer::Stateful.on_one_core());
        Plan {
            runs,
            seconds: 0.7,
            subjects,
            rates: vec![1.0e6, 2.0e6],
            few_rates: Vec::new(),
            searches: Vec::new(),
            latency: false,
            scaling: Vec::new(),
            scaling_runs: 0,
            scaling_rate: 2.5e6,
            flows: 10_000,
        }
    }

    /// Leaves out the subjects that have none of `words` in their key, and what grows that has none in its name. Without words all stays.
    #[must_use]
    pub fn only(mut self, words: &[String]) -> Self {
        if !words.is_empty() {
            self.subjects.retain(|subject| words.iter().any(|word| subject.key().contains(word.as_str())));
            self.scaling
                .retain(|scaling| words.iter().any(|word| scaling.dimension.name().contains(word.as_str())));
        }
        self
    }

    /// What is sent to a subject.
    pub fn traffic(&self, subject: Subject) -> Traffic {
        if subject.peer.balances() {
            Traffic::to_service(self.flows)
        } else {
            Traffic::of(subject.packets, self.flows)
        }
    }

    /// The offered rates of a subject, besides as fast as the generator can.
    pub fn rates_of(&self, subject: Subject) -> &[f64] {
        if subject.packets == Packets::Small { &self.rates } else { &self.few_rates }
    }

    /// How long all of it takes, nearly: subjects that cannot run here take nothing, searches more or less.
    pub fn time(&self) -> Duration {
        let subjects = self.subjects_time(1) + self.subjects_time(2) * self.runs.saturating_sub(1) as f64;
        Duration::from_secs_f64(subjects + self.scaling_time() * self.scaling_runs as f64)
    }

    /// How long every subject once takes, in seconds, in the run of that number.
    fn subjects_time(&self, run: usize) -> f64 {
        let trial = self.seconds + AROUND;
        let subject = |subject: &Subject| {
            let searches = if subject.packets == Packets::Small { self.searches.len() } else { 0 };
            let searched = searches * if run == 1 { FIRST } else { LATER };
            let trials = self.rates_of(*subject).len() + 1 + searched;
            let latency = if self.latency { self.seconds * f64::from(LATENCY_TRIALS) + AROUND } else { 0.0 };
            SETUP + AROUND + warm_seconds(subject.peer, self.flows) + trials as f64 * trial + latency
        };
        self.subjects.iter().map(subject).sum()
    }

    /// How long every growing table once takes, in seconds.
    fn scaling_time(&self) -> f64 {
        let mut seconds = 0.0;
        for scaling in &self.scaling {
            for (peer, point) in
                scaling.peers.iter().flat_map(|peer| scaling.points.iter().map(move |at| (*peer, *at)))
            {
                let cell = scaling.cell(peer, point, self.flows);
                let flows = cell.before.as_ref().unwrap_or(&cell.traffic).flows;
                seconds += SETUP + warm_seconds(cell.subject.peer, flows) + self.seconds + 2.0 * AROUND;
            }
        }
        seconds
    }

    /// How many runs there will be, and in how many of them growing tables are measured, when `done` were made (at least
    /// one), of which the last took as long as `took` says, and so much time is `left`: all that were planned, if they fit. First come
    /// runs, then growing tables.
    pub fn fit(&self, done: Done, took: Took, left: Duration) -> Done {
        // The first run does not know yet where to look.
        let faster =
            if done.runs == 1 { self.subjects_time(2) / self.subjects_time(1).max(1e-3) } else { 1.0 };
        let fit = |left: f64, one: f64, most: usize| ((left / one.max(1e-3)) as usize).min(most);
        let (left, one) = (left.as_secs_f64(), took.subjects.as_secs_f64() * faster);
        let runs = fit(left, one, self.runs.saturating_sub(done.runs));
        let left = left - runs as f64 * one;
        let scaling =
            fit(left, took.scaling.as_secs_f64(), self.scaling_runs.saturating_sub(done.scaling).min(runs));
        Done { runs: done.runs + runs, scaling: done.scaling + scaling }
    }
}

/// How many runs: of everything, and of growing tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    /// Of the subjects.
    pub runs: usize,
    /// Of growing tables.
    pub scaling: usize,
}

/// How long one run took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Took {
    /// Every subject once.
    pub subjects: Duration,
    /// Every growing table once.
    pub scaling: Duration,
}

impl Scaling {
    /// Packets a second that are offered: more than the best of its subjects can do.
    pub fn rate(&self, plan: &Plan) -> f64 {
        if self.dimension == Dimension::FastFlows { FAST_RATE } else { plan.scaling_rate }
    }

    /// Who is measured at a point, with which tables, what is sent, and what has to be sent before so that the tables are full.
    pub fn cell(&self, peer: Peer, point: u32, flows: u32) -> Cell {
        let subject = if peer.in_user_space() { peer.on_own_core() } else { peer.on_one_core() };
        let (mut subject, mut scale) = (subject, Scale::default());
        let (mut traffic, mut before) = (Traffic::small(flows), None);
        match self.dimension {
            Dimension::Flows => traffic.flows = point,
            Dimension::FastFlows => {
                subject = Subject { fast_path: peer.in_user_space(), ..peer.on_one_core() };
                traffic.flows = point;
            }
            Dimension::Rules => scale.rules = point,
            Dimension::Routes => scale.routes = point,
            Dimension::Sessions => {
                before = Some(Traffic::small(flows + point));
                scale.flows = scale.flows.max((flows + point) * 5 / 4);
            }
            Dimension::Functions if point > 1 => {
                subject.peer = Peer::Chain(u8::try_from(point).unwrap_or(u8::MAX));
            }
            Dimension::Functions => {}
        }
        Cell { subject, scale, traffic, before }
    }
}

/// One measurement of a growing table.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Who.
    pub subject: Subject,
    /// With which tables.
    pub scale: Scale,
    /// What is sent.
    pub traffic: Traffic,
    /// What is sent before.
    pub before: Option<Traffic>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_choose_subjects_and_what_grows() {
        let plan = Plan::whole(1).only(&["stateful@".to_owned(), "rules".to_owned()]);
        let keys: Vec<String> = plan.subjects.iter().map(Subject::key).collect();
        assert_eq!(keys, ["stateful@own-core", "stateful@one-core"]);
        let imix = Plan::whole(1).only(&["stateful-imix@own".to_owned()]);
        assert_eq!(imix.subjects.iter().map(Subject::name).count(), 1);
        let traffic = imix.subjects.first().map(|subject| imix.traffic(*subject));
        assert_eq!(traffic.map(|traffic| traffic.size), Some("imix".to_owned()));
        assert_eq!(
            plan.scaling.iter().map(|scaling| scaling.dimension).collect::<Vec<_>>(),
            [Dimension::Rules]
        );
        assert_eq!(Plan::short(3).only(&[]).subjects.len(), 7);
    }

    #[test]
    fn the_whole_stays_below_35_minutes_and_the_short_form_below_five() {
        let minutes = |plan: &Plan| plan.time().as_secs_f64() / 60.0;
        let whole = Plan::whole(5);
        assert!((20.0..35.0).contains(&minutes(&whole)), "{}", minutes(&whole));
        assert!((0.5..5.0).contains(&minutes(&Plan::short(3))), "{}", minutes(&Plan::short(3)));
    }

    #[test]
    fn as_many_runs_as_fit_by_what_the_last_one_took() {
        let plan = Plan::whole(5);
        let took = |subjects, scaling| Took {
            subjects: Duration::from_secs(subjects),
            scaling: Duration::from_secs(scaling),
        };
        let fit = |runs, scaling, took, left| {
            let fit = plan.fit(Done { runs, scaling }, took, Duration::from_secs(left));
            (fit.runs, fit.scaling)
        };
        // Later runs take less than the first one, as they know where to look.
        assert_eq!(fit(1, 1, took(300, 150), 4 * 300 + 2 * 150), (5, 3));
        assert_eq!(fit(2, 2, took(200, 150), 3 * 200 + 150), (5, 3));
        assert_eq!(fit(2, 1, took(200, 150), 3 * 200 + 149), (5, 1));
        assert_eq!(fit(2, 1, took(200, 150), 2 * 200 + 160), (4, 2));
        assert_eq!(fit(3, 1, took(200, 150), 199), (3, 1));
        assert_eq!(fit(1, 1, took(300, 150), 0), (1, 1));
    }

    #[test]
    fn a_growing_table_is_full_before_it_is_measured() {
        let sessions =
            Scaling { dimension: Dimension::Sessions, points: vec![100_000], peers: vec![Peer::Stateful] };
        let cell = sessions.cell(Peer::Stateful, 100_000, 10_000);
        assert_eq!((cell.traffic.flows, cell.before.map(|traffic| traffic.flows)), (10_000, Some(110_000)));
        assert!(cell.scale.flows >= 110_000);
        let functions =
            Scaling { dimension: Dimension::Functions, points: vec![4], peers: vec![Peer::Router] };
        assert_eq!(functions.cell(Peer::Router, 4, 10).subject.peer, Peer::Chain(4));
        let fast = Scaling {
            dimension: Dimension::FastFlows,
            points: vec![10],
            peers: vec![Peer::Stateful, Peer::XdpRedirect],
        };
        let keys = fast.peers.iter().map(|peer| fast.cell(*peer, 10, 1).subject.key());
        assert_eq!(keys.collect::<Vec<_>>(), ["stateful+fast-path@one-core", "xdp-redirect@one-core"]);
    }
}
