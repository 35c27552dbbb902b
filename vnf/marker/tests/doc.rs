//! `docs/write-a-function.md` quotes sources: each quotation must stand in the file that it names, word for word.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A block of Rust with the file it claims to be from.
#[derive(Debug, PartialEq)]
struct Excerpt {
    file: String,
    text: String,
}

/// The blocks of Rust of a page. The last line before a block names its file: "From `path`:".
fn excerpts(page: &str) -> Vec<Excerpt> {
    let mut found = Vec::new();
    let mut lead = "";
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if line == "```rust" {
            let named = lead
                .rsplit_once('`')
                .and_then(|(rest, tail)| (tail == ":").then(|| rest.rsplit_once('`'))?);
            let Some((_, file)) = named else { panic!("a block of Rust without its file, after {lead:?}") };
            let text: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            found.push(Excerpt { file: file.to_owned(), text: text.join("\n") });
        } else if !line.is_empty() {
            lead = line;
        }
    }
    found
}

/// Whether `text` stands in `source` as whole lines. Leading space of the first line does not count: that is where an
/// excerpt begins inside of something.
fn stands_in(text: &str, source: &str) -> bool {
    let (text, source): (Vec<&str>, Vec<&str>) = (text.lines().collect(), source.lines().collect());
    let Some((first, rest)) = text.split_first() else { return false };
    source
        .windows(text.len())
        .any(|window| window[0].trim_start() == first.trim_start() && window[1..] == *rest)
}

/// Paths of this repository that a page names in backquotes. Those with a placeholder are not paths.
fn paths(page: &str) -> Vec<&str> {
    let quoted = page.split('`').skip(1).step_by(2);
    quoted
        .filter(|text| ["vnf/", "config/", "dataplane/", "docs/"].iter().any(|top| text.starts_with(top)))
        .filter(|text| !text.contains("NAME"))
        .collect()
}

fn page() -> String {
    fs::read_to_string(root().join("docs/write-a-function.md")).unwrap()
}

#[test]
fn every_excerpt_stands_in_its_file() {
    let page = page();
    let excerpts = excerpts(&page);
    assert_eq!(excerpts.len(), page.matches("```rust").count());
    assert!(excerpts.len() >= 8, "the page should show the whole function: {} excerpts", excerpts.len());
    for Excerpt { file, text } in excerpts {
        let source = fs::read_to_string(root().join(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(stands_in(&text, &source), "not in {file} (any more):\n{text}");
    }
}

#[test]
fn every_path_exists() {
    let page = page();
    // Blocks are checked above, and their fences would upset the pairing of quotes.
    let prose: String = page.split("```").step_by(2).collect();
    let paths = paths(&prose);
    assert!(paths.len() >= 10, "{paths:?}");
    for path in paths {
        assert!(root().join(path).exists(), "{path} does not exist");
    }
}

#[test]
fn a_stale_excerpt_is_found() {
    let source = "fn a() {\n    one();\n    two();\n}\n";
    assert!(stands_in("one();\n    two();", source));
    assert!(!stands_in("one();\n    three();", source));
    assert!(!stands_in("two();\n    one();", source));
    assert!(!stands_in("on", source));
    assert!(!stands_in("", source));
    let page = "From `x.rs`:\n\n```rust\nlet a = 1;\n```\nand\n";
    assert_eq!(excerpts(page), [Excerpt { file: "x.rs".into(), text: "let a = 1;".into() }]);
    assert_eq!(paths("see `docs/x.md`, `vnf/NAME` and `other`"), ["docs/x.md"]);
}
