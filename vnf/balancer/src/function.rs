//! The function: one packet's way to its backend, or back to its client.

use std::hash::Hasher;
use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use siphasher::sip::SipHasher13;
use throughway_packet::headers::octets;
use throughway_packet::{Edit, Encapsulation, Flags, Headers};
use throughway_session::fragment::Piece;
use throughway_session::tcp::Event;
use throughway_session::{InsertError, NewSession, Probe, SessionId, SessionKey, Side, translate};
use throughway_vnf::credit::session_silence;
use throughway_vnf::{
    Answer, BATCH, Batch, Context, DropReason, Function, IcmpError, Now, Packet, Seen, Slot, Verdict,
};

use crate::seat::Seat;
use crate::service::{Affinity, Forward, Service, Services};
use crate::shared::{Remembered, Shared};
use crate::track::Track;

const TCP: u8 = 6;

/// How many backends, or ports of ours, are tried for a connection whose answers could not be told from another's.
const ATTEMPTS: u64 = 16;

/// The first port that sources are moved to: below it are those that need privileges.
const FIRST_PORT: u16 = 1024;

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// It gets these addresses and ports.
    Translated(SessionKey),
    /// It stays as it is and goes to this neighbour or host.
    Direct(IpAddr),
    /// It goes through a tunnel.
    Tunnel {
        /// Our end.
        from: IpAddr,
        /// The backend.
        to: IpAddr,
    },
}

/// What a packet is to a connection that is remembered.
enum Step {
    /// It belongs to it.
    Passes { id: SessionId, side: Side, track: Track, forward: Forward, to: IpAddr, from: Option<IpAddr> },
    /// It does not.
    Invalid,
    /// It opens a new one in its place, or what there is goes to a backend that is down and can go elsewhere.
    Anew(SessionId),
}

/// The load balancer, as one worker holds it.
#[derive(Debug)]
pub struct Balancer {
    shared: Arc<Shared>,
}

impl Balancer {
    /// A load balancer over what all workers share.
    pub fn new(shared: Arc<Shared>) -> Balancer {
        Balancer { shared }
    }

    /// What it shares with the others.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The connection's key of a packet that may belong to one.
    fn probe(&self, packet: &Packet<'_>) -> Option<Probe> {
        let headers = packet.headers();
        let alone = headers.flags.any(Flags(Flags::ICMP_ERROR.0 | Flags::LATER_FRAGMENT.0));
        (!alone).then(|| self.shared.connections.probe(SessionKey::of(&headers.key, 0)))
    }

    fn judge_by(
        &self,
        services: &Services,
        packet: &mut Packet<'_>,
        probe: Option<&Probe>,
        now: Now,
    ) -> Verdict {
        let headers = *packet.headers();
        let Some(probe) = probe else {
            packet.judge_each();
            return if headers.flags.has(Flags::ICMP_ERROR) {
                self.error(services, packet, now)
            } else {
                self.later_fragment(services, packet, &headers, now)
            };
        };
        let judged = match self.known(packet, &headers, probe, now) {
            Some(judged) => judged.map(Some),
            None => self.unknown(services, packet, &headers, probe, now),
        };
        match judged {
            Ok(Some(way)) => {
                if let Some(datagram) = datagram_of(packet) {
                    self.shared.fragments.remember(datagram, way, now);
                }
                send(packet, way)
            }
            Ok(None) => Verdict::Continue,
            Err(verdict) => verdict,
        }
    }

