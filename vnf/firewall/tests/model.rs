//! Random conversations against a model that anybody can check by reading: a list of connections and a clock.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod wall;

use std::time::Duration;

use proptest::prelude::*;
use throughway_firewall::Options;
use throughway_vnf::Verdict;
use wall::*;

/// Inside hosts may open, outside hosts may answer.
const HOSTS: [&str; 3] = ["10.0.0.1", "10.0.0.2", "198.51.100.7"];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tcp {
    SynSent,
    SynReceived,
    Established,
    Reset,
}

#[derive(Clone, Debug)]
struct Connection {
    hosts: [usize; 2],
    ports: [u16; 2],
    /// `None`: UDP.
    tcp: Option<Tcp>,
    answered: bool,
    /// Seconds.
    seen: u64,
}

impl Connection {
    fn timeout(&self) -> u64 {
        match self.tcp {
            None if self.answered => 300,
            None | Some(Tcp::SynSent | Tcp::SynReceived) => 30,
            Some(Tcp::Established) => 7440,
            Some(Tcp::Reset) => 10,
        }
    }
}

#[derive(Default)]
struct Model {
    connections: Vec<Connection>,
    now: u64,
}

impl Model {
    /// Whether a packet passes. `flags`: `None` for UDP.
    fn packet(&mut self, hosts: [usize; 2], ports: [u16; 2], flags: Option<u8>) -> Verdict {
        let now = self.now;
        self.connections.retain(|known| now < known.seen + known.timeout());
        let same = |known: &Connection, hosts: [usize; 2], ports: [u16; 2]| {
            known.hosts == hosts && known.ports == ports && known.tcp.is_some() == flags.is_some()
        };
        let turned = |[a, b]: [usize; 2]| [b, a];
        let reversed = [ports[1], ports[0]];
        let forward = self.connections.iter().position(|known| same(known, hosts, ports));
        let found = forward
            .or_else(|| self.connections.iter().position(|known| same(known, turned(hosts), reversed)));
        let may_open = hosts[0] < 2 && (hosts, ports) != (turned(hosts), reversed);
        if let Some(at) = found {
            let by_opener = forward.is_some();
            let known = &mut self.connections[at];
            let next = match (known.tcp, flags) {
                (Some(Tcp::Reset), Some(SYN)) => {
                    self.connections.remove(at);
                    return self.packet(hosts, ports, flags);
                }
                (None, _) => None,
                (Some(_), Some(RST)) => Some(Tcp::Reset),
                (Some(Tcp::SynSent), Some(SYN)) if by_opener => Some(Tcp::SynSent),
                (Some(Tcp::SynSent), Some(SYN)) => Some(Tcp::SynReceived),
                (Some(Tcp::SynSent), Some(flags)) if flags == SYN | ACK && !by_opener => {
                    Some(Tcp::SynReceived)
                }
                (Some(Tcp::SynSent), _) => return INVALID,
                (Some(Tcp::SynReceived), Some(ACK)) if by_opener => Some(Tcp::Established),
                (state, _) => state,
            };
            known.tcp = next;
            known.answered |= !by_opener;
            known.seen = now;
            return PASS;
        }
        if flags.is_some_and(|flags| flags != SYN) || (hosts, ports) == (turned(hosts), reversed) {
            return INVALID;
        }
        if !may_open {
            return DEFAULT;
        }
        let tcp = flags.map(|_| Tcp::SynSent);
        self.connections.push(Connection { hosts, ports, tcp, answered: false, seen: now });
        PASS
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_firewall_decides_as_the_model(
        packets in prop::collection::vec(
            (0usize..3, 0usize..3, 1u16..3, 1u16..3, 0usize..6, prop_oneof![12 => Just(0u64), 3 => 1u64..60, 1 => 1u64..1100]),
            1..80,
        ),
    ) {
        let mut wall = Wall::new(Options { half_open: 1000, ..options() }, inside_out());
        let mut model = Model::default();
        for (number, (source, destination, from_port, to_port, kind, wait)) in packets.into_iter().enumerate() {
            // No timeout is a multiple of seven seconds, so none is closer than the clock's resolution.
            let wait = 7 * wait;
            model.now += wait;
            wall.wait(Duration::from_secs(wait));
            let flags = [Some(SYN), Some(SYN | ACK), Some(ACK), Some(RST), None, None][kind];
            let packet = between(HOSTS[source], HOSTS[destination]);
            let packet = match flags {
                Some(flags) => packet.tcp(from_port, to_port, flags),
                None => packet.udp(from_port, to_port),
            };
            let expected = model.packet([source, destination], [from_port, to_port], flags);
            let sent = wall.send(&packet);
            prop_assert_eq!(sent, expected, "packet {}", number);
            prop_assert_eq!(wall.sessions().len(), model.connections.len(), "packet {}", number);
        }
    }
}
