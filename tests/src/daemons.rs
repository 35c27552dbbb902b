//! Routing daemons in the hosts of a lab, each with sockets and files of its own.

use std::time::Duration;

use throughway_lab::{Guard, Host};

use crate::Scene;

/// What every BIRD configuration of these tests begins with.
pub const BIRD_COMMON: &str = "timeformat protocol iso long ms;\nprotocol device { scan time 1; }\n";

fn path(scene: &Scene, name: &str) -> String {
    scene.lab.directory().join(name).to_string_lossy().into_owned()
}

/// Starts BIRD in a host with this configuration.
pub fn bird(scene: &Scene, host: Host, text: &str) -> Guard {
    let name = host.name();
    let path = |kind: &str| path(scene, &format!("bird-{name}.{kind}"));
    std::fs::write(path("conf"), text).expect("the lab's folder takes files");
    let argv = ["bird", "-f", "-c", &path("conf"), "-s", &path("ctl"), "-P", &path("pid")];
    scene.lab.spawn(host, &argv, &format!("bird-{name}.log")).expect("bird starts")
}

/// What `birdc` says in a host; nothing while BIRD does not answer.
pub fn birdc(scene: &Scene, host: Host, words: &[&str]) -> String {
    let socket = path(scene, &format!("bird-{}.ctl", host.name()));
    let argv = [&["birdc", "-s", &socket], words].concat();
    scene.lab.exec_for(host, &argv, Duration::from_secs(120)).map(|output| output.stdout).unwrap_or_default()
}

/// Whether a protocol of BIRD in a host is up (`Established`, `Running`).
pub fn is_up(scene: &Scene, host: Host, protocol: &str, state: &str) -> bool {
    let text = birdc(scene, host, &["show", "protocols"]);
    text.lines().any(|line| line.starts_with(protocol) && line.contains(state))
}

/// FRR in one host: ends with this value.
#[derive(Debug)]
pub struct Frr {
    directory: String,
    _daemons: Vec<Guard>,
}

impl Frr {
    /// Starts zebra and these daemons in a host, each with the configuration of the same name.
    pub fn start(scene: &Scene, host: Host, daemons: &[(&str, &str)]) -> Frr {
        let directory = path(scene, &format!("frr-{}", host.name()));
        std::fs::create_dir_all(&directory).expect("the lab's folder takes folders");
        let all = [("zebra", "")].into_iter().chain(daemons.iter().copied());
        let all: Vec<_> = all.collect();
        for (daemon, text) in &all {
            let text = format!("hostname {}\n{text}", host.name());
            std::fs::write(format!("{directory}/{daemon}.conf"), text).expect("the folder takes files");
        }
        // They give up being root.
        scene.run(host, &["chown", "-R", "frr:frr", &directory]);
        let guards = all.iter().map(|(daemon, _)| {
            let program = format!("/usr/lib/frr/{daemon}");
            let [config, pid] = ["conf", "pid"].map(|kind| format!("{directory}/{daemon}.{kind}"));
            let zebra = format!("{directory}/zserv");
            let argv = [
                program.as_str(),
                "-f",
                &config,
                "-z",
                &zebra,
                "-i",
                &pid,
                "--vty_socket",
                &directory,
                "-P",
                "0",
                "--log",
                "stdout",
            ];
            let guard = scene.lab.spawn(host, &argv, &format!("{daemon}-{}.log", host.name()));
            let guard = guard.expect("FRR is installed");
            // The others look for zebra only now and then.
            if *daemon == "zebra" {
                crate::eventually("zebra listens", Duration::from_secs(10), || {
                    std::path::Path::new(&zebra).exists().then_some(())
                });
            }
            guard
        });
        let guards = guards.collect();
        Frr { directory, _daemons: guards }
    }

    /// What `vtysh` says.
    pub fn vtysh(&self, scene: &Scene, host: Host, command: &str) -> String {
        let argv = ["vtysh", "--vty_socket", &self.directory, "-c", command];
        scene.lab.exec(host, &argv).map(|output| output.stdout).unwrap_or_default()
    }
}
