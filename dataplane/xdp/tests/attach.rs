//! Attaching, taking over and detaching, on veth pairs in network namespaces.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::{
    os::unix::process::ExitStatusExt as _,
    process::{Command, Stdio},
};

use aya::{
    Ebpf,
    programs::{Xdp, XdpMode, loaded_programs},
};
use common::{Namespace, ifindex, in_namespace, ip, load, object};
use nix::sys::signal::{Signal, kill};
use throughway_shared::steer::{self, FAIL_CLOSED, Interface, PROGRAM, Reason};
use throughway_xdp::{AttachError, Granted, Mode, Steering, detach_leftover};

mod common;

/// The device under test, and the variables that tell a child process about it.
const DEVICE: &str = "tw0";
const PEER: &str = "tw1";
const ACT: &str = "THROUGHWAY_TEST_ACT";
const ADDRESS: &str = "192.0.2.1";
const PEER_ADDRESS: &str = "192.0.2.2";

fn veth() -> u32 {
    ip(&format!("link add {DEVICE} type veth peer name {PEER}"));
    ip(&format!("link set dev {DEVICE} up"));
    ip(&format!("link set dev {PEER} up"));
    ifindex(DEVICE)
}

/// What `ip` says of XDP on the interface: mode and name of the program, `None` when there is none.
fn attached(device: &str) -> Option<(String, u32)> {
    let output = Command::new("ip").args(["-d", "-o", "link", "show", "dev", device]).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let id = output.split("prog/xdp id ").nth(1)?.split_whitespace().next()?.parse().unwrap();
    let mode = output.split_whitespace().find(|word| word.starts_with("xdp") && !word.contains('/'))?;
    Some((mode.to_owned(), id))
}

fn name_of(id: u32) -> Option<String> {
    let program = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id)?;
    program.name_as_str().map(str::to_owned)
}

/// Somebody else's program: ours by another name, of the same length.
struct Foreign {
    bpf: Ebpf,
}

const FOREIGN: &str = "strangerxx";

impl Foreign {
    fn load() -> Foreign {
        let mut object = object();
        assert_eq!(PROGRAM.len(), FOREIGN.len());
        let mut at = 0;
        while let Some(found) =
            object[at..].windows(PROGRAM.len()).position(|word| word == PROGRAM.as_bytes())
        {
            object[at + found..at + found + PROGRAM.len()].copy_from_slice(FOREIGN.as_bytes());
            at += found + PROGRAM.len();
        }
        let mut bpf = Ebpf::load(&object).unwrap();
        let program: &mut Xdp = bpf.program_mut(FOREIGN).unwrap().try_into().unwrap();
        program.load().unwrap();
        Foreign { bpf }
    }

    fn attach(&mut self, ifindex: u32, mode: XdpMode) -> u32 {
        let program: &mut Xdp = self.bpf.program_mut(FOREIGN).unwrap().try_into().unwrap();
        program.attach_to_if_index(ifindex, mode).unwrap();
        program.info().unwrap().id()
    }
}

#[test]
fn attaches_natively_and_detaches_when_told_and_when_dropped() {
    in_namespace(|| {
        let index = veth();
        let steering = load();
        let id = steering.program().unwrap().info().unwrap().id();
        for mode in [Mode::Auto, Mode::Native] {
            let attachment = steering.attach(index, DEVICE, mode).unwrap();
            assert_eq!(attachment.mode(), Granted::Native);
            assert_eq!(attachment.fallback(), None);
            assert!(!attachment.took_over());
            assert_eq!(attached(DEVICE), Some(("xdp".to_owned(), id)));
            assert_eq!(name_of(id).as_deref(), Some(PROGRAM));
            attachment.detach().unwrap();
            assert_eq!(attached(DEVICE), None);
        }
        let attachment = steering.attach(index, DEVICE, Mode::Auto).unwrap();
        drop(attachment);
        assert_eq!(attached(DEVICE), None);
    });
}

#[test]
fn stays_attached_when_the_loader_goes_first() {
    in_namespace(|| {
        let index = veth();
        let steering = load();
        let attachment = steering.attach(index, DEVICE, Mode::Native).unwrap();
        drop(steering);
        assert!(attached(DEVICE).is_some());
        attachment.detach().unwrap();
        assert_eq!(attached(DEVICE), None);
    });
}

#[test]
fn generic_when_asked_for() {
    in_namespace(|| {
        let index = veth();
        let steering = load();
        let attachment = steering.attach(index, DEVICE, Mode::Generic).unwrap();
        assert_eq!(attachment.mode(), Granted::Generic);
        assert_eq!(attachment.fallback(), None, "what was asked for is no fallback");
        assert_eq!(attached(DEVICE).unwrap().0, "xdpgeneric");
        attachment.detach().unwrap();
        assert_eq!(attached(DEVICE), None);
    });
}

