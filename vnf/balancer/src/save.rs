//! Connections over a restart, and the backends that clients have by affinity.
//!
//! A backend is found again by its service's name, its address and its port. Connections of a backend that the configuration no
//! longer has go on, as over a reload: it is leaving. Not written: fragments, what was learnt of paths, what the checks have said.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

use throughway_packet::headers::octets;
use throughway_session::NewSession;
use throughway_session::connection::Connection;
use throughway_session::save::{Life, key, keys, put_key, put_keys, put_life};
use throughway_vnf::Now;
use throughway_vnf::save::{Fields, Lost, Moment, Record, Restored, SESSION, Save, Sink};

use crate::function::address;
use crate::seat::Seat;
use crate::service::Forward;
use crate::shared::{Remembered, Shared};
use crate::track::{Half, Track};

/// A backend, in the order of the numbers by which connections mean it.
const SEAT: u8 = 1;
/// A client that has a backend for a time.
const CLIENT: u8 = 2;

/// Backends that the configuration no longer has, with the names of their services.
pub type Leaving = Vec<(Arc<str>, Arc<Seat>)>;

/// The connections of a load balancer, to be saved and restored.
#[derive(Debug)]
pub struct Connections<'a> {
    /// The load balancer.
    pub shared: &'a Shared,
    /// Backends that are leaving: those that are when it is saved, and those that were found when it was restored.
    pub leaving: RefCell<Leaving>,
}

impl Save for Connections<'_> {
    fn save(&self, now: Now, sink: &mut dyn Sink) -> u64 {
        let services = self.shared.services();
        let leaving = self.leaving.borrow();
        let configured = services.iter().flat_map(|service| {
            service.config.backends.iter().map(|backend| (service.config.name.as_str(), &backend.seat))
        });
        let leaving = leaving.iter().map(|(name, seat)| (&**name, seat));
        let mut record = Record::default();
        let mut numbers: HashMap<*const Seat, u64> = HashMap::new();
        for (service, seat) in configured.chain(leaving) {
            let number = numbers.len() as u64;
            if let Entry::Vacant(place) = numbers.entry(Arc::as_ptr(seat)) {
                place.insert(number);
                put_seat(record.begin(SEAT), service, seat);
                sink.put(record.as_bytes());
            }
        }
        let mut left = 0;
        self.shared.connections.each(now, |both, remembered, info| {
            let Some(number) = numbers.get(&Arc::as_ptr(&remembered.seat)) else {
                left += 1;
                return;
            };
            put_keys(record.begin(SESSION), both);
            put_life(&mut record, info, now);
            record.byte(track_bits(remembered.track)).byte(remembered.forward as u8).number(*number);
            left += u64::from(!sink.put(record.as_bytes()));
        });
        self.shared.clients.each(now, |client, seat, info| {
            if let Some(number) = numbers.get(&Arc::as_ptr(seat)) {
                put_key(record.begin(CLIENT), client);
                put_life(&mut record, info, now);
                sink.put(record.number(*number).as_bytes());
            }
        });
        left
    }

    fn restore(&self, records: &mut dyn Iterator<Item = &[u8]>, moment: &Moment<'_>) -> Restored {
        let mut restored = Restored::default();
        let services = self.shared.services();
        let known = services.iter().flat_map(|service| {
            service.config.backends.iter().map(|backend| {
                let Seat { address, port, .. } = *backend.seat;
                ((service.config.name.as_str(), address, port), &backend.seat)
            })
        });
        let known: Known<'_> = known.collect();
        let mut seats = Vec::new();
        for record in records {
            let mut fields = Fields::of(record);
            match fields.byte() {
                Some(SESSION) => restored.count(self.connection(&mut fields, &seats, moment)),
                Some(SEAT) => seats.push(self.seat(&mut fields, &known)),
                Some(CLIENT) => self.client(&mut fields, &seats, moment).unwrap_or_default(),
                _ => restored.lose(Lost::Damaged, 1),
            }
        }
        // Who has no connection after all need not be waited for.
        self.leaving.borrow_mut().retain(|(_, seat)| seat.figures.active() > 0);
        restored
    }
}

/// The backends of the configuration, by what they stay the same by.
type Known<'a> = HashMap<(&'a str, IpAddr, Option<u16>), &'a Arc<Seat>>;

