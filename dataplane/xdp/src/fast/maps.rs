//! The maps behind the fast path.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher as _,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, DevMap, Map, MapData, xdp::XdpMapError},
};
use throughway_shared::{
    fast::{
        ALIVE_UNTIL, BUCKET_WORDS, BY_REDIRECT, CONTROL_WORDS, ENTRY_WORDS, FAST_BUCKETS, FAST_BUCKETS_EACH,
        FAST_CONTROL, FAST_EGRESS, FAST_ENTRIES, FAST_GENERATIONS, FAST_PORTS, FAST_SEED, FAST_SEED_LAST,
        FAST_TEMPLATES, FAST_TEMPLATES_EACH, FAST_WIDE, FAST_WORKERS, GENERATION_WORDS, Geometry, MAX_FLOWS,
        MAX_WORKERS, TEMPLATE_WORDS, WIDE_WORDS,
    },
    steer::MAX_INTERFACES,
};

use super::{
    FastConfig, FastFlows, SharedWords, Word,
    flows::{Region, Regions},
};
use crate::steering::{SteeringError, check, in_map};

/// How large the maps are, before they are made.
pub(crate) struct FastPlan {
    config: FastConfig,
    geometry: Geometry,
    seed: [u64; 2],
}

impl FastPlan {
    /// Checks the limits.
    pub(crate) fn new(config: FastConfig) -> Result<FastPlan, SteeringError> {
        check("number of workers", config.workers.wrapping_sub(1), MAX_WORKERS)?;
        check("number of flows", config.flows.wrapping_sub(1), MAX_FLOWS)?;
        // The standard library keys these with randomness that it draws from the system.
        let seed = [RandomState::new().hash_one(0), RandomState::new().hash_one(1)];
        Ok(FastPlan { config, geometry: Geometry::of(config.flows), seed })
    }

    /// Says to the loader how large the maps are to be, and the program how they are divided.
    pub(crate) fn tell<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        let FastPlan { config, geometry, seed: [seed, seed_last] } = self;
        loader
            .map_max_entries(FAST_BUCKETS, config.workers * geometry.buckets)
            .map_max_entries(FAST_ENTRIES, config.workers * geometry.ways())
            .map_max_entries(FAST_WIDE, config.workers * geometry.ways())
            .map_max_entries(FAST_TEMPLATES, config.workers * geometry.templates)
            .override_global(FAST_WORKERS, &config.workers, true)
            .override_global(FAST_BUCKETS_EACH, &geometry.buckets, true)
            .override_global(FAST_TEMPLATES_EACH, &geometry.templates, true)
            .override_global(FAST_SEED, seed, true)
            .override_global(FAST_SEED_LAST, seed_last, true);
    }
}

/// How a frame goes back to the link that it came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Back {
    /// By `XDP_TX`, which costs less.
    Transmit,
    /// As to any other device. A veth takes what is transmitted, but wakes its peer for it only if that has an XDP program: with GRO
    /// alone such frames lie there until something else comes (Linux 6.18, `veth_xdp_flush`; `veth_xdp_xmit` asks for both).
    Redirect,
}

/// The maps of the fast path, and what workers have not taken yet.
pub(crate) struct FastMaps {
    flows: Vec<Option<FastFlows>>,
    generations: Arc<SharedWords<AtomicU32>>,
    control: SharedWords<AtomicU64>,
    egress: DevMap<MapData>,
    ports: Array<MapData, u32>,
}

impl FastMaps {
    /// Takes the maps of a program that was loaded with this plan.
    pub(crate) fn take(bpf: &mut Ebpf, plan: &FastPlan) -> Result<Self, SteeringError> {
        let FastPlan { config, geometry, seed } = plan;
        let workers = config.workers as usize;
        let (buckets, ways) = (geometry.buckets as usize, geometry.ways() as usize);
        let mut share = |name, each: usize| -> Result<_, SteeringError> {
            Ok((Arc::new(mapped::<AtomicU64>(bpf, name, workers * each)?), each))
        };
        let shared = [
            share(FAST_BUCKETS, buckets * BUCKET_WORDS)?,
            share(FAST_ENTRIES, ways * ENTRY_WORDS)?,
            share(FAST_WIDE, ways * WIDE_WORDS)?,
            share(FAST_TEMPLATES, geometry.templates as usize * TEMPLATE_WORDS)?,
        ];
        let flows = (0..workers).map(|worker| {
            let [buckets, entries, wide, templates] =
                shared.each_ref().map(|(words, each)| Region::new(words.clone(), worker, *each));
            Some(FastFlows::over(Regions { buckets, entries, wide, templates }, config.flows, *seed))
        });
        Ok(FastMaps {
            flows: flows.collect(),
            generations: Arc::new(mapped(bpf, FAST_GENERATIONS, GENERATION_WORDS)?),
            control: mapped(bpf, FAST_CONTROL, CONTROL_WORDS)?,
            egress: take(bpf, FAST_EGRESS)?.try_into().map_err(in_map(FAST_EGRESS))?,
            ports: take(bpf, FAST_PORTS)?.try_into().map_err(in_map(FAST_PORTS))?,
        })
    }

    pub(crate) fn take_flows(&mut self, worker: u32) -> Option<FastFlows> {
        self.flows.get_mut(worker as usize)?.take()
    }

    pub(crate) fn generations(&self) -> Arc<SharedWords<AtomicU32>> {
        self.generations.clone()
    }

    pub(crate) fn alive_until(&self, ns: u64) {
        if let Some(word) = self.control.as_ref().get(ALIVE_UNTIL) {
            word.store(ns, Ordering::Release);
        }
    }

    pub(crate) fn set_egress(&mut self, port: u16, ifindex: u32, back: Back) -> Result<(), SteeringError> {
        let port = u32::from(port);
        check("port", port, MAX_INTERFACES)?;
        // The device first: the program looks at the other map before it changes a byte.
        match self.egress.set(port, ifindex, None, 0) {
            // No program is chained.
            Ok(()) | Err(XdpMapError::ChainedProgramNotSupported) => {}
            Err(XdpMapError::MapError(error)) => return Err(in_map(FAST_EGRESS)(error)),
        }
        let back = if back == Back::Transmit { 0 } else { BY_REDIRECT };
        self.ports.set(port, ifindex | back, 0).map_err(in_map(FAST_PORTS))
    }

    pub(crate) fn clear_egress(&mut self, port: u16) -> Result<(), SteeringError> {
        let port = u32::from(port);
        check("port", port, MAX_INTERFACES)?;
        // The device map may keep it: the program asks this map first.
        self.ports.set(port, 0, 0).map_err(in_map(FAST_PORTS))
    }
}

pub(crate) fn take(bpf: &mut Ebpf, name: &'static str) -> Result<Map, SteeringError> {
    bpf.take_map(name).ok_or(SteeringError::Missing { kind: "map", name })
}

/// The words of a map, which outlive the map's own file descriptor.
pub(crate) fn mapped<W: Word>(
    bpf: &mut Ebpf,
    name: &'static str,
    words: usize,
) -> Result<SharedWords<W>, SteeringError> {
    let Map::Array(data) = take(bpf, name)? else {
        return Err(SteeringError::Missing { kind: "array", name });
    };
    let share = |source| SteeringError::Share { map: name, source };
    SharedWords::of_map(data.fd().as_fd().as_raw_fd(), words).map_err(share)
}
