//! The `throughway` under test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Names a binary to test instead of the one of this build.
const CHOSEN: &str = "THROUGHWAY_BINARY";

/// The path of the binary: `THROUGHWAY_BINARY`, or the one built from this tree into the same target folder and with the
/// same profile as the tests. Cargo builds no binaries of other packages for a test, so it is asked here, once; when
/// everything is fresh that takes a moment.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os(CHOSEN) {
        Some(path) => PathBuf::from(path).canonicalize().expect("THROUGHWAY_BINARY names a file"),
        None => build(),
    })
}

fn build() -> PathBuf {
    // TARGET/PROFILE/deps/TEST
    let test = std::env::current_exe().expect("the test knows its own path");
    let folder = test.parent().and_then(Path::parent).expect("the test is in PROFILE/deps");
    let target = folder.parent().expect("the profile is in the target folder");
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        // The same selection of packages as `cargo test --workspace` has, so the same features and nothing to rebuild.
        .args([
            "build",
            "--quiet",
            "--workspace",
            "--bin",
            "throughway",
            "--profile",
            profile,
            "--target-dir",
        ])
        .arg(target)
        .current_dir(crate::repository())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo build: {}", String::from_utf8_lossy(&output.stderr));
    folder.join("throughway")
}

/// Runs the binary in the repository's root, outside any lab, to its end.
pub fn throughway(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).current_dir(crate::repository()).output().expect("throughway runs")
}
