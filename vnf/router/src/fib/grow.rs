//! The writer's side of a trie: prefixes come and go, in place.
//!
//! What an address leads to changes by one store: of the word that holds it, or of the word above a node that was made
//! beside the old one. Nothing is written to a node that cannot be found any more, so who still reads there reads what was
//! true when it was taken out.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::memory::{LARGEST, Memory};
use super::node::{Head, Run, cut, depth, leaf, paint, units, with_depth, word_of};
use super::rib::Rib;
use super::trie::{
    BEHIND, BLOCK, HEAD, Key, LEAF, MARKS, MOST_BITS, MOST_RANGES, NODE, SLOTS, STRIDE, Trie, UNIT, VALUE,
    is_ranges, is_tall, place, ranges_of, stride,
};

/// There is no memory for another node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Full;

/// A prefix with what it leads to. No bit of `key` is set behind `len`, which is not 0; nor is `value`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<K> {
    pub(super) key: K,
    pub(super) len: u8,
    pub(super) value: u32,
}

/// The slots of a level that starts at bit `offset` and is `stride` wide that a prefix covers which ends in it.
fn span<K: Key>(key: K, len: u8, offset: u8, stride: u8) -> Range<u32> {
    let first = key.bits(offset, stride) as u32;
    first..first + (1 << (offset + stride - len))
}

/// Where a word lies.
#[derive(Clone, Copy, Debug)]
enum Place {
    Root(usize),
    Node(usize),
}

/// A node that was found: the word that leads to it, that word's place, and the first bit that the node consumes.
#[derive(Clone, Copy, Debug)]
struct Found {
    above: Place,
    word: u32,
    offset: u8,
}

/// Changes a [`Trie`]; there is one for each.
#[derive(Debug)]
pub(super) struct Grower<K> {
    trie: Arc<Trie<K>>,
    memory: Memory,
}

impl<K: Key> Grower<K> {
    /// An empty trie with room for so many bytes of nodes.
    pub(super) fn new(bytes: usize) -> Self {
        let trie = Arc::new(Trie::with_room(bytes / (4 * UNIT)));
        let memory = Memory::new(trie.lines().len());
        Grower { trie, memory }
    }

    pub(super) fn trie(&self) -> &Arc<Trie<K>> {
        &self.trie
    }

    /// How many nodes wait to be used again.
    pub(super) fn retired(&self) -> usize {
        self.memory.retired()
    }

    /// Uses retired nodes again. Before that, readers have to be told: see [`Memory`].
    pub(super) fn recycle(&mut self) {
        self.memory.recycle();
    }

    /// Adds a prefix or changes its value. `rib` has it already. When it fails, nothing has changed.
    pub(super) fn insert(&mut self, entry: Entry<K>, rib: &Rib<K>) -> Result<(), Full> {
        let Entry { key, len, value } = entry;
        // There was no address space for it.
        if self.trie.root.is_empty() {
            return Err(Full);
        }
        let (slot, mut offset) = key.first();
        if len <= offset {
            for slot in key.covered(len).into_iter().flatten() {
                let place = Place::Root(slot);
                let word = self.load(place);
                if depth(word) <= len {
                    self.repaint(place, word, K::consumed(slot), value, len);
                }
            }
            return Ok(());
        }
        let mut place = Place::Root(slot);
        // Down to the node in which the prefix ends, or to where it has to be made.
        loop {
            let word = self.load(place);
            if word & NODE == 0 {
                // A slot of the first table: below that, `insert_below` has seen to it.
                let new = self.chain(entry, offset, word & VALUE)?;
                self.store(place, with_depth(new, depth(word)));
                break;
            }
            let found = Found { above: place, word, offset };
            let stride = stride::<K>(word, offset);
            if len <= offset + stride {
                self.insert_here(entry, found, rib)?;
                break;
            }
            let below = self.place_of(word, key.bits(offset, stride));
            if self.load(below) & NODE == 0 {
                self.insert_below(entry, found, rib)?;
                break;
            }
            place = below;
            offset += stride;
        }
        self.account();
        Ok(())
    }

