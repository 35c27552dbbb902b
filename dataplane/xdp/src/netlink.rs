//! The XDP part of RTM_GETLINK and RTM_SETLINK (linux/if_link.h, `IFLA_XDP`).

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use netlink_packet_core::{
    ErrorMessage, NLA_HEADER_SIZE, NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

const XDP_FLAGS_UPDATE_IF_NOEXIST: u32 = 1 << 0;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const XDP_FLAGS_HW_MODE: u32 = 1 << 3;
const XDP_FLAGS_REPLACE: u32 = 1 << 4;

/// Attribute of an extended acknowledgement: the kernel's words (linux/netlink.h, `NLMSGERR_ATTR_MSG`).
const NLMSGERR_ATTR_MSG: u16 = 1;
/// Length of the request's header, which precedes the attributes of an extended acknowledgement.
const MESSAGE_HEADER: usize = 16;

/// Where in the receive path a program runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Layer {
    Native,
    Generic,
    Hardware,
}

impl Layer {
    fn flag(self) -> u32 {
        match self {
            Layer::Native => XDP_FLAGS_DRV_MODE,
            Layer::Generic => XDP_FLAGS_SKB_MODE,
            Layer::Hardware => XDP_FLAGS_HW_MODE,
        }
    }
}

/// A program that is attached to an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Attached {
    pub(crate) layer: Layer,
    pub(crate) id: u32,
}

/// What the kernel answered instead of doing what it was asked.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) error: io::Error,
    /// The kernel's own words, where it gives any.
    pub(crate) message: Option<String>,
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Refused { error, message: None }
    }
}

/// What to do with the program of an interface. Only what is expected is replaced, where its descriptor can be had; where
/// it cannot, the caller has made sure by its id.
#[derive(Clone, Copy)]
pub(crate) enum Change<'a> {
    /// Attach where nothing is.
    Attach(BorrowedFd<'a>),
    /// Put `new` where `old` is, in one step.
    Replace { old: Option<BorrowedFd<'a>>, new: BorrowedFd<'a> },
    /// Detach it, if it is this one.
    Detach(Option<BorrowedFd<'a>>),
}

fn expected(old: Option<BorrowedFd<'_>>) -> u32 {
    if old.is_some() { XDP_FLAGS_REPLACE } else { 0 }
}

/// One interface, in the network namespace of the thread that opened it.
pub(crate) struct Link {
    socket: Socket,
    ifindex: u32,
}

impl Link {
    pub(crate) fn open(ifindex: u32) -> io::Result<Link> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // The kernel's words in answers, without the request.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        Ok(Link { socket, ifindex })
    }

    /// The programs on the interface.
    pub(crate) fn attached(&self) -> Result<Vec<Attached>, Refused> {
        self.send(RouteNetlinkMessage::GetLink(self.message()), 0)?;
        let link = loop {
            match self.receive()? {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => break link,
                NetlinkPayload::Error(error) => return Err(refused(&error)),
                _ => {}
            }
        };
        let mut attached = Vec::new();
        let xdp = link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Xdp(xdp) => Some(xdp),
            _ => None,
        });
        let xdp = xdp.unwrap_or_default();
        for attribute in &xdp {
            let (layer, id) = match *attribute {
                LinkXdp::DrvProgId(id) => (Layer::Native, id),
                LinkXdp::SkbProgId(id) => (Layer::Generic, id),
                LinkXdp::HwProgId(id) => (Layer::Hardware, id),
                _ => continue,
            };
            if id != 0 {
                attached.push(Attached { layer, id });
            }
        }
        // Kernels before 4.19 do not name the mode beside each id.
        if attached.is_empty() {
            let layer = xdp.iter().find_map(|attribute| match attribute {
                LinkXdp::Attached(XdpAttached::Driver) => Some(Layer::Native),
                LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(Layer::Generic),
                LinkXdp::Attached(XdpAttached::Hardware) => Some(Layer::Hardware),
                _ => None,
            });
            let id = xdp.iter().find_map(|attribute| match attribute {
                LinkXdp::ProgId(id) if *id != 0 => Some(*id),
                _ => None,
            });
            attached.extend(layer.zip(id).map(|(layer, id)| Attached { layer, id }));
        }
        Ok(attached)
    }

    /// Makes `change` in `layer`.
    pub(crate) fn change(&self, layer: Layer, change: Change<'_>) -> Result<(), Refused> {
        let (fd, flags, expected) = match change {
            Change::Attach(new) => (new.as_raw_fd(), XDP_FLAGS_UPDATE_IF_NOEXIST, None),
            Change::Replace { old, new } => (new.as_raw_fd(), expected(old), old),
            Change::Detach(old) => (-1, expected(old), old),
        };
        let mut xdp = vec![LinkXdp::Fd(fd), LinkXdp::Flags(flags | layer.flag())];
        xdp.extend(expected.map(|expected| LinkXdp::ExpectedFd(expected.as_raw_fd().unsigned_abs())));
        let mut message = self.message();
        message.attributes.push(LinkAttribute::Xdp(xdp));
        self.send(RouteNetlinkMessage::SetLink(message), NLM_F_ACK)?;
        loop {
            match self.receive()? {
                NetlinkPayload::Error(ack) if ack.code.is_none() => return Ok(()),
                NetlinkPayload::Error(error) => return Err(refused(&error)),
                _ => {}
            }
        }
    }

    fn message(&self) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = self.ifindex;
        message
    }

    fn send(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        self.socket.send(&buffer, 0).map(|_| ())
    }

    /// The next answer. Each of the two requests is answered by one message.
    fn receive(&self) -> io::Result<NetlinkPayload<RouteNetlinkMessage>> {
        let (bytes, _) = self.socket.recv_from_full()?;
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes);
        message
            .map(|message| message.payload)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("netlink answer: {error}")))
    }
}

fn refused(answer: &ErrorMessage) -> Refused {
    let errno = answer.code.map_or(0, |code| code.get().saturating_abs());
    Refused { error: io::Error::from_raw_os_error(errno), message: extended_message(&answer.header) }
}

/// The kernel's words in an extended acknowledgement: attributes after the header of the request.
fn extended_message(header: &[u8]) -> Option<String> {
    let mut rest = header.get(MESSAGE_HEADER..)?;
    while let [l0, l1, t0, t1, ..] = *rest {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = rest.get(NLA_HEADER_SIZE..length)?;
        if u16::from_ne_bytes([t0, t1]) == NLMSGERR_ATTR_MSG {
            let text = value.split(|&byte| byte == 0).next()?;
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_found_after_other_attributes() {
        let mut answer = vec![0; MESSAGE_HEADER];
        answer.extend(8_u16.to_ne_bytes());
        answer.extend(2_u16.to_ne_bytes());
        answer.extend([0; 4]);
        answer.extend(9_u16.to_ne_bytes());
        answer.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
        answer.extend(b"nope\0");
        assert_eq!(extended_message(&answer).as_deref(), Some("nope"));
    }

    #[test]
    fn a_broken_answer_has_no_words() {
        assert_eq!(extended_message(&[]), None);
        let mut answer = vec![0; MESSAGE_HEADER];
        answer.extend([0, 0, 1, 0, 1, 2, 3, 4]);
        assert_eq!(extended_message(&answer), None, "a length of zero ends the search");
        let mut answer = vec![0; MESSAGE_HEADER];
        answer.extend([200, 0, 1, 0, b'x']);
        assert_eq!(extended_message(&answer), None, "a length beyond the end");
    }
}
