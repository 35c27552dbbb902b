//! What the next instance must know of this one, should it die or leave the interfaces as they are: by device, the id of its XDP program, and
//! the offloads that it has switched.
//!
//! A dead instance's program stays attached, which is what failing closed needs. Only with CAP_SYS_ADMIN could the next
//! one ask the kernel whose it is; and an offload that is off looks like one that its owner wants off. So both are written down beside the
//! API socket, in a file of its name (under systemd in the runtime directory, which a restart preserves and a reboot does not).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// What is known of the devices, and the file that holds it. The file goes when the devices are given back in an orderly way.
#[derive(Debug)]
pub struct Remembered {
    socket: PathBuf,
    devices: BTreeMap<u32, Left>,
    /// What was read, as long as this instance may yet fail to start: then it is true again.
    before: Option<BTreeMap<u32, Left>>,
}

impl Drop for Remembered {
    fn drop(&mut self) {
        if let Some(before) = self.before.take().filter(|before| *before != self.devices) {
            self.devices = before;
            if let Err(error) = self.write() {
                tracing::warn!(%error, "what the last instance has left is not known any more");
            }
        }
    }
}

/// What is left of an instance on a device.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Left {
    program: Option<u32>,
    /// By name: whether an offload that was switched is to be on when the device is given back.
    offloads: BTreeMap<String, bool>,
}

impl Remembered {
    /// What the last instance with this API socket has left; nothing if it ended in an orderly way.
    pub fn read(socket: &Path) -> Self {
        let mut remembered = Remembered { socket: socket.to_owned(), devices: BTreeMap::new(), before: None };
        let text = std::fs::read_to_string(remembered.path()).unwrap_or_default();
        for line in text.lines() {
            // What cannot be read is not known: the kernel is asked then.
            let words: Vec<&str> = line.split(' ').collect();
            let Some(ifindex) = words.first().and_then(|word| word.parse().ok()) else { continue };
            match words.get(1..) {
                Some(["program", id]) => {
                    if let Ok(id) = id.parse() {
                        remembered.devices.entry(ifindex).or_default().program = Some(id);
                    }
                }
                Some(["offload", name, on @ ("on" | "off")]) => {
                    let offloads = &mut remembered.devices.entry(ifindex).or_default().offloads;
                    offloads.insert((*name).to_owned(), *on == "on");
                }
                _ => {}
            }
        }
        remembered.before = Some(remembered.devices.clone());
        remembered
    }

    /// This instance runs: the devices are its own.
    pub fn started(&mut self) {
        self.before = None;
    }

    fn path(&self) -> PathBuf {
        super::beside(&self.socket, "devices")
    }

    /// The program that the last instance attached to a device.
    pub fn program(&self, ifindex: u32) -> Option<u32> {
        self.devices.get(&ifindex)?.program
    }

    /// The offloads of a device that the last instance has switched and not put back, by name, and whether they were on before.
    pub fn offloads(&self, ifindex: u32) -> Vec<(String, bool)> {
        let left = self.devices.get(&ifindex);
        left.map(|left| left.offloads.clone().into_iter().collect()).unwrap_or_default()
    }

    /// Writes down that a program is attached now.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn attached(&mut self, ifindex: u32, id: u32) -> io::Result<()> {
        self.devices.entry(ifindex).or_default().program = Some(id);
        self.write()
    }

    /// Writes down which offloads of a device are switched now, by name, and whether they were on before.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn switched(&mut self, ifindex: u32, before: &[(String, bool)]) -> io::Result<()> {
        let offloads: BTreeMap<String, bool> = before.iter().cloned().collect();
        if self.devices.get(&ifindex).map_or(offloads.is_empty(), |left| left.offloads == offloads) {
            return Ok(());
        }
        self.devices.entry(ifindex).or_default().offloads = offloads;
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        let mut text = String::new();
        for (ifindex, left) in &self.devices {
            if let Some(id) = left.program {
                let _ = writeln!(text, "{ifindex} program {id}");
            }
            for (name, on) in &left.offloads {
                let _ = writeln!(text, "{ifindex} offload {name} {}", if *on { "on" } else { "off" });
            }
        }
        let (path, new) = (self.path(), super::beside(&self.socket, "devices.new"));
        if text.is_empty() {
            return match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        std::fs::write(&new, text)?;
        std::fs::rename(&new, path)
    }

    /// Where sessions wait for the next instance with this API socket.
    pub fn sessions(&self) -> PathBuf {
        super::saved::path(&self.socket)
    }

    /// These devices are given back: of them nothing has to be known. (Of those that an earlier instance had and this one has not, it has.)
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn forget(&mut self, given_back: impl IntoIterator<Item = u32>) -> io::Result<()> {
        for ifindex in given_back {
            self.devices.remove(&ifindex);
        }
        self.write()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_instance_reads_what_this_one_wrote_and_another_service_does_not() {
        let folder = std::env::temp_dir().join(format!("throughway-remembered-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("api.sock");
        let mut first = Remembered::read(&socket);
        first.started();
        assert_eq!(first.program(3), None);
        first.attached(3, 77).unwrap();
        let before = [("rx-gro".to_owned(), true), ("rx-lro".to_owned(), false)];
        first.switched(4, &before).unwrap();
        first.attached(4, 78).unwrap();
        let mut second = Remembered::read(&socket);
        second.started();
        assert_eq!((second.program(3), second.program(4), second.program(5)), (Some(77), Some(78), None));
        assert_eq!((second.offloads(3), second.offloads(4)), (Vec::new(), before.to_vec()));
        // Another service, whose socket is in the same folder, is another.
        let mut other = Remembered::read(&folder.join("other.sock"));
        assert_eq!(other.program(3), None);
        assert_ne!(other.sessions(), first.sessions());
        other.attached(9, 99).unwrap();
        // It does not start in the end.
        drop(other);
        assert_eq!(Remembered::read(&folder.join("other.sock")).program(9), None);
        assert_eq!(Remembered::read(&socket).program(3), Some(77));
        // One that does not start leaves what it found.
        let mut failing = Remembered::read(&socket);
        failing.switched(4, &[]).unwrap();
        failing.attached(3, 79).unwrap();
        drop(failing);
        let mut third = Remembered::read(&socket);
        third.started();
        assert_eq!((third.program(3), third.offloads(4)), (Some(77), before.to_vec()));
        // One that has not all of the devices leaves the others to be known.
        third.forget([3]).unwrap();
        assert_eq!(Remembered::read(&socket).program(3), None);
        assert_eq!(Remembered::read(&socket).program(4), Some(78));
        third.forget([4]).unwrap();
        assert!(!third.path().exists());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
