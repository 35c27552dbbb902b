//! Arbitrary frames, parsed and then edited as a chain of functions would.
//!
//! Whatever the bytes, nothing panics, and the bytes after the edits, parsed again, are what the view of the headers said.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use throughway_packet::{Action, Edit, PortId, apply, parse};

/// The smallest frame that is worth editing has its edits in the bytes before it.
const CONTROL: usize = 24;

fuzz_target!(|data: &[u8]| {
    let Some((control, frame)) = data.split_first_chunk::<CONTROL>() else { return };
    let Ok(received) = parse(frame, PortId(0)) else { return };
    let [select, dscp, p0, p1, q0, q1, .., a0, a1, a2, a3] = *control;
    let address: IpAddr = if received.is_ipv4() {
        Ipv4Addr::new(a0, a1, a2, a3).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, u16::from_be_bytes([a0, a1]), u16::from_be_bytes([a2, a3])).into()
    };
    let edits = [
        Edit::Source(address),
        Edit::Destination(address),
        Edit::SourcePort(u16::from_be_bytes([p0, p1])),
        Edit::DestinationPort(u16::from_be_bytes([q0, q1])),
        Edit::Dscp(dscp & 0x3f),
        Edit::DecrementHops,
        Edit::Ethernet { destination: [2, 0, 0, 0, 0, 1], source: [2, 0, 0, 0, 0, 2] },
        Edit::Egress(PortId(1)),
    ];
    let mut view = received;
    let mut action = Action::nothing();
    for (bit, edit) in edits.into_iter().enumerate() {
        if select & (1 << bit) != 0 {
            edit.record(&mut view, &mut action);
        }
    }
    let mut edited = frame.to_vec();
    apply(&action, &received, &mut edited);
    assert_eq!(edited.len(), frame.len());

    match parse(&edited, PortId(0)) {
        Ok(again) => {
            assert_eq!(again.key, view.key, "the bytes tell another story than the view");
            assert_eq!(again.traffic_class, view.traffic_class);
            assert_eq!(again.hop_limit, view.hop_limit);
        }
        // An address may be one that is never on the wire; then it is the edits that were wrong, not the code.
        Err(_) => return,
    }
});