    /// The prefix ends in this node.
    fn insert_here(&mut self, entry: Entry<K>, found: Found, rib: &Rib<K>) -> Result<(), Full> {
        let Found { word, offset, .. } = found;
        let (ends, stride) = (entry.len - offset, stride::<K>(word, offset));
        let mut runs = self.runs(word);
        let mut children = Vec::new();
        paint(&mut runs, stride, span(entry.key, entry.len, offset, stride), |word| {
            if depth(word) > ends {
                word
            } else if word & NODE != 0 {
                children.push(word);
                with_depth(word, ends)
            } else {
                leaf(entry.value, ends)
            }
        });
        self.replace(found, entry.key, &runs, rib)?;
        for child in children {
            self.inherit(child, offset + stride, entry.value);
        }
        Ok(())
    }

    /// The prefix ends below a slot of this node that leads to a value so far.
    fn insert_below(&mut self, entry: Entry<K>, found: Found, rib: &Rib<K>) -> Result<(), Full> {
        let Found { word, offset, .. } = found;
        let stride = stride::<K>(word, offset);
        let slot = entry.key.bits(offset, stride) as u32;
        let mut runs = self.runs(word);
        let old = self.load(self.place_of(word, slot as usize));
        let child = self.chain(entry, offset + stride, old & VALUE)?;
        paint(&mut runs, stride, slot..slot + 1, |old| with_depth(child, depth(old)));
        let result = self.replace(found, entry.key, &runs, rib);
        result.inspect_err(|_| self.discard(child, offset + stride))
    }

    /// New nodes from `offset` down to where the prefix ends, with nothing but it and what they inherit.
    fn chain(&mut self, entry: Entry<K>, offset: u8, inherited: u32) -> Result<u32, Full> {
        let mut levels = vec![(offset, new_stride::<K>(offset))];
        while let Some(&(level, stride)) = levels.last()
            && entry.len > level + stride
        {
            levels.push((level + stride, new_stride::<K>(level + stride)));
        }
        let mut below: Option<(u32, u8)> = None;
        for (level, stride) in levels.into_iter().rev() {
            let mut runs = vec![Run { start: 0, word: leaf(inherited, 0) }];
            match below {
                None => paint(&mut runs, stride, span(entry.key, entry.len, level, stride), |_| {
                    leaf(entry.value, entry.len - level)
                }),
                Some((word, _)) => {
                    let slot = entry.key.bits(level, stride) as u32;
                    paint(&mut runs, stride, slot..slot + 1, |_| word);
                }
            }
            let written = self.write(&runs, K::HAS_RANGES);
            let word = written.inspect_err(|_| {
                if let Some((word, level)) = below {
                    self.discard(word, level);
                }
            })?;
            below = Some((word, level));
        }
        Ok(below.map_or(0, |(word, _)| word))
    }

    /// Takes back nodes that were never shown: the one that `word` leads to, at `offset`, and all below it.
    fn discard(&mut self, word: u32, offset: u8) {
        if word & NODE == 0 {
            return;
        }
        let words = self.words(word);
        self.memory.give_back(word & BLOCK, self.units(word));
        for place in words {
            self.discard(self.load(place), offset + stride::<K>(word, offset));
        }
    }

