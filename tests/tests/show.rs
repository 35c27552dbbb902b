//! What `throughway show` says of live traffic is true.

use std::time::{Duration, Instant};

use serde_json::Value;
use throughway_lab::Host;
use throughway_tests::config::Config;
use throughway_tests::echo::{self, Connection};
use throughway_tests::{Scene, eventually, privileged};

/// `show flows` with options, as rows.
fn flows(scene: &Scene, options: &str) -> Vec<Value> {
    let value = scene.show(format!("flows {options}").trim());
    value.as_array().expect("rows").clone()
}

#[test]
fn flows_tell_what_happens_to_their_packets() {
    if !privileged() {
        return;
    }
    let scene = Scene::running(&Config::default().marked("ef"));
    assert!(flows(&scene, "").is_empty());
    echo::serve(&scene.lab, Host::ServerA);
    for (address, exchanges) in [("10.2.0.10", 20), ("fd00:2::10", 5)] {
        let to = address.parse().expect("an address");
        let mut connection = Connection::open(&scene.lab, Host::Client, to).expect("it connects");
        (0..exchanges).for_each(|_| connection.exchange().expect("it is echoed"));
    }

    // What the XDP program forwards by itself is told within five seconds.
    let sent = Instant::now();
    let row = eventually("all packets are told", Duration::from_secs(5), || {
        let there = flows(&scene, "--address 10.2.0.10 --protocol tcp --interface lan");
        let [row] = there.as_slice() else { panic!("one flow: {there:#?}") };
        row["packets"].as_u64().is_some_and(|packets| packets >= 20).then(|| row.clone())
    });
    assert!(sent.elapsed() < Duration::from_secs(8), "told after {:?}, on a busy machine", sent.elapsed());
    assert!(row["source"].as_str().is_some_and(|text| text.starts_with("10.1.0.10:")), "{row:#}");
    assert_eq!(row["destination"], "10.2.0.10:7");
    assert_eq!(row["verdict"], "forward");
    assert_eq!((&row["interface"], &row["egress"]), (&"lan".into(), &"wan".into()));
    assert_eq!(row["edits"], serde_json::json!(["dscp 46"]));
    // What the echo carried, and at least the headers around it; the first packet of the flow made the entry.
    let bytes = row["bytes"].as_u64().expect("a number");
    assert!(bytes >= 19 * 8000 + 20 * 40, "{row:#}");

    assert_eq!(flows(&scene, "--interface wan").len(), 2, "the answers of both families");
    assert_eq!(flows(&scene, "--address fd00:2::10").len(), 2, "both directions");
    assert_eq!(flows(&scene, "--limit 1").len(), 1);
    assert_eq!(flows(&scene, "--port 7").len(), 4);
    assert!(flows(&scene, "--port 7 --protocol udp").is_empty());
    let refused = scene.ask(&["show", "flows", "--interface", "dmx"]);
    assert!(
        !refused.status.success() && refused.stderr.contains("there is no interface `dmx`"),
        "{refused:?}"
    );
}
