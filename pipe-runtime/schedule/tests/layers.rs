//! Advice with everything free, beside all that there is to choose.

use pipe_schedule::{
    ActionKind, Candidate, Checkpoint, Crossing, Division, LayerCosts, LayerOptions, LayerSkip, Layers, ScheduleKind,
    Transfer, advise_layers, simulate,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

const KINDS: [ScheduleKind; 5] =
    [ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::ZbH1, ScheduleKind::VHalf, ScheduleKind::Interleaved];

/// Every way to divide layers into stages.
fn divisions(layers: usize, stages: usize) -> Vec<Vec<usize>> {
    if stages == 1 {
        return vec![vec![layers]];
    }
    let with_first =
        |first: usize| divisions(layers - first, stages - 1).into_iter().map(move |rest| [vec![first], rest].concat());
    (1..=layers + 1 - stages).flat_map(with_first).collect()
}

/// The least time of all that fits, by trying all of it.
fn by_trying(layers: &Layers, limit: f64, options: &LayerOptions) -> Option<f64> {
    let count = layers.layers.len();
    let mut least: Option<f64> = None;
    for &kind in &options.schedules {
        for stages_per_rank in 1..=2 {
            let Ok(schedule) = kind.schedule(options.ranks, stages_per_rank, layers.micro_batches) else { continue };
            let is_1f1b = kind == ScheduleKind::Interleaved && stages_per_rank == 1;
            if is_1f1b
                || kind.stages_per_rank().is_some_and(|needed| needed != stages_per_rank)
                || schedule.stages > count
            {
                continue;
            }
            for &checkpoint in &options.checkpoints {
                let schedule = schedule.clone().with_recompute(|_, i| checkpoint.applies(i, layers.micro_batches));
                let is_split = schedule.actions().any(|action| action.kind == ActionKind::BackwardWeight);
                let choices = if checkpoint == Checkpoint::Never { 1_u32 << count } else { 1 };
                for stages in divisions(count, schedule.stages) {
                    for choice in 0..choices {
                        let recomputed = (0..count).map(|layer| choice >> layer & 1 == 1).collect();
                        let division = Division { stages: stages.clone(), recomputed };
                        let found = simulate(&schedule, &layers.costs(&division, is_split, 0.)).unwrap();
                        if found.memory.iter().all(|memory| *memory <= limit) {
                            least = Some(least.map_or(found.makespan, |least| least.min(found.makespan)));
                        }
                    }
                }
            }
        }
    }
    least
}

fn layer() -> impl Strategy<Value = LayerCosts> {
    (1..20_u32, 1..20_u32, 0..20_u32, 1..50_u32, 0..50_u32, 0..9_u32, 0..9_u32).prop_map(
        |(forward, input, weight, kept, remaining, working, parameters)| {
            let (kept, working) = (f64::from(kept), f64::from(working));
            LayerCosts {
                forward: forward.into(),
                backward_input: input.into(),
                backward_weight: weight.into(),
                kept,
                remaining: kept.min(remaining.into()),
                between_halves: kept,
                forward_peak: kept + working / 2.,
                backward_peak: kept + working,
                parameters: parameters.into(),
                gradients: parameters.into(),
            }
        },
    )
}

fn model() -> impl Strategy<Value = Layers> {
    let layers = prop::collection::vec(layer(), 4..7);
    (layers, 0..9_u32, any::<bool>(), 2..5_usize).prop_map(|(layers, size, skips, micro_batches)| {
        let size = f64::from(size);
        let transfer = Transfer { time: size / 10., size, gradient: size };
        let crossing = Crossing { transfer, values: size, received: size / 2. };
        let skips = if skips { vec![LayerSkip { from: 0, to: layers.len() - 1, crossing }] } else { Vec::new() };
        Layers { micro_batches, boundaries: vec![crossing; layers.len() - 1], layers, skips }
    })
}

/// With any memory, the advice is the best. With little memory, no way that fits takes less than
/// the bound that is told, and nearly always the advice is the best of all: what layers free does
/// not add up exactly, so another choice may fit as well.
#[test]
fn the_advice_is_the_best_of_all_or_says_how_far_it_may_be_off() {
    let mut runner = TestRunner::deterministic();
    let strategy = (model(), 0.2..1.1_f64);
    let (mut limited, mut exact) = (0, 0);
    for _ in 0..100 {
        let (layers, part) = strategy.new_tree(&mut runner).unwrap().current();
        let options = LayerOptions { schedules: KINDS.to_vec(), ..LayerOptions::new(2) };
        let advice = advise_layers(std::slice::from_ref(&layers), f64::INFINITY, &options).unwrap();
        let fastest = advice.best.clone().expect("all fits");
        assert_eq!(Some(fastest.candidate.time), by_trying(&layers, f64::INFINITY, &options));
        assert_eq!(advice.gap(), Some(0.));

        let limit = part * fastest.candidate.memory;
        let advice = advise_layers(std::slice::from_ref(&layers), limit, &options).unwrap();
        let Some(least) = by_trying(&layers, limit, &options) else {
            assert_eq!(advice.best, None);
            assert!(advice.smallest.is_some_and(|smallest| smallest.candidate.memory > limit));
            continue;
        };
        let Candidate { time, memory, .. } = advice.best.clone().expect("something fits").candidate;
        assert!(memory <= limit && advice.bound <= least + 1e-9 && time >= least - 1e-9, "{layers:?}");
        assert!((advice.bound * (1. + advice.gap().unwrap()) - time).abs() < 1e-9);
        limited += 1;
        exact += usize::from(time <= least + 1e-9);
    }
    assert!(limited > 60 && exact * 100 >= limited * 95, "{exact} of {limited}");
}

/// What is chosen can be had: its costs are those of its division.
#[test]
fn a_long_model_is_divided_too() {
    let layer = LayerCosts {
        forward: 1.,
        backward_input: 1.,
        backward_weight: 1.,
        kept: 8.,
        remaining: 1.,
        between_halves: 8.,
        forward_peak: 9.,
        backward_peak: 10.,
        parameters: 2.,
        gradients: 1.,
    };
    let layers = Layers {
        micro_batches: 16,
        layers: vec![layer; 64],
        boundaries: vec![Crossing::default(); 63],
        skips: Vec::new(),
    };
    let schedules = vec![ScheduleKind::OneFOneB];
    let options = LayerOptions { attempts: 50, schedules, ..LayerOptions::new(8) };
    let most = advise_layers(std::slice::from_ref(&layers), f64::INFINITY, &options).unwrap();
    let memory = most.best.unwrap().candidate.memory;
    let advice = advise_layers(std::slice::from_ref(&layers), 0.4 * memory, &options).unwrap();
    let gap = advice.gap().unwrap();
    let best = advice.best.unwrap();
    assert!(best.division.stages.iter().sum::<usize>() == 64 && best.candidate.memory <= 0.4 * memory);
    assert!(gap < 0.25, "{gap}");
    let Candidate { kind, stages_per_rank, micro_batches, checkpoint, .. } = best.candidate;
    let schedule = kind.schedule(8, stages_per_rank, micro_batches).unwrap();
    let schedule = schedule.with_recompute(|_, i| checkpoint.applies(i, micro_batches));
    let simulation = simulate(&schedule, &layers.costs(&best.division, false, 0.)).unwrap();
    assert_eq!(simulation.makespan, best.candidate.time);
    assert_eq!(simulation.memory.iter().copied().fold(0., f64::max), best.candidate.memory);
}

/// The first layers of an image network keep much more than the last ones. Where the most even cuts
/// need too much memory, others are found from them.
#[test]
fn cuts_that_fit_are_found_from_cuts_that_do_not() {
    let layer = |number: usize| {
        let kept = if number < 6 { 100. } else { 5. };
        LayerCosts {
            forward: 1.,
            backward_input: 1.,
            backward_weight: 1.,
            kept,
            remaining: kept / 2.,
            between_halves: kept,
            forward_peak: kept,
            backward_peak: kept,
            ..LayerCosts::default()
        }
    };
    let layers = Layers {
        micro_batches: 4,
        layers: (0..24).map(layer).collect(),
        boundaries: vec![Crossing::default(); 23],
        skips: Vec::new(),
    };
    let checkpoint = Checkpoint::ExceptLast;
    let options =
        LayerOptions { schedules: vec![ScheduleKind::GPipe], checkpoints: vec![checkpoint], ..LayerOptions::new(8) };
    let uneven = Division { stages: vec![1, 1, 1, 1, 1, 2, 8, 9], recomputed: Vec::new() };
    let schedule = ScheduleKind::GPipe.schedule(8, 1, 4).unwrap().with_recompute(|_, i| checkpoint.applies(i, 4));
    let step = simulate(&schedule, &layers.costs(&uneven, false, 0.)).unwrap();
    let limit = step.memory.iter().copied().fold(0., f64::max);
    let best = advise_layers(&[layers], limit, &options).unwrap().best.expect("uneven cuts fit").candidate;
    assert!(best.memory <= limit && best.time <= step.makespan, "{best:?}");
}

/// With few micro-batches, the search does not stay where no layer can move to a neighbour: these
/// cuts are the best of all 245,157.
#[test]
fn a_step_of_few_micro_batches_has_the_best_cuts() {
    // The times of AmoebaNet-D's layers, in ms.
    let parts = [(1, 9.8, 6.8), (2, 352.2, 268.), (6, 554.4, 766.4), (1, 101.7, 150.4), (6, 418.4, 693.1)];
    let parts = parts.into_iter().chain([(1, 79.9, 150.2), (6, 349.4, 713.1), (1, 3., 4.8)]);
    let layers = parts.flat_map(|(count, forward, backward)| {
        let (forward, backward_input) = (forward / f64::from(count), backward / f64::from(count));
        (0..count).map(move |_| LayerCosts { forward, backward_input, ..LayerCosts::default() })
    });
    let layers = Layers {
        micro_batches: 4,
        layers: layers.collect(),
        boundaries: vec![Crossing::default(); 23],
        skips: Vec::new(),
    };
    let options = LayerOptions {
        schedules: vec![ScheduleKind::GPipe],
        checkpoints: vec![Checkpoint::ExceptLast],
        stages_per_rank: 1,
        ..LayerOptions::new(8)
    };
    let best = advise_layers(&[layers], f64::INFINITY, &options).unwrap().best.unwrap();
    assert_eq!(best.division.stages, [2, 2, 3, 3, 3, 3, 3, 5]);
}
