//! The writer's side of a trie: prefixes come and go, in place.
//!
//! What an address leads to changes by one store: of the word that holds it, or of the word above a node that was made
//! beside the old one. Nothing is written to a node that cannot be found any more, so who still reads there reads what was
//! true when it was taken out.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::memory::{LARGEST, Memory};
use super::trie::{
    DEPTH_SHIFT, HEAD, Key, MARKS, NODE, SLOTS, STRIDE, Trie, UNIT, VALUE, WIDE, WIDE_SLOTS, WIDE_STRIDE, run,
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

type Slots = [u32; SLOTS];

const fn leaf(value: u32, depth: u8) -> u32 {
    value & VALUE | (depth as u32) << DEPTH_SHIFT
}

const fn depth(word: u32) -> u8 {
    (word >> DEPTH_SHIFT & 31) as u8
}

const fn with_depth(word: u32, depth: u8) -> u32 {
    word & (NODE | VALUE) | (depth as u32) << DEPTH_SHIFT
}

/// The slots of a level that starts at bit `offset` and is `stride` wide that a prefix covers which ends in it.
fn span<K: Key>(key: K, len: u8, offset: u8, stride: u8) -> std::ops::Range<usize> {
    let first = key.bits(offset, stride);
    first..first + (1 << (offset + stride - len))
}

/// A node before it is written.
struct Image {
    marks: [u32; MARKS],
    before: [u32; 2],
    runs: Slots,
    count: usize,
}

impl Image {
    fn of(slots: &Slots) -> Image {
        let mut image = Image { marks: [0; MARKS], before: [0; 2], runs: [0; SLOTS], count: 0 };
        let mut previous = !slots[0];
        for (word, chunk) in slots.chunks_exact(32).enumerate() {
            image.before[word / 4] |= (image.count as u32) << (8 * (word % 4));
            for (bit, &slot) in chunk.iter().enumerate() {
                if slot != previous {
                    image.marks[word] |= 1 << bit;
                    image.runs[image.count] = slot;
                    image.count += 1;
                    previous = slot;
                }
            }
        }
        image
    }

    fn units(&self) -> usize {
        units(self.count)
    }
}

const fn units(runs: usize) -> usize {
    (HEAD + runs).div_ceil(UNIT)
}

/// Where a word lies.
#[derive(Clone, Copy)]
enum Place {
    Root(usize),
    Wide(usize),
    Node(usize),
}

/// Changes a [`Trie`]; there is one for each.
#[derive(Debug)]
pub(super) struct Grower<K, const ROOT: u8> {
    trie: Arc<Trie<K, ROOT>>,
    memory: Memory,
    /// How many wide tables are in use. One that is stays in use.
    tables: usize,
}

impl<K: Key, const ROOT: u8> Grower<K, ROOT> {
    /// An empty trie with room for so many bytes of nodes, and for so many wide tables.
    pub(super) fn new(bytes: usize, tables: usize) -> Self {
        let trie = Arc::new(Trie::with_room(bytes / (4 * UNIT), tables));
        let memory = Memory::new(trie.nodes.len() / UNIT);
        Grower { trie, memory, tables: 0 }
    }

    pub(super) fn trie(&self) -> &Arc<Trie<K, ROOT>> {
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

    /// Adds a prefix or changes its value. When it fails, nothing has changed.
    pub(super) fn insert(&mut self, entry: Entry<K>) -> Result<(), Full> {
        let Entry { key, len, value } = entry;
        // There was no address space for it.
        if self.trie.root.is_empty() {
            return Err(Full);
        }
        if len <= ROOT {
            for slot in span(key, len, 0, ROOT) {
                let word = self.load(Place::Root(slot));
                if depth(word) <= len {
                    self.paint(Place::Root(slot), word, value, len);
                }
            }
            return Ok(());
        }
        let (mut place, mut offset) = (Place::Root(key.bits(0, ROOT)), ROOT);
        if let Some(table) = self.table(key) {
            offset += WIDE_STRIDE;
            if len <= offset {
                for slot in span(key, len, ROOT, WIDE_STRIDE) {
                    let word = self.load(Place::Wide(table + slot));
                    if depth(word) <= len - ROOT {
                        self.paint(Place::Wide(table + slot), word, value, len - ROOT);
                    }
                }
                return Ok(());
            }
            place = Place::Wide(table + key.bits(ROOT, WIDE_STRIDE));
        }
        // Down to the node in which the prefix ends, or to where it has to be made.
        loop {
            let word = self.load(place);
            if word & NODE == 0 {
                // A slot of a table: below that, `insert_below` has seen to it.
                let new = self.chain(entry, offset, word & VALUE)?;
                self.store(place, with_depth(new, depth(word)));
                break;
            }
            let block = word & VALUE;
            if len <= offset + STRIDE {
                self.insert_here(entry, place, block, offset)?;
                break;
            }
            let slot = key.bits(offset, STRIDE);
            let below = self.place_of(block, slot);
            if self.load(below) & NODE == 0 {
                self.insert_below(entry, place, block, offset, slot)?;
                break;
            }
            place = below;
            offset += STRIDE;
        }
        self.account();
        Ok(())
    }

    /// The prefix ends in this node.
    fn insert_here(&mut self, entry: Entry<K>, above: Place, block: u32, offset: u8) -> Result<(), Full> {
        let ends = entry.len - offset;
        let mut slots = self.slots(block);
        let old = slots;
        let mut children = Vec::new();
        for slot in &mut slots[span(entry.key, entry.len, offset, STRIDE)] {
            if depth(*slot) <= ends {
                if *slot & NODE != 0 {
                    children.push(*slot & VALUE);
                    *slot = with_depth(*slot, ends);
                } else {
                    *slot = leaf(entry.value, ends);
                }
            }
        }
        self.replace(above, block, &old, &slots)?;
        for child in children {
            self.inherit(child, entry.value);
        }
        Ok(())
    }

    /// The prefix ends below a slot of this node that leads to a value so far.
    fn insert_below(
        &mut self,
        entry: Entry<K>,
        above: Place,
        block: u32,
        offset: u8,
        slot: usize,
    ) -> Result<(), Full> {
        let mut slots = self.slots(block);
        let old = slots;
        let word = slots[slot];
        let child = self.chain(entry, offset + STRIDE, word & VALUE)?;
        slots[slot] = with_depth(child, depth(word));
        self.replace(above, block, &old, &slots).inspect_err(|_| self.discard(child))
    }

    /// New nodes from `offset` down to where the prefix ends, with nothing but it and what they inherit.
    fn chain(&mut self, entry: Entry<K>, offset: u8, inherited: u32) -> Result<u32, Full> {
        let mut slots = [leaf(inherited, 0); SLOTS];
        // The level in which the prefix ends.
        let mut level = offset + (entry.len - offset - 1) / STRIDE * STRIDE;
        slots[span(entry.key, entry.len, level, STRIDE)].fill(leaf(entry.value, entry.len - level));
        let mut word = self.write(&Image::of(&slots))?;
        while level > offset {
            level -= STRIDE;
            slots = [leaf(inherited, 0); SLOTS];
            slots[entry.key.bits(level, STRIDE)] = word;
            word = self.write(&Image::of(&slots)).inspect_err(|_| self.discard(word))?;
        }
        Ok(word)
    }

    /// Takes back nodes that were never shown: the one that `word` leads to and all below it.
    fn discard(&mut self, word: u32) {
        if word & NODE == 0 {
            return;
        }
        let block = word & VALUE;
        let words = self.words(block);
        self.memory.give_back(block, units(words.len()));
        for place in words {
            self.discard(self.load(place));
        }
    }

    /// Takes out a prefix. `covering` is the next shorter one that contains it, with its value.
    pub(super) fn remove(&mut self, key: K, len: u8, covering: Option<(u8, u32)>) {
        let (cover, value) = covering.unwrap_or((0, 0));
        if len <= ROOT {
            for slot in span(key, len, 0, ROOT) {
                let word = self.load(Place::Root(slot));
                if depth(word) == len {
                    self.paint(Place::Root(slot), word, value, cover);
                }
            }
            return;
        }
        let (mut place, mut offset) = (Place::Root(key.bits(0, ROOT)), ROOT);
        if let Some(table) = self.table_of(self.load(place)) {
            offset += WIDE_STRIDE;
            if len <= offset {
                for slot in span(key, len, ROOT, WIDE_STRIDE) {
                    let word = self.load(Place::Wide(table + slot));
                    if depth(word) == len - ROOT {
                        self.paint(Place::Wide(table + slot), word, value, cover.saturating_sub(ROOT));
                    }
                }
                return;
            }
            place = Place::Wide(table + key.bits(ROOT, WIDE_STRIDE));
        }
        // The way down: above each node, the word that leads to it.
        let mut way: Vec<(Place, u32, u8)> = Vec::new();
        loop {
            let word = self.load(place);
            if word & NODE == 0 {
                // It is not there.
                return;
            }
            way.push((place, word & VALUE, offset));
            if len <= offset + STRIDE {
                break;
            }
            place = self.place_of(word & VALUE, key.bits(offset, STRIDE));
            offset += STRIDE;
        }
        let Some((_, block, offset)) = way.last().copied() else { return };
        let (ends, left) = (len - offset, cover.saturating_sub(offset));
        let mut slots = self.slots(block);
        let mut old = slots;
        for slot in &mut slots[span(key, len, offset, STRIDE)] {
            if depth(*slot) == ends {
                if *slot & NODE != 0 {
                    self.inherit(*slot & VALUE, value);
                    *slot = with_depth(*slot, left);
                } else {
                    *slot = leaf(value, left);
                }
            }
        }
        // A node without a prefix of its own or below it is not needed: the slot above it leads to what it inherits.
        while let Some((above, block, _)) = way.pop() {
            let first = slots[0];
            let empty = depth(first) == 0 && first & NODE == 0 && slots.iter().all(|slot| *slot == first);
            if !empty {
                // Never fails: no run begins where none did.
                let _ = self.replace(above, block, &old, &slots);
                break;
            }
            let collapsed = leaf(first, depth(self.load(above)));
            match way.last() {
                Some(&(_, parent, offset)) => {
                    slots = self.slots(parent);
                    old = slots;
                    slots[key.bits(offset, STRIDE)] = collapsed;
                }
                None => self.store(above, collapsed),
            }
            // It can still be found until the parent is replaced; it is not used again before that.
            self.memory.retire(block, units(self.words(block).len()));
        }
    }

    /// Makes the slots of a node what they shall be: in place if no run begins where none did, else by a new node.
    fn replace(&mut self, above: Place, block: u32, old: &Slots, slots: &Slots) -> Result<(), Full> {
        let image = Image::of(slots);
        let marks = self.marks(block);
        let now = units(self.words(block).len());
        let fits = image.marks.iter().zip(&marks).all(|(new, known)| new & !known == 0);
        if !fits || image.units() < now {
            match self.write(&image) {
                Ok(word) => {
                    let depth = depth(self.load(above));
                    self.store(above, with_depth(word, depth));
                    self.memory.retire(block, now);
                    return Ok(());
                }
                Err(full) if !fits => return Err(full),
                Err(Full) => {}
            }
        }
        for (slot, (new, old)) in slots.iter().zip(old).enumerate() {
            let begins = marks[slot / 32] >> (slot % 32) & 1 != 0;
            if begins && new != old {
                self.store(self.place_of(block, slot), *new);
            }
        }
        Ok(())
    }

    /// The wide table for the /16 of a key, if there is one or can be: where its words begin.
    fn table(&mut self, key: K) -> Option<usize> {
        let place = Place::Root(key.bits(0, ROOT));
        let word = self.load(place);
        let table = self.table_of(word);
        if table.is_some() || word & NODE != 0 || (self.tables + 1) * WIDE_SLOTS > self.trie.wide.len() {
            return table;
        }
        let first = self.tables * WIDE_SLOTS;
        // Zero is what it is made of.
        if word & VALUE != 0 {
            for slot in first..first + WIDE_SLOTS {
                self.store(Place::Wide(slot), leaf(word & VALUE, 0));
            }
        }
        self.store(place, with_depth(WIDE | self.tables as u32, depth(word)));
        self.tables += 1;
        Some(first)
    }

    fn table_of(&self, word: u32) -> Option<usize> {
        let is_table = word & WIDE == WIDE && !self.trie.wide.is_empty();
        is_table.then_some((word & !WIDE & VALUE) as usize * WIDE_SLOTS)
    }

    /// Lets a place belong to another prefix.
    fn paint(&mut self, place: Place, word: u32, value: u32, depth: u8) {
        if let (Place::Root(_), Some(table)) = (place, self.table_of(word)) {
            self.store(place, with_depth(word, depth));
            for place in (table..table + WIDE_SLOTS).map(Place::Wide) {
                let word = self.load(place);
                if self::depth(word) == 0 {
                    self.paint(place, word, value, 0);
                }
            }
        } else if word & NODE != 0 {
            self.store(place, with_depth(word, depth));
            self.inherit(word & VALUE, value);
        } else {
            self.store(place, leaf(value, depth));
        }
    }

    /// Changes what a node inherits from above.
    fn inherit(&self, block: u32, value: u32) {
        for place in self.words(block) {
            let word = self.load(place);
            if depth(word) == 0 {
                if word & NODE != 0 {
                    self.inherit(word & VALUE, value);
                } else {
                    self.store(place, leaf(value, 0));
                }
            }
        }
    }

    /// Adds many prefixes to an empty trie: sorted, without doubles, shorter ones before those that they contain. Returns
    /// those that there was no room for.
    pub(super) fn build(&mut self, entries: &[Entry<K>]) -> Vec<Entry<K>> {
        if self.trie.root.is_empty() {
            return entries.to_vec();
        }
        for entry in entries.iter().filter(|entry| entry.len <= ROOT) {
            for slot in span(entry.key, entry.len, 0, ROOT) {
                self.store(Place::Root(slot), leaf(entry.value, entry.len));
            }
        }
        let mut left_out = Vec::new();
        for group in entries.chunk_by(|a, b| a.key.bits(0, ROOT) == b.key.bits(0, ROOT)) {
            let deeper = &group[group.partition_point(|entry| entry.len <= ROOT)..];
            let Some(first) = deeper.first() else { continue };
            let Some(table) = self.table(first.key) else {
                self.build_below(Place::Root(first.key.bits(0, ROOT)), deeper, ROOT, &mut left_out);
                continue;
            };
            let end = ROOT + WIDE_STRIDE;
            for entry in deeper.iter().filter(|entry| entry.len <= end) {
                for slot in span(entry.key, entry.len, ROOT, WIDE_STRIDE) {
                    self.store(Place::Wide(table + slot), leaf(entry.value, entry.len - ROOT));
                }
            }
            let slot = |entry: &Entry<K>| entry.key.bits(ROOT, WIDE_STRIDE);
            for group in deeper.chunk_by(|a, b| slot(a) == slot(b)) {
                let deeper = &group[group.partition_point(|entry| entry.len <= end)..];
                if let Some(first) = deeper.first() {
                    self.build_below(Place::Wide(table + slot(first)), deeper, end, &mut left_out);
                }
            }
        }
        self.account();
        left_out
    }

    /// Puts the nodes for these prefixes below a place.
    fn build_below(&mut self, place: Place, deeper: &[Entry<K>], offset: u8, left_out: &mut Vec<Entry<K>>) {
        let word = self.load(place);
        match self.build_node(deeper, offset, word & VALUE) {
            Ok(node) => self.store(place, with_depth(node, depth(word))),
            // As many of them as there is room for.
            Err(Full) => left_out.extend(deeper.iter().filter(|entry| self.insert(**entry).is_err())),
        }
    }

    /// A node with the prefixes below it: all longer than `offset` bits and equal in these.
    fn build_node(&mut self, entries: &[Entry<K>], offset: u8, inherited: u32) -> Result<u32, Full> {
        let end = offset + STRIDE;
        let mut slots = [leaf(inherited, 0); SLOTS];
        for entry in entries.iter().filter(|entry| entry.len <= end) {
            slots[span(entry.key, entry.len, offset, STRIDE)].fill(leaf(entry.value, entry.len - offset));
        }
        let mut result = Ok(());
        for group in entries.chunk_by(|a, b| a.key.bits(offset, STRIDE) == b.key.bits(offset, STRIDE)) {
            let deeper = &group[group.partition_point(|entry| entry.len <= end)..];
            if let (Some(first), Ok(())) = (deeper.first(), result) {
                let slot = &mut slots[first.key.bits(offset, STRIDE)];
                match self.build_node(deeper, end, *slot & VALUE) {
                    Ok(node) => *slot = with_depth(node, depth(*slot)),
                    Err(full) => result = Err(full),
                }
            }
        }
        result.and_then(|()| self.write(&Image::of(&slots))).inspect_err(|_| {
            for slot in slots {
                self.discard(slot);
            }
        })
    }

    /// Writes a new node; the word that leads to it, with depth 0.
    fn write(&mut self, image: &Image) -> Result<u32, Full> {
        let block = self.memory.take(image.units()).ok_or(Full)?;
        let words = image.marks.iter().chain(&image.before).chain(&image.runs[..image.count]);
        for (place, word) in (block as usize * UNIT..).zip(words) {
            self.store(Place::Node(place), *word);
        }
        Ok(NODE | block)
    }

    fn load(&self, place: Place) -> u32 {
        let word = match place {
            Place::Root(slot) => self.trie.root.get(slot),
            Place::Wide(slot) => self.trie.wide.get(slot),
            Place::Node(word) => self.trie.nodes.get(word),
        };
        word.map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn store(&self, place: Place, word: u32) {
        let at = match place {
            Place::Root(slot) => self.trie.root.get(slot),
            Place::Wide(slot) => self.trie.wide.get(slot),
            Place::Node(word) => self.trie.nodes.get(word),
        };
        if let Some(at) = at {
            at.store(word, Ordering::Release);
        }
    }

    fn marks(&self, block: u32) -> [u32; MARKS] {
        std::array::from_fn(|word| self.load(Place::Node(block as usize * UNIT + word)))
    }

    /// Where the words of a node's runs lie.
    fn words(&self, block: u32) -> impl ExactSizeIterator<Item = Place> + use<K, ROOT> {
        let count = self.marks(block).iter().map(|word| word.count_ones() as usize).sum::<usize>();
        let first = block as usize * UNIT + HEAD;
        (first..first + count).map(Place::Node)
    }

    /// Where the word of a node's slot lies.
    fn place_of(&self, block: u32, slot: usize) -> Place {
        let base = block as usize * UNIT;
        let run = self.trie.nodes.get(base..base + HEAD).map_or(0, |head| run(head, slot));
        Place::Node(base + HEAD + run)
    }

    fn slots(&self, block: u32) -> Slots {
        let mut slots = [0; SLOTS];
        let marks = self.marks(block);
        let mut words = self.words(block);
        let mut word = 0;
        for (slot, at) in slots.iter_mut().enumerate() {
            if marks[slot / 32] >> (slot % 32) & 1 != 0 {
                word = words.next().map_or(0, |place| self.load(place));
            }
            *at = word;
        }
        slots
    }

    fn account(&self) {
        let used = self.memory.used() + self.tables * WIDE_SLOTS * 4;
        self.trie.used.store(used, Ordering::Relaxed);
    }
}

const _: () = assert!(LARGEST * UNIT >= HEAD + SLOTS);
