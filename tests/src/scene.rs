//! A lab with a service in its box.

use std::io::Write;
use std::path::PathBuf;

use throughway_lab::metrics::Page;
use throughway_lab::{Host, Lab, LabOptions, Output, Service};

use crate::binary;
use crate::config::{self, Config};

/// The prefix of the tests' namespaces. One test has it at a time: the machine's cores are what is measured, and two
/// would only disturb each other.
pub const PREFIX: &str = "throughway-test";

/// A lab, and the service when it runs. Tells everything it knows when a test fails, and removes itself.
#[derive(Debug)]
pub struct Scene {
    // In the order in which they must go.
    service: Option<Service>,
    /// The namespaces.
    pub lab: Lab,
    started: u32,
}

impl Scene {
    /// A lab of one queue, without a service.
    pub fn new() -> Scene {
        Scene::with(&LabOptions::new(PREFIX))
    }

    /// A lab of that kind, without a service. Waits for other tests to finish with theirs.
    pub fn with(options: &LabOptions) -> Scene {
        // Building takes long: not while others wait for the lab.
        binary();
        let options = LabOptions { prefix: PREFIX.to_owned(), wait: true, ..options.clone() };
        let lab = Lab::up(&options).unwrap_or_else(|error| panic!("the lab does not come up: {error}"));
        Scene { service: None, lab, started: 0 }
    }

    /// A lab of one queue with a service that runs `config`.
    pub fn running(config: &Config) -> Scene {
        let mut scene = Scene::with(&LabOptions { queues: config.workers, ..LabOptions::new(PREFIX) });
        scene.start(config);
        scene
    }

    /// Where the service's configuration is.
    pub fn config_path(&self) -> PathBuf {
        self.lab.directory().join("throughway.yaml")
    }

    /// Writes the service's configuration, without telling it. With the fast path that the tests are to run with.
    pub fn write(&self, yaml: &str) {
        std::fs::write(self.config_path(), config::with_fast_path(yaml))
            .expect("the lab's folder takes files");
    }

    /// Starts the service and waits until it is ready.
    #[track_caller]
    pub fn start(&mut self, config: &Config) {
        self.start_with(&config.yaml());
    }

    /// Starts the service with a configuration of any kind and waits until it is ready.
    #[track_caller]
    pub fn start_with(&mut self, yaml: &str) {
        self.start_in(yaml, &[]);
    }

    /// As [`Scene::start_with`], with these environment variables.
    #[track_caller]
    pub fn start_in(&mut self, yaml: &str, variables: &[(&str, &str)]) {
        self.write(yaml);
        self.started += 1;
        let name = format!("throughway-{}", self.started);
        let how = (name.as_str(), variables);
        let service = Service::start_again(&self.lab, binary(), &self.config_path(), "throughway", how);
        self.service = Some(service.unwrap_or_else(|error| panic!("{error}")));
    }

    /// The running service.
    #[track_caller]
    pub fn service(&mut self) -> &mut Service {
        self.service.as_mut().expect("a service was started")
    }

    /// Stops the service as systemd does; it must end well.
    #[track_caller]
    pub fn stop(&mut self) {
        let mut service = self.service.take().expect("a service was started");
        let status = service.stop().unwrap_or_else(|error| panic!("{error}\n{}", service.log()));
        assert!(status.success(), "the service ended with {status}\n{}", service.log());
    }

    /// Kills the service so that it can clean up nothing.
    #[track_caller]
    pub fn kill(&mut self) {
        let mut service = self.service.take().expect("a service was started");
        service.kill().unwrap_or_else(|error| panic!("{error}"));
    }

    /// Lets the service read its configuration again.
    #[track_caller]
    pub fn reload(&mut self) -> Output {
        let service = self.service.as_ref().expect("a service was started");
        service.reload(&self.lab).unwrap_or_else(|error| panic!("{error}"))
    }

    /// `throughway show WHAT --json`; `what` may be followed by options, with spaces between.
    #[track_caller]
    pub fn show(&self, what: &str) -> serde_json::Value {
        let service = self.service.as_ref().expect("a service was started");
        service.show(&self.lab, what).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Asks the service: `throughway ARGUMENTS`; the exit status is the caller's to judge.
    #[track_caller]
    pub fn ask(&self, arguments: &[&str]) -> Output {
        let service = self.service.as_ref().expect("a service was started");
        service.ask(&self.lab, arguments).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The metrics page.
    #[track_caller]
    pub fn page(&self) -> Page {
        let service = self.service.as_ref().expect("a service was started");
        let text = service.metrics(&self.lab).unwrap_or_else(|error| panic!("{error}"));
        Page::parse(&text).unwrap_or_else(|line| panic!("not a line of a metrics page: {line}"))
    }

    /// Runs a command in a host; it must succeed.
    #[track_caller]
    pub fn run(&self, host: Host, argv: &[&str]) -> Output {
        self.lab.run(host, argv).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Whether `count` pings from `host` to `to` are all answered. When some are and some are not, once more: ping does not wait for those
    /// that a busy machine answers late.
    #[track_caller]
    pub fn pings(&self, host: Host, to: &str, count: u32) -> bool {
        let count = count.to_string();
        let argv = ["ping", "-n", "-q", "-c", &count, "-i", "0.02", "-W", "1", to];
        for _ in 0..2 {
            let output = self.lab.exec(host, &argv).unwrap_or_else(|error| panic!("{error}"));
            if output.stdout.contains(" 0% packet loss") {
                return true;
            }
            if output.stdout.contains(" 0 received") {
                return false;
            }
        }
        false
    }

    /// Everything there is to know, to standard error.
    fn tell(&self) {
        let mut err = std::io::stderr().lock();
        for host in Host::ALL {
            for argv in [
                &["ip", "-d", "-s", "link"][..],
                &["ip", "address"],
                &["ip", "route"],
                &["ip", "-6", "route"],
                &["ip", "neighbour"],
            ] {
                let text =
                    self.lab.exec(host, argv).map_or_else(|error| error.to_string(), |output| output.stdout);
                let _ = writeln!(err, "--- {}: {}\n{text}", host.name(), argv.join(" "));
            }
        }
        if let Some(service) = &self.service {
            for what in ["interfaces", "workers", "routes", "neighbours", "drops"] {
                let text = service
                    .ask(&self.lab, &["show", what])
                    .map_or_else(|error| error.to_string(), |output| output.stdout + &output.stderr);
                let _ = writeln!(err, "--- throughway show {what}\n{text}");
            }
            let metrics = service.metrics(&self.lab).unwrap_or_else(|error| error.to_string());
            let counted = metrics.lines().filter(|line| !line.starts_with('#') && !line.ends_with(" 0"));
            let _ =
                writeln!(err, "--- metrics that are not zero\n{}", counted.collect::<Vec<_>>().join("\n"));
        }
        for number in 1..=self.started {
            let path = self.lab.directory().join(format!("throughway-{number}.log"));
            let text = std::fs::read_to_string(&path).unwrap_or_else(|error| error.to_string());
            let _ = writeln!(err, "--- log of service {number}\n{text}");
        }
    }
}

impl Default for Scene {
    fn default() -> Self {
        Scene::new()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
        }
    }
}
