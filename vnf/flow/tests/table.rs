//! The table at its edges.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::{SECOND, SEED, action, install, look, mark, new_flow, probe};
use throughway_flow::entry::{
    BYTES_PER_FLOW, BYTES_PER_RECORD, BYTES_PER_REWRITTEN, BYTES_PER_TEMPLATE, HOT_BYTES,
};
use throughway_flow::{
    Credits, Dependencies, FlowCache, Generations, Installed, NewFlow, Policy, Round, Slot,
};
use throughway_packet::{Action, edits};

const NOW: u64 = 1000 * SECOND;

fn cache(capacity: usize) -> (FlowCache, Generations) {
    (FlowCache::new(capacity, SEED, Policy::default()), Generations::default())
}

#[test]
fn memory_for_each_flow() {
    assert_eq!(HOT_BYTES, 64);
    assert_eq!(BYTES_PER_FLOW, 64 + 4 + 16);
    assert_eq!((BYTES_PER_REWRITTEN, BYTES_PER_RECORD), (40, 24));
    // An eighth more ways than flows, rounded up to whole buckets.
    let cache = cache(1_000_000).0;
    assert_eq!(cache.ways(), 1_125_008);
    assert_eq!(cache.templates(), 15_625);
    // All included, for each flow that was asked for.
    let all = cache.ways() * BYTES_PER_FLOW + (cache.templates() + 1) * BYTES_PER_TEMPLATE;
    assert!(all <= 97_000_000, "{all}");
}

#[test]
fn the_smallest_caches_work() {
    for capacity in [0, 1, 16, 17] {
        let (mut cache, generations) = cache(capacity);
        assert!(cache.is_empty() && cache.ways() >= 16);
        assert_eq!(look(&mut cache, 1, &generations, NOW), None);
        assert_eq!(install(&mut cache, 1, &generations, NOW).0, Installed::New);
        assert_eq!(look(&mut cache, 1, &generations, NOW), Some(action(1)));
        assert_eq!(cache.len(), 1);
    }
}

#[test]
fn nearly_every_flow_of_a_full_table_is_there() {
    const FLOWS: u64 = 100_000;
    let (mut cache, generations) = cache(FLOWS as usize);
    (0..FLOWS).for_each(|number| {
        install(&mut cache, number, &generations, NOW);
    });
    let found = (0..FLOWS)
        .filter(|number| look(&mut cache, *number, &generations, NOW) == Some(action(*number as u32)));
    let found = found.count() as u64;
    assert!(found >= FLOWS - FLOWS / 1000, "{found}");
    assert!(cache.len() as u64 >= found);
}

#[test]
fn where_all_are_established_new_ones_are_refused_until_the_old_fall_silent() {
    let (mut cache, generations) = cache(1);
    for number in 0..16 {
        assert_eq!(install(&mut cache, number, &generations, NOW).0, Installed::New);
        look(&mut cache, number, &generations, NOW);
        look(&mut cache, number, &generations, NOW);
    }
    assert_eq!(install(&mut cache, 16, &generations, NOW).0, Installed::Refused);
    assert_eq!(cache.stats().refused, 1);
    assert!((0..16).all(|number| look(&mut cache, number, &generations, NOW).is_some()));
    // Protected for ten seconds.
    assert_eq!(install(&mut cache, 16, &generations, NOW + 9 * SECOND).0, Installed::Refused);
    let later = NOW + 11 * SECOND;
    look(&mut cache, 3, &generations, later);
    let (installed, settled) = install(&mut cache, 16, &generations, later);
    assert_eq!(installed, Installed::New);
    assert_eq!(cache.stats().evicted_idle, 1);
    // What the one driven out had not been credited for is not lost.
    let settled = settled.expect("uncredited packets");
    assert_eq!((settled.packets, settled.credits.0[0] < 16), (3, true));
    assert_eq!(settled.key, probe(settled.credits.0[0]).flow_key());
    assert!(look(&mut cache, 3, &generations, later).is_some(), "the one that spoke stays");
}

