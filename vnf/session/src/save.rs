//! Keys and life of a session as fields of a record: what every stateful function writes of its sessions over a restart.

use std::time::Duration;

use throughway_shared::flow::mapped;
use throughway_vnf::Now;
use throughway_vnf::save::{Fields, Lost, Moment, Record};

use crate::insert::InsertError;
use crate::key::{SessionKey, narrow};
use crate::session::Info;
use crate::table::SessionTable;
use crate::time::RESOLUTION;
use crate::walk::Cursor;

/// Both addresses are IPv4.
const NARROW: u8 = 1 << 0;
/// The zone is not 0.
const ZONED: u8 = 1 << 1;
/// Of a pair: the second key is the first one turned round.
const PLAIN: u8 = 1 << 2;
const KNOWN: u8 = NARROW | ZONED | PLAIN;

/// Writes a key: 14 bytes with IPv4.
pub fn put_key(record: &mut Record, key: &SessionKey) {
    write(record, key, 0);
}

fn write(record: &mut Record, key: &SessionKey, flags: u8) {
    let ipv4 = narrow(&key.source).zip(narrow(&key.destination));
    let is = |flag: u8, set: bool| if set { flag } else { 0 };
    record.byte(flags | is(NARROW, ipv4.is_some()) | is(ZONED, key.zone != 0)).byte(key.protocol);
    match ipv4 {
        Some((source, destination)) => record.bytes(&source).bytes(&destination),
        None => record.bytes(&key.source).bytes(&key.destination),
    };
    record.bytes(&key.source_port).bytes(&key.destination_port);
    if key.zone != 0 {
        record.bytes(&key.zone.to_be_bytes());
    }
}

/// Reads what [`put_key`] wrote.
pub fn key(fields: &mut Fields<'_>) -> Option<SessionKey> {
    let (key, flags) = read(fields)?;
    (flags & PLAIN == 0).then_some(key)
}

fn read(fields: &mut Fields<'_>) -> Option<(SessionKey, u8)> {
    let flags = fields.byte().filter(|flags| flags & !KNOWN == 0)?;
    let protocol = fields.byte()?;
    let (source, destination) = if flags & NARROW != 0 {
        (mapped(fields.bytes()?), mapped(fields.bytes()?))
    } else {
        (fields.bytes()?, fields.bytes()?)
    };
    let (source_port, destination_port) = (fields.bytes()?, fields.bytes()?);
    let zone = if flags & ZONED != 0 { u16::from_be_bytes(fields.bytes()?) } else { 0 };
    Some((SessionKey { source, destination, source_port, destination_port, zone, protocol }, flags))
}

/// Writes both keys of a session: as one where nobody translates.
pub fn put_keys(record: &mut Record, [forward, reverse]: &[SessionKey; 2]) {
    let plain = *reverse == forward.reversed();
    write(record, forward, if plain { PLAIN } else { 0 });
    if !plain {
        put_key(record, reverse);
    }
}

/// Reads what [`put_keys`] wrote.
pub fn keys(fields: &mut Fields<'_>) -> Option<[SessionKey; 2]> {
    let (forward, flags) = read(fields)?;
    let reverse = if flags & PLAIN != 0 { forward.reversed() } else { key(fields)? };
    Some([forward, reverse])
}

/// How long a session has been silent and may be, as it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Life {
    /// Since its last life sign.
    pub idle: Duration,
    /// How long it lives without one.
    pub timeout: Duration,
}

/// Writes a session's [`Life`].
pub fn put_life(record: &mut Record, info: &Info, now: Now) {
    let span = |from: Now, to: Now| Duration::from_nanos(to.0.saturating_sub(from.0));
    // Without the tick that a deadline is later than its timeout: otherwise each restart would add one.
    let timeout = span(info.last_seen, info.expires).saturating_sub(RESOLUTION / 2);
    record.span(span(info.last_seen, now)).span(timeout);
}

impl Life {
    /// Reads what [`put_life`] wrote.
    pub fn read(fields: &mut Fields<'_>) -> Option<Life> {
        Some(Life { idle: fields.span()?, timeout: fields.span()? })
    }

    /// When the last life sign was, by the clock of who reads.
    ///
    /// # Errors
    /// The session has ended meanwhile.
    pub fn last_seen(&self, moment: &Moment<'_>) -> Result<Now, Lost> {
        let silent = self.idle.saturating_add(moment.gap);
        // A clock that has not run for so long cannot say when that was: the life sign is then as old as the clock.
        if silent < self.timeout { Ok(moment.before(self.idle)) } else { Err(Lost::Expired) }
    }
}

impl From<InsertError> for Lost {
    fn from(error: InsertError) -> Lost {
        match error {
            InsertError::Conflict { .. } => Lost::Conflict,
            InsertError::Full | InsertError::Quota(_) => Lost::Full,
            InsertError::SameKey => Lost::Damaged,
        }
    }
}

impl<S> SessionTable<S> {
    /// Shows all sessions that are alive at `now`; see [`SessionTable::walk`].
    pub fn each(&self, now: Now, mut show: impl FnMut(&[SessionKey; 2], &S, &Info)) {
        let mut cursor = Some(Cursor::default());
        while let Some(at) = cursor {
            cursor = self.walk(at, |keys, state, info| {
                if info.expires > now {
                    show(keys, state, info);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn any_key()(narrow: bool, a: [u8; 16], b: [u8; 16], source_port: [u8; 2], destination_port: [u8; 2],
                     zone in prop_oneof![Just(0u16), any::<u16>()], protocol: u8) -> SessionKey {
            let [source, destination] =
                [a, b].map(|all| if narrow { mapped([all[0], all[1], all[2], all[3]]) } else { all });
            SessionKey { source, destination, source_port, destination_port, zone, protocol }
        }
    }

    proptest! {
        #[test]
        fn keys_come_back(one in any_key(), other in any_key()) {
            for pair in [[one, one.reversed()], [one, other]] {
                let mut record = Record::default();
                put_keys(&mut record, &pair);
                let mut fields = Fields::of(record.as_bytes());
                prop_assert_eq!(keys(&mut fields), Some(pair));
                prop_assert_eq!(fields.end(), Some(()));
            }
        }

        #[test]
        fn no_bytes_are_too_odd(bytes: Vec<u8>) {
            let mut fields = Fields::of(&bytes);
            while keys(&mut fields).is_some() {}
            let _ = Life::read(&mut fields);
        }
    }

    #[test]
    fn silence_before_and_after_the_writing_counts() {
        let seconds = Duration::from_secs;
        let life = Life { idle: seconds(10), timeout: seconds(30) };
        let moment = |gap| Moment { now: Now(1_000_000_000_000), gap: seconds(gap), ports: &[] };
        assert_eq!(life.last_seen(&moment(5)), Ok(Now(985_000_000_000)));
        assert!(life.last_seen(&moment(19)).is_ok());
        assert_eq!(life.last_seen(&moment(20)), Err(Lost::Expired));
    }
}
