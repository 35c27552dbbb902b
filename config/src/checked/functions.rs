//! Functions: what kinds there are. A new kind is a variant here and in the raw enum, and a file beside this one.

use super::*;
use crate::raw::Kind;

/// A network function: named once, it may stand in several chains, which then share its state.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Function {
    /// What the file calls it.
    pub name: Name,
    /// What it is.
    pub kind: FunctionKind,
}

/// What a function is, with its settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FunctionKind {
    /// `router`: finds the next hop.
    Router(Router),
    /// `marker`: sets the code point.
    Marker(Marker),
    /// `firewall`: decides what may pass.
    Firewall(Firewall),
    /// `nat`: translates addresses and ports.
    Nat(Nat),
    /// `load-balancer`: spreads connections over servers.
    LoadBalancer(LoadBalancer),
}

impl FunctionKind {
    /// The key that names the kind in the file.
    pub const fn word(&self) -> &'static str {
        match self {
            FunctionKind::Router(_) => "router",
            FunctionKind::Marker(_) => "marker",
            FunctionKind::Firewall(_) => "firewall",
            FunctionKind::Nat(_) => "nat",
            FunctionKind::LoadBalancer(_) => "load-balancer",
        }
    }
}

pub(super) fn check(
    raw: &Entries<crate::raw::Function>,
    known: &Known<'_>,
    report: &mut Report<'_>,
) -> Option<Vec<Function>> {
    if raw.list.is_empty() {
        report.error(raw.span, "there are no functions");
        return None;
    }
    let checked: Vec<_> = raw.list.iter().map(|entry| Function::check(entry, known, report)).collect();
    checked.into_iter().collect()
}

impl Function {
    fn check(
        entry: &Entry<crate::raw::Function>,
        known: &Known<'_>,
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let name = entry.name.read(report);
        let Some((first, others)) = entry.value.kinds.split_first() else {
            let misread = Misread::new(format!("the function `{}` has no kind", entry.name.text));
            let kinds = suggest::one_of(Kind::WORDS.iter().copied());
            report.error(entry.value.span, misread.help(format!("expected a map with one of {kinds}")));
            return None;
        };
        let kind = match &first.1 {
            Kind::Router(raw) => Router::check(raw, known, report).map(FunctionKind::Router),
            Kind::Marker(raw) => Marker::check(raw, report).map(FunctionKind::Marker),
            Kind::Firewall(raw) => {
                Firewall::check(raw, first.0.span, known, report).map(FunctionKind::Firewall)
            }
            Kind::Nat(raw) => Nat::check(raw, known, report).map(FunctionKind::Nat),
            Kind::LoadBalancer(raw) => {
                LoadBalancer::check(raw, known.folder, report).map(FunctionKind::LoadBalancer)
            }
            Kind::Unknown => {
                report.error(first.0.span, Misread::unknown("kind of function", &first.0.value, Kind::WORDS));
                None
            }
        };
        if let Some((key, _)) = others.first() {
            let misread = Misread::new(format!("the function `{}` has two kinds", entry.name.text));
            report.error(key.span, misread.help("make two functions of them, each with its name"));
            return None;
        }
        Some(Function { name: name?, kind: kind? })
    }
}

/// Whether a function can choose where packets leave: a chain needs one that does. One whose kind is unknown may.
pub(super) fn sends(raw: &crate::raw::Function) -> bool {
    match raw.kinds.first() {
        Some((_, Kind::Router(_) | Kind::Unknown)) | None => true,
        Some((_, Kind::Marker(_) | Kind::Firewall(_) | Kind::Nat(_) | Kind::LoadBalancer(_))) => false,
    }
}
