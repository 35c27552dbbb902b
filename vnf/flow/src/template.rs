//! What many flows have in common, kept once: where they come from, and all of their action but what is a flow's own.
//!
//! Thousands of flows go to the same neighbour by the same port with the same MAC addresses and the same limit. An entry
//! names its [`Template`] by 16 bits. Whatever an [`Action`] holds beside addresses, ports and checksum deltas belongs to the
//! template, fields that are added later too, so nothing of an action can be lost. What a hit needs of it is made ready once,
//! as a [`Plan`].

use throughway_shared::action::{Action, edits};
use throughway_shared::tunnel::Tunnel;

use crate::key::Hasher;
use crate::plan::Plan;
use crate::shared::{Common, Link, Pool};

/// What flows have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Template {
    /// The last word of their keys: ingress, tags, protocol, family. All ones in the void one, as in no key.
    pub(crate) context: u64,
    /// The action without what is a flow's own: see [`Own`](crate::own::Own).
    pub(crate) action: Action,
    /// The longest IP packet that the action holds for.
    pub(crate) limit: u16,
    /// The number of the tunnel of an action that encapsulates.
    pub(crate) tunnel: u16,
}

impl Common for Template {
    const VOID: Template = Template { context: u64::MAX, action: Action::nothing(), limit: 0, tunnel: 0 };

    fn words(&self) -> [u64; 6] {
        let Template { context, action, limit, tunnel } = self;
        let [a, b, c, d, e, f] = action.ethernet_destination;
        let [g, h, i, j, k, l] = action.ethernet_source;
        let [p, q] = action.egress.to_ne_bytes();
        let [r, s] = action.edits.to_ne_bytes();
        let [t, u] = limit.to_ne_bytes();
        let [v, w] = tunnel.to_ne_bytes();
        [
            *context,
            u64::from_ne_bytes([a, b, c, d, e, f, p, q]),
            u64::from_ne_bytes([g, h, i, j, k, l, r, s]),
            u64::from_ne_bytes([t, u, action.hops, action.dscp, action.drop, action.judged, v, w]),
            u64::from(action.outer_tag) << 16 | u64::from(action.inner_tag),
            0,
        ]
    }
}

impl Common for Tunnel {
    const VOID: Tunnel = Tunnel::none();

    fn words(&self) -> [u64; 6] {
        let word = |bytes: &[u8; 16], half: usize| {
            let (words, _) = bytes.as_chunks::<8>();
            words.get(half).copied().map_or(0, u64::from_ne_bytes)
        };
        let [a, b] = self.source_port;
        let [c, d] = self.destination_port;
        let [e, f, g, h] = self.vni;
        [
            word(&self.source, 0),
            word(&self.source, 1),
            word(&self.destination, 0),
            word(&self.destination, 1),
            u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            u64::from_ne_bytes([self.kind, self.family, self.hop_limit, self.dscp, self.flags, 0, 0, 0]),
        ]
    }
}

/// All templates of a cache, and the tunnels of those that encapsulate.
#[derive(Debug)]
pub(crate) struct Templates {
    templates: Pool<Template>,
    /// One for each template.
    plans: Vec<Plan>,
    /// Few flows are put into tunnels, and these are few: no more than templates in any case.
    tunnels: Pool<Tunnel>,
}

impl Templates {
    /// Room for `capacity` templates, at most 65,535.
    pub(crate) fn new(capacity: usize) -> Self {
        let templates = Pool::new(capacity);
        let mut plans = Vec::with_capacity(templates.capacity() + 1);
        plans.push(Plan::VOID);
        Templates { plans, tunnels: Pool::new(templates.capacity()), templates }
    }

    /// How many there is room for.
    pub(crate) fn capacity(&self) -> usize {
        self.templates.capacity()
    }

    #[inline(always)]
    pub(crate) fn get(&self, number: u16) -> Option<&Template> {
        self.templates.get(number)
    }

    /// What a hit needs of a template.
    #[inline(always)]
    pub(crate) fn plan(&self, number: u16) -> Option<&Plan> {
        self.plans.get(usize::from(number))
    }

    /// The tunnel of a template.
    pub(crate) fn tunnel(&self, template: &Template) -> Tunnel {
        self.tunnels.get(template.tunnel).copied().unwrap_or(Tunnel::none())
    }

