//! What the next instance must know of this one, should it die: the ids of its XDP programs, by device.
//!
//! A dead instance's program stays attached, which is what failing closed needs. Only with CAP_SYS_ADMIN could the next
//! one ask the kernel whose it is, so it is written down beside the API socket (under systemd in the runtime directory,
//! which a restart preserves and a reboot does not).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The programs by ifindex, and the file that holds them. The file goes when this is dropped in an orderly way.
#[derive(Debug)]
pub struct Remembered {
    path: PathBuf,
    programs: BTreeMap<u32, u32>,
}

impl Remembered {
    /// What the last instance with an API socket in this folder has left; nothing if it ended in an orderly way.
    pub fn read(socket: &Path) -> Self {
        let path = socket.with_file_name("xdp-programs");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        // What cannot be read is not known: the kernel is asked then.
        let programs = text.lines().filter_map(|line| {
            let (ifindex, id) = line.split_once(' ')?;
            Some((ifindex.parse().ok()?, id.parse().ok()?))
        });
        Remembered { path, programs: programs.collect() }
    }

    /// The program that the last instance attached to a device.
    pub fn program(&self, ifindex: u32) -> Option<u32> {
        self.programs.get(&ifindex).copied()
    }

    /// Writes down that a program is attached now.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn attached(&mut self, ifindex: u32, id: u32) -> std::io::Result<()> {
        self.programs.insert(ifindex, id);
        let text: String = self.programs.iter().map(|(ifindex, id)| format!("{ifindex} {id}\n")).collect();
        let mut new = self.path.as_os_str().to_owned();
        new.push(".new");
        std::fs::write(&new, text)?;
        std::fs::rename(&new, &self.path)
    }

    /// Where sessions wait for the next instance with an API socket in this folder.
    pub fn sessions(&self) -> PathBuf {
        super::saved::path(&self.path)
    }

    /// Everything is detached: nothing has to be known.
    pub fn forget(&mut self) {
        self.programs.clear();
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_instance_reads_what_this_one_wrote() {
        let folder = std::env::temp_dir().join(format!("throughway-remembered-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("api.sock");
        let mut first = Remembered::read(&socket);
        assert_eq!(first.program(3), None);
        first.attached(3, 77).unwrap();
        first.attached(4, 78).unwrap();
        let mut second = Remembered::read(&socket);
        assert_eq!((second.program(3), second.program(4), second.program(5)), (Some(77), Some(78), None));
        second.forget();
        assert_eq!(Remembered::read(&socket).program(3), None);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
