//! Devices and how they are attached to.

use super::*;
use crate::value::{DeviceName, words};

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
        let device = &entry.value.device;
        if let Some(first) = raw.list[..index].iter().find(|earlier| earlier.value.device.text == device.text)
        {
            report.error(
                device.span,
                Misread::new(format!(
                    "the device `{}` is already interface `{}`",
                    device.text, first.name.text
                ))
                .help(format!("which is at line {}", first.name.span.line)),
            );
        }
    }
    let checked: Vec<_> = raw.list.iter().map(|entry| Interface::check(entry, report)).collect();
    checked.into_iter().collect()
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
        Entry { name, value: raw }: &Entry<crate::raw::Interface>,
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let name = name.read(report);
        let device = raw.device.read(report);
        let queues = raw.queues.as_ref().map(|queues| queues.read(report));
        let xdp = raw.xdp.read_or(XdpMode::default(), report);
        let zero_copy = raw.zero_copy.read_or(ZeroCopy::default(), report);
        if let (Some(XdpMode::Generic), Some(ZeroCopy::Require), Some(written)) =
            (xdp, zero_copy, &raw.zero_copy)
        {
            report.error(
                written.span,
                Misread::new("generic XDP never has zero copy")
                    .help("set `xdp: native`, or do not require it"),
            );
        }
        let checksum = raw.checksum.read_or(Checksum::default(), report);
        let on_failure = raw.on_failure.read_or(FailMode::default(), report);
        Some(Interface {
            name: name?,
            device: device?,
            queues: match queues {
                Some(number) => Some(number?.get()),
                None => None,
            },
            xdp: xdp?,
            zero_copy: zero_copy?,
            checksum: checksum?,
            on_failure: on_failure?,
        })
    }
}
