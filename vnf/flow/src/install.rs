//! How flows come in and go: taking in, making room, taking out.

use crate::bucket::{CREDITED, ESTABLISHED, Matches, TICK, WAYS, elapsed, tag, tick};
use crate::cache::{FlowCache, Installed, Round};
use crate::entry::{Credits, ENDLESS, Entry, NewFlow, Settled};
use crate::own::{Form, Own};
use crate::peek::Probe;
use crate::shared::VOID;
use crate::template::Template;

/// With so few free ways in its first bucket, a flow goes to the one of its two with more: late enough that most flows are
/// found at first sight, early enough that buckets fill evenly.
const CROWDED: u32 = 4;

impl FlowCache {
    /// Takes in what the chain said of a flow. `round` is that of the batch in which the chain was walked: its epoch was
    /// taken before the functions read their tables.
    ///
    /// What another flow (or this one) leaves uncredited when it has to go is handed to `settle`.
    pub fn install(
        &mut self,
        probe: &Probe,
        new: &NewFlow<'_>,
        round: &Round<'_>,
        settle: impl FnOnce(Settled),
    ) -> Installed {
        let Some(silence) = silence(new.silence) else {
            self.stats.refused += 1;
            return Installed::Refused;
        };
        let (own, form, rest) = Own::divide(new.action, &probe.key);
        let (edits, hops) = (rest.edits, rest.hops);
        let template = Template { context: probe.key.context(), action: rest, limit: new.limit, tunnel: 0 };
        let Some(template) = self.templates.acquire(template, new.tunnel, &self.hasher) else {
            self.stats.diverse += 1;
            return Installed::Refused;
        };
        let hash = self.hasher.hash(&probe.key);
        let known = self.find(hash, &probe.key);
        let Some(place) = known.or_else(|| self.make_room(hash, round)) else {
            self.templates.release(template, &self.hasher);
            self.stats.refused += 1;
            return Installed::Refused;
        };
        let established = known.map_or(0, |place| self.stamp(place) & ESTABLISHED);
        if let Some(settled) = self.take(place, round.now) {
            settle(settled);
        }
        let base = self.base(probe, &own, form, edits, hops);
        let wanted = self.elsewhere.is_wanted(known);
        self.give_up(place);
        let entry = Entry {
            ports: probe.key.ports(),
            generation: round.epoch.generation(),
            dependencies: new.dependencies,
            template,
            l4_delta: own.l4_delta.to_be_bytes(),
            silence,
            ..base
        };
        if let Some(place) = self.entries.get_mut(place) {
            *place = entry;
        }
        if known.is_none() {
            self.cold.begin(place, round.tick);
        }
        self.cold.set_credits(place, new.credits);
        if let Some(bucket) = self.buckets.get_mut(place / WAYS) {
            self.live += usize::from(bucket.tags[place % WAYS] == 0);
            bucket.tags[place % WAYS] = tag(hash);
            let credited = if new.credits == Credits::default() { 0 } else { CREDITED };
            bucket.stamps[place % WAYS] = round.tick | established | credited;
        }
        if wanted {
            self.elsewhere.nominate(place);
        }
        if known.is_some() {
            self.stats.replaced += 1;
            Installed::Replaced
        } else {
            self.stats.installed += 1;
            Installed::New
        }
    }

    /// Takes a flow out, if it is here, at `now` (ns). What it leaves uncredited is handed to `settle`.
    pub fn remove(&mut self, probe: &Probe, now: u64, settle: impl FnOnce(Settled)) -> bool {
        let Some(place) = self.find(self.hasher.hash(&probe.key), &probe.key) else { return false };
        if let Some(settled) = self.take(place, now) {
            settle(settled);
        }
        self.free(place);
        self.stats.removed += 1;
        true
    }

    pub(crate) fn free(&mut self, place: usize) {
        self.give_up(place);
        if let Some(bucket) = self.buckets.get_mut(place / WAYS) {
            self.live -= usize::from(bucket.tags[place % WAYS] != 0);
            bucket.tags[place % WAYS] = 0;
            bucket.stamps[place % WAYS] = 0;
        }
    }

    /// Gives back what the flow at a place has elsewhere. A batch that was prepared before may still look here: what it finds
    /// is no packet's.
    fn give_up(&mut self, place: usize) {
        self.elsewhere.end(place);
        let Some(entry) = self.entries.get_mut(place) else { return };
        if std::mem::take(&mut entry.form) == Form::Apart {
            self.records.remove(entry.own);
        }
        self.templates.release(std::mem::replace(&mut entry.template, VOID), &self.hasher);
    }

