//! What is refused, with which words; and what a wrong use of frames can not do.

use super::lab::{frame, in_namespace, run};
use super::*;

fn error(config: &XskConfig) -> Error {
    XskIo::open(&mut Umem::new(), config).expect_err("refused")
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let config = |ports| XskConfig { ports, ..XskConfig::default() };
    assert!(matches!(error(&config(vec![])), Error::NoQueues));
    assert!(matches!(error(&config(vec![port("a0", &[])])), Error::NoQueues));
    let twice = config(vec![port("a0", &[0]), port("a0", &[1, 0])]);
    assert_eq!(error(&twice).to_string(), "queue 0 of device a0 is configured twice");
    let ring = XskConfig { rx_ring: 1000, ..two_ports() };
    assert_eq!(error(&ring).to_string(), "ring size 1000 is not a power of two");
    let few = XskConfig { frames: 511, ..two_ports() };
    assert_eq!(error(&few).to_string(), "511 frames are too few for 2 sockets: at least 512 are needed");
    let unknown = config(vec![port("no-such-device", &[0])]);
    assert!(matches!(error(&unknown), Error::Device { device, .. } if device == "no-such-device"));
    let long = config(vec![port("a-name-longer-than-devices-have", &[0])]);
    assert!(matches!(error(&long), Error::Device { .. }));
}

#[test]
fn a_large_mtu_is_refused_with_the_remedy() {
    in_namespace(|| {
        two_veths();
        run("ip link set b0 mtu 3501");
        let text = error(&two_ports()).to_string();
        assert_eq!(
            text,
            "device b0 has MTU 3501, and 3500 is the largest supported: lower it (ip link set dev b0 mtu 3500)"
        );
    });
}

#[test]
fn zero_copy_is_granted_or_explained() {
    in_namespace(|| {
        two_veths();
        let with = |a, b| {
            let mut config = two_ports();
            (config.ports[0].zero_copy, config.ports[1].zero_copy) = (a, b);
            config
        };
        let refused = error(&with(ZeroCopy::Auto, ZeroCopy::Require));
        assert!(
            matches!(&refused, Error::ZeroCopyRefused { required, device, queue: 0, source }
                if required == "b0" && device == "a0" && source.raw_os_error() == Some(libc::EOPNOTSUPP)),
            "{refused}"
        );
        assert!(matches!(error(&with(ZeroCopy::Off, ZeroCopy::Require)), Error::ZeroCopyConflict { .. }));
        {
            let mut umem = Umem::new();
            let io = XskIo::open(&mut umem, &with(ZeroCopy::Auto, ZeroCopy::Auto)).expect("copy");
            for port in [A, B] {
                let granted = io.granted(port, 0).expect("a socket");
                assert!(!granted.zero_copy);
                let reason = granted.fallback_reason.as_deref().expect("a reason");
                assert!(
                    reason.starts_with("a0 queue 0 refused zero copy: Operation not supported"),
                    "{reason}"
                );
            }
            assert!(io.granted(A, 1).is_none() && io.statistics(A, 1).is_err());
        }
        let mut umem = Umem::new();
        let io = XskIo::open(&mut umem, &with(ZeroCopy::Off, ZeroCopy::Auto)).expect("copy");
        assert_eq!(io.granted(A, 0).expect("a socket").fallback_reason, None, "it was not wanted");
    });
}

#[test]
fn a_queue_has_one_owner_until_its_memory_is_dropped() {
    in_namespace(|| {
        two_veths();
        let mut umem = Umem::new();
        let io = XskIo::open(&mut umem, &two_ports()).expect("sockets");
        let second = error(&two_ports());
        assert!(
            matches!(&second, Error::Bind { device, queue: 0, source }
                if device == "a0" && source.raw_os_error() == Some(libc::EBUSY)),
            "{second}"
        );
        assert!(second.to_string().contains("another program"), "{second}");
        drop(io);
        drop(umem);
        let mut umem = Umem::new();
        let io = XskIo::open(&mut umem, &two_ports()).expect("the queues are free again");
        drop(io);
        let mut io = XskIo::open(&mut umem, &two_ports()).expect("and the same place can be used again");
        assert!(io.account().balances());
        assert!(io.allocate().is_some());

        let text = error(&XskConfig { ports: vec![port("a0", &[7])], ..XskConfig::default() }).to_string();
        assert!(text.contains("a0 queue 7") && text.contains("may not have this queue"), "{text}");
    });
}

#[test]
fn a_dropped_frame_stays_outstanding_and_allocation_leaves_frames_to_receivers() {
    in_namespace(|| {
        two_veths();
        let mut umem = Umem::new();
        let mut io = XskIo::open(&mut umem, &XskConfig { frames: 512, ..two_ports() }).expect("sockets");
        drop(io.allocate().expect("a free frame"));
        assert_eq!(io.outstanding(), 1);
        assert!(io.account().balances(), "it is known where it was lost");
        let held: Vec<_> = std::iter::from_fn(|| io.allocate()).collect();
        assert_eq!(held.len(), 127, "a quarter of the frames, less the lost one");
        for frame in held {
            io.release(frame);
        }
        assert_eq!(io.outstanding(), 1);
        assert_eq!(
            io.account(),
            Account { total: 512, free: 255, receiving: 256, sending: 0, outstanding: 1 }
        );
    });
}

#[test]
fn frames_of_another_memory_and_stubs_are_not_sent() {
    in_namespace(|| {
        two_veths();
        let of = |device: &str| XskConfig { ports: vec![port(device, &[0])], ..XskConfig::default() };
        let (mut first, mut second) = (Umem::new(), Umem::new());
        let mut a = XskIo::open(&mut first, &of("a0")).expect("sockets");
        let mut b = XskIo::open(&mut second, &of("b0")).expect("sockets");
        let wire = Wire::open("a1");
        let mut frames = Vec::new();
        for length in [60, 13, 0, 61] {
            let mut new = a.allocate().expect("a free frame");
            assert!(new.set_len(length));
            if length >= 60 {
                new.bytes_mut().copy_from_slice(&frame(1, length));
            }
            frames.push(new);
        }
        let mut foreign = b.allocate().expect("a free frame");
        assert!(foreign.set_len(62));
        frames.insert(1, foreign);
        assert_eq!(a.transmit(A, &mut frames), Sent { frames: 2, bytes: 121 });
        assert!(frames.is_empty());
        settle(&mut a);
        assert_eq!(wire.receive().as_deref(), Some(&frame(1, 60)[..]));
        assert_eq!(wire.receive().as_deref(), Some(&frame(1, 61)[..]));
        assert_eq!(wire.receive(), None);
        let own = a.statistics(A, 0).expect("statistics").own;
        assert_eq!((own.tx_foreign, own.tx_short), (1, 2));
        assert_eq!(b.outstanding(), 1, "lost to its memory, and visible there");
        let another = b.allocate().expect("a free frame");
        a.release(another);
        assert_eq!((a.outstanding(), b.outstanding()), (0, 2));
        assert!(a.account().balances() && b.account().balances());
    });
}
