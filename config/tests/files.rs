//! Whole files: the examples and the documentation are accepted, the bad ones are refused at the right place.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use throughway_config::{Config, Errors, FunctionKind, Mss, Target, Urpf};

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The YAML files of a folder, sorted.
fn yaml_files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(here(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
}

/// Refuses `text` under a short name.
fn refused(path: &Path) -> Errors {
    let text = fs::read_to_string(path).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    Config::parse(name, &text).expect_err(&format!("{name} is accepted"))
}

#[test]
fn every_example_is_accepted_without_a_warning() {
    let files = yaml_files("examples");
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        match Config::load(&file) {
            Ok((_, warnings)) => assert!(warnings.is_empty(), "{}", warnings[0]),
            Err(errors) => panic!("{errors}"),
        }
    }
}

#[test]
fn every_example_of_the_documentation_is_accepted() {
    let page = fs::read_to_string(here("../docs/config.md")).unwrap();
    let mut blocks = 0;
    for block in page.split("```yaml\n").skip(1) {
        let text = block.split("```").next().unwrap();
        // Files that it names lie beside the examples.
        let name = here("examples/docs.yaml").display().to_string();
        if let Err(errors) = Config::parse(&name, text) {
            panic!("{errors}\n\n{text}");
        }
        blocks += 1;
    }
    assert!(blocks >= 1);
}

/// Each bad file begins with comments, one for each error that must be found, in the order of the file:
/// `# expect: LINE:COLUMN MESSAGE ^ HELP`, both in part, one may be left out; `file` instead of the place means the whole
/// file, `OTHER:LINE:COLUMN` a place in a file that it names. No other error may be found.
#[test]
fn every_bad_file_is_refused_at_the_right_place() {
    let files = yaml_files("tests/bad");
    assert!(files.len() >= 50, "{}", files.len());
    let mut complaints = String::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let expected: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("# expect: ")).collect();
        assert!(!expected.is_empty(), "{} expects nothing", file.display());
        let errors = refused(&file);
        let problems = errors.problems();
        let as_expected = problems.len() == expected.len()
            && problems.iter().zip(&expected).all(|(problem, expected)| {
                let (place, what) = expected.split_once(' ').unwrap();
                let mut found =
                    problem.span.map_or("file".to_owned(), |span| format!("{}:{}", span.line, span.column));
                if Path::new(&problem.file).file_name() != file.file_name() {
                    found.insert_str(0, &format!("{}:", problem.file));
                }
                let help = problem.help.as_deref().unwrap_or_default();
                found == place
                    && match what.split_once(" ^ ") {
                        Some((message, advice)) => problem.message.contains(message) && help.contains(advice),
                        None => problem.message.contains(what) || help.contains(what),
                    }
            });
        if !as_expected {
            writeln!(complaints, "expected {expected:#?}, found:\n{errors}\n").unwrap();
        }
    }
    assert!(complaints.is_empty(), "\n{complaints}");
}

/// The printed form, for a few files. `UPDATE_EXPECT=1` writes it anew.
#[test]
fn errors_are_printed_with_an_excerpt() {
    for name in [
        "several-errors",
        "long-line",
        "beyond-ascii",
        "missing-chains",
        "chain-never-sends",
        "two-documents",
    ] {
        let printed = format!("{}\n", refused(&here(&format!("tests/bad/{name}.yaml"))));
        let snapshot = here(&format!("tests/bad/{name}.txt"));
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&snapshot, &printed).unwrap();
        }
        assert_eq!(printed, fs::read_to_string(&snapshot).unwrap(), "{name}");
    }
}

#[test]
fn a_missing_file_and_one_that_is_not_text_are_errors() {
    let errors = Config::load(here("no-such-file.yaml")).unwrap_err();
    assert!(errors.to_string().contains("no-such-file.yaml: error: the file cannot be read"), "{errors}");

    let binary = std::env::temp_dir().join(format!("throughway-config-{}.yaml", std::process::id()));
    fs::write(&binary, [0xff, 0xfe, 0x00]).unwrap();
    let errors = Config::load(&binary);
    fs::remove_file(&binary).unwrap();
    assert!(errors.unwrap_err().to_string().contains("not UTF-8"));
}