#[test]
fn unproven_flows_go_before_established_ones() {
    let (mut cache, generations) = cache(1);
    for number in 0..16 {
        install(&mut cache, number, &generations, NOW);
        if number != 5 {
            look(&mut cache, number, &generations, NOW);
            look(&mut cache, number, &generations, NOW);
        }
    }
    assert_eq!(install(&mut cache, 16, &generations, NOW).0, Installed::New);
    assert_eq!(cache.stats().evicted_probation, 1);
    assert_eq!(look(&mut cache, 5, &generations, NOW), None);
}

#[test]
fn stale_flows_go_where_there_is_no_other_room() {
    let (mut cache, generations) = cache(1);
    for number in 0..16 {
        install(&mut cache, number, &generations, NOW);
        look(&mut cache, number, &generations, NOW);
        look(&mut cache, number, &generations, NOW);
    }
    generations.bump([Slot::CONFIG]);
    assert_eq!(install(&mut cache, 16, &generations, NOW).0, Installed::New);
    assert_eq!(cache.stats().evicted_stale, 1);
}

#[test]
fn a_stale_flow_is_judged_again_in_its_place_and_stays_established() {
    let (mut cache, generations) = cache(1);
    let mine = Slot::session(1);
    let old = action(1);
    let round = Round::new(generations.epoch(), NOW);
    cache.install(&probe(1), &new_flow(&old, [mine].into_iter().collect(), 1), &round, |_| ());
    look(&mut cache, 1, &generations, NOW);
    look(&mut cache, 1, &generations, NOW);
    generations.bump([mine]);
    assert_eq!(look(&mut cache, 1, &generations, NOW), None);
    assert_eq!((cache.stats().stale, cache.stats().misses), (1, 0));
    let mut settled = None;
    let (new, round) = (action(2), Round::new(generations.epoch(), NOW));
    let installed = cache
        .install(&probe(1), &new_flow(&new, [mine].into_iter().collect(), 2), &round, |s| settled = Some(s));
    assert_eq!(installed, Installed::Replaced);
    // The two packets before are credited to whom they belong.
    assert_eq!(settled.map(|s| (s.credits.0[0], s.packets)), Some((1, 2)));
    assert_eq!(look(&mut cache, 1, &generations, NOW).as_ref().map(mark), Some(2));
    let mut shown = Vec::new();
    assert_eq!(cache.flows(NOW, 0, usize::MAX, |flow| shown.push(flow)), None);
    assert_eq!(shown.len(), 1);
    assert_eq!((shown[0].packets, shown[0].established, shown[0].credits.0[0]), (3, true, 2));
}

#[test]
fn an_entry_made_before_a_change_that_its_batch_did_not_see_is_stale() {
    let (mut cache, generations) = cache(1);
    let round = Round::new(generations.epoch(), NOW);
    generations.bump([Slot::ROUTES]);
    let old = action(1);
    cache.install(&probe(1), &new_flow(&old, Dependencies::NONE, 1), &round, |_| ());
    assert_eq!(look(&mut cache, 1, &generations, NOW), None);
}

#[test]
fn a_change_of_something_else_costs_a_look_and_no_more() {
    let (mut cache, generations) = cache(1);
    install(&mut cache, 1, &generations, NOW);
    generations.bump([Slot::session(9)]);
    assert!(look(&mut cache, 1, &generations, NOW).is_some());
    assert!(look(&mut cache, 1, &generations, NOW).is_some());
    assert_eq!((cache.stats().revalidated, cache.stats().hits), (1, 2));
}

#[test]
fn packets_that_the_action_does_not_hold_for_walk_the_chain() {
    let (mut cache, generations) = cache(1);
    let len = probe(0).packet_len();
    let round = Round::new(generations.epoch(), NOW);
    let put = |cache: &mut FlowCache, limit, hops| {
        let action = Action { hops, ..action(1) };
        let new = NewFlow {
            action: &action,
            tunnel: None,
            dependencies: Dependencies::NONE,
            credits: Credits::default(),
            limit,
            silence: u64::MAX,
        };
        cache.install(&probe(0), &new, &round, |_| ());
    };
    put(&mut cache, len, 63);
    assert!(look(&mut cache, 0, &generations, NOW).is_some());
    put(&mut cache, len - 1, 1);
    assert_eq!(look(&mut cache, 0, &generations, NOW), None, "too long for the egress");
    put(&mut cache, len, 64);
    assert_eq!(look(&mut cache, 0, &generations, NOW), None, "hops run out on the way");
    assert_eq!(cache.stats().unfit, 2);
}