    /// Takes out a prefix, which `rib` has no longer; `covering` is the next shorter one that contains it, with its value. When
    /// it fails, nothing has changed.
    pub(super) fn remove(&mut self, key: K, len: u8, rib: &Rib<K>) -> Result<(), Full> {
        let (cover, value) = rib.covering(key, len).unwrap_or((0, 0));
        let (slot, mut offset) = key.first();
        if len <= offset {
            for slot in key.covered(len).into_iter().flatten() {
                let place = Place::Root(slot);
                let word = self.load(place);
                if depth(word) == len {
                    self.repaint(place, word, K::consumed(slot), value, cover);
                }
            }
            return Ok(());
        }
        let mut place = Place::Root(slot);
        // The way down.
        let mut way: Vec<Found> = Vec::new();
        loop {
            let word = self.load(place);
            if word & NODE == 0 {
                // It is not there.
                return Ok(());
            }
            way.push(Found { above: place, word, offset });
            let stride = stride::<K>(word, offset);
            if len <= offset + stride {
                break;
            }
            place = self.place_of(word, key.bits(offset, stride));
            offset += stride;
        }
        let Some(&Found { word, offset, .. }) = way.last() else { return Ok(()) };
        let (ends, left, stride_here) =
            (len - offset, cover.saturating_sub(offset), stride::<K>(word, offset));
        let mut runs = self.runs(word);
        let mut children = Vec::new();
        paint(&mut runs, stride_here, span(key, len, offset, stride_here), |word| {
            if depth(word) != ends {
                word
            } else if word & NODE != 0 {
                children.push(word);
                with_depth(word, left)
            } else {
                leaf(value, left)
            }
        });
        // A node without a prefix of its own or below it is not needed: the slot above it leads to what it inherits.
        let mut gone = Vec::new();
        while let Some(found) = way.pop() {
            let empty = match runs.as_slice() {
                [Run { word, .. }] => depth(*word) == 0 && *word & NODE == 0,
                _ => false,
            };
            if !empty {
                self.replace(found, key, &runs, rib)?;
                break;
            }
            gone.push(found.word);
            let collapsed = leaf(runs.first().map_or(0, |run| run.word), depth(self.load(found.above)));
            match way.last() {
                Some(parent) => {
                    runs = self.runs(parent.word);
                    let stride = stride::<K>(parent.word, parent.offset);
                    let slot = key.bits(parent.offset, stride) as u32;
                    paint(&mut runs, stride, slot..slot + 1, |_| collapsed);
                }
                None => self.store(found.above, collapsed),
            }
        }
        for word in gone {
            self.memory.retire(word & BLOCK, self.units(word));
        }
        for child in children {
            self.inherit(child, offset + stride_here, value);
        }
        Ok(())
    }

    /// Makes the slots of a node what they shall be: in place if no run begins where none did, else by a new node. `key` is any
    /// that passes it.
    fn replace(&mut self, found: Found, key: K, runs: &[Run], rib: &Rib<K>) -> Result<(), Full> {
        let Found { above, word, offset } = found;
        let old = self.runs_as_written(word);
        let fits = runs.iter().all(|run| old.binary_search_by_key(&run.start, |old| old.start).is_ok());
        let ranges = is_ranges::<K>(word);
        let units = new_units(old.len(), ranges);
        let smaller = new_units(runs.len(), ranges) < units;
        if !fits || smaller {
            let written = if ranges && runs.len() > MOST_RANGES {
                self.split(runs, key, offset, rib)
            } else {
                self.write(runs, ranges)
            };
            match written {
                Ok(new) => {
                    let depth = depth(self.load(above));
                    self.store(above, with_depth(new, depth));
                    self.memory.retire(word & BLOCK, units);
                    return Ok(());
                }
                Err(full) if !fits => return Err(full),
                Err(Full) => {}
            }
        }
        for (old, place) in old.iter().zip(self.words(word)) {
            let new = word_of(runs, old.start);
            if new != old.word {
                self.store(place, new);
            }
        }
        Ok(())
    }

