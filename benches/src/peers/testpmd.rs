//! DPDK's testpmd: every packet out of the other port with other MAC addresses, over two AF_XDP ports.

use std::time::{Duration, Instant};

use super::{Running, Setup};
use crate::error::{BenchError, Result};
use crate::namespaces::{IN_DEVICE, OUT_DEVICE, Place, SINK_MAC};

/// How long it may take to open its ports.
const PATIENCE: Duration = Duration::from_secs(20);
const LOG: &str = "testpmd.log";

pub(super) fn start(setup: &Setup<'_>) -> Result<Running> {
    // The main core only waits; the other one forwards.
    let cores = format!("{},{}", setup.cores.generator, setup.cores.device);
    let (main, prefix) = (setup.cores.generator.to_string(), setup.at.name(Place::Device));
    let ports = [(0, IN_DEVICE), (1, OUT_DEVICE)]
        .map(|(number, device)| format!("--vdev=net_af_xdp{number},iface={device}"));
    let peer = format!("--eth-peer=1,{SINK_MAC}");
    let argv = [
        "dpdk-testpmd",
        "-l",
        &cores,
        "--main-lcore",
        &main,
        "--no-pci",
        "--no-huge",
        "-m",
        "512",
        "--file-prefix",
        &prefix,
        "--log-level",
        "lib.eal:error",
        &ports[0],
        &ports[1],
        "--",
        "--forward-mode=mac",
        &peer,
        "--nb-cores=1",
        "--no-mlockall",
        "--total-num-mbufs=32768",
        "--auto-start",
        "--stats-period=3600",
    ];
    let mut guard = setup.at.spawn(Place::Device, None, &argv, LOG)?;
    let path = setup.at.directory().join(LOG);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let log = std::fs::read_to_string(&path).unwrap_or_default();
        if log.contains("Port statistics") {
            return Ok(Running { guards: vec![guard], ask: None });
        }
        if guard.ended().is_some() || Instant::now() > deadline {
            let last: Vec<&str> = log.lines().rev().take(5).collect();
            return Err(BenchError::Command { command: argv.join(" "), message: last.join(" | ") });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
