//! Bare XDP programs: `peers/xdp.c`, compiled when they are needed.

use std::path::Path;

use super::kernel::add_routes;
use super::{Peer, Running, Setup};
use crate::command::run;
use crate::error::{BenchError, Result};
use crate::namespaces::{IN_DEVICE, Namespaces, OUT_DEVICE, Place, SINK_MAC};

const SOURCE: &str = include_str!("../../peers/xdp.c");

pub(super) fn start(peer: Peer, setup: &Setup<'_>) -> Result<Running> {
    let at = &setup.at;
    at.run(Place::Device, &["sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
    add_routes(at, setup.scale.routes)?;
    let section = if peer == Peer::XdpFib { "xdp/fib" } else { "xdp/redirect" };
    attach(at, IN_DEVICE, section, OUT_DEVICE, SINK_MAC)?;
    Ok(Running::default())
}

/// Attaches a program to a device of the box; what it sends leaves by `out`, to that MAC address.
///
/// # Errors
/// When it cannot be compiled or attached.
pub fn attach(at: &Namespaces, device: &str, section: &str, out: &str, mac: &str) -> Result<()> {
    let index = at.run(Place::Device, &["cat", &format!("/sys/class/net/{out}/ifindex")])?;
    let (source, object) = (at.directory().join("xdp.c"), at.directory().join(format!("xdp-{device}.o")));
    std::fs::write(&source, SOURCE).map_err(|error| BenchError::file(&source, error))?;
    compile(&source, &object, index.trim(), mac)?;
    let object = object.to_string_lossy();
    let argv = ["ip", "link", "set", "dev", device, "xdpdrv", "object", &object, "section", section];
    at.run(Place::Device, &argv).map(drop)
}

fn compile(source: &Path, object: &Path, out: &str, mac: &str) -> Result<()> {
    let (source, object) = (source.to_string_lossy(), object.to_string_lossy());
    let mac: Vec<String> = mac.split(':').map(|byte| format!("0x{byte}")).collect();
    let (out, mac) = (format!("-DOUT={out}"), format!("-DSINK={}", mac.join(",")));
    // Where Debian keeps what differs between architectures.
    let include = format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    run(&["clang", "-O2", "-g", "-target", "bpf", &include, &out, &mac, "-c", &source, "-o", &object])?;
    Ok(())
}
