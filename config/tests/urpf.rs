//! The reverse path check of each interface, and reserved addresses.
#![expect(clippy::panic, reason = "a test fails by panicking")]

use throughway_config::{Config, FunctionKind, Router, Urpf};

const FILE: &str = "\
interfaces:
  lan: { device: eth1, urpf: strict }
  wan: { device: eth2 }
  voice: { device: eth1, vlan: 7, urpf: off }
functions:
  core: { router: { urpf: loose } }
  other: { router: { forward-reserved: true } }
chains:
  a: { from: [lan, voice], run: [core] }
  b: { from: wan, run: [other] }
";

fn router(config: &Config, position: usize) -> &Router {
    match &config.functions[position].kind {
        FunctionKind::Router(router) => router,
        kind => panic!("{kind:?}"),
    }
}

fn checks(config: &Config, position: usize) -> Vec<Urpf> {
    let names = ["lan", "wan", "voice"];
    let named = |name| config.interface_named(name).unwrap_or_else(|| panic!("no interface {name}"));
    names.map(|name| router(config, position).urpf_of(named(name))).to_vec()
}

#[test]
fn an_interface_goes_before_the_router() {
    let (config, _) = Config::parse("test.yaml", FILE).unwrap();
    assert_eq!(checks(&config, 0), [Urpf::Strict, Urpf::Loose, Urpf::Off]);
    assert_eq!(checks(&config, 1), [Urpf::Strict, Urpf::Off, Urpf::Off]);
    assert_eq!([0, 1].map(|position| router(&config, position).forward_reserved), [false, true]);
}

#[test]
fn a_reload_is_enough_to_change_it() {
    let (old, _) = Config::parse("test.yaml", FILE).unwrap();
    for (before, after, expected) in [
        ("eth2 }", "eth2, urpf: strict }", "interfaces.wan.urpf: the routers' → strict"),
        ("vlan: 7, urpf: off", "vlan: 7", "interfaces.voice.urpf: off → the routers'"),
        ("urpf: loose", "urpf: off", "functions.core.urpf: loose → off"),
        ("forward-reserved: true", "", "functions.other.forward-reserved: true → false"),
    ] {
        assert!(FILE.contains(before));
        let (new, _) = Config::parse("test.yaml", &FILE.replace(before, after)).unwrap();
        let changes = Config::changes(&old, &new);
        let [change] = changes.as_slice() else { panic!("{changes:?}") };
        assert_eq!((change.to_string().as_str(), change.needs_restart), (expected, false));
        assert_ne!(old.functions, new.functions, "a router that stays the same would keep its old checks");
    }
}

#[test]
fn a_wrong_word_is_reported_once_and_where_it_stands() {
    let error = Config::parse("test.yaml", &FILE.replace("urpf: strict", "urpf: strikt")).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("test.yaml:2:30"), "{text}");
    assert_eq!(text.matches("strikt").count(), 2, "the message, and the line: {text}");
}
