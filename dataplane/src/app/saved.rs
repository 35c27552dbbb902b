//! Sessions between an orderly stop and the next start: a file beside the API socket, of its name (under systemd in the runtime directory,
//! which a restart preserves and a reboot does not).
//!
//! ```text
//! magic, version │ header │ section: kind and name of a function, its records, end │ … │ end │ checksum
//! ```
//!
//! Everything between is *frames*: a length (16 bits, little endian) and as many bytes; the length 0 is an end. What records say is
//! their function's business ([`throughway_vnf::save`]). The checksum (SipHash-1-3 of all before it, 64 bits) is there against
//! damage, not against malice: against that, the file belongs to the service's user, who alone may read it.
//!
//! A file is read once: whoever opens it removes it, and whatever is wrong with it, none of it is used.

use std::fs::{File, OpenOptions};
use std::hash::Hasher;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use siphasher::sip::SipHasher13;
use throughway_vnf::nanos;
use throughway_vnf::save::{Fields, LONGEST, Record, SESSION, Sink};

const MAGIC: [u8; 8] = *b"TWSESSN\0";

/// The version of the format, records included. A file of any other is refused.
const VERSION: u32 = 1;

/// The largest file: some fifteen million sessions.
const MOST: u64 = 1 << 30;

/// Before the first frame.
const FRONT: usize = MAGIC.len() + 4;
/// Behind the last one.
const CHECKSUM: usize = 8;

/// A moment that the next instance can measure from: it must be of the same boot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Which boot this is.
    boot: String,
    /// Time since then, that of sleep included.
    since: Duration,
}

impl Stamp {
    /// Now.
    ///
    /// # Errors
    /// When the kernel does not say which boot this is.
    pub fn now() -> io::Result<Stamp> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let time = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
        let (seconds, nanoseconds) = (time.tv_sec().unsigned_abs(), time.tv_nsec().unsigned_abs());
        Ok(Stamp { boot, since: Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds) })
    }
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// Somebody else may have written it.
    #[error("it is not a file that only this user can read and write")]
    Foreign,
    /// Of another program or version.
    #[error("it was written by another version")]
    Version,
    /// It is longer than any that is written, ends too early, or its checksum is wrong.
    #[error("it is damaged")]
    Damaged,
    /// It was written before the last boot.
    #[error("it was written before this boot")]
    Boot,
    /// Too much time has passed.
    #[error("it is {} s old, and at-stop.sessions is {} s", .0.as_secs(), .1.as_secs())]
    Old(Duration, Duration),
    /// Nobody wants it.
    #[error("at-stop.sessions is 0s")]
    Unwanted,
}

impl Refusal {
    /// All labels.
    pub const LABELS: [&str; 7] = ["unreadable", "foreign", "version", "damaged", "boot", "old", "unwanted"];

    /// Its name in metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Refusal::Unreadable(_) => "unreadable",
            Refusal::Foreign => "foreign",
            Refusal::Version => "version",
            Refusal::Damaged => "damaged",
            Refusal::Boot => "boot",
            Refusal::Old(..) => "old",
            Refusal::Unwanted => "unwanted",
        }
    }
}

/// The file beside an API socket.
pub fn path(socket: &Path) -> PathBuf {
    super::beside(socket, "sessions")
}

/// Writes frames, counts and sums them up.
pub struct Writer {
    out: BufWriter<File>,
    sum: SipHasher13,
    length: u64,
    sessions: u64,
    failed: Option<io::Error>,
}

impl Writer {
    fn bytes(&mut self, bytes: &[u8]) {
        self.sum.write(bytes);
        self.length += bytes.len() as u64;
        if self.failed.is_none() {
            self.failed = self.out.write_all(bytes).err();
        }
    }

    fn frame(&mut self, bytes: &[u8]) {
        let length = u16::try_from(bytes.len()).unwrap_or(0);
        self.bytes(&length.to_le_bytes());
        self.bytes(bytes.get(..usize::from(length)).unwrap_or_default());
    }

    /// What `write` says of one function.
    pub fn section<R>(&mut self, kind: &str, name: &str, write: impl FnOnce(&mut dyn Sink) -> R) -> R {
        self.frame(Record::default().text(kind).text(name).as_bytes());
        let result = write(self);
        self.frame(&[]);
        result
    }
}

impl Sink for Writer {
    fn put(&mut self, record: &[u8]) -> bool {
        // What ends sections and file has room in any case.
        let room = self.length.saturating_add(LONGEST as u64) < MOST;
        let fits = (1..=LONGEST).contains(&record.len());
        if !(room && fits && self.failed.is_none()) {
            return false;
        }
        self.sessions += u64::from(record.first() == Some(&SESSION));
        self.frame(record);
        true
    }
}

