//! A systemd of its own in a host of a lab: the very program, as the first process of new namespaces, with Throughway
//! installed by `make install` over the machine's own system.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use throughway_lab::{Guard, Host, Output};

use crate::{Scene, binary, eventually, repository};

/// Puts itself into a control group of its own, and the second part into new namespaces.
const OUTER: &str = r#"
set -eu
mkdir -p "$1/cgroup"
mount -t cgroup2 cgroup2 "$1/cgroup"
mkdir -p "$1/cgroup/$3"
echo $$ > "$1/cgroup/$3/cgroup.procs"
exec unshare --pid --mount --uts --ipc --cgroup --fork --kill-child=KILL sh -c "$2" inner "$1"
"#;

/// Gives the first process a root of its own, over the machine's, as `make install` and a boot leave it: what is written there
/// is in memory, and nothing of the machine's own can be changed from within. Of all units it starts ours only.
const INNER: &str = r#"
set -eu
mount --make-rprivate /
mkdir -p "$1/over"
mount -t tmpfs tmpfs "$1/over"
new="$1/over/all"
mkdir "$1/over/upper" "$1/over/work" "$new"
cp -a "$1/root/." "$1/over/upper"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/over/upper,workdir=$1/over/work" "$new"
mount --bind "$1/config" "$new/etc/throughway"
mount -t proc proc "$new/proc"
mount --bind "$new/proc/sys" "$new/proc/sys"
mount -o remount,bind,ro "$new/proc/sys"
mount --bind /sys "$new/sys"
mount -t cgroup2 cgroup2 "$new/sys/fs/cgroup"
mount --rbind /dev "$new/dev"
mount -t tmpfs tmpfs "$new/run"
rm -rf "$new"/etc/fstab "$new"/etc/systemd/system/* "$new"/usr/lib/systemd/system-generators "$new"/usr/lib/systemd/system/*.wants
units="$new/run/systemd/system"
mkdir -p "$units/throughway.service.d"
cat > "$units/test.target" <<END
[Unit]
Description=a machine to test on
END
# There is no journal; a watchdog that need not be waited for; and as in the lab, the right to lock memory stands for its
# unlimited amount, which may not be given where root has no CAP_SYS_RESOURCE.
cat > "$units/throughway.service.d/test.conf" <<END
[Service]
StandardOutput=append:/etc/throughway/service.log
StandardError=append:/etc/throughway/service.log
WatchdogSec=3
CapabilityBoundingSet=CAP_IPC_LOCK
END
cd "$new"
pivot_root . mnt
umount -l /mnt
export container=throughway-test
exec /lib/systemd/systemd --system --unit=test.target --log-target=null --show-status=0
"#;

/// A running systemd; dropped, all of it ends.
#[derive(Debug)]
pub struct Systemd {
    unshare: Guard,
    directory: PathBuf,
    group: String,
    first: u32,
}

impl Systemd {
    /// Installs Throughway into a folder of the lab, lays it over the machine's own system, and starts systemd in this host.
    ///
    /// # Panics
    ///
    /// When any of it fails.
    #[track_caller]
    pub fn boot(scene: &Scene, host: Host) -> Systemd {
        let directory = scene.lab.directory().join("systemd");
        let root = directory.join("root");
        std::fs::create_dir_all(directory.join("config")).expect("the lab's folder takes folders");
        let installed = Command::new("make")
            .arg("install")
            .arg(format!("DESTDIR={}", root.display()))
            .arg(format!("BINARY={}", binary().display()))
            .current_dir(repository())
            .output()
            .expect("make runs");
        assert!(installed.status.success(), "make install: {}", String::from_utf8_lossy(&installed.stderr));

        let group = format!("{}-systemd", scene.lab.namespace(host));
        let folder = directory.to_string_lossy().into_owned();
        let argv = ["sh", "-c", OUTER, "outer", &folder, INNER, &group];
        let unshare = scene.lab.spawn(host, &argv, "systemd.log").expect("systemd starts");
        let children = format!("/proc/{pid}/task/{pid}/children", pid = unshare.pid());
        // From here on dropping cleans up.
        let mut systemd = Systemd { unshare, directory, group, first: 0 };
        systemd.first = eventually("systemd is the first process", Duration::from_secs(20), || {
            let first = std::fs::read_to_string(&children).ok()?.split_whitespace().next()?.parse().ok()?;
            let name = std::fs::read_to_string(format!("/proc/{first}/comm")).ok()?;
            (name.trim() == "systemd").then_some(first)
        });
        eventually("systemd is running", Duration::from_secs(20), || {
            let state = systemd.exec(&["systemctl", "is-system-running"]).stdout;
            matches!(state.trim(), "running" | "degraded").then_some(())
        });
        systemd
    }

    /// Where the configuration of the installed service is.
    pub fn config(&self) -> PathBuf {
        self.directory.join("config/throughway.yaml")
    }

    /// What the service has written.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("config/service.log")).unwrap_or_default()
    }

    /// Runs a command on the machine that systemd runs; the exit status is the caller's to judge.
    ///
    /// # Panics
    ///
    /// When it cannot be run.
    #[track_caller]
    pub fn exec(&self, argv: &[&str]) -> Output {
        let first = self.first.to_string();
        let output = Command::new("nsenter")
            .args(["--target", &first, "--pid", "--mount", "--net", "--uts", "--ipc", "--cgroup", "--"])
            .args(argv)
            .output();
        Output::from(output.expect("nsenter runs"))
    }

    /// `systemctl ARGUMENTS throughway`, which must succeed.
    #[track_caller]
    pub fn control(&self, arguments: &[&str]) -> String {
        let output = self.exec(&[&["systemctl"], arguments, &["throughway"]].concat());
        assert!(output.status.success(), "systemctl {arguments:?}: {output:?}\n{}", self.log());
        output.stdout
    }

    /// A property of the unit.
    #[track_caller]
    pub fn property(&self, name: &str) -> String {
        self.control(&["show", "--value", "--property", name]).trim().to_owned()
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        if std::thread::panicking() && self.first != 0 {
            use std::io::Write;
            let status = self.exec(&["systemctl", "status", "--no-pager", "throughway"]).stdout;
            let _ = writeln!(std::io::stderr(), "--- systemctl status\n{status}\n--- log\n{}", self.log());
        }
        // With the first process of its namespaces all others end.
        self.unshare.signal(Signal::SIGKILL);
        let _ = self.unshare.wait(Duration::from_secs(5));
        remove_group(&self.directory.join("cgroup"), &self.group);
    }
}

/// Removes the control groups that systemd has made.
fn remove_group(mount: &Path, group: &str) {
    let script = r#"mount -t cgroup2 cgroup2 "$1" && for again in $(seq 100); do
        find "$1/$2" -depth -type d -exec rmdir {} + 2>/dev/null; [ -e "$1/$2" ] || exit 0; sleep 0.1; done"#;
    let arguments = ["--mount", "sh", "-c", script, "remove"];
    let _ = Command::new("unshare").args(arguments).arg(mount).arg(group).output();
}
