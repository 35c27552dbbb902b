//! What this host, kernel and NIC can do, and what would fall back.

use std::path::Path;
use std::process::ExitCode;

use throughway_config::{Config, FastPath};
use throughway_io::xsk::MAX_MTU;
use throughway_kernel::Mirror;
use throughway_kernel::device::{self, Devices};

use super::Failure;
use super::output::{columns, print};
use crate::app::fastpath;

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
        let name = format!("{} ({})", interface.name, interface.device);
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
        if kind == "veth" {
            findings.push(note(&name, "veth: AF_XDP always copies here; native XDP works"));
            findings.push(note(
                &name,
                "veth: the peer's checksum offload must be off (ethtool -K PEER tx off), or set `checksum: recompute`",
            ));
        }
    }
}
