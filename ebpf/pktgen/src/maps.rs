//! The maps. Their names and layouts are in `throughway_traffic`.

use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray},
};
use throughway_traffic::{
    Plan, State,
    sink::{BUCKETS, FLOW_ENTRIES, RUN_ENTRIES, Run, WINDOW_ENTRIES},
};

#[map]
pub(crate) static PLAN: Array<Plan> = Array::with_max_entries(1, 0);

#[map]
pub(crate) static STATE: Array<State> = Array::with_max_entries(1, 0);

#[map]
pub(crate) static RUNS: PerCpuArray<Run> = PerCpuArray::with_max_entries(RUN_ENTRIES, 0);

#[map]
pub(crate) static OTHER: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub(crate) static LATENCY: PerCpuArray<u64> = PerCpuArray::with_max_entries(BUCKETS, 0);

#[map]
pub(crate) static WINDOWS: Array<u64> = Array::with_max_entries(WINDOW_ENTRIES, 0);

#[map]
pub(crate) static FLOWS: Array<u64> = Array::with_max_entries(FLOW_ENTRIES, 0);