    /// A node of bits with nodes of ranges below it, for what has become too much for one node of ranges.
    fn split(&mut self, runs: &[Run], key: K, offset: u8, rib: &Rib<K>) -> Result<u32, Full> {
        let below = (K::bound(offset) - offset).saturating_sub(STRIDE);
        if below == 0 {
            return self.write(runs, false);
        }
        let mut slots: Vec<Run> = Vec::with_capacity(2 * runs.len());
        let mut made = Vec::new();
        let mut slot = 0u32;
        let mut result = Ok(());
        while (slot as usize) < SLOTS {
            let (first, end) = (slot << below, (slot + 1) << below);
            let at = runs.partition_point(|run| run.start <= first).saturating_sub(1);
            let until = runs.partition_point(|run| run.start < end);
            let within = runs.get(at..until).unwrap_or_default();
            match within {
                [only] if depth(only.word) <= STRIDE => {
                    slots.push(Run { start: slot, word: only.word });
                    // All slots up to the next run are the same.
                    slot = runs.get(until).map_or(SLOTS as u32, |next| (next.start >> below).max(slot + 1));
                    continue;
                }
                _ => {}
            }
            let child: Vec<Run> = within
                .iter()
                .map(|run| Run {
                    start: run.start.max(first) - first,
                    word: with_depth(run.word, depth(run.word).saturating_sub(STRIDE)),
                })
                .collect();
            let written = if child.len() > MOST_RANGES {
                self.split(&child, key.with_octet(offset, slot), offset + STRIDE, rib)
            } else {
                self.write(&child, true)
            };
            match written {
                Ok(word) => {
                    made.push(word);
                    let (cover, _) =
                        rib.covering(key.with_octet(offset, slot), offset + STRIDE + 1).unwrap_or((0, 0));
                    slots.push(Run { start: slot, word: with_depth(word, cover.saturating_sub(offset)) });
                }
                Err(full) => {
                    result = Err(full);
                    break;
                }
            }
            slot += 1;
        }
        result.and_then(|()| self.write(&slots, false)).inspect_err(|_| {
            // Not what is below them: that is still in use.
            for word in made {
                self.discard_split(word, offset + STRIDE);
            }
        })
    }

    /// Takes back nodes that [`Grower::split`] has made: those before the bound.
    fn discard_split(&mut self, word: u32, offset: u8) {
        let next = offset + stride::<K>(word, offset);
        let words = self.words(word);
        self.memory.give_back(word & BLOCK, self.units(word));
        if next < K::bound(offset) {
            for place in words {
                let below = self.load(place);
                if below & NODE != 0 {
                    self.discard_split(below, next);
                }
            }
        }
    }

    /// Lets a slot of the first table belong to another prefix; a node below it consumes bits from `offset` on.
    fn repaint(&mut self, place: Place, word: u32, offset: u8, value: u32, depth: u8) {
        if word & NODE != 0 {
            self.store(place, with_depth(word, depth));
            self.inherit(word, offset, value);
        } else {
            self.store(place, leaf(value, depth));
        }
    }

    /// Changes what the node that `word` leads to inherits from above.
    fn inherit(&self, word: u32, offset: u8, value: u32) {
        let next = offset + stride::<K>(word, offset);
        for place in self.words(word) {
            let word = self.load(place);
            if depth(word) == 0 {
                if word & NODE != 0 {
                    self.inherit(word, next, value);
                } else {
                    self.store(place, leaf(value, 0));
                }
            }
        }
    }

    /// Adds many prefixes to an empty trie: sorted, without doubles, shorter ones before those that they contain. Returns
    /// those that it has left out because there was no room for them and all beside them; there may be for some.
    pub(super) fn build(&mut self, entries: &[Entry<K>]) -> Vec<Entry<K>> {
        if self.trie.root.is_empty() {
            return entries.to_vec();
        }
        for entry in entries.iter().filter(|entry| entry.len <= entry.key.first().1) {
            for slot in entry.key.covered(entry.len).into_iter().flatten() {
                self.store(Place::Root(slot), leaf(entry.value, entry.len));
            }
        }
        let mut left_out = Vec::new();
        for group in entries.chunk_by(|a, b| a.key.first() == b.key.first()) {
            let Some((slot, offset)) = group.first().map(|entry| entry.key.first()) else { continue };
            let deeper = deeper(group, offset);
            if deeper.is_empty() {
                continue;
            }
            let place = Place::Root(slot);
            let word = self.load(place);
            match self.build_node(deeper, offset, word & VALUE) {
                Ok(node) => self.store(place, with_depth(node, depth(word))),
                Err(Full) => left_out.extend_from_slice(deeper),
            }
        }
        self.account();
        left_out
    }

    /// A node with the prefixes below it: all longer than `offset` bits and equal in these.
    fn build_node(&mut self, entries: &[Entry<K>], offset: u8, inherited: u32) -> Result<u32, Full> {
        let bound = K::bound(offset);
        if K::HAS_RANGES {
            let plan = Plan::of(entries, offset, bound, inherited);
            if plan.runs.len() <= MOST_RANGES {
                return self.build_planned(plan, bound, true);
            }
        }
        self.build_planned(
            Plan::of(entries, offset, bound.min(offset + STRIDE), inherited),
            bound.min(offset + STRIDE),
            false,
        )
    }

