//! Servers that people run, in the hosts of a lab: DNS, FTP, HTTP, STUN. Each ends with the value that starting it returns.

use std::time::Duration;

use throughway_lab::{Guard, Host};

use crate::{Scene, eventually};

/// How long a server may take until it listens.
const PATIENCE: Duration = Duration::from_secs(10);

fn path(scene: &Scene, name: &str) -> String {
    scene.lab.directory().join(name).to_string_lossy().into_owned()
}

/// Starts a server and waits until something listens on `port` of `protocol` (`tcp` or `udp`).
fn started(scene: &Scene, host: Host, argv: &[&str], protocol: &str, port: u16) -> Guard {
    let program = argv.first().copied().unwrap_or("server");
    let guard = scene.lab.spawn(host, argv, &format!("{program}-{}.log", host.name()));
    let guard = guard.unwrap_or_else(|error| panic!("{error}"));
    let which = if protocol == "udp" { "-Huan" } else { "-Hltn" };
    eventually(&format!("{program} listens"), PATIENCE, || {
        let listening = scene.run(host, &["ss", which, "sport", "=", &format!(":{port}")]).stdout;
        (!listening.trim().is_empty()).then_some(())
    });
    guard
}

/// dnsmasq, which knows `name` and nothing else.
pub fn dns(scene: &Scene, host: Host, name: &str, address: &str) -> Guard {
    let record = format!("--address=/{name}/{address}");
    let argv = [
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--pid-file=",
        "--user=root",
        "--log-facility=-",
        &record,
    ];
    started(scene, host, &argv, "udp", 53)
}

/// Python's HTTP server, on port 80, of the files in `folder`.
pub fn http(scene: &Scene, host: Host, folder: &str) -> Guard {
    started(
        scene,
        host,
        &["python3", "-m", "http.server", "--bind", "::", "--directory", folder, "80"],
        "tcp",
        80,
    )
}

/// vsftpd for anonymous users, with passive data connections, of the files in `folder`, which root must own and nobody else may write.
pub fn ftp(scene: &Scene, host: Host, folder: &str) -> Guard {
    let (config, empty) = (path(scene, "vsftpd.conf"), path(scene, "vsftpd-empty"));
    std::fs::create_dir_all(&empty).expect("the lab's folder takes folders");
    let text = format!(
        "listen=YES\nbackground=NO\nanonymous_enable=YES\nno_anon_password=YES\nanon_root={folder}\n\
         secure_chroot_dir={empty}\npasv_enable=YES\nport_enable=NO\nxferlog_enable=NO\nseccomp_sandbox=NO\n"
    );
    std::fs::write(&config, text).expect("the lab's folder takes files");
    started(scene, host, &["vsftpd", &config], "tcp", 21)
}

/// coturn as a STUN server with two addresses, which answers from the other one and from the other port when asked (RFC 3489, RFC
/// 5780): ports 3478 and 3479.
pub fn stun(scene: &Scene, host: Host, [first, second]: [&str; 2]) -> Guard {
    let pid = path(scene, "turnserver.pid");
    let argv = [
        "turnserver",
        "-n",
        "--listening-ip",
        first,
        "--listening-ip",
        second,
        "--no-auth",
        "--no-tls",
        "--no-dtls",
        "--no-tcp",
        "--no-cli",
        "--log-file",
        "stdout",
        "--simple-log",
        "--pidfile",
        &pid,
    ];
    started(scene, host, &argv, "udp", 3479)
}
