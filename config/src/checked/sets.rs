//! Sets of addresses and of ports, in the file or beside it.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use super::*;
use crate::raw::SetSource;
use crate::value::{AddressRange, Early, Element, FilePath, PortRange};

/// A set of addresses or of ports.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Set {
    /// What the file calls it.
    pub name: Name,
    /// What is in it, in the order of the file.
    pub content: SetContent,
    /// The file that it was read from; `None` if it stands in the configuration.
    pub file: Option<PathBuf>,
    /// Where packets from its addresses are dropped before anything else; `None`: nowhere.
    pub early: Option<EarlyAt>,
    /// Where it is named.
    pub place: Span,
}

/// Where packets from the addresses of a set are dropped before anything else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EarlyAt {
    /// At the interfaces whose chains run the set's firewall.
    Chains,
    /// At these, at least one.
    Interfaces(Vec<InterfaceId>),
}

/// What is in a set. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SetContent {
    /// Addresses of one family or both; also the content of an empty file.
    Addresses(Arc<[AddressRange]>),
    /// Ports.
    Ports(Arc<[PortRange]>),
}

/// A set of a firewall: its index in [`Firewall::sets`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SetId(pub u16);

impl SetId {
    /// The index as a `usize`.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl Set {
    /// The addresses; none if it holds ports.
    pub fn addresses(&self) -> &[AddressRange] {
        match &self.content {
            SetContent::Addresses(list) => list,
            SetContent::Ports(_) => &[],
        }
    }

    /// The ports; none if it holds addresses.
    pub fn ports(&self) -> &[PortRange] {
        match &self.content {
            SetContent::Addresses(_) => &[],
            SetContent::Ports(list) => list,
        }
    }

    /// How many elements it has.
    pub fn len(&self) -> usize {
        self.addresses().len() + self.ports().len()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How many sets there may be.
const MOST_SETS: usize = 1024;
/// How many elements a set may have.
const MOST_ELEMENTS: usize = 1_000_000;
/// How large the file of a set may be: a million lines of two IPv6 addresses each.
const MOST_BYTES: u64 = 96 << 20;
/// How long an element may be: two IPv6 addresses and a dash take 81 characters.
const LONGEST_ELEMENT: usize = 128;
/// How much of a line is kept to be shown.
const LONGEST_EXCERPT: usize = 512;
/// How many errors of one file are reported.
const MOST_ERRORS: usize = 20;

/// The sets that rules may name, and which of them they did.
pub(super) struct SetTable<'a> {
    raw: Option<&'a Entries<crate::raw::Set>>,
    sets: Vec<Option<Set>>,
    families: Vec<Families>,
    used: Vec<bool>,
}

impl<'a> SetTable<'a> {
    /// Without any sets.
    pub(super) const fn none() -> Self {
        SetTable { raw: None, sets: Vec::new(), families: Vec::new(), used: Vec::new() }
    }

    pub(super) fn check(
        raw: Option<&'a Entries<crate::raw::Set>>,
        known: &Known<'_>,
        report: &mut Report<'_>,
    ) -> Self {
        let entries = raw.map_or(&[][..], |raw| &raw.list);
        if let Some(entry) = entries.get(MOST_SETS) {
            report.error(entry.name.span, format!("there are more than {MOST_SETS} sets"));
        }
        let sets: Vec<_> =
            entries.iter().take(MOST_SETS).map(|entry| Set::check(entry, known, report)).collect();
        let families = sets.iter().map(|set| {
            let ranges = set.as_ref().map_or(&[][..], Set::addresses);
            ranges.iter().fold(Families::NONE, |sum, range| sum.or(Families::of(range))).or_any()
        });
        SetTable { raw, families: families.collect(), used: vec![false; sets.len()], sets }
    }

    /// The set called `name`, and notes that it is used.
    pub(super) fn find(&mut self, name: &str, span: Span, report: &mut Report<'_>) -> Option<SetId> {
        let Some(raw) = self.raw.filter(|raw| !raw.list.is_empty()) else {
            let misread = Misread::new(format!("unknown set `{name}`"));
            report.error(span, misread.help("there are no `sets` here"));
            return None;
        };
        match raw.position(name) {
            Some(index) => {
                if let Some(used) = self.used.get_mut(usize::from(index)) {
                    *used = true;
                }
                Some(SetId(index))
            }
            None => {
                let names: Vec<&str> = raw.names().collect();
                report.error(span, Misread::unknown("set", name, &names));
                None
            }
        }
    }

    /// The families of the addresses in a set, both if it is empty or wrong.
    pub(super) fn families(&self, id: SetId) -> Families {
        self.families.get(id.index()).copied().unwrap_or(Families::BOTH)
    }