#[test]
fn drops_are_answers_too() {
    let (mut cache, generations) = cache(1);
    let drop = Action { edits: edits::DROP, drop: 17, ..Action::nothing() };
    let round = Round::new(generations.epoch(), NOW);
    cache.install(&probe(1), &new_flow(&drop, Dependencies::NONE, 7), &round, |_| ());
    assert_eq!(look(&mut cache, 1, &generations, NOW), Some(drop));
}

#[test]
fn counters_hold_more_than_their_field() {
    let (mut cache, generations) = cache(1);
    install(&mut cache, 1, &generations, NOW);
    // As long as a packet may be, so that bytes run over too.
    let frame = throughway_packet::build::PacketBuilder::ipv6([0; 8], [1; 8])
        .udp(1, 2)
        .payload(&[0; 65_000])
        .finish();
    let big = throughway_flow::peek(&frame, throughway_packet::PortId(0)).expect("a common packet");
    let action = action(1);
    let round = Round::new(generations.epoch(), NOW);
    cache.install(&big, &new_flow(&action, Dependencies::NONE, 7), &round, |_| ());
    let mut probes = [big];
    cache.prepare(&mut probes);
    const PACKETS: u64 = 140_000;
    for _ in 0..PACKETS {
        assert!(cache.lookup(&probes[0], &round).is_some());
    }
    let expected = (PACKETS, PACKETS * u64::from(big.packet_len()));
    assert!(expected.1 > 2 << 32);
    let total = |cache: &FlowCache| {
        let mut shown = None;
        cache.flows(NOW, 0, 1, |flow| {
            if flow.credits.0[0] == 7 {
                shown = Some((flow.packets, flow.bytes));
            }
        });
        shown
    };
    assert_eq!(total(&cache), Some(expected));
    let mut harvested = Vec::new();
    cache.harvest(NOW, 1, |settled| harvested.push((settled.credits.0[0], settled.packets, settled.bytes)));
    assert_eq!(harvested, [(7, expected.0, expected.1)]);
    assert_eq!(total(&cache), Some(expected), "the total stays");
    cache.harvest(NOW, 1, |settled| panic!("credited twice: {settled:?}"));
}

#[test]
fn silent_flows_are_forgotten_slice_by_slice() {
    const FLOWS: u64 = 1000;
    let (mut cache, generations) = cache(FLOWS as usize);
    (0..FLOWS).for_each(|number| {
        install(&mut cache, number, &generations, NOW);
    });
    let live = cache.len();
    let later = NOW + 61 * SECOND;
    let spoke = look(&mut cache, 0, &generations, NOW + 30 * SECOND).is_some();
    let mut before = cache.len();
    let mut settled = 0;
    for _ in 0..cache.ways() / 16 {
        cache.age(later, 1, |_| settled += 1);
        assert!(before - cache.len() <= 16);
        before = cache.len();
    }
    assert!(spoke && cache.len() == 1 && settled == 0, "{} left", cache.len());
    assert_eq!(cache.stats().forgotten as usize, live - 1);
    cache.age(later + 60 * SECOND, usize::MAX, |counts| settled += counts.packets);
    assert_eq!((cache.len(), settled), (0, 1));
}

