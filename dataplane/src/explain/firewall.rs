//! What a firewall says of a packet, in lines for people. Rules are named by their line in the configuration.

use throughway_firewall::explain::{Explanation, Fragment, Met, Step};
use throughway_vnf::DropReason;

/// A line for each step.
pub fn lines(explanation: &Explanation) -> Vec<String> {
    explanation.steps.iter().map(line).collect()
}

fn line(step: &Step) -> String {
    match step {
        Step::Fragment(Fragment::First) => "the first fragment: judged as if it were whole".to_owned(),
        Step::Fragment(Fragment::Follows(Ok(()))) => {
            "a later fragment: passes as its first one did".to_owned()
        }
        Step::Fragment(Fragment::Follows(Err(reason))) => {
            format!("a later fragment: ends as its first one did ({})", reason.label())
        }
        Step::Fragment(Fragment::Refused(reason)) => format!("a fragment: {}", told(*reason)),
        Step::State(state) => format!("state {}", format!("{state:?}").to_lowercase()),
        Step::Session { before, after, rule, .. } => {
            let by = rule.map_or("the default".to_owned(), |rule| format!("the rule at line {rule}"));
            match after {
                Some(after) if after != before => {
                    format!("session {before}, then {after}; let in by {by}")
                }
                Some(_) => format!("session {before}; let in by {by}"),
                None => format!("session {before}; let in by {by}; the packet does not fit it"),
            }
        }
        Step::Rejudged => "the session is judged again: rules have changed".to_owned(),
        Step::Policed => "counts against the limit of its session's rule".to_owned(),
        Step::Rule { rule, path, met } => {
            let way: String = path.iter().map(|jump| format!("line {jump} > ")).collect();
            let met = match met {
                Met::Decided => "matches and decides",
                Met::Passed => "matches, and the next rule is asked",
                Met::LimitExceeded => "would match, but its limit is exceeded",
                Met::StateNotNamed => "would match, but does not name the packet's state",
            };
            format!("rule at {way}line {rule} {met}")
        }
        Step::Default => "no rule decides: the default does".to_owned(),
        Step::Opens(Ok(())) => "a session is opened".to_owned(),
        Step::Opens(Err(reason)) => format!("no session can be opened: {}", told(*reason)),
    }
}

fn told(reason: DropReason) -> String {
    format!("{} ({})", reason.label(), reason.explanation().trim())
}
