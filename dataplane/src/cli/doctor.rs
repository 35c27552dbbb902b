//! What this host, kernel and NIC can do, and what would fall back.

use std::path::Path;
use std::process::ExitCode;

use throughway_config::{Config, FastPath, Vlan};
use throughway_io::xsk::MAX_MTU;
use throughway_kernel::Mirror;
use throughway_kernel::State;
use throughway_kernel::device::{self, Devices};

use super::Failure;
use super::output::{columns, print};
use crate::app::fastpath;
use crate::control::facts;

/// One finding.
struct Finding {
    mark: &'static str,
    what: String,
    detail: String,
}

fn good(what: &str, detail: impl Into<String>) -> Finding {
    Finding { mark: "ok", what: what.to_owned(), detail: detail.into() }
}

fn bad(what: &str, detail: impl Into<String>) -> Finding {
    Finding { mark: "FAIL", what: what.to_owned(), detail: detail.into() }
}

fn note(what: &str, detail: impl Into<String>) -> Finding {
    Finding { mark: "note", what: what.to_owned(), detail: detail.into() }
}

/// Examines the host; exit code 1 when the service could not run.
pub(super) fn doctor(config: Option<&Path>) -> Result<ExitCode, Failure> {
    let config = match config.map(Config::load).transpose() {
        Ok(config) => config.map(|(config, _)| config),
        Err(errors) => return Err(errors.to_string().into()),
    };
    let mut findings = Vec::new();
    host(&mut findings);
    if let Some(config) = &config {
        devices(config, &mut findings);
    } else {
        findings.push(note(
            "devices",
            "give a configuration to have its devices examined: throughway doctor FILE",
        ));
    }
    let rows: Vec<Vec<String>> = findings
        .iter()
        .map(|finding| vec![finding.mark.to_owned(), finding.what.clone(), finding.detail.clone()])
        .collect();
    print(&columns(&rows));
    let failed = findings.iter().any(|finding| finding.mark == "FAIL");
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn host(findings: &mut Vec<Finding>) {
    match nix::sys::utsname::uname() {
        Ok(name) => findings.push(good("kernel", name.release().to_string_lossy())),
        Err(error) => findings.push(bad("kernel", error.to_string())),
    }
    findings.push(if nix::unistd::geteuid().is_root() {
        good("privileges", "root")
    } else {
        note("privileges", "not root: CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_PERFMON are needed to run")
    });
    findings.push(match throughway_xdp::Steering::load() {
        Ok(_) => good("XDP program", "the kernel's verifier accepts it"),
        Err(error) => bad("XDP program", error.to_string()),
    });
    findings.push(if Path::new("/sys/kernel/btf/vmlinux").exists() {
        good("BTF", "present")
    } else {
        note("BTF", "the kernel shows none; the program does not need it")
    });
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let cores: Vec<_> = cores.iter().map(|core| core.id.to_string()).collect();
    findings.push(good("cores", format!("this process may run on {}", cores.join(", "))));
}

fn devices(config: &Config, findings: &mut Vec<Finding>) {
    let mirror = match Mirror::open() {
        Ok(mirror) => mirror,
        Err(error) => {
            findings.push(bad("netlink", error.to_string()));
            return;
        }
    };
    let mut asked = match Devices::open() {
        Ok(asked) => asked,
        Err(error) => {
            findings.push(bad("ethtool", error.to_string()));
            return;
        }
    };
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    for core in &config.workers.cores {
        if !cores.iter().any(|known| known.id == usize::from(*core)) {
            findings.push(bad(
                "workers.cores",
                format!("core {core} does not exist, or this process may not use it"),
            ));
        }
    }
    for interface in &config.interfaces {
        let name = match &interface.vlan {
            None => format!("{} ({})", interface.name, interface.device),
            Some(vlan) => format!("{} ({}, VLAN {vlan})", interface.name, interface.device),
        };
        let Some(link) = mirror.state().link_named(&interface.device.to_string()) else {
            findings.push(bad(&name, "no such device"));
            continue;
        };
        let kind = device::driver(link).unwrap_or_else(|| "unknown driver".to_owned());
        findings.push(good(
            &name,
            format!("{kind}, MTU {}, {}", link.mtu, if link.usable() { "up" } else { "down" }),
        ));
        if link.mtu > MAX_MTU {
            findings.push(bad(
                &name,
                format!("MTU {} is larger than the {MAX_MTU} that fit into one buffer", link.mtu),
            ));
        }
        match asked.queues(link).map(|queues| queues.rx) {
            Ok(queues) if (queues as usize) < config.workers.cores.len() => {
                findings.push(bad(
                    &name,
                    format!("{queues} queue(s) for {} workers", config.workers.cores.len()),
                ));
            }
            Ok(queues) => findings.push(good(&name, format!("{queues} queue(s) in use"))),
            Err(error) => findings.push(bad(&name, error.to_string())),
        }
        match asked.xdp(link.index) {
            Ok(Some(features)) => {
                let native = if features.native() { "native XDP" } else { "no native XDP: generic, slower" };
                let copy =
                    if features.zero_copy() { "zero copy" } else { "no zero copy: packets are copied" };
                findings.push(good(&name, format!("{native}; {copy}")));
            }
            Ok(None) => findings
                .push(note(&name, "this kernel cannot tell the driver's XDP features; starting will show")),
            Err(error) => findings.push(note(&name, error.to_string())),
        }
        if config.interfaces.iter().any(|interface| interface.fast_path != FastPath::Off) {
            findings.push(match fastpath::unfit(&mut asked, link.index, kind == "veth") {
                None => good(&name, "fast path: known flows can leave by it in the driver"),
                Some(reason) => {
                    note(&name, format!("fast path: flows that leave by it stay with the workers: {reason}"))
                }
            });
        }
        if let Some(vlan) = &interface.vlan {
            findings.push(of_vlan(&name, vlan, mirror.state(), link.index));
            if kind == "veth" {
                findings.push(note(
                    &name,
                    "veth: the peer's VLAN offload must be off (ethtool -K PEER txvlan off), or no tag is seen",
                ));
            }
        }
        if kind == "veth" {
            findings.push(note(&name, "veth: AF_XDP always copies here; native XDP works"));
            findings.push(note(
                &name,
                "veth: the peer's checksum offload must be off (ethtool -K PEER tx off), or set `checksum: recompute`",
            ));
        }
    }
}

/// Whether the kernel has a device for a VLAN: who answers ARP and neighbour discovery there, and who resolves neighbours.
fn of_vlan(name: &str, vlan: &Vlan, state: &State, device: u32) -> Finding {
    match facts::vlan_device(state, device, (vlan.outer, vlan.inner)) {
        Some(link) if link.usable() => good(name, format!("the kernel's device for it is {}", link.name)),
        Some(link) => {
            note(name, format!("the kernel's device for it, {}, is down: so is the interface", link.name))
        }
        None => {
            let inner = if vlan.inner.is_some() { ", and one on top of it for the inner tag" } else { "" };
            note(
                name,
                format!(
                    "the kernel has no device for it: nobody answers ARP or neighbour discovery for its {} address(es), and only \
                     its {} given neighbour(s) can be sent to; `ip link add link DEVICE name NAME type vlan id {}`{inner} helps \
                     where the kernel can",
                    vlan.addresses.len(),
                    vlan.neighbours.len(),
                    vlan.outer,
                ),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use throughway_kernel::model::{Link, OperState};

    use super::*;

    #[test]
    fn a_vlan_without_a_device_of_the_kernels_is_told_of() {
        let text = "\
interfaces: { voice: { device: eth1, vlan: 100, addresses: 192.0.2.1/24 } }
functions: { core: { router: {} } }
chains: { all: { from: voice, run: [core] } }
";
        let (config, _) = Config::parse("test.yaml", text).unwrap();
        let vlan = config.interfaces[0].vlan.as_ref().unwrap();
        let mut state = State::default();
        let told = |state: &State| of_vlan("voice", vlan, state, 4);
        let missing = told(&state);
        assert_eq!(missing.mark, "note");
        assert!(
            missing.detail.contains("no device") && missing.detail.contains("its 1 address"),
            "{}",
            missing.detail
        );
        let link =
            Link { index: 9, name: "eth1.100".into(), vlan: Some(100), parent: Some(4), ..Link::default() };
        state.links.insert(9, link.clone());
        assert!(told(&state).detail.contains("eth1.100, is down"), "{}", told(&state).detail);
        let up = Link { admin_up: true, carrier: true, oper_state: OperState::Up, ..link };
        state.links.insert(9, up);
        assert_eq!(
            (told(&state).mark, told(&state).detail.as_str()),
            ("ok", "the kernel's device for it is eth1.100")
        );
    }
}
