//! A multibit trie with compressed nodes, after Poptrie (Asai and Ohara, SIGCOMM 2015).
//!
//! The first 16 bits of a key index a table. Below it every node consumes six bits: it has 64 slots, of which each leads
//! to a child or to a leaf, and stores only what differs. `children` marks the slots with a child, `leaf_starts` those
//! where a new leaf value begins; children and leaves of a node lie side by side, so the position of one is the number of
//! marks before it. A node is 24 bytes; an IPv4 /24 is found with four dependent loads, an IPv6 /48 with eight.

/// What a prefix leads to: an index that the trie does not interpret, below [`NONE`].
pub(super) type Value = u32;

/// Mark of an entry of the first table that is the index of a node; otherwise it is a value.
const NODE: u32 = 1 << 31;

/// No prefix contains the key.
const NONE: Value = NODE - 1;

const ROOT_BITS: u32 = 16;
const NODE_BITS: u32 = 6;
const SLOTS: usize = 1 << NODE_BITS;

/// The bits of an address, most significant first.
pub(super) trait Key: Copy + Ord {
    /// The `count` bits from `offset` on, zeros after the last; `offset` is smaller than the width.
    fn bits(self, offset: u32, count: u32) -> usize;
}

impl Key for u32 {
    #[inline]
    fn bits(self, offset: u32, count: u32) -> usize {
        ((self << offset) >> (32 - count)) as usize
    }
}

impl Key for u128 {
    #[inline]
    fn bits(self, offset: u32, count: u32) -> usize {
        ((self << offset) >> (128 - count)) as usize
    }
}

/// A prefix with what it leads to. No bit of `key` is set behind `len`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<K> {
    pub(super) key: K,
    pub(super) len: u8,
    pub(super) value: Value,
}

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    children: u64,
    leaf_starts: u64,
    first_child: u32,
    first_leaf: u32,
}

const _: () = assert!(size_of::<Node>() == 24);

#[derive(Debug)]
pub(super) struct Trie<K> {
    /// 2¹⁶ entries, or none when there is no prefix.
    root: Box<[u32]>,
    nodes: Box<[Node]>,
    leaves: Box<[Value]>,
    key: std::marker::PhantomData<K>,
}

impl<K> Default for Trie<K> {
    fn default() -> Self {
        Trie {
            root: Box::default(),
            nodes: Box::default(),
            leaves: Box::default(),
            key: std::marker::PhantomData,
        }
    }
}

impl<K: Key> Trie<K> {
    /// Builds the trie; returns with it how many different prefixes it holds. Of equal prefixes the last one holds.
    pub(super) fn build(mut entries: Vec<Entry<K>>) -> (Self, usize) {
        if entries.is_empty() {
            return (Trie::default(), 0);
        }
        // Stable, so that equal prefixes stay in order. A prefix sorts before all that it contains.
        entries.sort_by_key(|entry| (entry.key, entry.len));
        entries.dedup_by(|later, kept| {
            let same = later.key == kept.key && later.len == kept.len;
            if same {
                kept.value = later.value;
            }
            same
        });

        let mut root = vec![NONE; 1 << ROOT_BITS];
        paint(&mut root, &entries, 0, ROOT_BITS);
        let mut below = Below::default();
        for (slot, deeper) in groups(&entries, 0, ROOT_BITS) {
            let node = below.nodes.len();
            below.nodes.push(Node::default());
            below.fill(node, deeper, ROOT_BITS, root[slot]);
            root[slot] = NODE | node as u32;
        }
        let trie = Trie {
            root: root.into(),
            nodes: below.nodes.into(),
            leaves: below.leaves.into(),
            key: std::marker::PhantomData,
        };
        (trie, entries.len())
    }

    /// The value of the longest prefix that contains `key`.
    #[inline]
    pub(super) fn lookup(&self, key: K) -> Option<Value> {
        let entry = *self.root.get(key.bits(0, ROOT_BITS))?;
        let value = if entry & NODE == 0 { entry } else { self.descend(key, entry & !NODE)? };
        (value != NONE).then_some(value)
    }

    #[inline]
    fn descend(&self, key: K, mut index: u32) -> Option<Value> {
        let mut offset = ROOT_BITS;
        loop {
            let node = self.nodes.get(index as usize)?;
            let slot = key.bits(offset, NODE_BITS);
            // All slots up to and including this one. For slot 63 the shift leaves 0, and 0 - 1 is all ones.
            let up_to = (2u64 << slot).wrapping_sub(1);
            if node.children >> slot & 1 == 0 {
                let leaf = node.first_leaf + (node.leaf_starts & up_to).count_ones() - 1;
                return self.leaves.get(leaf as usize).copied();
            }
            index = node.first_child + (node.children & up_to).count_ones() - 1;
            offset += NODE_BITS;
        }
    }

    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.root) + size_of_val(&*self.nodes) + size_of_val(&*self.leaves)
    }
}

/// What lies below the first table, while it is built.
#[derive(Default)]
struct Below {
    nodes: Vec<Node>,
    leaves: Vec<Value>,
}

impl Below {
    /// Makes node `at` from the prefixes below it: all longer than `offset` bits and equal in these. `inherited` is the
    /// value of the longest prefix above.
    fn fill<K: Key>(&mut self, at: usize, entries: &[Entry<K>], offset: u32, inherited: Value) {
        let mut slots = [inherited; SLOTS];
        paint(&mut slots, entries, offset, NODE_BITS);

        let children = groups(entries, offset, NODE_BITS).fold(0u64, |bits, (slot, _)| bits | 1 << slot);
        let first_child = self.nodes.len();
        let mut node = Node {
            children,
            leaf_starts: 0,
            first_child: first_child as u32,
            first_leaf: self.leaves.len() as u32,
        };
        let mut previous = None;
        for (slot, &value) in slots.iter().enumerate() {
            if children >> slot & 1 == 0 && previous != Some(value) {
                node.leaf_starts |= 1 << slot;
                self.leaves.push(value);
                previous = Some(value);
            }
        }
        self.nodes[at] = node;
        self.nodes.resize(first_child + children.count_ones() as usize, Node::default());
        for (index, (slot, deeper)) in groups(entries, offset, NODE_BITS).enumerate() {
            self.fill(first_child + index, deeper, offset + NODE_BITS, slots[slot]);
        }
    }
}

/// Writes the value of each prefix that ends in this stride to the slots it covers. The order of `entries` lets longer
/// prefixes write over shorter ones.
fn paint<K: Key>(slots: &mut [Value], entries: &[Entry<K>], offset: u32, stride: u32) {
    let end = offset + stride;
    for entry in entries.iter().filter(|entry| u32::from(entry.len) <= end) {
        let first = entry.key.bits(offset, stride);
        let count = 1usize << (end - u32::from(entry.len));
        slots[first..first + count].fill(entry.value);
    }
}

/// The prefixes that go on below this stride, by slot in ascending order.
fn groups<K: Key>(
    entries: &[Entry<K>],
    offset: u32,
    stride: u32,
) -> impl Iterator<Item = (usize, &[Entry<K>])> {
    let end = offset + stride;
    let slot = move |entry: &Entry<K>| entry.key.bits(offset, stride);
    entries.chunk_by(move |a, b| slot(a) == slot(b)).filter_map(move |group| {
        // Those that end in this stride have zeros behind it and so come first.
        let deeper = &group[group.partition_point(|entry| u32::from(entry.len) <= end)..];
        deeper.first().map(|entry| (slot(entry), deeper))
    })
}
