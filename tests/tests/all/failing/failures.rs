//! Calls that fail at every place. Later calls give the same results as without the failed call.

use std::fmt::Display;

use pipe_runtime::Error;
use pipe_tests::zoo::run::same_bits;
use pipe_tests::zoo::train::{CHUNKS, MODES, calls};
use pipe_tests::zoo::{
    Batch, Call, Comparison, Creature, Fault, LayerSpec, Nearness, Outcome, Stack3, Stack4, Watched, ZooModel,
};

/// Layers for up to four stages, two per stage, with statistics, a kept value and dropout.
const LAYERS: [Creature; 8] = [
    Creature::BatchNorm,
    Creature::Dropout,
    Creature::Cache,
    Creature::Dropout,
    Creature::Mix,
    Creature::Dropout,
    Creature::BatchNorm,
    Creature::Dropout,
];

/// Rows of the mini-batch, in micro-batches of two, two, two and one.
const ROWS: i64 = 7;
const MICRO_BATCHES: usize = 4;

trait Stack: ZooModel<Layers = Vec<LayerSpec>> {}

impl<M: ZooModel<Layers = Vec<LayerSpec>>> Stack for M {}

fn layers<M: Stack>() -> Vec<LayerSpec> {
    LAYERS[..2 * M::PLAN.stages.len()].iter().map(|&creature| creature.into()).collect()
}

/// Place at which a call fails.
#[derive(Clone, Copy, Debug)]
enum Place {
    Layer(Fault),
    /// The loss of this micro-batch.
    Loss(usize),
}

/// Lists a fault for each stage and micro-batch, in the stage's second layer, which is its last.
fn faults<M: Stack>(recomputing: bool) -> impl Iterator<Item = Fault> {
    let stages = 0..M::PLAN.stages.len();
    stages.flat_map(move |stage| {
        (0..MICRO_BATCHES).map(move |micro_batch| Fault { layer: 2 * stage + 1, micro_batch, recomputing })
    })
}

fn all_places<M: Stack>() -> Vec<Place> {
    let faults = faults::<M>(false).chain(faults::<M>(true)).map(Place::Layer);
    faults.chain((0..MICRO_BATCHES).map(Place::Loss)).collect()
}

/// Asserts that two outcomes are equal bit by bit.
fn assert_same(found: &Outcome, expected: &Outcome, about: &dyn Display) {
    let gradients = |_: &str| Nearness::Bits;
    let (values, state) = (Nearness::Bits, Some(Nearness::Bits));
    Comparison { values, gradients: &gradients, state, fresh: true }.assert(found, expected, about);
}

/// Asserts that variables, statistics and gradients are unchanged since `before`.
fn assert_unchanged<M: Stack>(watched: &Watched<M>, before: &Outcome, about: &dyn Display) {
    assert_gradients_unchanged(watched, before, about);
    let state = watched.state();
    for (name, value) in &before.state {
        assert!(same_bits(value, &state[name]), "{name}, {about}");
    }
}

fn assert_gradients_unchanged<M: Stack>(watched: &Watched<M>, before: &Outcome, about: &dyn Display) {
    let gradients = watched.gradients();
    for (name, gradient) in &before.gradients {
        let (Some(before), Some(after)) = (gradient, &gradients[name]) else {
            assert!(gradient.is_none() && gradients[name].is_none(), "gradient of {name}, {about}");
            continue;
        };
        assert!(same_bits(before, after), "gradient of {name}, {about}");
    }
}

fn assert_on_purpose(error: &Error, place: Place, about: &dyn Display) {
    let who = if matches!(place, Place::Loss(_)) { "the loss" } else { "the layer" };
    assert!(error.to_string().contains(&format!("{who} fails on purpose")), "{error}, {about}");
}