#[test]
fn a_flow_that_is_taken_out_in_the_middle_of_a_batch_is_gone() {
    let (mut cache, generations) = cache(1);
    install(&mut cache, 1, &generations, NOW);
    let mut probes = [probe(1), probe(1)];
    cache.prepare(&mut probes);
    let round = Round::new(generations.epoch(), NOW);
    assert!(cache.lookup(&probes[0], &round).is_some());
    let mut settled = None;
    assert!(cache.remove(&probe(1), 0, |counts| settled = Some(counts.packets)));
    assert_eq!(settled, Some(1));
    assert!(cache.lookup(&probes[1], &round).is_none());
    assert!(!cache.remove(&probe(1), 0, |_| ()));
    assert_eq!((cache.len(), cache.stats().removed), (0, 1));
}

#[test]
fn slow_flows_prove_themselves_across_harvests() {
    let (mut cache, generations) = cache(1);
    install(&mut cache, 1, &generations, NOW);
    for _ in 0..2 {
        look(&mut cache, 1, &generations, NOW);
        cache.harvest(NOW, 1, |_| ());
    }
    let mut established = false;
    cache.flows(NOW, 0, 1, |flow| established = flow.established);
    assert!(established);
}

#[test]
fn flows_that_send_one_packet_between_two_harvests_are_nominated() {
    let (mut cache, generations) = cache(1);
    cache.open_elsewhere(16, false, 20 * SECOND);
    install(&mut cache, 1, &generations, NOW);
    let turn = |cache: &mut FlowCache, seen| {
        if seen {
            look(cache, 1, &generations, NOW);
        }
        cache.harvest(NOW, 1, |_| ());
        cache.nominees().collect::<Vec<_>>()
    };
    assert!(turn(&mut cache, true).is_empty(), "not proven yet");
    let nominees = turn(&mut cache, true);
    assert_eq!(nominees.len(), 1);
    assert_eq!(turn(&mut cache, true), nominees, "still here, and still sending");
    assert!(turn(&mut cache, false).is_empty(), "silent");
    cache.moved(nominees[0], 5);
    assert!(turn(&mut cache, false).is_empty(), "elsewhere");
    assert_eq!(turn(&mut cache, true), nominees, "elsewhere, and here after all");
}

#[test]
fn a_flow_that_is_elsewhere_is_not_driven_out_before_its_stamp_tells_that_it_is_silent() {
    for (elsewhere, stays) in [(false, false), (true, true)] {
        let (mut cache, generations) = cache(1);
        cache.open_elsewhere(16, true, 20 * SECOND);
        install(&mut cache, 1, &generations, NOW);
        let place = cache.nominees().next().unwrap();
        (0..3).for_each(|_| assert!(look(&mut cache, 1, &generations, NOW).is_some()));
        if elsewhere {
            cache.moved(place, 5);
        }
        // Protected for 10 s; what was seen elsewhere may be told 20 s later.
        let flood = |cache: &mut FlowCache, now| {
            for number in 2..2000 {
                install(cache, number, &generations, now);
            }
            look(cache, 1, &generations, now).is_some()
        };
        assert_eq!(flood(&mut cache, NOW + 15 * SECOND), stays);
        assert!(!flood(&mut cache, NOW + 50 * SECOND));
    }
}

#[test]
fn a_silence_is_never_taken_for_shorter_than_it_was() {
    for silence in [SECOND, 3 * SECOND / 2, 5 * SECOND, 60 * SECOND, 300 * SECOND] {
        // Wherever in its tick the last packet came.
        for offset in (0..1 << 28).step_by((1 << 28) / 7) {
            let (mut cache, generations) = cache(1);
            let (seen, action) = (NOW + offset, action(1));
            let new = NewFlow { silence, ..new_flow(&action, Dependencies::NONE, 1) };
            cache.install(&probe(1), &new, &Round::new(generations.epoch(), seen), |_| ());
            let holds = |cache: &mut FlowCache, after| look(cache, 1, &generations, seen + after).is_some();
            assert!(!holds(&mut cache, silence + 1), "silent for longer than {silence}");
            assert_eq!(cache.stats().silent, 1);
            // Of what is told, two ticks are lost at most; above a minute more.
            let sure = silence.min(60 * SECOND) - (2 << 28);
            assert!(holds(&mut cache, sure), "not silent for {silence}");
            assert!(holds(&mut cache, 2 * sure), "the last packet counts");
        }
    }
}

