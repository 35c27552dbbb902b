//! Chains: which functions packets from an interface walk, in order.
//!
//! Dispatch is static: [`AnyFunction`] is an enum with one arm per kind, matched once per batch and function. A worker owns
//! one [`Program`]: its functions, each held once and shared by all chains that name it, and the chains as lists of indices.

use std::net::IpAddr;
use std::sync::Arc;

use throughway_marker::Marker;
use throughway_packet::PortId;
use throughway_router::{Origin, Router};
use throughway_vnf::packet::State;
use throughway_vnf::{Batch, Context, Credit, Function, FunctionTag, Seen};

use crate::stats::{ChainStats, FunctionStats};

/// One configured function, of any kind.
#[derive(Debug)]
pub enum AnyFunction {
    /// See [`throughway_router`].
    Router(Router),
    /// See [`throughway_marker`].
    Marker(Marker),
}

impl AnyFunction {
    /// The kind's name in the configuration.
    pub fn kind(&self) -> &'static str {
        match self {
            AnyFunction::Router(_) => Router::KIND,
            AnyFunction::Marker(_) => Marker::KIND,
        }
    }

    fn process(&mut self, batch: &mut Batch<'_>, context: &Context) {
        match self {
            AnyFunction::Router(function) => function.process(batch, context),
            AnyFunction::Marker(function) => function.process(batch, context),
        }
    }

    fn tick(&mut self, context: &Context) {
        match self {
            AnyFunction::Router(function) => function.tick(context),
            AnyFunction::Marker(function) => function.tick(context),
        }
    }

    fn settle(&mut self, id: u64, seen: &Seen) {
        match self {
            AnyFunction::Router(function) => function.settle(id, seen),
            AnyFunction::Marker(function) => function.settle(id, seen),
        }
    }
}

/// A function with its name and its figures.
#[derive(Debug)]
pub struct NamedFunction {
    /// What the configuration calls it.
    pub name: String,
    /// Stays with name and kind over reloads.
    pub tag: FunctionTag,
    /// The function.
    pub function: AnyFunction,
    /// What this worker saw of it.
    pub stats: Arc<FunctionStats>,
}

/// One chain: an order of functions.
#[derive(Debug)]
pub struct Chain {
    /// What the configuration calls it.
    pub name: String,
    /// Indices into [`Program::functions`], in order.
    pub run: Vec<usize>,
    /// What this worker saw of it.
    pub stats: Arc<ChainStats>,
}

/// Everything one worker runs.
#[derive(Debug, Default)]
pub struct Program {
    /// The functions, each once.
    pub functions: Vec<NamedFunction>,
    /// The chains.
    pub chains: Vec<Chain>,
    /// For every port, the chain that its packets walk.
    pub chain_of: Vec<Option<usize>>,
}

impl Program {
    /// The chain that packets from `port` walk, if there is one.
    pub fn chain_of(&self, port: PortId) -> Option<usize> {
        self.chain_of.get(port.index()).copied().flatten()
    }

    /// Runs a batch through a chain: the whole batch through one function, then through the next.
    pub fn walk(&mut self, chain: usize, batch: &mut Batch<'_>, context: &Context) {
        let Some(chain) = self.chains.get(chain) else { return };
        let mut living = batch.packets().len();
        for &index in &chain.run {
            if living == 0 {
                break;
            }
            let Some(entry) = self.functions.get_mut(index) else { continue };
            batch.living().for_each(|packet| packet.pass_on(entry.tag));
            entry.function.process(batch, context);
            let left = batch.packets().iter().filter(|packet| packet.state() == State::Alive).count();
            entry.stats.packets.add(living as u64);
            entry.stats.dropped.add((living - left) as u64);
            living = left;
        }
    }

    /// Gives every function its slice of housekeeping.
    pub fn tick(&mut self, context: &Context) {
        for entry in &mut self.functions {
            entry.function.tick(context);
        }
    }

    /// Tells the function that left `credit` with a flow what was seen of it. Of a function that a reload has taken away
    /// nobody needs to know.
    pub fn settle(&mut self, credit: Credit, seen: &Seen) {
        if let Some(entry) = self.functions.iter_mut().find(|entry| entry.tag == credit.function()) {
            entry.function.settle(credit.id(), seen);
        }
    }

    /// Routes a packet that the data plane itself originates in answer to one from `chain`: by the chain's own router.
    pub fn originate(&self, chain: usize, destination: IpAddr) -> Option<Origin> {
        self.routers_of(chain).find_map(|router| router.originate(destination))
    }

    /// The MAC addresses (destination, source) of a frame to a neighbour, once the kernel has resolved it.
    pub fn ethernet_to(&self, port: PortId, next_hop: IpAddr) -> Option<([u8; 6], [u8; 6])> {
        // Neighbours belong to the host, not to a router: all routers see the same.
        self.functions.iter().find_map(|entry| match &entry.function {
            AnyFunction::Router(router) => Some(router.ethernet_to(port, next_hop)),
            AnyFunction::Marker(_) => None,
        })?
    }

    /// Whether a neighbour was asked for not long ago and did not answer.
    pub fn is_silent(&self, port: PortId, next_hop: IpAddr) -> bool {
        self.functions.iter().any(|entry| match &entry.function {
            AnyFunction::Router(router) => router.is_silent(port, next_hop),
            AnyFunction::Marker(_) => false,
        })
    }

    fn routers_of(&self, chain: usize) -> impl Iterator<Item = &Router> {
        let run = self.chains.get(chain).map(|chain| chain.run.as_slice()).unwrap_or_default();
        run.iter().filter_map(|&index| match &self.functions.get(index)?.function {
            AnyFunction::Router(router) => Some(router),
            AnyFunction::Marker(_) => None,
        })
    }
}