    /// A packet of a connection that is remembered.
    fn known(
        &self,
        packet: &mut Packet<'_>,
        headers: &Headers,
        probe: &Probe,
        now: Now,
    ) -> Option<Result<Way, Verdict>> {
        let shared = &self.shared;
        let timeouts = &shared.options.timeouts;
        let (_, step) = shared.connections.update(probe, now, |side, remembered, meta| {
            let id = meta.id();
            let Remembered { track, forward, seat } = remembered;
            if side == Side::Forward && track.is_movable() && seat.is_avoided() {
                return Step::Anew(id);
            }
            match track.packet(side, headers) {
                Event::Fits => {}
                Event::Reopens => return Step::Anew(id),
                Event::Invalid => return Step::Invalid,
            }
            meta.touch(now, track.timeout(headers, timeouts));
            // Only half-open connections have a quota.
            let _ = meta.set_class(track.class());
            seat.figures.packets(1, headers.packet_len().into());
            Step::Passes { id, side, track: *track, forward: *forward, to: seat.address, from: seat.via() }
        })?;
        let Step::Passes { id, side, track, forward, to, from } = step else {
            return match step {
                // Chosen anew, as the backend may be gone.
                Step::Anew(id) => {
                    shared.end(id);
                    None
                }
                _ => Some(Err(Verdict::Drop(DropReason::BalancerInvalidState))),
            };
        };
        let [opened, answered] = shared.connections.keys(id)?;
        let way = match (side, forward) {
            (Side::Reverse, _) => Ok(Way::Translated(opened.reversed())),
            (_, Forward::Dsr) => Ok(Way::Direct(to)),
            (_, Forward::Ipip) => tunnel(from, to),
            (_, Forward::Nat | Forward::FullNat) => Ok(Way::Translated(answered.reversed())),
        };
        packet.depends_on(Slot::session(id.to_bits()));
        packet.credit(id.to_credit());
        let timeout = track.timeout(headers, timeouts);
        match session_silence(timeout.as_nanos() as u64).filter(|_| track.is_settled()) {
            Some(silence) => packet.limit_silence(silence),
            None => packet.judge_each(),
        }
        Some(way)
    }

    /// A packet of no remembered connection: the hash chooses. `None`: it is not for a service.
    fn unknown(
        &self,
        services: &Services,
        packet: &mut Packet<'_>,
        headers: &Headers,
        probe: &Probe,
        now: Now,
    ) -> Result<Option<Way>, Verdict> {
        let key = probe.key();
        let Some(service) = service_at(services, key, headers) else {
            return Ok(self.answer(services, packet, headers, key, now));
        };
        packet.judge_each();
        let hash = hash(service, key);
        let forward = service.config.forward;
        let track = Track::open(headers, forward.is_one_sided());
        for attempt in 0..ATTEMPTS {
            // Where sources are ours another port of ours will do, else another backend.
            let turn = if forward == Forward::FullNat { 0 } else { attempt };
            let Some(backend) = service.choose(hash.rotate_left(turn as u32 * 4)) else {
                return Err(reject(headers));
            };
            let seat = &backend.seat;
            let translated = toward(service, seat, key, headers, hash, attempt)?;
            let way = match forward {
                Forward::Dsr => Way::Direct(seat.address),
                Forward::Ipip => tunnel(seat.via(), seat.address)?,
                Forward::Nat | Forward::FullNat => Way::Translated(translated),
            };
            let opened = track.map(|track| {
                let timeout = track.timeout(headers, &self.shared.options.timeouts);
                let reverse = self.shared.connections.probe(translated.reversed());
                let state = Remembered { track, forward, seat: Arc::clone(seat) };
                let new = NewSession { forward: *probe, reverse, class: track.class(), timeout, state };
                self.shared.open(new, now)
            });
            match opened {
                Some(Ok(_)) => {}
                Some(Err(InsertError::Conflict { side: Side::Reverse, .. })) => continue,
                // Another worker was faster: the packet belongs to its connection.
                Some(Err(InsertError::Conflict { .. })) => match self.known(packet, headers, probe, now) {
                    Some(judged) => return judged.map(Some),
                    None => continue,
                },
                Some(Err(InsertError::SameKey)) => break,
                // Its answers could not be told from others.
                Some(Err(InsertError::Full | InsertError::Quota(_))) if forward == Forward::FullNat => {
                    return Err(Verdict::Drop(DropReason::BalancerTableFull));
                }
                None if forward == Forward::FullNat => {
                    return Err(Verdict::Drop(DropReason::BalancerInvalidState));
                }
                Some(Err(InsertError::Full | InsertError::Quota(_))) | None => {
                    self.shared.decided_by_hash(now);
                }
            }
            seat.figures.packets(1, headers.packet_len().into());
            return Ok(Some(way));
        }
        Err(Verdict::Drop(DropReason::BalancerConflict))
    }

