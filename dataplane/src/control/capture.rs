//! Captures over the API socket.
//!
//! The request is `{"command":"capture", …}` ([`Wanted`]), the answer one JSON line, which holds `error` when it is refused; behind it
//! comes a pcapng stream: an interface block for each interface of the configuration, packets with direction, number and a comment
//! (`received`, `sent`, `dropped: REASON by FUNCTION` and others), and at the end figures of each interface. The capture ends when the
//! client sends anything or closes its side, and when as many packets or seconds are over as it asked for.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::json;
use throughway_io::pcap::block::{self, Direction, Packet};
use throughway_packet::{PortId, Prefix};
use throughway_shared::steer::Reason;
use throughway_vnf::DropReason;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::app::Service;
use crate::app::service::captures::Opened;
use crate::capture::{Filter, LONGEST, Record, Ring, SHORTEST, What};

/// How often records are looked for when there were none.
const EVERY: Duration = Duration::from_millis(2);
/// Bytes that are written at once.
const CHUNK: usize = 256 << 10;
/// Records that are looked at, at once. What is read while nothing of it is asked for any more makes no bytes, and workers may write it as
/// fast as it is read: that must not keep the thread, on which other clients and the service's end wait.
const GLANCE: usize = 4096;
/// For so long the last packets' other forms are waited for when there are as many packets as were asked for.
const LINGER: Duration = Duration::from_millis(20);
/// For so long a client that reads slowly has to read the rest.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest capture that can be asked for: a year.
const YEAR: u64 = 366 * 86_400;

/// What is asked for. Addresses are prefixes: an address and a length.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wanted {
    /// The source.
    pub source: Option<(IpAddr, u8)>,
    /// The destination.
    pub destination: Option<(IpAddr, u8)>,
    /// One of the two.
    pub host: Option<(IpAddr, u8)>,
    /// The source port.
    pub source_port: Option<u16>,
    /// The destination port.
    pub destination_port: Option<u16>,
    /// One of the two.
    pub port: Option<u16>,
    /// The upper-layer protocol (IANA number).
    pub protocol: Option<u8>,
    /// The interface that packets come in by or leave by.
    pub interface: Option<String>,
    /// Only what is dropped.
    pub dropped: bool,
    /// Only what is dropped for this reason.
    pub reason: Option<String>,
    /// So many bytes of each packet, [`SHORTEST`] to [`LONGEST`]; 4096 without it.
    pub snaplen: Option<usize>,
    /// It ends after so many packets.
    pub count: Option<u64>,
    /// It ends after so many seconds.
    pub seconds: Option<u64>,
    /// Packets walk their chain, and what each function makes of them is told.
    pub trace: bool,
}

/// Bytes that are kept of each packet unless something else is asked for: frames are not longer.
const USUAL: usize = 4096;

impl Wanted {
    fn filter(&self, service: &Service) -> Result<Filter, String> {
        let prefix = |given: Option<(IpAddr, u8)>| {
            given
                .map(|(address, len)| Prefix::containing(address, len))
                .transpose()
                .map_err(|error| error.to_string())
        };
        let interface = self.interface.as_ref().map(|name| {
            let known = service.interfaces().iter().position(|view| view.name == *name);
            known.map(|port| port as u16).ok_or_else(|| format!("there is no interface `{name}`"))
        });
        Ok(Filter {
            source: prefix(self.source)?,
            destination: prefix(self.destination)?,
            host: prefix(self.host)?,
            source_port: self.source_port,
            destination_port: self.destination_port,
            port: self.port,
            protocol: self.protocol,
            interface: interface.transpose()?,
            dropped: self.dropped,
            reason: self.reason.as_deref().map(reason).transpose()?,
        })
    }

    fn longest(&self) -> Result<usize, String> {
        match self.snaplen {
            None => Ok(USUAL),
            Some(bytes) if (SHORTEST..=LONGEST).contains(&bytes) => Ok(bytes),
            Some(bytes) => Err(format!("{bytes} bytes of each packet: expected {SHORTEST} to {LONGEST}")),
        }
    }
}

/// The drop reason with this label.
fn reason(label: &str) -> Result<DropReason, String> {
    if let Some(reason) = DropReason::ALL.iter().find(|reason| reason.label() == label) {
        return Ok(*reason);
    }
    Err(if Reason::ALL.iter().any(|reason| reason.label() == label) {
        format!("what the XDP program drops by itself cannot be captured, and `{label}` is its reason")
    } else {
        format!("there is no drop reason `{label}`; `throughway show drops` tells those that occur")
    })
}

