//! nginx, one process for each backend, and clients that speak HTTP to it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use throughway_lab::{Guard, Host, Lab};

/// An nginx that tells every request at which address and port it was asked, in a response of HTTP/1.1; dropped, it is gone.
#[derive(Debug)]
pub struct Nginx {
    guard: Guard,
}

/// A certificate and its key, as nginx wants them.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// PEM; signed by itself, so it is its own authority.
    pub certificate: PathBuf,
    key: PathBuf,
}

impl Certificate {
    /// One for this name and no address.
    #[track_caller]
    pub fn make(lab: &Lab, name: &str) -> Certificate {
        let directory = lab.directory();
        let (certificate, key) =
            (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
        let subject = format!("/CN={name}");
        let alternative = format!("subjectAltName=DNS:{name}");
        let output = std::process::Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-days", "2", "-subj", &subject, "-addext", &alternative])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-out"])
            .arg(&certificate)
            .arg("-keyout")
            .arg(&key)
            .output()
            .expect("openssl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Certificate { certificate, key }
    }
}

impl Nginx {
    /// Listens at `address` in `host` when this returns.
    #[track_caller]
    pub fn start(lab: &Lab, host: Host, address: SocketAddr) -> Nginx {
        Nginx::listening(lab, host, address, &format!("listen {address} backlog=4096;"))
    }

    /// The same over TLS.
    #[track_caller]
    pub fn secured(lab: &Lab, host: Host, address: SocketAddr, certificate: &Certificate) -> Nginx {
        let Certificate { certificate, key } = certificate;
        let listen = format!(
            "listen {address} ssl; ssl_certificate {}; ssl_certificate_key {};",
            certificate.display(),
            key.display()
        );
        Nginx::listening(lab, host, address, &listen)
    }

    #[track_caller]
    fn listening(lab: &Lab, host: Host, address: SocketAddr, listen: &str) -> Nginx {
        let name =
            format!("nginx-{}-{}", address.to_string().replace([':', '.', '[', ']'], "-"), host.name());
        let directory = lab.directory().join(&name);
        std::fs::create_dir_all(&directory).expect("the lab's folder takes folders");
        let path = directory.join("nginx.conf");
        std::fs::write(&path, configuration(&directory, listen)).expect("the lab's folder takes files");
        let path = path.to_string_lossy().into_owned();
        let argv = ["nginx", "-c", &path, "-e", "stderr"];
        let mut guard = lab.spawn(host, &argv, &format!("{name}.log")).expect("nginx runs");
        crate::eventually("nginx listens", Duration::from_secs(10), || {
            assert!(guard.ended().is_none(), "nginx ended: see {name}.log");
            lab.within(host, || TcpStream::connect(address)).expect("the namespace is there").ok()
        });
        Nginx { guard }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.guard.pid()
    }
}

fn configuration(directory: &Path, listen: &str) -> String {
    let directory = directory.display();
    format!(
        "daemon off; master_process off; user root; pid {directory}/pid; error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_timeout 300s; keepalive_requests 100; default_type text/plain;
  client_body_temp_path {directory}/a; proxy_temp_path {directory}/b; fastcgi_temp_path {directory}/c;
  uwsgi_temp_path {directory}/d; scgi_temp_path {directory}/e;
  client_max_body_size 100m;
  server {{
    {listen}
    location / {{ return 200 \"I am $server_addr:$server_port\\n\"; }}
    location /host {{ return 200 \"host $http_host sni $ssl_server_name\\n\"; }}
    location /missing {{ return 404; }}
  }}
}}
"
    )
}

/// A client's connection that stays open.
#[derive(Debug)]
pub struct HttpClient {
    stream: BufReader<TcpStream>,
}

impl HttpClient {
    /// Over an open connection.
    pub fn over(stream: TcpStream) -> HttpClient {
        HttpClient { stream: BufReader::new(stream) }
    }

    /// Asks who serves it: the body of the answer, which says an address and a port.
    pub fn ask(&mut self) -> io::Result<String> {
        self.stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        let body = String::from_utf8_lossy(&body);
        let name = body.trim().strip_prefix("I am ").ok_or(io::ErrorKind::InvalidData)?;
        Ok(name.to_owned())
    }
}

/// What `wrk` says of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Requests {
    /// Answered.
    pub done: u64,
    /// Errors of sockets: connect, read, write, timeout; and answers that were not 2xx or 3xx.
    pub failed: u64,
}

/// Reads it.
pub fn wrk_said(output: &str) -> Option<Requests> {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let done = output.lines().find_map(|line| number(line.trim().split_once(" requests in ")?.0))?;
    let mut failed = 0;
    for line in output.lines().map(str::trim) {
        if let Some(errors) = line.strip_prefix("Socket errors:") {
            let counts = errors.split(',').filter_map(|part| number(part.trim().split_once(' ')?.1));
            failed += counts.sum::<u64>();
        }
        if let Some(count) = line.strip_prefix("Non-2xx or 3xx responses:") {
            failed += number(count)?;
        }
    }
    Some(Requests { done, failed })
}
