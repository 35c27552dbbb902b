//! Netlink sockets: framing, requests with acknowledgement, dumps (linux/netlink.h).

use std::io;
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::error::KernelError;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
/// On a message of a dump: what was dumped before it may be out of date.
pub(crate) const NLM_F_DUMP_INTR: u16 = 0x10;
/// On a request, and on the notification of what it did: an existing object was replaced.
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
const NLM_F_ACK_TLVS: u16 = 0x200;

const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;
const HEADER: usize = 16;

/// Larger than any datagram the kernel makes: dumps come in at most 32 KiB, single messages are smaller.
const BUFFER: usize = 128 << 10;
/// How often an interrupted dump is begun anew.
const DUMP_TRIES: u32 = 12;
/// The kernel answers within the call to send; what waits is a lock it holds for something slow.
const ANSWER: Duration = Duration::from_secs(10);

/// One message out of a datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

/// The messages of a datagram.
pub(crate) struct Frames<'a>(&'a [u8]);

impl<'a> Frames<'a> {
    pub(crate) fn new(datagram: &'a [u8]) -> Self {
        Self(datagram)
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, KernelError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let frame = split_frame(self.0);
        match frame {
            Some((frame, rest)) => {
                self.0 = rest;
                Some(Ok(frame))
            }
            None => {
                let left = std::mem::take(&mut self.0).len();
                Some(Err(KernelError::Malformed(format!("bad message header, {left} bytes left"))))
            }
        }
    }
}

fn split_frame(bytes: &[u8]) -> Option<(Frame<'_>, &[u8])> {
    let header = bytes.first_chunk::<HEADER>()?;
    let length = u32::from_ne_bytes(header[..4].try_into().ok()?) as usize;
    let message = bytes.get(..length)?;
    let frame = Frame {
        kind: u16::from_ne_bytes([header[4], header[5]]),
        flags: u16::from_ne_bytes([header[6], header[7]]),
        sequence: u32::from_ne_bytes(header[8..12].try_into().ok()?),
        payload: message.get(HEADER..)?,
    };
    let next = length.checked_next_multiple_of(4)?;
    Some((frame, bytes.get(next..).unwrap_or_default()))
}

/// The value of an `NLMSG_ERROR` or `NLMSG_DONE`: zero or an error number, and the kernel's words for it.
fn verdict(frame: &Frame<'_>, request: &'static str) -> Result<(), KernelError> {
    let Some((code, rest)) = frame.payload.split_first_chunk::<4>() else {
        // Old kernels end a dump with an empty message.
        return Ok(());
    };
    let code = i32::from_ne_bytes(*code);
    if code == 0 {
        return Ok(());
    }
    // The request's header stands before the words in an error; its body is left out (NETLINK_CAP_ACK).
    let words = if frame.kind == NLMSG_ERROR { rest.get(HEADER..).unwrap_or_default() } else { rest };
    let detail = (frame.flags & NLM_F_ACK_TLVS != 0)
        .then(|| attributes(words).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG).map(|(_, value)| text(value)))
        .flatten();
    Err(KernelError::Refused { request, source: io::Error::from_raw_os_error(code.wrapping_neg()), detail })
}

/// What a request is answered with.
enum Answer {
    More,
    Done,
}