    /// An answer of a connection that is not remembered: its source becomes the service's, if the hash says that it can be one.
    fn answer(
        &self,
        services: &Services,
        packet: &mut Packet<'_>,
        headers: &Headers,
        key: &SessionKey,
        now: Now,
    ) -> Option<Way> {
        let ports = headers.flags.has(Flags::PORTS) && self.shared.expects_answers(now);
        let service =
            services.answering(&key.source, key.protocol, headers.source_port()).filter(|_| ports)?;
        let (port, &[address]) = (service.config.one_port()?, service.config.addresses.as_slice()) else {
            return None;
        };
        let as_sent = SessionKey { source: octets(address), source_port: port.to_be_bytes(), ..*key };
        let chosen = service.choose(hash(service, &as_sent.reversed()))?;
        packet.judge_each();
        let ours = octets(chosen.seat.address) == key.source;
        if ours {
            chosen.seat.figures.packets(1, headers.packet_len().into());
        }
        ours.then_some(Way::Translated(as_sent))
    }

    /// An ICMP error about a packet of a connection goes to who sent that: the client, or the backend.
    fn error(&self, services: &Services, packet: &mut Packet<'_>, now: Now) -> Verdict {
        let Some(embedded) = packet.embedded() else { return Verdict::Continue };
        let about = SessionKey::of(&embedded.key, 0);
        let outer = *packet.headers();
        // Its sender is who gets the error; else it is none of ours.
        if outer.key.destination != about.source {
            return Verdict::Continue;
        }
        let shared = &self.shared;
        let found = shared.connections.lookup(&about.reversed(), now).and_then(|found| {
            let keys = shared.connections.keys(found.id)?;
            let to = shared.connections.read(found.id, |remembered, _| {
                (remembered.forward, remembered.seat.address, remembered.seat.via())
            })?;
            Some((found.side, keys, to))
        });
        match found {
            // About a request as the backend sees it.
            Some((Side::Reverse, [opened, _], _)) => {
                edit_embedded(packet, &opened);
                packet.edit(Edit::Destination(address(&opened.source)));
                // The client knows nothing of what is behind the service.
                packet.edit(Edit::Source(address(&opened.destination)));
                Verdict::Continue
            }
            // About an answer as the client sees it.
            Some((Side::Forward, [_, answered], (forward, to, from))) => match forward {
                Forward::Nat | Forward::FullNat => to_backend(packet, &answered),
                Forward::Dsr => send(packet, Way::Direct(to)),
                Forward::Ipip => tunnel(from, to).map_or_else(|verdict| verdict, |way| send(packet, way)),
            },
            None => {
                let request = about.reversed();
                let Some(service) = service_at(services, &request, &embedded) else {
                    return Verdict::Continue;
                };
                let Some(backend) = service.choose(hash(service, &request)) else {
                    return Verdict::Drop(DropReason::NoBackend);
                };
                shared.decided_by_hash(now);
                let seat = &backend.seat;
                match service.config.forward {
                    Forward::Dsr => send(packet, Way::Direct(seat.address)),
                    Forward::Ipip => tunnel(seat.via(), seat.address)
                        .map_or_else(|verdict| verdict, |way| send(packet, way)),
                    Forward::Nat => {
                        let port = seat.port.filter(|_| embedded.flags.has(Flags::PORTS));
                        let source_port = port.map_or(about.source_port, u16::to_be_bytes);
                        let sent = SessionKey { source: octets(seat.address), source_port, ..about };
                        to_backend(packet, &sent)
                    }
                    Forward::FullNat => Verdict::Drop(DropReason::BalancerInvalidState),
                }
            }
        }
    }

    /// A fragment without ports goes the way of its first one.
    fn later_fragment(
        &self,
        services: &Services,
        packet: &mut Packet<'_>,
        headers: &Headers,
        now: Now,
    ) -> Verdict {
        match datagram_of(packet).and_then(|datagram| self.shared.fragments.find(&datagram, now)) {
            Some(Way::Translated(to)) => {
                packet.edit(Edit::Source(address(&to.source)));
                packet.edit(Edit::Destination(address(&to.destination)));
                Verdict::Continue
            }
            Some(way) => send(packet, way),
            // Not for a service, as far as can be told: a backend's own.
            None if !services.has(&headers.key.destination) => Verdict::Continue,
            None => Verdict::Drop(DropReason::FragmentBeforeFirst),
        }
    }
}

impl Function for Balancer {
    const KIND: &'static str = "load-balancer";

