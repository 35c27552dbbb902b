//! Bare XDP programs: `peers/xdp.c`, compiled when they are needed.

use std::path::Path;

use super::kernel::add_routes;
use super::{Peer, Running, Setup};
use crate::command::run;
use crate::error::{BenchError, Result};
use crate::namespaces::{IN_DEVICE, OUT_DEVICE, Place, SINK_MAC};

const SOURCE: &str = include_str!("../../peers/xdp.c");

pub(super) fn start(peer: Peer, setup: &Setup<'_>) -> Result<Running> {
    let at = &setup.at;
    at.run(Place::Device, &["sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
    add_routes(at, setup.scale.routes)?;
    let index = at.run(Place::Device, &["cat", &format!("/sys/class/net/{OUT_DEVICE}/ifindex")])?;
    let (source, object) = (at.directory().join("xdp.c"), at.directory().join("xdp.o"));
    std::fs::write(&source, SOURCE).map_err(|error| BenchError::file(&source, error))?;
    compile(&source, &object, index.trim())?;
    let section = if peer == Peer::XdpFib { "xdp/fib" } else { "xdp/redirect" };
    let object = object.to_string_lossy();
    let attach = ["ip", "link", "set", "dev", IN_DEVICE, "xdpdrv", "object", &object, "section", section];
    at.run(Place::Device, &attach)?;
    Ok(Running::default())
}

fn compile(source: &Path, object: &Path, out: &str) -> Result<()> {
    let (source, object) = (source.to_string_lossy(), object.to_string_lossy());
    let mac: Vec<String> = SINK_MAC.split(':').map(|byte| format!("0x{byte}")).collect();
    let (out, mac) = (format!("-DOUT={out}"), format!("-DSINK={}", mac.join(",")));
    // Where Debian keeps what differs between architectures.
    let include = format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    run(&["clang", "-O2", "-g", "-target", "bpf", &include, &out, &mac, "-c", &source, "-o", &object])?;
    Ok(())
}