impl Connections<'_> {
    fn seat(&self, fields: &mut Fields<'_>, known: &Known<'_>) -> Option<Arc<Seat>> {
        let service = fields.text()?;
        let place = address(&fields.bytes()?);
        let port = match fields.small::<u32>()? {
            0 => None,
            above => Some(u16::try_from(above - 1).ok()?),
        };
        let via = match fields.byte()? {
            0 => None,
            _ => Some(address(&fields.bytes()?)),
        };
        fields.end()?;
        if let Some(seat) = known.get(&(service, place, port)) {
            // Until the kernel is asked.
            if seat.via().is_none() {
                seat.set_via(via);
            }
            return Some(Arc::clone(seat));
        }
        let seat = Arc::new(Seat::new(place, port));
        seat.set_via(via);
        seat.set_taking(false);
        self.leaving.borrow_mut().push((service.into(), Arc::clone(&seat)));
        Some(seat)
    }

    fn connection(
        &self,
        fields: &mut Fields<'_>,
        seats: &[Option<Arc<Seat>>],
        moment: &Moment<'_>,
    ) -> Result<(), Lost> {
        let ([forward, reverse], life, state) = read(fields, seats).ok_or(Lost::Damaged)?;
        let seen = life.last_seen(moment)?;
        let (class, seat) = (state.track.class(), Arc::clone(&state.seat));
        let new = NewSession { forward, reverse, class, timeout: life.timeout, state };
        self.shared.connections.insert(new, seen, |removed| Shared::gone(&removed))?;
        seat.figures.resumed();
        Ok(())
    }

    fn client(
        &self,
        fields: &mut Fields<'_>,
        seats: &[Option<Arc<Seat>>],
        moment: &Moment<'_>,
    ) -> Option<()> {
        let client = key(fields)?;
        let life = Life::read(fields)?;
        let seat = seats.get(fields.small::<usize>()?)?.clone()?;
        fields.end()?;
        let seen = life.last_seen(moment).ok()?;
        self.shared.clients.restore(client, seat, life.timeout, seen);
        Some(())
    }
}

fn put_seat(record: &mut Record, service: &str, seat: &Seat) {
    let port = seat.port.map_or(0, |port| u32::from(port) + 1);
    record.text(service).bytes(&octets(seat.address)).number(port);
    match seat.via() {
        None => record.byte(0),
        Some(via) => record.byte(1).bytes(&octets(via)),
    };
}

fn read(
    fields: &mut Fields<'_>,
    seats: &[Option<Arc<Seat>>],
) -> Option<([throughway_session::SessionKey; 2], Life, Remembered)> {
    let both = keys(fields)?;
    let life = Life::read(fields)?;
    let track = track(fields.byte()?)?;
    let forward = match fields.byte()? {
        0 => Forward::Nat,
        1 => Forward::FullNat,
        2 => Forward::Dsr,
        3 => Forward::Ipip,
        _ => return None,
    };
    let seat = seats.get(fields.small::<usize>()?)?.clone()?;
    fields.end()?;
    Some((both, life, Remembered { track, forward, seat }))
}

/// From here on: connections whose beginning was not seen, and those of which only the client's packets are.
const PICKED_UP: u8 = 0x20;
const CLIENT_ALONE: u8 = 0x21;

fn track_bits(track: Track) -> u8 {
    match track {
        Track::Both(connection) => connection.to_bits(),
        Track::PickedUp => PICKED_UP,
        Track::Client(half) => CLIENT_ALONE + half as u8,
    }
}

fn track(bits: u8) -> Option<Track> {
    const HALVES: [Half; 5] = [Half::Opening, Half::Open, Half::PickedUp, Half::Closing, Half::Reset];
    match bits {
        PICKED_UP => Some(Track::PickedUp),
        CLIENT_ALONE.. => HALVES.get(usize::from(bits - CLIENT_ALONE)).copied().map(Track::Client),
        _ => Connection::from_bits(bits).map(Track::Both),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_a_byte_and_no_other_byte_is_one() {
        let known = (0..=u8::MAX).filter_map(|bits| Some((bits, track(bits)?)));
        let known: Vec<_> = known.collect();
        assert_eq!(known.len(), 16 + 2 + 1 + 5);
        assert!(known.iter().all(|(bits, track)| track_bits(*track) == *bits));
    }
}
