//! Values that many flows have in common, kept once: counted, found by what is in them.

use crate::key::{Hasher, Key};

/// The number of the value that no flow has, and the end of lists.
pub(crate) const VOID: u16 = 0;

/// A value that is kept once.
pub(crate) trait Common: Copy + PartialEq {
    /// What [`VOID`] holds.
    const VOID: Self;

    /// What is hashed. Fields that are not in it make lists longer, not answers wrong.
    fn words(&self) -> [u64; 6];
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Link {
    users: u32,
    /// The next of the same hash, or the next free one.
    next: u16,
}

/// Values by number. Places that were never used take no memory: the system provides only the pages that were written to.
#[derive(Debug)]
pub(crate) struct Pool<T> {
    values: Vec<T>,
    links: Vec<Link>,
    /// By hash, the first of a list.
    heads: Box<[u16]>,
    /// The first of the list of those that were given back.
    free: u16,
    /// The most values, and the void one.
    most: usize,
    /// The one that was asked for last.
    last: u16,
}

impl<T: Common> Pool<T> {
    /// Room for `capacity` values, at most 65,535.
    pub(crate) fn new(capacity: usize) -> Self {
        let most = capacity.clamp(1, usize::from(u16::MAX)) + 1;
        let (mut values, mut links) = (Vec::with_capacity(most), Vec::with_capacity(most));
        values.push(T::VOID);
        links.push(Link::default());
        let heads = vec![VOID; most.next_power_of_two()].into_boxed_slice();
        Pool { values, links, heads, free: VOID, most, last: VOID }
    }

    /// How many there is room for.
    pub(crate) fn capacity(&self) -> usize {
        self.most - 1
    }

    /// How many are in use.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.links.iter().filter(|link| link.users > 0).count()
    }

    #[inline(always)]
    pub(crate) fn get(&self, number: u16) -> Option<&T> {
        self.values.get(usize::from(number))
    }

    /// The number of this value, with one more user, and whether it is new; `None`: no room.
    pub(crate) fn acquire(&mut self, value: &T, hasher: &Hasher) -> Option<(u16, bool)> {
        let known = self.find(value, hasher);
        let number = known.or_else(|| self.insert(value, hasher))?;
        self.last = number;
        if let Some(link) = self.links.get_mut(usize::from(number)) {
            link.users += 1;
        }
        Some((number, known.is_none()))
    }

    fn find(&self, value: &T, hasher: &Hasher) -> Option<u16> {
        let is = |number: u16| number != VOID && self.get(number).is_some_and(|kept| kept == value);
        if is(self.last) {
            return Some(self.last);
        }
        let mut number = self.heads.get(self.head(value, hasher)).copied()?;
        while number != VOID && !is(number) {
            number = self.links.get(usize::from(number))?.next;
        }
        (number != VOID).then_some(number)
    }

    fn insert(&mut self, value: &T, hasher: &Hasher) -> Option<u16> {
        let head = self.head(value, hasher);
        let reused = self.free != VOID;
        let number = if reused { self.free } else { u16::try_from(self.values.len()).ok()? };
        if !reused {
            if self.values.len() >= self.most {
                return None;
            }
            self.values.push(T::VOID);
            self.links.push(Link::default());
        }
        let (kept, link) =
            (self.values.get_mut(usize::from(number))?, self.links.get_mut(usize::from(number))?);
        if reused {
            self.free = link.next;
        }
        *kept = *value;
        *link = Link { users: 0, next: std::mem::replace(self.heads.get_mut(head)?, number) };
        Some(number)
    }

    /// Takes one user from a value; without users it is gone, and given back.
    pub(crate) fn release(&mut self, number: u16, hasher: &Hasher) -> Option<T> {
        let link = self.links.get_mut(usize::from(number)).filter(|link| link.users > 0)?;
        link.users -= 1;
        if link.users > 0 {
            return None;
        }
        let next = std::mem::replace(&mut link.next, self.free);
        self.free = number;
        let value = std::mem::replace(self.values.get_mut(usize::from(number))?, T::VOID);
        // Out of the list of its hash.
        let head = self.head(&value, hasher);
        let mut at = self.heads.get(head).copied().unwrap_or(VOID);
        if at == number {
            self.heads[head] = next;
            return Some(value);
        }
        while let Some(link) = self.links.get_mut(usize::from(at)).filter(|_| at != VOID) {
            if link.next == number {
                link.next = next;
                break;
            }
            at = link.next;
        }
        Some(value)
    }

    /// The list in which a value is.
    fn head(&self, value: &T, hasher: &Hasher) -> usize {
        (hasher.hash(&Key(value.words())) >> 32) as usize & (self.heads.len() - 1)
    }
}
