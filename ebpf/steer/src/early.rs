//! What is dropped before anything else: packets from sources in a firewall's early sets.

use throughway_shared::steer::{EARLY, Interface};

use crate::{
    classify::{ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, TAG, View, is_tag},
    maps,
};

/// Whether the frame is such a packet, whatever its tags and whoever it is sent to.
#[inline(always)]
pub(crate) fn is_dropped<V: View>(view: &V, interface: &Interface) -> bool {
    if interface.flags & EARLY == 0 {
        return false;
    }
    let mut l3 = ETHERNET;
    for _ in 0..3 {
        let Some(kind) = view.bytes::<2>(l3 - 2) else { return false };
        let kind = u16::from_be_bytes(kind);
        if !is_tag(kind) {
            return from(view, l3, kind, interface.number);
        }
        l3 += TAG;
    }
    false
}

#[inline(always)]
fn from<V: View>(view: &V, l3: usize, kind: u16, number: u32) -> bool {
    match kind {
        ETHERTYPE_IPV4 => view.words::<1>(l3 + 12).is_some_and(|[source]| maps::is_early4(source, number)),
        ETHERTYPE_IPV6 => {
            view.double_words::<2>(l3 + 8).is_some_and(|source| maps::is_early6(source, number))
        }
        _ => false,
    }
}
