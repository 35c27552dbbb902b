//! The forwarding information base: longest prefix match for both families, immutable once built.

mod trie;

use std::collections::HashMap;
use std::net::IpAddr;

use throughway_vnf::Prefix;

use crate::route::Route;
use trie::{Entry, Trie, Value};

/// Collects routes for a [`Fib`].
#[derive(Debug, Default)]
pub struct FibBuilder {
    ipv4: Vec<Entry<u32>>,
    ipv6: Vec<Entry<u128>>,
    routes: Vec<Route>,
    /// Where each distinct route is in `routes`: most prefixes share a few next hops.
    known: HashMap<Route, Value>,
}

impl FibBuilder {
    /// A builder without routes.
    pub fn new() -> Self {
        FibBuilder::default()
    }

    /// Adds a route. Of several for the same prefix the one added last holds: metrics and preferences are for the caller
    /// to decide.
    pub fn insert(&mut self, prefix: Prefix, route: Route) {
        let value = match self.known.get(&route) {
            Some(&value) => value,
            None => {
                let value = self.routes.len() as Value;
                self.routes.push(route.clone());
                self.known.insert(route, value);
                value
            }
        };
        let len = prefix.len();
        match prefix.address() {
            IpAddr::V4(address) => self.ipv4.push(Entry { key: address.to_bits(), len, value }),
            IpAddr::V6(address) => self.ipv6.push(Entry { key: address.to_bits(), len, value }),
        }
    }

    /// Builds the tries.
    pub fn build(self) -> Fib {
        let (ipv4, ipv4_prefixes) = Trie::build(self.ipv4);
        let (ipv6, ipv6_prefixes) = Trie::build(self.ipv6);
        Fib { ipv4, ipv6, routes: self.routes.into(), ipv4_prefixes, ipv6_prefixes }
    }
}

impl Extend<(Prefix, Route)> for FibBuilder {
    fn extend<T: IntoIterator<Item = (Prefix, Route)>>(&mut self, routes: T) {
        for (prefix, route) in routes {
            self.insert(prefix, route);
        }
    }
}

/// The forwarding information base: which route is the most specific for an address.
#[derive(Debug, Default)]
pub struct Fib {
    ipv4: Trie<u32>,
    ipv6: Trie<u128>,
    routes: Box<[Route]>,
    ipv4_prefixes: usize,
    ipv6_prefixes: usize,
}

impl Fib {
    /// The route of the longest prefix that contains `address`.
    #[inline]
    pub fn lookup(&self, address: IpAddr) -> Option<&Route> {
        let value = match address {
            IpAddr::V4(address) => self.ipv4.lookup(address.to_bits()),
            IpAddr::V6(address) => self.ipv6.lookup(address.to_bits()),
        }?;
        self.routes.get(value as usize)
    }

    /// How many IPv4 prefixes it holds.
    pub fn ipv4_prefixes(&self) -> usize {
        self.ipv4_prefixes
    }

    /// How many IPv6 prefixes it holds.
    pub fn ipv6_prefixes(&self) -> usize {
        self.ipv6_prefixes
    }

    /// The memory that lookups walk through, in bytes.
    pub fn memory(&self) -> usize {
        self.ipv4.memory() + self.ipv6.memory() + size_of_val(&*self.routes)
    }
}

impl FromIterator<(Prefix, Route)> for Fib {
    fn from_iter<T: IntoIterator<Item = (Prefix, Route)>>(routes: T) -> Fib {
        let mut builder = FibBuilder::new();
        builder.extend(routes);
        builder.build()
    }
}
