//! A file server with known bytes, so that no web server needs to be installed.

use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::LabError;
use crate::lab::Lab;
use crate::tools::find;
use crate::topology::Host;

/// Where the server listens, for IPv4 and IPv6.
pub const PORT: u16 = 8080;

/// A running file server; dropped, it ends. Every path is the same file.
#[derive(Debug)]
pub struct FileServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), LabError>>>,
}

impl FileServer {
    /// Serves `size` bytes (see [`write_file`]) at port [`PORT`] of `host`; listens when this returns.
    pub fn start(lab: &Lab, host: Host, size: u64) -> Result<FileServer, LabError> {
        let listener = lab
            .within(host, || TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)))?
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map_err(|source| LabError::io("cannot listen in", lab.namespace(host), source))?;
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let thread = lab.thread(host, move || {
            while !until.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        // A client that goes away early is its own business; whoever waits for the file checks it.
                        std::thread::spawn(move || serve(stream, size));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
            }
        });
        Ok(FileServer { stop, thread: Some(thread) })
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It cannot fail after it listens.
            let _ = thread.join();
        }
    }
}

fn serve(stream: TcpStream, size: u64) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let mut out = BufWriter::with_capacity(1 << 16, stream);
    write!(
        out,
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
    )?;
    write_file(&mut out, size)?;
    out.flush()
}

/// Writes the first `size` bytes of the file: noise from a fixed seed (xorshift, Marsaglia 2003), so that lost, repeated
/// or swapped parts change its checksum.
pub fn write_file(out: &mut impl Write, size: u64) -> io::Result<()> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = [0_u8; 4096];
    let mut left = size;
    while left > 0 {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        out.write_all(&block[..part])?;
        left -= part as u64;
    }
    Ok(())
}

/// The SHA-256 of the file of `size` bytes, in hexadecimal, as `sha256sum` says it.
pub fn sha256(size: u64) -> Result<String, LabError> {
    let program = find("sha256sum")?;
    let failed = |source| LabError::io("cannot run", &program, source);
    let mut child =
        Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
    if let Some(input) = child.stdin.take() {
        write_file(&mut BufWriter::new(input), size).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.split_ascii_whitespace().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_its_size_and_begins_the_same_at_any_size() {
        let mut short = Vec::new();
        let mut long = Vec::new();
        write_file(&mut short, 5000).unwrap();
        write_file(&mut long, 10_000).unwrap();
        assert_eq!((short.len(), long.len()), (5000, 10_000));
        assert_eq!(short, long[..5000]);
        assert_ne!(long[..4096], long[4096..8192]);
    }

    #[test]
    fn the_checksum_is_of_all_bytes() {
        // SHA-256 of nothing (FIPS 180-4).
        assert_eq!(sha256(0).unwrap(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_ne!(sha256(1000).unwrap(), sha256(1001).unwrap());
    }
}
