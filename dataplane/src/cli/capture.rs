//! `throughway capture` and `throughway trace`: packets of the running service, as a pcapng stream or a line each.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use throughway_config::value::Protocol;
use throughway_io::pcap::block::{self, Block, Direction, Packet};
use throughway_packet::parse::{ICMP, ICMPV6, TCP};
use throughway_packet::{Headers, PortId, Prefix, parse};

use super::output::complain;
use super::{Api, Failure, client};
use crate::control::capture::Wanted;
use crate::control::show::end;

/// How long the service may take to answer, and to write the rest when it was told to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether somebody wants the end.
const GLANCE: Duration = Duration::from_millis(100);

/// Which packets, and how many. All conditions that are given must hold for a packet as it comes in, or as it leaves.
#[derive(Args, Debug)]
pub(super) struct Capture {
    /// Source addresses; an address alone is itself.
    #[arg(long, value_name = "PREFIX", value_parser = client::prefix)]
    source: Option<Prefix>,
    /// Destination addresses.
    #[arg(long, value_name = "PREFIX", value_parser = client::prefix)]
    destination: Option<Prefix>,
    /// Source or destination addresses.
    #[arg(long, visible_alias = "address", value_name = "PREFIX", value_parser = client::prefix)]
    host: Option<Prefix>,
    /// Upper-layer protocol: a name such as `tcp`, or a number.
    #[arg(long)]
    protocol: Option<Protocol>,
    /// Source port.
    #[arg(long, value_name = "PORT")]
    source_port: Option<u16>,
    /// Destination port.
    #[arg(long, value_name = "PORT")]
    destination_port: Option<u16>,
    /// Source or destination port.
    #[arg(long)]
    port: Option<u16>,
    /// The interface that packets come in by, or leave by.
    #[arg(long)]
    interface: Option<String>,
    /// Only packets that are dropped.
    #[arg(long)]
    dropped: bool,
    /// Only packets that are dropped for this reason, as `show drops` names it.
    #[arg(long)]
    reason: Option<String>,
    /// Write pcapng to this file; `-` is standard output. Without it a line a packet is printed.
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    file: Option<PathBuf>,
    /// End after so many packets.
    #[arg(short, long, value_name = "PACKETS", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after so many seconds.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// Keep so many bytes of each packet, 96 to 9728 (4096).
    #[arg(short, long, value_name = "BYTES")]
    snaplen: Option<usize>,
    #[command(flatten)]
    api: Api,
}

impl Capture {
    fn wanted(&self, trace: bool) -> Wanted {
        let prefix = |prefix: Option<Prefix>| prefix.map(|prefix| (prefix.address(), prefix.len()));
        Wanted {
            source: prefix(self.source),
            destination: prefix(self.destination),
            host: prefix(self.host),
            source_port: self.source_port,
            destination_port: self.destination_port,
            port: self.port,
            protocol: self.protocol.map(|protocol| protocol.get()),
            interface: self.interface.clone(),
            dropped: self.dropped,
            reason: self.reason.clone(),
            snaplen: self.snaplen,
            count: self.count,
            seconds: self.seconds,
            trace,
        }
    }
}

