//! The simulator against the closed formulas, exactly: all times are whole numbers.

use pipe_schedule::{Costs, Kind, Method, simulate};

const RANKS: std::ops::RangeInclusive<usize> = 2..=16;
const MICRO_BATCHES: std::ops::RangeInclusive<usize> = 1..=64;
/// Forward, backward for the inputs, backward for the parameters of one stage: equal ones, the table's (1, 1.2, 0.8) in fifths, and others, so that
/// each formula meets costs inside and at the edge of where it holds.
const COSTS: [[u32; 3]; 5] = [[1, 1, 1], [5, 6, 4], [3, 2, 2], [2, 1, 3], [1, 3, 2]];

/// Every formula that there is for the method, and that there is one at all.
fn check(method: Method, chunks: &[usize]) {
    let mut checked = 0;
    for ranks in RANKS {
        for &chunks in chunks {
            for micro_batches in MICRO_BATCHES {
                let Ok(schedule) = method.schedule(ranks, chunks, micro_batches) else { continue };
                for costs in COSTS {
                    let of_rank = costs.map(|time| f64::from(time) * chunks as f64);
                    let Some(idle) = method.idle(ranks, chunks, micro_batches, of_rank) else { continue };
                    let [f, i, w] = costs.map(f64::from);
                    let simulation = simulate(&schedule, &Costs::equal(ranks * chunks, f, i, w)).unwrap();
                    let here = || format!("{method}, p = {ranks}, v = {chunks}, m = {micro_batches}, {costs:?}");
                    let work = micro_batches as f64 * of_rank.iter().sum::<f64>();
                    assert_eq!(simulation.period() - work, idle, "{}", here());
                    let within = (0..ranks).map(|rank| simulation.idle_within(rank)).fold(0., f64::max);
                    assert_eq!(within, idle, "{}", here());
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 300, "{method}: only {checked} cases have a formula");
}

/// As many micro-batches as fill the pipeline, and more: what is declared is held, neither more nor less.
fn check_peak(method: Method, chunks: usize, peak: impl Fn(usize, usize, usize) -> usize) {
    for ranks in RANKS {
        for micro_batches in [2 * ranks, 3 * ranks, 4 * ranks] {
            let schedule = method.schedule(ranks, chunks, micro_batches).unwrap();
            for (rank, held) in schedule.held().into_iter().enumerate() {
                let here = format!("{method}, p = {ranks}, v = {chunks}, m = {micro_batches}, rank {rank}");
                assert_eq!(method.peak(rank, ranks, chunks, micro_batches), Ok(held), "{here}");
                assert_eq!(held, peak(ranks, rank, micro_batches), "{here}");
            }
        }
    }
}

#[test]
fn gpipe() {
    check(Method::GPipe, &[1, 2, 3]);
    check_peak(Method::GPipe, 1, |_, _, m| m);
}

#[test]
fn looped_bfs() {
    check(Method::LoopedBfs, &[1, 2, 3, 4]);
    check_peak(Method::LoopedBfs, 2, |_, _, m| 2 * m);
}

#[test]
fn one_f_one_b() {
    check(Method::OneFOneB, &[1]);
    check_peak(Method::OneFOneB, 1, |p, r, _| p - r);
}

#[test]
fn interleaved() {
    check(Method::Interleaved, &[1, 2, 3, 4]);
    check_peak(Method::Interleaved, 3, |p, r, _| 2 * p + 2 * (p - 1 - r) + 1);
}

#[test]
fn zb_h1() {
    check(Method::ZbH1, &[1, 2, 3]);
    check_peak(Method::ZbH1, 1, |p, _, _| p);
    check_peak(Method::ZbH1, 3, |p, _, _| 3 * p);
}

#[test]
fn zb_h2() {
    check(Method::ZbH2, &[1]);
    check_peak(Method::ZbH2, 1, |p, _, _| 2 * p - 1);
}

#[test]
fn zbv() {
    check(Method::Zbv, &[2]);
    check_peak(Method::Zbv, 2, |p, _, _| 2 * p);
}

#[test]
fn dualpipe_v() {
    check(Method::DualPipeV, &[2]);
    check_peak(Method::DualPipeV, 2, |p, _, _| 2 * p + 1);
}

/// Published as half of 1F1B's idle time and memory, up to terms of one micro-batch: neither is exact, but for equal costs it is never more
/// than half of 1F1B's idle time.
#[test]
fn v_half() {
    check(Method::VHalf, &[2]);
    for ranks in 3..=16 {
        let idle = Method::VHalf.idle(ranks, 2, 64, [1.; 3]).unwrap();
        assert!(idle <= Method::OneFOneB.idle(ranks, 1, 64, [1.; 3]).unwrap() / 2.);
        check_greedy_peak(Method::VHalf, ranks, ranks / 2 * 2 + 2);
    }
}

/// Published as two thirds of 1F1B's idle time and a third of its memory, up to such terms.
#[test]
fn v_min() {
    check(Method::VMin, &[2]);
    for ranks in 3..=16 {
        let idle = Method::VMin.idle(ranks, 2, 64, [1.; 3]).unwrap();
        assert!(idle <= Method::OneFOneB.idle(ranks, 1, 64, [1.; 3]).unwrap() * 2. / 3.);
        check_greedy_peak(Method::VMin, ranks, (ranks + 1) / 3 * 2 + 2);
    }
}

/// The rank that holds most has the declared peak; others may have less.
fn check_greedy_peak(method: Method, ranks: usize, peak: usize) {
    let schedule = method.schedule(ranks, 2, 3 * ranks).unwrap();
    assert_eq!(schedule.held().into_iter().max(), Some(peak), "{method}, p = {ranks}");
    assert_eq!(method.peak(0, ranks, 2, 3 * ranks), Ok(peak), "{method}, p = {ranks}");
}

/// With zero idle time a single step still costs the way of the first micro-batch to the last rank.
#[test]
fn the_skew_of_a_single_step() {
    for ranks in RANKS {
        let work = 3. * 64.;
        let skew = |method: Method, chunks: usize| {
            let schedule = method.schedule(ranks, chunks, 64).unwrap();
            let simulation = simulate(&schedule, &Costs::equal(ranks * chunks, 1., 1., 1.)).unwrap();
            simulation.makespan - work * chunks as f64
        };
        assert_eq!(skew(Method::ZbH2, 1), (ranks - 1) as f64);
        // Half of (p - 1) F, where F is the time of both of a rank's stages.
        assert_eq!(skew(Method::Zbv, 2), (ranks - 1) as f64);
    }
}

#[test]
fn zbv_idles_little_for_costs_close_to_equal() {
    for ranks in RANKS {
        let of_rank = [10., 12., 8.];
        assert_eq!(Method::Zbv.idle(ranks, 2, 64, of_rank), Some(4. * (ranks - 1) as f64));
    }
}

/// At no cost of communication skips do not delay anything.
#[test]
fn skips_leave_the_makespan_as_it_is() {
    for method in Method::ALL {
        let chunks = method.stages_per_rank().unwrap_or(2);
        let schedule = method.schedule(4, chunks, 12).unwrap();
        let costs = Costs::equal(4 * chunks, 5., 6., 4.);
        let plain = simulate(&schedule, &costs).unwrap();
        let skipping = simulate(&schedule, &costs.with_skip(0, 4 * chunks - 1).with_skip(1, 3)).unwrap();
        assert_eq!(plain.ranks, skipping.ranks, "{method}");
    }
}

/// From the first stage to the last, with equal costs.
#[test]
fn how_many_skips_are_in_transit() {
    for ranks in RANKS {
        let transit = |method: Method, chunks: usize| {
            let schedule = method.schedule(ranks, chunks, 64).unwrap();
            let costs = Costs::equal(ranks * chunks, 1., 1., 1.).with_skip(0, ranks * chunks - 1);
            simulate(&schedule, &costs).unwrap().in_transit[0]
        };
        assert_eq!(transit(Method::OneFOneB, 1), ranks - 1);
        assert_eq!(transit(Method::Zbv, 2), 2 * ranks - 1);
        // And for any costs.
        let most = |method: Method, chunks: usize| {
            let order = method.schedule(ranks, chunks, 64).unwrap().order().unwrap();
            order.in_transit(Kind::Forward, 0, ranks * chunks - 1)
        };
        assert_eq!((most(Method::OneFOneB, 1), most(Method::Zbv, 2)), (ranks, 2 * ranks - 1));
    }
}
