//! Which interface a frame belongs to. A device carries untagged frames and VLANs, and each of these may be an interface of its
//! own: functions see only interfaces, the ports underneath only devices.

use throughway_packet::{Headers, PortId, Tags};

use super::PortSettings;

/// Interfaces and devices, both by number. Where every interface has a device for itself, the numbers are the same.
#[derive(Debug)]
pub(super) struct Links {
    interfaces: Vec<Interface>,
    devices: Vec<Device>,
    /// Whether any interface is a VLAN.
    vlans: bool,
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    device: PortId,
    tags: Tags,
}

#[derive(Debug)]
struct Device {
    /// The first interface on it.
    first: PortId,
    /// The interface whose frames are untagged.
    untagged: Option<PortId>,
    /// The identifiers (outer, inner) of its VLANs, sorted, with their interfaces.
    vlans: Vec<((u16, u16), PortId)>,
}

impl Links {
    /// The interfaces that `settings` describe on `devices` devices. Without settings, interface *n* is device *n*.
    pub(super) fn new(settings: &[PortSettings], devices: usize) -> Self {
        let count = if settings.is_empty() { devices } else { settings.len() };
        let interfaces = (0..count).map(|number| {
            let settings = settings.get(number).copied().unwrap_or_default();
            Interface { device: PortId(settings.device.unwrap_or(number as u16)), tags: settings.tags }
        });
        let interfaces: Vec<_> = interfaces.collect();
        let devices = (0..devices).map(|device| {
            let on = || {
                let numbered = (0..).map(PortId).zip(&interfaces);
                numbered.filter(move |(_, interface)| interface.device.index() == device)
            };
            let mut vlans: Vec<_> = on()
                .filter(|(_, interface)| interface.tags.outer != 0)
                .map(|(port, interface)| ((interface.tags.outer, interface.tags.inner), port))
                .collect();
            vlans.sort_unstable();
            Device {
                // A device without interfaces is nobody's: no chain walks for that number.
                first: on().next().map_or(PortId(u16::MAX), |(port, _)| port),
                untagged: on().find(|(_, interface)| interface.tags.outer == 0).map(|(port, _)| port),
                vlans,
            }
        });
        let devices = devices.collect();
        let vlans = interfaces.iter().any(|interface| interface.tags.outer != 0);
        Links { interfaces, devices, vlans }
    }

    /// How many interfaces there are.
    pub(super) fn interfaces(&self) -> usize {
        self.interfaces.len()
    }

    /// The device of an interface.
    #[inline]
    pub(super) fn device(&self, port: PortId) -> PortId {
        self.interfaces.get(port.index()).map_or(port, |interface| interface.device)
    }

    /// The first interface on a device, where frames are counted that are no interface's.
    pub(super) fn first(&self, device: PortId) -> PortId {
        self.devices.get(device.index()).map_or(device, |device| device.first)
    }

    /// The one interface that has all frames of a device; `None` when they have to be looked at.
    #[inline]
    pub(super) fn whole(&self, device: PortId) -> Option<PortId> {
        let of = self.devices.get(device.index())?;
        if of.vlans.is_empty() { of.untagged } else { None }
    }

    /// The interface that a frame of a device belongs to. One that ends inside its tags is the first one's, which finds that.
    pub(super) fn interface_of(&self, device: PortId, frame: &[u8]) -> Option<PortId> {
        let of = self.devices.get(device.index())?;
        match tags_of(frame) {
            None => Some(of.first),
            Some((0, 0)) => of.untagged,
            Some(tags) => {
                let found = of.vlans.binary_search_by_key(&tags, |(tags, _)| *tags).ok()?;
                of.vlans.get(found).map(|(_, port)| *port)
            }
        }
    }

    /// The tags that a packet must get to leave by `egress`; `None` when it leaves as it is: untagged, by untagged frames. Where
    /// there are no VLANs at all, tags stay what they are.
    pub(super) fn retag(&self, egress: PortId, packet: &Headers) -> Option<Tags> {
        if !self.vlans {
            return None;
        }
        let tags = self.interfaces.get(egress.index())?.tags;
        (tags.outer != 0 || packet.l3 != 14).then_some(tags)
    }
}

/// The identifiers (outer, inner) of a frame's tags, zero where there is none; `None` when the frame ends before. As
/// [`throughway_packet::parse()`] reads them.
fn tags_of(frame: &[u8]) -> Option<(u16, u16)> {
    let word = |at: usize| Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk::<2>()?));
    let is_tag = |ether_type| matches!(ether_type, 0x8100 | 0x88a8 | 0x9100);
    if !is_tag(word(12)?) {
        return Some((0, 0));
    }
    let (outer, next) = (word(14)? & 0x0fff, word(16)?);
    if !is_tag(next) {
        return Some((outer, 0));
    }
    let (inner, _) = (word(18)? & 0x0fff, word(20)?);
    Some((outer, inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_vlans_interfaces_are_devices() {
        for settings in [vec![], vec![PortSettings::default(); 3]] {
            let links = Links::new(&settings, 3);
            assert_eq!(links.interfaces(), 3);
            for number in (0..3).map(PortId) {
                assert_eq!((links.device(number), links.whole(number)), (number, Some(number)));
            }
            assert_eq!(links.retag(PortId(1), &Headers { l3: 18, ..Headers::default() }), None);
        }
    }

    #[test]
    fn a_devices_frames_belong_to_the_interface_with_their_tags() {
        let on = |device, tags| PortSettings { device: Some(device), tags, ..PortSettings::default() };
        let settings = [on(0, Tags::NONE), on(0, Tags::one(7)), on(0, Tags::two(200, 30)), on(1, Tags::NONE)];
        let links = Links::new(&settings, 2);
        assert_eq!((links.whole(PortId(0)), links.whole(PortId(1))), (None, Some(PortId(3))));
        let frame = |tags: &[u16]| {
            let mut frame = vec![0; 12];
            tags.iter().for_each(|tag| frame.extend([0x81, 0, (tag >> 8) as u8, *tag as u8]));
            frame.extend([8, 0]);
            frame
        };
        for (tags, port) in [
            (&[][..], Some(0)),
            (&[0xe000], Some(0)),
            (&[7], Some(1)),
            (&[0xe007], Some(1)),
            (&[7, 0], Some(1)),
            (&[7, 30], None),
            (&[200], None),
            (&[200, 30], Some(2)),
            (&[30, 200], None),
            (&[0, 7], None),
        ] {
            assert_eq!(links.interface_of(PortId(0), &frame(tags)), port.map(PortId), "{tags:x?}");
        }
        assert_eq!(links.interface_of(PortId(0), &frame(&[7])[..17]), Some(PortId(0)), "cut short");
    }
}
