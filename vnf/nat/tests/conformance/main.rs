//! What the RFCs ask of a NAT, requirement by requirement: `docs/nat-conformance.md` has the table.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#[path = "../world/mod.rs"]
mod world;

mod rfc4787;
mod rfc5382;
mod rfc5508;
mod rfc6888;
mod rfc7857;

use std::net::IpAddr;

use throughway_nat::rule::{Filtering, Mapping, SourceRule, SourceTarget};
use throughway_nat::{BlockConfig, HostRate, Options, PoolConfig, Pooling, Rules};
use throughway_packet::icmp::{IcmpError, MAX_FRAME, build_error};
use throughway_packet::{Headers, checksum, embedded, parse};
use throughway_session::WhenFull;
use throughway_vnf::events::{PortBlock, What};
use throughway_vnf::{Answer, DropReason, Function, Now, Seen, Verdict};
use world::*;

const SERVER: &str = "198.51.100.1";
const OTHER: &str = "198.51.100.2";
const HOST: &str = "10.0.0.5";
const NEIGHBOUR: &str = "10.0.0.6";
const POOL: &str = "203.0.113.8";
const RST: u8 = 4;
const FIN: u8 = 1;

fn filtering(filtering: Filtering) -> SourceRule {
    SourceRule { filtering, ..to_pool() }
}

fn one(rule: SourceRule) -> World {
    World::new(rules(vec![rule], vec![pool(&[POOL], 1024..=65535)]))
}

/// An ICMP error about a frame that came to whoever reports it.
fn error_about(frame: &[u8], error: IcmpError, reporter: &str) -> Vec<u8> {
    let headers = parse(frame, OUTSIDE).unwrap();
    let mut out = [0; MAX_FRAME];
    let len = build_error(frame, &headers, error, ip(reporter), &mut out).expect("it may be answered");
    out[..len].to_vec()
}

/// The packet quoted in an error, whose checksums must be right as far as they are there.
fn quoted(frame: &[u8]) -> Headers {
    let headers = parse(frame, OUTSIDE).unwrap();
    let quoted = embedded::parse_embedded(frame, &headers).unwrap();
    if quoted.is_ipv4() {
        let header = &frame[usize::from(quoted.l3)..usize::from(quoted.l4)];
        assert_eq!(checksum::sum(header), 0xffff, "the quoted header's checksum");
    }
    if usize::from(quoted.end) <= frame.len() {
        let end = usize::from(quoted.end);
        let mut whole = vec![0; 12];
        whole.extend(if quoted.is_ipv4() { [8, 0] } else { [0x86, 0xdd] });
        whole.extend(&frame[usize::from(quoted.l3)..end]);
        let headers = parse(&whole, OUTSIDE).unwrap();
        assert!(checksum::verify(&whole, &headers), "the quoted packet's checksum");
    }
    quoted
}

/// A three-way handshake from inside.
fn connect(world: &mut World, port: u16) -> (IpAddr, u16) {
    let outside = source_of(&world.passes(INSIDE, &between(HOST, SERVER).tcp(port, 80, SYN)));
    world.passes(OUTSIDE, &between(SERVER, POOL).tcp(80, outside.1, SYN | ACK));
    world.passes(INSIDE, &between(HOST, SERVER).tcp(port, 80, ACK));
    outside
}
