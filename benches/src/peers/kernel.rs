//! The kernel: routing alone, and with nftables.

use std::fmt::Write;

use super::{Peer, Running, Setup};
use crate::error::{BenchError, Result};
use crate::namespaces::{BACKENDS, IN_DEVICE, Namespaces, OUT_DEVICE, Place, VIP};

/// More flows than this to one destination do not fit behind one masqueraded address: then there is a pool of 256.
pub(super) const MASQUERADED: u32 = 30_000;
/// The pool.
pub(super) const POOL: &str = "203.0.113.0-203.0.113.255";

pub(super) fn start(peer: Peer, setup: &Setup<'_>) -> Result<Running> {
    for setting in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
        setup.at.run(Place::Device, &["sysctl", "-qw", setting])?;
    }
    add_routes(setup.at, setup.scale.routes)?;
    if let Some(rules) = ruleset(peer, setup.scale.rules, setup.traffic.flows, setup.traffic.ipv6) {
        let file = setup.at.directory().join("rules.nft");
        std::fs::write(&file, rules).map_err(|source| BenchError::file(&file, source))?;
        setup.at.run(Place::Device, &["nft", "-f", &file.to_string_lossy()]).map_err(|error| match peer {
            Peer::KernelFlowtable => {
                BenchError::Unavailable(format!("this kernel has no flowtable ({error})"))
            }
            _ => error,
        })?;
    }
    Ok(Running::default())
}

/// So many routes beside the one that is used, all to the sink.
pub(super) fn add_routes(at: &Namespaces, routes: u32) -> Result<()> {
    if routes == 0 {
        return Ok(());
    }
    let mut batch = String::new();
    for number in 0..routes {
        let [_, high, middle, low] = number.to_be_bytes();
        let _ = writeln!(
            batch,
            "route add {}.{middle}.{low}.0/24 via {} dev {OUT_DEVICE}",
            100 + high,
            crate::namespaces::DESTINATION
        );
    }
    let file = at.directory().join("routes");
    std::fs::write(&file, batch).map_err(|source| BenchError::file(&file, source))?;
    at.run(Place::Device, &["ip", "-batch", &file.to_string_lossy()])?;
    Ok(())
}

/// What nftables is told; `None` for routing alone. Established connections come first, as everybody writes it.
fn ruleset(peer: Peer, rules: u32, flows: u32, ipv6: bool) -> Option<String> {
    let filtered = match peer {
        Peer::KernelFilter | Peer::KernelMasquerade | Peer::KernelFlowtable => true,
        Peer::KernelBalance => false,
        _ => return None,
    };
    let mut text = format!("table {} bench {{\n", if ipv6 { "ip6" } else { "ip" });
    if peer == Peer::KernelFlowtable {
        let _ = writeln!(
            text,
            "  flowtable fast {{ hook ingress priority 0; devices = {{ {IN_DEVICE}, {OUT_DEVICE} }}; }}"
        );
    }
    if filtered {
        text.push_str("  chain forward {\n    type filter hook forward priority 0; policy drop;\n");
        if peer == Peer::KernelFlowtable {
            text.push_str("    meta l4proto { tcp, udp } flow add @fast\n");
        }
        text.push_str("    ct state established,related accept\n");
        for number in 0..rules {
            let [_, _, high, low] = number.to_be_bytes();
            let _ = if ipv6 {
                writeln!(text, "    ip6 daddr fd01:0:{high}:{low}::/64 tcp dport 25 drop")
            } else {
                writeln!(text, "    ip daddr 192.{}.{low}.0/24 tcp dport 25 drop", 18 + high % 100)
            };
        }
        let _ = writeln!(
            text,
            "    tcp dport 25 drop\n    iifname \"{IN_DEVICE}\" meta l4proto udp accept\n  }}"
        );
    }
    if matches!(peer, Peer::KernelMasquerade | Peer::KernelFlowtable) {
        let how = if flows > MASQUERADED { format!("snat to {POOL}") } else { "masquerade".to_owned() };
        let _ = writeln!(
            text,
            "  chain outer {{ type nat hook postrouting priority 100; oifname \"{OUT_DEVICE}\" {how}; }}"
        );
    }
    if peer == Peer::KernelBalance {
        let to: Vec<String> =
            BACKENDS.iter().enumerate().map(|(number, address)| format!("{number} : {address}")).collect();
        let _ = writeln!(
            text,
            "  chain front {{ type nat hook prerouting priority -100; ip daddr {VIP} udp dport 53 \
             dnat to jhash ip saddr . udp sport mod {} map {{ {} }}; }}",
            BACKENDS.len(),
            to.join(", ")
        );
    }
    text.push_str("}\n");
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_stand_between_the_established_and_the_one_that_accepts() {
        let text = ruleset(Peer::KernelMasquerade, 3, 100, false).unwrap();
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what}: {text}"));
        assert!(at("ct state") < at("192.18.2.0/24") && at("192.18.2.0/24") < at("l4proto udp accept"));
        assert!(text.contains("masquerade") && !text.contains("snat"));
        assert!(ruleset(Peer::KernelMasquerade, 0, 100_000, false).unwrap().contains(POOL));
        assert_eq!(ruleset(Peer::KernelForward, 3, 1, false), None);
        let six = ruleset(Peer::KernelFilter, 1, 1, true).unwrap();
        assert!(six.starts_with("table ip6 ") && six.contains("ip6 daddr fd01:"), "{six}");
    }
}
