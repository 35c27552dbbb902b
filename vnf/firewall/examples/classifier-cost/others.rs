//! What the decision tree was compared with, for IPv4 and single boxes only: enough to measure.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use throughway_firewall::Fields;

use crate::generate::{Plain, mask};

fn ends(fields: &Fields) -> (u32, u32) {
    let low = |address: &[u8; 16]| u128::from_be_bytes(*address) as u32;
    (low(&fields.source), low(&fields.destination))
}

fn rest_holds(rule: &Plain, fields: &Fields) -> bool {
    let any = (0, u16::MAX);
    let port =
        |range: (u16, u16), port: u16| range == any || fields.has_ports && range.0 <= port && port <= range.1;
    rule.protocol.is_none_or(|protocol| protocol == fields.protocol)
        && port(rule.source_ports, fields.source_port)
        && port(rule.destination_ports, fields.destination_port)
}

/// A folded multiplication: as cheap as a hash can be.
#[derive(Default)]
pub(crate) struct Fold(u64);

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {}
    fn write_u64(&mut self, word: u64) {
        let product = u128::from(word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }
}

type Table = HashMap<u64, Vec<u32>, BuildHasherDefault<Fold>>;

/// Tuple space search (Srinivasan, Suri and Varghese, SIGCOMM 1999): a hash table for each pair of prefix lengths. Tables in the
/// order of their first rule, so that the search ends early, as in Open vSwitch.
pub(crate) struct TupleSpace<'a> {
    rules: &'a [Plain],
    /// First rule, masks, table.
    tuples: Vec<(u32, u32, u32, Table)>,
}

impl<'a> TupleSpace<'a> {
    pub(crate) fn new(rules: &'a [Plain]) -> Self {
        let mut tuples: HashMap<(u8, u8), (u32, Table)> = HashMap::new();
        for (number, rule) in rules.iter().enumerate() {
            let (_, table) = tuples
                .entry((rule.source.1, rule.destination.1))
                .or_insert_with(|| (number as u32, Table::default()));
            let key = u64::from(rule.source.0) << 32 | u64::from(rule.destination.0);
            table.entry(key).or_default().push(number as u32);
        }
        let mut tuples: Vec<_> = tuples
            .into_iter()
            .map(|((source, destination), (first, table))| (first, mask(source), mask(destination), table))
            .collect();
        tuples.sort_by_key(|tuple| tuple.0);
        TupleSpace { rules, tuples }
    }

    pub(crate) fn tuples(&self) -> usize {
        self.tuples.len()
    }

    pub(crate) fn search(&self, fields: &Fields) -> u32 {
        let (source, destination) = ends(fields);
        let mut best = u32::MAX;
        for (first, source_mask, destination_mask, table) in &self.tuples {
            if *first >= best {
                break;
            }
            let key = u64::from(source & source_mask) << 32 | u64::from(destination & destination_mask);
            let Some(candidates) = table.get(&key) else { continue };
            for &number in candidates.iter().take_while(|&&number| number < best) {
                if rest_holds(&self.rules[number as usize], fields) {
                    best = number;
                    break;
                }
            }
        }
        best
    }

    pub(crate) fn memory(&self) -> usize {
        let table = |table: &Table| {
            table.capacity() * 33 + table.values().map(|list| list.capacity() * 4).sum::<usize>()
        };
        self.tuples.iter().map(|tuple| table(&tuple.3)).sum::<usize>() + size_of_val(self.rules)
    }
}

/// Aggregated bit vectors (Baboescu and Varghese, SIGCOMM 2001): for each elementary interval of a dimension one bit per rule, and one
/// bit per word that is not zero.
pub(crate) struct BitVectors<'a> {
    rules: &'a [Plain],
    words: usize,
    dimensions: [Dimension; 2],
}

struct Dimension {
    /// Where each interval begins.
    starts: Vec<u32>,
    vectors: Vec<u64>,
    summaries: Vec<u64>,
}

impl<'a> BitVectors<'a> {
    /// `None` if it would take more than a gigabyte.
    pub(crate) fn new(rules: &'a [Plain]) -> Option<Self> {
        let words = rules.len().div_ceil(64);
        let of = |end: fn(&Plain) -> (u32, u8)| {
            let range = |rule: &Plain| {
                let (address, len) = end(rule);
                (address, address | !mask(len))
            };
            let mut starts: Vec<u32> = vec![0];
            for rule in rules {
                let (first, last) = range(rule);
                starts.push(first);
                starts.extend(last.checked_add(1));
            }
            starts.sort_unstable();
            starts.dedup();
            if starts.len() * words * 8 > 1 << 29 {
                return None;
            }
            let mut vectors = vec![0u64; starts.len() * words];
            for (number, rule) in rules.iter().enumerate() {
                let (first, last) = range(rule);
                let from = starts.partition_point(|&start| start < first);
                let to = starts.partition_point(|&start| start <= last);
                (from..to).for_each(|at| vectors[at * words + number / 64] |= 1 << (number % 64));
            }
            let summary = words.div_ceil(64);
            let mut summaries = vec![0u64; starts.len() * summary];
            for (at, vector) in vectors.chunks(words).enumerate() {
                for (word, _) in vector.iter().enumerate().filter(|(_, word)| **word != 0) {
                    summaries[at * summary + word / 64] |= 1 << (word % 64);
                }
            }
            Some(Dimension { starts, vectors, summaries })
        };
        Some(BitVectors { rules, words, dimensions: [of(|rule| rule.source)?, of(|rule| rule.destination)?] })
    }

    pub(crate) fn search(&self, fields: &Fields) -> u32 {
        let (source, destination) = ends(fields);
        let [a, b] = &self.dimensions;
        let at = |dimension: &Dimension, value| dimension.starts.partition_point(|&start| start <= value) - 1;
        let (i, j) = (at(a, source), at(b, destination));
        let summary = self.words.div_ceil(64);
        for outer in 0..summary {
            let mut set = a.summaries[i * summary + outer] & b.summaries[j * summary + outer];
            while set != 0 {
                let word = outer * 64 + set.trailing_zeros() as usize;
                set &= set - 1;
                let mut bits = a.vectors[i * self.words + word] & b.vectors[j * self.words + word];
                while bits != 0 {
                    let number = word * 64 + bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    if rest_holds(&self.rules[number], fields) {
                        return number as u32;
                    }
                }
            }
        }
        u32::MAX
    }

    pub(crate) fn memory(&self) -> usize {
        self.dimensions
            .iter()
            .map(|dimension| {
                dimension.starts.len() * 4 + (dimension.vectors.len() + dimension.summaries.len()) * 8
            })
            .sum()
    }
}
