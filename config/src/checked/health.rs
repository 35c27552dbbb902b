//! How a load balancer finds out which backends are alive.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::matches::given;
use super::*;
use crate::raw::Given;
use crate::value::{Flag, Number, Status, words};

/// How backends are asked.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Health {
    /// What is asked.
    pub probe: Probe,
    /// The port; `None`: the backend's, else the service's.
    pub port: Option<u16>,
    /// How often, without the jitter.
    pub interval: Duration,
    /// Up to how much is added to each interval at random; at most the interval.
    pub jitter: Duration,
    /// How long an answer is waited for; at most the interval.
    pub timeout: Duration,
    /// How many good answers in a row bring a backend up, at least one.
    pub rise: u8,
    /// How many bad answers in a row take a backend down, at least one.
    pub fall: u8,
}

/// What a backend is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Probe {
    /// To open a TCP connection.
    Tcp,
    /// An HTTP request.
    Http {
        /// Over TLS, and against what the certificate is verified then.
        tls: Option<Trust>,
        /// What is asked for, beginning with `/`.
        path: String,
        /// The name of the host; `None`: the backend's address.
        host: Option<String>,
        /// The good status codes, at least one range.
        status: Vec<Status>,
        /// What the body must contain.
        body: Option<String>,
    },
    /// An echo request.
    Icmp,
    /// A datagram.
    Udp {
        /// What is sent.
        payload: String,
        /// What the answer must contain; `None`: any answer will do.
        body: Option<String>,
    },
    /// A program, which exits with 0 if the backend is alive.
    Exec(Vec<String>),
}

/// Against what a backend's certificate is verified.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Trust {
    /// Nothing: any certificate will do.
    Nothing,
    /// The certificate authorities of the host.
    System,
    /// The certificates of this file (PEM).
    File(PathBuf),
}

words! {
    /// Against what the certificate of a health check over HTTPS is verified.
    Verify, "way to verify", default Nothing:
    /// Nothing: any certificate will do.
    Nothing = "none",
    /// The certificate authorities that the host trusts.
    System = "system",
}

const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(3600);

impl Health {
    pub(super) fn check(
        raw: &At<crate::raw::Health>,
        folder: &Path,
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let At { value: raw, span } = raw;
        let probe = Probe::check(raw, *span, folder, report);
        let port = given(&raw.port, report);
        let interval = time(&raw.interval, Duration::from_secs(2), report);
        let jitter = time_from(&raw.jitter, Duration::ZERO, interval.unwrap_or(LONGEST) / 10, report);
        let timeout = time(&raw.timeout, interval.unwrap_or(LONGEST).min(Duration::from_secs(1)), report);
        let rise = given(&raw.rise, report);
        let fall = given(&raw.fall, report);
        let (interval, jitter, timeout) = (interval?, jitter?, timeout?);
        for (key, written, duration) in [("jitter", &raw.jitter, jitter), ("timeout", &raw.timeout, timeout)]
        {
            if let Some(written) = written.as_ref()
                && duration > interval
            {
                let misread =
                    Misread::new(format!("the {key} `{}` is longer than the interval", written.text));
                report.error(written.span, misread.help("make `interval` longer"));
                return None;
            }
        }
        let count = |number: Option<Number<1, 100>>, default: u8| {
            number.and_then(|number| u8::try_from(number.get()).ok()).unwrap_or(default)
        };
        Some(Health {
            probe: probe?,
            port: port?.and_then(|port| u16::try_from(port.get()).ok()),
            interval,
            jitter,
            timeout,
            rise: count(rise?, 2),
            fall: count(fall?, 3),
        })
    }
}

fn time(
    written: &Given<Written<crate::value::Duration>>,
    default: Duration,
    report: &mut Report<'_>,
) -> Option<Duration> {
    time_from(written, SHORTEST, default, report)
}

fn time_from(
    written: &Given<Written<crate::value::Duration>>,
    shortest: Duration,
    default: Duration,
    report: &mut Report<'_>,
) -> Option<Duration> {
    let Some(written) = written.as_ref() else { return Some(default) };
    let duration = written.read(report)?.get();
    if !(shortest..=LONGEST).contains(&duration) {
        report.error(written.span, format!("`{}` is outside {}ms to 1h", written.text, shortest.as_millis()));
        return None;
    }
    Some(duration)
}

