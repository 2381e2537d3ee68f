//! Compares the simulator with the closed formulas. They agree exactly, because all times are whole
//! numbers.

use pipe_schedule::{ActionKind, Costs, ScheduleKind, simulate};

const RANKS: std::ops::RangeInclusive<usize> = 2..=16;
const MICRO_BATCHES: std::ops::RangeInclusive<usize> = 1..=64;
/// Times of the forward, the backward for the inputs and the backward for the parameters of one
/// stage: equal ones, the table's (1, 1.2, 0.8) in fifths, and others, so that each formula is
/// tested inside and at the edge of its range.
const COSTS: [[u32; 3]; 5] = [[1, 1, 1], [5, 6, 4], [3, 2, 2], [2, 1, 3], [1, 3, 2]];

/// Tests the schedule's formula wherever it holds, and that there is one.
fn check(kind: ScheduleKind, stages_per_rank: &[usize]) {
    let mut checked = 0;
    for ranks in RANKS {
        for &stages_per_rank in stages_per_rank {
            for micro_batches in MICRO_BATCHES {
                let Ok(schedule) = kind.schedule(ranks, stages_per_rank, micro_batches) else { continue };
                for costs in COSTS {
                    let of_rank = costs.map(|time| f64::from(time) * stages_per_rank as f64);
                    let Some(idle) = kind.idle(ranks, stages_per_rank, micro_batches, of_rank) else { continue };
                    let [f, i, w] = costs.map(f64::from);
                    let simulation = simulate(&schedule, &Costs::equal(ranks * stages_per_rank, f, i, w)).unwrap();
                    let here = || format!("{kind}, p = {ranks}, v = {stages_per_rank}, m = {micro_batches}, {costs:?}");
                    let work = micro_batches as f64 * of_rank.iter().sum::<f64>();
                    assert_eq!(simulation.period() - work, idle, "{}", here());
                    let within = (0..ranks).map(|rank| simulation.idle_within(rank)).fold(0., f64::max);
                    assert_eq!(within, idle, "{}", here());
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 300, "{kind}: only {checked} cases have a formula");
}

/// Tests that exactly as many pairs are in flight as declared, with enough micro-batches to fill
/// the pipeline and with more.
fn check_peak(kind: ScheduleKind, stages_per_rank: usize, peak: impl Fn(usize, usize, usize) -> usize) {
    for ranks in RANKS {
        for micro_batches in [2 * ranks, 3 * ranks, 4 * ranks] {
            let schedule = kind.schedule(ranks, stages_per_rank, micro_batches).unwrap();
            for (rank, in_flight) in schedule.peak_in_flight().into_iter().enumerate() {
                let here = format!("{kind}, p = {ranks}, v = {stages_per_rank}, m = {micro_batches}, rank {rank}");
                assert_eq!(kind.peak_in_flight(rank, ranks, stages_per_rank, micro_batches), Ok(in_flight), "{here}");
                assert_eq!(in_flight, peak(ranks, rank, micro_batches), "{here}");
            }
        }
    }
}

#[test]
fn gpipe() {
    check(ScheduleKind::GPipe, &[1, 2, 3]);
    check_peak(ScheduleKind::GPipe, 1, |_, _, m| m);
}

#[test]
fn looped_bfs() {
    check(ScheduleKind::LoopedBfs, &[1, 2, 3, 4]);
    check_peak(ScheduleKind::LoopedBfs, 2, |_, _, m| 2 * m);
}

#[test]
fn one_f_one_b() {
    check(ScheduleKind::OneFOneB, &[1]);
    check_peak(ScheduleKind::OneFOneB, 1, |p, r, _| p - r);
}

#[test]
fn interleaved() {
    check(ScheduleKind::Interleaved, &[1, 2, 3, 4]);
    check_peak(ScheduleKind::Interleaved, 3, |p, r, _| 2 * p + 2 * (p - 1 - r) + 1);
}

#[test]
fn zb_h1() {
    check(ScheduleKind::ZbH1, &[1, 2, 3]);
    check_peak(ScheduleKind::ZbH1, 1, |p, _, _| p);
    check_peak(ScheduleKind::ZbH1, 3, |p, _, _| 3 * p);
}

#[test]
fn zb_h2() {
    check(ScheduleKind::ZbH2, &[1]);
    check_peak(ScheduleKind::ZbH2, 1, |p, _, _| 2 * p - 1);
}

#[test]
fn zbv() {
    check(ScheduleKind::Zbv, &[2]);
    check_peak(ScheduleKind::Zbv, 2, |p, _, _| 2 * p);
}

#[test]
fn dualpipe_v() {
    check(ScheduleKind::DualPipeV, &[2]);
    check_peak(ScheduleKind::DualPipeV, 2, |p, _, _| 2 * p + 1);
}

/// Published as half of 1F1B's idle time and memory, up to terms of one micro-batch. Neither is
/// exact, but for equal costs the idle time is never more than half of 1F1B's.
#[test]
fn v_half() {
    check(ScheduleKind::VHalf, &[2]);
    for ranks in 3..=16 {
        let idle = ScheduleKind::VHalf.idle(ranks, 2, 64, [1.; 3]).unwrap();
        assert!(idle <= ScheduleKind::OneFOneB.idle(ranks, 1, 64, [1.; 3]).unwrap() / 2.);
        check_greedy_peak(ScheduleKind::VHalf, ranks, ranks / 2 * 2 + 2);
    }
}

/// Published as two thirds of 1F1B's idle time and a third of its memory, up to such terms.
#[test]
fn v_min() {
    check(ScheduleKind::VMin, &[2]);
    for ranks in 3..=16 {
        let idle = ScheduleKind::VMin.idle(ranks, 2, 64, [1.; 3]).unwrap();
        assert!(idle <= ScheduleKind::OneFOneB.idle(ranks, 1, 64, [1.; 3]).unwrap() * 2. / 3.);
        check_greedy_peak(ScheduleKind::VMin, ranks, (ranks + 1) / 3 * 2 + 2);
    }
}

/// Tests that the rank with the most pairs in flight has the declared peak. Others may have fewer.
fn check_greedy_peak(kind: ScheduleKind, ranks: usize, peak: usize) {
    let schedule = kind.schedule(ranks, 2, 3 * ranks).unwrap();
    assert_eq!(schedule.peak_in_flight().into_iter().max(), Some(peak), "{kind}, p = {ranks}");
    assert_eq!(kind.peak_in_flight(0, ranks, 2, 3 * ranks), Ok(peak), "{kind}, p = {ranks}");
}

/// Even without idle time, a single step is longer by the time in which the first micro-batch
/// reaches the last rank.
#[test]
fn the_skew_of_a_single_step() {
    for ranks in RANKS {
        let work = 3. * 64.;
        let skew = |kind: ScheduleKind, stages_per_rank: usize| {
            let schedule = kind.schedule(ranks, stages_per_rank, 64).unwrap();
            let simulation = simulate(&schedule, &Costs::equal(ranks * stages_per_rank, 1., 1., 1.)).unwrap();
            simulation.makespan - work * stages_per_rank as f64
        };
        assert_eq!(skew(ScheduleKind::ZbH2, 1), (ranks - 1) as f64);
        // Half of (p - 1) F, where F is the time of both stages of a rank.
        assert_eq!(skew(ScheduleKind::Zbv, 2), (ranks - 1) as f64);
    }
}

#[test]
fn zbv_idles_little_for_costs_close_to_equal() {
    for ranks in RANKS {
        let of_rank = [10., 12., 8.];
        assert_eq!(ScheduleKind::Zbv.idle(ranks, 2, 64, of_rank), Some(4. * (ranks - 1) as f64));
    }
}

/// If communication is free, skips delay nothing.
#[test]
fn skips_leave_the_makespan_as_it_is() {
    for kind in ScheduleKind::ALL {
        let stages_per_rank = kind.stages_per_rank().unwrap_or(2);
        let schedule = kind.schedule(4, stages_per_rank, 12).unwrap();
        let costs = Costs::equal(4 * stages_per_rank, 5., 6., 4.);
        let plain = simulate(&schedule, &costs).unwrap();
        let skipping = simulate(&schedule, &costs.with_skip(0, 4 * stages_per_rank - 1).with_skip(1, 3)).unwrap();
        assert_eq!(plain.ranks, skipping.ranks, "{kind}");
    }
}

/// Counts skips in transit from the first stage to the last, for equal costs.
#[test]
fn how_many_skips_are_in_transit() {
    for ranks in RANKS {
        let transit = |kind: ScheduleKind, stages_per_rank: usize| {
            let schedule = kind.schedule(ranks, stages_per_rank, 64).unwrap();
            let costs = Costs::equal(ranks * stages_per_rank, 1., 1., 1.).with_skip(0, ranks * stages_per_rank - 1);
            simulate(&schedule, &costs).unwrap().in_transit[0]
        };
        assert_eq!(transit(ScheduleKind::OneFOneB, 1), ranks - 1);
        assert_eq!(transit(ScheduleKind::Zbv, 2), 2 * ranks - 1);
        // The same for any costs.
        let most = |kind: ScheduleKind, stages_per_rank: usize| {
            let order = kind.schedule(ranks, stages_per_rank, 64).unwrap().order().unwrap();
            order.in_transit(ActionKind::Forward, 0, ranks * stages_per_rank - 1)
        };
        assert_eq!((most(ScheduleKind::OneFOneB, 1), most(ScheduleKind::Zbv, 2)), (ranks, 2 * ranks - 1));
    }
}
