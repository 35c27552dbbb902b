//! A buffer with a packet in it, as ports hand it out.

/// One owned buffer with a packet in it.
pub trait Frame {
    /// The packet's bytes.
    fn bytes(&self) -> &[u8];
    /// The packet's bytes.
    fn bytes_mut(&mut self) -> &mut [u8];
    /// Moves the packet's start: negative towards the front of the buffer (more packet), positive away from it.
    /// Returns `false`, and changes nothing, when there is no room.
    #[must_use]
    fn move_start(&mut self, by: isize) -> bool;
    /// Sets the packet's length from its start. Returns `false`, and changes nothing, when the buffer is too small.
    #[must_use]
    fn set_len(&mut self, len: usize) -> bool;
}

/// A packet in memory with room before it, for tests and tools.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VecFrame {
    buffer: Vec<u8>,
    start: usize,
}

impl VecFrame {
    /// A copy of `packet` with `headroom` bytes before it.
    pub fn new(packet: &[u8], headroom: usize) -> Self {
        let mut buffer = vec![0; headroom];
        buffer.extend_from_slice(packet);
        VecFrame { buffer, start: headroom }
    }
}

impl Frame for VecFrame {
    fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.start..).unwrap_or_default()
    }

    fn move_start(&mut self, by: isize) -> bool {
        match self.start.checked_add_signed(by) {
            Some(start) if start <= self.buffer.len() => {
                self.start = start;
                true
            }
            _ => false,
        }
    }

    fn set_len(&mut self, len: usize) -> bool {
        if self.start + len > self.buffer.len() {
            return false;
        }
        self.buffer.truncate(self.start + len);
        true
    }
}
