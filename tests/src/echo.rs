//! A TCP connection that goes on for as long as a test does: what an SSH session is to an operator.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use throughway_lab::{Host, Lab};

/// The server's port.
pub const PORT: u16 = 7;

/// Answers every byte, for IPv4 and IPv6, until the test ends.
pub fn serve(lab: &Lab, host: Host) {
    let listener = lab
        .within(host, || TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)))
        .unwrap_or_else(|error| panic!("{error}"))
        .expect("the port is free");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || repeat(stream));
        }
    });
}

fn repeat(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = [0_u8; 1 << 14];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            len => stream.write_all(&buffer[..len])?,
        }
    }
}

/// One connection to an echo server.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    said: u32,
}

impl Connection {
    /// Connects from `host`; the error is the system's.
    pub fn open(lab: &Lab, host: Host, to: IpAddr) -> std::io::Result<Connection> {
        let address = SocketAddr::new(to, PORT);
        let stream = lab
            .within(host, || TcpStream::connect_timeout(&address, Duration::from_secs(3)))
            .unwrap_or_else(|error| panic!("{error}"))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, said: 0 })
    }

    /// The client's port.
    pub fn port(&self) -> u16 {
        self.stream.local_addr().map_or(0, |address| address.port())
    }

    /// Says something new, long enough for several segments, and hears the same.
    pub fn exchange(&mut self) -> std::io::Result<()> {
        self.said += 1;
        let words: Vec<u8> =
            (0..2000_u32).flat_map(|word| (word ^ (self.said << 16)).to_be_bytes()).collect();
        self.stream.write_all(&words)?;
        let mut heard = vec![0; words.len()];
        self.stream.read_exact(&mut heard)?;
        if heard == words { Ok(()) } else { Err(std::io::Error::other("the echo is not what was said")) }
    }
}
