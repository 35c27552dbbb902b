//! Following the kernel: one dump, then every notification.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use netlink_packet_core::DecodeError;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::changes::Changes;
use crate::decode;
use crate::dump::Dumper;
use crate::error::KernelError;
use crate::message as rtm;
use crate::model::{AddressKey, IfIndex, Link, NudState, State};
use crate::socket::{Frame, Frames, Netlink};
use crate::store::{Family, Fit, Store};

/// Unread notifications we ask the kernel to keep: some 80 000 route changes, as it counts a kilobyte and more for each. It
/// counts twice as much as it is asked for, and takes the memory only when there is so much to keep.
const RECEIVE_BUFFER: usize = 64 << 20;
/// Datagrams read in one [`Mirror::wait`], so that a flood does not keep its caller from its other work.
const DATAGRAMS: usize = 4096;
/// After reading everything anew, news is followed for so many times as long as that took before it is done again: a flood that
/// is faster than our reading must not keep us, and the kernel, at nothing else.
const REPAIR_PAUSE: u32 = 2;
/// But not for longer than this: so long the state may lack what was lost.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Datagrams thrown away before reading everything anew. Only a flood faster than our reading gets this far.
const DISCARDED: usize = 1 << 20;

/// How a [`Mirror`] is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of unread notifications the kernel is asked to keep; it counts about a kilobyte for a small one. Beyond
    /// `net.core.rmem_max` it needs `CAP_NET_ADMIN`.
    pub receive_buffer: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { receive_buffer: RECEIVE_BUFFER }
    }
}

/// What a [`Mirror`] has been through since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MirrorStats {
    /// Notifications read.
    pub notifications: u64,
    /// Times the receive buffer overflowed, each followed by reading everything anew; several in a row by doing that once.
    pub overruns: u64,
    /// Times everything was read anew.
    pub rebuilds: u64,
    /// Times the routes of one family were read anew, since a notification did not fit what was known.
    pub resyncs: u64,
    /// Times the routes over one interface were read anew, since the kernel alters them without a word.
    pub rechecks: u64,
    /// Dumps begun anew, since something changed under them.
    pub interrupted_dumps: u64,
    /// Messages which could not be decoded, and so are missing from the state.
    pub undecodable: u64,
    /// Bytes granted for unread notifications, as the kernel counts them.
    pub receive_buffer: usize,
}

/// A copy of what the kernel knows about the network namespace in which it was opened, kept up to date by
/// [`Mirror::wait`].
pub struct Mirror {
    events: Netlink,
    dumper: Dumper,
    store: Store,
    stats: MirrorStats,
    /// The state is known to be out of date: an overrun whose repair has failed, or waits for its time.
    stale: bool,
    pace: Pace,
    work: Work,
}

/// When everything may be read anew.
#[derive(Clone, Copy, Debug, Default)]
struct Pace(Option<Instant>);

impl Pace {
    /// It was done, from `begun` to `ended`.
    fn done(&mut self, begun: Instant, ended: Instant) {
        let pause = (ended.saturating_duration_since(begun) * REPAIR_PAUSE).min(LONGEST_PAUSE);
        self.0 = Some(ended + pause);
    }

    fn is_due(self, now: Instant) -> bool {
        self.0.is_none_or(|due| now >= due)
    }
}

/// What is left to do after a batch of notifications, for all that the kernel does without announcing it.
#[derive(Debug, Default)]
struct Work {
    families: BTreeSet<Family>,
    interfaces: BTreeSet<IfIndex>,
    /// Interfaces which were announced without a difference in their health, or got an address: either may have brought
    /// next hops back to life, or the other way. A carrier that goes and comes quickly is announced once, in the end.
    suspects: BTreeSet<IfIndex>,
    sources: BTreeSet<IpAddr>,
}

impl Mirror {
    /// Subscribes to every group first and reads everything then, so that no change in between is lost.
    ///
    /// The mirror belongs to the network namespace of the calling thread, also when used by another later.
    ///
    /// # Errors
    /// The kernel refuses a socket or a dump.
    pub fn open() -> Result<Self, KernelError> {
        Self::open_with(Options::default())
    }

    /// [`Mirror::open`] with other than the default options.
    ///
    /// # Errors
    /// As [`Mirror::open`].
    pub fn open_with(options: Options) -> Result<Self, KernelError> {
        let events = Netlink::open(NETLINK_ROUTE)?;
        let receive_buffer = events.set_receive_buffer(options.receive_buffer);
        for group in rtm::GROUPS {
            match events.socket().add_membership(group) {
                // Nexthop objects came with Linux 5.3; without their group there are none.
                Err(error) if group == rtm::GROUP_NEXTHOP => {
                    tracing::debug!(%error, "no nexthop notifications")
                }
                result => result.map_err(|source| KernelError::Socket { action: "subscribe", source })?,
            }
        }
        let mut dumper = Dumper::open()?;
        let store = Store::new(dumper.everything()?);
        let stats = MirrorStats { receive_buffer, ..MirrorStats::default() };
        Ok(Self { events, dumper, store, stats, stale: false, pace: Pace::default(), work: Work::default() })
    }

