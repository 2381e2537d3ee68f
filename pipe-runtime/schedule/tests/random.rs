//! Random schedules: placements, orders, mixtures of whole and split backwards, recomputations,
//! skips.

mod any_schedule;

use any_schedule::schedule;
use pipe_schedule::{Action, ActionKind, Costs, Limits, Schedule, simulate};
use proptest::prelude::*;
use proptest::sample::Index;

fn any_schedule() -> impl Strategy<Value = Schedule> {
    let rank_of = prop::collection::vec(0..4_usize, 1..7);
    let styles = prop::collection::vec(0..4_u8, 1..12);
    let choices = prop::collection::vec(any::<Index>(), 1..60);
    (rank_of, 1..5_usize, styles, choices)
        .prop_map(|(rank_of, m, styles, choices)| schedule(&rank_of, m, &styles, &choices))
}

fn any_action() -> impl Strategy<Value = Action> {
    (0..5_usize, 0..4_usize, 0..4_usize).prop_map(|(kind, stage, i)| Action::new(ActionKind::ALL[kind], stage, i))
}

fn skips(stages: usize) -> Vec<(usize, usize)> {
    (0..stages).flat_map(|to| (0..to).map(move |from| (from, to))).collect()
}

proptest! {
    #[test]
    fn what_can_be_run_is_valid_with_every_skip(schedule in any_schedule()) {
        let skips = skips(schedule.stages);
        let limits = skips.iter().fold(Limits::default(), |limits, &(from, to)| limits.with_skip(from, to));
        let limits = Limits { peak_in_flight: Some(schedule.peak_in_flight()), ..limits };
        if let Err(faults) = schedule.validate(&limits) {
            return Err(TestCaseError::fail(format!("{faults}\n{}", schedule.to_csv())));
        }
        prop_assert_eq!(&schedule.to_csv().parse::<Schedule>().unwrap().ranks, &schedule.ranks);
    }

    #[test]
    fn a_simulation_keeps_every_order(schedule in any_schedule(), times in prop::array::uniform4(0..5_u8)) {
        let [f, i, w, transfer] = times.map(f64::from);
        let mut costs = Costs::equal(schedule.stages, f, i, w);
        costs.boundaries.iter_mut().for_each(|boundary| boundary.time = transfer);
        for (from, to) in skips(schedule.stages) {
            costs = costs.with_skip(from, to);
        }
        let simulation = simulate(&schedule, &costs).unwrap();
        let order = schedule.order().unwrap();
        let mut spans = std::collections::BTreeMap::new();
        for span in simulation.ranks.iter().flatten() {
            spans.insert(span.action, (span.start, span.end));
        }
        for (rank, list) in simulation.ranks.iter().enumerate() {
            prop_assert!(list.windows(2).all(|pair| pair[0].end <= pair[1].start));
            prop_assert!(list.iter().map(|span| span.action).eq(schedule.ranks[rank].iter().copied()));
            prop_assert!(simulation.idle_within(rank) >= 0. && simulation.idle(rank) >= 0.);
        }
        for step in &order.steps {
            for &earlier in &step.after {
                let (_, end) = spans[&order.steps[earlier].action];
                prop_assert!(end + transfer <= spans[&step.action].0);
            }
        }
        // The simulation never exceeds the peaks that follow from the lists, unless forwards take
        // no time, so that all of them happen at once.
        for (skip, &in_transit) in costs.skips.iter().zip(&simulation.in_transit) {
            prop_assert!(f == 0. || in_transit <= order.in_transit(ActionKind::Forward, skip.from, skip.to));
        }
        let held: Vec<_> = simulation.memory.iter().map(|&memory| memory as usize).collect();
        let recomputes = schedule.actions().any(|action| action.kind == ActionKind::Recompute);
        // Times must not be zero for the two counts to agree, because a value that is held for no
        // time does not count in the simulation.
        prop_assert!(recomputes || f * i * w == 0. || held == simulation.peak_in_flight, "{:?} {:?}", held, simulation.peak_in_flight);
    }

    /// Any lists: nothing panics, and valid ones have an order.
    #[test]
    fn whatever_is_valid_can_be_run(
        ranks in prop::collection::vec(prop::collection::vec(any_action(), 0..12), 0..4),
        stages in 0..5_usize,
        micro_batches in 0..5_usize,
    ) {
        let schedule = Schedule { stages, micro_batches, ranks };
        let valid = schedule.validate(&Limits::default().with_skip(0, 1)).is_ok();
        prop_assert!(!valid || schedule.order().is_ok());
        let _ = simulate(&schedule, &Costs::equal(stages, 1., 1., 1.));
        let _ = (schedule.to_string(), schedule.peak_in_flight(), schedule.peak_in_flight_by_stage());
        for transport in [pipe_schedule::Transport::Rendezvous, pipe_schedule::Transport::InOrder] {
            let _ = schedule.lower(&[(0, 1), (1, 0), (7, 9)]).check(transport);
        }
    }

    /// Exchanges two neighbours of a valid list: either their order does not matter, or it is
    /// reported; nothing hangs.
    #[test]
    fn neighbours_turned_round(schedule in any_schedule(), rank in any::<Index>(), number in any::<Index>()) {
        let mut damaged = schedule;
        let list = &mut damaged.ranks[..];
        let list = &mut list[rank.index(list.len())];
        prop_assume!(list.len() > 1);
        let number = number.index(list.len() - 1);
        list.swap(number, number + 1);
        let valid = damaged.validate(&Limits::default());
        prop_assert_eq!(valid.is_ok(), damaged.order().is_ok(), "{:?}", valid);
    }

    #[test]
    fn no_text_makes_it_panic(text in "[0-9FBIWR,\n x]{0,60}") {
        if let Ok(schedule) = text.parse::<Schedule>() {
            let _ = schedule.validate(&Limits::default());
            let _ = schedule.to_string();
        }
        let _ = text.parse::<pipe_schedule::ScheduleKind>();
    }
}
