//! The API socket: one JSON request a line, one JSON answer a line.
//!
//! Requests: `{"command":"reload"}` and `{"command":"show","what":"flows","options":{"port":443}}`; for routes with what is asked
//! of them, see [`routes::Query`]. Answers hold `error` when refused. Behind the answer to `{"command":"capture"}` comes what is
//! captured: see [`capture`].

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::{capture, routes, show};
use crate::app::Service;

/// A longer request is refused: no real one comes near.
const LONGEST_REQUEST: u64 = 64 * 1024;

#[derive(Deserialize, Debug)]
#[serde(tag = "command", rename_all = "kebab-case")]
enum Request {
    Reload,
    ClearSessions {
        options: show::Options,
    },
    Drain(Drained),
    /// The last request of its connection.
    Capture(capture::Wanted),
    Show {
        what: String,
        #[serde(default)]
        options: show::Options,
        /// Of routes only.
        #[serde(default)]
        routes: routes::Query,
    },
}

/// A backend that is to get no new connections, or to get them again.
#[derive(Deserialize, Debug)]
struct Drained {
    function: String,
    backend: String,
    /// Whether it shall be drained.
    on: bool,
    /// For so many milliseconds; without it for good.
    #[serde(default)]
    milliseconds: Option<u64>,
}

impl Drained {
    fn answer(self, service: &Service) -> Value {
        let Drained { function, backend, on, milliseconds } = self;
        let all = service.balancers();
        let Some((_, director)) = all.iter().find(|(name, _)| *name == function) else {
            return json!({ "error": format!("there is no load balancer `{function}`") });
        };
        let drained = on.then(|| milliseconds.map(std::time::Duration::from_millis));
        match director.drain(&backend, drained) {
            Ok(backends) => json!({ "backends": backends }),
            Err(error) => json!({ "error": error }),
        }
    }
}

/// The socket's file, removed when the service ends.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Opens the socket, for its owner only. A socket left by a service that died is replaced; one that answers is an error.
pub async fn open(path: &Path) -> std::io::Result<Socket> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if UnixStream::connect(path).await.is_ok() {
        return Err(std::io::Error::new(
            std::io::ErrorKind::AddrInUse,
            "another throughway answers on this socket; stop it, or set another api.socket",
        ));
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => {
            return Err(std::io::Error::new(
                std::io::ErrorKind::AlreadyExists,
                "there is something else than a socket here, and it is not removed; set another api.socket",
            ));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(Socket { listener, path: path.to_owned() })
}

/// Answers requests until the process ends.
pub async fn serve(socket: Socket, service: Arc<Mutex<Service>>) {
    loop {
        match socket.listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(converse(stream, Arc::clone(&service)));
            }
            Err(error) => {
                tracing::warn!(%error, "the API socket cannot accept");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, service: Arc<Mutex<Service>>) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    loop {
        line.clear();
        match (&mut reader).take(LONGEST_REQUEST).read_line(&mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let request = serde_json::from_str::<Request>(&line);
        if let Ok(Request::Capture(wanted)) = request {
            return capture::serve(wanted, reader, writer, service).await;
        }
        let service = Arc::clone(&service);
        // A reload waits for the workers; the metrics page and the watchdog must not.
        let answer = tokio::task::spawn_blocking(move || answer(request, &service)).await;
        let mut answer =
            answer.unwrap_or_else(|_| json!({ "error": "the request failed inside" })).to_string();
        answer.push('\n');
        if writer.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn answer(request: serde_json::Result<Request>, service: &Mutex<Service>) -> Value {
    let request = match request {
        Ok(request) => request,
        Err(error) => return json!({ "error": format!("not a request: {error}") }),
    };
    let mut service = service.lock().unwrap_or_else(PoisonError::into_inner);
    match request {
        Request::Reload => match service.reload() {
            Ok(done) => json!({ "changes": done.changes, "warnings": done.warnings }),
            Err(error) => json!({ "error": error }),
        },
        Request::ClearSessions { options } => {
            let mut cleared = 0;
            for (_, shared) in service.firewalls().iter().filter(|(name, _)| options.is_of(name)) {
                cleared += shared.clear(|session| show::firewall::wanted(&options, &session.key));
            }
            for (_, nat) in service.nats().iter().filter(|(name, _)| options.is_of(name)) {
                cleared += show::nat::clear(&nat.shared, &options);
            }
            json!({ "cleared": cleared })
        }
        Request::Drain(drained) => drained.answer(&service),
        Request::Capture(_) => json!({ "error": "a capture has its connection for itself" }),
        Request::Show { what, routes, .. } if what == "routes" => {
            let answer = routes::answer(&service.mirror().view(), &routes);
            answer.unwrap_or_else(|error| json!({ "error": error }))
        }
        Request::Show { what, options, .. } => match show::show(&service, &what, &options) {
            Ok(value) => json!({ "value": value }),
            Err(error) => json!({ "error": error }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_socket_that_nobody_answers_is_replaced() {
        let folder = std::env::temp_dir().join(format!("throughway-api-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("api.sock");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(open(&path).await.unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_file(&path).unwrap();
        let first = open(&path).await.unwrap();
        assert_eq!(open(&path).await.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        // What a service leaves that was killed.
        let left = folder.join("left.sock");
        drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
        assert!(left.exists() && open(&left).await.is_ok());
        drop(first);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
