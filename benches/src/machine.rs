//! On what was measured.

use serde::{Deserialize, Serialize};

use crate::command::run;
use crate::namespaces::Cores;

/// The machine, as a reader of the report needs to know it.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many there are.
    pub processors: usize,
    /// MiB.
    pub memory: u64,
    /// Release and version.
    pub kernel: String,
    /// `systemd-detect-virt`, or nothing.
    pub hypervisor: String,
    /// The distribution.
    pub system: String,
    /// One minute's load when it began.
    pub load: f64,
    /// The generator's core and that of what is measured.
    pub cores: [usize; 2],
    /// The sink's, where it has one of its own.
    pub sink: Option<usize>,
    /// The niceness of the run.
    pub nice: i32,
    /// UTC, as `date` writes it.
    pub date: String,
    /// The version of the program measured.
    pub throughway: String,
}

impl Machine {
    /// This one.
    pub fn here(cores: Cores, nice: i32, binary: &str) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str, between: char| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(between)
                .map(|(_, value)| value.trim().trim_matches('"').to_owned())
                .unwrap_or_default()
        };
        let said = |argv: &[&str]| run(argv).unwrap_or_default().trim().to_owned();
        let cpuinfo = read("/proc/cpuinfo");
        let memory = field(&read("/proc/meminfo"), "MemTotal", ':');
        Machine {
            processor: field(&cpuinfo, "model name", ':'),
            processors: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            memory: memory.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024,
            kernel: said(&["uname", "-rv"]),
            hypervisor: said(&["systemd-detect-virt"]),
            system: field(&read("/etc/os-release"), "PRETTY_NAME", '='),
            load: read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
            cores: [cores.generator, cores.device],
            sink: cores.sink,
            nice,
            date: said(&["date", "-u", "+%Y-%m-%d %H:%M"]),
            throughway: said(&[binary, "--version"]),
        }
    }

    /// One paragraph.
    pub fn text(&self) -> String {
        format!(
            "{} × {}, {} MiB, {}{}; kernel {}; load {:.1} when it began; generator on core {}, device under test on core {}, the sink {}; \
             niceness {}; {} UTC; {}.",
            self.processors,
            self.processor,
            self.memory,
            self.system,
            match self.hypervisor.as_str() {
                "" | "none" => String::new(),
                name => format!(" ({name})"),
            },
            self.kernel,
            self.load,
            self.cores[0],
            self.cores[1],
            self.sink.map_or_else(|| "there as well".to_owned(), |core| format!("on core {core}")),
            self.nice,
            self.date,
            self.throughway
        )
    }
}
