//! NATs: sessions, mappings and pools.

use throughway_session::Class;

use super::{Page, SessionFigures, sessions};
use crate::app::Service;

pub(super) fn nats(page: &mut Page, service: &Service) {
    for (name, nat) in service.nats() {
        let function = [("function", name.as_str())];
        let shared = &nat.shared;
        let table = SessionFigures {
            classes: Class::ALL.map(|class| shared.count(class)),
            capacity: nat.config.sessions,
            bytes: shared.memory(),
            stats: shared.stats(),
        };
        sessions(page, &name, &table);
        let (_, mappings) = shared.len();
        let help = "Outside ports that hosts inside have.";
        page.gauge("throughway_nat_mappings", help, &function, mappings.into());
    }
}
