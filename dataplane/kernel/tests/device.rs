//! Queues, offloads and XDP features of a veth, beside what `ethtool` says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use common::namespace;
use throughway_kernel::device::{Devices, QueueSource, Switched, driver, feature};

#[test]
fn queues_in_use_not_those_made() {
    let Some(namespace) = namespace() else { return };
    namespace
        .ip("link add va numrxqueues 4 numtxqueues 4 type veth peer name vb numrxqueues 4 numtxqueues 4");
    namespace.ip("link set va up");
    namespace.ip("link set vb up");
    let state = namespace.snapshot();
    let link = state.link_named("va").unwrap().clone();
    let mut devices = namespace.run(Devices::open).unwrap();
    namespace.command("ethtool", "-L va rx 3 tx 2");
    let queues = devices.queues(&link).unwrap();
    assert_eq!((queues.rx, queues.tx, queues.source), (3, 2, QueueSource::Channels));
    assert_eq!((link.rx_queues, link.tx_queues), (4, 4));

    // A bridge has no channels.
    namespace.ip("link add bridge0 type bridge");
    namespace.ip("link set bridge0 up");
    let state = namespace.snapshot();
    let queues = devices.queues(state.link_named("bridge0").unwrap()).unwrap();
    assert_eq!((queues.rx, queues.tx), (1, 1));
    assert_ne!(queues.source, QueueSource::Channels);

    let mut gone = link.clone();
    gone.index = 4242;
    let error = devices.queues(&gone).unwrap_err();
    assert_eq!(error.errno(), Some(nix::errno::Errno::ENODEV as i32), "{error}");
    assert_eq!(driver(&link).as_deref(), Some("veth"));
}

#[test]
fn offloads_are_switched_and_put_back() {
    let Some(namespace) = namespace() else { return };
    namespace.ip("link add va type veth peer name vb");
    let link = namespace.snapshot().link_named("va").unwrap().clone();
    let mut devices = namespace.run(Devices::open).unwrap();
    let shown = |name: &str| {
        let text = namespace.command("ethtool", "-k va");
        let line = text.lines().find(|line| line.trim().starts_with(&format!("{name}:"))).unwrap().to_owned();
        line.split_once(": ").unwrap().1.to_owned()
    };
    assert_eq!(shown("generic-receive-offload"), "off");
    assert_eq!(shown("tx-checksum-ip-generic"), "on");
    let before = devices.features(link.index).unwrap();
    assert!(before[feature::TX_CHECKSUM_ANY].active && before[feature::TX_CHECKSUM_ANY].changeable);

    let wishes = [
        (feature::RX_GRO, true),
        (feature::TX_CHECKSUM_ANY, false),
        (feature::RX_LRO, false),
        (feature::RX_LRO, true),
        ("no-such-offload", true),
    ];
    let saved = devices.switch(link.index, &wishes).unwrap();
    let outcomes: Vec<Switched> = saved.outcomes.iter().map(|(_, outcome)| *outcome).collect();
    assert_eq!(outcomes[..2], [Switched::Done, Switched::Done]);
    assert_eq!(outcomes[2..], [Switched::Already, Switched::NotSupported, Switched::NotSupported]);
    assert_eq!(shown("generic-receive-offload"), "on");
    assert_eq!(shown("tx-checksum-ip-generic"), "off");
    let again = devices.switch(link.index, &wishes[..2]).unwrap();
    assert!(again.before.is_empty());
    assert!(again.outcomes.iter().all(|(_, outcome)| *outcome == Switched::Already));

    devices.restore(&saved).unwrap();
    assert_eq!(shown("generic-receive-offload"), "off");
    assert_eq!(shown("tx-checksum-ip-generic"), "on");
    assert_eq!(devices.features(link.index).unwrap(), before);
    namespace.ip("link delete va");
    devices.restore(&saved).unwrap();
    assert!(devices.switch(link.index, &wishes).is_err());
}

#[test]
fn xdp_features_of_a_veth() {
    let Some(namespace) = namespace() else { return };
    namespace.ip("link add va type veth peer name vb");
    let link = namespace.snapshot().link_named("va").unwrap().clone();
    let mut devices = namespace.run(Devices::open).unwrap();
    let Some(xdp) = devices.xdp(link.index).unwrap() else {
        println!("skipped: this kernel does not tell XDP features");
        return;
    };
    assert!(xdp.native() && xdp.redirect() && xdp.receives_fragments());
    assert!(!xdp.zero_copy());
    assert_eq!(xdp.zero_copy_max_frags, None);
}
