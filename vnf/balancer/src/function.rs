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
use throughway_session::{Class, InsertError, NewSession, Probe, SessionId, SessionKey, Side, translate};
use throughway_vnf::credit::{session_silence, steady_silence};
use throughway_vnf::{
    Answer, BATCH, Batch, Context, DropReason, Function, IcmpError, Now, Packet, Seen, Slot, Verdict,
};

use crate::path;
use crate::seat::Seat;
use crate::service::{Affinity, Forward, Service};
use crate::services::Services;
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
        /// The longest outer packet that gets there, in bytes.
        mtu: u16,
    },
}

/// What a packet is to a connection that is remembered.
enum Step {
    /// It belongs to it.
    Passes {
        id: SessionId,
        side: Side,
        track: Track,
        forward: Forward,
        to: IpAddr,
        from: Option<IpAddr>,
        /// It proves a client whose service knows affinity.
        proves: Option<Arc<Seat>>,
    },
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
        let judged = match self.known(services, packet, &headers, probe, now) {
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
        services: &Services,
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
            let before = track.class();
            match track.packet(side, headers) {
                Event::Fits => {}
                Event::Reopens => return Step::Anew(id),
                Event::Invalid => return Step::Invalid,
            }
            meta.touch(now, track.timeout(headers, timeouts));
            // Only half-open connections have a quota.
            let _ = meta.set_class(track.class());
            seat.figures.packets(1, headers.packet_len().into());
            let proven = before == Class::HalfOpen && track.class() == Class::Established;
            let proves = proven.then(|| Arc::clone(seat));
            let (to, from) = (seat.address, seat.via());
            Step::Passes { id, side, track: *track, forward: *forward, to, from, proves }
        })?;
        let Step::Passes { id, side, track, forward, to, from, proves } = step else {
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
        if let Some(seat) = proves
            && let Some(service) = service_at(services, &opened, headers)
        {
            shared.clients.remember(service, &opened.source, &seat, now);
        }
        let way = match (side, forward) {
            (Side::Reverse, _) => Ok(Way::Translated(opened.reversed())),
            (_, Forward::Dsr) => Ok(Way::Direct(to)),
            (_, Forward::Ipip) => self.tunnel(from, to, now),
            (_, Forward::Nat | Forward::FullNat) => Ok(Way::Translated(answered.reversed())),
        };
        packet.depends_on(Slot::session(id.to_bits()));
        packet.credit(id.to_credit());
        let timeout = track.timeout(headers, timeouts);
        // What is not TCP has one timeout, whatever its packets are.
        let silence = if headers.key.protocol == TCP { session_silence } else { steady_silence };
        match silence(timeout).filter(|_| track.is_settled()) {
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
            if self.pong(services, packet, headers) {
                return Ok(None);
            }
            if let Some(way) = self.answer(services, packet, headers, key, now) {
                return Ok(Some(way));
            }
            if services.may_answer_from(&key.source) {
                // An answer as soon as somebody opens its connection, which caches must hear of.
                let passed = &self.shared.passed;
                match passed.pass(probe, || self.shared.connections.lookup(probe, now).is_some()) {
                    Some(slot) => packet.depends_on(slot),
                    // By another worker, a moment ago.
                    None => match self.known(services, packet, headers, probe, now) {
                        Some(judged) => return judged.map(Some),
                        None => packet.judge_each(),
                    },
                }
            }
            return Ok(None);
        };
        packet.judge_each();
        let figures = &service.config.figures;
        let mut known = self.shared.clients.seat(service, &key.source, now);
        if known.is_some() {
            figures.returned();
        }
        let hash = hash(service, key);
        let forward = service.config.forward;
        let track = Track::open(headers, forward.is_one_sided());
        for attempt in 0..ATTEMPTS {
            // Where sources are ours another port of ours will do, else another backend.
            let turn = if forward == Forward::FullNat { 0 } else { attempt };
            if attempt > 0 {
                figures.retries();
            }
            let chosen = || service.choose(hash.rotate_left(turn as u32 * 4)).map(|chosen| &chosen.seat);
            // The backend that the client had, as long as its answers can be told from others.
            let had = if forward == Forward::FullNat { known.clone() } else { known.take() };
            let Some(seat) = had.as_ref().or_else(chosen) else {
                figures.rejected();
                return Err(reject(headers));
            };
            let translated = toward(service, seat, key, headers, hash, attempt)?;
            let way = match forward {
                Forward::Dsr => Way::Direct(seat.address),
                Forward::Ipip => self.tunnel(seat.via(), seat.address, now)?,
                Forward::Nat | Forward::FullNat => Way::Translated(translated),
            };
            let opened = track.map(|track| {
                let timeout = track.timeout(headers, &self.shared.options.timeouts);
                let reverse = self.shared.connections.probe(translated.reversed());
                let state = Remembered { track, forward, seat: Arc::clone(seat) };
                let new = NewSession { forward: *probe, reverse, class: track.class(), timeout, state };
                self.shared.open(new, now).inspect(|_| self.shared.is_open(&[*probe, reverse]))
            });
            match opened {
                Some(Ok(_)) => {}
                Some(Err(InsertError::Conflict { side: Side::Reverse, .. })) => continue,
                // Another worker was faster: the packet belongs to its connection.
                Some(Err(InsertError::Conflict { .. })) => {
                    match self.known(services, packet, headers, probe, now) {
                        Some(judged) => return judged.map(Some),
                        None => continue,
                    }
                }
                Some(Err(InsertError::SameKey)) => break,
                // Its answers could not be told from others.
                Some(Err(InsertError::Full | InsertError::Quota(_))) if forward == Forward::FullNat => {
                    figures.refused();
                    return Err(Verdict::Drop(DropReason::BalancerTableFull));
                }
                None if forward == Forward::FullNat => {
                    figures.refused();
                    return Err(Verdict::Drop(DropReason::BalancerInvalidState));
                }
                Some(Err(InsertError::Full | InsertError::Quota(_))) | None => {
                    self.shared.decided_by_hash(service, now);
                }
            }
            seat.figures.packets(1, headers.packet_len().into());
            return Ok(Some(way));
        }
        figures.refused();
        Err(Verdict::Drop(DropReason::BalancerConflict))
    }

    /// The way through a tunnel.
    pub(crate) fn tunnel(&self, from: Option<IpAddr>, to: IpAddr, now: Now) -> Result<Way, Verdict> {
        let from = from.ok_or(Verdict::Drop(DropReason::BalancerNoSource))?;
        let mtu = self.shared.paths.mtu(&octets(to), now).unwrap_or(u16::MAX);
        Ok(Way::Tunnel { from, to, mtu })
    }

    /// An echo request to an address whose services do not balance it.
    fn pong(&self, services: &Services, packet: &mut Packet<'_>, headers: &Headers) -> bool {
        let request = if headers.is_ipv4() { 8 } else { 128 };
        let asked = headers.flags.has(Flags::ICMP_QUERY)
            && !headers.flags.has(Flags::FRAGMENT)
            && headers.icmp_type == request
            && services.answers_pings_to(&headers.key.destination);
        if asked {
            packet.judge_each();
            packet.answer_echo();
        }
        asked
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

    fn foresee(&self, credits: &[u64]) {
        self.shared.connections.fetch_credits(credits);
    }

    fn settle(&mut self, credit: u64, seen: &Seen) {
        let connections = &self.shared.connections;
        if connections.keep_alive_credit(credit, seen.last)
            && seen.packets > 0
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

pub(crate) fn address(octets: &[u8; 16]) -> IpAddr {
    IpAddr::from(*octets).to_canonical()
}

/// The service that a packet with this key is for. An ICMP query's identifier is no port.
pub(crate) fn service_at<'a>(
    services: &'a Services,
    key: &SessionKey,
    headers: &Headers,
) -> Option<&'a Service> {
    let port = if headers.flags.has(Flags::PORTS) { u16::from_be_bytes(key.destination_port) } else { 0 };
    services.at(&key.destination, key.protocol, port)
}

