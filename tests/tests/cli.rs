//! The command line: exit codes, where errors point, the schema.

use std::path::{Path, PathBuf};
use std::process::Output;

use throughway_tests::binary::throughway;
use throughway_tests::config::Config;
use throughway_tests::repository;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it was not killed")
}

/// A file that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, contents: &str) -> Self {
        let path = std::env::temp_dir().join(format!("throughway-cli-{}-{name}", std::process::id()));
        std::fs::write(&path, contents).expect("a file can be written");
        Scratch(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn wrong_usage_is_two_and_help_is_zero() {
    for wrong in [&[][..], &["frobnicate"], &["run"], &["show", "everything"], &["check", "a", "b"]] {
        let output = throughway(wrong);
        assert_eq!(code(&output), 2, "{wrong:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains("--help"), "{wrong:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty(), "{wrong:?}");
    }
    for right in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let output = throughway(right);
        assert_eq!(code(&output), 0, "{right:?}");
        assert!(text(&output.stdout).contains("throughway"), "{right:?}");
    }
}

#[test]
fn a_good_file_is_zero_and_says_what_it_would_build() {
    let file = Scratch::new("good.yaml", &Config::default().marked("ef").yaml());
    let output = throughway(&["check", file.path()]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let said = text(&output.stdout);
    for word in ["lan0", "wan0", "outbound", "inbound", "core", "mark"] {
        assert!(said.contains(word), "{word} is missing: {said}");
    }
    let output = throughway(&["check", "--json", file.path()]);
    assert_eq!(code(&output), 0);
    serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON");
}

#[test]
fn a_bad_file_is_one_and_points_at_the_word() {
    let good = Config::default().yaml();
    for (wrong, right, hint) in [
        ("run: [cor]", "run: [core]", "core"),
        ("devise: lan0", "device: lan0", "device"),
        ("poll: adaptiv", "poll: adaptive", "adaptive"),
        ("from: lam", "from: lan", "lan"),
    ] {
        let bad = good.replacen(right, wrong, 1);
        assert_ne!(good, bad, "{right} is not in the file");
        let line = bad.lines().position(|line| line.contains(wrong)).expect("it is there");
        let file = Scratch::new("bad.yaml", &bad);
        let output = throughway(&["check", file.path()]);
        assert_eq!(code(&output), 1, "{wrong}");
        let said = text(&output.stderr);
        assert!(said.contains(&format!("{}:{}:", file.path(), line + 1)), "{wrong}: {said}");
        assert!(said.contains('^'), "no caret: {said}");
        assert!(said.contains(hint) && said.contains("did you mean"), "no suggestion: {said}");
        // `run` refuses it the same way, before it touches anything.
        let output = throughway(&["run", file.path()]);
        assert_eq!(code(&output), 1, "{wrong}");
        assert!(text(&output.stderr).contains(&format!("{}:{}:", file.path(), line + 1)), "{wrong}");
    }
}

#[test]
fn a_file_that_is_not_there_is_one() {
    let output = throughway(&["check", "/nonexistent/throughway.yaml"]);
    assert_eq!(code(&output), 1);
    assert!(text(&output.stderr).contains("/nonexistent/throughway.yaml"), "{}", text(&output.stderr));
}

#[test]
fn every_example_is_accepted() {
    let folder = repository().join("config/examples");
    let examples: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("there are examples")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    assert!(examples.iter().any(|path| path.ends_with("edge.yaml")), "{examples:?}");
    for example in examples {
        let output = throughway(&["check", &example.to_string_lossy()]);
        assert_eq!(code(&output), 0, "{}: {}", example.display(), text(&output.stderr));
    }
}

#[test]
fn the_schema_in_the_repository_is_fresh() {
    let output = throughway(&["schema"]);
    assert_eq!(code(&output), 0);
    let path = repository().join("config/schema.json");
    let kept = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(kept == text(&output.stdout), "config/schema.json is stale: run `make schema`");
    let schema: serde_json::Value = serde_json::from_str(&kept).expect("JSON");
    for section in ["interfaces", "workers", "functions", "chains"] {
        assert!(schema["properties"][section].is_object(), "{section} is not in the schema");
    }
}

#[test]
fn without_a_service_the_client_commands_are_one_and_name_the_socket() {
    for command in [&["show", "interfaces"][..], &["reload"]] {
        let mut arguments = command.to_vec();
        arguments.extend(["--api", "/nonexistent/api.sock"]);
        let output = throughway(&arguments);
        assert_eq!(code(&output), 1, "{command:?}");
        assert!(text(&output.stderr).contains("/nonexistent/api.sock"), "{}", text(&output.stderr));
    }
}

#[test]
fn a_difference_is_named_and_no_difference_is_none() {
    let old = Scratch::new("old.yaml", &Config::default().yaml());
    let new = Scratch::new("new.yaml", &Config::default().marked("ef").yaml());
    let same = throughway(&["diff", old.path(), old.path()]);
    assert_eq!(code(&same), 0, "{}", text(&same.stderr));
    assert!(!text(&same.stdout).contains("mark"), "{}", text(&same.stdout));
    let other = throughway(&["diff", old.path(), new.path()]);
    assert_eq!(code(&other), 0, "{}", text(&other.stderr));
    assert!(text(&other.stdout).contains("mark"), "{}", text(&other.stdout));
    assert_eq!(code(&throughway(&["diff", old.path(), "/nonexistent.yaml"])), 1);
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    if !throughway_tests::privileged() {
        return;
    }
    let example = repository().join("config/examples/edge.yaml");
    let mut demo = std::process::Command::new(throughway_tests::binary())
        .args(["lab", "demo"])
        .arg(&example)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the demo starts");
    let place = Path::new("/run/netns/throughway-demo-client");
    let wait = std::time::Duration::from_secs(20);
    throughway_tests::eventually("the demo's namespaces", wait, || place.exists().then_some(()));
    std::thread::sleep(std::time::Duration::from_secs(2));
    let pid = nix::unistd::Pid::from_raw(demo.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it runs");
    let status = throughway_tests::eventually("the demo ends", wait, || demo.try_wait().ok().flatten());
    assert_eq!(status.code(), Some(1));
    let left = std::fs::read_dir("/run/netns").expect("a folder").flatten();
    let left: Vec<_> = left
        .map(|entry| entry.file_name())
        .filter(|name| name.to_string_lossy().contains("-demo-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn explain_tells_the_way_of_packets() {
    let config = repository().join("config/examples/edge.yaml");
    let config = config.to_string_lossy();
    let output = throughway(&[
        "explain",
        "-c",
        &config,
        "-p",
        "lan udp 10.1.0.9:1234 > 127.0.0.1:443",
        "-p",
        "wan tcp 10.1.0.9:1 > 10.1.0.8:2 syn",
    ]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    for line in ["chain outbound", "core (router)", "dropped: martian-address", "dropped: no-route"] {
        assert!(text.contains(line), "{line}:\n{text}");
    }
    let wrong = throughway(&["explain", "-c", &config, "-p", "lam tcp 10.1.0.9 > 10.1.0.8 syn"]);
    assert!(!wrong.status.success());
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("there is no interface `lam`"));
}