impl Probe {
    /// The key that names it in the file.
    pub const fn word(&self) -> &'static str {
        match self {
            Probe::Tcp => "tcp",
            Probe::Http { tls: None, .. } => "http",
            Probe::Http { tls: Some(_), .. } => "https",
            Probe::Icmp => "icmp",
            Probe::Udp { .. } => "udp",
            Probe::Exec(_) => "exec",
        }
    }

    fn check(raw: &crate::raw::Health, span: Span, folder: &Path, report: &mut Report<'_>) -> Option<Self> {
        let on = |flag: &Given<Written<Flag>>, report: &mut Report<'_>| {
            given(flag, report).map(|flag| flag == Some(Flag::True))
        };
        let (tcp, icmp) = (on(&raw.tcp, report)?, on(&raw.icmp, report)?);
        let named = [
            ("tcp", tcp),
            ("http", raw.http.is_some()),
            ("https", raw.https.is_some()),
            ("icmp", icmp),
            ("udp", raw.udp.is_some()),
            ("exec", raw.exec.is_some()),
        ];
        let named: Vec<&str> = named.iter().filter(|(_, named)| *named).map(|(word, _)| *word).collect();
        let word = match named.as_slice() {
            [word] => *word,
            [] => {
                let misread = Misread::new("the health check asks nothing");
                let help = "add one of `tcp: true`, `http: /path`, `https: /path`, `icmp: true`, `udp: TEXT`, `exec: [PROGRAM]`";
                report.error(span, misread.help(help));
                return None;
            }
            [first, second, ..] => {
                let misread = Misread::new(format!("the health check has `{first}` and `{second}`"));
                report.error(span, misread.help("leave only one of them"));
                return None;
            }
        };
        let http = matches!(word, "http" | "https");
        for (key, place, belongs, help) in [
            ("status", raw.status.as_ref().map(|list| list.span), http, "only HTTP has status codes"),
            ("host", raw.host.as_ref().map(|text| text.span), http, "only HTTP names a host"),
            (
                "verify",
                raw.verify.as_ref().map(|text| text.span),
                word == "https",
                "only HTTPS has certificates",
            ),
            (
                "ca-file",
                raw.ca_file.as_ref().map(|text| text.span),
                word == "https",
                "only HTTPS has certificates",
            ),
            (
                "body",
                raw.body.as_ref().map(|text| text.span),
                http || word == "udp",
                "only answers of HTTP and UDP have one",
            ),
            (
                "port",
                raw.port.as_ref().map(|port| port.span),
                !matches!(word, "icmp" | "exec"),
                "only TCP, HTTP and UDP have ports",
            ),
        ] {
            if let Some(place) = place.filter(|_| !belongs) {
                report.error(place, Misread::new(format!("`{key}` beside `{word}`")).help(help));
                return None;
            }
        }
        let body = given(&raw.body, report)?.map(|text| text.0);
        Some(match word {
            "tcp" => Probe::Tcp,
            "icmp" => Probe::Icmp,
            "udp" => Probe::Udp { payload: raw.udp.as_ref()?.read(report)?.0, body },
            "exec" => Probe::Exec(raw.exec.as_ref()?.read(report)?.into_iter().map(|text| text.0).collect()),
            _ => {
                let tls = if word == "https" { Some(trust(raw, folder, report)?) } else { None };
                let path = if tls.is_some() { &raw.https } else { &raw.http };
                let status = match raw.status.as_ref() {
                    Some(list) => list.read(report)?,
                    None => Status::new(200, 399).into_iter().collect(),
                };
                Probe::Http {
                    tls,
                    path: path.as_ref()?.read(report)?.0,
                    host: given(&raw.host, report)?.map(|text| text.0),
                    status,
                    body,
                }
            }
        })
    }
}

/// Against what certificates are verified: `verify` or `ca-file`.
fn trust(raw: &crate::raw::Health, folder: &Path, report: &mut Report<'_>) -> Option<Trust> {
    let verify = given(&raw.verify, report)?;
    match (verify, raw.ca_file.as_ref()) {
        (None, Some(file)) => Some(Trust::File(folder.join(file.read(report)?.0))),
        (Some(verify), Some(file)) => {
            let misread = Misread::new(format!("`ca-file` beside `verify: {verify}`"));
            report.error(file.span, misread.help("leave only one of them"));
            None
        }
        (Some(Verify::System), None) => Some(Trust::System),
        (Some(Verify::Nothing) | None, None) => Some(Trust::Nothing),
    }
}
