//! A decision tree over boxes.
//!
//! Each node cuts one dimension into up to thirteen parts, at quantiles of the boxes' edges, and so needs one cache line whatever
//! the distribution. A box that spans many parts would have to be copied into each; instead it goes to the node's *rest*,
//! a subtree of its own which is searched too, but only if it holds a rule before the best one found. So the boxes of rules with
//! wildcards part from the specific ones wherever in the tree they meet (the idea of separable trees, Vamanan, Voskuilen and
//! Vijaykumar, "EffiCuts", SIGCOMM 2010), and the number of copies is bounded: once the budget is used up, whatever
//! spans a cut goes to the rest.

use arrayvec::ArrayVec;

use crate::classify::boxes::{Address, EGRESS, Entry, MAX_DIMENSIONS, Point, SPARE, STATE, Solid};
use crate::rule::{Fields, PacketFields, States};

/// Values per node; one part more.
const KEYS: usize = 12;

/// A leaf has at most so many boxes, unless they cannot be told apart.
const LEAF: usize = 8;

/// Nodes on the longest path.
const MAX_DEPTH: usize = 32;

/// There may always be so many nodes, beside two for each box. If they are used up, leaves grow.
const LEAST_NODES: usize = 1024;

/// A box that spans more parts than this goes to the rest.
const SPAN: usize = 3;

/// So many boxes of the rest are copied into all parts, to save the second path.
const FEW: usize = 2;

/// How many boxes are looked at to choose a cut.
const SAMPLE: usize = 512;

/// A node of the tree; children lie side by side. With `dimension` [`IS_LEAF`], `first` and `rest` are where its
/// boxes begin and end.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Node {
    /// The last value of each part but the last; unused ones are the largest value.
    keys: [u32; KEYS],
    first: u32,
    /// The subtree of boxes that span too many parts.
    rest: u32,
    /// The first rule in the rest; `u32::MAX` if there is none.
    rest_before: u32,
    dimension: u8,
    /// Fields that may differ between packets of one flow and that the cut looks at.
    depends: u8,
}

const _: () = assert!(size_of::<Node>() == 64);

const IS_LEAF: u8 = u8::MAX;

/// The tree of one family.
#[derive(Debug)]
pub(super) struct Tree<A> {
    nodes: Box<[Node]>,
    entries: Box<[Entry<A>]>,
}

/// What a search has found so far.
pub(super) struct Best {
    /// The first rule found, or `u32::MAX`.
    pub(super) index: u32,
    pub(super) depends: PacketFields,
}

impl<A: Address> Tree<A> {
    pub(super) fn build(solids: &[Solid<A>]) -> Tree<A> {
        let mut builder = Builder {
            solids,
            nodes: vec![EMPTY],
            entries: Vec::with_capacity(solids.len() * 2),
            spare: SPARE + solids.len(),
            most_nodes: LEAST_NODES + 2 * solids.len(),
            dimensions: 2 * A::WORDS + 7,
        };
        let all = (0..solids.len() as u32).collect();
        let region = Region { low: [0; MAX_DIMENSIONS], high: [u32::MAX; MAX_DIMENSIONS] };
        builder.fill(0, all, region, 0);
        Tree { nodes: builder.nodes.into(), entries: builder.entries.into() }
    }