    /// The state, as of the last [`Mirror::wait`].
    pub fn state(&self) -> &State {
        self.store.state()
    }

    /// Counters since [`Mirror::open`].
    pub fn stats(&self) -> MirrorStats {
        MirrorStats {
            interrupted_dumps: self.dumper.interrupted,
            undecodable: self.stats.undecodable + self.dumper.undecodable,
            ..self.stats
        }
    }

    /// Waits until there is news or `timeout` is over, brings the state up to date and tells what changed. Returns
    /// without changes when a signal arrives. Not all of a flood is read in one call; the next one goes on at once.
    ///
    /// After an overrun everything is read anew: at once, unless that was done just before. Then what news there is is followed
    /// on, and one reading makes up for all that was lost meanwhile: when it is quiet, or after a pause that is bounded.
    ///
    /// What an interface's going up or down did to routes without a word is asked for in the next call, which does not
    /// wait: the kernel may need long for it, and who sends by that interface wants to know first.
    ///
    /// # Errors
    /// The socket fails, or the kernel cannot be asked for what must be read anew. The next call tries again.
    pub fn wait(&mut self, timeout: Duration) -> Result<Changes, KernelError> {
        let mut changes = Changes::default();
        if !self.work.is_empty() && !self.stale {
            self.settle(&mut changes)?;
            if !changes.is_empty() {
                return Ok(changes);
            }
        }
        if !self.is_repair_due() && !readable(self.events.socket(), timeout)? {
            if self.stale {
                self.rebuild(&mut changes)?;
            }
            return Ok(changes);
        }
        for _ in 0..DATAGRAMS {
            if self.is_repair_due() {
                break;
            }
            let datagram = match self.events.receive(libc::MSG_DONTWAIT) {
                Ok(datagram) => datagram,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => break,
                    Some(libc::EINTR) => continue,
                    Some(libc::ENOBUFS) => {
                        self.stats.overruns += 1;
                        if !std::mem::replace(&mut self.stale, true) {
                            tracing::warn!("lost netlink notifications, reading the kernel's tables anew");
                        }
                        continue;
                    }
                    _ => return Err(KernelError::Socket { action: "read", source: error }),
                },
            };
            for frame in Frames::new(datagram) {
                let applied = frame.map_err(|error| error.to_string()).and_then(|frame| {
                    self.stats.notifications += 1;
                    apply(&mut self.store, &mut self.work, &mut changes, &frame)
                        .map_err(|error| error.to_string())
                });
                if let Err(error) = applied {
                    self.stats.undecodable += 1;
                    tracing::warn!(error, "netlink notification not understood");
                }
            }
        }
        // Who waits gets something, if only by this.
        if self.is_repair_due() || (self.stale && changes.is_empty()) {
            self.rebuild(&mut changes)?;
        } else if changes.links.is_empty() && !self.stale {
            self.settle(&mut changes)?;
        }
        Ok(changes)
    }

    /// Whether [`Mirror::wait`] has something to do before it waits.
    pub fn is_pending(&self) -> bool {
        if self.stale { self.is_repair_due() } else { !self.work.is_empty() }
    }

    fn is_repair_due(&self) -> bool {
        self.stale && self.pace.is_due(Instant::now())
    }

    /// Something that waits for news beside the mirror, for those who share it: see [`Waiter::wait`].
    ///
    /// # Errors
    /// The process has too many files open.
    pub fn waiter(&self) -> Result<Waiter, KernelError> {
        let socket = self.events.socket().as_fd().try_clone_to_owned();
        socket.map(Waiter).map_err(|source| KernelError::Socket { action: "share", source })
    }

    /// Reads everything anew. What waits in the socket is older than the dump, and with pieces of the story missing it
    /// must not be told after it.
    fn rebuild(&mut self, changes: &mut Changes) -> Result<(), KernelError> {
        changes.overrun = true;
        self.stats.rebuilds += 1;
        self.work = Work::default();
        let begun = Instant::now();
        for _ in 0..DISCARDED {
            match self.events.receive(libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => break,
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EINTR)) => {}
                Err(source) => return Err(KernelError::Socket { action: "read", source }),
            }
        }
        // Some notifications are sent before what they announce is done, but within the same lock.
        self.dumper.barrier()?;
        let fresh = Store::new(self.dumper.everything()?);
        changes.add_difference(self.store.state(), fresh.state());
        self.store = fresh;
        self.stale = false;
        self.pace.done(begun, Instant::now());
        Ok(())
    }

    /// Asks the kernel for what it has altered silently. IPv4 routes vanish without a notification when their interface
    /// goes down, their source address is deleted or the interface's last address is; next hops of multipath routes of
    /// both families become dead or alive; nexthop objects vanish with their interface.
    fn settle(&mut self, changes: &mut Changes) -> Result<(), KernelError> {
        if self.work.is_empty() {
            return Ok(());
        }
        if !self.work.sources.is_empty() {
            let also = self.store.interfaces_of_sources(&self.work.sources);
            self.work.interfaces.extend(also);
            self.work.sources.clear();
        }
        if !self.work.suspects.is_empty() {
            let also = self.store.interfaces_out_of_step(&self.work.suspects);
            self.work.interfaces.extend(also);
            self.work.suspects.clear();
        }
        if self.work.interfaces.is_empty() && self.work.families.is_empty() {
            return Ok(());
        }
        // The link's notification comes before the routes are flushed; both happen under the lock this waits for.
        self.dumper.barrier()?;
        if !self.work.interfaces.is_empty() && !self.store.state().nexthops.is_empty() {
            let nexthops = self.dumper.nexthops()?;
            self.store.replace_nexthops(nexthops, changes);
        }
        for ifindex in self.store.used_by_routes(&self.work.interfaces) {
            self.stats.rechecks += 1;
            let mut gone = !self.store.state().links.contains_key(&ifindex);
            for family in Family::BOTH {
                if gone || self.work.families.contains(&family) {
                    continue;
                }
                match self.dumper.routes_by(family, Some(ifindex), &self.store.state().nexthops) {
                    Ok(slots) => {
                        if self.store.replace_routes_by(ifindex, family, &slots, changes) == Fit::Unclear {
                            self.work.families.insert(family);
                        }
                    }
                    Err(error) if error.errno() == Some(libc::ENODEV) => gone = true,
                    Err(error) => return Err(error),
                }
            }
            if gone {
                let unclear = self.store.remove_routes_by(ifindex, changes);
                self.work.families.extend(unclear);
            }
        }
        self.work.interfaces.clear();
        while let Some(family) = self.work.families.first().copied() {
            self.stats.resyncs += 1;
            let slots = self.dumper.routes_by(family, None, &self.store.state().nexthops)?;
            self.store.replace_family(family, &slots, changes);
            self.work.families.remove(&family);
        }
        Ok(())
    }
}