/// What was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// Sessions.
    pub sessions: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Writes the file: first beside its place, then into it, so that there is a whole one or none. `interfaces` are the names of the
/// ports, by number.
///
/// # Errors
/// Nothing is left then.
pub fn save(
    path: &Path,
    stamp: &Stamp,
    interfaces: &[String],
    write: impl FnOnce(&mut Writer),
) -> io::Result<Written> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let written = save_at(&new, stamp, interfaces, write);
    let placed = written.and_then(|written| std::fs::rename(&new, path).map(|()| written));
    placed.inspect_err(|_| {
        let _ = std::fs::remove_file(&new);
        // An older one must not be taken for this.
        let _ = std::fs::remove_file(path);
    })
}

fn save_at(
    new: &Path,
    stamp: &Stamp,
    interfaces: &[String],
    write: impl FnOnce(&mut Writer),
) -> io::Result<Written> {
    match std::fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
    let mut writer = Writer {
        out: BufWriter::with_capacity(1 << 18, file),
        sum: SipHasher13::new(),
        length: 0,
        sessions: 0,
        failed: None,
    };
    writer.bytes(&MAGIC);
    writer.bytes(&VERSION.to_le_bytes());
    let mut header = Record::default();
    header.text(&stamp.boot).number(nanos(stamp.since));
    header.number(interfaces.len() as u64);
    for name in interfaces {
        header.text(name);
    }
    writer.frame(header.as_bytes());
    write(&mut writer);
    writer.frame(&[]);
    let sum = writer.sum.finish();
    writer.bytes(&sum.to_le_bytes());
    let Writer { mut out, length, sessions, failed, .. } = writer;
    if let Some(error) = failed {
        return Err(error);
    }
    out.flush()?;
    Ok(Written { sessions, bytes: length })
}

/// A file that was found good.
#[derive(Debug)]
pub struct Saved {
    bytes: Vec<u8>,
    /// How long ago it was written.
    pub age: Duration,
    /// The names that the ports had, by number.
    pub interfaces: Vec<String>,
    /// Where the first section begins.
    first: usize,
}

/// What was written of one function.
#[derive(Clone, Copy, Debug)]
pub struct Section<'a> {
    /// Its kind.
    pub kind: &'a str,
    /// Its name.
    pub name: &'a str,
    records: Frames<'a>,
}

impl<'a> Section<'a> {
    /// Its records.
    pub fn records(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.records
    }

    /// How many of them are sessions.
    pub fn sessions(&self) -> u64 {
        self.records.filter(|record| record.first() == Some(&SESSION)).count() as u64
    }
}

/// Frames up to an end.
#[derive(Clone, Copy, Debug)]
struct Frames<'a>(&'a [u8]);

impl<'a> Frames<'a> {
    /// A frame, or the end, and what comes after it.
    fn split(&self) -> Option<(&'a [u8], Frames<'a>)> {
        let (length, rest) = self.0.split_first_chunk::<2>()?;
        let (frame, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        Some((frame, Frames(rest)))
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (frame, rest) = self.split().filter(|(frame, _)| !frame.is_empty())?;
        *self = rest;
        Some(frame)
    }
}

impl Saved {
    /// Takes the file at `path`, if there is one: it is gone from then on, unless it is somebody else's. `within`: how old it may be.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn take(path: &Path, stamp: &Stamp, within: Duration) -> Result<Option<Saved>, Refusal> {
        // A link is not followed.
        let found = match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        let is_ours = found.uid() == nix::unistd::Uid::effective().as_raw() && found.mode() & 0o077 == 0;
        if !(found.is_file() && is_ours) {
            return Err(Refusal::Foreign);
        }
        let opened = File::open(path);
        std::fs::remove_file(path)?;
        let file = opened?;
        let about = file.metadata()?;
        if (about.dev(), about.ino()) != (found.dev(), found.ino()) {
            return Err(Refusal::Foreign);
        }
        if within.is_zero() {
            return Err(Refusal::Unwanted);
        }
        if about.len() > MOST {
            return Err(Refusal::Damaged);
        }
        let mut bytes = Vec::with_capacity(usize::try_from(about.len()).unwrap_or(0));
        file.take(MOST + 1).read_to_end(&mut bytes)?;
        Saved::read(bytes, stamp, within).map(Some)
    }

