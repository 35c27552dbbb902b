//! Servers that say who they are, and clients that ask them: for tests of the load balancer.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use throughway_lab::{Host, Lab};

/// How long a client waits for anything.
const PATIENCE: Duration = Duration::from_secs(3);

/// A server that answers every line with its name, and a request of HTTP with a page that holds it. Dropped, it is gone, and
/// its connections with it.
#[derive(Debug)]
pub struct Backend {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    /// Listens at `address` in `host` when this returns.
    #[track_caller]
    pub fn start(lab: &Lab, host: Host, address: SocketAddr) -> Backend {
        let listener = eventually_bound(lab, host, address);
        listener.set_nonblocking(true).expect("a socket can be made so");
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let name = address.to_string();
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let (name, until) = (name.clone(), Arc::clone(&until));
                        std::thread::spawn(move || answer(stream, &name, &until));
                    }
                    Err(_) => std::thread::sleep(Duration::from_micros(500)),
                }
            }
        });
        Backend { stop, thread: Some(thread) }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A server that was there a moment ago may leave its address in use for another moment.
#[track_caller]
fn eventually_bound(lab: &Lab, host: Host, address: SocketAddr) -> TcpListener {
    crate::eventually("the backend's address is free", Duration::from_secs(5), || {
        lab.within(host, || TcpListener::bind(address)).expect("the namespace is there").ok()
    })
}

fn answer(stream: TcpStream, name: &str, until: &AtomicBool) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut out = stream.try_clone()?;
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    while !until.load(Ordering::Relaxed) {
        match lines.read_line(&mut line) {
            Ok(0) => return Ok(()),
            Ok(_) if line.starts_with("GET ") => {
                write!(out, "HTTP/1.0 200 OK\r\n\r\nI am {name}\n")?;
                return Ok(());
            }
            Ok(_) => {
                writeln!(out, "{name}")?;
                line.clear();
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A client's connection.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects from this thread's namespace; `from` may name address and port. It ends with a reset, so that its port is free.
    pub fn connect(from: Option<SocketAddr>, to: SocketAddr) -> io::Result<Client> {
        let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        let timeout = nix::sys::time::TimeVal::new(PATIENCE.as_secs() as i64, 0);
        setsockopt(&socket, sockopt::SendTimeout, &timeout)?;
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        setsockopt(&socket, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
        if let Some(from) = from {
            bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
        }
        connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Client { stream: BufReader::new(stream) })
    }

    /// Asks nginx who serves it, over HTTP: see [`crate::nginx`].
    pub fn ask_http(self) -> io::Result<String> {
        self.into_http().ask()
    }

    /// Goes on as a client of nginx.
    pub fn into_http(self) -> crate::nginx::HttpClient {
        crate::nginx::HttpClient::over(self.stream.into_inner())
    }

    /// Asks who serves it.
    pub fn ask(&mut self) -> io::Result<String> {
        self.stream.get_mut().write_all(b"who\n")?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

/// One connection after the other, each asking once, until told to stop.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<Asked>>>,
}

/// What became of one connection: when it was begun, and who answered.
pub type Asked = (Instant, Result<String, String>);

impl Load {
    /// Four clients at once in `host`.
    pub fn start(lab: &Lab, host: Host, to: SocketAddr) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let threads = (0..4).map(|_| {
            let (until, done) = (Arc::clone(&stop), Arc::clone(&done));
            lab.thread(host, move || {
                let mut all = Vec::new();
                while !until.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let answer = Client::connect(None, to).and_then(|mut client| client.ask());
                    all.push((begun, answer.map_err(|error| error.to_string())));
                    done.fetch_add(1, Ordering::Relaxed);
                }
                all
            })
        });
        let threads = threads.map(flatten).collect();
        Load { stop, done, threads }
    }

    /// Waits until so many more have been served.
    #[track_caller]
    pub fn let_pass(&self, count: u64) {
        let from = self.done.load(Ordering::Relaxed);
        crate::eventually("connections are served", Duration::from_secs(30), || {
            (self.done.load(Ordering::Relaxed) >= from + count).then_some(())
        });
    }

    /// Ends it and tells everything.
    pub fn finish(self) -> Vec<Asked> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().expect("a client does not panic")).collect()
    }
}

fn flatten<T: Send + 'static>(thread: JoinHandle<Result<T, throughway_lab::LabError>>) -> JoinHandle<T> {
    std::thread::spawn(move || thread.join().expect("no panic").expect("the namespace is there"))
}

/// An address and a port.
pub fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}
