//! What many flows have in common, kept once: where they come from, and all of their action but what is a flow's own.
//!
//! Thousands of flows go to the same neighbour by the same port with the same MAC addresses and the same limit. An entry
//! names its [`Template`] by 16 bits. Whatever an [`Action`] holds beside addresses, ports and checksum deltas belongs to the
//! template, fields that are added later too, so nothing of an action can be lost.

use throughway_shared::action::Action;

use crate::key::{Hasher, Key};

/// The number of the template that no flow has, and the end of lists.
pub(crate) const VOID: u16 = 0;

/// What flows have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Template {
    /// The last word of their keys: ingress, tags, protocol, family. All ones in [`VOID`], as in no key.
    pub(crate) context: u64,
    /// The action without what is a flow's own: see [`Own`](crate::entry::Own).
    pub(crate) action: Action,
    /// The longest IP packet that the action holds for.
    pub(crate) limit: u16,
}

impl Template {
    const VOID: Template = Template { context: u64::MAX, action: Action::nothing(), limit: 0 };
}

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    users: u32,
    /// The next of the same hash, or the next free one.
    next: u16,
}

/// All templates of a cache: counted, found by what is in them.
#[derive(Debug)]
pub(crate) struct Templates {
    records: Box<[Template]>,
    links: Box<[Link]>,
    /// By hash, the first of a list.
    heads: Box<[u16]>,
    /// The first of the list of those that were given back.
    free: u16,
    /// From here on none was ever used.
    fresh: usize,
    /// The one that was asked for last.
    last: u16,
}

impl Templates {
    /// Room for `capacity` templates, at most 65,535.
    pub(crate) fn new(capacity: usize) -> Self {
        let records = capacity.clamp(1, usize::from(u16::MAX)) + 1;
        Templates {
            records: vec![Template::VOID; records].into_boxed_slice(),
            links: vec![Link::default(); records].into_boxed_slice(),
            heads: vec![VOID; records.next_power_of_two()].into_boxed_slice(),
            free: VOID,
            fresh: 1,
            last: VOID,
        }
    }

    /// How many there is room for.
    pub(crate) fn capacity(&self) -> usize {
        self.records.len() - 1
    }

    /// How many are in use.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.links.iter().filter(|link| link.users > 0).count()
    }

    #[inline(always)]
    pub(crate) fn get(&self, number: u16) -> Option<&Template> {
        self.records.get(usize::from(number))
    }

    /// The number of this template, with one more user; `None`: no room.
    pub(crate) fn acquire(&mut self, template: &Template, hasher: &Hasher) -> Option<u16> {
        let number = self.find(template, hasher).or_else(|| self.insert(template, hasher))?;
        self.last = number;
        if let Some(link) = self.links.get_mut(usize::from(number)) {
            link.users += 1;
        }
        Some(number)
    }

    fn find(&self, template: &Template, hasher: &Hasher) -> Option<u16> {
        let is = |number: u16| number != VOID && self.get(number).is_some_and(|record| record == template);
        if is(self.last) {
            return Some(self.last);
        }
        let mut number = self.heads.get(self.head(template, hasher)).copied()?;
        while number != VOID && !is(number) {
            number = self.links.get(usize::from(number))?.next;
        }
        (number != VOID).then_some(number)
    }

    fn insert(&mut self, template: &Template, hasher: &Hasher) -> Option<u16> {
        let number = if self.free != VOID {
            self.free
        } else {
            u16::try_from(self.fresh).ok().filter(|_| self.fresh < self.records.len())?
        };
        let head = self.head(template, hasher);
        let (record, link) =
            (self.records.get_mut(usize::from(number))?, self.links.get_mut(usize::from(number))?);
        if self.free != VOID {
            self.free = link.next;
        } else {
            self.fresh += 1;
        }
        *record = *template;
        *link = Link { users: 0, next: std::mem::replace(self.heads.get_mut(head)?, number) };
        Some(number)
    }

    /// Takes one user from a template; without users it is gone.
    pub(crate) fn release(&mut self, number: u16, hasher: &Hasher) {
        let Some(link) = self.links.get_mut(usize::from(number)).filter(|link| link.users > 0) else {
            return;
        };
        link.users -= 1;
        if link.users > 0 {
            return;
        }
        let next = std::mem::replace(&mut link.next, self.free);
        self.free = number;
        let Some(record) = self.records.get_mut(usize::from(number)) else { return };
        let template = std::mem::replace(record, Template::VOID);
        // Out of the list of its hash.
        let head = self.head(&template, hasher);
        let mut at = self.heads.get(head).copied().unwrap_or(VOID);
        if at == number {
            self.heads[head] = next;
            return;
        }
        while let Some(link) = self.links.get_mut(usize::from(at)).filter(|_| at != VOID) {
            if link.next == number {
                link.next = next;
                return;
            }
            at = link.next;
        }
    }

    /// The list in which a template is. Fields that are not in the hash make lists longer, not answers wrong.
    fn head(&self, Template { context, action, limit }: &Template, hasher: &Hasher) -> usize {
        let [a, b, c, d, e, f] = action.ethernet_destination;
        let [g, h, i, j, k, l] = action.ethernet_source;
        let [p, q] = action.egress.to_ne_bytes();
        let [r, s] = action.edits.to_ne_bytes();
        let [t, u] = limit.to_ne_bytes();
        let words = [
            *context,
            u64::from_ne_bytes([a, b, c, d, e, f, p, q]),
            u64::from_ne_bytes([g, h, i, j, k, l, r, s]),
            u64::from_ne_bytes([t, u, action.hops, action.dscp, action.drop, action.judged, 0, 0]),
            0,
            0,
        ];
        (hasher.hash(&Key(words)) >> 32) as usize & (self.heads.len() - 1)
    }
}

/// Memory for each template, in bytes.
pub(crate) const BYTES: usize = size_of::<Template>() + size_of::<Link>() + 2 * size_of::<u16>();

#[cfg(test)]
mod tests {
    use super::*;

    fn template(number: u16) -> Template {
        let action = Action { egress: number % 7, ethernet_source: [number as u8; 6], ..Action::nothing() };
        Template { context: 1 << 56 | u64::from(number), action, limit: 1500 }
    }

    #[test]
    fn equal_ones_are_kept_once_and_go_with_their_last_user() {
        let (hasher, mut templates) = (Hasher::new(1), Templates::new(100));
        // More than there are lists, and in an order that takes from the middle of lists too.
        for round in 0..3u16 {
            let numbers: Vec<_> =
                (0..100).map(|n| templates.acquire(&template(n + round), &hasher).unwrap_or(VOID)).collect();
            assert!(numbers.iter().all(|number| *number != VOID) && templates.len() == 100);
            assert_eq!(templates.acquire(&template(999), &hasher), None, "full");
            for (n, number) in (0..).zip(&numbers) {
                assert_eq!(templates.acquire(&template(n + round), &hasher), Some(*number));
                assert_eq!(templates.get(*number), Some(&template(n + round)));
                templates.release(*number, &hasher);
            }
            let order = (0..100usize).map(|n| n * 37 % 100);
            for (gone, n) in order.enumerate() {
                templates.release(numbers[n], &hasher);
                assert_eq!(templates.len(), 99 - gone);
                assert_eq!(templates.get(numbers[n]), Some(&Template::VOID));
            }
        }
        templates.release(VOID, &hasher);
        templates.release(5, &hasher);
        assert_eq!(templates.len(), 0, "what nobody has cannot be given back");
    }
}