    /// A node as it was planned, with what comes below it, from bit `end` on.
    fn build_planned(&mut self, plan: Plan<'_, K>, end: u8, ranges: bool) -> Result<u32, Full> {
        let Plan { mut runs, below } = plan;
        let mut result = Ok(());
        for (slot, entries) in below {
            let (Some(run), Ok(())) = (runs.iter_mut().find(|run| run.start == slot), result) else {
                continue;
            };
            match self.build_node(entries, end, run.word & VALUE) {
                Ok(node) => run.word = with_depth(node, depth(run.word)),
                Err(full) => result = Err(full),
            }
        }
        result.and_then(|()| self.write(&runs, ranges)).inspect_err(|_| {
            for run in &runs {
                self.discard(run.word, end);
            }
        })
    }

    /// Writes a new node, of ranges or of bits; the word that leads to it, with depth 0.
    fn write(&mut self, runs: &[Run], ranges: bool) -> Result<u32, Full> {
        let block = self.memory.take(new_units(runs.len(), ranges)).ok_or(Full)?;
        let base = block as usize * UNIT;
        if ranges {
            let (bits, units) = ranges_of(runs.len());
            let word = bits | block;
            let start_of = |at: usize| runs.get(at).map_or(BEHIND, |run| run.start);
            if is_tall(word) {
                for leaf in 0..UNIT {
                    self.store(Place::Node(base + leaf), start_of(leaf * LEAF));
                }
            }
            for at in 0..(units - usize::from(is_tall(word))) * LEAF {
                let place = start_place(word, at);
                self.store(Place::Node(place), start_of(at));
                self.store(Place::Node(place + LEAF), runs.get(at).map_or(0, |run| run.word));
            }
            return Ok(word);
        }
        let head = Head::of(runs);
        let words = head.marks.iter().chain(&head.before).copied().chain(runs.iter().map(|run| run.word));
        for (place, word) in (base..).zip(words) {
            self.store(Place::Node(place), word);
        }
        Ok(NODE | block)
    }

    fn at(&self, place: Place) -> Option<&AtomicU32> {
        match place {
            Place::Root(slot) => self.trie.root.get(slot),
            Place::Node(word) => self.trie.lines().get(word / UNIT).map(|line| &line[word % UNIT]),
        }
    }

    fn load(&self, place: Place) -> u32 {
        self.at(place).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn store(&self, place: Place, word: u32) {
        if let Some(at) = self.at(place) {
            at.store(word, Ordering::Release);
        }
    }

    /// Where the ranges of a node begin.
    fn ranges(&self, word: u32) -> impl Iterator<Item = u32> + '_ {
        let begins =
            |place: usize| Some(self.load(Place::Node(place))).filter(|start| *start >> MOST_BITS == 0);
        let base = (word & BLOCK) as usize * UNIT;
        // Behind the last leaf lies another node.
        let leaves = if is_tall(word) { (base..base + UNIT).map_while(begins).count() } else { 1 };
        (0..leaves * LEAF).map_while(move |at| begins(start_place(word, at)))
    }

    /// Where the runs of a node of bits begin, as they were written.
    fn starts(&self, word: u32) -> Vec<u32> {
        let base = (word & BLOCK) as usize * UNIT;
        let mut starts = Vec::with_capacity(16);
        for at in 0..MARKS {
            let mut marks = self.load(Place::Node(base + at));
            while marks != 0 {
                starts.push(at as u32 * 32 + marks.trailing_zeros());
                marks &= marks - 1;
            }
        }
        starts
    }

    /// How many runs a node has.
    fn count(&self, word: u32) -> usize {
        if is_ranges::<K>(word) {
            return self.ranges(word).count();
        }
        let base = (word & BLOCK) as usize * UNIT;
        (0..MARKS).map(|at| self.load(Place::Node(base + at)).count_ones() as usize).sum()
    }

    /// The memory of a node.
    fn units(&self, word: u32) -> usize {
        new_units(self.count(word), is_ranges::<K>(word))
    }

