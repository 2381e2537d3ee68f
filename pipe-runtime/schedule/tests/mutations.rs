//! Damages valid lists: every damage is found, and described in words.

use pipe_schedule::{
    Action, ActionKind, Fault, Limits, MessageFault, Missing, Op, Route, Schedule, ScheduleKind, Transport,
    ValidationError,
};

/// Every schedule with skips, and its declared limits.
fn all() -> impl Iterator<Item = (ScheduleKind, Schedule, Limits)> {
    let sizes = [(2, 4), (3, 6), (4, 8), (4, 9)];
    sizes.into_iter().flat_map(|(ranks, micro_batches)| {
        ScheduleKind::ALL.into_iter().filter_map(move |kind| {
            let stages_per_rank = kind.stages_per_rank().unwrap_or(2);
            let schedule = kind.schedule(ranks, stages_per_rank, micro_batches).ok()?;
            let limits = Limits::of(kind, ranks, stages_per_rank, micro_batches).ok()?;
            let last = schedule.stages - 1;
            Some((kind, schedule, limits.with_skip(0, last).with_skip(0, 1)))
        })
    })
}

/// Damages each schedule's lists in each place; `caught` says whether the right fault is among
/// those that are found.
fn damage(
    places: impl Fn(&Schedule) -> Vec<(usize, usize)>,
    damage: impl Fn(&mut Schedule, usize, usize) -> Action,
    caught: impl Fn(&Fault, Action) -> bool,
) {
    let mut damages = 0;
    for (kind, schedule, limits) in all() {
        schedule.validate(&limits).unwrap();
        for (rank, number) in places(&schedule) {
            let mut damaged = schedule.clone();
            let action = damage(&mut damaged, rank, number);
            let Err(ValidationError { faults, .. }) = damaged.validate(&limits) else {
                panic!("{kind}: `{action}` is not caught\n{}", damaged.to_csv())
            };
            assert!(faults.iter().any(|fault| caught(fault, action)), "{kind}, `{action}`: {faults:?}");
            damages += 1;
        }
    }
    assert!(damages > 100, "only {damages}");
}

fn everywhere(schedule: &Schedule) -> Vec<(usize, usize)> {
    let of_rank = |(rank, list): (usize, &Vec<Action>)| (0..list.len()).map(move |number| (rank, number)).collect();
    schedule.ranks.iter().enumerate().flat_map(|rank| -> Vec<_> { of_rank(rank) }).collect()
}

/// The places of the actions for which `other` gives an action that is in the same list. `other`
/// gives the action that must come before.
fn pairs(schedule: &Schedule, other: impl Fn(Action) -> Option<Action>) -> Vec<(usize, usize)> {
    let has = |&(rank, number): &(usize, usize)| {
        other(schedule.ranks[rank][number]).is_some_and(|other| schedule.ranks[rank].contains(&other))
    };
    everywhere(schedule).into_iter().filter(has).collect()
}

/// Moves an action right before `other`, which must come before it.
fn move_before(schedule: &mut Schedule, rank: usize, number: usize, other: Action) -> Action {
    let list = &mut schedule.ranks[rank];
    let action = list.remove(number);
    let at = list.iter().position(|&earlier| earlier == other).unwrap();
    list.insert(at, action);
    action
}

#[test]
fn the_same_action_twice() {
    damage(
        everywhere,
        |schedule, rank, number| {
            let action = schedule.ranks[rank][number];
            schedule.ranks[rank].push(action);
            action
        },
        |fault, damaged| matches!(fault, Fault::Twice { action, .. } if *action == damaged),
    );
}

#[test]
fn the_same_action_on_two_ranks() {
    damage(
        everywhere,
        |schedule, rank, number| {
            let action = schedule.ranks[rank][number];
            let other = (rank + 1) % schedule.ranks.len();
            schedule.ranks[other].insert(0, action);
            action
        },
        |fault, damaged| matches!(fault, Fault::Elsewhere { action, .. } if *action == damaged),
    );
}

#[test]
fn an_action_on_the_wrong_rank() {
    damage(
        everywhere,
        |schedule, rank, number| {
            let action = schedule.ranks[rank].remove(number);
            let other = (rank + 1) % schedule.ranks.len();
            schedule.ranks[other].push(action);
            action
        },
        |fault, damaged| matches!(fault, Fault::Elsewhere { action, .. } if *action == damaged),
    );
}