#[test]
fn silences_that_stamps_cannot_tell_are_refused() {
    let (mut cache, generations) = cache(1);
    let action = action(1);
    for silence in [0, 1, (1 << 28) - 1] {
        let new = NewFlow { silence, ..new_flow(&action, Dependencies::NONE, 1) };
        let round = Round::new(generations.epoch(), NOW);
        assert_eq!(cache.install(&probe(1), &new, &round, |_| ()), Installed::Refused);
    }
    assert!(cache.is_empty() && cache.stats().refused == 3);
}

#[test]
fn more_different_actions_than_there_is_room_for_are_refused_and_their_room_comes_back() {
    let (mut cache, generations) = cache(20_000);
    let round = Round::new(generations.epoch(), NOW);
    let room = cache.templates() as u64;
    let put = |cache: &mut FlowCache, number: u64, kind: u64| {
        let action = Action { ethernet_source: [9, 9, 9, 9, (kind >> 8) as u8, kind as u8], ..action(1) };
        cache.install(&probe(number), &new_flow(&action, Dependencies::NONE, 1), &round, |_| ())
    };
    assert!((0..room).all(|number| put(&mut cache, 2 * number, number) == Installed::New));
    assert_eq!(put(&mut cache, 2 * room, room), Installed::Refused);
    assert_eq!((cache.stats().diverse, cache.stats().refused), (1, 0));
    // One that is known already, and one that goes.
    assert_eq!(put(&mut cache, 2 * room, room - 1), Installed::New);
    assert!(cache.remove(&probe(0), NOW, |_| ()));
    assert_eq!(put(&mut cache, 0, room), Installed::New);
    assert_eq!(cache.stats().diverse, 1);
}

#[test]
fn only_flows_that_somebody_is_told_of_and_that_were_seen_are_harvested() {
    let (mut cache, generations) = cache(1);
    for (number, credit) in [(1, 7), (2, 0), (3, 9)] {
        let action = action(1);
        let round = Round::new(generations.epoch(), NOW);
        cache.install(&probe(number), &new_flow(&action, Dependencies::NONE, credit), &round, |_| ());
        look(&mut cache, number, &generations, NOW);
    }
    let harvest = |cache: &mut FlowCache, now| {
        let mut told = Vec::new();
        cache.harvest(now, 1, |settled| told.push((settled.credits.0[0], settled.packets)));
        told.sort_unstable();
        told
    };
    assert_eq!(harvest(&mut cache, NOW), [(7, 1), (9, 1)]);
    for second in 1..10 {
        look(&mut cache, 1, &generations, NOW + second * SECOND);
        look(&mut cache, 2, &generations, NOW + second * SECOND);
        assert_eq!(harvest(&mut cache, NOW + second * SECOND + SECOND / 2), [(7, 1)]);
    }
    // Who is never told of still shows right totals.
    let mut shown = Vec::new();
    cache.flows(NOW, 0, 1, |flow| shown.push((flow.credits.0[0], flow.packets)));
    shown.sort_unstable();
    assert_eq!(shown, [(0, 10), (7, 10), (9, 1)]);
}

#[test]
fn totals_of_flows_that_nobody_is_told_of_run_over_too() {
    let (mut cache, generations) = cache(1);
    let action = action(1);
    let round = Round::new(generations.epoch(), NOW);
    cache.install(&probe(1), &new_flow(&action, Dependencies::NONE, 0), &round, |_| ());
    let mut probes = [probe(1)];
    cache.prepare(&mut probes);
    const PACKETS: u64 = 200_000;
    (0..PACKETS).for_each(|_| assert!(cache.lookup(&probes[0], &round).is_some()));
    cache.harvest(NOW, 1, |settled| panic!("{settled:?}"));
    let mut shown = (0, 0);
    cache.flows(NOW, 0, 1, |flow| shown = (flow.packets, flow.bytes));
    assert_eq!(shown, (PACKETS, PACKETS * u64::from(probes[0].packet_len())));
}