    /// An entry with the key's addresses and what is the flow's own of its action.
    fn base(&mut self, probe: &Probe, own: &Own, form: Form, edits: u16, hops: u8) -> Entry {
        let [a, b, c, d, ..] = probe.key.0;
        let ports = own.final_ports(&probe.key, edits);
        let plain = Entry { addresses: [a, b, c, d], own: ports, ..Entry::default() };
        match form {
            Form::Plain => plain,
            Form::Narrow => {
                let sum = u64::from(own.final_sum(hops)) << 32 | u64::from(own.l3_delta);
                let addresses = own.final_addresses(&probe.key, edits);
                Entry { addresses: [a, addresses, sum, 0], form: Form::Narrow, ..plain }
            }
            // There is room for one more than there are ways.
            Form::Apart => {
                let record = self.records.insert(own.record()).unwrap_or(u32::MAX);
                Entry { own: record, form: Form::Apart, ..plain }
            }
        }
    }

    /// A way for a new flow, as the policy says.
    fn make_room(&mut self, hash: u64, round: &Round<'_>) -> Option<usize> {
        let numbers = [self.first(hash), self.second(hash)];
        let free = numbers.map(|number| Matches::of(self.buckets.get(number), 0));
        let [in_first, in_second] = free.map(Matches::count);
        let side = usize::from(in_first <= CROWDED && in_first < in_second);
        if free[side].any() {
            return Some(numbers[side] * WAYS + free[side].way());
        }
        // Of equals, a random one: bits of the hash that neither bucket nor tag depend on much.
        let start = (hash >> 16) as usize % WAYS;
        let worst = numbers.map(|number| {
            let bucket = self.buckets.get(number)?;
            let ways = (0..WAYS).map(|way| (start + way) % WAYS);
            ways.map(|way| (way, number * WAYS + way))
                .map(|(way, place)| (self.dispensable(place, bucket.stamps[way], round.tick), place))
                .reduce(|best, next| if next.0 > best.0 { next } else { best })
        });
        let [Some(first), Some(second)] = worst else { return None };
        let (why, place) = if second.0 > first.0 { second } else { first };
        if why > TICK {
            self.stats.evicted_idle += 1;
            return Some(place);
        }
        if why > 0 {
            self.stats.evicted_probation += 1;
            return Some(place);
        }
        let entry = self.entries.get(place)?;
        if round.epoch.unchanged(entry.generation, &entry.dependencies) {
            return None;
        }
        self.stats.evicted_stale += 1;
        Some(place)
    }

    /// How dispensable the flow at a place is: above [`TICK`] when it was silent for long, above zero on probation.
    fn dispensable(&self, place: usize, stamp: u16, now: u16) -> u16 {
        let silent = elapsed(stamp, now);
        if silent >= self.protect && silent >= self.protect + self.elsewhere.lateness(place) {
            silent | ESTABLISHED
        } else if stamp & ESTABLISHED == 0 {
            silent + 1
        } else {
            0
        }
    }

    /// Takes what a flow has not been credited for.
    pub(crate) fn take(&mut self, place: usize, now: u64) -> Option<Settled> {
        let silent = u64::from(elapsed(self.stamp(place), tick(now)));
        let entry = self.entries.get_mut(place)?;
        let template = self.templates.get(entry.template)?;
        let carried = self.cold.carried(place);
        let (packets, bytes) = (carried.0 + u64::from(entry.packets), carried.1 + u64::from(entry.bytes));
        if packets == 0 {
            return None;
        }
        (entry.packets, entry.bytes) = (0, 0);
        self.cold.clear_carried(place);
        self.cold.tell(place, packets, bytes);
        Some(Settled {
            key: entry.key(template).flow_key(),
            credits: self.cold.credits(place),
            packets,
            bytes,
            last: (now >> 28).saturating_sub(silent) << 28,
        })
    }
}

/// A silence (ns) in ticks: so few that a stamp so old is not older than that, wherever in its tick the packet came. `None`
/// when there is no such number.
fn silence(duration: u64) -> Option<u8> {
    if duration == u64::MAX {
        return Some(ENDLESS);
    }
    (duration >> 28).checked_sub(1).map(|ticks| ticks.min(u64::from(ENDLESS - 1)) as u8)
}