/// The hash by which a service chooses: alike on boxes with the same configuration.
pub(crate) fn hash(service: &Service, key: &SessionKey) -> u64 {
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
pub(crate) fn send(packet: &mut Packet<'_>, way: Way) -> Verdict {
    match way {
        Way::Translated(to) => translate(packet, &to),
        Way::Direct(to) => packet.direct_to(to),
        Way::Tunnel { from, to, mtu } => {
            // Who puts a packet into a tunnel forwards it (RFC 2003, section 3.1).
            if packet.headers().hop_limit <= 1 {
                let told = Answer::Icmp(IcmpError::HopLimitExceeded);
                return Verdict::Reject(DropReason::HopLimitExceeded, told);
            }
            packet.edit(Edit::DecrementHops);
            if !packet.encapsulate(&Encapsulation::ip(from, to)) {
                return Verdict::Drop(DropReason::TunnelTooDeep);
            }
            packet.depends_on(path::slot(&octets(to)));
            let outer = packet.headers();
            if outer.packet_len() > mtu && outer.flags.has(Flags::DONT_FRAGMENT) {
                return Verdict::Reject(DropReason::TooBig, Answer::Icmp(IcmpError::TooBig { mtu }));
            }
            packet.limit_len(mtu);
        }
    }
    Verdict::Continue
}