    fn read(bytes: Vec<u8>, stamp: &Stamp, within: Duration) -> Result<Saved, Refusal> {
        let (front, rest) = bytes.split_at_checked(FRONT).ok_or(Refusal::Damaged)?;
        let version = front.strip_prefix(&MAGIC).ok_or(Refusal::Version)?;
        if version != VERSION.to_le_bytes() {
            return Err(Refusal::Version);
        }
        let (frames, sum) = rest.split_last_chunk::<CHECKSUM>().ok_or(Refusal::Damaged)?;
        let mut hasher = SipHasher13::new();
        hasher.write(front);
        hasher.write(frames);
        if hasher.finish() != u64::from_le_bytes(*sum) {
            return Err(Refusal::Damaged);
        }
        let (header, sections) = Frames(frames).split().ok_or(Refusal::Damaged)?;
        let (boot, since, interfaces) = read_header(header).ok_or(Refusal::Damaged)?;
        if boot != stamp.boot {
            return Err(Refusal::Boot);
        }
        let age = stamp.since.checked_sub(since).ok_or(Refusal::Boot)?;
        if age > within {
            return Err(Refusal::Old(age, within));
        }
        let first = FRONT + frames.len() - sections.0.len();
        let saved = Saved { age, interfaces, first, bytes };
        // All of it, before any of it is used.
        let mut rest = Some(Frames(saved.rest()));
        while let Some((Some(_), next)) = rest.map(next_section).ok_or(Refusal::Damaged)? {
            rest = Some(next);
        }
        match rest.and_then(next_section) {
            Some((None, Frames([]))) => Ok(saved),
            _ => Err(Refusal::Damaged),
        }
    }

    fn rest(&self) -> &[u8] {
        let end = self.bytes.len().saturating_sub(CHECKSUM);
        self.bytes.get(self.first..end).unwrap_or_default()
    }

    /// What was written of each function.
    pub fn sections(&self) -> impl Iterator<Item = Section<'_>> {
        let mut rest = Frames(self.rest());
        std::iter::from_fn(move || {
            let (section, next) = next_section(rest)?;
            rest = next;
            section
        })
    }
}

fn read_header(header: &[u8]) -> Option<(&str, Duration, Vec<String>)> {
    let mut fields = Fields::of(header);
    let (boot, since) = (fields.text()?, Duration::from_nanos(fields.number()?));
    let count = fields.small::<u16>()?;
    let names = (0..count).map(|_| fields.text().map(str::to_owned)).collect::<Option<_>>()?;
    fields.end()?;
    Some((boot, since, names))
}

