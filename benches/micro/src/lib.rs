//! Microbenchmarks with criterion, in `benches/`: `make bench-micro`. What they share is in `throughway_benches`.
#![forbid(unsafe_code)]
