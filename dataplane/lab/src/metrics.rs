//! Reads a metrics page in Prometheus' text format (version 0.0.4).

use std::collections::BTreeMap;

/// One line of the page: a value with its name and labels.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// The metric's name; of histograms with `_bucket`, `_sum` or `_count`.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// The value of a label, or the empty string, which in Prometheus means the same as no label.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// A whole page.
#[derive(Clone, Default, Debug)]
pub struct Page {
    /// The samples, in the order of the page.
    pub samples: Vec<Sample>,
    /// The type of each metric: `counter`, `gauge`, `histogram`.
    pub types: BTreeMap<String, String>,
    /// The help text of each metric.
    pub help: BTreeMap<String, String>,
}

impl Page {
    /// Reads a page; the error is the first line that is not of the format.
    pub fn parse(text: &str) -> Result<Page, String> {
        let mut page = Page::default();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let parts: Vec<&str> = line.splitn(4, ' ').collect();
            match parts.as_slice() {
                ["#", "TYPE", name, kind] => {
                    page.types.insert((*name).to_owned(), (*kind).to_owned());
                }
                ["#", "HELP", name, help] => {
                    page.help.insert((*name).to_owned(), (*help).to_owned());
                }
                ["#", ..] => {}
                _ => page.samples.push(sample(line).ok_or_else(|| line.to_owned())?),
            }
        }
        Ok(page)
    }

    /// The samples of a metric that have all of these labels.
    pub fn of<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name && labels.iter().all(|&(label, value)| sample.label(label) == value)
        })
    }

    /// The sum of a metric over the samples that have all of these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        // Not `sum()`: that of nothing is -0.
        self.of(name, labels).fold(0.0, |sum, sample| sum + sample.value)
    }
}

/// `name{label="value",…} value`
fn sample(line: &str) -> Option<Sample> {
    let (name, mut rest) = line.split_at(line.find(['{', ' '])?);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.trim_start_matches(',').split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(label.to_owned(), value);
            rest = after;
        }
        rest = rest.strip_prefix('}')?;
    }
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// The text up to the closing quote, escapes resolved, and what follows the quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"# HELP packets_total Packets, all of them.
# TYPE packets_total counter
packets_total{interface="lan",worker="0"} 3
packets_total{interface="lan",worker="1"} 4
packets_total{interface="w\"a\\n",worker="0"} 5

# TYPE up gauge
up 1
size_bucket{le="+Inf"} 2
"#;

    #[test]
    fn a_page_is_read_with_types_labels_and_escapes() {
        let page = Page::parse(PAGE).unwrap();
        assert_eq!(page.types["packets_total"], "counter");
        assert_eq!(page.help["packets_total"], "Packets, all of them.");
        assert_eq!(page.sum("packets_total", &[("interface", "lan")]), 7.0);
        assert_eq!(page.sum("packets_total", &[("interface", "w\"a\\n")]), 5.0);
        assert_eq!(page.sum("up", &[]), 1.0);
        assert_eq!(page.of("size_bucket", &[("le", "+Inf")]).count(), 1);
    }

    #[test]
    fn what_is_not_a_sample_is_refused() {
        for bad in ["packets_total", "packets_total{a=\"b} 1", "packets_total x", "packets_total{a=b} 1"] {
            assert_eq!(Page::parse(bad).unwrap_err(), bad);
        }
    }
}
