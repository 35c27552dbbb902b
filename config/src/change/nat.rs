//! Translators: their differences, and their rules in words.

use super::firewall::{describe_match, limit};
use super::{Changes, list};
use crate::checked::{Config, DestinationNat, Nat, PortBlocks, PortPolicy, SourceNat, SourceTarget};

impl Config {
    /// A rule of a translator of this configuration, on one line.
    pub fn describe_source_nat(&self, rule: &SourceNat) -> String {
        let SourceNat { matches, target, place: _ } = rule;
        let target = match target {
            SourceTarget::Keep => "none: true".to_owned(),
            SourceTarget::Masquerade(policy) => format!("masquerade: true{}", describe_policy(policy)),
            SourceTarget::Pool(pool, policy) => format!("pool: {}{}", list(pool), describe_policy(policy)),
            SourceTarget::OneToOne(prefix) => format!("to: {prefix}"),
        };
        format!("match: {}, {target}", describe_match(self, None, matches))
    }

    /// A forward of a translator of this configuration, on one line.
    pub fn describe_destination_nat(&self, rule: &DestinationNat) -> String {
        let DestinationNat { matches, to, twice, place: _ } = rule;
        let twice = twice.map_or(String::new(), |twice| format!(", twice: {twice}"));
        format!("match: {}, to: {to}{twice}", describe_match(self, None, matches))
    }
}

fn describe_policy(policy: &PortPolicy) -> String {
    let PortPolicy { ports, ports_given, blocks, mapping, filtering, parity, preserve_port } = policy;
    let given = if *ports_given { "" } else { " by default" };
    let blocks = blocks.map_or(String::new(), |PortBlocks { size, per_host, deterministic }| {
        format!(", block-size: {size}, blocks-per-host: {per_host}, deterministic: {deterministic}")
    });
    format!(
        ", ports: {ports}{given}{blocks}, mapping: {mapping}, filtering: {filtering}, port-parity: {parity}, preserve-port: {preserve_port}"
    )
}

impl Changes {
    pub(super) fn nat(&mut self, path: &str, old: (&Config, &Nat), new: (&Config, &Nat)) {
        let Nat {
            outside,
            source,
            destination,
            sessions,
            sessions_per_host,
            rate_per_host,
            refuse,
            timeouts,
            hairpin,
        } = new.1;
        let names = |config: &Config, ids: &[_]| list(ids.iter().map(|id| &config.interface(*id).name));
        self.value(format!("{path}.outside"), names(old.0, &old.1.outside), names(new.0, outside));
        let lines = |config: &Config, rules: &[SourceNat]| -> Vec<String> {
            rules.iter().map(|rule| config.describe_source_nat(rule)).collect()
        };
        self.lines(&format!("{path}.source"), &lines(old.0, &old.1.source), &lines(new.0, source), true);
        let lines = |config: &Config, rules: &[DestinationNat]| -> Vec<String> {
            rules.iter().map(|rule| config.describe_destination_nat(rule)).collect()
        };
        self.lines(
            &format!("{path}.destination"),
            &lines(old.0, &old.1.destination),
            &lines(new.0, destination),
            true,
        );
        self.value(format!("{path}.limits.sessions"), old.1.sessions, *sessions);
        self.value(
            format!("{path}.limits.sessions-per-host"),
            limit(old.1.sessions_per_host),
            limit(*sessions_per_host),
        );
        self.value(format!("{path}.limits.rate-per-host"), limit(old.1.rate_per_host), limit(*rate_per_host));
        self.value(format!("{path}.limits.refuse"), old.1.refuse, *refuse);
        self.timeouts(&format!("{path}.timeouts"), &old.1.timeouts, timeouts);
        self.value(format!("{path}.hairpin"), old.1.hairpin, *hairpin);
    }
}
