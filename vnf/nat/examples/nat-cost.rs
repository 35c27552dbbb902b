//! What sessions cost: `cargo run --release -p throughway-nat --example nat-cost [SESSIONS]` (4 Mi without an argument).
//!
//! New sessions a second on one core, in batches as a worker has them, with the answers that follow; bytes for each session;
//! and 200,000 asks for the 64,511 ports of one address.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use throughway_nat::rule::{Filtering, SourceRule, SourceTarget};
use throughway_nat::{Addresses, BlockConfig, Nat, Options, Parity, PoolConfig, Rules, Shared};
use throughway_packet::build::PacketBuilder;
use throughway_packet::headers::octets;
use throughway_packet::{Headers, PortId, parse};
use throughway_vnf::{BATCH, Batch, Context, Function, Generations, Now, Packet, Snapshot};

/// Sessions of one host.
const EACH: u32 = 64;

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn host(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x6440_0000 + number).into()
}

/// Judges packets that differ from `frame` in what `change` writes, in batches; returns how many million a second: by the median
/// batch, as others use the machine too.
fn run(nat: &mut Nat, frame: &[u8], headers: Headers, count: u32, change: impl Fn(u32, &mut Headers)) -> f64 {
    let mut taken = Vec::new();
    let mut number = 0;
    while number < count {
        let mut batch = Batch::new();
        for _ in 0..BATCH {
            let mut headers = headers;
            change(number, &mut headers);
            let _ = batch.push(Packet::new(frame, headers));
            number += 1;
        }
        let context = Context { now: Now(1_000_000_000 + u64::from(number)) };
        let start = Instant::now();
        nat.process(&mut batch, &context);
        nat.tick(&context);
        taken.push(start.elapsed().as_nanos());
    }
    taken.sort_unstable();
    BATCH as f64 * 1e3 / taken.get(taken.len() / 2).copied().unwrap_or(1) as f64
}

fn sessions(
    out: &mut impl Write,
    name: &str,
    count: u32,
    rule: SourceRule,
    blocks: Option<BlockConfig>,
) -> std::io::Result<()> {
    let hosts = count.div_ceil(EACH);
    // Room for every session, and a quarter more.
    let addresses: Vec<IpAddr> =
        (0..(count / 32_000).max(8)).map(|last| Ipv4Addr::from_bits(0xcb00_7100 + last).into()).collect();
    let options = Options { half_open: count, ..Options::new(count + count / 8, [3, 4]) };
    let shared = Shared::new(options, Arc::new(Generations::default()));
    let config = PoolConfig { blocks, ..PoolConfig::new(addresses) };
    let pools = vec![shared.pool(config, &[])];
    let rules = Rules { source: vec![rule], pools, ..Rules::new(vec![PortId(1)]) };
    let shared = Arc::new(shared);
    let mut nat = Nat::new(Arc::clone(&shared), Snapshot::new(rules), 0);
    let server = Ipv4Addr::new(198, 51, 100, 1);
    let frame = PacketBuilder::ipv4([100, 64, 0, 1], server).udp(1, 443).finish();
    let headers = parse(&frame, PortId(0)).map_err(std::io::Error::other)?;
    let out_of = |number: u32, headers: &mut Headers| {
        // Hosts take turns, so that no table is walked in order.
        headers.key.source = octets(host(number % hosts));
        headers.key.source_port = (20_000 + (number / hosts) as u16).to_be_bytes();
        headers.key.destination = octets(Ipv4Addr::from_bits(0xc633_6400 + number % 251).into());
    };
    let opened = run(&mut nat, &frame, headers, count, out_of);
    let (made, mappings) = shared.len();
    let known = run(&mut nat, &frame, headers, count, out_of);
    let memory = shared.memory() as f64;
    writeln!(
        out,
        "| {name} | {made} | {mappings} | {:.2} | {:.2} | {:.0} | {:.2} |",
        opened,
        known,
        memory / f64::from(made),
        memory / f64::from(1 << 30)
    )
}

fn ports(out: &mut impl Write) -> std::io::Result<()> {
    let known = Addresses::new(0);
    let config = PoolConfig { ports: 1025..=65535, ..PoolConfig::new(vec![host(0)]) };
    let pool = throughway_nat::Pool::new(config, &known, 0);
    let mut state = 99;
    let mut given = 0;
    let start = Instant::now();
    for ask in 0..200_000u32 {
        let wanted = throughway_nat::pool::Wanted {
            inside: host(ask),
            protocol: 17,
            preferred: None,
            parity: Parity::Any,
            random: random(&mut state),
            now: 0,
        };
        given += u32::from(pool.take(&wanted).is_ok());
    }
    let each = start.elapsed().as_nanos() / 200_000;
    writeln!(out, "\n200000 asks for {} ports: {given} given, {each} ns each", pool.config().ports.len())
}

fn main() -> std::io::Result<()> {
    let count = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(1 << 22);
    let mut out = std::io::stdout().lock();
    writeln!(out, "| rule | sessions | mappings | new, M/s | known, M/s | bytes a session | GiB in all |")?;
    writeln!(out, "| --- | ---: | ---: | ---: | ---: | ---: | ---: |")?;
    let rule = SourceRule { preserve_port: false, ..SourceRule::new(SourceTarget::Pool(0)) };
    let open = SourceRule { filtering: Filtering::EndpointIndependent, ..rule.clone() };
    let blocks = BlockConfig { size: 64, per_host: 2, hosts: Vec::new() };
    sessions(&mut out, "endpoint-independent filtering", count, open.clone(), None)?;
    sessions(&mut out, "address-dependent filtering", count, rule, None)?;
    sessions(&mut out, "blocks of 64 ports", count, open, Some(blocks))?;
    ports(&mut out)
}
