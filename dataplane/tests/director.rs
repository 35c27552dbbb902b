//! What a load balancer's control side makes of answers, drains, time and reloads.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use throughway::assemble::balancer::{Director, Target};
use throughway::host::HostFacts;
use throughway_config::{Config, FunctionKind, LoadBalancer};
use throughway_session::Seed;

fn config(more: &str, backends: &str) -> LoadBalancer {
    let text = format!(
        "
interfaces: {{ lan: {{ device: lan0 }} }}
functions:
  front:
    load-balancer:
      connections: 1000
      services: [ {{ name: web, vip: 198.51.100.80, port: 80, protocol: tcp, backends: [ {backends} ]{more} }} ]
  core: {{ router: {{}} }}
chains: {{ inbound: {{ from: lan, run: [front, core] }} }}
"
    );
    let (config, _) = Config::parse("test.yaml", &text).unwrap_or_else(|errors| panic!("{errors}"));
    match &config.functions.first().unwrap().kind {
        FunctionKind::LoadBalancer(balancer) => balancer.clone(),
        _ => panic!("it is one"),
    }
}

const CHECKED: &str = ", health: { tcp: true, rise: 2, fall: 3 }";
const TWO: &str = "{ address: 10.0.0.1 }, { address: 10.0.0.2 }";

fn director(config: &LoadBalancer) -> Director {
    Director::new(config, &HostFacts::default(), Seed([1, 2]), Arc::default()).unwrap()
}

fn states(director: &Director) -> Vec<&'static str> {
    director.rows(None).iter().map(|row| row.state).collect()
}

fn shares(director: &Director) -> Vec<f64> {
    director.rows(None).iter().map(|row| (row.share * 100.0).round()).collect()
}

fn targets(director: &Director) -> Vec<Target> {
    director.targets(&mut None).unwrap()
}

fn reload(director: &Director, config: &LoadBalancer) {
    let plan = director.plan(config, &HostFacts::default()).unwrap();
    director.apply(plan);
}

#[test]
fn answers_in_a_row_decide_and_the_first_does_so_at_once() {
    let director = director(&config(CHECKED, TWO));
    let now = Instant::now();
    let all = targets(&director);
    assert_eq!((all.len(), all[0].asked), (2, 80));
    assert_eq!((states(&director), shares(&director)), (vec!["unknown"; 2], vec![50.0, 50.0]));
    let say = |good: bool| {
        let answer = if good { Ok(()) } else { Err("refused".to_owned()) };
        director.report(&all[0], answer, now);
        director.rows(None)[0].state
    };
    director.report(&all[1], Ok(()), now);
    assert_eq!([false, false].map(say), ["down", "down"]);
    assert_eq!((director.rows(None)[0].why.as_str(), shares(&director)), ("refused", vec![0.0, 100.0]));
    // The first bad one decided; two good ones in a row bring it back, three bad ones in a row take it away.
    assert_eq!([true, false, true, true].map(say), ["down", "down", "down", "up"]);
    assert_eq!([false, false, true, false, false, false].map(say), ["up", "up", "up", "up", "up", "down"]);
}

#[test]
fn a_reload_keeps_what_is_known_and_trusts_no_newcomer() {
    let director = director(&config(CHECKED, TWO));
    let now = Instant::now();
    for (target, good) in targets(&director).iter().zip([true, false]) {
        director.report(target, if good { Ok(()) } else { Err(String::new()) }, now);
    }
    director.drain("10.0.0.1", Some(None)).unwrap();
    let mut epoch = None;
    assert!(director.targets(&mut epoch).is_some() && director.targets(&mut epoch).is_none());
    reload(&director, &config(CHECKED, &format!("{TWO}, {{ address: 10.0.0.3 }}")));
    assert_eq!(director.targets(&mut epoch).unwrap().len(), 3);
    assert_eq!(states(&director), ["draining", "down", "unknown"]);
    assert_eq!(shares(&director), [0.0, 0.0, 0.0], "nobody has asked it yet");
    director.report(&targets(&director)[2], Ok(()), now);
    assert_eq!(shares(&director), [0.0, 0.0, 100.0]);
    // Without checks all are used; what is drained stays so.
    reload(&director, &config("", TWO));
    assert_eq!((states(&director), shares(&director)), (vec!["draining", "up"], vec![0.0, 100.0]));
}

#[test]
fn a_drain_ends_by_time_or_by_word() {
    let director = director(&config("", TWO));
    assert_eq!(director.drain("web/10.0.0.1", Some(Some(Duration::from_secs(5)))).unwrap(), ["web/10.0.0.1"]);
    for wrong in ["10.0.0.9", "mail/10.0.0.1", "web", ""] {
        assert!(director.drain(wrong, Some(None)).is_err(), "{wrong}");
    }
    let now = Instant::now();
    director.tick(now + Duration::from_secs(4));
    assert_eq!((states(&director), shares(&director)), (vec!["draining", "up"], vec![0.0, 100.0]));
    director.tick(now + Duration::from_secs(6));
    assert_eq!((states(&director), shares(&director)), (vec!["up", "up"], vec![50.0, 50.0]));
    director.drain("10.0.0.2", Some(None)).unwrap();
    director.tick(now + Duration::from_secs(1_000_000));
    assert_eq!(states(&director), ["up", "draining"]);
    director.drain("10.0.0.2", None).unwrap();
    assert_eq!(states(&director), ["up", "up"]);
}

#[test]
fn who_came_up_starts_slowly() {
    let director = director(&config(&format!("{CHECKED}, slow-start: 100s"), TWO));
    let now = Instant::now();
    let all = targets(&director);
    director.report(&all[0], Ok(()), now);
    director.report(&all[1], Err(String::new()), now);
    director.report(&all[1], Ok(()), now);
    director.report(&all[1], Ok(()), now);
    assert_eq!((states(&director), shares(&director)), (vec!["up", "starting"], vec![98.0, 2.0]));
    director.tick(now + Duration::from_secs(50));
    assert_eq!(shares(&director), [67.0, 33.0]);
    director.tick(now + Duration::from_secs(101));
    assert_eq!((states(&director), shares(&director)), (vec!["up", "up"], vec![50.0, 50.0]));
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let running = director(&config("", TWO));
    let facts = HostFacts::default();
    let mut other = config("", TWO);
    other.connections = 2000;
    assert!(running.plan(&other, &facts).unwrap_err().to_string().contains("connections"));
    let tls = config(", health: { https: /, ca-file: /nowhere/ca.pem }", TWO);
    assert!(running.plan(&tls, &facts).unwrap_err().to_string().contains("/nowhere/ca.pem"));
    assert!(Director::new(&tls, &facts, Seed([1, 2]), Arc::default()).is_err());
    assert!(running.plan(&config(", health: { https: / }", TWO), &facts).is_ok());
    assert_eq!(states(&running), ["up", "up"]);
}
