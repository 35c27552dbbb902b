//! Devices and how they are attached to.

use super::*;
use crate::value::{DeviceName, Number, Value, words};

/// A network device of which packets are taken.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Interface {
    /// What the file calls it.
    pub name: Name,
    /// The kernel's device.
    pub device: DeviceName,
    /// How many queues the device must have; `None` takes as many as it has.
    pub queues: Option<u32>,
    /// How the steering program is attached.
    pub xdp: XdpMode,
    /// Whether frames are shared with the driver.
    pub zero_copy: ZeroCopy,
    /// What is made of checksums of received packets.
    pub checksum: Checksum,
    /// What becomes of packets when the service dies.
    pub on_failure: FailMode,
    /// Whether the XDP program executes what is known of flows that come in here.
    pub fast_path: FastPath,
    /// Which source addresses packets that come in here may have; `None` leaves it to each router. Of it [`Router::urpf_of`]
    /// is made.
    pub urpf: Option<Urpf>,
    /// The VLAN of the device that it is; `None` for untagged frames.
    pub vlan: Option<Vlan>,
}

impl Config {
    /// For every interface the number of its device: interfaces on one device have one number. Numbers are given in the order
    /// of the file, from zero, without gaps.
    pub fn device_numbers(&self) -> Vec<usize> {
        let mut seen: Vec<&DeviceName> = Vec::new();
        let numbers = self.interfaces.iter().map(|interface| {
            seen.iter().position(|device| **device == interface.device).unwrap_or_else(|| {
                seen.push(&interface.device);
                seen.len() - 1
            })
        });
        numbers.collect()
    }

    /// The first interface of every device, in the order of their numbers. What belongs to the device (queues, XDP mode, zero
    /// copy, checksums, fail mode) is the same for all its interfaces.
    pub fn devices(&self) -> impl Iterator<Item = &Interface> {
        let mut next = 0;
        let first = self.device_numbers().into_iter().zip(&self.interfaces).filter(move |(number, _)| {
            let first = *number == next;
            next += usize::from(first);
            first
        });
        first.map(|(_, interface)| interface)
    }
}

words! {
    /// How the steering program is attached.
    XdpMode, "XDP mode", default Auto:
    /// In the driver where it can, otherwise in the kernel's generic path, which is then reported.
    Auto = "auto",
    /// In the driver or not at all.
    Native = "native",
    /// In the kernel's generic path: works with every device, slower.
    Generic = "generic",
}

words! {
    /// Whether frames are shared with the driver instead of copied.
    ZeroCopy, "zero-copy mode", default Auto:
    /// Where the driver can; copying otherwise, which is then reported.
    Auto = "auto",
    /// Refuse to start without.
    Require = "require",
    /// Always copy.
    Off = "off",
}

words! {
    /// What is made of the TCP and UDP checksums of received packets.
    Checksum, "checksum mode", default Trust:
    /// They are right, as on every wire.
    Trust = "trust",
    /// They may be unfinished, as from a veth peer that leaves them to its hardware: compute them anew.
    Recompute = "recompute",
}

words! {
    /// What becomes of packets of an interface when the service dies.
    FailMode, "fail mode", default Open:
    /// The kernel takes over.
    Open = "open",
    /// They are dropped.
    Closed = "closed",
}

words! {
    /// Whether the XDP program itself forwards packets of known flows.
    FastPath, "fast-path mode", default Off:
    /// Flows that have sent several packets, while the program has room for them.
    Auto = "auto",
    /// Every flow from its second packet on, while the program has room for it.
    Eager = "eager",
    /// No flow: all packets go to the workers.
    Off = "off",
}

/// How many interfaces there may be: the steering program has room for no more.
const MOST: usize = 64;

pub(super) fn check(raw: &Entries<crate::raw::Interface>, report: &mut Report<'_>) -> Option<Vec<Interface>> {
    if raw.list.is_empty() {
        report.error(raw.span, "there are no interfaces");
        return None;
    }
    if let Some(entry) = raw.list.get(MOST) {
        report.error(entry.name.span, format!("there are more than {MOST} interfaces"));
    }
    for (index, entry) in raw.list.iter().enumerate() {
        check_twice(entry, &raw.list[..index], report);
    }
    let checked: Vec<_> = raw.list.iter().map(|entry| Interface::check(entry, &raw.list, report)).collect();
    checked.into_iter().collect()
}