/// Serves one capture; returns when it has ended.
pub(super) async fn serve(
    wanted: Wanted,
    mut reader: BufReader<OwnedReadHalf>,
    mut writer: OwnedWriteHalf,
    service: Arc<Mutex<Service>>,
) {
    let opening = Arc::clone(&service);
    let asked = wanted.clone();
    let opened = tokio::task::spawn_blocking(move || open(&asked, &opening)).await;
    let opened = opened.unwrap_or_else(|_| Err("the request failed inside".to_owned()));
    let (number, mut source, snap) = match opened {
        Ok((opened, names, snap)) => (opened.number, Source::new(opened.rings, names, wanted.count), snap),
        Err(error) => {
            let _ = writer.write_all(format!("{}\n", json!({ "error": error })).as_bytes()).await;
            return;
        }
    };
    let mut out = format!("{}\n", json!({ "capture": { "snaplen": snap } })).into_bytes();
    source.head(&mut out, snap);
    source.begin();
    let listens = follow(&mut source, &mut out, &wanted, &mut reader, &mut writer).await;
    // At once: the service may be busy with a reload for seconds, and packets need not be copied for nobody.
    source.end();
    let closing = Arc::clone(&service);
    let _ = tokio::task::spawn_blocking(move || lock(&closing).close_capture(number)).await;
    if listens {
        let _ = timeout(PATIENCE, rest(&mut source, out, &mut writer)).await;
    }
}

fn lock(service: &Mutex<Service>) -> std::sync::MutexGuard<'_, Service> {
    service.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(wanted: &Wanted, service: &Mutex<Service>) -> Result<(Opened, Vec<String>, usize), String> {
    let mut service = lock(service);
    let (filter, longest) = (wanted.filter(&service)?, wanted.longest()?);
    let names = service.interfaces().iter().map(|view| view.name.clone()).collect();
    Ok((service.open_capture(filter, longest, wanted.trace)?, names, longest))
}

/// Writes what is captured until that ends; what was not written yet is left in `out`. Says whether somebody still reads.
async fn follow(
    source: &mut Source,
    out: &mut Vec<u8>,
    wanted: &Wanted,
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
) -> bool {
    let mut end = Instant::now() + Duration::from_secs(wanted.seconds.unwrap_or(YEAR).min(YEAR));
    let (mut at, mut byte, mut is_full) = (0, [0], false);
    loop {
        if at == out.len() {
            out.clear();
            at = 0;
            source.drain(out);
        }
        if source.is_full() && !is_full {
            is_full = true;
            end = end.min(Instant::now() + LINGER);
        }
        let rest = out.get(at..).unwrap_or_default();
        let has_rest = !rest.is_empty();
        tokio::select! {
            written = writer.write(rest), if has_rest => match written {
                Ok(written) => at += written,
                Err(_) => return false,
            },
            () = sleep(EVERY), if !has_rest => {}
            // The end of its side, or anything it says, ends the capture.
            read = reader.read(&mut byte) => {
                out.drain(..at);
                return read.is_ok();
            }
            () = sleep_until(end) => {
                out.drain(..at);
                return true;
            }
        }
    }
}

