//! The functions whose sessions last over a restart, by kind and name.

use throughway_balancer::Balancer;
use throughway_firewall::Firewall;
use throughway_nat::Nat;
use throughway_vnf::Function;
use throughway_vnf::save::Save;

use super::state::States;

impl States {
    /// All of them: kind and name.
    pub fn all_lasting(&self) -> Vec<(&'static str, String)> {
        let firewalls = self.firewalls().into_iter().map(|(name, _)| (Firewall::KIND, name));
        let nats = self.nats().into_iter().map(|(name, _)| (Nat::KIND, name));
        let balancers = self.balancers().into_iter().map(|(name, _)| (Balancer::KIND, name));
        firewalls.chain(nats).chain(balancers).collect()
    }

    /// Works on the sessions of one of them; `None` if there is no such function, or it is of another kind.
    pub fn lasting<R>(&self, kind: &str, name: &str, work: impl FnOnce(&dyn Save) -> R) -> Option<R> {
        fn find<T>(all: Vec<(String, T)>, name: &str) -> Option<T> {
            all.into_iter().find(|(known, _)| known == name).map(|(_, found)| found)
        }
        match kind {
            Firewall::KIND => {
                let shared = find(self.firewalls(), name)?;
                let rejudge = self.rejudges(name);
                Some(work(&throughway_firewall::Sessions { shared: &shared, rejudge }))
            }
            Nat::KIND => {
                let spec = find(self.nats(), name)?;
                let rules = spec.rules.read_owned();
                Some(work(&throughway_nat::Sessions { shared: &spec.shared, rules: &rules }))
            }
            Balancer::KIND => Some(find(self.balancers(), name)?.lasting(work)),
            _ => None,
        }
    }
}