#[test]
fn the_fast_path_is_off_unless_asked_for_and_has_bounds() {
    let text = |lan: &str, more: &str| {
        format!(
            "interfaces: {{ lan: {{ device: eth1{lan} }}, wan: {{ device: eth2 }} }}\n{more}\n\
             functions: {{ core: {{ router: {{}} }} }}\nchains: {{ all: {{ from: [lan, wan], run: core }} }}\n"
        )
    };
    let read = |lan: &str, more: &str| Config::parse("a.yaml", &text(lan, more));
    let (config, _) = read("", "").unwrap();
    assert_eq!((config.interfaces[0].fast_path.word(), config.fast_path.flows), ("off", 65_536));
    assert_eq!(config.fast_path.keep.to_string(), "1s");
    let (config, _) = read(", fast-path: eager", "fast-path: { flows: 4096, keep: 0s }").unwrap();
    assert_eq!(
        (config.interfaces[0].fast_path.word(), config.interfaces[1].fast_path.word()),
        ("eager", "off")
    );
    assert_eq!((config.fast_path.flows, config.fast_path.keep.to_string().as_str()), (4096, "1s"));
    let (config, _) = read(", fast-path: auto", "fast-path: { keep: 2m }").unwrap();
    assert_eq!(
        (config.interfaces[0].fast_path.word(), config.fast_path.keep.to_string().as_str()),
        ("auto", "2m")
    );
    for (lan, more, what) in [
        (", fast-path: always", "", "always"),
        (", fast-path: auto, checksum: recompute", "", "every packet must go through a worker"),
        ("", "fast-path: { flows: 0 }", "16"),
        ("", "fast-path: { keep: 2h }", "at most 1h"),
    ] {
        let error = read(lan, more).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn a_stop_leaves_sessions_behind_and_removes_the_program_unless_it_is_said() {
    let text = |more: &str| {
        format!(
            "interfaces: {{ lan: {{ device: eth1 }}, wan: {{ device: eth2 }} }}\n{more}\n\
             functions: {{ core: {{ router: {{}} }} }}\nchains: {{ all: {{ from: [lan, wan], run: core }} }}\n"
        )
    };
    for (more, program, sessions) in [
        ("", "remove", "5m"),
        ("at-stop: { program: keep }", "keep", "5m"),
        ("at-stop: { program: remove, sessions: 0s }", "remove", "0s"),
        ("at-stop: { sessions: 24h }", "remove", "1d"),
    ] {
        let (config, _) = Config::parse("a.yaml", &text(more)).unwrap();
        let at_stop = config.at_stop;
        assert_eq!((at_stop.program.word(), at_stop.sessions.to_string().as_str()), (program, sessions));
    }
    for (more, what) in [
        ("at-stop: { program: kept }", "expected `remove` or `keep`"),
        ("at-stop: { sessions: 25h }", "at most 1d"),
        ("at-stop: { sessions: forever }", "is not a duration"),
        ("at-stop: { session: 5m }", "did you mean `sessions`?"),
        ("at-stop: keep", "a.yaml:2:"),
    ] {
        let error = Config::parse("a.yaml", &text(more)).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn the_full_example_means_what_it_says() {
    let text = r#"
interfaces:
  lan: { device: eth1 }
  wan: { device: eth2, queues: 5, xdp: native, zero-copy: require, checksum: recompute, on-failure: closed }
workers: { cores: [0, "2-4", 7], poll: busy, frames: 4096 }
functions:
  voice:
    marker: { rules: [ { protocol: udp, to-port: [5060, 6000-6010], dscp: cs3 }, { dscp: ef } ] }
  core:
    router:
      table: 100
      urpf: strict
      mss: 1360
      routes:
        - { prefix: "::/0", via: "fe80::1", interface: wan }
        - { prefix: 10.9.0.0/16, blackhole: true, metric: 5 }
        - { prefix: 10.8.0.1, interface: lan, prohibit: false }
chains:
  outbound: { from: lan, run: [voice, core] }
  inbound: { from: wan, run: core }
metrics: { listen: "[::1]:9000" }
api: { socket: run/api.sock }
"#;
    let (config, warnings) =
        Config::parse("/etc/throughway/a.yaml", text).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(warnings, []);

    let [lan, wan] = config.interfaces.as_slice() else { panic!("{:?}", config.interfaces) };
    assert_eq!((&*lan.name, &*lan.device, lan.queues), ("lan", "eth1", None));
    assert_eq!(
        (lan.xdp.word(), lan.zero_copy.word(), lan.checksum.word(), lan.on_failure.word()),
        ("auto", "auto", "trust", "open")
    );
    assert_eq!(wan.queues, Some(5));
    assert_eq!(
        (wan.xdp.word(), wan.zero_copy.word(), wan.checksum.word(), wan.on_failure.word()),
        ("native", "require", "recompute", "closed")
    );
    assert_eq!(config.workers.cores, [0, 2, 3, 4, 7]);
    assert_eq!((config.workers.poll.word(), config.workers.frames), ("busy", 4096));

    let wan_id = config.interface_named("wan").unwrap();
    assert_eq!(config.interface(wan_id), wan);
    let core = config.function(config.function_named("core").unwrap());
    let FunctionKind::Router(router) = &core.kind else { panic!("{core:?}") };
    assert_eq!((router.table.0, router.kernel_routes), (100, true));
    assert_eq!((router.urpf, router.mss), (Urpf::Strict, Mss::Bytes(1360)));
    let targets: Vec<_> =
        router.routes.iter().map(|route| (route.prefix.to_string(), route.target, route.metric)).collect();
    assert_eq!(
        targets,
        [
            (
                "::/0".to_owned(),
                Target::Via { gateway: "fe80::1".parse().unwrap(), interface: Some(wan_id) },
                0
            ),
            ("10.9.0.0/16".to_owned(), Target::Blackhole, 5),
            ("10.8.0.1/32".to_owned(), Target::Interface(config.interface_named("lan").unwrap()), 0),
        ]
    );
    let FunctionKind::Marker(marker) = &config.functions[0].kind else { panic!("{:?}", config.functions) };
    let [sip, rest] = marker.rules.as_slice() else { panic!("{marker:?}") };
    assert_eq!((sip.protocol.unwrap().get(), sip.dscp.get()), (17, 24));
    let ports: Vec<_> = sip.to_port.iter().map(|range| (range.first(), range.last())).collect();
    assert_eq!(ports, [(5060, 5060), (6000, 6010)]);
    assert!(rest.matches_everything() && !sip.matches_everything());
    assert_eq!(rest.dscp.get(), 46);

    let outbound = config.chain_from(config.interface_named("lan").unwrap()).unwrap();
    assert_eq!(&*outbound.name, "outbound");
    let run: Vec<&str> = outbound.run.iter().map(|id| &*config.function(*id).name).collect();
    assert_eq!(run, ["voice", "core"]);
    assert_eq!(config.metrics.as_ref().unwrap().listen.to_string(), "[::1]:9000");
    assert_eq!(config.api.socket, Path::new("/etc/throughway/run/api.sock"));
    assert_eq!(config.resolve("bogons.txt"), Path::new("/etc/throughway/bogons.txt"));
    assert_eq!(config.resolve("/bogons.txt"), Path::new("/bogons.txt"));
}

const SMALL: &str = "interfaces:\n  lan: { device: eth1 }\nfunctions:\n  core:\n    router:\nchains:\n  a: { from: lan, run: [core] }\n";

#[test]
fn what_is_left_out_has_its_default() {
    let (config, _) = Config::parse("a.yaml", SMALL).unwrap();
    assert_eq!(config.workers.cores, [0]);
    assert_eq!((config.workers.poll.word(), config.workers.frames), ("adaptive", 16384));
    assert_eq!(config.metrics.unwrap().listen.to_string(), "127.0.0.1:9464");
    assert_eq!(config.api.socket, Path::new("/run/throughway/api.sock"));
    let FunctionKind::Router(router) = &config.functions[0].kind else { panic!() };
    assert_eq!((router.table.0, router.kernel_routes, router.routes.len()), (254, true, 0));

    let (config, _) = Config::parse("a.yaml", &format!("{SMALL}metrics: off\n")).unwrap();
    assert_eq!(config.metrics, None);
}

#[test]
fn warnings_have_places_too() {
    let text = SMALL.replace(
        "chains:",
        "  spare:\n    marker: { rules: [ { dscp: ef }, { dscp: cs1 } ] }\n  odd:\n    router: { table: 7, kernel-routes: false, routes: [ { prefix: 0.0.0.0/0, interface: lan } ] }\nchains:",
    );
    let (_, warnings) = Config::parse("a.yaml", &text).unwrap();
    let found: Vec<_> =
        warnings.iter().map(|warning| (warning.0.span.unwrap().line, warning.0.message.as_str())).collect();
    assert_eq!(
        found,
        [
            (6, "function `spare` is in no chain"),
            (7, "this rule is never reached"),
            (8, "function `odd` is in no chain"),
            (9, "`table` has no effect with `kernel-routes: false`"),
        ]
    );
    assert_eq!(
        warnings[1].to_string(),
        "a.yaml:7:38: warning: this rule is never reached\n  |\n7 |     marker: { rules: [ { dscp: ef }, { dscp: cs1 } ] }\n  |                                      ^ the rule at line 7 matches every packet"
    );
}

#[test]
fn messages_do_not_carry_control_characters_to_the_terminal() {
    let text = SMALL.replace("eth1", "\"\\e[31m\"");
    let errors = Config::parse("a.yaml", &text).unwrap_err();
    assert!(!errors.to_string().contains('\u{1b}'), "{errors}");
}

#[test]
fn mss_is_a_word_or_a_number_of_bytes() {
    for (written, expected) in
        [("", Mss::Off), ("mss: off", Mss::Off), ("mss: clamp", Mss::Clamp), ("mss: 1360", Mss::Bytes(1360))]
    {
        let text = format!(
            "interfaces: {{ lan: {{ device: lan0 }} }}\nfunctions: {{ core: {{ router: {{ {written} }} }} }}\n\
             chains: {{ all: {{ from: lan, run: [core] }} }}\n"
        );
        let (config, _) = Config::parse("test.yaml", &text).unwrap();
        let FunctionKind::Router(router) = &config.functions[0].kind else { panic!("{config:?}") };
        assert_eq!(router.mss, expected, "{written}");
    }
}
