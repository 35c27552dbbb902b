//! Chains.

use std::collections::HashMap;

use super::*;

/// Which functions the packets from some interfaces walk, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Chain {
    /// What the file calls it.
    pub name: Name,
    /// The interfaces whose packets it takes, at least one. Each starts one chain only.
    pub from: Vec<InterfaceId>,
    /// The functions in order, none twice, one of which can send packets.
    pub run: Vec<FunctionId>,
}

pub(super) fn check(
    raw: &Entries<crate::raw::Chain>,
    known: &Known<'_>,
    report: &mut Report<'_>,
) -> Option<Vec<Chain>> {
    if raw.list.is_empty() {
        report.error(raw.span, "there are no chains");
        return None;
    }
    let mut starts = HashMap::new();
    let checked: Vec<_> =
        raw.list.iter().map(|entry| Chain::check(entry, known, &mut starts, report)).collect();
    report_unused(raw, known, report);
    checked.into_iter().collect()
}

impl Chain {
    /// `starts` remembers which chain an interface starts.
    fn check<'a>(
        Entry { name, value: raw }: &'a Entry<crate::raw::Chain>,
        known: &Known<'_>,
        starts: &mut HashMap<InterfaceId, &'a Written<Name>>,
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let from = Chain::check_from(name, &raw.from, known, starts, report);
        let run = Chain::check_run(&raw.run, known, report);
        Some(Chain { name: name.read(report)?, from: from?, run: run? })
    }

    fn check_from<'a>(
        name: &'a Written<Name>,
        from: &OneOrMany<Name>,
        known: &Known<'_>,
        starts: &mut HashMap<InterfaceId, &'a Written<Name>>,
        report: &mut Report<'_>,
    ) -> Option<Vec<InterfaceId>> {
        if from.list.is_empty() {
            report.error(
                from.span,
                Misread::new("the list is empty").help("name the interfaces that packets come from"),
            );
        }
        let mut interfaces = Vec::new();
        for written in &from.list {
            let Some(id) = known.interface(written, report) else { continue };
            match starts.insert(id, name) {
                Some(chain) => report.error(
                    written.span,
                    Misread::new(format!(
                        "interface `{}` already starts chain `{}`",
                        written.text, chain.text
                    ))
                    .help(format!("which is at line {}", chain.span.line)),
                ),
                None => interfaces.push(id),
            }
        }
        (!from.list.is_empty() && interfaces.len() == from.list.len()).then_some(interfaces)
    }

    fn check_run(
        run: &OneOrMany<Name>,
        known: &Known<'_>,
        report: &mut Report<'_>,
    ) -> Option<Vec<FunctionId>> {
        if run.list.is_empty() {
            report.error(
                run.span,
                Misread::new("the chain runs nothing").help("name its functions, such as `run: [core]`"),
            );
            return None;
        }
        let mut functions = Vec::new();
        for written in &run.list {
            let Some(id) = known.function(written, report) else { continue };
            if functions.contains(&id) {
                report.error(written.span, format!("function `{}` is already in this chain", written.text));
            }
            functions.push(id);
        }
        if functions.len() < run.list.len() {
            return None;
        }
        let routes = |id: &FunctionId| functions::sends(&known.functions.list[id.index()].value);
        if !functions.iter().any(routes) {
            let senders: Vec<&str> = known
                .functions
                .list
                .iter()
                .filter(|entry| functions::sends(&entry.value))
                .map(|entry| entry.name.text.as_str())
                .collect();
            let misread = Misread::new("the chain can never send a packet: no router is in it");
            report.error(
                run.span,
                match senders.as_slice() {
                    [] => misread.help("add a `router` to `functions` and to the chain"),
                    _ => misread.help(format!("add {}", suggest::one_of(senders))),
                },
            );
            return None;
        }
        Some(functions)
    }
}

fn report_unused(chains: &Entries<crate::raw::Chain>, known: &Known<'_>, report: &mut Report<'_>) {
    for entry in &known.functions.list {
        let name = &entry.name;
        if !chains.list.iter().any(|chain| chain.value.run.list.iter().any(|run| run.text == name.text)) {
            report.warning(name.span, format!("function `{}` is in no chain", name.text));
        }
    }
}