    /// Bytes.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.nodes) + size_of_val(&*self.entries)
    }

    /// The first rule from `from` on whose box holds the packet and of which `check` says that it matches.
    #[inline]
    pub(super) fn search(
        &self,
        fields: &Fields,
        from: u32,
        check: impl Fn(u32) -> (bool, PacketFields),
    ) -> Best {
        let point = Point::<A>::of(fields);
        let mut best = Best { index: u32::MAX, depends: PacketFields::NONE };
        let mut later = ArrayVec::<(u32, u32), MAX_DEPTH>::new();
        let mut at = 0;
        while let Some(node) = self.nodes.get(at as usize) {
            if node.dimension != IS_LEAF {
                best.depends |= PacketFields(node.depends);
                let value = point.at[usize::from(node.dimension) & 15];
                let part = node.keys.iter().map(|&key| u32::from(key < value)).sum::<u32>();
                if node.rest_before < best.index {
                    // There is room: one for each node of the path.
                    let _ = later.try_push((node.rest, node.rest_before));
                }
                at = node.first + part;
                continue;
            }
            let entries = self.entries.get(node.first as usize..node.rest as usize).unwrap_or_default();
            for entry in entries {
                if entry.index >= best.index {
                    break;
                }
                if entry.index < from || !entry.holds(&point, fields) {
                    continue;
                }
                if entry.states != States::ALL.bits() {
                    best.depends |= PacketFields::STATE;
                    if entry.states >> fields.state as u8 & 1 == 0 {
                        continue;
                    }
                }
                if entry.flags & Entry::<A>::CHECK != 0 {
                    let (holds, depends) = check(entry.index);
                    best.depends |= depends;
                    if !holds {
                        continue;
                    }
                }
                best.index = entry.index;
                break;
            }
            at = loop {
                match later.pop() {
                    Some((rest, before)) if before < best.index => break rest,
                    Some(_) => {}
                    None => return best,
                }
            };
        }
        best
    }
}

const EMPTY: Node =
    Node { keys: [u32::MAX; KEYS], first: 0, rest: 0, rest_before: u32::MAX, dimension: IS_LEAF, depends: 0 };

/// The part of the space that a node is about.
#[derive(Clone, Copy)]
struct Region {
    low: [u32; MAX_DIMENSIONS],
    high: [u32; MAX_DIMENSIONS],
}

struct Builder<'a, A> {
    solids: &'a [Solid<A>],
    nodes: Vec<Node>,
    entries: Vec<Entry<A>>,
    /// How many copies may still be made.
    spare: usize,
    /// How many nodes there may be.
    most_nodes: usize,
    dimensions: usize,
}

/// A way to cut a region.
struct Cut {
    dimension: usize,
    keys: ArrayVec<u32, KEYS>,
    /// What a search is expected to cost: smaller is better.
    cost: f64,
}