impl AsFd for Mirror {
    /// Readable when there is news, for callers with their own poll loop.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.socket().as_fd()
    }
}

/// Waits for news of a [`Mirror`] that others may use meanwhile.
#[derive(Debug)]
pub struct Waiter(OwnedFd);

impl Waiter {
    /// Whether there is news, within `timeout`: then [`Mirror::wait`] will not wait. A signal ends the wait early.
    ///
    /// # Errors
    /// The socket fails.
    pub fn wait(&self, timeout: Duration) -> Result<bool, KernelError> {
        readable(&self.0, timeout)
    }
}

fn readable(socket: &impl AsFd, timeout: Duration) -> Result<bool, KernelError> {
    // Rounded up: a timeout below a millisecond must not become busy waiting.
    let millis = i32::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
    let mut descriptors = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    match poll(&mut descriptors, PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(KernelError::Socket { action: "poll", source: io::Error::from(errno) }),
    }
}

impl std::fmt::Debug for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirror").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Work {
    fn is_empty(&self) -> bool {
        self.families.is_empty()
            && self.interfaces.is_empty()
            && self.suspects.is_empty()
            && self.sources.is_empty()
    }

    fn after_link(&mut self, old: Option<&Link>, new: &Link) {
        let health = |link: &Link| (link.admin_up, link.carrier, link.oper_state, link.master);
        if old.is_none_or(|old| health(old) != health(new)) {
            self.interfaces.insert(new.index);
        } else {
            self.suspects.insert(new.index);
        }
    }

    fn after_address_deleted(&mut self, key: &AddressKey) {
        self.interfaces.insert(key.ifindex);
        self.sources.insert(key.address);
    }
}