/// Runs a failing call for each place, and a successful one after each of them. Gradients
/// accumulate, and the random number generator is seeded once.
fn leaves_nothing<M: Stack>(call: Call) {
    let _serial = pipe_tests::serial();
    let layers = layers::<M>();
    tch::manual_seed(1);
    let (batch, other) = (Batch::of::<M>(ROWS), Batch::of::<M>(ROWS));
    let places: Vec<_> = match call {
        Call::Forward { .. } => faults::<M>(false).map(Place::Layer).collect(),
        Call::Step(_) => all_places::<M>(),
    };
    let build = |mode| Watched::<M>::build(&layers, 2, CHUNKS, mode, call).unwrap().0;

    let mut undisturbed = build(MODES[0]);
    tch::manual_seed(3);
    let expected: Vec<_> = (0..=places.len()).map(|_| undisturbed.go_on(&batch, None).unwrap()).collect();
    assert!(!same_bits(&expected[0].output, &expected[1].output), "what is drawn and kept is seen in the output");

    for mode in MODES {
        let mut watched = build(mode);
        let recomputes = watched.recomputes(MICRO_BATCHES);
        tch::manual_seed(3);
        let mut before = watched.go_on(&batch, None).unwrap();
        assert_same(&before, &expected[0], &format!("the first call, {call}, {mode}"));
        let mut done = 1;
        for &place in &places {
            let about = format!("{place:?}, {call}, {mode}");
            let loss_fails = match place {
                Place::Layer(fault) if fault.recomputing && !recomputes(fault.layer / 2, fault.micro_batch) => continue,
                Place::Layer(fault) => {
                    watched.probe.fail(fault);
                    None
                }
                Place::Loss(micro_batch) => Some(micro_batch),
            };
            let error = watched.go_on(&other, loss_fails).err().unwrap_or_else(|| panic!("no failure, {about}"));
            watched.probe.fail(None);
            assert_on_purpose(&error, place, &about);
            assert_unchanged(&watched, &before, &about);
            before = watched.go_on(&batch, None).unwrap();
            assert_same(&before, &expected[done], &format!("after {about}"));
            done += 1;
        }
    }
}

#[test]
fn a_forward_that_fails_leaves_nothing() {
    for wants_gradient in [false, true] {
        leaves_nothing::<Stack3>(Call::Forward { wants_gradient });
    }
}

#[test]
fn a_step_over_three_stages_that_fails_leaves_nothing() {
    let steps = calls(3).into_iter().filter(|call| matches!(call, Call::Step(_)));
    steps.for_each(leaves_nothing::<Stack3>);
}

#[test]
fn a_step_over_four_stages_that_fails_leaves_nothing() {
    let only_here = calls(4).into_iter().filter(|call| !calls(3).contains(call));
    only_here.for_each(leaves_nothing::<Stack4>);
}

/// As in plain tch, the forward has changed statistics and drawn its random numbers, and the
/// failing backward changes nothing.
#[test]
fn a_backward_that_fails_leaves_what_its_forward_has_left() {
    let _serial = pipe_tests::serial();
    let layers = layers::<Stack3>();
    tch::manual_seed(1);
    let (batch, other) = (Batch::of::<Stack3>(ROWS), Batch::of::<Stack3>(ROWS));
    let mut failed = 0;
    for (mode, wants_gradient) in MODES.into_iter().flat_map(|mode| [false, true].map(|wants| (mode, wants))) {
        let call = Call::Forward { wants_gradient };
        let build = || Watched::<Stack3>::build(&layers, 2, CHUNKS, mode, call).unwrap().0;
        let recomputes = build().recomputes(MICRO_BATCHES);
        let faults: Vec<_> =
            faults::<Stack3>(true).filter(|fault| recomputes(fault.layer / 2, fault.micro_batch)).collect();

        let mut undisturbed = build();
        tch::manual_seed(3);
        let first = undisturbed.go_on(&batch, None).unwrap();
        let without_backward = |_: &Fault| {
            let _output = undisturbed.pipe.forward(other.input[0].shallow_clone()).unwrap();
            let left = undisturbed.state();
            (left, undisturbed.go_on(&batch, None).unwrap())
        };
        let expected: Vec<_> = faults.iter().map(without_backward).collect();

        let mut watched = build();
        tch::manual_seed(3);
        let mut before = watched.go_on(&batch, None).unwrap();
        assert_same(&before, &first, &format!("the first call, {call}, {mode}"));
        for (&fault, (left, next)) in faults.iter().zip(&expected) {
            let about = format!("{fault:?}, {call}, {mode}");
            watched.probe.fail(fault);
            let error = watched.go_on(&other, None).err().unwrap_or_else(|| panic!("no failure, {about}"));
            watched.probe.fail(None);
            assert_on_purpose(&error, Place::Layer(fault), &about);
            assert_gradients_unchanged(&watched, &before, &about);
            let state = watched.state();
            assert!(left.iter().all(|(name, value)| same_bits(value, &state[name])), "{about}");
            before = watched.go_on(&batch, None).unwrap();
            assert_same(&before, next, &format!("after {about}"));
            failed += 1;
        }
    }
    // In each of three stages, `ExceptLast` recomputes three micro-batches, and `Always` all four.
    // Both run with and without a gradient of the input.
    assert_eq!(failed, 2 * 3 * (3 + 4));
}
