use std::collections::{BTreeMap, HashMap};

use throughway_shared::{
    action::{Action, Rewrite, edits},
    fast::{Geometry, QUARANTINE},
    flow::{FlowKey, mapped},
};

use super::*;

fn key(number: u32) -> FlowKey {
    let [a, b, c, d] = number.to_be_bytes();
    FlowKey {
        source: if number.is_multiple_of(2) {
            mapped([10, b, c, d])
        } else {
            [0x20, 1, 13, 184, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
        },
        destination: if number.is_multiple_of(2) { mapped([192, 0, 2, 1]) } else { [0x20; 16] },
        source_port: [c, d],
        destination_port: [0, 53],
        ingress: 1,
        protocol: if number.is_multiple_of(3) { 6 } else { 17 },
        family: if number.is_multiple_of(2) { 4 } else { 6 },
        ..FlowKey::default()
    }
}

fn send(egress: u16) -> Rewrite {
    Action { edits: edits::EGRESS, egress, hops: 1, ..Action::nothing() }.into()
}

fn flow<'a>(key: &'a FlowKey, rewrite: &'a Rewrite, token: u32) -> FastFlow<'a> {
    FastFlow { key, rewrite, generation: 7, dependencies: [0; 4], limit: 1500, silence: u64::MAX, token }
}

#[test]
fn as_many_flows_as_were_asked_for_nearly_always_fit() {
    for flows in [1, 7, 64, 1000, 65_536] {
        let mut table = FastFlows::in_memory(flows);
        let rewrite = send(2);
        let refused = (0..flows).filter(|n| table.install(&flow(&key(*n), &rewrite, *n), 0).is_err()).count();
        assert!(refused * 100 <= flows as usize, "{refused} of {flows} refused");
        assert_eq!((table.used(), table.capacity()), (flows as usize - refused, flows as usize));
        if refused == 0 {
            let more = table.install(&flow(&key(flows), &rewrite, 0), 0);
            assert_eq!(more, Err(FastRefusal::Full));
        }
    }
}

#[test]
fn a_table_is_what_a_map_would_be() {
    let mut table = FastFlows::in_memory(200);
    let mut model: HashMap<FlowKey, (FastPlace, u32)> = HashMap::new();
    let mut left: BTreeMap<FastPlace, u64> = BTreeMap::new();
    let mut state = 1u64;
    for step in 0..20_000u32 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let now = u64::from(step) * QUARANTINE / 50;
        let key = key((state >> 33) as u32 % 300);
        let rewrite = send((state >> 20) as u16 % 5);
        if (state >> 60) & 1 == 0 {
            match (table.install(&flow(&key, &rewrite, step), now), model.get(&key)) {
                (Ok(place), None) => {
                    assert!(
                        left.remove(&place).is_none_or(|since| now >= since + QUARANTINE),
                        "used too early"
                    );
                    model.insert(key, (place, step));
                }
                (Err(FastRefusal::AlreadyThere), Some(_)) => {}
                (Err(FastRefusal::Full | FastRefusal::Crowded), None) => {}
                other => panic!("{other:?}"),
            }
        } else if let Some((place, _)) = model.remove(&key) {
            table.remove(place, now);
            table.remove(place, now);
            left.insert(place, now);
        }
        assert_eq!(table.used(), model.len());
    }
    let mut seen: Vec<_> = Vec::new();
    while seen.len() < model.len() {
        let before = seen.len();
        table.sweep(i64::MAX, 10, |_| Some(()), |place, token, _, ()| seen.push((place, token)));
        assert!(seen.len() - before <= 10);
    }
    seen.truncate(model.len());
    seen.sort_unstable();
    let mut expected: Vec<_> = model.into_values().collect();
    expected.sort_unstable();
    assert_eq!(seen, expected);
}

