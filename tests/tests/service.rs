//! The systemd unit.

use std::process::Command;

use throughway_tests::privileged::say_skipped;
use throughway_tests::{binary, repository};

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