/// Writes what was captured and not written yet, and the figures.
async fn rest(source: &mut Source, mut out: Vec<u8>, writer: &mut OwnedWriteHalf) -> std::io::Result<()> {
    // There is no more than the rings hold, unless a worker could not be told that the capture has ended.
    let mut most = source.capacity();
    loop {
        // First what is left from before: to a full `out` nothing is added.
        writer.write_all(&out).await?;
        out.clear();
        let seen = source.drain(&mut out);
        most = most.saturating_sub(seen);
        if seen == 0 || most == 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    source.figures(&mut out);
    writer.write_all(&out).await?;
    writer.shutdown().await
}

/// What comes from the workers, in order of time.
struct Source {
    workers: Vec<Worker>,
    interfaces: Vec<String>,
    /// What a time of the workers' clock needs to become one since 1970, ns.
    since_1970: u64,
    /// So many packets more.
    left: u64,
}

struct Worker {
    ring: Arc<Ring>,
    /// What was taken out last and was not written yet.
    next: Option<Box<Record>>,
    /// The number of the last packet that was written.
    last: u64,
}

impl Source {
    fn new(rings: Vec<Arc<Ring>>, interfaces: Vec<String>, count: Option<u64>) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Source {
            workers: rings.into_iter().map(|ring| Worker { ring, next: None, last: 0 }).collect(),
            interfaces,
            since_1970: (now.as_nanos() as u64).saturating_sub(crate::clock::now().0),
            left: count.unwrap_or(u64::MAX),
        }
    }

    /// Workers write from now on.
    fn begin(&self) {
        self.workers.iter().for_each(|worker| worker.ring.begin());
    }

    /// Workers write no more.
    fn end(&self) {
        self.workers.iter().for_each(|worker| worker.ring.end());
    }

    /// Whether there were as many packets as were asked for.
    fn is_full(&self) -> bool {
        self.left == 0
    }

    fn head(&self, out: &mut Vec<u8>, snap: usize) {
        block::section(out);
        for name in &self.interfaces {
            block::interface(out, name, snap as u32);
        }
    }

    /// How many records there can be when no more are written: all of the rings, and one of each that was taken out.
    fn capacity(&self) -> usize {
        self.workers.iter().map(|worker| worker.ring.capacity() + 1).sum()
    }

    /// Adds what there is, as much as is written at once; tells how many records were looked at, which is zero only when there are none
    /// or `out` is full.
    fn drain(&mut self, out: &mut Vec<u8>) -> usize {
        let mut seen = 0;
        while out.len() < CHUNK && seen < GLANCE {
            for worker in &mut self.workers {
                worker.next = worker.next.take().or_else(|| worker.ring.next());
            }
            let waiting = self.workers.iter().enumerate();
            let times = waiting.filter_map(|(number, worker)| Some((worker.next.as_ref()?.time, number)));
            let Some((_, number)) = times.min() else { break };
            let Some(worker) = self.workers.get_mut(number) else { break };
            let Some(record) = worker.next.take() else { break };
            seen += 1;
            if !record.is_first && record.packet <= worker.last {
                add(out, &record, number, &self.interfaces, self.since_1970);
            } else if self.left > 0 {
                self.left -= 1;
                worker.last = worker.last.max(record.packet);
                add(out, &record, number, &self.interfaces, self.since_1970);
            }
            worker.ring.give_back(record);
        }
        seen
    }

    /// Adds the figures of each interface.
    fn figures(&self, out: &mut Vec<u8>) {
        let now = self.since_1970 + crate::clock::now().0;
        for (interface, _) in (0u16..).zip(&self.interfaces) {
            let counts = self.workers.iter().map(|worker| worker.ring.counts(interface));
            let (written, lost) = counts.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
            block::statistics(out, interface.into(), now, written, lost);
        }
    }
}

/// Adds a packet of a worker.
fn add(out: &mut Vec<u8>, record: &Record, worker: usize, interfaces: &[String], since_1970: u64) {
    let outbound = matches!(record.what, What::Sent | What::Answer);
    let packet = Packet {
        interface: record.interface.into(),
        time: record.time + since_1970,
        original: record.original,
        bytes: record.bytes(),
        direction: Some(if outbound { Direction::Outbound } else { Direction::Inbound }),
        number: Some((worker as u64) << 48 | record.packet),
        comment: &comment(record, interfaces),
    };
    block::packet(out, &packet);
}

