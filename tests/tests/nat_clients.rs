//! What people run behind a NAT, through it: STUN says what kind it is; curl, ping, traceroute, DNS, FTP and iperf3 work; path MTU
//! discovery crosses it. And the box itself goes on with its own business on the address that it masquerades as.

use std::time::Duration;

use throughway_lab::Host;
use throughway_tests::config::Config;
use throughway_tests::{Scene, eventually, privileged, servers};

/// Masquerades towards the WAN, with these further keys of the source rule (`, KEY: VALUE`) and of the NAT.
fn masquerading(rule: &str, nat: &str) -> Config {
    let mut config = Config::default();
    let nat = format!(
        "{{ nat: {{ outside: wan, source: [ {{ match: {{ source: 10.1.0.0/16 }}, masquerade: true{rule} }}, \
         {{ match: {{ source: \"fd00:1::/32\" }}, masquerade: true }} ]{nat} }} }}"
    );
    config.functions.push(("outer", nat));
    config.run.insert(0, "outer");
    config
}

/// Only what is translated can be answered: server a has no way to the client's own addresses.
fn no_way_back(scene: &Scene) {
    for argv in [
        &["ip", "route", "del", "10.1.0.0/24"][..],
        &["ip", "route", "del", "default"],
        &["ip", "-6", "route", "del", "default"],
    ] {
        let _ = scene.lab.exec(Host::ServerA, argv);
    }
}

/// What the STUN client of RFC 3489 says of the NAT: its last word, and the test results it came to it by.
fn classified(scene: &Scene) -> String {
    let output = scene.lab.exec_for(Host::Client, &["stun", "10.2.0.10", "-v"], Duration::from_secs(20));
    let said = output.unwrap_or_else(|error| panic!("{error}"));
    let said = said.stdout + &said.stderr;
    let primary = said.lines().find_map(|line| line.strip_prefix("Primary: "));
    primary.unwrap_or_else(|| panic!("no verdict in {said}")).trim().to_owned()
}

#[test]
fn stun_names_the_nat_as_it_is_configured() {
    if !privileged() {
        return;
    }
    // Full cone, restricted, port restricted and symmetric, in the words of RFC 3489, section 5, and of the client.
    let kinds = [
        (", filtering: endpoint-independent", "Independent Mapping, Independent Filter"),
        (", filtering: address-dependent", "Independent Mapping, Address Dependent Filter"),
        (", filtering: address-and-port-dependent", "Independent Mapping, Port Dependent Filter"),
        (", mapping: address-and-port-dependent, filtering: address-and-port-dependent", "Dependent Mapping"),
    ];
    let mut scene = Scene::running(&masquerading(kinds[0].0, ""));
    scene.run(Host::ServerA, &["ip", "address", "add", "10.2.0.11/24", "dev", "eth0"]);
    no_way_back(&scene);
    let _server = servers::stun(&scene, Host::ServerA, ["10.2.0.10", "10.2.0.11"]);
    for (number, (rule, expected)) in kinds.into_iter().enumerate() {
        if number > 0 {
            scene.write(&masquerading(rule, "").yaml());
            assert!(scene.reload().status.success());
        }
        let said = classified(&scene);
        assert!(said.starts_with(expected), "{rule}: {said}");
        // The client sends to its own outside end. Where that depends on whom it sends to, there is no such end.
        assert_eq!(said.contains("will hairpin"), expected != "Dependent Mapping", "{rule}: {said}");
    }
}

/// A folder for servers with a file, `file`.
fn folder_with(scene: &Scene, content: &[u8]) -> String {
    let files = scene.lab.directory().join("files");
    std::fs::create_dir_all(&files).expect("the lab's folder takes folders");
    std::fs::write(files.join("file"), content).expect("the folder takes files");
    files.to_string_lossy().into_owned()
}