/// Captures until it is told to end; with `trace`, what each function made of a packet is shown as well.
pub(super) fn capture(wanted: &Capture, trace: bool) -> Result<ExitCode, Failure> {
    let file = wanted.file.as_deref();
    if file.is_some_and(is_standard) && std::io::stdout().is_terminal() {
        complain("error: standard output is a terminal: give -w a file, or leave it out");
        return Ok(ExitCode::from(2));
    }
    let socket = &wanted.api.socket;
    let mut stream = UnixStream::connect(socket)
        .map_err(|error| format!("no service answers at {}: {error}", socket.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = json!(wanted.wanted(trace));
    if let Some(request) = request.as_object_mut() {
        request.insert("command".to_owned(), "capture".into());
    }
    writeln!(stream, "{request}")?;
    let mut reader = BufReader::with_capacity(1 << 18, stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let answer: Value = serde_json::from_str(&line).map_err(|_| "the service's answer cannot be read")?;
    if let Some(error) = answer.get("error").and_then(Value::as_str) {
        complain(error);
        return Ok(ExitCode::FAILURE);
    }
    // Only now: what a file held before is not lost to a request that is refused.
    let mut output = Output::open(file)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The second time without waiting for the rest.
        flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    complain("capturing; Ctrl-C ends it");
    stream.set_read_timeout(Some(GLANCE))?;
    let seen = follow(&stream, &mut reader, &mut output, &stop);
    drop(stream);
    let seen = seen?;
    complain(&seen.in_words());
    if seen.is_whole { Ok(ExitCode::SUCCESS) } else { Err("the service ended the connection".into()) }
}

/// What came.
#[derive(Default)]
struct Seen {
    captured: u64,
    /// As the service's figures say, if they came.
    lost: Option<u64>,
    /// The service had its last word, or nobody reads any more.
    is_whole: bool,
}

impl Seen {
    fn in_words(&self) -> String {
        let lost = self.lost.map(|lost| format!(", {lost} lost because they were not read fast enough"));
        let captured = format!("{} captured{}", self.captured, lost.unwrap_or_default());
        format!("{captured}; a packet counts once as received and once as sent")
    }
}

fn follow(
    stream: &UnixStream,
    reader: &mut BufReader<UnixStream>,
    output: &mut Output,
    stop: &AtomicBool,
) -> Result<Seen, Failure> {
    let mut seen = Seen::default();
    let (mut buffer, mut chunk) = (Vec::new(), vec![0; 1 << 18]);
    let mut told = None;
    loop {
        if stop.load(Ordering::Relaxed) && told.is_none() {
            told = Some(Instant::now());
            // The service writes the rest, and its figures.
            let _ = stream.shutdown(Shutdown::Write);
        }
        match reader.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => buffer.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if told.is_some_and(|told| told.elapsed() > PATIENCE) {
                    break;
                }
                continue;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(format!("the service's answer cannot be read: {error}").into()),
        }
        match pass_on(&mut buffer, &mut seen, output)? {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                // Who reads has seen enough.
                return Ok(Seen { is_whole: true, ..seen });
            }
            written => written.map_err(|error| format!("writing: {error}"))?,
        }
    }
    Ok(seen)
}

/// Writes the blocks that are there as a whole, and takes them out. What cannot be read is the first error, what cannot be written the
/// second.
fn pass_on(
    buffer: &mut Vec<u8>,
    seen: &mut Seen,
    output: &mut Output,
) -> Result<std::io::Result<()>, Failure> {
    let mut at = 0;
    while let Some((block, length)) = block::read(buffer.get(at..).unwrap_or_default())? {
        match block {
            Block::Packet(_) => seen.captured += 1,
            Block::Statistics { dropped, .. } => {
                seen.lost = Some(seen.lost.unwrap_or_default() + dropped);
                seen.is_whole = true;
            }
            _ => {}
        }
        let written = output.put(&block, buffer.get(at..at + length).unwrap_or_default());
        if written.is_err() {
            return Ok(written);
        }
        at += length;
    }
    buffer.drain(..at);
    Ok(output.flush())
}

/// Whether this means standard output.
fn is_standard(file: &Path) -> bool {
    file == Path::new("-")
}

/// Where packets are written.
enum Output {
    /// As they are, in pcapng.
    Blocks(Box<dyn Write>),
    /// For people.
    Lines { out: BufWriter<std::io::Stdout>, interfaces: Vec<String> },
}

impl Output {
    fn open(file: Option<&Path>) -> Result<Self, Failure> {
        Ok(match file {
            None => Output::Lines { out: BufWriter::new(std::io::stdout()), interfaces: Vec::new() },
            Some(path) if is_standard(path) => Output::Blocks(Box::new(BufWriter::new(std::io::stdout()))),
            Some(path) => {
                let file = File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
                Output::Blocks(Box::new(BufWriter::with_capacity(1 << 18, file)))
            }
        })
    }

    fn put(&mut self, block: &Block<'_>, bytes: &[u8]) -> std::io::Result<()> {
        match (self, block) {
            (Output::Blocks(out), _) => out.write_all(bytes),
            (Output::Lines { interfaces, .. }, Block::Interface(name)) => {
                interfaces.push((*name).to_owned());
                Ok(())
            }
            (Output::Lines { out, interfaces }, Block::Packet(packet)) => {
                let interface = interfaces.get(packet.interface as usize).map_or("?", String::as_str);
                writeln!(out, "{}", line(packet, interface))
            }
            (Output::Lines { .. }, _) => Ok(()),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Output::Blocks(out) => out.flush(),
            Output::Lines { out, .. } => out.flush(),
        }
    }
}

/// `12:00:00.000001Z lan in  udp 10.1.0.10:4000 > 10.2.0.10:53 60 bytes: received`, and what each function said below it.
fn line(packet: &Packet<'_>, interface: &str) -> String {
    let (seconds, micros) = (packet.time / 1_000_000_000 % 86_400, packet.time % 1_000_000_000 / 1000);
    let direction = if packet.direction == Some(Direction::Outbound) { "out" } else { "in " };
    let comment = packet.comment.replace('\n', "\n    ");
    format!(
        "{:02}:{:02}:{:02}.{micros:06}Z {interface} {direction} {} {} bytes: {comment}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        what(packet),
        packet.original,
    )
}

/// What a packet is: protocol and ends.
fn what(packet: &Packet<'_>) -> String {
    // Of one that is kept in part the rest does not matter here.
    let mut whole = packet.bytes.to_vec();
    whole.resize(whole.len().max((packet.original as usize).min(1 << 17)), 0);
    let Ok(headers) = parse(&whole, PortId(0)) else { return "unreadable".to_owned() };
    let key = &headers.key;
    let protocol = Protocol::new(key.protocol);
    let more = match key.protocol {
        TCP => format!(" [{}]", flags(headers.tcp_flags)),
        ICMP | ICMPV6 => format!(" type {} code {}", headers.icmp_type, headers.icmp_code),
        _ => String::new(),
    };
    let ends = ends(&headers);
    format!("{protocol} {} > {}{more}", ends.0, ends.1)
}

fn ends(headers: &Headers) -> (String, String) {
    let key = &headers.key;
    // Of ICMP the identifier stands there.
    let port = |port| if matches!(key.protocol, ICMP | ICMPV6) { [0, 0] } else { port };
    (
        end(key.family, &key.source, port(key.source_port)),
        end(key.family, &key.destination, port(key.destination_port)),
    )
}

/// As tcpdump writes them.
fn flags(flags: u8) -> String {
    let letters = [(1, 'F'), (2, 'S'), (4, 'R'), (8, 'P'), (16, '.'), (32, 'U')];
    letters.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, letter)| *letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::SHORTEST;
    use throughway_packet::build::PacketBuilder;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        capture: Capture,
    }

    #[test]
    fn a_request_that_is_refused_leaves_the_file_as_it_was() {
        let folder = std::env::temp_dir().join(format!("throughway-cli-capture-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (socket, file) = (folder.join("api"), folder.join("old.pcapng"));
        std::fs::write(&file, "what was captured before").unwrap();
        let arguments = ["capture", "--api", socket.to_str().unwrap(), "-w", file.to_str().unwrap()];
        let line = <Line as clap::Parser>::try_parse_from(arguments).unwrap();
        assert!(capture(&line.capture, false).is_err(), "nobody answers");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let service = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut request = String::new();
            BufReader::new(&client).read_line(&mut request).unwrap();
            client.write_all(b"{\"error\":\"there is no such reason\"}\n").unwrap();
        });
        assert!(capture(&line.capture, false).is_ok(), "refused");
        service.join().unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "what was captured before");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn losses_are_told_only_when_the_service_has_told_them() {
        let seen = Seen { captured: 3, lost: None, is_whole: true };
        assert_eq!(seen.in_words(), "3 captured; a packet counts once as received and once as sent");
        assert!(Seen { lost: Some(0), ..seen }.in_words().starts_with("3 captured, 0 lost because"));
    }

    #[test]
    fn a_line_tells_what_when_where_and_what_became_of_it() {
        let frame = PacketBuilder::ipv4([10, 1, 0, 10], [10, 2, 0, 10])
            .tcp(4000, 80, 0x12)
            .payload(&[1; 500])
            .finish();
        let packet = Packet {
            interface: 0,
            time: 1_700_000_000_123_456_789,
            original: frame.len() as u32,
            bytes: &frame,
            direction: Some(Direction::Inbound),
            number: Some(1),
            comment: "received\nedge: passes",
        };
        let told = "22:13:20.123456Z lan in  tcp 10.1.0.10:4000 > 10.2.0.10:80 [S.] 554 bytes: received\n    edge: passes";
        assert_eq!(line(&packet, "lan"), told);
        assert_eq!(line(&Packet { bytes: &frame[..64], ..packet }, "lan"), told, "kept in part");
        let frame = PacketBuilder::ipv6([1; 8], [2; 8]).tcp(4000, 80, 0x12).payload(&[1; 500]).finish();
        let original = frame.len() as u32;
        let told = line(&Packet { bytes: &frame, original, ..packet }, "lan");
        assert!(told.contains(":80 [S.] "), "{told}");
        assert_eq!(
            line(&Packet { bytes: &frame[..SHORTEST], original, ..packet }, "lan"),
            told,
            "kept in part"
        );
        let ping = PacketBuilder::ipv6([1; 8], [2; 8]).icmp(128, 0, [0, 7, 0, 1]).finish();
        let out = Packet { bytes: &ping, direction: Some(Direction::Outbound), comment: "sent", ..packet };
        let told = line(&out, "wan");
        assert!(
            told.contains("wan out ") && told.contains(" type 128 code 0 ") && !told.contains("]:7"),
            "{told}"
        );
        assert!(line(&Packet { bytes: &[1; 20], original: 20, ..packet }, "lan").contains("unreadable"));
    }
}