    fn judge(&mut self, packet: &mut Packet<'_>, context: &Context) -> Verdict {
        let services = self.shared.snapshot().read();
        let probe = self.probe(packet);
        self.judge_by(&services, packet, probe.as_ref(), context.now)
    }

    /// As one by one; but the services are read once, and what the connection table will be asked is fetched together.
    fn process(&mut self, batch: &mut Batch<'_>, context: &Context) {
        let services = self.shared.snapshot().read();
        let probes: ArrayVec<Option<Probe>, BATCH> =
            batch.living().map(|packet| self.probe(packet)).collect();
        let asked: ArrayVec<Probe, BATCH> = probes.iter().filter_map(|probe| *probe).collect();
        self.shared.connections.prepare(&asked);
        for (packet, probe) in batch.living().zip(&probes) {
            let verdict = self.judge_by(&services, packet, probe.as_ref(), context.now);
            packet.settle(verdict);
        }
    }

    fn foresee(&self, credit: u64) {
        self.shared.connections.fetch_credit(credit);
    }

    fn settle(&mut self, credit: u64, seen: &Seen) {
        let connections = &self.shared.connections;
        if connections.keep_alive_credit(credit, seen.last)
            && let Some(id) = connections.credited(credit)
        {
            connections.read(id, |remembered, _| {
                remembered.seat.figures.packets(seen.packets, seen.bytes);
            });
        }
    }

    fn explain(&self, packet: &Packet<'_>, context: &Context) -> Vec<String> {
        let headers = packet.headers();
        let key = SessionKey::of(&headers.key, 0);
        let shared = &self.shared;
        if let Some(found) = shared.connections.lookup(&key, context.now)
            && let Some(backend) = shared
                .connections
                .read(found.id, |remembered, info| format!("{} ({:?})", remembered.seat.address, info.class))
        {
            let whose = if found.side == Side::Forward { "of the client" } else { "of the backend" };
            return vec![format!(
                "a packet {whose} of a connection that is remembered, with backend {backend}"
            )];
        }
        let services = shared.snapshot().read();
        let Some(service) = service_at(&services, &key, headers) else {
            return vec!["for no service".to_owned()];
        };
        let config = &service.config;
        let mut lines = vec![format!("for service {}, no connection is remembered", config.name)];
        lines.push(match service.choose(hash(service, &key)) {
            Some(backend) => format!("the hash chooses backend {}", backend.seat.address),
            None => "no backend gets new connections".to_owned(),
        });
        lines
    }

    fn tick(&mut self, context: &Context) {
        self.shared.tick(context.now);
    }
}

fn address(octets: &[u8; 16]) -> IpAddr {
    IpAddr::from(*octets).to_canonical()
}

/// The service that a packet with this key is for. An ICMP query's identifier is no port.
fn service_at<'a>(services: &'a Services, key: &SessionKey, headers: &Headers) -> Option<&'a Service> {
    let port = if headers.flags.has(Flags::PORTS) { u16::from_be_bytes(key.destination_port) } else { 0 };
    services.at(&key.destination, key.protocol, port)
}

/// The hash by which a service chooses: alike on boxes with the same configuration.
fn hash(service: &Service, key: &SessionKey) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(service.config.seed, 0);
    hasher.write(&key.source);
    if service.config.affinity == Affinity::Connection {
        hasher.write(&key.source_port);
        hasher.write(&key.destination);
        hasher.write(&key.destination_port);
        hasher.write_u8(key.protocol);
    }
    hasher.finish()
}

/// The key of a packet as it goes to its backend.
fn toward(
    service: &Service,
    seat: &Seat,
    key: &SessionKey,
    headers: &Headers,
    hash: u64,
    attempt: u64,
) -> Result<SessionKey, Verdict> {
    let forward = service.config.forward;
    if forward.is_one_sided() {
        return Ok(*key);
    }
    let mut to = *key;
    to.destination = octets(seat.address);
    let ports = headers.flags.has(Flags::PORTS);
    if let Some(port) = seat.port.filter(|_| ports) {
        to.destination_port = port.to_be_bytes();
    }
    if forward == Forward::FullNat {
        let source = source(service, seat, hash.wrapping_add(attempt));
        to.source = octets(source.ok_or(Verdict::Drop(DropReason::BalancerNoSource))?);
        let own = u16::from_be_bytes(key.source_port);
        let query = headers.flags.has(Flags::ICMP_QUERY);
        if (ports || query) && (attempt > 0 || own < FIRST_PORT) {
            // Spread over all there are, so that few are tried in vain.
            let ports = u64::from(u16::MAX - FIRST_PORT) + 1;
            let port = hash.rotate_left(32).wrapping_add(attempt.wrapping_mul(0x9e37_79b9_7f4a_7c15)) % ports;
            to.source_port = (FIRST_PORT + port as u16).to_be_bytes();
            if query {
                to.destination_port = to.source_port;
            }
        }
    }
    Ok(to)
}