#[test]
fn a_micro_batch_out_of_range() {
    damage(
        everywhere,
        |schedule, rank, number| {
            let micro_batches = schedule.micro_batches;
            let action = &mut schedule.ranks[rank][number];
            action.micro_batch += micro_batches;
            *action
        },
        |fault, damaged| matches!(fault, Fault::OutOfRange { action, .. } if *action == damaged),
    );
}

#[test]
fn a_stage_out_of_range() {
    damage(
        everywhere,
        |schedule, rank, number| {
            let action = &mut schedule.ranks[rank][number];
            action.stage = usize::MAX;
            *action
        },
        |fault, damaged| matches!(fault, Fault::OutOfRange { action, .. } if *action == damaged),
    );
}

#[test]
fn a_missing_action() {
    damage(
        everywhere,
        |schedule, rank, number| schedule.ranks[rank].remove(number),
        |fault, damaged| matches!(fault, Fault::Missing { action, .. } if *action == damaged),
    );
}

#[test]
fn a_missing_micro_batch() {
    damage(
        |schedule| (0..schedule.micro_batches).map(|i| (0, i)).collect(),
        |schedule, _, micro_batch| {
            schedule.ranks.iter_mut().for_each(|list| list.retain(|action| action.micro_batch != micro_batch));
            Action::forward(0, micro_batch)
        },
        |fault, damaged| matches!(fault, Fault::Missing { action, why: Missing::Forward } if *action == damaged),
    );
}

#[test]
fn a_backward_whole_and_split() {
    let whole = |action: Action| (action.to_string().contains('W')).then_some(action);
    damage(
        |schedule| pairs(schedule, whole),
        |schedule, rank, number| {
            let Action { stage, micro_batch, .. } = schedule.ranks[rank][number];
            schedule.ranks[rank].push(Action::backward(stage, micro_batch));
            Action::backward(stage, micro_batch)
        },
        |fault, damaged| matches!(fault, Fault::WholeAndSplit { whole, .. } if *whole == damaged),
    );
}

#[test]
fn the_parameters_before_the_inputs() {
    let inputs = |action: Action| {
        let weight = Action::backward_weight(action.stage, action.micro_batch);
        (action == weight).then(|| Action::backward_input(action.stage, action.micro_batch))
    };
    damage(
        |schedule| pairs(schedule, inputs),
        |schedule, rank, number| {
            let other = inputs(schedule.ranks[rank][number]).unwrap();
            move_before(schedule, rank, number, other)
        },
        |fault, damaged| matches!(fault, Fault::Early { action, .. } if *action == damaged),
    );
}

#[test]
fn the_backward_before_the_forward() {
    let forward = |action: Action| {
        let forward = Action::forward(action.stage, action.micro_batch);
        (action != forward).then_some(forward)
    };
    damage(
        |schedule| pairs(schedule, forward),
        |schedule, rank, number| {
            let other = forward(schedule.ranks[rank][number]).unwrap();
            move_before(schedule, rank, number, other)
        },
        |fault, damaged| matches!(fault, Fault::Early { action, .. } if *action == damaged),
    );
}

#[test]
fn a_recomputation_after_its_backward_or_before_its_forward() {
    let schedule = ScheduleKind::ZbH1.schedule(2, 1, 3).unwrap().with_recompute(|_, i| i < 2);
    schedule.validate(&Limits::default()).unwrap();
    let moved = |by: isize| {
        let mut damaged = schedule.clone();
        let at = damaged.ranks[0].iter().position(|&action| action == Action::recompute(0, 1)).unwrap();
        let action = damaged.ranks[0].remove(at);
        damaged.ranks[0].insert(at.strict_add_signed(by), action);
        damaged.validate(&Limits::default()).unwrap_err().to_string()
    };
    assert_eq!(moved(1), "`0R1` comes after `0I1` on rank 0, which it is for");
    assert!(moved(-5).contains("`0R1` comes before `0F1` on rank 0, which it needs"), "{}", moved(-5));
}

