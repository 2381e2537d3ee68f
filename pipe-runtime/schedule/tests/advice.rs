//! What `advise` recommends, and why.

use pipe_schedule::{Checkpoint, Costs, Options, ScheduleKind, Stages, Units, advise};

/// Eight equal stages over four ranks, measured with eight micro-batches.
fn model() -> (Costs, Options) {
    let mut costs = Costs::equal(8, 10., 10., 10.);
    for stage in &mut costs.stages {
        (stage.activation, stage.for_weights, stage.checkpoint) = (8., 8., 1.);
    }
    let mut options = Options::new(4, 8);
    options.overhead = 0.5;
    (costs, options)
}

#[test]
fn with_memory_to_spare_the_fastest() {
    let (costs, options) = model();
    let advice = advise(&costs, f64::INFINITY, &options).unwrap();
    let best = advice.best.clone().unwrap();
    assert_eq!(best.checkpoint, Checkpoint::Never);
    assert!(advice.too_large.is_empty());
    assert!(advice.fitting.iter().all(|other| other.time >= best.time));
    assert!(best.time >= advice.work);
}

#[test]
fn the_less_memory_the_slower() {
    let (costs, options) = model();
    let mut last = 0.;
    for limit in [1000., 100., 60., 40., 30., 20., 12.] {
        let advice = advise(&costs, limit, &options).unwrap();
        let Some(best) = advice.best else { break };
        assert!(best.memory <= limit && best.time >= last);
        last = best.time;
    }
    assert!(last > 0.);
}

#[test]
fn the_reasons_are_said() {
    let (costs, mut options) = model();
    options.schedules = vec![ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::Zbv, ScheduleKind::DualPipeV];
    options.micro_batches = vec![6];
    let advice = advise(&costs, 80., &options).unwrap();
    assert_eq!(
        advice.to_string(),
        "\
`zbv` on 4 ranks with 2 stages each, 6 micro-batches, checkpointing except_last: 678 per step in 54.7 of 80; `zbv` on 4 ranks with 2 stages each, 6 micro-batches, checkpointing never would take 539 but needs 85.3
write: schedule = zbv, chunks = 6, checkpoint = except_last

schedule  ranks  stages  micro-batches  checkpoint   time  memory
--------  -----  ------  -------------  -----------  ----  ------
zbv           4       2              6  except_last   678    54.7  the best
zbv           4       2              6  always        706    54.7  4.08 % slower
gpipe         4       2              6  except_last   761    34.7  12.2 % slower
gpipe         4       2              6  always        775    25.3  14.3 % slower
1f1b          4       1              6  except_last   830    46.7  22.4 % slower
1f1b          4       1              6  always        858    26.7  26.5 % slower
gpipe         4       1              6  except_last   885      28  30.6 % slower
gpipe         4       1              6  always        885      28  30.6 % slower
zbv           4       2              6  never         539    85.3  6.67 % too large
1f1b          4       1              6  never         747    85.3  6.67 % too large
gpipe         4       1              6  never         747     128  60 % too large
gpipe         4       2              6  never         623     128  60 % too large
`dualpipe_v` needs at least 8 micro-batches on 4 ranks, not 6: use 8 micro-batches, or `gpipe`, `1f1b` or `zbv`
"
    );
}

#[test]
fn what_does_not_fit_at_all_says_what_would() {
    let (costs, options) = model();
    let advice = advise(&costs, 1., &options).unwrap();
    assert_eq!(advice.best, None);
    assert_eq!(
        advice.why(),
        "nothing fits into 1: the smallest, `interleaved` on 4 ranks with 2 stages each, 32 micro-batches, checkpointing always, needs 4.75"
    );
}

#[test]
fn seconds_and_bytes_have_their_units_and_1f1b_its_quotes() {
    let (costs, mut options) = model();
    options.schedules = vec![ScheduleKind::OneFOneB];
    options.micro_batches = vec![8];
    options.units = Units::SecondsAndBytes;
    let text = advise(&costs, 3e9, &options).unwrap().to_string();
    assert!(text.starts_with("`1f1b` on 4 ranks with 1 stage each"), "{text}");
    assert!(
        text.contains(" s per step in 64 B of 2.79 GiB\nwrite: schedule = \"1f1b\", chunks = 8, checkpoint = never\n"),
        "{text}"
    );
}

#[test]
fn stages_that_may_not_be_merged_decide_what_fits() {
    let (costs, mut options) = model();
    (options.ranks, options.stages) = (vec![2, 4, 8], Stages::Fixed);
    let advice = advise(&costs, f64::INFINITY, &options).unwrap();
    assert!(advice.fitting.iter().all(|candidate| candidate.ranks * candidate.stages_per_rank == 8));
    let of = |kind| advice.fitting.iter().filter(move |candidate| candidate.kind == kind);
    assert!(
        of(ScheduleKind::Zbv).all(|candidate| candidate.ranks == 4)
            && of(ScheduleKind::OneFOneB).all(|candidate| candidate.ranks == 8)
    );
    assert!(of(ScheduleKind::Interleaved).any(|candidate| candidate.ranks == 2));
}

#[test]
fn stages_that_are_placed_stay_where_they_are() {
    let (costs, mut options) = model();
    options.stages = Stages::On(vec![0, 1, 2, 3, 3, 2, 1, 0]);
    let advice = advise(&costs, f64::INFINITY, &options).unwrap();
    let schedules: std::collections::BTreeSet<_> = advice.fitting.iter().map(|candidate| candidate.kind).collect();
    assert!(schedules.into_iter().eq([
        ScheduleKind::GPipe,
        ScheduleKind::Zbv,
        ScheduleKind::DualPipeV,
        ScheduleKind::VHalf,
        ScheduleKind::VMin
    ]));
}

#[test]
fn impossible_questions_have_answers() {
    let (costs, _) = model();
    for ranks in [0, 3, 100, usize::MAX] {
        let advice = advise(&costs, 100., &Options::new(ranks, 0)).unwrap();
        assert_eq!(advice.best, None);
        assert!(!advice.refused.is_empty() && !advice.to_string().is_empty());
    }
    let mut wrong = costs;
    wrong.boundaries.pop();
    assert!(advise(&wrong, 100., &Options::new(4, 8)).is_err());
}
