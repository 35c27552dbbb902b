//! What was taken over of the instance before.

use throughway_vnf::save::Lost;

use super::Page;
use crate::app::Service;
use crate::app::saved::Refusal;

/// Sessions by function; the file as a whole by the reason why it was refused.
pub(super) fn restart(page: &mut Page, service: &Service) {
    let report = service.restored();
    let refused = report.refused.as_ref().map(|(label, _)| *label);
    for label in Refusal::LABELS {
        let help =
            "Whether the sessions that the last instance had left were refused at start, by the reason.";
        let is = f64::from(u8::from(refused == Some(label)));
        page.gauge("throughway_restore_refused", help, &[("reason", label)], is);
    }
    for function in &report.functions {
        let of = [("function", function.name.as_str()), ("kind", function.kind.as_str())];
        let help = "Sessions of the last instance that were taken over at start.";
        page.counter("throughway_restored_sessions_total", help, &of, function.restored.sessions);
        for (lost, count) in Lost::ALL.iter().zip(function.restored.lost) {
            let labels = [of[0], of[1], ("reason", lost.label())];
            let help = "Sessions of the last instance that were not taken over at start, by the reason.";
            page.counter("throughway_restore_lost_sessions_total", help, &labels, count);
        }
    }
}
