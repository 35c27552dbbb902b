//! A packet as a person writes it: `lan tcp 192.0.2.9:1234 > 198.51.100.1:443 syn`.
//!
//! `INTERFACE PROTOCOL SOURCE[:PORT] > DESTINATION[:PORT] [WORD…]`, where a word is a TCP flag (`syn`, `ack`, `fin`, `rst`, `psh`,
//! `urg`), an ICMP message (`echo-request`, `echo-reply`, or `type N` and `code N`), or `ttl N`, `dscp NAME`, `length N` (bytes of
//! the IP packet), `vlan N`, `df`, `fragment`. Addresses of IPv6 with a port stand in brackets.

use std::net::{IpAddr, SocketAddr};

use throughway_config::value::{Dscp, Misread, Protocol};
use throughway_packet::build::PacketBuilder;

/// The interface's name, and the frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// Where it comes in.
    pub interface: String,
    /// The frame, complete with checksums.
    pub frame: Vec<u8>,
}

const FLAGS: [(&str, u8); 6] = [("fin", 1), ("syn", 2), ("rst", 4), ("psh", 8), ("ack", 16), ("urg", 32)];

/// Headers and payload of any packet this can write fit.
const LONGEST: usize = 9000;

/// Reads a packet.
///
/// # Errors
/// What is wrong with which word, and what would be right.
pub fn read(text: &str) -> Result<Written, Misread> {
    let mut words = text.split_whitespace();
    let mut next = |what: &str| {
        words.next().ok_or_else(|| {
            Misread::new(format!("`{text}` ends where {what} is expected"))
                .help("write it as `INTERFACE PROTOCOL SOURCE[:PORT] > DESTINATION[:PORT] [WORD…]`")
        })
    };
    let interface = next("an interface")?.to_owned();
    let protocol: Protocol = next("a protocol")?.parse()?;
    let source = end(next("a source")?)?;
    let arrow = next("`>`")?;
    if arrow != ">" {
        return Err(Misread::new(format!("`{arrow}` stands where `>` is expected")));
    }
    let destination = end(next("a destination")?)?;
    if source.0.is_ipv4() != destination.0.is_ipv4() {
        return Err(Misread::new("source and destination are of different families"));
    }
    let mut options = Options::default();
    while let Some(word) = words.next() {
        options.read(word, &mut words)?;
    }
    let frame = options.build(protocol, source, destination)?;
    Ok(Written { interface, frame })
}

/// An address, with a port if there is one.
fn end(text: &str) -> Result<(IpAddr, Option<u16>), Misread> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address, None));
    }
    text.parse::<SocketAddr>().map(|end| (end.ip(), Some(end.port()))).map_err(|_| {
        Misread::new(format!("`{text}` is not an address"))
            .help("write 192.0.2.1, 192.0.2.1:443, 2001:db8::1 or [2001:db8::1]:443")
    })
}

#[derive(Default)]
struct Options {
    flags: u8,
    icmp: Option<(u8, u8)>,
    ttl: Option<u8>,
    dscp: u8,
    length: Option<usize>,
    vlan: Option<u16>,
    dont_fragment: bool,
    fragment: bool,
}