    /// Refuses a set of the other kind; one that is wrong itself was reported.
    pub(super) fn check_kind(
        &self,
        id: SetId,
        ports: bool,
        span: Span,
        report: &mut Report<'_>,
    ) -> Option<()> {
        let Some(set) = self.sets.get(id.index())?.as_ref().filter(|set| !set.is_empty()) else {
            return Some(());
        };
        let (wanted, found, wrong) = match &set.content {
            SetContent::Addresses(_) => ("ports", "addresses", ports),
            SetContent::Ports(_) => ("addresses", "ports", !ports),
        };
        if wrong {
            let misread = Misread::new(format!("the set `{}` has {found}, not {wanted}", set.name));
            report.error(span, misread.help(format!("it is at line {}", set.place.line)));
            return None;
        }
        Some(())
    }

    /// Warns of sets that no rule uses, and gives them away.
    pub(super) fn finish(self, report: &mut Report<'_>) -> Option<Vec<Set>> {
        let entries = self.raw.map_or(&[][..], |raw| &raw.list);
        for ((entry, used), set) in entries.iter().zip(&self.used).zip(&self.sets) {
            if !used && set.as_ref().is_none_or(|set| set.early.is_none()) {
                report.warning(entry.name.span, format!("no rule uses the set `{}`", entry.name.text));
            }
        }
        self.sets.into_iter().collect()
    }
}

/// Families of addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Families(u8);

impl Families {
    pub(super) const NONE: Families = Families(0);
    pub(super) const IPV4: Families = Families(1);
    pub(super) const IPV6: Families = Families(2);
    pub(super) const BOTH: Families = Families(3);

    pub(super) const fn of(range: &AddressRange) -> Self {
        if range.is_ipv4() { Families::IPV4 } else { Families::IPV6 }
    }

    pub(super) const fn or(self, other: Families) -> Self {
        Families(self.0 | other.0)
    }

    pub(super) const fn and(self, other: Families) -> Self {
        Families(self.0 & other.0)
    }

    /// Both, if it is none.
    pub(super) const fn or_any(self) -> Self {
        if self.0 == 0 { Families::BOTH } else { self }
    }

    pub(super) const fn is_none(self) -> bool {
        self.0 == 0
    }

    pub(super) const fn word(self) -> &'static str {
        match self {
            Families::IPV4 => "ipv4",
            Families::IPV6 => "ipv6",
            _ => "ipv4 and ipv6",
        }
    }
}

impl Set {
    fn check(
        Entry { name, value: raw }: &Entry<crate::raw::Set>,
        known: &Known<'_>,
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let place = name.span;
        let name = name.read(report);
        let (content, file, early) = match &raw.source {
            SetSource::Inline(list) => (Set::inline(list, raw.span, report), None, Some(None)),
            SetSource::Map(map) => {
                let early = map.early.as_ref();
                let early = early.map_or(Some(None), |early| EarlyAt::check(early, known, report));
                let (content, file) = match (map.file.as_ref(), map.elements.as_ref()) {
                    (Some(file), None) => Set::in_file(file, known, report).unzip(),
                    (None, Some(elements)) => (Set::inline(&elements.list, elements.span, report), None),
                    (Some(_), Some(elements)) => {
                        report.error(elements.span, "`elements` beside `file`: make two sets");
                        (None, None)
                    }
                    (None, None) => {
                        report.error(raw.span, "the set has neither `file` nor `elements`");
                        (None, None)
                    }
                };
                if let (Some(Some(_)), Some(SetContent::Ports(_)), Some(written)) =
                    (&early, &content, map.early.as_ref())
                {
                    report.error(
                        written.span,
                        "`early` with a set of ports: packets are matched by their source address",
                    );
                    return None;
                }
                (content, file, early)
            }
        };
        Some(Set { name: name?, content: content?, file, early: early?, place })
    }

    /// The elements in the configuration itself.
    fn inline(list: &[Written<Element>], span: Span, report: &mut Report<'_>) -> Option<SetContent> {
        if list.is_empty() {
            report.error(span, "the set is empty");
            return None;
        }
        if list.len() > MOST_ELEMENTS {
            report.error(span, format!("the set has more than {MOST_ELEMENTS} elements"));
            return None;
        }
        let mut collected = Elements::default();
        let mut wrong = false;
        for written in list {
            let added = written.text.parse().and_then(|element| collected.add(element, written.span.line));
            if let Err(misread) = added {
                report.error(written.span, misread);
                wrong = true;
            }
        }
        (!wrong).then(|| collected.into_content())
    }