/// The next section, or `None` at the end of all, and what comes after it.
fn next_section(frames: Frames<'_>) -> Option<(Option<Section<'_>>, Frames<'_>)> {
    let (header, records) = frames.split()?;
    if header.is_empty() {
        return Some((None, records));
    }
    let mut fields = Fields::of(header);
    let (kind, name) = (fields.text()?, fields.text()?);
    fields.end()?;
    let mut rest = records;
    loop {
        let (frame, next) = rest.split()?;
        rest = next;
        if frame.is_empty() {
            return Some((Some(Section { kind, name, records }), rest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WITHIN: Duration = Duration::from_secs(300);

    /// A folder of its own, gone afterwards.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let folder = std::env::temp_dir().join(format!("throughway-saved-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            Folder(folder)
        }

        fn file(&self) -> PathBuf {
            path(&self.0.join("api.sock"))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn stamp(boot: &str, seconds: u64) -> Stamp {
        Stamp { boot: boot.to_owned(), since: Duration::from_secs(seconds) }
    }

    /// Two functions, the second with nothing.
    fn write(path: &Path) -> Written {
        let names = ["lan".to_owned(), "wan".to_owned()];
        let written = save(path, &stamp("b", 100), &names, |writer| {
            writer.section("firewall", "edge", |sink| {
                assert!(sink.put(&[1, 2]) && sink.put(&[SESSION, 7, 7]) && sink.put(&[SESSION]));
                assert!(!sink.put(&[]) && !sink.put(&[0; LONGEST + 1]));
                assert!(sink.put(&[9; LONGEST]));
            });
            writer.section("nat", "outer", |_| {});
        });
        written.unwrap()
    }

    #[test]
    fn what_one_instance_writes_the_next_one_reads_once() {
        let folder = Folder::new("once");
        let path = folder.file();
        assert!(Saved::take(&path, &stamp("b", 1), WITHIN).unwrap().is_none());
        let written = write(&path);
        let about = path.metadata().unwrap();
        assert_eq!((about.len(), about.mode() & 0o777), (written.bytes, 0o600));
        assert_eq!(written.sessions, 2);
        let saved = Saved::take(&path, &stamp("b", 107), WITHIN).unwrap().unwrap();
        assert_eq!(
            (saved.age, &*saved.interfaces),
            (Duration::from_secs(7), &["lan".to_owned(), "wan".to_owned()][..])
        );
        let sections: Vec<_> = saved.sections().collect();
        let told: Vec<_> =
            sections.iter().map(|section| (section.kind, section.name, section.sessions())).collect();
        assert_eq!(told, [("firewall", "edge", 2), ("nat", "outer", 0)]);
        let records: Vec<_> = sections[0].records().collect();
        assert_eq!(records, [&[1, 2][..], &[SESSION, 7, 7], &[SESSION], &[9; LONGEST]]);
        assert!(!path.exists() && std::fs::read_dir(&folder.0).unwrap().next().is_none(), "nothing is left");
    }

    #[test]
    fn what_does_not_fit_is_refused_whole_and_gone() {
        let folder = Folder::new("refused");
        let path = folder.file();
        let refused = |stamp: &Stamp, within, label| {
            let refusal = Saved::take(&path, stamp, within).unwrap_err();
            assert_eq!(refusal.label(), label, "{refusal}");
            // What may be somebody else's is left alone.
            let is_left = path.symlink_metadata().is_ok();
            assert!(Refusal::LABELS.contains(&label) && is_left == (label == "foreign"), "{label}");
        };
        write(&path);
        refused(&stamp("another", 101), WITHIN, "boot");
        write(&path);
        refused(&stamp("b", 99), WITHIN, "boot");
        write(&path);
        refused(&stamp("b", 401), WITHIN, "old");
        write(&path);
        refused(&stamp("b", 101), Duration::ZERO, "unwanted");
        write(&path);
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        refused(&stamp("b", 101), WITHIN, "foreign");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        refused(&stamp("b", 101), WITHIN, "foreign");
        std::fs::remove_file(&path).unwrap();
        write(&path);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[MAGIC.len()] += 1;
        std::fs::write(&path, bytes).unwrap();
        refused(&stamp("b", 101), WITHIN, "version");
    }

    #[test]
    fn nothing_is_left_where_nothing_can_be_written() {
        let folder = Folder::new("full");
        let missing = folder.0.join("none").join("sessions");
        assert!(save(&missing, &stamp("b", 1), &[], |_| {}).is_err());
        // An old file must not be taken for the one that could not be written.
        let path = folder.file();
        write(&path);
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        std::fs::create_dir(new).unwrap();
        assert!(save(&path, &stamp("b", 1), &[], |_| {}).is_err());
        assert!(!path.exists());
    }

    #[test]
    fn a_stamp_is_of_this_boot_and_goes_forward() {
        let (first, second) = (Stamp::now().unwrap(), Stamp::now().unwrap());
        assert_eq!((first.boot.len(), &first.boot), (36, &second.boot));
        assert!(second.since >= first.since);
    }

    fn good(name: &str) -> Vec<u8> {
        let folder = Folder::new(name);
        write(&folder.file());
        std::fs::read(folder.file()).unwrap()
    }

    /// With the checksum made right again, so that what comes after it is tried.
    fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
        let mut hasher = SipHasher13::new();
        hasher.write(&bytes);
        bytes.extend(hasher.finish().to_le_bytes());
        bytes
    }

    #[test]
    fn every_bit_counts() {
        let good = good("bits");
        let read = |bytes| Saved::read(bytes, &stamp("b", 101), WITHIN);
        assert!(read(good.clone()).is_ok());
        for at in (0..300).chain(good.len() - 300..good.len()) {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                assert!(read(bytes).is_err(), "{at} {bit}");
            }
            assert!(read(good[..at].to_vec()).is_err(), "cut at {at}");
        }
        assert!(read([good.clone(), vec![0]].concat()).is_err());
        // More behind the end, however well summed up.
        let body = good[..good.len() - CHECKSUM].to_vec();
        assert!(read(summed(body.clone())).is_ok());
        assert!(read(summed([body, vec![0, 0]].concat())).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_are_too_odd(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            cut in prop::option::of(any::<prop::sample::Index>()),
            noise in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut bytes = good("odd");
            bytes.truncate(bytes.len() - CHECKSUM);
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
                bytes.extend(noise);
            }
            if let Ok(saved) = Saved::read(summed(bytes), &stamp("b", 101), WITHIN) {
                let records: usize = saved.sections().map(|section| section.records().count()).sum();
                prop_assert!(records <= saved.bytes.len());
            }
        }
    }
}