#[test]
fn clients_of_all_kinds_work_behind_it() {
    if !privileged() {
        return;
    }
    let scene = Scene::running(&masquerading("", ""));
    no_way_back(&scene);
    let content: Vec<u8> = (0..3_000_000_u32).map(|at| (at ^ (at >> 8)) as u8).collect();
    let folder = folder_with(&scene, &content);

    let _http = servers::http(&scene, Host::ServerA, &folder);
    let got = scene.lab.directory().join("got");
    let to = got.to_string_lossy().into_owned();
    let fetch = |what: &str, argv: &[&str]| {
        let _ = std::fs::remove_file(&got);
        scene.run(Host::Client, &[&["curl", "-sS", "-m", "20", "-o", &to], argv].concat());
        assert!(std::fs::read(&got).expect("curl wrote it") == content, "{what}: another file came");
    };
    fetch("HTTP over IPv4", &["http://10.2.0.10/file"]);
    fetch("HTTP over IPv6", &["http://[fd00:2::10]/file"]);

    let _ftp = servers::ftp(&scene, Host::ServerA, &folder);
    fetch("passive FTP", &["--disable-epsv", "ftp://10.2.0.10/file"]);
    fetch("extended passive FTP", &["ftp://10.2.0.10/file"]);

    assert!(scene.pings(Host::Client, "10.2.0.10", 5) && scene.pings(Host::Client, "fd00:2::10", 5));
    for (program, to, first, last) in
        [("-4", "10.2.0.10", "10.1.0.1", "10.2.0.10"), ("-6", "fd00:2::10", "fd00:1::1", "fd00:2::10")]
    {
        let traced = scene.run(Host::Client, &["traceroute", program, "-n", "-q", "1", "-w", "2", to]).stdout;
        let hops: Vec<&str> =
            traced.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!(hops, [first, last], "{traced}");
    }

    let _dns = servers::dns(&scene, Host::ServerA, "a.test", "192.0.2.7");
    let queries = scene.lab.directory().join("queries");
    std::fs::write(&queries, "a.test A\nb.a.test A\n").expect("the lab's folder takes files");
    let queries = queries.to_string_lossy().into_owned();
    // A session for each of the sockets, and more of them each time it is run.
    let asked = scene.run(
        Host::Client,
        &["dnsperf", "-s", "10.2.0.10", "-d", &queries, "-c", "50", "-T", "1", "-l", "2", "-Q", "5000"],
    );
    let figure = |name: &str| {
        let line = asked.stdout.lines().find(|line| line.trim_start().starts_with(name));
        let word =
            line.and_then(|line| line.split_whitespace().nth(2)).and_then(|word| word.parse::<u64>().ok());
        word.unwrap_or_else(|| panic!("no `{name}` in {}", asked.stdout))
    };
    let (sent, answered) = (figure("Queries sent:"), figure("Queries completed:"));
    assert!(sent > 1000 && answered * 100 >= sent * 99, "{}", asked.stdout);

    let _iperf = scene.lab.spawn(Host::ServerA, &["iperf3", "-s"], "iperf3.log").expect("iperf3 starts");
    eventually("iperf3 listens", Duration::from_secs(5), || {
        let listening = scene.run(Host::ServerA, &["ss", "-Hltn", "sport", "=", ":5201"]).stdout;
        (!listening.is_empty()).then_some(())
    });
    let measured = scene.run(Host::Client, &["iperf3", "-c", "10.2.0.10", "-P", "100", "-t", "2", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&measured.stdout).expect("iperf3 prints JSON");
    let streams = report["end"]["streams"].as_array().expect("a list of streams");
    let moved = streams.iter().filter(|stream| stream["receiver"]["bytes"].as_u64() > Some(0)).count();
    assert_eq!((streams.len(), moved), (100, 100), "every stream moves");
    // All of it under the box's address.
    let sessions = scene.show("sessions --function outer --limit 1000");
    let rows = sessions.as_array().expect("a list");
    let of = |row: &serde_json::Value| row["translated_source"].as_str().unwrap_or_default().to_owned();
    assert!(
        rows.len() > 100
            && rows.iter().all(|row| of(row).contains("10.2.0.1") || of(row).contains("fd00:2::1"))
    );
}

#[test]
fn path_mtu_discovery_crosses_it() {
    if !privileged() {
        return;
    }
    let scene = Scene::running(&masquerading("", ""));
    no_way_back(&scene);
    // Behind server a, which forwards, there is a link with a smaller MTU to server b.
    let (a, b) = (scene.lab.namespace(Host::ServerA), scene.lab.namespace(Host::ServerB));
    let link =
        ["ip", "link", "add", "far0", "netns", &a, "mtu", "1300", "type", "veth", "peer", "name", "far0"];
    scene.run(Host::Box, &[&link[..], &["netns", &b, "mtu", "1300"]].concat());
    for (host, address) in [(Host::ServerA, "10.98.0.1/24"), (Host::ServerB, "10.98.0.2/24")] {
        scene.run(host, &["ip", "address", "add", address, "dev", "far0"]);
        scene.run(host, &["ip", "link", "set", "far0", "up"]);
    }
    scene.run(Host::ServerA, &["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
    // Server b offers segments that only the first link could carry: the client has to be told of the second.
    scene.run(Host::ServerB, &["ip", "route", "add", "10.2.0.0/24", "via", "10.98.0.1", "advmss", "1460"]);
    scene.run(Host::Box, &["ip", "route", "add", "10.98.0.0/24", "via", "10.2.0.10"]);
    eventually("the way is there", Duration::from_secs(10), || {
        scene.pings(Host::Client, "10.98.0.2", 1).then_some(())
    });
    let told = scene
        .lab
        .exec(Host::Client, &["ping", "-n", "-M", "do", "-s", "1400", "-c", "1", "-W", "2", "10.98.0.2"]);
    let told = told.unwrap_or_else(|error| panic!("{error}"));
    assert!((told.stdout + &told.stderr).contains("mtu = 1300"), "who sends too much is told");
    let script = "import socket; s = socket.create_server(('10.98.0.2', 9000)); c, _ = s.accept(); n = 0\n\
                  while True:\n d = c.recv(65536)\n if not d: break\n n += len(d)\nprint(n)";
    let server = scene.lab.spawn(Host::ServerB, &["python3", "-c", script], "sink.log");
    let mut server = server.unwrap_or_else(|error| panic!("{error}"));
    eventually("the server listens", Duration::from_secs(5), || {
        let listening = scene.run(Host::ServerB, &["ss", "-Hltn", "sport", "=", ":9000"]).stdout;
        (!listening.is_empty()).then_some(())
    });
    // Forgotten again: TCP has to find it out for itself.
    scene.run(Host::Client, &["ip", "route", "flush", "cache"]);
    let send = "import socket; s = socket.create_connection(('10.98.0.2', 9000), 5); s.sendall(b'x' * 2000000); s.close()";
    scene.run(Host::Client, &["python3", "-c", send]);
    assert!(server.wait(Duration::from_secs(10)).expect("it ends").success());
    let received = std::fs::read_to_string(scene.lab.directory().join("sink.log")).unwrap_or_default();
    assert_eq!(received.trim(), "2000000");
    let learnt = scene.run(Host::Client, &["ip", "route", "get", "10.98.0.2"]).stdout;
    assert!(learnt.contains("mtu 1300"), "{learnt}");
}

#[test]
fn the_box_goes_on_by_the_address_it_masquerades_as() {
    if !privileged() {
        return;
    }
    let scene = Scene::running(&masquerading("", ""));
    no_way_back(&scene);
    let _http = servers::http(&scene, Host::ServerA, &folder_with(&scene, b"hello\n"));
    // The client's traffic goes on beside.
    let flood = ["ping", "-n", "-q", "-i", "0.01", "-c", "500", "10.2.0.10"];
    let mut beside = scene.lab.spawn(Host::Client, &flood, "beside.log").expect("ping starts");
    for host in [Host::Box, Host::Client] {
        for url in ["http://10.2.0.10/file", "http://[fd00:2::10]/file"] {
            let got = scene.run(host, &["curl", "-sS", "-m", "10", url]).stdout;
            assert_eq!(got, "hello\n", "{} {url}", host.name());
        }
    }
    // Answers to its pings are its own, and no client's.
    assert!(scene.pings(Host::Box, "10.2.0.10", 20) && scene.pings(Host::Box, "fd00:2::10", 20));
    assert!(scene.page().sum("throughway_given_to_host_packets_total", &[]) >= 40.0);
    // So are errors about its packets: nobody listens there, and no router leads there.
    let script = "import socket, sys; s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)\n\
                  s.settimeout(3); s.connect((sys.argv[1], 9999)); s.send(b'x')\n\
                  try: s.recv(1)\nexcept ConnectionRefusedError: print('refused')";
    for to in ["10.2.0.10", "fd00:2::10"] {
        assert_eq!(scene.run(Host::Box, &["python3", "-c", script, to]).stdout.trim(), "refused", "{to}");
        assert_eq!(scene.run(Host::Client, &["python3", "-c", script, to]).stdout.trim(), "refused", "{to}");
    }
    let traced = scene.run(Host::Box, &["traceroute", "-n", "-q", "1", "-w", "2", "10.2.0.10"]).stdout;
    assert!(traced.lines().nth(1).is_some_and(|line| line.contains("10.2.0.10")), "{traced}");
    // Others reach it as before.
    assert!(scene.pings(Host::ServerA, "10.2.0.1", 3), "it answers pings");
    assert!(beside.wait(Duration::from_secs(20)).expect("ping ends").success());
    let beside = std::fs::read_to_string(scene.lab.directory().join("beside.log")).unwrap_or_default();
    assert!(beside.contains(" 0% packet loss"), "{beside}");
}

#[test]
fn ports_of_the_box_are_left_to_it() {
    if !privileged() {
        return;
    }
    let scene = Scene::with(&throughway_lab::LabOptions::new(throughway_tests::scene::PREFIX));
    scene.run(Host::Box, &["sysctl", "-qw", "net.ipv4.ip_local_port_range=20000 40000"]);
    let bind = "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('0.0.0.0', 7001)); time.sleep(60)";
    let _socket = scene.lab.spawn(Host::Box, &["python3", "-c", bind], "socket.log").expect("it starts");
    let bound = || {
        let bound = scene.run(Host::Box, &["ss", "-Huan", "sport", "=", ":7001"]).stdout;
        (!bound.is_empty()).then_some(())
    };
    eventually("the socket is there", Duration::from_secs(5), bound);
    let mut scene = scene;
    scene.start(&masquerading("", ""));
    // A port that is free stays what it is; one that the box has, or may get any time, does not.
    let send = "import socket, sys\nfor port in sys.argv[1:]:\n \
                s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', int(port))); s.sendto(b'x', ('10.2.0.10', 9))";
    scene.run(Host::Client, &["python3", "-c", send, "7000", "7001", "20000", "30001", "40000", "40001"]);
    let sessions = eventually("all sessions are there", Duration::from_secs(5), || {
        let sessions = scene.show("sessions --function outer --protocol udp");
        (sessions.as_array().map(Vec::len) == Some(6)).then_some(sessions)
    });
    let port_of = |text: &serde_json::Value| {
        text.as_str()
            .and_then(|text| text.rsplit(':').next()?.parse::<u16>().ok())
            .expect("an address and a port")
    };
    for row in sessions.as_array().into_iter().flatten() {
        let (inside, outside) = (port_of(&row["source"]), port_of(&row["translated_source"]));
        let free = matches!(inside, 7000 | 40001);
        assert_eq!(inside == outside, free, "{inside} became {outside}");
        assert!(outside != 7001 && !(20000..=40000).contains(&outside), "{inside} became {outside}");
    }
    let capacity = scene.page().sum("throughway_nat_pool_capacity_ports", &[("rule", "source 1")]);
    // An IPv4 address and an IPv6 one.
    assert_eq!(capacity, 2.0 * f64::from(65536 - 1024 - 20001));
}

#[test]
fn sessions_end_with_the_address_they_had() {
    if !privileged() {
        return;
    }
    let scene = Scene::running(&masquerading("", ""));
    throughway_tests::echo::serve(&scene.lab, Host::ServerA);
    let to = "10.2.0.10".parse().expect("an address");
    let open = || throughway_tests::echo::Connection::open(&scene.lab, Host::Client, to);
    let mut old = open().expect("it connects");
    old.exchange().expect("it is echoed");
    // As a DHCP client does when it is given another address.
    scene.run(Host::Box, &["ip", "address", "add", "10.2.0.77/24", "dev", "wan0"]);
    scene.run(Host::Box, &["ip", "address", "del", "10.2.0.1/24", "dev", "wan0"]);
    scene.run(Host::Box, &["ip", "address", "replace", "10.2.0.77/24", "dev", "wan0"]);
    let seen = || {
        let sessions = scene.show("sessions --function outer --protocol tcp");
        let rows = sessions.as_array().cloned().unwrap_or_default();
        rows.iter()
            .map(|row| row["translated_source"].as_str().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    eventually("the sessions on the old address end", Duration::from_secs(10), || {
        (!seen().iter().any(|source| source.starts_with("10.2.0.1:"))).then_some(())
    });
    let mut new = eventually("connections by the new address", Duration::from_secs(10), || open().ok());
    (0..10).for_each(|_| new.exchange().expect("it is echoed"));
    assert!(seen().iter().any(|source| source.starts_with("10.2.0.77:")), "{:?}", seen());
}

#[test]
fn blocks_are_logged_and_pools_are_counted() {
    if !privileged() {
        return;
    }
    let mut config = Config::default();
    let nat = "{ nat: { outside: wan, source: [ { match: { source: 10.1.0.0/16 }, pool: 10.2.0.100-10.2.0.101, \
               ports: 1024-1087, block-size: 16, blocks-per-host: 2 } ], limits: { rate-per-host: \"1000/s, burst 1000\" } } }";
    config.functions.push(("cgnat", nat.to_owned()));
    config.run.insert(0, "cgnat");
    let mut scene = Scene::running(&config);
    // 40 ports are asked for, and there are two blocks of 16.
    let send = "import socket\nfor n in range(40):\n s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n \
                s.bind(('', 5000 + n)); s.sendto(b'x', ('10.2.0.10', 9))";
    scene.run(Host::Client, &["python3", "-c", send]);
    let lines = eventually("both blocks are logged", Duration::from_secs(5), || {
        let log = scene.service().log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let blocks: Vec<_> = lines.filter(|line| line["event"] == "port-block").collect();
        (blocks.len() >= 2).then_some(blocks)
    });
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in &lines {
        assert_eq!((&line["function"], &line["action"]), (&"cgnat".into(), &"allocated".into()));
        assert_eq!(line["inside"], "10.1.0.10");
        assert_eq!(line["outside"], lines[0]["outside"], "paired");
        let (first, last) =
            (line["first_port"].as_u64().unwrap_or(0), line["last_port"].as_u64().unwrap_or(0));
        assert!(last - first == 15 && (1024..=1072).contains(&first), "{line}");
    }
    let page = scene.page();
    let of = [("function", "cgnat"), ("rule", "source 1"), ("pool", "10.2.0.100/31")];
    let sum = |name: &str, more: &[(&str, &str)]| page.sum(name, &[&of[..], more].concat());
    assert_eq!(sum("throughway_nat_pool_addresses", &[]), 2.0);
    assert_eq!(sum("throughway_nat_pool_capacity_ports", &[]), 128.0);
    assert_eq!(sum("throughway_nat_pool_ports", &[("protocol", "udp"), ("state", "used")]), 32.0);
    assert_eq!(sum("throughway_nat_pool_blocks", &[("state", "used")]), 2.0);
    assert_eq!(sum("throughway_nat_pool_blocks", &[("state", "free")]), 6.0);
    assert_eq!(sum("throughway_nat_pool_refused_total", &[("reason", "host-blocks")]), 8.0);
    assert_eq!(page.sum("throughway_nat_mappings", &[("function", "cgnat")]), 32.0);
    assert_eq!(page.sum("throughway_dropped_packets_total", &[("reason", "nat-no-port")]), 8.0);
}
