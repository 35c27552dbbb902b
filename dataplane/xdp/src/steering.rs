//! The loaded program and its maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::AsFd,
    sync::Arc,
};

use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, PerCpuValues, XskMap},
    programs::{ProgramError, Xdp},
    util::nr_cpus,
};
use throughway_shared::steer::{
    self, INTERFACES, Interface, LOCAL_ADDRESSES, MAX_INTERFACES, MAX_QUEUES, NEAR, Near, PROGRAM, Reason,
    SOCKETS, STEERED, VLANS, Vlan, VlanKey,
};

use crate::{
    AttachError, Attachment, Claim, Counters, LocalAddresses, Mode, attach, counters,
    early::{EarlyPlan, EarlyRoom, EarlySets},
    fast::{Back, FastConfig, FastFlows, FastMaps, FastPlan, SharedWords, take},
};

/// The object with the program, as built by `ebpf/build.sh`.
pub static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../ebpf/object/throughway.bpf.o"));

/// Why the program could not be loaded, or a map not read or written.
#[derive(Debug, thiserror::Error)]
pub enum SteeringError {
    /// The kernel refused the program, its maps or its type information.
    #[error("cannot load the XDP program: {0}{hint}", hint = load_hint(.0))]
    Load(#[from] EbpfError),
    /// The verifier refused the program.
    #[error("cannot load the XDP program: {0}{hint}", hint = program_hint(.0))]
    Program(#[from] ProgramError),
    /// The object lacks something that this version needs.
    #[error("the BPF object has no {kind} named {name}")]
    Missing {
        /// Program or map.
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// A map could not be read or written.
    #[error("BPF map {map}: {source}")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// What the kernel said.
        source: MapError,
    },
    /// More than the maps have room for.
    #[error("{what} {value} is beyond the limit of {limit}")]
    Limit {
        /// Of what there are too many.
        what: &'static str,
        /// The value asked for.
        value: u32,
        /// The first value which is too large.
        limit: u32,
    },
    /// The memory of a map could not be shared with the program.
    #[error("BPF map {map} cannot be mapped into memory: {source}")]
    Share {
        /// Name of the map.
        map: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// How many CPUs there are could not be found out.
    #[error("cannot read the number of possible CPUs: {0}")]
    Cpus(#[source] std::io::Error),
}

const NEEDS: &str = " (loading needs CAP_BPF and CAP_NET_ADMIN, or root)";

fn is_permission(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::PermissionDenied) {
            return true;
        }
        next = error.source();
    }
    false
}

fn load_hint(error: &EbpfError) -> &'static str {
    if is_permission(error) { NEEDS } else { "" }
}

fn program_hint(error: &ProgramError) -> &'static str {
    if is_permission(error) { NEEDS } else { "" }
}

pub(crate) fn in_map(map: &'static str) -> impl Fn(MapError) -> SteeringError {
    move |source| SteeringError::Map { map, source }
}

/// The loaded program and its maps. One for all interfaces of an instance.
pub struct Steering {
    program: Ebpf,
    interfaces: HashMap<MapData, u32, [u8; Interface::SIZE]>,
    near: Array<MapData, [u8; Near::SIZE]>,
    /// The ifindex of what is in that map, by its place.
    nears: BTreeMap<u32, u32>,
    vlans: HashMap<MapData, [u8; VlanKey::SIZE], [u8; Vlan::SIZE]>,
    /// What is in that map.
    known_vlans: BTreeSet<VlanKey>,
    /// Interface number → ifindex of its latest user.
    numbers: BTreeMap<u32, u32>,
    addresses: LocalAddresses,
    sockets: XskMap<MapData>,
    steered: PerCpuArray<MapData, u64>,
    early: Option<EarlySets>,
    fast: Option<FastMaps>,
}

impl Steering {
    /// Loads the program that is part of this binary, without a fast path.
    ///
    /// # Errors
    ///
    /// When capabilities are missing or the kernel refuses the program.
    pub fn load() -> Result<Self, SteeringError> {
        Self::load_object(OBJECT, None)
    }

