//! Chains: which functions packets from an interface walk, in order.
//!
//! Dispatch is static: [`AnyFunction`] is an enum with one arm per kind, matched once per batch and function. A worker owns
//! one [`Program`]: its functions, each held once and shared by all chains that name it, and the chains as lists of indices.

use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use throughway_balancer::Balancer;
use throughway_firewall::Firewall;
use throughway_marker::Marker;
use throughway_nat::Nat;
use throughway_packet::PortId;
use throughway_router::{Origin, Router};
use throughway_vnf::packet::State;
use throughway_vnf::{BATCH, Batch, Context, Credit, DropReason, Function, FunctionTag, Packet, Seen};

use crate::stats::{ChainStats, FunctionStats};

/// Where a fragment stands that came before the first one of its datagram.
const EARLY: State = State::Dropped(DropReason::FragmentBeforeFirst, None);

/// One configured function, of any kind.
#[derive(Debug)]
pub enum AnyFunction {
    /// See [`throughway_router`].
    Router(Router),
    /// See [`throughway_marker`].
    Marker(Marker),
    /// See [`throughway_firewall`].
    Firewall(Firewall),
    /// See [`throughway_nat`].
    Nat(Nat),
    /// See [`throughway_balancer`].
    Balancer(Balancer),
    /// One that the configuration does not know: of a program that embeds the data plane, or of a test.
    Guest(Box<dyn crate::guest::Guest>),
}

/// The same for every kind: static dispatch.
macro_rules! whichever {
    ($any:expr, $function:ident => $what:expr) => {
        match $any {
            AnyFunction::Router($function) => $what,
            AnyFunction::Marker($function) => $what,
            AnyFunction::Firewall($function) => $what,
            AnyFunction::Nat($function) => $what,
            AnyFunction::Balancer($function) => $what,
            AnyFunction::Guest($function) => $what,
        }
    };
}

