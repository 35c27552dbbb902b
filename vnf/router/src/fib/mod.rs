//! The forwarding information base: longest prefix match for both families, changed in place while it is read.
//!
//! One [`FibWriter`] changes it; any number of threads read the [`Fib`] without a lock and without being stopped.
//!
//! * `trie`, `together`, `node`, `grow`, `memory`: which route identifier is the most specific for an address.
//! * [`routes`], `intern`: what an identifier stands for.
//! * [`writer`]: the one who changes both.
//!
//! **What a reader may see.** Each answer was true at some time between the begin and the end of its lookup, and an answer
//! is never made of pieces of several times. See `docs/adr/0007-fib.md`.

mod grow;
mod intern;
mod memory;
mod node;
mod rib;
pub mod routes;
mod together;
mod trie;
pub mod writer;

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use throughway_vnf::{Prefix, Snapshot};

use crate::route::Route;
use routes::{RouteId, Routes, View};
use together::{Readers, TOGETHER};
use trie::Trie;
use writer::FibWriter;

/// The forwarding information base: which route is the most specific for an address.
#[derive(Debug)]
pub struct Fib {
    ipv4: Arc<Trie<u32>>,
    ipv6: Arc<Trie<u128>>,
    routes: Snapshot<Routes>,
    /// How many prefixes of either family there are.
    counts: [AtomicUsize; 2],
}

impl Default for Fib {
    /// Without routes, and nobody can add any.
    fn default() -> Self {
        Fib {
            ipv4: Arc::default(),
            ipv6: Arc::default(),
            routes: Snapshot::new(Routes::default()),
            counts: Default::default(),
        }
    }
}

/// A route that was found; it stays what it is while this is held.
#[derive(Debug)]
pub struct Found {
    view: View,
    id: RouteId,
}

impl Found {
    /// Whether only the default route (a prefix of length 0) contained the address.
    pub fn is_default(&self) -> bool {
        self.id.is_default()
    }
}

impl Deref for Found {
    type Target = Route;

    fn deref(&self) -> &Route {
        // Checked when it was made; the view does not change.
        self.view.get(self.id).unwrap_or(&Route::Throw)
    }
}

impl Fib {
    /// The route of the longest prefix that contains `address`. For single addresses off the hot path; a batch is looked up
    /// by [`Fib::lookup_all`].
    pub fn lookup(&self, address: IpAddr) -> Option<Found> {
        let mut before = self.routes.read();
        loop {
            let id = match address {
                IpAddr::V4(address) => RouteId::ipv4(self.ipv4.reader().lookup(address.to_bits())),
                IpAddr::V6(address) => RouteId::ipv6(self.ipv6.reader().lookup(address.to_bits())),
            };
            let after = self.routes.read();
            if before.epoch() == after.epoch() {
                let view = View::new(after);
                return view.get(id).is_some().then_some(Found { view, id });
            }
            before = after;
        }
    }

    /// Looks all `addresses` up together and writes to `into` which route each one has; [`View::get`] of the view that is
    /// returned gives the routes. The shorter of the two slices decides how many. Allocates nothing, waits for nobody.
    pub fn lookup_all(&self, addresses: &[IpAddr], into: &mut [RouteId]) -> View {
        let mut before = self.routes.read();
        loop {
            let readers = self.readers();
            for (addresses, ids) in addresses.chunks(TOGETHER).zip(into.chunks_mut(TOGETHER)) {
                readers.walk(addresses, ids);
            }
            let after = self.routes.read();
            if before.epoch() == after.epoch() {
                return View::new(after);
            }
            // It takes the writer thousands of changes, or a change of next hops, to get here.
            before = after;
        }
    }

    /// As [`Fib::lookup_all`], one address after another: to be compared with it.
    pub fn lookup_each(&self, addresses: &[IpAddr], into: &mut [RouteId]) -> View {
        let mut before = self.routes.read();
        loop {
            let readers = self.readers();
            for (address, id) in addresses.iter().zip(into.iter_mut()) {
                *id = readers.find(*address);
            }
            let after = self.routes.read();
            if before.epoch() == after.epoch() {
                return View::new(after);
            }
            before = after;
        }
    }

    #[inline]
    fn readers(&self) -> Readers<'_> {
        Readers { ipv4: self.ipv4.reader(), ipv6: self.ipv6.reader() }
    }

    /// How many IPv4 prefixes it holds.
    pub fn ipv4_prefixes(&self) -> usize {
        self.counts[0].load(Ordering::Relaxed)
    }

    /// How many IPv6 prefixes it holds.
    pub fn ipv6_prefixes(&self) -> usize {
        self.counts[1].load(Ordering::Relaxed)
    }

    fn count(&self, ipv4: usize, ipv6: usize) {
        self.counts[0].store(ipv4, Ordering::Relaxed);
        self.counts[1].store(ipv6, Ordering::Relaxed);
    }

    /// The memory that lookups walk through, in bytes.
    pub fn memory(&self) -> usize {
        self.ipv4.memory() + self.ipv6.memory()
    }
}

impl Fib {
    /// A table that stays as it is: for tests, and where nothing changes. Of several routes for the same prefix the last one
    /// holds. What does not fit into [`Limits::default`](writer::Limits::default) is left out; who needs to know uses a
    /// [`FibWriter`].
    pub fn fixed(routes: impl IntoIterator<Item = (Prefix, Route)>) -> Arc<Fib> {
        let mut writer = FibWriter::default();
        // An error is the first that did not fit: said above.
        let _ = writer.replace_all(routes);
        Arc::clone(writer.fib())
    }
}