/// The loopback device cannot run XDP programs natively.
#[test]
fn falls_back_to_generic_with_a_reason_unless_forbidden() {
    in_namespace(|| {
        let index = ifindex("lo");
        let steering = load();
        let attachment = steering.attach(index, "lo", Mode::Auto).unwrap();
        assert_eq!(attachment.mode(), Granted::Generic);
        let reason = attachment.fallback().unwrap().to_owned();
        assert!(reason.starts_with("native: ") && reason.contains("cannot run XDP programs"), "{reason}");
        attachment.detach().unwrap();
        let error = steering.attach(index, "lo", Mode::Native).unwrap_err();
        assert!(matches!(&error, AttachError::Refused { refusals, .. } if refusals.len() == 1), "{error}");
        assert!(error.to_string().starts_with("lo: cannot attach the XDP program: native: "), "{error}");
        assert_eq!(attached("lo"), None);
    });
}

#[test]
fn a_foreign_program_is_named_and_left_alone_in_every_mode() {
    in_namespace(|| {
        let index = veth();
        let steering = load();
        for (theirs, shown) in [(XdpMode::Driver, "native"), (XdpMode::Skb, "generic")] {
            let mut foreign = Foreign::load();
            let id = foreign.attach(index, theirs);
            for ours in [Mode::Auto, Mode::Native, Mode::Generic] {
                let error = steering.attach(index, DEVICE, ours).unwrap_err();
                let AttachError::Foreign { program, id: named, mode, .. } = &error else { panic!("{error}") };
                assert_eq!((program.as_str(), *named, mode.as_str()), (FOREIGN, id, shown));
                let text = error.to_string();
                assert!(
                    text.contains(FOREIGN) && text.contains(&id.to_string()) && text.contains(DEVICE),
                    "{text}"
                );
                assert_eq!(attached(DEVICE).unwrap().1, id);
            }
            assert!(matches!(detach_leftover(index, DEVICE, None), Err(AttachError::Foreign { .. })));
            assert_eq!(attached(DEVICE).unwrap().1, id);
            drop(foreign);
        }
        // Its owner has gone, and with it the program.
        steering.attach(index, DEVICE, Mode::Native).unwrap().detach().unwrap();
    });
}

#[test]
fn what_somebody_else_put_in_place_of_ours_is_not_removed() {
    in_namespace(|| {
        let index = veth();
        let steering = load();
        let attachment = steering.attach(index, DEVICE, Mode::Native).unwrap();
        ip(&format!("link set dev {DEVICE} xdpdrv off"));
        let id = Foreign::load_forever(index);
        attachment.detach().unwrap();
        assert_eq!(attached(DEVICE).unwrap().1, id);
    });
}

impl Foreign {
    /// Attaches it for as long as the interface is there.
    fn load_forever(index: u32) -> u32 {
        let mut foreign = Foreign::load();
        let id = foreign.attach(index, XdpMode::Driver);
        std::mem::forget(foreign);
        id
    }
}

#[test]
fn a_second_live_instance_is_refused() {
    in_namespace(|| {
        let index = veth();
        let (first, second) = (load(), load());
        let attachment = first.attach(index, DEVICE, Mode::Native).unwrap();
        let before = attached(DEVICE);
        for mode in [Mode::Auto, Mode::Native, Mode::Generic] {
            let error = second.attach(index, DEVICE, mode).unwrap_err();
            assert!(matches!(error, AttachError::InUse { .. }), "{error}");
        }
        assert!(matches!(detach_leftover(index, DEVICE, None), Err(AttachError::InUse { .. })));
        assert_eq!(attached(DEVICE), before);
        attachment.detach().unwrap();
        second.attach(index, DEVICE, Mode::Native).unwrap().detach().unwrap();
    });
}

#[test]
fn an_interface_that_is_not_there_is_told_apart() {
    in_namespace(|| {
        let index = veth();
        let steering = load();
        let error = steering.attach(index + 1000, "nowhere", Mode::Auto).unwrap_err();
        assert!(matches!(error, AttachError::NotFound { .. }), "{error}");
        // One that goes while we are on it takes the program along.
        let attachment = steering.attach(index, DEVICE, Mode::Auto).unwrap();
        ip(&format!("link del dev {DEVICE}"));
        attachment.detach().unwrap();
    });
}

/// Not a test of its own: an instance in a process of its own, that is killed while it is attached.
#[test]
#[ignore = "run by the tests below, in a child process"]
fn instance_that_is_killed() {
    let Ok(act) = std::env::var(ACT) else { return };
    let (index, mode) = (ifindex(DEVICE), if act.contains("generic") { Mode::Generic } else { Mode::Native });
    let mut steering = load();
    let flags = if act.contains("closed") { FAIL_CLOSED } else { 0 };
    steering.set_interface(index, interface(flags)).unwrap();
    let attachment = steering.attach(index, DEVICE, mode).unwrap();
    assert_eq!(attachment.took_over(), act.contains("again"));
    kill(nix::unistd::Pid::this(), Signal::SIGKILL).unwrap();
}

/// Runs an instance that is killed while it is attached. What stays is its program alone.
fn kill_an_instance(act: &str) {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "instance_that_is_killed"])
        .env(ACT, act)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{act}: did not get as far as being killed");
}