impl AnyFunction {
    /// The kind's name in the configuration.
    pub fn kind(&self) -> &'static str {
        match self {
            AnyFunction::Router(_) => Router::KIND,
            AnyFunction::Marker(_) => Marker::KIND,
            AnyFunction::Firewall(_) => Firewall::KIND,
            AnyFunction::Nat(_) => Nat::KIND,
            AnyFunction::Balancer(_) => Balancer::KIND,
            AnyFunction::Guest(_) => "guest",
        }
    }

    fn process(&mut self, batch: &mut Batch<'_>, context: &Context) {
        whichever!(self, function => function.process(batch, context));
    }

    fn tick(&mut self, context: &Context) {
        whichever!(self, function => function.tick(context));
    }

    fn foresee(&self, ids: &[u64]) {
        whichever!(self, function => function.foresee(ids));
    }

    fn settle(&mut self, id: u64, seen: &Seen) {
        whichever!(self, function => function.settle(id, seen));
    }

    fn explain(&self, packet: &Packet<'_>, context: &Context) -> Vec<String> {
        match self {
            AnyFunction::Router(function) => function.explain(packet, context),
            AnyFunction::Marker(function) => function.explain(packet, context),
            AnyFunction::Firewall(function) => {
                let explanation = function.explain(packet, context.now);
                crate::explain::firewall::lines(&explanation, &function.shared().policy())
            }
            AnyFunction::Nat(function) => function.explain(packet, context),
            AnyFunction::Balancer(function) => function.explain(packet, context),
            AnyFunction::Guest(function) => function.explain(packet, context),
        }
    }

    fn router(&self) -> Option<&Router> {
        match self {
            AnyFunction::Router(router) => Some(router),
            _ => None,
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

    /// Runs a batch through a chain: the whole batch through one function, then through the next. The first `counted` functions
    /// have had these packets before and do not count them again. Fragments before their first one are not counted as dropped:
    /// they wait, or are [lost](Program::lost).
    pub fn walk(&mut self, chain: usize, batch: &mut Batch<'_>, counted: usize, context: &Context) {
        self.walk_telling(chain, batch, counted, context, |_, _| {});
    }

    /// [`Program::walk`] that tells the name of each function when it has judged the batch.
    pub fn walk_telling(
        &mut self,
        chain: usize,
        batch: &mut Batch<'_>,
        counted: usize,
        context: &Context,
        mut tell: impl FnMut(&str, &Batch<'_>),
    ) {
        let Some(chain) = self.chains.get(chain) else { return };
        let mut living = batch.packets().len();
        let mut waiting = 0;
        for (place, &index) in chain.run.iter().enumerate() {
            if living == 0 {
                break;
            }
            let Some(entry) = self.functions.get_mut(index) else { continue };
            batch.living().for_each(|packet| packet.pass_on(entry.tag));
            entry.function.process(batch, context);
            let left = batch.packets().iter().filter(|packet| packet.state() == State::Alive).count();
            if place >= counted {
                entry.stats.packets.add(living as u64);
            }
            if left < living {
                let wait = |packet: &&Packet<'_>| packet.state() == EARLY;
                let all = batch.packets().iter().filter(wait).count();
                entry.stats.dropped.add((living - left - (all - waiting)) as u64);
                waiting = all;
            }
            living = left;
            tell(&entry.name, batch);
        }
    }

    /// The name of the last of the first `judged` functions of a chain.
    pub fn last_of(&self, chain: Option<usize>, judged: u8) -> Option<&str> {
        let function = *self.chains.get(chain?)?.run.get(usize::from(judged).checked_sub(1)?)?;
        self.functions.get(function).map(|function| function.name.as_str())
    }

    /// Counts a packet from `port` as dropped by the last of the `counted` functions that had it: it waited in vain.
    pub fn lost(&self, port: PortId, counted: usize) {
        let chain = self.chain_of(port).and_then(|chain| self.chains.get(chain));
        let function = chain.and_then(|chain| chain.run.get(counted.checked_sub(1)?));
        if let Some(entry) = function.and_then(|index| self.functions.get(*index)) {
            entry.stats.dropped.add(1);
        }
    }

    /// Walks one packet through a chain and tells after each function what that said of itself beforehand, and how the packet
    /// is now: for people.
    pub fn explain(
        &mut self,
        chain: usize,
        packet: &mut Packet<'_>,
        context: &Context,
        mut tell: impl FnMut(&str, &'static str, Vec<String>, &Packet<'_>),
    ) {
        let Some(chain) = self.chains.get(chain) else { return };
        for &index in &chain.run {
            let Some(entry) = self.functions.get_mut(index).filter(|_| packet.state() == State::Alive) else {
                continue;
            };
            packet.pass_on(entry.tag);
            let reasons = entry.function.explain(packet, context);
            let verdict = whichever!(&mut entry.function, function => function.judge(packet, context));
            packet.settle(verdict);
            tell(&entry.name, entry.function.kind(), reasons, packet);
        }
    }

    /// Gives every function its slice of housekeeping.
    pub fn tick(&mut self, context: &Context) {
        for entry in &mut self.functions {
            entry.function.tick(context);
        }
    }

    /// Has the functions that left these credits with flows fetch what they will need when they are told of them.
    pub fn foresee(&self, credits: &[Credit]) {
        if credits.is_empty() {
            return;
        }
        for entry in &self.functions {
            // By function: in a short loop the processor has many loads under way.
            let own = credits.iter().filter(|credit| credit.function() == entry.tag);
            let ids: ArrayVec<u64, BATCH> = own.map(|credit| credit.id()).take(BATCH).collect();
            if !ids.is_empty() {
                entry.function.foresee(&ids);
            }
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
        let mut routers = self.functions.iter().filter_map(|entry| entry.function.router());
        routers.next()?.ethernet_to(port, next_hop)
    }

    /// Whether a neighbour was asked for not long ago and did not answer.
    pub fn is_silent(&self, port: PortId, next_hop: IpAddr) -> bool {
        let mut routers = self.functions.iter().filter_map(|entry| entry.function.router());
        routers.any(|router| router.is_silent(port, next_hop))
    }

    fn routers_of(&self, chain: usize) -> impl Iterator<Item = &Router> {
        let run = self.chains.get(chain).map(|chain| chain.run.as_slice()).unwrap_or_default();
        run.iter().filter_map(|&index| self.functions.get(index)?.function.router())
    }
}
