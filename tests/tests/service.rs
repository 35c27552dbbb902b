//! The systemd unit.

use std::process::Command;
use std::time::Duration;

use throughway_tests::config::Config;
use throughway_tests::privileged::say_skipped;
use throughway_tests::{Scene, binary, eventually, privileged, repository};

/// `systemd-analyze`, or `None` (said aloud) where systemd is not installed.
fn analyze(arguments: &[&str]) -> Option<(bool, String)> {
    match Command::new("systemd-analyze").args(arguments).output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
        }
        Err(error) => {
            assert!(std::env::var_os("THROUGHWAY_REQUIRE_PRIVILEGED").is_none(), "systemd-analyze: {error}");
            say_skipped(&format!("the systemd unit: systemd-analyze: {error}"));
            None
        }
    }
}

/// A copy of the unit that starts the binary under test: the real path exists only where Throughway is installed.
fn unit() -> std::path::PathBuf {
    let text = std::fs::read_to_string(repository().join("packaging/throughway.service"))
        .expect("the unit is there");
    let folder = std::env::temp_dir().join(format!("throughway-unit-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    let path = folder.join("throughway.service");
    let installed = "/usr/bin/throughway";
    assert!(text.contains(installed));
    std::fs::write(&path, text.replace(installed, &binary().to_string_lossy()))
        .expect("a file can be written");
    path
}

#[test]
fn systemd_understands_every_line_of_the_unit() {
    let path = unit();
    let Some((fine, text)) = analyze(&["verify", "--man=no", &path.to_string_lossy()]) else { return };
    // Complaints of other units of the machine are not ours.
    let ours: Vec<&str> = text.lines().filter(|line| line.contains("throughway")).collect();
    assert!(fine && ours.is_empty(), "{text}");
}

#[test]
fn the_unit_is_hardened() {
    let path = unit();
    let arguments = ["security", "--offline=true", "--no-pager", "--threshold=40", &path.to_string_lossy()];
    let Some((fine, text)) = analyze(&arguments) else { return };
    assert!(fine, "systemd finds it more exposed than 4.0 of 10:\n{text}");
}

#[test]
fn the_watchdog_hears_of_the_service_while_a_reload_of_a_large_set_goes_on() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::new();
    scene.start_in(&Config::default().yaml(), &[("WATCHDOG_USEC", "600000")]);
    let elements: String =
        (0..300_000u32).map(|n| format!("10.{}.{}.{}, ", n >> 16, n >> 8 & 255, n & 255)).collect();
    let firewall = format!(
        "{{ firewall: {{ default: drop, sets: {{ many: [ {elements} ] }}, rules: [ {{ drop: {{ source: \"@many\" }} }}, {{ allow: {{}} }} ] }} }}"
    );
    let mut config = Config::default();
    config.functions.push(("edge", firewall));
    config.run.insert(0, "edge");
    scene.write(&config.yaml());
    let pid = scene.service().process().pid();
    scene.run(throughway_lab::Host::Box, &["kill", "-HUP", &pid.to_string()]);
    let heard = |scene: &mut Scene| {
        let notices = scene.service().notices();
        let reload = notices.iter().skip_while(|notice| *notice != "RELOADING=1").cloned();
        reload.collect::<Vec<_>>()
    };
    let notices = eventually("the reload comes to its end", Duration::from_secs(120), || {
        let notices = heard(&mut scene);
        notices.iter().any(|notice| notice == "READY=1").then_some(notices)
    });
    let during = notices.iter().take_while(|notice| *notice != "READY=1");
    let alive = during.filter(|notice| *notice == "WATCHDOG=1").count();
    assert!(alive >= 1, "{notices:?}");
    let applied = scene.page().sum("throughway_config_reloads_total", &[("result", "applied")]);
    assert_eq!(applied, 1.0, "it was loaded");
}

#[test]
fn threads_of_the_service_keep_off_the_worker_s_core() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::running(&Config::default());
    let pid = scene.service().process().pid();
    // A thread has its name a moment after it is there.
    let tasks = eventually("the threads have their names", Duration::from_secs(5), || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
        let tasks = tasks.filter_map(|task| {
            let status = std::fs::read_to_string(task.path().join("status")).ok()?;
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name))?;
                Some(line.trim_start_matches(':').trim().to_owned())
            };
            Some((field("Name")?, field("Cpus_allowed_list")?))
        });
        let tasks: Vec<(String, String)> = tasks.collect();
        tasks.iter().any(|(name, _)| name == "mirror").then_some(tasks)
    });
    let own = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).expect("it is known");
    let cores = (0..nix::sched::CpuSet::count()).filter(|core| own.is_set(*core) == Ok(true)).count();
    for (name, allowed) in &tasks {
        let worker = name.starts_with("worker-");
        let zero = allowed.split(',').any(|range| range == "0" || range.starts_with("0-"));
        assert_eq!(zero, worker || cores == 1, "{name} may run on {allowed}");
    }
}
