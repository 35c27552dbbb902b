//! How the service is watched and spoken to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::*;
use crate::raw::MetricsSwitch;
use crate::value::{Listen, Value};

/// Where metrics are served for Prometheus.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Metrics {
    /// The address and port of the HTTP listener.
    pub listen: SocketAddr,
}

/// Where the service is spoken to.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Api {
    /// The Unix socket; an absolute path, unless the configuration itself was named by a relative one.
    pub socket: PathBuf,
}

/// The room in `sockaddr_un`, less the final zero.
const LONGEST_SOCKET: usize = 107;

impl Metrics {
    /// The address and port where the file names none: the port that OpenTelemetry gives to Prometheus exporters.
    pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

    pub(super) fn check(raw: Option<&At<MetricsSwitch>>, report: &mut Report<'_>) -> Option<Option<Self>> {
        match raw.map(|raw| (&raw.value, raw.span)) {
            None => Some(Some(Metrics { listen: Metrics::DEFAULT_LISTEN })),
            Some((MetricsSwitch::Off, _)) => Some(None),
            Some((MetricsSwitch::On(raw), _)) => {
                let listen = raw.listen.read_or(Listen(Metrics::DEFAULT_LISTEN), report)?.0;
                Some(Some(Metrics { listen }))
            }
            Some((MetricsSwitch::Unknown, span)) => {
                let misread = Misread::new("this is not a setting for metrics");
                report.error(
                    span,
                    misread
                        .help(format!("expected `off` or `{{ listen: \"{}\" }}`", Metrics::DEFAULT_LISTEN)),
                );
                None
            }
        }
    }
}

impl Api {
    /// The socket where the file names none.
    pub const DEFAULT_SOCKET: &str = "/run/throughway/api.sock";

    pub(super) fn check(
        raw: Option<&crate::raw::Api>,
        folder: &Path,
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let Some(written) = raw.and_then(|raw| raw.socket.as_ref()) else {
            return Some(Api { socket: PathBuf::from(Api::DEFAULT_SOCKET) });
        };
        let socket = folder.join(written.read(report)?.0);
        if socket.as_os_str().len() > LONGEST_SOCKET {
            report.error(
                written.span,
                format!(
                    "the path of the socket, {}, is longer than {LONGEST_SOCKET} bytes",
                    socket.display()
                ),
            );
            return None;
        }
        Some(Api { socket })
    }
}

/// The path of a Unix socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SocketPath(PathBuf);

impl std::str::FromStr for SocketPath {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        if text.is_empty() || text.ends_with('/') {
            return Err(Misread::new(format!("`{text}` is not the path of a socket"))
                .help(format!("such as `{}`", Api::DEFAULT_SOCKET)));
        }
        Ok(SocketPath(PathBuf::from(text)))
    }
}

impl Value for SocketPath {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "string", "pattern": "[^/]$", "examples": [Api::DEFAULT_SOCKET] })
    }
}
