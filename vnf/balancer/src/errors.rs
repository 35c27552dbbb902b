//! ICMP errors: to who sent the packet that they are about.

use std::sync::atomic::Ordering;

use throughway_packet::headers::octets;
use throughway_packet::{Edit, Flags, PortId, embedded, parse};
use throughway_session::{SessionKey, Side};
use throughway_vnf::{DropReason, Now, Packet, Verdict};

use crate::function::{Balancer, Way, address, hash, send, service_at};
use crate::path::TunnelError;
use crate::service::Forward;
use crate::services::Services;
use crate::shared::{Remembered, Shared};

impl Balancer {
    /// An ICMP error about a packet of a connection goes to who sent that: the client, or the backend.
    pub(crate) fn error(&self, services: &Services, packet: &mut Packet<'_>, now: Now) -> Verdict {
        let Some(embedded) = packet.embedded() else { return Verdict::Continue };
        let about = SessionKey::of(&embedded.key, 0);
        let outer = *packet.headers();
        // Its sender is who gets the error; else it is none of ours.
        if outer.key.destination != about.source {
            return Verdict::Continue;
        }
        let shared = self.shared();
        if let Some(error) = TunnelError::read(packet.bytes(), packet.received(), &embedded)
            && services.tunnels_to(&error.end)
        {
            shared.note(&error, now);
            return Verdict::Drop(DropReason::BalancerTunnelError);
        }
        let found = shared.connections.lookup(&about.reversed(), now).and_then(|found| {
            let keys = shared.connections.keys(found.id)?;
            let to = shared.connections.read(found.id, |remembered, _| {
                let Remembered { forward, seat, .. } = remembered;
                (*forward, seat.address, seat.via())
            })?;
            Some((found.side, keys, to))
        });
        if let Some((_, [opened, _], _)) = &found
            && let Some(service) = service_at(services, opened, &embedded)
        {
            service.config.figures.errors();
        }
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
                Forward::Ipip => {
                    self.tunnel(from, to, now).map_or_else(|verdict| verdict, |way| send(packet, way))
                }
            },
            None => {
                let request = about.reversed();
                let Some(service) = service_at(services, &request, &embedded) else {
                    return Verdict::Continue;
                };
                let Some(backend) = service.choose(hash(service, &request)) else {
                    return Verdict::Drop(DropReason::NoBackend);
                };
                shared.decided_by_hash(service, now);
                service.config.figures.errors();
                let seat = &backend.seat;
                match service.config.forward {
                    Forward::Dsr => send(packet, Way::Direct(seat.address)),
                    Forward::Ipip => self
                        .tunnel(seat.via(), seat.address, now)
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
}

impl Shared {
    /// Takes note of an ICMP error about a tunnel's outer packet that was sent to this host: for those that the kernel got, as
    /// the address is the host's own. `packet` is an Ethernet frame. Says whether the error is about a tunnel of ours.
    pub fn hear(&self, packet: &[u8], now: Now) -> bool {
        let Ok(headers) = parse(packet, PortId(0)) else { return false };
        let Ok(embedded) = embedded::parse_embedded(packet, &headers) else { return false };
        let error = TunnelError::read(packet, &headers, &embedded);
        let ours = error.filter(|error| {
            headers.key.destination == embedded.key.source && self.snapshot().read().tunnels_to(&error.end)
        });
        if let Some(error) = ours {
            self.note(&error, now);
        }
        ours.is_some()
    }

    /// What is too big will be told to those who send it; whatever else is wrong with a path, the checks will find.
    fn note(&self, error: &TunnelError, now: Now) {
        self.tunnel_errors.fetch_add(1, Ordering::Relaxed);
        if let Some(mtu) = error.mtu {
            self.learn_path(&error.end, error.ipv4, mtu, now);
        }
    }
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
