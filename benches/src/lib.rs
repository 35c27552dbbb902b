//! What the benchmarks share: a clock in cycles, random numbers that are the same in every run, tables for people.
#![forbid(unsafe_code)]

pub mod cycles;
pub mod random;