/// Refuses an interface that gets the very frames of an earlier one.
fn check_twice(
    entry: &Entry<crate::raw::Interface>,
    earlier: &[Entry<crate::raw::Interface>],
    report: &mut Report<'_>,
) {
    let device = &entry.value.device;
    let tags = |entry: &Entry<crate::raw::Interface>| {
        let tags = entry.value.vlan.iter().flat_map(|tags| &tags.list);
        tags.map(|tag| tag.text.trim_start_matches('0').to_owned()).collect::<Vec<_>>()
    };
    let same = |other: &&Entry<crate::raw::Interface>| {
        other.value.device.text == device.text && tags(other) == tags(entry)
    };
    let Some(first) = earlier.iter().find(same) else { return };
    let (span, what) = match entry.value.vlan.as_ref() {
        Some(tags) => (tags.span, format!("this VLAN of `{}`", device.text)),
        None => (device.span, format!("the device `{}`", device.text)),
    };
    report.error(
        span,
        Misread::new(format!("{what} is already interface `{}`", first.name.text))
            .help(format!("which is at line {}", first.name.span.line)),
    );
}

/// What is written of a device at any of its interfaces; `Some(None)` if nothing is. Two that say different things are refused.
fn of_device<V: Value + Copy + PartialEq>(
    own: &Entry<crate::raw::Interface>,
    all: &[Entry<crate::raw::Interface>],
    key: &str,
    written: fn(&crate::raw::Interface) -> Option<&Written<V>>,
    report: &mut Report<'_>,
) -> Option<Option<V>> {
    let device = &own.value.device.text;
    let mut siblings = all.iter().filter(|entry| entry.value.device.text == *device);
    let Some((first, value)) = siblings.find_map(|entry| Some((entry, written(&entry.value)?))) else {
        return Some(None);
    };
    let Some(own) = written(&own.value) else {
        // What is wrong with it is reported where it stands.
        return value.text.parse().ok().map(Some);
    };
    let read = own.read(report)?;
    if value.text.parse().is_ok_and(|value: V| value != read) {
        report.error(
            own.span,
            Misread::new(format!(
                "`{key}` is for the whole device `{device}`, and interface `{}` has `{}`",
                first.name.text, value.text
            ))
            .help(format!("which is at line {}; write it once", value.span.line)),
        );
        return None;
    }
    Some(Some(read))
}

/// Every worker needs a queue of its own.
pub(super) fn check_queues(
    interfaces: &[Interface],
    raw: &Entries<crate::raw::Interface>,
    workers: usize,
    report: &mut Report<'_>,
) {
    for (interface, entry) in interfaces.iter().zip(&raw.list) {
        let (Some(queues), Some(written)) = (interface.queues, &entry.value.queues) else { continue };
        if (queues as usize) < workers {
            report.error(
                written.span,
                Misread::new(format!("{queues} queues are too few for {workers} workers"))
                    .help("each worker needs its own: name fewer `cores`, or give the device more queues"),
            );
        }
    }
}

impl Interface {
    fn check(
        entry: &Entry<crate::raw::Interface>,
        all: &[Entry<crate::raw::Interface>],
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let Entry { name, value: raw } = entry;
        let name = name.read(report);
        let device = raw.device.read(report);
        let queues = of_device(entry, all, "queues", |raw| raw.queues.as_ref(), report);
        let xdp = of_device(entry, all, "xdp", |raw| raw.xdp.as_ref(), report).map(Option::unwrap_or_default);
        let zero_copy = of_device(entry, all, "zero-copy", |raw| raw.zero_copy.as_ref(), report);
        let zero_copy = zero_copy.map(Option::unwrap_or_default);
        if let (Some(XdpMode::Generic), Some(ZeroCopy::Require), Some(written)) =
            (xdp, zero_copy, &raw.zero_copy)
        {
            report.error(
                written.span,
                Misread::new("generic XDP never has zero copy")
                    .help("set `xdp: native`, or do not require it"),
            );
        }
        let checksum = of_device(entry, all, "checksum", |raw| raw.checksum.as_ref(), report);
        let on_failure = of_device(entry, all, "on-failure", |raw| raw.on_failure.as_ref(), report);
        let fast_path = raw.fast_path.read_or(FastPath::default(), report);
        if let (Some(FastPath::Auto | FastPath::Eager), Some(Some(Checksum::Recompute)), Some(written)) =
            (fast_path, checksum, &raw.fast_path)
        {
            report.error(
                written.span,
                Misread::new("with `checksum: recompute` every packet must go through a worker").help(
                    "leave `fast-path` out, or let the sender finish its checksums: ethtool -K DEVICE tx off",
                ),
            );
        }
        let urpf = raw.urpf.as_ref().map(|urpf| urpf.read(report));
        let vlan = Vlan::check(raw, report);
        Some(Interface {
            name: name?,
            device: device?,
            queues: queues?.map(Number::get),
            xdp: xdp?,
            zero_copy: zero_copy?,
            checksum: checksum?.unwrap_or_default(),
            on_failure: on_failure?.unwrap_or_default(),
            fast_path: fast_path?,
            urpf: match urpf {
                Some(read) => Some(read?),
                None => None,
            },
            vlan: vlan?,
        })
    }
}