impl<A: Address> Builder<'_, A> {
    /// Makes node `at` of these boxes, which are in the order of their rules.
    fn fill(&mut self, at: usize, boxes: Vec<u32>, region: Region, depth: usize) {
        let full = depth + 1 >= MAX_DEPTH || self.nodes.len() + KEYS + 2 > self.most_nodes;
        let cut = if boxes.len() <= LEAF || full { None } else { self.choose(&boxes, &region) };
        let Some(cut) = cut else { return self.leaf(at, &boxes) };

        let mut parts: Vec<Vec<u32>> = vec![Vec::new(); cut.keys.len() + 1];
        let mut rest = Vec::new();
        for &number in &boxes {
            let (first, last) = self.span(number, &cut);
            let copies = last - first;
            if copies >= SPAN.min(cut.keys.len()) || copies > self.spare {
                rest.push(number);
            } else {
                self.spare -= copies;
                parts[first..=last].iter_mut().for_each(|part| part.push(number));
            }
        }
        let copies = rest.len() * cut.keys.len();
        if rest.len() <= FEW && copies <= self.spare {
            self.spare -= copies;
            for part in &mut parts {
                part.append(&mut rest.clone());
                part.sort_unstable();
            }
            rest.clear();
        }
        let largest = parts.iter().map(Vec::len).max().unwrap_or(0).max(rest.len());
        if largest == boxes.len() {
            return self.leaf(at, &boxes);
        }
        drop(boxes);

        let first = self.nodes.len();
        self.nodes.resize(first + parts.len() + usize::from(!rest.is_empty()), EMPTY);
        let mut keys = [u32::MAX; KEYS];
        keys[..cut.keys.len()].copy_from_slice(&cut.keys);
        let depends = match cut.dimension.checked_sub(2 * A::WORDS) {
            Some(EGRESS) => PacketFields::EGRESS,
            Some(STATE) => PacketFields::STATE,
            _ => PacketFields::NONE,
        };
        self.nodes[at] = Node {
            keys,
            first: first as u32,
            rest: (first + parts.len()) as u32,
            rest_before: rest.first().map_or(u32::MAX, |&number| self.solids[number as usize].entry.index),
            dimension: cut.dimension as u8,
            depends: depends.0,
        };
        if !rest.is_empty() {
            self.fill(first + parts.len(), rest, region, depth + 1);
        }
        let mut low = region.low[cut.dimension];
        for (number, part) in parts.into_iter().enumerate() {
            let high = cut.keys.get(number).copied().unwrap_or(region.high[cut.dimension]);
            let mut inner = region;
            (inner.low[cut.dimension], inner.high[cut.dimension]) = (low, high);
            low = high.saturating_add(1);
            self.fill(first + number, part, inner, depth + 1);
        }
    }

    fn leaf(&mut self, at: usize, boxes: &[u32]) {
        let first = self.entries.len() as u32;
        self.entries.extend(boxes.iter().map(|&number| self.solids[number as usize].entry));
        self.nodes[at] = Node { first, rest: self.entries.len() as u32, ..EMPTY };
    }

    /// The first and last part that the box reaches into.
    fn span(&self, number: u32, cut: &Cut) -> (usize, usize) {
        let solid = &self.solids[number as usize];
        let part = |value: u32| cut.keys.partition_point(|&key| key < value);
        (part(solid.low[cut.dimension]), part(solid.high[cut.dimension]))
    }

    /// The best cut, or none when no dimension tells the boxes apart.
    fn choose(&self, boxes: &[u32], region: &Region) -> Option<Cut> {
        let step = boxes.len().div_ceil(SAMPLE);
        let sample: Vec<u32> = boxes.iter().copied().step_by(step).collect();
        let scale = boxes.len() as f64 / sample.len() as f64;
        (0..self.dimensions)
            .filter_map(|dimension| self.cut(dimension, &sample, scale, region))
            .min_by(|a, b| a.cost.total_cmp(&b.cost))
    }

    fn cut(&self, dimension: usize, sample: &[u32], scale: f64, region: &Region) -> Option<Cut> {
        let (low, high) = (region.low[dimension], region.high[dimension]);
        // The last values of possible parts: before a box begins, and where one ends.
        let mut edges = Vec::new();
        for &number in sample {
            let solid = &self.solids[number as usize];
            let (first, last) = (solid.low[dimension], solid.high[dimension]);
            if first > low {
                edges.push(first - 1);
            }
            if last < high {
                edges.push(last);
            }
        }
        if edges.is_empty() {
            return None;
        }
        edges.sort_unstable();
        let mut keys = ArrayVec::<u32, KEYS>::new();
        let mut distinct = edges.clone();
        distinct.dedup();
        if distinct.len() <= KEYS {
            keys.extend(distinct);
        } else {
            for quantile in 1..=KEYS {
                let key = edges[quantile * edges.len() / (KEYS + 1)];
                if keys.last().is_none_or(|&last| last < key) {
                    keys.push(key);
                }
            }
        }
        let mut cut = Cut { dimension, keys, cost: 0.0 };
        let mut sizes = [0.0f64; KEYS + 1];
        let mut rest = 0.0;
        for &number in sample {
            let (first, last) = self.span(number, &cut);
            if last - first >= SPAN.min(cut.keys.len()) {
                rest += scale;
            } else {
                sizes[first..=last].iter_mut().for_each(|size| *size += scale);
            }
        }
        // The size of the part in which a box is expected to be searched for.
        let total: f64 = sizes.iter().sum();
        let part = if total > 0.0 { sizes.iter().map(|size| size * size).sum::<f64>() / total } else { 0.0 };
        let whole = sample.len() as f64 * scale;
        if rest >= whole || part + rest >= whole * 0.95 && part >= whole * 0.9 {
            return None;
        }
        let second = if rest <= FEW as f64 { 0.0 } else { 1.0 + (1.0 + rest).log2() };
        cut.cost = (1.0 + part + if second == 0.0 { rest } else { 0.0 }).log2() + second;
        Some(cut)
    }
}