fn interface(flags: u32) -> Interface {
    let output = Command::new("ip").args(["-o", "link", "show", "dev", DEVICE]).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let mac = output.split("link/ether ").nth(1).unwrap().split_whitespace().next().unwrap();
    let mac: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let number = 0;
    let first_socket = steer::first_socket(number);
    Interface { number, first_socket, flags, mac: mac.try_into().unwrap(), reserved: [0; 2] }
}

#[test]
fn a_leftover_is_replaced_at_once_and_in_its_own_mode() {
    in_namespace(|| {
        let index = veth();
        for (act, mode, granted) in [
            ("native", Mode::Auto, Granted::Native),
            ("native", Mode::Native, Granted::Native),
            ("generic", Mode::Auto, Granted::Generic),
            ("generic", Mode::Generic, Granted::Generic),
            // These cannot be done at once, only one after the other.
            ("generic", Mode::Native, Granted::Native),
            ("native", Mode::Generic, Granted::Generic),
        ] {
            kill_an_instance(act);
            let (_, old) = attached(DEVICE).expect("the program outlives its process");
            assert_eq!(name_of(old).as_deref(), Some(PROGRAM));
            let steering = load();
            let attachment = steering.attach(index, DEVICE, mode).unwrap();
            assert!(attachment.took_over());
            assert_eq!(attachment.mode(), granted, "{act} {mode:?}");
            let fallback = mode == Mode::Auto && granted == Granted::Generic;
            assert_eq!(attachment.fallback().is_some(), fallback, "{:?}", attachment.fallback());
            let (_, new) = attached(DEVICE).unwrap();
            assert_eq!(new, steering.program().unwrap().info().unwrap().id());
            attachment.detach().unwrap();
            assert_eq!(attached(DEVICE), None);
        }
        kill_an_instance("native");
        kill_an_instance("native again");
        assert!(detach_leftover(index, DEVICE, None).unwrap().is_some());
        assert_eq!(attached(DEVICE), None);
        assert!(detach_leftover(index, DEVICE, None).unwrap().is_none());
    });
}

/// A namespace behind the veth, and whether the address of the device answers from there.
struct Neighbour(Namespace);

impl Neighbour {
    fn new() -> Neighbour {
        let namespace = Namespace::new();
        ip(&format!("link add {DEVICE} type veth peer name {PEER} netns {}", namespace.0));
        ip(&format!("link set dev {DEVICE} up"));
        ip(&format!("addr add {ADDRESS}/24 dev {DEVICE}"));
        let neighbour = Neighbour(namespace);
        neighbour.ip(&format!("link set dev {PEER} up"));
        neighbour.ip(&format!("addr add {PEER_ADDRESS}/24 dev {PEER}"));
        neighbour
    }

    fn ip(&self, arguments: &str) {
        assert!(self.0.command("ip").args(arguments.split_whitespace()).status().unwrap().success());
    }

    fn gets_answers(&self) -> bool {
        let mut ping = self.0.command("ping");
        ping.args(["-c", "2", "-i", "0.2", "-W", "1", "-q", ADDRESS]);
        ping.stdout(Stdio::null()).status().unwrap().success()
    }
}

/// The address of the device is not in the map of local addresses, so the program takes its traffic for a chain's.
#[test]
fn fails_open_or_closed_as_told_when_killed() {
    in_namespace(|| {
        let neighbour = Neighbour::new();
        let index = ifindex(DEVICE);
        assert!(neighbour.gets_answers(), "the kernel alone");

        kill_an_instance("open");
        assert!(neighbour.gets_answers(), "fails open: to the kernel");
        kill_an_instance("closed again");
        assert!(!neighbour.gets_answers(), "fails closed: dropped");

        // The next instance knows the interface before it attaches, so there is no gap.
        let mut steering = load();
        steering.set_interface(index, interface(FAIL_CLOSED)).unwrap();
        let attachment = steering.attach(index, DEVICE, Mode::Auto).unwrap();
        assert!(attachment.took_over());
        neighbour.ip(&format!("neigh flush dev {PEER}"));
        assert!(!neighbour.gets_answers(), "still closed");
        assert!(frames(&steering, Reason::NoSocketDrop) >= 2, "and counted");
        assert!(frames(&steering, Reason::OtherMac) >= 1, "the question for our MAC went to the kernel");
        steering.set_interface(index, interface(0)).unwrap();
        assert!(neighbour.gets_answers(), "open from now on");
        assert!(frames(&steering, Reason::NoSocketPass) >= 2, "and counted");
        steering.set_interface(index, interface(FAIL_CLOSED)).unwrap();
        attachment.detach().unwrap();
        assert!(neighbour.gets_answers(), "an orderly exit gives the interface back");
    });
}

fn frames(steering: &Steering, reason: Reason) -> u64 {
    let counters = steering.counters().unwrap();
    counters.iter().find(|counters| counters.interface == Some(0)).unwrap().get(reason)
}