/// The address of ours that a backend shall answer to.
fn source(service: &Service, seat: &Seat, number: u64) -> Option<IpAddr> {
    if service.config.sources.is_empty() {
        return seat.via();
    }
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let fitting = || {
        let ranges = service.config.sources.iter();
        ranges.filter(|(first, _)| first.is_ipv4() == seat.address.is_ipv4())
    };
    let count = |(first, last): &(IpAddr, IpAddr)| bits(*last).saturating_sub(bits(*first)).saturating_add(1);
    let all = fitting().map(count).fold(0u128, u128::saturating_add);
    let mut number = u128::from(number).checked_rem(all)?;
    for range in fitting() {
        if number < count(range) {
            let bits = bits(range.0) + number;
            return Some(match range.0 {
                IpAddr::V4(_) => IpAddr::V4((bits as u32).into()),
                IpAddr::V6(_) => IpAddr::V6(bits.into()),
            });
        }
        number -= count(range);
    }
    None
}

fn tunnel(from: Option<IpAddr>, to: IpAddr) -> Result<Way, Verdict> {
    let from = from.ok_or(Verdict::Drop(DropReason::BalancerNoSource))?;
    Ok(Way::Tunnel { from, to })
}

/// What a client is told whose service has no backend.
fn reject(headers: &Headers) -> Verdict {
    let tcp = headers.key.protocol == TCP;
    let answer = if tcp { Answer::TcpReset } else { Answer::Icmp(IcmpError::PortUnreachable) };
    Verdict::Reject(DropReason::NoBackend, answer)
}

/// The datagram that a fragment is of, whichever interface it came in by: routers on the way may know several.
fn datagram_of(packet: &Packet<'_>) -> Option<SessionKey> {
    let piece = Piece::of(packet.bytes(), packet.received())?;
    Some(SessionKey { zone: 0, ..piece.datagram })
}

/// Sends a packet its way.
fn send(packet: &mut Packet<'_>, way: Way) -> Verdict {
    match way {
        Way::Translated(to) => translate(packet, &to),
        Way::Direct(to) => packet.direct_to(to),
        Way::Tunnel { from, to } => {
            // Who puts a packet into a tunnel forwards it (RFC 2003, section 3.1).
            if packet.headers().hop_limit <= 1 {
                let told = Answer::Icmp(IcmpError::HopLimitExceeded);
                return Verdict::Reject(DropReason::HopLimitExceeded, told);
            }
            packet.edit(Edit::DecrementHops);
            if !packet.encapsulate(&Encapsulation::ip(from, to)) {
                return Verdict::Drop(DropReason::TunnelTooDeep);
            }
        }
    }
    Verdict::Continue
}

/// An ICMP error about an answer: `sent` is that answer's key as the backend sent it.
fn to_backend(packet: &mut Packet<'_>, sent: &SessionKey) -> Verdict {
    edit_embedded(packet, sent);
    packet.edit(Edit::Destination(address(&sent.source)));
    Verdict::Continue
}

/// Gives the packet that an ICMP error is about this key.
fn edit_embedded(packet: &mut Packet<'_>, to: &SessionKey) {
    packet.edit_embedded(Edit::Source(address(&to.source)));
    packet.edit_embedded(Edit::Destination(address(&to.destination)));
    if packet
        .embedded()
        .is_some_and(|embedded| embedded.flags.any(Flags(Flags::PORTS.0 | Flags::ICMP_QUERY.0)))
    {
        packet.edit_embedded(Edit::SourcePort(u16::from_be_bytes(to.source_port)));
        packet.edit_embedded(Edit::DestinationPort(u16::from_be_bytes(to.destination_port)));
    }
}