/// Rank 0 needs the gradient of one micro-batch before it starts another; the rank of stage 1 needs
/// the reverse.
#[test]
fn a_cycle_between_ranks() {
    for (kind, mut schedule, limits) in all() {
        let at = |list: &[Action], action| list.iter().position(|&other| other == action);
        let starts_backward = |action: &Action| matches!(action.kind, ActionKind::Backward | ActionKind::BackwardInput);
        let backwards = |list: &[Action], stage| {
            let of_stage = |action: &&Action| action.stage == stage && starts_backward(action);
            list.iter().filter(of_stage).copied().collect::<Vec<_>>()
        };
        let of_stage_0 = backwards(&schedule.ranks[0], 0);
        let (one, other) = (of_stage_0[0], of_stage_0[of_stage_0.len() - 1]);

        let list = &mut schedule.ranks[0];
        let forward = list.remove(at(list, Action::forward(0, other.micro_batch)).unwrap());
        list.insert(at(list, one).unwrap() + 1, forward);
        let rank = limits.rank_of.as_ref().unwrap()[1];
        let list = &mut schedule.ranks[rank];
        let gradient = backwards(list, 1).into_iter().find(|action| action.micro_batch == one.micro_batch).unwrap();
        let forward = list.remove(at(list, Action::forward(1, other.micro_batch)).unwrap());
        list.insert(at(list, gradient).unwrap(), forward);

        let faults = schedule.validate(&Limits { peak_in_flight: None, ..limits }).unwrap_err().faults;
        assert!(matches!(&faults[..], [Fault::Cycle(cycle)] if !cycle.0.is_empty()), "{kind}: {faults:?}");
    }
}

#[test]
fn a_cycle_says_who_waits_for_whom() {
    let crossed: Schedule = "0F0,0B0,0F1,0B1\n1F1,1B1,1F0,1B0".parse().unwrap();
    assert_eq!(
        crossed.validate(&Limits::default()).unwrap_err().to_string(),
        "these wait for each other: rank 0 cannot go on to `0B0` before `1B0`; rank 1 cannot go on to `1F1` before `0F1`"
    );
}

#[test]
fn more_in_flight_than_declared() {
    for (kind, schedule, limits) in all() {
        let declared = limits.peak_in_flight.clone().unwrap();
        for (rank, &declared) in declared.iter().enumerate() {
            let mut less = limits.clone();
            less.peak_in_flight.as_mut().unwrap()[rank] = schedule.peak_in_flight()[rank] - 1;
            let faults = schedule.validate(&less).unwrap_err().faults;
            assert!(
                matches!(faults[..], [Fault::Peak { rank: at, peak, .. }] if at == rank && peak <= declared),
                "{kind}"
            );
        }
        let too_few = Limits { peak_in_flight: Some(declared[1..].to_vec()), ..limits };
        let faults = schedule.validate(&too_few).unwrap_err().faults;
        assert!(faults.contains(&Fault::Peaks { declared: declared.len() - 1, ranks: declared.len() }), "{kind}");
    }
    // GPipe's order with the declared memory of 1F1B.
    let gpipe = ScheduleKind::GPipe.schedule(2, 1, 4).unwrap();
    let error = gpipe.validate(&Limits::of(ScheduleKind::OneFOneB, 2, 1, 4).unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "rank 0 has 4 pairs of a stage and a micro-batch in flight from `0F3` on, and 2 are declared\n\
         rank 1 has 4 pairs of a stage and a micro-batch in flight from `1F3` on, and 1 are declared"
    );
}

#[test]
fn a_device_with_fewer_stages_than_the_others() {
    // A list over uneven stages is valid ...
    let uneven = ScheduleKind::GPipe.schedule_on(&[0, 1, 0], 3).unwrap();
    uneven.validate(&Limits::default().with_skip(0, 2)).unwrap();
    // ... unless every rank must have the same number.
    let limits = Limits { stages_per_rank: Some(2), ..Limits::default() };
    assert_eq!(uneven.validate(&limits).unwrap_err().faults, [Fault::FewerStages { rank: 1, stages: 1, needed: 2 }]);
    for kind in ScheduleKind::ALL.into_iter().filter(|&kind| kind != ScheduleKind::GPipe) {
        let error = kind.schedule_on(&[0, 1, 0], 4).unwrap_err().to_string();
        assert!(error.contains("rank 1 has 1 where another has 2"), "{error}");
    }
}