    /// Loads the program that is part of this binary, with a fast path if one is wanted, and with this room for early sets.
    ///
    /// # Errors
    ///
    /// As [`Steering::load`], and when more workers or flows are asked for than there can be, or more memory than there is.
    pub fn load_for(fast: Option<FastConfig>, early: EarlyRoom) -> Result<Self, SteeringError> {
        Self::load_sized(OBJECT, fast, early)
    }

    /// Loads the program in `object`, an ELF file with the program and maps of `throughway_shared::steer`, `throughway_shared::early` and, for
    /// a fast path, `throughway_shared::fast`.
    ///
    /// # Errors
    ///
    /// As [`Steering::load_for`], and when `object` lacks the program or a map.
    pub fn load_object(object: &[u8], fast: Option<FastConfig>) -> Result<Self, SteeringError> {
        Self::load_sized(object, fast, EarlyRoom::LEAST)
    }

    /// As [`Steering::load_object`], with room for early sets.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn load_sized(
        object: &[u8],
        fast: Option<FastConfig>,
        early: EarlyRoom,
    ) -> Result<Self, SteeringError> {
        let (fast, early) = (fast.map(FastPlan::new).transpose()?, EarlyPlan::new(early));
        let types = Btf::from_sys_fs().ok();
        let mut loader = EbpfLoader::new();
        loader.btf(types.as_ref());
        if let Some(plan) = &fast {
            plan.tell(&mut loader);
        }
        early.tell(&mut loader);
        let mut bpf = loader.load(object)?;
        let program =
            bpf.program_mut(PROGRAM).ok_or(SteeringError::Missing { kind: "program", name: PROGRAM })?;
        let program: &mut Xdp = program.try_into()?;
        program.load()?;
        let fast = fast.map(|plan| FastMaps::take(&mut bpf, &plan)).transpose()?;
        let early = EarlySets::take(&mut bpf, &early)?;
        let mut take = |name| take(&mut bpf, name);
        Ok(Steering {
            interfaces: take(INTERFACES)?.try_into().map_err(in_map(INTERFACES))?,
            near: take(NEAR)?.try_into().map_err(in_map(NEAR))?,
            nears: BTreeMap::new(),
            vlans: take(VLANS)?.try_into().map_err(in_map(VLANS))?,
            known_vlans: BTreeSet::new(),
            numbers: BTreeMap::new(),
            addresses: LocalAddresses::new(
                take(LOCAL_ADDRESSES)?.try_into().map_err(in_map(LOCAL_ADDRESSES))?,
            ),
            sockets: take(SOCKETS)?.try_into().map_err(in_map(SOCKETS))?,
            steered: take(STEERED)?.try_into().map_err(in_map(STEERED))?,
            early: Some(early),
            fast,
            program: bpf,
        })
    }

    /// The loaded program, to look at it or to run it over single frames.
    ///
    /// # Errors
    ///
    /// Never in practice: [`Steering::load_object`] has checked that it is there.
    pub fn program(&self) -> Result<&Xdp, SteeringError> {
        let program = self.program.program(PROGRAM);
        Ok(program.ok_or(SteeringError::Missing { kind: "program", name: PROGRAM })?.try_into()?)
    }

    /// Tells the program about the interface `ifindex`: what is new replaces what was known.
    ///
    /// The counters of `interface.number` begin at zero when another interface, or none, had the number before.
    ///
    /// # Errors
    ///
    /// When the number is not below [`MAX_INTERFACES`], or the map cannot be written.
    pub fn set_interface(&mut self, ifindex: u32, interface: Interface) -> Result<(), SteeringError> {
        self.take_number(interface.number, ifindex)?;
        self.interfaces.insert(ifindex, interface.to_bytes(), 0).map_err(in_map(INTERFACES))?;
        // Of two interfaces with one place there, the second one is found by the hash alone.
        if *self.nears.entry(steer::near(ifindex)).or_insert(ifindex) == ifindex {
            let near = Near { interface, ifindex };
            self.near.set(steer::near(ifindex), near.to_bytes(), 0).map_err(in_map(NEAR))?;
        }
        self.numbers.insert(interface.number, ifindex);
        Ok(())
    }

    /// Tells the program that an interface of ours is the VLAN `key` of a device that it was told of: what is new replaces what
    /// was known. Of VLANs that it was not told of, frames pass to the kernel.
    ///
    /// # Errors
    ///
    /// When the number is not below [`MAX_INTERFACES`], there are as many VLANs already, or the map cannot be written.
    pub fn set_vlan(&mut self, key: VlanKey, vlan: Vlan) -> Result<(), SteeringError> {
        self.take_number(vlan.number, key.ifindex)?;
        self.vlans.insert(key.to_bytes(), vlan.to_bytes(), 0).map_err(in_map(VLANS))?;
        self.known_vlans.insert(key);
        self.numbers.insert(vlan.number, key.ifindex);
        Ok(())
    }

    /// The counters of a number begin at zero when another device had it before.
    fn take_number(&mut self, number: u32, ifindex: u32) -> Result<(), SteeringError> {
        check("interface number", number, MAX_INTERFACES)?;
        if self.numbers.get(&number).is_some_and(|&other| other != ifindex) {
            let cpus = nr_cpus().map_err(|(_, error)| SteeringError::Cpus(error))?;
            for &reason in Reason::ALL {
                let zero = PerCpuValues::try_from(vec![0; cpus]).map_err(SteeringError::Cpus)?;
                let at = steer::counter(number, reason);
                self.steered.set(at, zero, 0).map_err(in_map(STEERED))?;
            }
        }
        Ok(())
    }

    /// Makes the program forget the interface `ifindex` and its VLANs: its frames pass to the kernel from now on.
    ///
    /// # Errors
    ///
    /// When a map cannot be written. An interface that is not known is no error.
    pub fn remove_interface(&mut self, ifindex: u32) -> Result<(), SteeringError> {
        let gone: Vec<_> = self.known_vlans.iter().filter(|key| key.ifindex == ifindex).copied().collect();
        self.known_vlans.retain(|key| key.ifindex != ifindex);
        for key in gone {
            match self.vlans.remove(&key.to_bytes()) {
                Err(error) if !is_absent(&error) => return Err(in_map(VLANS)(error)),
                _ => {}
            }
        }
        if self.nears.get(&steer::near(ifindex)) == Some(&ifindex) {
            let nothing = Near::default().to_bytes();
            self.near.set(steer::near(ifindex), nothing, 0).map_err(in_map(NEAR))?;
            self.nears.remove(&steer::near(ifindex));
        }
        match self.interfaces.remove(&ifindex) {
            Err(error) if !is_absent(&error) => Err(in_map(INTERFACES)(error)),
            _ => Ok(()),
        }
    }

    /// The host's own addresses, as far as the program knows.
    pub fn local_addresses(&mut self) -> &mut LocalAddresses {
        &mut self.addresses
    }

    /// What is dropped before anything else, once.
    pub fn take_early(&mut self) -> Option<EarlySets> {
        self.early.take()
    }

    /// Sends the frames which interface `number` receives on `queue` to `socket`, an AF_XDP socket bound to that queue.
    /// The kernel forgets it when the socket is closed.
    ///
    /// # Errors
    ///
    /// When a number is beyond its limit, or the kernel refuses: `socket` must be an AF_XDP socket with a receive ring.
    pub fn register_socket(
        &mut self,
        number: u32,
        queue: u32,
        socket: impl AsFd,
    ) -> Result<(), SteeringError> {
        use std::os::fd::AsRawFd as _;
        let slot = slot(number, queue)?;
        self.sockets.set(slot, socket.as_fd().as_raw_fd(), 0).map_err(in_map(SOCKETS))
    }

    /// Takes back [`Steering::register_socket`]: frames of the queue go where the fail mode says.
    ///
    /// # Errors
    ///
    /// When a number is beyond its limit, or the map cannot be written. An empty slot is no error.
    pub fn unregister_socket(&mut self, number: u32, queue: u32) -> Result<(), SteeringError> {
        match self.sockets.unset(slot(number, queue)?) {
            Err(error) if !is_absent(&error) => Err(in_map(SOCKETS)(error)),
            _ => Ok(()),
        }
    }

    /// What the program decided so far: one entry for each interface that it was told of, in the order of their numbers,
    /// and one for frames of interfaces that it does not know.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn counters(&self) -> Result<Vec<Counters>, SteeringError> {
        let known = self.numbers.keys().map(|&number| counters::read(&self.steered, Some(number)));
        known.chain(std::iter::once_with(|| counters::read(&self.steered, None))).collect()
    }

    /// Puts the program on the interface `ifindex`, called `name`, in `mode`. Looked up and attached in the network
    /// namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// When another live instance has the interface, a foreign program is on it, or the kernel refuses.
    pub fn attach(&self, ifindex: u32, name: &str, mode: Mode) -> Result<Attachment, AttachError> {
        self.attach_after(ifindex, name, mode, None)
    }

    /// As [`Steering::attach`], where an earlier instance is known to have attached the program with the id `known`
    /// ([`Attachment::program_id`]): it is taken over even where other programs cannot be identified for want of CAP_SYS_ADMIN.
    ///
    /// # Errors
    ///
    /// As [`Steering::attach`].
    pub fn attach_after(
        &self,
        ifindex: u32,
        name: &str,
        mode: Mode,
        known: Option<u32>,
    ) -> Result<Attachment, AttachError> {
        self.attach_claimed(Claim::new(ifindex, name, known)?, mode)
    }

    /// As [`Steering::attach`], on an interface that is claimed already.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn attach_claimed(&self, claim: Claim, mode: Mode) -> Result<Attachment, AttachError> {
        let program = self.program().and_then(|program| Ok((program.fd()?, program.info()?.id())));
        let (program, id) = program.map_err(|source| AttachError::Program {
            interface: claim.interface().to_owned(),
            source: Box::new(source),
        })?;
        attach::attach(program, id, claim, mode)
    }
}

