//! The JSON Schema that is kept in the repository is the one of this code.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use serde_json::Value;
use throughway_config::Config;

/// `UPDATE_EXPECT=1` writes it anew.
#[test]
fn the_kept_schema_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema.json");
    let schema = throughway_config::schema();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, &schema).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == schema,
        "config/schema.json is stale: UPDATE_EXPECT=1 cargo test -p throughway-config --test schema"
    );
}

/// Visits every object of the schema that describes a map of the file with fixed keys.
fn maps<'a>(schema: &'a Value, visit: &mut impl FnMut(&'a Value)) {
    if schema.get("properties").is_some_and(Value::is_object) && schema.get("type").is_some() {
        visit(schema);
    }
    match schema {
        Value::Object(members) => members.values().for_each(|member| maps(member, visit)),
        Value::Array(elements) => elements.iter().for_each(|element| maps(element, visit)),
        _ => {}
    }
}

#[test]
fn editors_are_told_every_key_with_its_description_and_nothing_else_is_allowed() {
    let schema: Value = serde_json::from_str(&throughway_config::schema()).unwrap();
    let mut keys = Vec::new();
    maps(&schema, &mut |map| {
        assert_eq!(map["additionalProperties"], false, "{map:#}");
        for (key, value) in map["properties"].as_object().unwrap() {
            let described = value.get("description").is_some() || value.get("$ref").is_some();
            assert!(described, "`{key}` has no description: {value:#}");
            keys.push(key.as_str());
        }
    });
    for key in
        ["interfaces", "zero-copy", "cores", "kernel-routes", "prefix", "to-port", "run", "listen", "socket"]
    {
        assert!(keys.contains(&key), "{key} is not in {keys:?}");
    }
}

/// Whether `value` is as `schema` wants it, by the words of JSON Schema that ours uses; patterns are not looked at.
fn fits(root: &Value, schema: &Value, value: &Value) -> bool {
    let Value::Object(rules) = schema else { return schema == true };
    let number = |rule: &Value, value: &Value| Some((rule.as_f64()?, value.as_f64()?));
    let all =
        |rule: &Value| rule.as_array().unwrap().iter().filter(|schema| fits(root, schema, value)).count();
    let is = |kind: &str| match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("type {other}"),
    };
    rules.iter().all(|(word, rule)| match word.as_str() {
        "$ref" => fits(root, root.pointer(rule.as_str().unwrap().strip_prefix('#').unwrap()).unwrap(), value),
        "type" => match rule {
            Value::String(kind) => is(kind),
            kinds => kinds.as_array().unwrap().iter().any(|kind| is(kind.as_str().unwrap())),
        },
        "const" => value == rule,
        "enum" => rule.as_array().unwrap().contains(value),
        "oneOf" => all(rule) == 1,
        "anyOf" => all(rule) >= 1,
        "minimum" => number(rule, value).is_none_or(|(least, value)| value >= least),
        "maximum" => number(rule, value).is_none_or(|(most, value)| value <= most),
        "minItems" => value.as_array().is_none_or(|list| list.len() as u64 >= rule.as_u64().unwrap()),
        "minProperties" => value.as_object().is_none_or(|map| map.len() as u64 >= rule.as_u64().unwrap()),
        "items" => value.as_array().is_none_or(|list| list.iter().all(|element| fits(root, rule, element))),
        "required" => value.as_object().is_none_or(|map| {
            rule.as_array().unwrap().iter().all(|key| map.contains_key(key.as_str().unwrap()))
        }),
        "properties" => value.as_object().is_none_or(|map| {
            map.iter().all(|(key, value)| rule.get(key).is_none_or(|schema| fits(root, schema, value)))
        }),
        "additionalProperties" => value.as_object().is_none_or(|map| {
            let known =
                |key: &str| rules.get("properties").is_some_and(|properties| properties.get(key).is_some());
            map.iter().all(|(key, value)| known(key) || fits(root, rule, value))
        }),
        "title" | "description" | "examples" | "pattern" | "propertyNames" | "$schema" | "$defs" => true,
        other => panic!("`{other}` is not known to this test"),
    })
}

#[test]
fn the_schema_accepts_the_examples_and_refuses_wrong_shapes() {
    let schema: Value = serde_json::from_str(&throughway_config::schema()).unwrap();
    // As editors read YAML 1.2: `off` is a word.
    let options = serde_saphyr::options! { strict_booleans: true };
    let parse = |text: &str| serde_saphyr::from_str_with_options::<Value>(text, options.clone()).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));

    let page = fs::read_to_string(folder.join("../docs/config.md")).unwrap();
    let blocks = page.split("```yaml\n").skip(1).map(|block| block.split("```").next().unwrap().to_owned());
    let files = fs::read_dir(folder.join("examples"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| fs::read_to_string(path).unwrap());
    // Files that they name lie beside the examples.
    let name = folder.join("examples/any.yaml").display().to_string();
    let right: Vec<String> = blocks.chain(files).collect();
    assert!(right.len() >= 6);
    for text in right {
        assert!(Config::parse(&name, &text).is_ok() && fits(&schema, &schema, &parse(&text)), "{text}");
    }

    for name in [
        "interface-unknown-key",
        "interface-without-device",
        "queues-zero",
        "queues-word",
        "xdp-typo",
        "cores-empty",
        "frames-not-power-of-two",
        "function-unknown-kind",
        "function-of-two-kinds",
        "kernel-routes-yes",
        "routes-is-a-map",
        "rule-without-dscp",
        "rule-dscp-number",
        "rule-port-zero",
        "chain-runs-nothing",
        "metrics-on",
        "unknown-section",
        "firewall-unknown-key",
        "firewall-without-default",
        "firewall-match-key-empty",
        "firewall-match-key-typo",
        "firewall-rate-empty",
        "firewall-flags-typo",
        "nat-without-outside",
        "nat-match-state",
        "balancer-health-key",
        "balancer-without-vip",
    ] {
        let text = fs::read_to_string(folder.join(format!("tests/bad/{name}.yaml"))).unwrap();
        assert!(!fits(&schema, &schema, &parse(&text)), "{name} fits the schema");
    }
}
