//! What a worker counts: single-writer counters, read by the control side when somebody asks.

use std::sync::Arc;

use throughway_packet::PortId;
use throughway_vnf::DropReason;
use throughway_vnf::counters::Counter;

use crate::worker::limit::Suppressed;
use crate::worker::uses::Uses;

/// Upper bounds of the batch size histogram, in packets.
pub const BATCH_BOUNDS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Packets and bytes (Ethernet frames without their check sequence).
#[derive(Debug, Default)]
pub struct Volume {
    /// Packets.
    pub packets: Counter,
    /// Bytes.
    pub bytes: Counter,
}

impl Volume {
    /// Adds packets and their bytes.
    pub fn add(&self, packets: u64, bytes: u64) {
        self.packets.add(packets);
        self.bytes.add(bytes);
    }
}

/// What one worker saw of one port.
#[derive(Debug)]
pub struct PortStats {
    /// Received by this worker.
    pub received: Volume,
    /// Handed to the kernel or the device for sending.
    pub sent: Volume,
    /// Packets that came in here and died, by reason.
    pub drops: [Counter; DropReason::COUNT],
    /// Batches received, by size: one more than [`BATCH_BOUNDS`] has, cumulative sums are made when scraped.
    pub batches: [Counter; BATCH_BOUNDS.len()],
}

impl Default for PortStats {
    fn default() -> Self {
        PortStats {
            received: Volume::default(),
            sent: Volume::default(),
            drops: std::array::from_fn(|_| Counter::default()),
            batches: std::array::from_fn(|_| Counter::default()),
        }
    }
}

/// The kernel's and our own figures of one AF_XDP socket.
#[derive(Debug, Default)]
pub struct SocketStats {
    /// Named figures in the order of [`SocketStats::NAMES`].
    pub values: [Counter; SocketStats::NAMES.len()],
}

impl SocketStats {
    /// XDP_STATISTICS first, then what the socket's own code counts.
    pub const NAMES: [&'static str; 18] = [
        "rx_dropped",
        "rx_invalid_descs",
        "tx_invalid_descs",
        "rx_ring_full",
        "rx_fill_ring_empty_descs",
        "tx_ring_empty_descs",
        "tx_wakeups",
        "tx_retries",
        "tx_errors",
        "tx_dropped",
        "tx_full",
        "tx_moved",
        "tx_short",
        "tx_foreign",
        "rx_wakeups",
        "rx_oversized",
        "rx_errors",
        "fill_refills",
    ];
}

/// The flow cache's figures.
#[derive(Debug, Default)]
pub struct FlowStats {
    /// Named figures in the order of [`FlowStats::NAMES`].
    pub values: [Counter; FlowStats::NAMES.len()],
    /// Flows that are remembered now.
    pub flows: Counter,
}

impl FlowStats {
    /// What the cache counts; see `throughway_flow::Stats`.
    pub const NAMES: [&'static str; 14] = [
        "hits",
        "revalidated",
        "misses",
        "stale",
        "silent",
        "unfit",
        "installed",
        "replaced",
        "evicted_probation",
        "evicted_idle",
        "evicted_stale",
        "refused",
        "diverse",
        "forgotten",
    ];

    /// Copies the figures of `cache`.
    pub fn publish(&self, cache: &throughway_flow::FlowCache) {
        let stats = cache.stats();
        let values = [
            stats.hits,
            stats.revalidated,
            stats.misses,
            stats.stale,
            stats.silent,
            stats.unfit,
            stats.installed,
            stats.replaced,
            stats.evicted_probation,
            stats.evicted_idle,
            stats.evicted_stale,
            stats.refused,
            stats.diverse,
            stats.forgotten,
        ];
        for (counter, value) in self.values.iter().zip(values) {
            counter.set(value);
        }
        self.flows.set(cache.len() as u64);
    }
}

/// What the XDP program executes of a worker's flows.
#[derive(Debug, Default)]
pub struct FastStats {
    /// Flows that it executes now.
    pub flows: Counter,
    /// Flows that it has room for.
    pub capacity: Counter,
    /// Packets that it executed, as far as they were taken over.
    pub packets: Counter,
    /// Bytes of their frames.
    pub bytes: Counter,
    /// Flows that were handed over.
    pub installed: Counter,
    /// Flows that were taken back.
    pub removed: Counter,
    /// Of these, flows that had to make room for heavier ones.
    pub driven_out: Counter,
    /// How often a flow that was nominated stayed with the worker, in the order of [`FastStats::STAYS`].
    pub stays: [Counter; FastStats::STAYS.len()],
}