    /// The elements in a file, and its path.
    fn in_file(
        file: &Written<FilePath>,
        known: &Known<'_>,
        report: &mut Report<'_>,
    ) -> Option<(SetContent, PathBuf)> {
        let path = known.folder.join(file.read(report)?.0);
        let content = read_file(&path, file.span, report)?;
        if content.is_none() {
            report.warning(file.span, format!("the file {} has no elements", path.display()));
        }
        Some((content.map_or(SetContent::Addresses(Arc::new([])), Elements::into_content), path))
    }
}

impl EarlyAt {
    /// `Some(None)`: nowhere.
    fn check(raw: &OneOrMany<Early>, known: &Known<'_>, report: &mut Report<'_>) -> Option<Option<Self>> {
        let values = raw.read(report)?;
        if let [Early::Switch(everywhere)] = *values {
            return Some(everywhere.then_some(EarlyAt::Chains));
        }
        let interfaces = values.iter().zip(&raw.list).map(|(value, written)| match value {
            Early::Switch(_) => {
                report.error(written.span, format!("`{}` among names of interfaces", written.text));
                None
            }
            Early::Interface(name) => known.interface(&Written::new(name.to_string(), written.span), report),
        });
        let interfaces: Vec<_> = interfaces.collect();
        interfaces.into_iter().collect::<Option<_>>().map(|list| Some(EarlyAt::Interfaces(list)))
    }
}

/// Elements of one kind.
#[derive(Default)]
struct Elements {
    addresses: Vec<AddressRange>,
    ports: Vec<PortRange>,
    first: Option<(Element, u32)>,
}

impl Elements {
    fn add(&mut self, element: Element, line: u32) -> Result<(), Misread> {
        let (first, first_line) = *self.first.get_or_insert((element, line));
        match (first, element) {
            (Element::Addresses(_), Element::Addresses(range)) => self.addresses.push(range),
            (Element::Ports(_), Element::Ports(range)) => self.ports.push(range),
            (Element::Addresses(_), Element::Ports(_)) => {
                return Err(Misread::new(format!("`{element}` is a port in a set of addresses"))
                    .help(format!("which begins with `{first}` at line {first_line}: make two sets")));
            }
            (Element::Ports(_), Element::Addresses(_)) => {
                return Err(Misread::new(format!("`{element}` is an address in a set of ports"))
                    .help(format!("which begins with `{first}` at line {first_line}: make two sets")));
            }
        }
        Ok(())
    }

    fn into_content(self) -> SetContent {
        if self.ports.is_empty() {
            SetContent::Addresses(self.addresses.into())
        } else {
            SetContent::Ports(self.ports.into())
        }
    }
}

/// Reads a file of elements: one on a line, comments behind `#`. `Some(None)` if there are none, `None` after an error.
fn read_file(path: &Path, span: Span, report: &mut Report<'_>) -> Option<Option<Elements>> {
    let bytes = match read_bytes(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            report.error(span, format!("the file {} cannot be read: {error}", path.display()));
            return None;
        }
    };
    let name = path.display().to_string();
    let mut elements = Elements::default();
    let mut errors = 0;
    let mut number = 0u32;
    for line in bytes.split(|byte| *byte == b'\n') {
        number = number.saturating_add(1);
        let text = String::from_utf8_lossy(line);
        // A mark of byte order, as editors of Windows write it.
        let text = if number == 1 { text.strip_prefix('\u{feff}').unwrap_or(&text) } else { &text };
        let before_comment = text.split('#').next().unwrap_or_default();
        let element = before_comment.trim();
        if element.is_empty() {
            continue;
        }
        let length = |text: &str| u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
        let indent = before_comment.len() - before_comment.trim_start().len();
        let place =
            Span { line: number, column: length(&before_comment[..indent]) + 1, length: length(element) };
        let added = if element.len() > LONGEST_ELEMENT {
            Err(Misread::new("the line is too long").help("expected one address, prefix, range or port"))
        } else {
            element.parse().and_then(|element| elements.add(element, number))
        };
        let added = added.and_then(|()| {
            if elements.addresses.len().max(elements.ports.len()) <= MOST_ELEMENTS {
                return Ok(());
            }
            errors = MOST_ERRORS;
            Err(Misread::new(format!("the set has more than {MOST_ELEMENTS} elements")))
        });
        let Err(misread) = added else { continue };
        let excerpt: String = text.chars().take(LONGEST_EXCERPT).collect();
        report.error_in(&name, &excerpt, place, misread);
        errors += 1;
        if errors >= MOST_ERRORS {
            break;
        }
    }
    (errors == 0).then(|| elements.first.is_some().then_some(elements))
}

fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    // A pipe would be waited for.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(io::Error::other(format!("it is larger than {} MiB", MOST_BYTES >> 20)));
    }
    Ok(bytes)
}
