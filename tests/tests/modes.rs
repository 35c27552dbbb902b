//! The modes that a configuration asks for: granted, or refused at start with what would help.

use throughway_lab::Host;
use throughway_tests::config::Config;
use throughway_tests::{Scene, binary, privileged};

/// Refuses to start with `yaml`, exit code 1; what it said.
#[track_caller]
fn refusal(scene: &Scene, yaml: &str) -> String {
    scene.write(yaml);
    let (binary, config) = (binary().to_string_lossy(), scene.config_path().to_string_lossy().into_owned());
    let socket = scene.lab.directory().join("refused.sock").to_string_lossy().into_owned();
    let argv = ["timeout", "20", &*binary, "run", &config, "--api", &socket, "--metrics", "127.0.0.1:9465"];
    let output = scene.lab.exec(Host::Box, &argv).expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{}{}", output.stdout, output.stderr);
    let link = scene.run(Host::Box, &["ip", "link", "show", "lan0"]).stdout;
    assert!(!link.contains("xdp"), "a refused start leaves nothing behind: {link}");
    output.stderr
}

fn offload(scene: &Scene) -> String {
    let features = scene.run(Host::Box, &["ethtool", "-k", "lan0"]).stdout;
    features.lines().find(|line| line.starts_with("rx-vlan-offload:")).unwrap_or_default().to_owned()
}

#[test]
fn busy_polling_and_generic_xdp_carry_packets_and_say_what_they_are() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::new();
    for (what, with) in [("poll: adaptive", "poll: busy"), ("device: lan0,", "device: lan0, xdp: generic,")] {
        scene.start_with(&Config::default().yaml().replace(what, with));
        for to in Host::ServerA.addresses() {
            assert!(scene.pings(Host::Client, &to.to_string(), 5), "{with}: {to}");
        }
        let generic = with.contains("generic");
        let mode = if generic { "generic" } else { "native" };
        let info = scene.page().sum("throughway_interface_info", &[("interface", "lan"), ("xdp", mode)]);
        assert_eq!(info, 1.0, "{with}");
        let fallback =
            scene.page().sum("throughway_interface_fallback", &[("interface", "lan"), ("what", "xdp")]);
        assert_eq!(fallback, 0.0, "what was asked for is no fallback");
        scene.stop();
    }
}

#[test]
fn what_was_changed_of_a_device_is_put_back() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::new();
    let before = offload(&scene);
    assert!(before.ends_with("on"), "veth has it on: {before}");
    scene.start(&Config::default());
    assert!(offload(&scene).ends_with("off"), "a tag must not be taken off before XDP sees it");
    scene.stop();
    assert_eq!(offload(&scene), before);
}

#[test]
fn what_cannot_be_granted_is_refused_with_what_would_help() {
    if !privileged() {
        return;
    }
    let scene = Scene::new();
    let yaml = Config::default().yaml();

    let said = refusal(&scene, &yaml.replace("device: wan0,", "device: wan0, zero-copy: require,"));
    assert!(said.contains("zero copy is required for wan0"), "{said}");

    let said = refusal(&scene, &yaml.replace("device: wan0,", "device: wan7,"));
    assert!(said.contains("no device `wan7`") && said.contains("wan0"), "{said}");

    let said = refusal(&scene, &yaml.replace("device: wan0,", "device: wan0, queues: 3,"));
    assert!(said.contains("`wan0` has 1") && said.contains("ethtool -L wan0 combined 3"), "{said}");

    let said = refusal(&scene, &yaml.replace("cores: [0]", "cores: [0, 1]"));
    assert!(said.contains("has 1 queue(s)") && said.contains("ethtool -L"), "{said}");

    scene.run(Host::Box, &["ip", "link", "set", "wan0", "mtu", "9000"]);
    let said = refusal(&scene, &yaml);
    assert!(said.contains("MTU of `wan0` is 9000") && said.contains("ip link set wan0 mtu 3500"), "{said}");
}