impl FastStats {
    /// Why flows stay with the worker: see [`Stays`](crate::worker::offload::Stays).
    pub const STAYS: [&'static str; 12] = [
        "unproven",
        "egress",
        "light",
        "full",
        "crowded",
        "already-there",
        "too-many-actions",
        "protocol",
        "front",
        "no-egress",
        "silence",
        "captured",
    ];
}

/// Everything one worker counts.
#[derive(Debug)]
pub struct WorkerStats {
    /// By port.
    pub ports: Vec<PortStats>,
    /// Rounds of the loop.
    pub rounds: Counter,
    /// Rounds that found nothing.
    pub idle_rounds: Counter,
    /// Packets that the data plane originated: ICMP errors and TCP resets.
    pub originated: Counter,
    /// Packets that were cut into fragments.
    pub fragmented: Counter,
    /// Fragments that they were cut into.
    pub fragments: Counter,
    /// ICMP errors and TCP resets that were due but not sent.
    pub answers_suppressed: Counter,
    /// Packets that were the host's own and were given to it.
    pub given_to_host: Counter,
    /// The same by reason, in the order of [`Suppressed::LABELS`].
    pub suppressed: [Counter; Suppressed::LABELS.len()],
    /// Packets waiting for a neighbour now.
    pub held: Counter,
    /// Fragments waiting for the first one of their datagram now.
    pub held_fragments: Counter,
    /// Frames that this worker handed out to itself and has not given back: a gauge; zero when idle.
    pub outstanding: Counter,
    /// The flow cache.
    pub flows: FlowStats,
    /// What the XDP program executes.
    pub fast: FastStats,
    /// How many times the program was replaced.
    pub installs: Counter,
    /// What was in use, for the neighbours.
    pub uses: Uses,
    /// The sockets' figures: (port, queue) in the order in which they were opened.
    pub sockets: std::sync::OnceLock<Vec<(PortId, u32, SocketStats)>>,
}

impl WorkerStats {
    /// Counters for `ports` ports, all zero.
    pub fn new(ports: usize) -> Arc<Self> {
        Arc::new(WorkerStats {
            ports: (0..ports).map(|_| PortStats::default()).collect(),
            rounds: Counter::default(),
            idle_rounds: Counter::default(),
            originated: Counter::default(),
            fragmented: Counter::default(),
            fragments: Counter::default(),
            answers_suppressed: Counter::default(),
            given_to_host: Counter::default(),
            suppressed: std::array::from_fn(|_| Counter::default()),
            held: Counter::default(),
            held_fragments: Counter::default(),
            outstanding: Counter::default(),
            flows: FlowStats::default(),
            fast: FastStats::default(),
            installs: Counter::default(),
            uses: Uses::default(),
            sockets: std::sync::OnceLock::new(),
        })
    }

    /// Counts one packet from `port` that died.
    pub fn dropped(&self, port: PortId, reason: DropReason) {
        self.dropped_many(port, reason, 1);
    }

    /// Counts packets from `port` that died.
    pub fn dropped_many(&self, port: PortId, reason: DropReason, packets: u64) {
        if let Some(counter) = self.ports.get(port.index()).and_then(|port| port.drops.get(reason as usize)) {
            counter.add(packets);
        }
    }

    /// Counts a received batch.
    pub fn received(&self, port: PortId, packets: usize, bytes: u64) {
        let Some(stats) = self.ports.get(port.index()) else { return };
        stats.received.add(packets as u64, bytes);
        let bucket =
            BATCH_BOUNDS.iter().position(|&bound| packets <= bound).unwrap_or(BATCH_BOUNDS.len() - 1);
        if let Some(counter) = stats.batches.get(bucket) {
            counter.add(1);
        }
    }
}

/// What one worker saw of one chain.
#[derive(Debug, Default)]
pub struct ChainStats {
    /// What entered the chain.
    pub entered: Volume,
    /// What left it by an egress port, counted when it is handed to the port.
    pub left: Volume,
}

/// What one worker saw of one function.
#[derive(Debug, Default)]
pub struct FunctionStats {
    /// Packets it judged.
    pub packets: Counter,
    /// Packets it ended.
    pub dropped: Counter,
}