    /// Where the words of a node's runs lie.
    fn words(&self, word: u32) -> impl ExactSizeIterator<Item = Place> + use<K> {
        let ranges = is_ranges::<K>(word);
        let base = (word & BLOCK) as usize * UNIT;
        (0..self.count(word))
            .map(move |at| Place::Node(if ranges { start_place(word, at) + LEAF } else { base + HEAD + at }))
    }

    /// Where the word of a node's slot lies.
    fn place_of(&self, word: u32, slot: usize) -> Place {
        let (line, at) = place::<K>(self.trie.lines(), word, slot as u32);
        Place::Node(line * UNIT + at)
    }

    /// The runs of a node as they were written: words may have become equal since.
    fn runs_as_written(&self, word: u32) -> Vec<Run> {
        if is_ranges::<K>(word) {
            let word_at = |at| self.load(Place::Node(start_place(word, at) + LEAF));
            return self
                .ranges(word)
                .enumerate()
                .map(|(at, start)| Run { start, word: word_at(at) })
                .collect();
        }
        let both = self.starts(word).into_iter().zip(self.words(word));
        both.map(|(start, place)| Run { start, word: self.load(place) }).collect()
    }

    fn runs(&self, word: u32) -> Vec<Run> {
        let mut runs = self.runs_as_written(word);
        runs.dedup_by(|later, kept| later.word == kept.word);
        runs
    }

    fn account(&self) {
        self.trie.used.store(self.memory.used(), Ordering::Relaxed);
    }
}

/// Where it is written where a range of a node begins.
const fn start_place(word: u32, at: usize) -> usize {
    let line = (word & BLOCK) as usize + is_tall(word) as usize + at / LEAF;
    line * UNIT + at % LEAF
}

/// How much memory a node with so many runs takes.
const fn new_units(runs: usize, ranges: bool) -> usize {
    if ranges { ranges_of(runs).1 } else { units(runs) }
}

/// The bits that a new node with next to nothing in it consumes.
fn new_stride<K: Key>(offset: u8) -> u8 {
    let left = K::bound(offset) - offset;
    if K::HAS_RANGES { left } else { left.min(STRIDE) }
}

/// Those of a group, which are equal in their first bits, that are longer.
fn deeper<K>(group: &[Entry<K>], bits: u8) -> &[Entry<K>] {
    group.get(group.partition_point(|entry| entry.len <= bits)..).unwrap_or_default()
}

/// What a node shall say: a slot for itself for each of which there is more below.
struct Plan<'a, K> {
    runs: Vec<Run>,
    below: Vec<(u32, &'a [Entry<K>])>,
}

impl<'a, K: Key> Plan<'a, K> {
    /// Of entries that are longer than `offset` bits and equal in these, for a node that ends at bit `end`.
    fn of(entries: &'a [Entry<K>], offset: u8, end: u8, inherited: u32) -> Self {
        let stride = end - offset;
        let mut runs = vec![Run { start: 0, word: leaf(inherited, 0) }];
        for entry in entries.iter().filter(|entry| entry.len <= end) {
            paint(&mut runs, stride, span(entry.key, entry.len, offset, stride), |_| {
                leaf(entry.value, entry.len - offset)
            });
        }
        let mut below = Vec::new();
        for group in entries.chunk_by(|a, b| a.key.bits(offset, stride) == b.key.bits(offset, stride)) {
            let deeper = deeper(group, end);
            if let Some(first) = deeper.first() {
                below.push((first.key.bits(offset, stride) as u32, deeper));
            }
        }
        separate(&mut runs, stride, &below);
        Plan { runs, below }
    }
}

/// Gives slots that lead to nodes runs of their own.
fn separate<T>(runs: &mut Vec<Run>, stride: u8, below: &[(u32, T)]) {
    for (slot, _) in below {
        cut(runs, stride, *slot);
        cut(runs, stride, *slot + 1);
    }
}

const _: () = assert!(LARGEST * UNIT >= HEAD + SLOTS);
const _: () = assert!(LARGEST >= ranges_of(MOST_RANGES).1);
