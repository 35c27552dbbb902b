//! What a firewall says of a packet, in lines for people. Rules are named by their line in the configuration.

use throughway_firewall::Policy;
use throughway_firewall::explain::{Explanation, Fragment, Met, Step};
use throughway_vnf::DropReason;

/// A line for each step.
pub fn lines(explanation: &Explanation, policy: &Policy) -> Vec<String> {
    explanation.steps.iter().map(|step| line(step, policy)).collect()
}

/// Where a rule is written.
fn place(rule: u32, policy: &Policy) -> String {
    match policy.origin(rule) {
        Some(origin) => format!("line {}:{}", origin.line, origin.column),
        None => format!("number {rule}"),
    }
}

fn line(step: &Step, policy: &Policy) -> String {
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
            let by =
                rule.map_or("the default".to_owned(), |rule| format!("the rule at {}", place(rule, policy)));
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
            let way: String = path.iter().map(|jump| format!("{} > ", place(*jump, policy))).collect();
            let met = match met {
                Met::Decided => "matches and decides",
                Met::Passed => "matches, and the next rule is asked",
                Met::LimitExceeded => "would match, but its limit is exceeded",
                Met::WithinLimit => "would match beyond its limit, which is not reached",
                Met::StateNotNamed => "would match, but does not name the packet's state",
            };
            format!("rule at {way}{} {met}", place(*rule, policy))
        }
        Step::Default => "no rule decides: the default does".to_owned(),
        Step::Opens(Ok(())) => "a session is opened".to_owned(),
        Step::Opens(Err(reason)) => format!("no session can be opened: {}", told(*reason)),
    }
}

fn told(reason: DropReason) -> String {
    format!("{} ({})", reason.label(), reason.explanation().trim())
}
