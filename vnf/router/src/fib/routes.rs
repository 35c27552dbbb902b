//! What the identifiers stand for that the tries give: published as a whole, in chunks that are shared between versions.

use std::sync::Arc;

use arc_swap::Guard;

use crate::route::Route;

/// How many routes lie in one chunk: what is copied when one of them changes.
const CHUNK: usize = 64;

/// The default routes of the two families; no route has such a number.
pub(super) const DEFAULTS: usize = 2;

/// What a lookup found: the number of a route, for the [`View`] that came with it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct RouteId(u32);

impl RouteId {
    /// From what an IPv4 trie gives: 0 is nothing longer than the default route.
    #[inline]
    pub(super) const fn ipv4(value: u32) -> RouteId {
        RouteId(value)
    }

    /// From what an IPv6 trie gives.
    #[inline]
    pub(super) const fn ipv6(value: u32) -> RouteId {
        RouteId(if value == 0 { 1 } else { value })
    }

    /// Whether nothing but a default route can have been found.
    #[inline]
    pub const fn is_default(self) -> bool {
        self.0 < DEFAULTS as u32
    }
}

type Chunk = [Option<Arc<Route>>; CHUNK];

/// Which route each number stands for, at one time.
#[derive(Clone, Debug)]
pub struct Routes {
    /// Grows when a number gets another meaning, or memory of the tries is used again: an answer that was put together
    /// from two epochs may never have been true.
    epoch: u64,
    /// The numbers of the default routes: IPv4, IPv6. Zero: none.
    defaults: [u32; DEFAULTS],
    /// The first places, which are no route's number, hold the default routes once more: so that nothing has to be asked first.
    chunks: Vec<Arc<Chunk>>,
}

impl Default for Routes {
    fn default() -> Self {
        Routes { epoch: 0, defaults: [0; DEFAULTS], chunks: Vec::new() }
    }
}

impl Routes {
    #[inline]
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn next_epoch(&mut self) {
        self.epoch += 1;
    }

    pub(super) fn set_default(&mut self, family: usize, number: u32) {
        if let Some(default) = self.defaults.get_mut(family) {
            *default = number;
            let route = self.place(number).filter(|_| number >= DEFAULTS as u32).cloned();
            self.put(family, route);
        }
    }

    /// Gives `number` a meaning.
    pub(super) fn set(&mut self, number: u32, route: Arc<Route>) {
        for family in 0..DEFAULTS {
            if self.defaults.get(family) == Some(&number) {
                self.put(family, Some(Arc::clone(&route)));
            }
        }
        self.put(number as usize, Some(route));
    }

    fn put(&mut self, place: usize, route: Option<Arc<Route>>) {
        let (chunk, place) = (place / CHUNK, place % CHUNK);
        while self.chunks.len() <= chunk {
            self.chunks.push(Arc::new([const { None }; CHUNK]));
        }
        if let Some(chunk) = self.chunks.get_mut(chunk) {
            Arc::make_mut(chunk)[place] = route;
        }
    }

    #[inline]
    fn place(&self, number: u32) -> Option<&Arc<Route>> {
        self.chunks.get(number as usize / CHUNK)?.get(number as usize % CHUNK)?.as_ref()
    }

    #[inline]
    pub(super) fn get(&self, number: u32) -> Option<&Route> {
        self.place(number).map(|route| &**route)
    }
}

/// The routes as they were when a batch was looked up.
#[derive(Debug)]
pub struct View(Guard<Arc<Routes>>);

impl View {
    pub(super) fn new(routes: Guard<Arc<Routes>>) -> View {
        View(routes)
    }

    /// The route with this number, which must come from the lookup that gave this view; `None`: there is no route.
    #[inline]
    pub fn get(&self, id: RouteId) -> Option<&Route> {
        self.0.get(id.0)
    }
}