#[test]
fn stages_on_other_ranks_than_the_methods() {
    let error = ScheduleKind::Zbv.schedule_on(&[0, 1, 0, 1], 4).unwrap_err().to_string();
    assert_eq!(
        error,
        "`zbv` has stage 2 on rank 1, not on rank 0: the stages go from the first rank to the last, then back to the first"
    );
    let error = ScheduleKind::Interleaved.schedule_on(&[0, 1, 1, 0], 4).unwrap_err().to_string();
    assert!(error.starts_with("`interleaved` has stage 2 on rank 0, not on rank 1"), "{error}");
    let error = ScheduleKind::OneFOneB.schedule_on(&[0, 2], 4).unwrap_err().to_string();
    assert_eq!(error, "`1f1b` has no stage on rank 1: number the ranks without gaps from 0");
    assert!(ScheduleKind::Zbv.schedule_on(&[0, 1, 1, 0], 4).is_ok());
    assert!(ScheduleKind::OneFOneB.schedule_on(&[usize::MAX], 4).is_err());
    let error = ScheduleKind::GPipe.schedule_on(&[0, 0, 2], 4).unwrap_err().to_string();
    assert_eq!(error, "`gpipe` has no stage on rank 1: number the ranks without gaps from 0");
}

#[test]
fn too_few_or_uneven_micro_batches() {
    let message = |kind: ScheduleKind, ranks, stages_per_rank, micro_batches| {
        kind.schedule(ranks, stages_per_rank, micro_batches).unwrap_err().to_string()
    };
    assert_eq!(
        message(ScheduleKind::DualPipeV, 4, 2, 7),
        "`dualpipe_v` needs at least 8 micro-batches on 4 ranks, not 7: use 8 micro-batches, or `gpipe`, `1f1b` or `zbv`"
    );
    assert_eq!(
        message(ScheduleKind::Interleaved, 4, 2, 9),
        "`interleaved` goes through the micro-batches in 2 rounds on 4 ranks, and 9 micro-batches are not a multiple of 2: use 8 or 10"
    );
    assert_eq!(
        message(ScheduleKind::OneFOneB, 4, 2, 9),
        "`1f1b` needs exactly 1 stage per rank, not 2: use 4 stages on 4 ranks, or `interleaved`, `looped_bfs` or `zb_h1`"
    );
    assert_eq!(
        message(ScheduleKind::Zbv, 4, 1, 9),
        "`zbv` needs exactly 2 stages per rank, not 1: use 8 stages on 4 ranks, or `1f1b`, `zb_h1` or `zb_h2`"
    );
}

#[test]
fn a_skip_that_cannot_be_served() {
    let schedule = ScheduleKind::OneFOneB.schedule(3, 1, 4).unwrap();
    for (from, to) in [(1, 1), (2, 1), (0, 3), (usize::MAX, 0)] {
        let faults = schedule.validate(&Limits::default().with_skip(from, to)).unwrap_err().faults;
        assert_eq!(faults, [Fault::Unserved { from, to, stages: 3 }]);
    }
}

#[test]
fn more_of_a_skip_in_transit_than_declared() {
    let schedule = ScheduleKind::OneFOneB.schedule(4, 1, 8).unwrap();
    let skip = |transit| Limits { skips: vec![Route { from: 0, to: 3, transit: Some(transit) }], ..Limits::default() };
    assert!(schedule.validate(&skip(4)).is_ok());
    assert_eq!(
        schedule.validate(&skip(3)).unwrap_err().to_string(),
        "up to 4 micro-batches' values of the skip from stage 0 to stage 3 may wait, and 3 are declared"
    );
}

#[test]
fn a_list_that_is_far_too_short_is_not_counted_out() {
    let huge = Schedule { stages: usize::MAX, micro_batches: usize::MAX, ranks: vec![vec![Action::forward(0, 0)]] };
    let error = huge.validate(&Limits::default()).unwrap_err();
    assert!(error.faults.len() < 200 && error.more > 1 << 40);
    // More faults of another kind do not overflow the count of what is not listed.
    let list = |micro_batch| (0..100).map(|stage| Action::forward(stage, micro_batch)).collect();
    let elsewhere = Schedule { stages: usize::MAX, micro_batches: usize::MAX, ranks: vec![list(0), list(1)] };
    assert_eq!(elsewhere.validate(&Limits::default()).unwrap_err().more, usize::MAX);
    let nothing = Schedule { stages: usize::MAX, micro_batches: 0, ranks: vec![] };
    assert_eq!(nothing.validate(&Limits::default()).unwrap_err().faults.len(), 1);
    assert_eq!(nothing.to_string(), "");
}

