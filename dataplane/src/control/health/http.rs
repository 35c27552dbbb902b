//! What is asked over HTTP, and over HTTPS.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use throughway_config::{Trust, value::Status};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::contains;
use crate::assemble::balancer::tls;

/// More of an answer is not read.
const LONGEST_ANSWER: usize = 256 * 1024;

/// For how long files of certificates are not read again.
const KEPT: Duration = Duration::from_secs(60);

/// A request, and what its answer must be.
pub(super) struct Asked<'a> {
    pub(super) to: SocketAddr,
    pub(super) path: &'a str,
    pub(super) host: Option<&'a str>,
    pub(super) status: &'a [Status],
    pub(super) body: Option<&'a str>,
}

type Kept = HashMap<Trust, (Instant, Arc<ClientConfig>)>;

/// What TLS clients know, by what they trust.
static CONFIGS: LazyLock<Mutex<Kept>> = LazyLock::new(Mutex::default);

fn config(trust: &Trust) -> Result<Arc<ClientConfig>, String> {
    let mut kept = CONFIGS.lock().unwrap_or_else(PoisonError::into_inner);
    kept.retain(|_, (read, _)| read.elapsed() < KEPT);
    if let Some((_, config)) = kept.get(trust) {
        return Ok(Arc::clone(config));
    }
    let config = tls::config(trust)?;
    kept.insert(trust.clone(), (Instant::now(), Arc::clone(&config)));
    Ok(config)
}

/// Opens TLS to the host that is named, else to the address. Names go into SNI (RFC 6066, section 3), addresses do not.
pub(super) async fn secured(
    stream: TcpStream,
    asked: &Asked<'_>,
    trust: &Trust,
) -> Result<TlsStream<TcpStream>, String> {
    let name = asked.host.map(without_port).and_then(|host| ServerName::try_from(host.to_owned()).ok());
    let name = name.unwrap_or_else(|| ServerName::from(asked.to.ip()));
    let connector = TlsConnector::from(config(trust)?);
    connector.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))
}

/// Asks, and judges the answer.
pub(super) async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    asked: &Asked<'_>,
) -> Result<(), String> {
    let Asked { to, path, status, body, .. } = asked;
    let host = asked.host.map_or_else(|| host_of(*to), str::to_owned);
    // Version 1.0, so that the body comes in one piece and the connection ends with it (RFC 1945).
    let request = format!(
        "GET {path} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: throughway/{}\r\nConnection: close\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    );
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    stream.flush().await.map_err(|error| error.to_string())?;
    let got = read(&mut stream, *body).await?;
    let code = status_of(&got).ok_or("what came is no answer of HTTP")?;
    if !status.iter().any(|good| (good.first()..=good.last()).contains(&code)) {
        return Err(format!("status {code}"));
    }
    let ended = got.windows(4).position(|window| window == b"\r\n\r\n").map_or(got.len(), |at| at + 4);
    contains(got.get(ended..).unwrap_or_default(), *body)
}

/// Reads the head of an answer; with a body that is looked for, everything.
async fn read(stream: &mut (impl AsyncRead + Unpin), body: Option<&str>) -> Result<Vec<u8>, String> {
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    while got.len() < LONGEST_ANSWER {
        if body.is_none() && got.contains(&b'\n') {
            break;
        }
        match stream.read(&mut buffer).await {
            Ok(0) => break,
            Ok(len) => got.extend_from_slice(buffer.get(..len).unwrap_or_default()),
            Err(error) if got.is_empty() => return Err(error.to_string()),
            Err(_) => break,
        }
    }
    Ok(got)
}

/// The status code of an answer (RFC 9112, section 4).
fn status_of(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let (version, rest) = line.split_once(' ')?;
    let code = rest.get(..3)?;
    version.starts_with("HTTP/").then(|| code.parse().ok())?
}

/// As a `Host` header names it: brackets around IPv6, and the port where it is not the usual one.
fn host_of(to: SocketAddr) -> String {
    if to.port() == 80 || to.port() == 443 {
        match to.ip() {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        }
    } else {
        to.to_string()
    }
}

/// A `Host` header's host, as TLS names it: without the port and the brackets of IPv6.
fn without_port(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.contains(':') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes_are_read_from_answers_alone() {
        assert_eq!(status_of(b"HTTP/1.1 204 No Content\r\nServer: x\r\n"), Some(204));
        assert_eq!(status_of(b"HTTP/1.0 503\r\n"), Some(503));
        for wrong in ["", "HTTP/1.1", "HTTP/1.1 2", "SSH-2.0 200 OK", "HTTP/1.1 abc"] {
            assert_eq!(status_of(wrong.as_bytes()), None, "{wrong}");
        }
        assert!(contains(b"all is well", Some("well")).is_ok() && contains(b"", None).is_ok());
        assert!(contains(b"all is", Some("well")).is_err() && contains(b"", Some("well")).is_err());
    }

    #[test]
    fn the_host_of_a_request_is_not_always_the_name_of_its_certificate() {
        for (host, name) in [
            ("www.example.com", "www.example.com"),
            ("www.example.com:8443", "www.example.com"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            assert_eq!(without_port(host), name);
        }
    }
}
