//! What criterion measured, gathered from where it leaves its estimates.

use std::path::Path;

use serde_json::Value;

use crate::results::Micro;

/// All benches that left estimates under `directory` (`target/criterion`), by name.
pub fn gather(directory: &Path) -> Vec<Micro> {
    let mut found = Vec::new();
    walk(directory, &mut found);
    found.sort_by(|one, two| one.name.cmp(&two.name));
    found
}

fn walk(directory: &Path, found: &mut Vec<Micro>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
        if path.file_name().is_some_and(|name| name == "new") {
            found.extend(one(&path));
        } else {
            walk(&path, found);
        }
    }
}

fn one(directory: &Path) -> Option<Micro> {
    let read = |name: &str| -> Option<Value> {
        serde_json::from_str(&std::fs::read_to_string(directory.join(name)).ok()?).ok()
    };
    let (about, estimates) = (read("benchmark.json")?, read("estimates.json")?);
    let name = about.get("full_id")?.as_str()?.to_owned();
    let ns = estimates.get("median")?.get("point_estimate")?.as_f64()?;
    let elements = about.get("throughput").and_then(|throughput| throughput.get("Elements")?.as_f64());
    Some(Micro { name, ns, ns_each: elements.filter(|count| *count > 0.0).map(|count| ns / count) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_are_found_and_divided() {
        let directory = std::env::temp_dir().join(format!("throughway-micro-{}", std::process::id()));
        let new = directory.join("steps").join("parse").join("new");
        std::fs::create_dir_all(&new).unwrap();
        std::fs::write(
            new.join("benchmark.json"),
            r#"{"full_id":"steps/parse","throughput":{"Elements":64}}"#,
        )
        .unwrap();
        std::fs::write(new.join("estimates.json"), r#"{"median":{"point_estimate":640.0}}"#).unwrap();
        let found = gather(&directory);
        assert_eq!(found, [Micro { name: "steps/parse".to_owned(), ns: 640.0, ns_each: Some(10.0) }]);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