impl Options {
    fn read<'a>(&mut self, word: &str, rest: &mut impl Iterator<Item = &'a str>) -> Result<(), Misread> {
        if let Some((_, bit)) = FLAGS.iter().find(|(name, _)| *name == word) {
            self.flags |= bit;
            return Ok(());
        }
        let mut number = |most: u32| -> Result<u32, Misread> {
            let value = rest.next().unwrap_or("nothing");
            value.parse::<u32>().ok().filter(|value| *value <= most).ok_or_else(|| {
                Misread::new(format!("`{word}` is followed by `{value}`"))
                    .help(format!("expected 0 to {most}"))
            })
        };
        match word {
            "echo-request" => self.icmp = Some((8, 0)),
            "echo-reply" => self.icmp = Some((0, 0)),
            "type" => self.icmp = Some((number(255)? as u8, self.icmp.map_or(0, |(_, code)| code))),
            "code" => self.icmp = Some((self.icmp.map_or(0, |(kind, _)| kind), number(255)? as u8)),
            "ttl" => self.ttl = Some(number(255)? as u8),
            "length" => self.length = Some(number(LONGEST as u32)? as usize),
            "vlan" => self.vlan = Some(number(4094)? as u16),
            "dscp" => self.dscp = rest.next().unwrap_or("nothing").parse::<Dscp>()?.get(),
            "df" => self.dont_fragment = true,
            "fragment" => self.fragment = true,
            _ => {
                return Err(Misread::new(format!("`{word}` is not known here")).help(
                    "expected a TCP flag such as syn, echo-request, type N, code N, ttl N, dscp NAME, length N, vlan N, df or fragment",
                ));
            }
        }
        Ok(())
    }

    fn build(
        self,
        protocol: Protocol,
        (source, sport): (IpAddr, Option<u16>),
        (destination, dport): (IpAddr, Option<u16>),
    ) -> Result<Vec<u8>, Misread> {
        let mut packet = PacketBuilder::between(source, destination).traffic_class(self.dscp << 2);
        if let Some(ttl) = self.ttl {
            packet = packet.hop_limit(ttl);
        }
        if let Some(vlan) = self.vlan {
            packet = packet.vlan(vlan);
        }
        if self.dont_fragment {
            packet = packet.dont_fragment();
        }
        let (sport, dport) = (sport.unwrap_or(0), dport.unwrap_or(0));
        // The identifier of a query.
        let [high, low] = sport.to_be_bytes();
        packet = match protocol {
            Protocol::TCP => packet.tcp(sport, dport, self.flags),
            Protocol::UDP => packet.udp(sport, dport),
            Protocol::SCTP => packet.sctp(sport, dport),
            Protocol::ICMP | Protocol::ICMPV6 => {
                let v6 = protocol == Protocol::ICMPV6;
                if v6 == source.is_ipv4() {
                    return Err(Misread::new("the ICMP is not of the addresses' family"));
                }
                let (kind, code) = self.icmp.unwrap_or((8, 0));
                let kind = match (v6, kind) {
                    (true, 8) => 128,
                    (true, 0) => 129,
                    (_, kind) => kind,
                };
                packet.icmp(kind, code, [high, low, 0, 1])
            }
            other => packet.protocol(other.get()),
        };
        let bare = packet.finish().len();
        let ethernet = if self.vlan.is_some() { 18 } else { 14 };
        if let Some(length) = self.length {
            packet = packet.payload(&vec![0; (length + ethernet).saturating_sub(bare)]);
        }
        if self.fragment {
            packet = packet.fragment(0, true).payload(&[0; 64]);
        }
        Ok(packet.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use throughway_packet::{Flags, PortId, parse};

    #[test]
    fn packets_are_what_they_say() {
        let headers = |text: &str| {
            let written = read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            parse(&written.frame, PortId(0)).unwrap_or_else(|error| panic!("{text}: {error}"))
        };
        let tcp = headers("lan tcp 192.0.2.9:1234 > 198.51.100.1:443 syn ack ttl 3 dscp ef length 1000");
        assert_eq!((tcp.source_port(), tcp.destination_port(), tcp.tcp_flags), (1234, 443, 18));
        assert_eq!((tcp.hop_limit, tcp.dscp(), tcp.packet_len()), (3, 46, 1000));
        let udp = headers("lan udp [2001:db8::1]:53 > [2001:db8::2]:53 vlan 7");
        assert_eq!((udp.key.protocol, udp.key.outer_vlan, udp.source_port()), (17, 7, 53));
        let echo = headers("wan icmpv6 2001:db8::1 > 2001:db8::2 echo-request");
        assert_eq!((echo.icmp_type, echo.flags.has(Flags::ICMP_QUERY)), (128, true));
        assert_eq!(headers("wan icmp 192.0.2.1 > 192.0.2.2 type 3 code 4").icmp_code, 4);
        assert_eq!(headers("wan gre 192.0.2.1 > 192.0.2.2").key.protocol, 47);
        assert!(headers("wan udp 192.0.2.1:1 > 192.0.2.2:2 fragment").flags.has(Flags::FRAGMENT));
        assert_eq!(read("lan tcp 10.0.0.1 > 10.0.0.2").unwrap().interface, "lan");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("", "an interface"),
            ("lan tpc 10.0.0.1 > 10.0.0.2", "did you mean `tcp`"),
            ("lan tcp 10.0.0 > 10.0.0.2", "`10.0.0` is not an address"),
            ("lan tcp 10.0.0.1 10.0.0.2", "`>` is expected"),
            ("lan tcp 10.0.0.1 > fd00::1", "different families"),
            ("lan icmpv6 10.0.0.1 > 10.0.0.2", "family"),
            ("lan tcp 10.0.0.1 > 10.0.0.2 sin", "`sin` is not known"),
            ("lan tcp 10.0.0.1 > 10.0.0.2 ttl 300", "0 to 255"),
            ("lan tcp 10.0.0.1 > 10.0.0.2 ttl", "`nothing`"),
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