/// A bound netlink socket.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket of the calling thread's network namespace.
    pub(crate) fn open(protocol: isize) -> Result<Self, KernelError> {
        let failed = |action| move |source| KernelError::Socket { action, source };
        let mut socket = Socket::new(protocol).map_err(failed("open"))?;
        socket.bind_auto().map_err(failed("bind"))?;
        // Comforts of newer kernels (4.12, 4.3, 4.20); without the last, filters of dumps are ignored, which their users allow for.
        for (name, result) in [
            ("NETLINK_EXT_ACK", socket.set_ext_ack(true)),
            ("NETLINK_CAP_ACK", socket.set_cap_ack(true)),
            ("NETLINK_GET_STRICT_CHK", socket.set_netlink_get_strict_chk(true)),
        ] {
            if let Err(error) = result {
                tracing::debug!(option = name, %error, "netlink socket option not granted");
            }
        }
        let timeout = TimeVal::seconds(ANSWER.as_secs().cast_signed());
        setsockopt(&socket, sockopt::ReceiveTimeout, &timeout)
            .map_err(|errno| KernelError::Socket { action: "set the timeout of", source: errno.into() })?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// The socket, to poll and to subscribe with.
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Makes room for `bytes` of unread messages, beyond the system's limit when allowed. Returns what was granted.
    pub(crate) fn set_receive_buffer(&self, bytes: usize) -> usize {
        if setsockopt(&self.socket, sockopt::RcvBufForce, &bytes).is_err()
            && let Err(error) = setsockopt(&self.socket, sockopt::RcvBuf, &bytes)
        {
            tracing::warn!(%error, bytes, "receive buffer of the netlink socket not enlarged");
        }
        self.socket.get_rx_buf_sz().unwrap_or(0)
    }

    /// Reads one datagram of the kernel's, without waiting for it when `flags` say so.
    pub(crate) fn receive(&mut self, flags: libc::c_int) -> io::Result<&[u8]> {
        loop {
            self.buffer.clear();
            let (length, sender) = self.socket.recv_from(&mut self.buffer, flags | libc::MSG_TRUNC)?;
            if sender.port_number() != 0 {
                continue;
            }
            if length > self.buffer.len() {
                // Lost as surely as when the receive buffer overflows, and cured by the same: read everything anew.
                return Err(io::Error::from_raw_os_error(libc::ENOBUFS));
            }
            return Ok(&self.buffer);
        }
    }

    fn send(&mut self, kind: u16, flags: u16, payload: &[u8]) -> Result<u32, KernelError> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = HEADER + payload.len();
        let mut message = Vec::with_capacity(length);
        message.extend_from_slice(&(length as u32).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        message.extend_from_slice(&self.sequence.to_ne_bytes());
        message.extend_from_slice(&0u32.to_ne_bytes());
        message.extend_from_slice(payload);
        self.socket
            .send_to(&message, &SocketAddr::new(0, 0), 0)
            .map_err(|source| KernelError::Socket { action: "send to", source })?;
        Ok(self.sequence)
    }

    /// Hands every answer to request `sequence` to `on_answer`, until it says that this was the last.
    fn answers(
        &mut self,
        request: &'static str,
        sequence: u32,
        mut on_answer: impl FnMut(&Frame<'_>) -> Result<Answer, KernelError>,
    ) -> Result<(), KernelError> {
        loop {
            let datagram = match self.receive(0) {
                Ok(datagram) => datagram,
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => continue,
                    io::ErrorKind::WouldBlock => return Err(KernelError::Timeout { request }),
                    _ => return Err(KernelError::Socket { action: "read", source: error }),
                },
            };
            for frame in Frames::new(datagram) {
                let frame = frame?;
                // Left over from a request that was given up.
                if frame.sequence != sequence || frame.kind == NLMSG_NOOP {
                    continue;
                }
                if let Answer::Done = on_answer(&frame)? {
                    return Ok(());
                }
            }
        }
    }

    /// One request; what it is answered with goes to `on_answer`, and the acknowledgement ends it.
    pub(crate) fn request(
        &mut self,
        request: &'static str,
        kind: u16,
        flags: u16,
        payload: &[u8],
        mut on_answer: impl FnMut(&Frame<'_>),
    ) -> Result<(), KernelError> {
        let sequence = self.send(kind, flags | NLM_F_ACK, payload)?;
        self.answers(request, sequence, |frame| {
            if matches!(frame.kind, NLMSG_ERROR | NLMSG_DONE) {
                verdict(frame, request)?;
                return Ok(Answer::Done);
            }
            on_answer(frame);
            Ok(Answer::More)
        })
    }

    /// A dump, begun anew as often as something changed under it. `begin` forgets what earlier tries gave.
    /// Returns how many tries were in vain.
    pub(crate) fn dump<T>(
        &mut self,
        request: &'static str,
        kind: u16,
        payload: &[u8],
        collected: &mut T,
        begin: impl Fn(&mut T),
        on_answer: impl Fn(&mut T, &Frame<'_>),
    ) -> Result<u32, KernelError> {
        for vain in 0..DUMP_TRIES {
            begin(collected);
            let mut whole = true;
            let sequence = self.send(kind, NLM_F_DUMP, payload)?;
            self.answers(request, sequence, |frame| {
                whole &= frame.flags & NLM_F_DUMP_INTR == 0;
                match frame.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        verdict(frame, request)?;
                        return Ok(Answer::Done);
                    }
                    _ => on_answer(collected, frame),
                }
                Ok(Answer::More)
            })?;
            if whole {
                return Ok(vain);
            }
        }
        Err(KernelError::DumpInterrupted { request, tries: DUMP_TRIES })
    }
}

/// The attributes of a message or of a nested attribute: kind without its flag bits, and value. Ends at the first that is
/// cut short.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & netlink_packet_core::NLA_TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A number of four bytes in host order.
pub(crate) fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// A string without the zero byte at its end.
pub(crate) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

/// Writes a message's payload: first a fixed header, then attributes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Payload(Vec<u8>);

impl Payload {
    pub(crate) fn new(header: &[u8]) -> Self {
        Self(header.to_vec())
    }

    /// Adds an attribute. Values are a few dozen bytes; 64 KiB is their limit.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = (4 + value.len()) as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a string with the zero byte behind it.
    pub(crate) fn put_text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.put(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Adds an attribute made of attributes.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Payload)) -> &mut Self {
        let mut inner = Payload::default();
        fill(&mut inner);
        self.put(kind | netlink_packet_core::NLA_F_NESTED, &inner.0)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}
