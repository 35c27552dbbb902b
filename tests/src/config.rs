//! Configurations for the lab.

use std::fmt::Write;

/// `off`, `auto` or `eager`: lets all tests over the whole product run with that fast path.
const FAST_PATH: &str = "THROUGHWAY_TEST_FAST_PATH";

/// The fast path that all tests are to run with; empty if nothing is said.
fn fast_path() -> String {
    std::env::var(FAST_PATH).unwrap_or_default()
}

/// Whether tests that say nothing of it run with a fast path.
pub fn is_fast() -> bool {
    !matches!(&*fast_path(), "" | "off")
}

/// A configuration with the fast path that `THROUGHWAY_TEST_FAST_PATH` asks for at every interface that says nothing of it
/// itself and can have one.
pub fn with_fast_path(yaml: &str) -> String {
    let mode = fast_path();
    if mode.is_empty() {
        return yaml.to_owned();
    }
    let lines = yaml.lines().map(|line| {
        let mut line = line.to_owned();
        let mut from = 0;
        while let Some(at) = line.get(from..).and_then(|rest| rest.find("{ device: ")) {
            from += at + "{ device: ".len();
            let inside = line.get(from..).unwrap_or_default();
            let end = inside.find('}').unwrap_or(inside.len());
            let words = inside.get(..end).unwrap_or_default();
            if !words.contains("recompute") && !words.contains("fast-path") {
                let name = words.find([',', ' ']).unwrap_or(words.len());
                line.insert_str(from + name, &format!(", fast-path: {mode}"));
            }
        }
        line + "\n"
    });
    lines.collect()
}

/// What a test's configuration says. The chains are `outbound` (from the LAN), `inbound` (from the WAN) and `services`
/// (from the DMZ).
#[derive(Clone, Debug)]
pub struct Config {
    /// How many workers, on cores 0 and 1; the lab needs as many queues.
    pub workers: u32,
    /// `trust` or `recompute`.
    pub checksum: &'static str,
    /// `open` or `closed`.
    pub on_failure: &'static str,
    /// `off`, `auto` or `eager`; nothing: as `THROUGHWAY_TEST_FAST_PATH` says.
    pub fast_path: Option<&'static str>,
    /// The functions of all chains, in order: keys of [`Config::functions`].
    pub run: Vec<&'static str>,
    /// The functions: name and YAML flow mapping.
    pub functions: Vec<(&'static str, String)>,
}

impl Default for Config {
    /// One worker, one router that follows the kernel.
    fn default() -> Self {
        Config {
            workers: 1,
            checksum: "trust",
            on_failure: "open",
            fast_path: None,
            run: vec!["core"],
            functions: vec![("core", "{ router: { table: main } }".to_owned())],
        }
    }
}

impl Config {
    /// Puts a marker before the router, that sets `dscp` (a name or a number) on everything.
    #[must_use]
    pub fn marked(mut self, dscp: &str) -> Self {
        self.functions.push(("mark", format!("{{ marker: {{ rules: [ {{ dscp: {dscp} }} ] }} }}")));
        self.run.insert(0, "mark");
        self
    }

    /// The file.
    pub fn yaml(&self) -> String {
        let mut text = String::from("interfaces:\n");
        // Writing to a String cannot fail.
        for (name, device) in [("lan", "lan0"), ("wan", "wan0"), ("dmz", "dmz0")] {
            let (checksum, on_failure) = (self.checksum, self.on_failure);
            let fast_path = self.fast_path.map(|mode| format!(", fast-path: {mode}")).unwrap_or_default();
            let _ = writeln!(
                text,
                "  {name}: {{ device: {device}, checksum: {checksum}, on-failure: {on_failure}{fast_path} }}"
            );
        }
        let cores: Vec<String> = (0..self.workers).map(|core| core.to_string()).collect();
        let _ = writeln!(text, "workers: {{ cores: [{}], poll: adaptive }}", cores.join(", "));
        text.push_str("functions:\n");
        for (name, function) in &self.functions {
            let _ = writeln!(text, "  {name}: {function}");
        }
        text.push_str("chains:\n");
        for (chain, from) in [("outbound", "lan"), ("inbound", "wan"), ("services", "dmz")] {
            let _ = writeln!(text, "  {chain}: {{ from: {from}, run: [{}] }}", self.run.join(", "));
        }
        text
    }
}