#[test]
fn once_round_costs_the_same_however_it_is_cut() {
    let (flows, rewrite) = (100, send(2));
    let once = i64::from(Geometry::of(1000).ways()) + i64::from(flows) * FAST_VISIT as i64;
    for due in [1, 7, 300, once] {
        let mut table = FastFlows::in_memory(1000);
        (0..flows).for_each(|n| assert!(table.install(&flow(&key(n), &rewrite, n), 0).is_ok()));
        let (mut visited, mut left) = (0, 0);
        for _ in 0..3 * once / due {
            left = (left + due).min(due);
            while left > 0 {
                left = table.sweep(left, 10, |_| Some(()), |_, _, _, ()| visited += 1);
            }
        }
        // What the last round has not paid for yet, and what is less than one more.
        let short = due / FAST_VISIT as i64 + 2;
        assert!((3 * i64::from(flows) - visited).abs() <= short, "{visited} visits in steps of {due}");
    }
    assert_eq!(FastFlows::in_memory(16).sweep(50, 10, |_| Some(()), |_, _, _, ()| ()), 0, "there are none");
}

#[test]
fn what_cannot_be_executed_is_refused() {
    let mut table = FastFlows::in_memory(16);
    let mut refused = |change: &dyn Fn(&mut FlowKey, &mut Rewrite, &mut u64)| {
        let (mut key, mut rewrite, mut silence) = (key(2), send(1), u64::MAX);
        change(&mut key, &mut rewrite, &mut silence);
        let flow = FastFlow { silence, ..flow(&key, &rewrite, 0) };
        table.install(&flow, 0).err().map(FastRefusal::label)
    };
    assert_eq!(refused(&|key, _, _| key.protocol = 1), Some("protocol"));
    assert_eq!(refused(&|_, rewrite, _| rewrite.action.edits |= edits::DECAPSULATE), Some("front"));
    assert_eq!(refused(&|_, rewrite, _| rewrite.action.edits |= edits::ENCAPSULATE), Some("front"));
    assert_eq!(refused(&|_, rewrite, _| rewrite.action.edits = 0), Some("no-egress"));
    assert_eq!(refused(&|_, _, silence| *silence = 40_000_000), Some("silence"));
    assert_eq!(refused(&|_, rewrite, _| rewrite.action.edits = edits::DROP), None);
    assert_eq!(refused(&|_, _, _| ()), Some("already-there"));
    assert_eq!(table.used(), 1);
}

#[test]
fn there_may_be_too_many_actions_and_then_room_again() {
    let mut table = FastFlows::in_memory(4096);
    let rewrite = |n: u32| send(n as u16);
    let places: Vec<_> = (0..1024u32).map(|n| table.install(&flow(&key(2), &rewrite(n), n), 0)).collect();
    // One flow, many actions: only the first is taken.
    assert!(places[0].is_ok() && places[1..].iter().all(|place| *place == Err(FastRefusal::AlreadyThere)));
    let places: Vec<_> =
        (1..1024u32).map(|n| table.install(&flow(&key(6 * n + 2), &rewrite(n), n), 0).unwrap()).collect();
    let one_more =
        |table: &mut FastFlows, now| table.install(&flow(&key(6 * 2000 + 2), &rewrite(5000), 0), now);
    assert_eq!(one_more(&mut table, 0), Err(FastRefusal::Diverse));
    table.remove(places[3], 5);
    assert_eq!(one_more(&mut table, 5), Err(FastRefusal::Diverse), "still to be read");
    one_more(&mut table, 5 + QUARANTINE).unwrap();
}

#[test]
fn renewing_changes_the_generation_alone() {
    let mut table = FastFlows::in_memory(16);
    let place = table.install(&flow(&key(3), &send(1), 0), 5_000_000_000).unwrap();
    let before = table.entry(place);
    table.renew(place, 9);
    assert_eq!(table.entry(place), throughway_shared::fast::Entry { generation: 9, ..before });
    let FastCount { packets, bytes, last } = table.read(place);
    assert_eq!((packets, bytes), (0, 0));
    assert!((4_998_000_000..=5_000_000_000).contains(&last));
    table.remove(place, 5_000_000_000);
    table.renew(place, 11);
    assert_eq!(table.entry(place).generation, 9, "not ours any more");
}