    /// The number of this template, with one more user; `tunnel` is that of an action that encapsulates. `None`: no room.
    pub(crate) fn acquire(
        &mut self,
        template: Template,
        tunnel: Option<&Tunnel>,
        hasher: &Hasher,
    ) -> Option<u16> {
        let tunnel = match tunnel.filter(|_| template.action.has(edits::ENCAPSULATE)) {
            Some(tunnel) => self.tunnels.acquire(tunnel, hasher)?.0,
            None => 0,
        };
        let template = Template { tunnel, ..template };
        let acquired = self.templates.acquire(&template, hasher);
        // A tunnel is held by its template once.
        if !matches!(acquired, Some((_, true))) {
            self.tunnels.release(tunnel, hasher);
        }
        let (number, new) = acquired?;
        if new {
            let plan = Plan::of(&template);
            match self.plans.get_mut(usize::from(number)) {
                Some(place) => *place = plan,
                None => self.plans.push(plan),
            }
        }
        Some(number)
    }

    /// Takes one user from a template; without users it is gone.
    pub(crate) fn release(&mut self, number: u16, hasher: &Hasher) {
        if let Some(template) = self.templates.release(number, hasher) {
            if let Some(plan) = self.plans.get_mut(usize::from(number)) {
                *plan = Plan::VOID;
            }
            self.tunnels.release(template.tunnel, hasher);
        }
    }
}

/// Memory for each template, in bytes: with its plan, and without the tunnels, which take some when there are any.
pub(crate) const BYTES: usize =
    size_of::<Template>() + size_of::<Plan>() + size_of::<Link>() + 2 * size_of::<u16>();

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::VOID;

    fn template(number: u16) -> Template {
        let action = Action { egress: number % 7, ethernet_source: [number as u8; 6], ..Action::nothing() };
        Template { context: 1 << 56 | u64::from(number), action, limit: 1500, tunnel: 0 }
    }

    #[test]
    fn equal_ones_are_kept_once_and_go_with_their_last_user() {
        let (hasher, mut templates) = (Hasher::new(1), Templates::new(100));
        // More than there are lists, and in an order that takes from the middle of lists too.
        for round in 0..3u16 {
            let numbers: Vec<_> = (0..100)
                .map(|n| templates.acquire(template(n + round), None, &hasher).unwrap_or(VOID))
                .collect();
            assert!(numbers.iter().all(|number| *number != VOID) && templates.templates.len() == 100);
            assert_eq!(templates.acquire(template(999), None, &hasher), None, "full");
            for (n, number) in (0..).zip(&numbers) {
                assert_eq!(templates.acquire(template(n + round), None, &hasher), Some(*number));
                assert_eq!(templates.get(*number), Some(&template(n + round)));
                assert_eq!(templates.plan(*number), Some(&Plan::of(&template(n + round))));
                templates.release(*number, &hasher);
            }
            let order = (0..100usize).map(|n| n * 37 % 100);
            for (gone, n) in order.enumerate() {
                templates.release(numbers[n], &hasher);
                assert_eq!(templates.templates.len(), 99 - gone);
                assert_eq!(templates.get(numbers[n]), Some(&Template::VOID));
                assert_eq!(templates.plan(numbers[n]), Some(&Plan::VOID));
            }
        }
        templates.release(VOID, &hasher);
        templates.release(5, &hasher);
        assert_eq!(templates.templates.len(), 0, "what nobody has cannot be given back");
    }

    #[test]
    fn a_tunnel_is_there_as_long_as_a_template_has_it() {
        let (hasher, mut templates) = (Hasher::new(1), Templates::new(2));
        let tunnel = |last| Tunnel { kind: 1, destination: [last; 16], ..Tunnel::none() };
        let action = Action { edits: edits::ENCAPSULATE, ..Action::nothing() };
        let into = |limit| Template { action, limit, ..template(1) };
        let put = |templates: &mut Templates, limit, last| {
            templates.acquire(into(limit), Some(&tunnel(last)), &hasher)
        };
        let a = put(&mut templates, 1500, 1);
        assert_eq!(put(&mut templates, 1500, 1), a, "the same");
        let b = put(&mut templates, 1500, 2);
        assert_ne!(a, b, "into another tunnel");
        let [a, b] = [a, b].map(|number| number.unwrap_or(VOID));
        for (number, last) in [(a, 1), (b, 2)] {
            let template = *templates.get(number).unwrap_or(&Template::VOID);
            assert_eq!(templates.tunnel(&template), tunnel(last));
        }
        assert_eq!(put(&mut templates, 1500, 3), None, "no room for a third");
        assert_eq!(templates.tunnels.len(), 2, "nor for its tunnel");
        templates.release(a, &hasher);
        assert_eq!(templates.tunnels.len(), 2);
        templates.release(a, &hasher);
        assert_eq!(templates.tunnels.len(), 1);
        // Without a tunnel the action means nothing, but it is kept as it came.
        assert!(put(&mut templates, 1500, 3).is_some());
        templates.release(b, &hasher);
        assert_eq!(templates.tunnels.len(), 1);
    }
}