/// What happened to a packet, and below it, if it was traced, what each function made of it.
fn comment(record: &Record, interfaces: &[String]) -> String {
    let mut text = match record.what {
        What::Received => "received".to_owned(),
        What::Sent => "sent".to_owned(),
        What::Answer => "sent in answer".to_owned(),
        What::Held => "received; waits for its neighbour".to_owned(),
        What::Given => "given to the host".to_owned(),
        What::Dropped(reason) if record.by.is_empty() => format!("dropped: {}", reason.label()),
        What::Dropped(reason) => format!("dropped: {} by {}", reason.label(), record.by),
    };
    for step in &record.steps {
        text.push('\n');
        let name = |port: PortId| interfaces.get(port.index()).cloned();
        text.push_str(&step.in_words(|port| name(port).unwrap_or_else(|| format!("port {}", port.0))));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use throughway_io::pcap::block::Block;

    fn record(ring: &Ring, time: u64, packet: u64, is_first: bool, what: What) {
        let mut record = ring.take().unwrap();
        record.fill(&[0; 60], 1, time);
        (record.packet, record.is_first, record.what) = (packet, is_first, what);
        ring.write(record);
    }

    fn drained(source: &mut Source) -> Vec<(u64, String)> {
        let mut out = Vec::new();
        source.drain(&mut out);
        let (mut rest, mut found) = (out.as_slice(), Vec::new());
        while let Some((Block::Packet(packet), length)) = block::read(rest).unwrap() {
            assert_eq!(packet.interface, 1);
            found.push((packet.number.unwrap(), packet.comment.to_owned()));
            rest = &rest[length..];
        }
        found
    }

    #[test]
    fn packets_are_counted_once_and_the_last_ones_other_forms_follow() {
        let rings = [(); 2].map(|()| Arc::new(Ring::new(16, 64, false, 2)));
        let names = vec!["lan".to_owned(), "wan".to_owned()];
        let mut source = Source::new(rings.to_vec(), names, Some(2));
        record(&rings[0], 5, 1, true, What::Received);
        record(&rings[1], 3, 1, true, What::Dropped(DropReason::NoRoute));
        record(&rings[0], 5, 2, true, What::Received);
        record(&rings[0], 6, 1, false, What::Sent);
        record(&rings[0], 6, 2, false, What::Sent);
        let told = |worker: u64, packet: u64, text: &str| (worker << 48 | packet, text.to_owned());
        assert_eq!(
            drained(&mut source),
            [told(1, 1, "dropped: no-route"), told(0, 1, "received"), told(0, 1, "sent")]
        );
        assert!(source.is_full());
    }

    #[test]
    fn a_writer_that_never_stops_does_not_keep_the_reader_when_there_are_enough_packets() {
        const RECORDS: usize = 2 * GLANCE + 1;
        let ring = Arc::new(Ring::new(RECORDS, 64, false, 2));
        let mut source =
            Source::new(vec![Arc::clone(&ring)], vec!["lan".to_owned(), "wan".to_owned()], Some(1));
        (1..=RECORDS as u64).for_each(|number| record(&ring, number, number, true, What::Received));
        let mut out = Vec::new();
        assert_eq!(source.drain(&mut out), GLANCE);
        assert!(source.is_full());
        out.clear();
        assert_eq!((source.drain(&mut out), source.drain(&mut out), source.drain(&mut out)), (GLANCE, 1, 0));
        assert!(out.is_empty());
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                        match ring.take() {
                            Some(mut record) => {
                                (record.packet, record.is_first) = (u64::MAX, true);
                                ring.write(record);
                            }
                            None => std::thread::yield_now(),
                        }
                    }
                });
            }
            let seen: Vec<usize> = (0..100).map(|_| source.drain(&mut out)).collect();
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(seen.iter().all(|seen| *seen <= GLANCE), "{seen:?}");
        });
        assert!(out.is_empty());
    }

    #[test]
    fn the_rest_follows_what_was_not_written_yet_however_much_that_is() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ring = Arc::new(Ring::new(2 * GLANCE, 64, false, 1));
        let mut source = Source::new(vec![Arc::clone(&ring)], vec!["lan".to_owned()], None);
        for number in 1..=2 * GLANCE as u64 {
            record(&ring, number, number, true, What::Received);
        }
        let mut read = Vec::new();
        let before = CHUNK + 100;
        runtime.block_on(async {
            let (mine, mut other) = tokio::net::UnixStream::pair().unwrap();
            let (_reader, mut writer) = mine.into_split();
            let written = rest(&mut source, vec![7; before], &mut writer);
            let (written, all) = tokio::join!(written, other.read_to_end(&mut read));
            written.unwrap();
            all.unwrap();
        });
        assert!(read[..before].iter().all(|byte| *byte == 7));
        let (mut rest, mut packets, mut figures) = (&read[before..], 0, 0);
        while let Some((block, length)) = block::read(rest).unwrap() {
            match block {
                Block::Packet(_) => packets += 1,
                Block::Statistics { .. } => figures += 1,
                _ => {}
            }
            rest = &rest[length..];
        }
        assert_eq!((packets, figures, rest.len()), (2 * GLANCE, 1, 0));
    }

    #[test]
    fn a_reason_is_one_of_a_workers() {
        assert_eq!(reason("no-route"), Ok(DropReason::NoRoute));
        assert!(reason("early-drop").unwrap_err().contains("XDP program"));
        assert!(reason("no-rout").unwrap_err().contains("there is no drop reason"));
    }
}