/// The fast path; without one all of it does nothing.
impl Steering {
    /// The fast flows of a worker, once: who takes them owns them.
    pub fn take_fast_flows(&mut self, worker: u32) -> Option<FastFlows> {
        self.fast.as_mut()?.take_flows(worker)
    }

    /// The words of the generations that the program compares flows with: slot *n* is word *n*, the present generation is word
    /// [`CURRENT`](throughway_shared::fast::CURRENT). All zeros at first, and for whom they are taken from is to fill them.
    pub fn fast_generations(&self) -> Option<Arc<SharedWords>> {
        self.fast.as_ref().map(FastMaps::generations)
    }

    /// Until when (ns of `CLOCK_MONOTONIC`) the program may execute flows: later it takes every flow for unknown. Zero at
    /// first, so nothing is executed. To be pushed forward again and again while the workers live.
    pub fn alive_until(&self, ns: u64) {
        if let Some(fast) = &self.fast {
            fast.alive_until(ns);
        }
    }

    /// Says that what flows send to `port` of the data plane may be sent to the device `ifindex` from the driver, and what came in there
    /// `back` to it. Packets of flows to other ports go up to the worker.
    ///
    /// # Errors
    ///
    /// When the port is not below [`MAX_INTERFACES`], there is no such device, or a map cannot be written.
    pub fn set_egress(&mut self, port: u16, ifindex: u32, back: Back) -> Result<(), SteeringError> {
        self.fast.as_mut().map_or(Ok(()), |fast| fast.set_egress(port, ifindex, back))
    }

    /// Takes back [`Steering::set_egress`].
    ///
    /// # Errors
    ///
    /// When the port is not below [`MAX_INTERFACES`], or a map cannot be written. A port that was not set is no error.
    pub fn clear_egress(&mut self, port: u16) -> Result<(), SteeringError> {
        self.fast.as_mut().map_or(Ok(()), |fast| fast.clear_egress(port))
    }
}

fn slot(number: u32, queue: u32) -> Result<u32, SteeringError> {
    check("interface number", number, MAX_INTERFACES)?;
    check("queue", queue, MAX_QUEUES)?;
    Ok(steer::first_socket(number) + queue)
}

pub(crate) fn check(what: &'static str, value: u32, limit: u32) -> Result<(), SteeringError> {
    if value < limit { Ok(()) } else { Err(SteeringError::Limit { what, value, limit }) }
}

/// Whether `error` says only that there was nothing to remove.
pub(crate) fn is_absent(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}
