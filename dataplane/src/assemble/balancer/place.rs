//! What services and backends are called, and by which address of ours backends are reached.

use std::net::IpAddr;

use throughway_balancer::Seat;
use throughway_config::{BalancerSource, Forwarding, Service};

/// Whether our own address toward the backends is needed.
pub(super) fn needs_via(service: &Service) -> bool {
    service.forward == Forwarding::Ipip || service.source_nat == Some(BalancerSource::Egress)
}

pub(super) fn one_port(service: &Service) -> Option<u16> {
    match service.ports.as_slice() {
        [ports] if ports.first() == ports.last() => Some(ports.first()),
        _ => None,
    }
}

/// Address and port.
pub(super) fn place(seat: &Seat) -> String {
    match (seat.port, seat.address) {
        (None, address) => address.to_string(),
        (Some(port), address) => std::net::SocketAddr::new(address, port).to_string(),
    }
}

/// What a service stays the same by: its name, else the packets that it takes.
pub(super) fn identity(service: &Service) -> String {
    match &service.name {
        Some(name) => name.to_string(),
        None => packets_of(service),
    }
}

fn packets_of(service: &Service) -> String {
    let list = |items: Vec<String>| items.join(",");
    let mut text = list(service.vips.iter().map(ToString::to_string).collect());
    if !service.ports.is_empty() {
        text = format!("{text}:{}", list(service.ports.iter().map(ToString::to_string).collect()));
    }
    if !service.protocols.is_empty() {
        text = format!("{text} {}", list(service.protocols.iter().map(ToString::to_string).collect()));
    }
    text
}

/// The host's own address toward another, as its prefixes tell; else any of the family.
pub(super) fn toward(own: &[(IpAddr, u8)], to: IpAddr) -> Option<IpAddr> {
    let fits = |(address, len): &&(IpAddr, u8)| {
        throughway_packet::Prefix::containing(*address, *len).is_ok_and(|prefix| prefix.contains(to))
    };
    let near = own.iter().filter(fits).max_by_key(|(_, len)| *len);
    let any = || own.iter().find(|(address, _)| address.is_ipv4() == to.is_ipv4());
    near.or_else(any).map(|(address, _)| *address)
}

/// The same, as the kernel would choose it: no packet is sent.
pub(super) fn kernel_toward(to: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match to {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind((any, 0)).ok()?;
    socket.connect((to, 9)).ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback() && !own.is_unspecified()).then_some(own)
}
