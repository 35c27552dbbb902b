//! The house's rules: which crate may know which, where `unsafe` may live, how long a file may be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use throughway_tests::repository;

/// What each crate may depend on, of ours. Arrows go one way; what is not listed is forbidden.
const ARROWS: &[(&str, &[&str])] = &[
    ("throughway-shared", &[]),
    ("throughway-traffic", &["throughway-shared"]),
    ("throughway-packet", &["throughway-shared"]),
    // Knows packets and actions, but no function: functions name its slots through the API.
    ("throughway-flow", &["throughway-shared", "throughway-packet"]),
    ("throughway-vnf", &["throughway-shared", "throughway-packet", "throughway-flow"]),
    ("throughway-session", &["throughway-shared", "throughway-packet", "throughway-vnf"]),
    // Functions do not know each other, and not the configuration.
    ("throughway-router", &["throughway-shared", "throughway-packet", "throughway-vnf"]),
    ("throughway-marker", &["throughway-shared", "throughway-packet", "throughway-vnf"]),
    ("throughway-firewall", STATEFUL),
    ("throughway-nat", STATEFUL),
    ("throughway-balancer", STATEFUL),
    // The configuration knows no function: YAML meets functions in the data plane's `assemble` alone.
    ("throughway-config", &["throughway-packet"]),
    ("throughway-io", &["throughway-shared", "throughway-packet"]),
    ("throughway-xdp", &["throughway-shared"]),
    ("throughway-kernel", &[]),
    ("throughway-lab", &[]),
    ("throughway-pktgen", &["throughway-traffic", "throughway-packet", "throughway-io"]),
    // Sees everything and is seen by nobody but the tests and the benchmarks, which see everything too.
    ("throughway", ALL),
    ("throughway-tests", EVERYTHING),
    ("throughway-benches", EVERYTHING),
    ("throughway-microbenches", EVERYTHING),
];

/// What a function with sessions may know.
const STATEFUL: &[&str] =
    &["throughway-shared", "throughway-packet", "throughway-flow", "throughway-vnf", "throughway-session"];

const ALL: &[&str] = &[
    "throughway-shared",
    "throughway-traffic",
    "throughway-packet",
    "throughway-vnf",
    "throughway-flow",
    "throughway-session",
    "throughway-router",
    "throughway-marker",
    "throughway-nat",
    "throughway-balancer",
    "throughway-firewall",
    "throughway-config",
    "throughway-io",
    "throughway-xdp",
    "throughway-kernel",
    "throughway-lab",
    "throughway-pktgen",
];

const EVERYTHING: &[&str] = &[
    "throughway-shared",
    "throughway-traffic",
    "throughway-packet",
    "throughway-vnf",
    "throughway-flow",
    "throughway-session",
    "throughway-router",
    "throughway-marker",
    "throughway-nat",
    "throughway-balancer",
    "throughway-firewall",
    "throughway-config",
    "throughway-io",
    "throughway-xdp",
    "throughway-kernel",
    "throughway-lab",
    "throughway-pktgen",
    "throughway",
    "throughway-benches",
];

/// Where `unsafe` may be: the rings and frames of AF_XDP, the memory shared with the BPF program, and the BPF programs.
const UNSAFE_ROOMS: &[&str] =
    &["dataplane/io/src/xsk/", "dataplane/xdp/src/fast/memory.rs", "ebpf/steer/", "ebpf/pktgen/"];

/// Files are read in one sitting.
const LONGEST_FILE: usize = 700;

fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(repository())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

/// Crate → those of ours that it names, in any kind of dependency.
fn arrows(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let list = |value: &Value| value.as_array().expect("a list").clone();
    list(&metadata["packages"])
        .iter()
        .map(|package| {
            let known = list(&package["dependencies"])
                .iter()
                .filter(|dependency| dependency["path"].is_string())
                .map(|dependency| text(&dependency["name"]))
                .collect();
            (text(&package["name"]), known)
        })
        .collect()
}

#[test]
fn crates_know_only_whom_they_may() {
    let seen = arrows(&metadata());
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    for (name, knows) in &seen {
        let may = allowed.get(name.as_str()).unwrap_or_else(|| panic!("{name} is new: add it to the table"));
        for other in knows {
            assert!(may.contains(&other.as_str()), "{name} must not depend on {other}");
        }
    }
    let gone: Vec<_> = allowed.keys().filter(|name| !seen.contains_key(**name)).collect();
    assert!(gone.is_empty(), "in the table, but no crate: {gone:?}");
}

/// All Rust files of the repository.
fn rust_files() -> Vec<PathBuf> {
    fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("a readable folder").flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                collect(&path, into);
            } else if name.ends_with(".rs") {
                into.push(path);
            }
        }
    }
    let mut files = Vec::new();
    collect(&repository(), &mut files);
    assert!(files.len() > 30, "only {} files found", files.len());
    files
}

#[test]
fn no_file_is_too_long_to_read() {
    let long: Vec<String> = rust_files()
        .iter()
        .map(|path| (path, std::fs::read_to_string(path).expect("a text file").lines().count()))
        .filter(|&(_, lines)| lines > LONGEST_FILE)
        .map(|(path, lines)| format!("{}: {lines} lines", path.display()))
        .collect();
    assert!(long.is_empty(), "longer than {LONGEST_FILE} lines:\n{}", long.join("\n"));
}

#[test]
fn unsafe_code_stays_in_its_rooms_and_has_a_reason() {
    let repository = repository();
    // Written apart, so that this file does not find itself.
    let words = [
        concat!("unsafe", " {"),
        concat!("unsafe", " impl"),
        concat!("unsafe", " fn"),
        concat!("unsafe", "("),
    ];
    for path in rust_files() {
        let text = std::fs::read_to_string(&path).expect("a text file");
        let name = path.strip_prefix(&repository).expect("inside").to_string_lossy().into_owned();
        let allowed = UNSAFE_ROOMS.iter().any(|room| name.starts_with(room));
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if words.iter().any(|word| code.contains(word)) {
                assert!(allowed, "{name}:{}: unsafe code outside its rooms", number + 1);
            }
        }
        if !allowed {
            let switched_on = concat!("allow(", "unsafe_code");
            assert!(
                !text.contains(switched_on) || name == "dataplane/io/src/lib.rs",
                "{name} allows unsafe code"
            );
        }
    }
}

#[test]
fn every_crate_outside_the_rooms_forbids_unsafe_code() {
    let metadata = metadata();
    for package in metadata["packages"].as_array().expect("a list") {
        let manifest = Path::new(package["manifest_path"].as_str().expect("a path"));
        let folder = manifest.parent().expect("a folder");
        // These forbid it in their manifest or hold a room.
        if ["dataplane/io", "dataplane/xdp", "tests"].iter().any(|known| folder.ends_with(known)) {
            continue;
        }
        let root = std::fs::read_to_string(folder.join("src/lib.rs")).expect("every crate is a library");
        assert!(root.contains("#![forbid(unsafe_code)]"), "{}: forbid unsafe code", folder.display());
    }
}
