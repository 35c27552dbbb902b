//! From a file to a configuration.

use std::path::Path;

use serde_saphyr::{Error, Location, Options};

use crate::checked::Config;
use crate::error::{Errors, Problem, Report, Span, Warning};
use crate::raw::Raw;
use crate::value::Misread;

impl Config {
    /// Reads and checks the file at `path`, and the files of sets that it names.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the file, or that it cannot be read.
    pub fn load(path: impl AsRef<Path>) -> Result<(Config, Vec<Warning>), Errors> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let bytes = std::fs::read(path)
            .map_err(|error| Problem::whole_file(&name, format!("the file cannot be read: {error}")))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            Problem::whole_file(&name, format!("the file is not UTF-8 text: {}", error.utf8_error()))
        })?;
        Config::parse(&name, &text)
    }

    /// Checks `text`, which is called `name` in what is said of it. The folder of `name` is where relative paths start.
    /// The files of sets that it names are read.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it. After an error in the shape (YAML syntax, an unknown key, a missing key, a list
    /// for a map) that one is the only one.
    pub fn parse(name: &str, text: &str) -> Result<(Config, Vec<Warning>), Errors> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut report = Report::new(name, text);
        let folder = Path::new(name).parent().map(Path::to_owned).unwrap_or_default();
        let config = match serde_saphyr::from_str_with_options::<Raw>(text, options()) {
            Ok(raw) => Config::check(&raw, folder, &mut report),
            // The reader's place for those is the file's last key.
            Err(Error::SerdeMissingField { field, .. }) if Raw::SECTIONS.contains(&field) => {
                report.whole_file(format!("the key `{field}` is missing"));
                None
            }
            Err(Error::Eof { .. }) if report.is_blank() => {
                report.whole_file(
                    "the file is empty; it needs `interfaces`, `functions` and `chains`".to_owned(),
                );
                None
            }
            Err(error) => {
                let (location, what) = explain(&error, &report);
                report.error(location.unwrap_or(Location::UNKNOWN).into(), what);
                None
            }
        };
        report.finish(config)
    }
}

fn options() -> Options {
    serde_saphyr::options! {
        with_snippet: false,
        // `on` and `off` are words.
        strict_booleans: true,
        reject_unsupported_tags: true,
        // The defaults end at some 20,000 rules of a firewall; ten thousand services of a hundred backends have six million nodes.
        budget: serde_saphyr::budget! { max_nodes: 20_000_000, max_events: 50_000_000 },
    }
}

/// The YAML reader's error in the words of this file.
fn explain(error: &Error, report: &Report<'_>) -> (Option<Location>, Misread) {
    let location = error.location();
    let place = location.map(Span::from);
    let what = match error {
        Error::AliasError { error, .. } => explain(error, report).1,
        Error::SerdeUnknownField { field, expected, .. } => Misread::unknown("key", field, expected),
        Error::SerdeMissingField { field, .. } => Misread::new(format!("the key `{field}` is missing")),
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            Misread::new(format!("`{key}` is already in this map"))
                .help("a name and a key may stand in a map only once")
        }
        Error::Unexpected { expected, .. } => unexpected(expected, place, report),
        Error::SerdeInvalidType { unexpected, expected, .. } => {
            let found = match unexpected.as_str() {
                "unit value" => "nothing",
                "map" => "a map",
                "sequence" => "a list",
                other => other,
            };
            Misread::new(format!("expected {expected}, found {found}"))
        }
        Error::NullIntoString { .. } => Misread::new("the value is missing"),
        Error::Eof { .. } => Misread::new("the file ends too early"),
        Error::MultipleDocuments { .. } => {
            Misread::new("a second YAML document begins here").help("a configuration is one document")
        }
        Error::UnknownAnchor { .. } => Misread::new("the alias has no anchor"),
        other => {
            // The reader appends the place, which is printed in front already.
            let text = other.to_string();
            Misread::new(text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what))
        }
    };
    (location, what)
}

/// The reader wanted `expected`, in the terms of YAML events, and found what is at `place`.
fn unexpected(expected: &str, place: Option<Span>, report: &Report<'_>) -> Misread {
    let text = place.map(|span| report.text(span)).unwrap_or_default();
    let listed = text.starts_with('[') || text.starts_with('-');
    match expected {
        "mapping start" if listed => Misread::new("expected a map, found a list"),
        "mapping start" => Misread::new(format!("expected a map, found `{text}`")),
        "sequence start" if text.starts_with('{') => Misread::new("expected a list, found a map"),
        "sequence start" => Misread::new(format!("expected a list, found `{text}`"))
            .help("write `[…]`, or each element on its own line after `- `"),
        "string scalar" if listed => Misread::new("expected a single value, found a list"),
        "string scalar" => Misread::new("expected a single value, found a map"),
        other => Misread::new(format!("expected {other}")),
    }
}
