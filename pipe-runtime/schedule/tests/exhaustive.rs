//! Tests every schedule for all small numbers of ranks, stages per rank and micro-batches. Legal
//! combinations are proved valid, and the others are refused for the right reason.

use pipe_schedule::{Limits, ScheduleKind, ScheduleKindError};

const RANKS: usize = 12;
const STAGES_PER_RANK: usize = 4;
const MICRO_BATCHES: usize = 48;

fn check(kind: ScheduleKind) {
    for ranks in 1..=RANKS {
        for stages_per_rank in 1..=STAGES_PER_RANK {
            for micro_batches in 1..=MICRO_BATCHES {
                check_one(kind, ranks, stages_per_rank, micro_batches);
            }
        }
    }
}

fn check_one(kind: ScheduleKind, ranks: usize, stages_per_rank: usize, micro_batches: usize) {
    let here = format!("{kind} on {ranks} ranks with {stages_per_rank} stages each and {micro_batches} micro-batches");
    let rounds = (micro_batches / ranks).max(1);
    let in_rounds = matches!(kind, ScheduleKind::Interleaved | ScheduleKind::ZbH1) && stages_per_rank > 1;
    match kind.schedule(ranks, stages_per_rank, micro_batches) {
        Ok(schedule) => {
            assert!(kind.stages_per_rank().is_none_or(|needed| needed == stages_per_rank), "{here}");
            assert!(!in_rounds || micro_batches.is_multiple_of(rounds), "{here}");
            assert!(kind != ScheduleKind::DualPipeV || micro_batches >= 2 * ranks, "{here}");
            assert_eq!(schedule.ranks.len(), ranks, "{here}");
            let limits = Limits::of(kind, ranks, stages_per_rank, micro_batches).unwrap();
            if let Err(faults) = schedule.validate(&limits) {
                panic!("{here}:\n{faults}\n{}", schedule.to_csv());
            }
        }
        Err(ScheduleKindError::StagesPerRank { needed, .. }) => assert_ne!(needed, stages_per_rank, "{here}"),
        Err(ScheduleKindError::Rounds { below, above, .. }) => {
            assert!(in_rounds && !micro_batches.is_multiple_of(rounds), "{here}");
            assert!(below < micro_batches && above > micro_batches, "{here}");
            assert!(kind.check(ranks, stages_per_rank, below).is_ok(), "{here}");
            assert!(kind.check(ranks, stages_per_rank, above).is_ok(), "{here}");
        }
        Err(ScheduleKindError::TooFewMicroBatches { needed, .. }) => {
            assert!(kind == ScheduleKind::DualPipeV && micro_batches < needed && needed == 2 * ranks, "{here}");
        }
        Err(other) => panic!("{here}: {other}"),
    }
}

#[test]
fn looped_bfs_and_gpipe() {
    check(ScheduleKind::LoopedBfs);
    let both = [ScheduleKind::GPipe, ScheduleKind::LoopedBfs].map(|kind| kind.schedule(3, 2, 5).unwrap());
    assert_eq!(both[0], both[1]);
}

#[test]
fn one_f_one_b() {
    check(ScheduleKind::OneFOneB);
}

#[test]
fn interleaved() {
    check(ScheduleKind::Interleaved);
}

#[test]
fn zb_h1() {
    check(ScheduleKind::ZbH1);
}

#[test]
fn zb_h2() {
    check(ScheduleKind::ZbH2);
}

#[test]
fn zbv() {
    check(ScheduleKind::Zbv);
}

#[test]
fn dualpipe_v() {
    check(ScheduleKind::DualPipeV);
}

#[test]
fn v_half() {
    check(ScheduleKind::VHalf);
}

#[test]
fn v_min() {
    check(ScheduleKind::VMin);
}

#[test]
fn nothing_is_refused_as_nothing() {
    for kind in ScheduleKind::ALL {
        for (ranks, stages_per_rank, micro_batches) in [(0, 1, 1), (1, 0, 1), (1, 1, 0)] {
            let error = kind.schedule(ranks, stages_per_rank, micro_batches).unwrap_err();
            assert!(matches!(error, ScheduleKindError::Zero { .. }), "{error}");
        }
    }
}

#[test]
fn what_would_not_fit_into_memory_is_refused() {
    for kind in ScheduleKind::ALL {
        let stages_per_rank = kind.stages_per_rank().unwrap_or(3);
        let huge = [(usize::MAX, stages_per_rank, usize::MAX), (1 << 20, stages_per_rank, 1 << 20)];
        for (ranks, stages_per_rank, micro_batches) in huge {
            let error = kind.schedule(ranks, stages_per_rank, micro_batches).unwrap_err();
            assert!(matches!(error, ScheduleKindError::TooLarge { .. }), "{error}");
            assert_eq!(kind.peak_in_flight(0, ranks, stages_per_rank, micro_batches), Err(error));
        }
    }
}

/// The last mini-batch of an epoch is smaller. It uses the same placement, and either a schedule
/// for its size or a longer one without the missing micro-batches.
#[test]
fn fewer_micro_batches_than_reckoned_with() {
    for kind in ScheduleKind::ALL {
        for (ranks, per_rank) in (1..=4).flat_map(|ranks| (1..=3).map(move |per_rank| (ranks, per_rank))) {
            let rank_of: Vec<_> = (0..ranks * per_rank).map(|stage| kind.rank_of(stage, ranks, per_rank)).collect();
            for chunks in (1..=16).filter(|&chunks| kind.check(ranks, per_rank, chunks).is_ok()) {
                for fewer in 1..=chunks {
                    let here = format!("{kind}, {ranks} x {per_rank}, {fewer} of {chunks}");
                    let schedule = kind.schedule_within(&rank_of, fewer, chunks).unwrap();
                    assert_eq!(schedule.micro_batches, fewer, "{here}");
                    let recomputed = schedule.clone().with_recompute(|stage, i| (stage + i) % 2 == 0);
                    let limits = Limits { rank_of: Some(rank_of.clone()), ..Limits::default() };
                    for schedule in [schedule, recomputed] {
                        schedule.validate(&limits).unwrap_or_else(|faults| panic!("{here}:\n{faults}"));
                    }
                }
            }
        }
    }
}