/// Every damage to the messages of every schedule.
#[test]
fn damaged_messages() {
    let mut late = 0;
    for (kind, schedule, _) in all() {
        let skips = [(0, schedule.stages - 1), (0, 1)];
        let lowered = schedule.lower(&skips);
        let both = [Transport::Rendezvous, Transport::InOrder];
        both.iter().for_each(|&transport| lowered.check(transport).unwrap());
        for rank in 0..lowered.ranks.len() {
            for number in 0..lowered.ranks[rank].len() {
                let op = lowered.ranks[rank][number];
                let caught = |change: &dyn Fn(&mut Vec<Op>)| {
                    let mut damaged = lowered.clone();
                    change(&mut damaged.ranks[rank]);
                    both.map(|transport| damaged.check(transport).err().unwrap_or_default())
                };
                let found = |faults: [Vec<MessageFault>; 2], fault: &dyn Fn(&MessageFault) -> bool| {
                    assert!(faults.iter().all(|faults| faults.iter().any(fault)), "{kind}, {op:?}: {faults:?}");
                };
                match op {
                    Op::Send(sent) => {
                        found(
                            caught(&|list| _ = list.remove(number)),
                            &|fault| matches!(fault, MessageFault::NeverSent { message, .. } if *message == sent),
                        );
                        found(
                            caught(&|list| list.push(op)),
                            &|fault| matches!(fault, MessageFault::SentTwice { message, .. } if *message == sent),
                        );
                    }
                    Op::Receive(received) => {
                        found(
                            caught(&|list| _ = list.remove(number)),
                            &|fault| matches!(fault, MessageFault::NeverReceived { message, .. } if *message == received),
                        );
                        found(
                            caught(&|list| list.push(op)),
                            &|fault| matches!(fault, MessageFault::ReceivedTwice { message, .. } if *message == received),
                        );
                        let moved = caught(&|list| {
                            let op = list.remove(number);
                            list.push(op);
                        });
                        found(
                            moved,
                            &|fault| matches!(fault, MessageFault::Unreceived { message, .. } if *message == received),
                        );
                    }
                    Op::Run(_) => {}
                }
                // Two messages from the same peer are exchanged, which neither transport allows.
                if let (Op::Receive(first), Some(&Op::Receive(second))) = (op, lowered.ranks[rank].get(number + 1))
                    && lowered.rank_of[&first.from] == lowered.rank_of[&second.from]
                {
                    let faults = caught(&|list| list.swap(number, number + 1));
                    found(faults, &|fault| matches!(fault, MessageFault::OutOfOrder { .. }));
                }
                // A send is moved before a receive that the other end expects first. Only the
                // transport with one channel per direction allows that.
                if let (Op::Receive(first), Some(&Op::Send(second))) = (op, lowered.ranks[rank].get(number + 1))
                    && lowered.rank_of[&first.from] == lowered.rank_of[&second.to]
                {
                    let [rendezvous, in_order] = caught(&|list| list.swap(number, number + 1));
                    assert!(rendezvous.is_empty(), "{kind}: {rendezvous:?}");
                    assert!(matches!(in_order[..], [MessageFault::OutOfOrder { .. }]), "{kind}: {in_order:?}");
                    late += 1;
                }
            }
        }
    }
    assert!(late > 50, "only {late}");
}

#[test]
fn what_the_lower_rank_posts_first() {
    let lowered = ScheduleKind::OneFOneB.schedule(2, 1, 3).unwrap().lower(&[]);
    assert_eq!(
        lowered.to_string(),
        "rank 0  0F0 >1.0 0F1 <1.0 >1.1 0B0 0F2 <1.1 >1.2 0B1 <1.2 0B2\n\
         rank 1  <0.0 1F0 1B0 >0.0 <0.1 1F1 1B1 >0.1 <0.2 1F2 1B2 >0.2\n"
    );
}