/// One notification.
fn apply(
    store: &mut Store,
    work: &mut Work,
    changes: &mut Changes,
    frame: &Frame<'_>,
) -> Result<(), DecodeError> {
    match frame.kind {
        rtm::NEWLINK => {
            if let Some((index, link)) = decode::link(frame.payload)? {
                work.after_link(store.state().links.get(&index), &link);
                put_link(store.state_mut(), changes, link);
            }
        }
        rtm::DELLINK => {
            if let Some((index, _)) = decode::link(frame.payload)? {
                work.interfaces.insert(index);
                remove(&mut store.state_mut().links, &mut changes.links, index);
            }
        }
        rtm::NEWADDR => {
            if let Some((key, address)) = decode::address(frame.payload)? {
                if key.address.is_ipv4() {
                    work.suspects.insert(key.ifindex);
                }
                put(&mut store.state_mut().addresses, &mut changes.addresses, key, address);
            }
        }
        rtm::DELADDR => {
            if let Some((key, _)) = decode::address(frame.payload)? {
                work.after_address_deleted(&key);
                remove(&mut store.state_mut().addresses, &mut changes.addresses, key);
            }
        }
        rtm::NEWROUTE => {
            if let Some((key, route)) = decode::route(frame.payload)?
                && store.new_route(key, route, frame.flags, changes) == Fit::Unclear
            {
                work.families.insert(Family::of(&key));
            }
        }
        rtm::DELROUTE => {
            if let Some((key, route)) = decode::route(frame.payload)?
                && store.delete_route(key, route, changes) == Fit::Unclear
            {
                work.families.insert(Family::of(&key));
            }
        }
        rtm::NEWNEIGH => {
            if let Some((key, neighbour)) = decode::neighbour(frame.payload)? {
                // That it did not answer again is news, too: of the asking in between the kernel says nothing.
                if neighbour.state == NudState::Failed {
                    changes.neighbours.insert(key);
                }
                put(&mut store.state_mut().neighbours, &mut changes.neighbours, key, neighbour);
            }
        }
        rtm::DELNEIGH => {
            if let Some((key, _)) = decode::neighbour(frame.payload)? {
                remove(&mut store.state_mut().neighbours, &mut changes.neighbours, key);
            }
        }
        rtm::NEWNEXTHOP => {
            if let Some((id, object)) = decode::nexthop(frame.payload)? {
                store.new_nexthop(id, object, changes);
            }
        }
        rtm::DELNEXTHOP => {
            if let Some((id, _)) = decode::nexthop(frame.payload)? {
                store.delete_nexthop(id, changes);
            }
        }
        _ => {}
    }
    Ok(())
}

/// The first end of a veth pair is announced before it has its other end, and not again when it gets it.
fn put_link(state: &mut State, changes: &mut Changes, link: Link) {
    let is_veth = |link: &Link| link.kind.as_deref() == Some("veth");
    if is_veth(&link)
        && !link.parent_elsewhere
        && let Some(peer) = link.parent.and_then(|index| state.links.get_mut(&index))
        && is_veth(peer)
        && peer.parent.is_none()
    {
        peer.parent = Some(link.index);
        changes.links.insert(peer.index);
    }
    put(&mut state.links, &mut changes.links, link.index, link);
}

fn put<K: Ord + Copy, V: PartialEq>(
    map: &mut std::collections::BTreeMap<K, V>,
    changed: &mut BTreeSet<K>,
    key: K,
    value: V,
) {
    if map.get(&key) != Some(&value) {
        map.insert(key, value);
        changed.insert(key);
    }
}

fn remove<K: Ord + Copy, V>(map: &mut std::collections::BTreeMap<K, V>, changed: &mut BTreeSet<K>, key: K) {
    if map.remove(&key).is_some() {
        changed.insert(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a flood that is never read to its end each reading of everything is followed by another overrun at once.
    #[test]
    fn a_flood_leaves_time_to_follow_it() {
        for took in [Duration::from_millis(20), Duration::from_secs(1), Duration::from_secs(8)] {
            let begun = Instant::now();
            let (mut now, mut pace, mut reading, mut stale) = (begun, Pace::default(), Duration::ZERO, begun);
            assert!(pace.is_due(now), "the first is at once");
            while now < begun + Duration::from_secs(100) {
                if pace.is_due(now) {
                    assert!(now.duration_since(stale) <= LONGEST_PAUSE + Duration::from_millis(1));
                    pace.done(now, now + took);
                    now += took;
                    (reading, stale) = (reading + took, now);
                } else {
                    now += Duration::from_millis(1);
                }
            }
            let share = reading.as_secs_f64() / now.duration_since(begun).as_secs_f64();
            let most = if took * REPAIR_PAUSE > LONGEST_PAUSE { 0.65 } else { 0.36 };
            assert!(share < most, "{took:?}: {share} of the time is spent on reading everything anew");
        }
    }
}
