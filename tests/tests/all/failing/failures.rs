//! Calls that fail at every place. Later calls give the same results as without the failed call.
//! `cargo xtask torture` tries more of them.

use pipe_tests::torture::training::{Recipe, WITHOUT_STATISTICS, torture_training};
use pipe_tests::torture::{INWARD, MICRO_BATCHES, Place, ROWS, STATEFUL, Stack, WEIGHTS, assert_same, torture};
use pipe_tests::zoo::same_bits;
use pipe_tests::zoo::train::{CHUNKS, MODES, calls};
use pipe_tests::zoo::{Batch, Call, Creature, Fault, How, Mode, ON_PURPOSE, Routed3, Routed4, Stack3, Stack4, Watched};

/// Every so many-th of the other faults is tried.
const STRIDE: usize = 61;

/// A panic in each stage's last layer, and in the loss, in each micro-batch; and some of the other
/// faults.
fn leaves_nothing<M: Stack>(creatures: &[Creature; 8], call: Call) {
    leaves_nothing_in::<M>(creatures, call, &MODES);
}

fn leaves_nothing_in<M: Stack>(creatures: &[Creature; 8], call: Call, modes: &[Mode]) {
    let _serial = pipe_tests::serial();
    for &mode in modes {
        let tally = torture::<M>(&M::of(creatures), (call, mode), None, |number, place| {
            let is_panic = match place {
                Place::Layer(fault) => fault.how == How::Panic && fault.layer % 2 == 1,
                Place::Loss(_, how) => how == How::Panic,
            };
            (is_panic && *creatures == STATEFUL) || number % STRIDE == 0
        });
        assert!(tally.count() > 0 && tally.misses.is_empty(), "{:#?}", tally.misses);
    }
}

fn is_step(call: &Call) -> bool {
    matches!(call, Call::Step(_))
}

#[test]
fn a_forward_that_fails_leaves_nothing() {
    for wants_gradient in [false, true] {
        leaves_nothing::<Stack3>(&STATEFUL, Call::Forward { wants_gradient });
    }
}

#[test]
fn a_step_over_three_stages_that_fails_leaves_nothing() {
    calls(3).into_iter().filter(is_step).for_each(|call| leaves_nothing::<Stack3>(&STATEFUL, call));
}

#[test]
fn a_step_over_four_stages_that_fails_leaves_nothing() {
    let only_here = calls(4).into_iter().filter(|call| !calls(3).contains(call));
    only_here.for_each(|call| leaves_nothing::<Stack4>(&STATEFUL, call));
}

/// A step of such layers. For each schedule, two of the modes take turns.
fn leaves_nothing_in_turns<M: Stack>(creatures: &[Creature; 8], first: usize) {
    for (number, call) in calls(4).into_iter().filter(is_step).enumerate() {
        let mode = |other| MODES[(first + number + other) % MODES.len()];
        leaves_nothing_in::<M>(creatures, call, &[mode(0), mode(1)]);
    }
}

#[test]
fn a_step_of_other_layers_that_fails_leaves_nothing() {
    leaves_nothing_in_turns::<Stack4>(&INWARD, 0);
    leaves_nothing_in_turns::<Stack4>(&WEIGHTS, 1);
}

/// A lent value, a sum and a skip.
#[test]
fn a_call_with_routes_that_fails_leaves_nothing() {
    leaves_nothing::<Routed3>(&WEIGHTS, Call::Forward { wants_gradient: true });
    leaves_nothing_in_turns::<Routed4>(&INWARD, 0);
    leaves_nothing_in_turns::<Routed4>(&WEIGHTS, 1);
}

/// The whole of a training, its checkpoint included, is what it was.
#[test]
fn an_iteration_that_fails_changes_nothing() {
    let _serial = pipe_tests::serial();
    for (recipe, creatures) in [(Recipe::AdamW, WITHOUT_STATISTICS), (Recipe::Sgd, STATEFUL)] {
        for (number, call) in calls(4).into_iter().filter(is_step).enumerate() {
            let mode = MODES[number % MODES.len()];
            let layers = Stack4::of(&creatures);
            let tally = torture_training::<Stack4>(&layers, recipe, (call, mode), None, |fault| fault % 53 == number);
            assert!(tally.count() > 0 && tally.misses.is_empty(), "{:#?}", tally.misses);
        }
    }
}

/// As in plain tch, the forward has changed statistics and drawn its random numbers, and the
/// failing backward changes nothing.
#[test]
fn a_backward_that_fails_leaves_what_its_forward_has_left() {
    let _serial = pipe_tests::serial();
    let layers = Stack3::of(&STATEFUL);
    tch::manual_seed(1);
    let (batch, other) = (Batch::of::<Stack3>(ROWS), Batch::of::<Stack3>(ROWS));
    let mut failed = 0;
    for (mode, wants_gradient) in MODES.into_iter().flat_map(|mode| [false, true].map(|wants| (mode, wants))) {
        let call = Call::Forward { wants_gradient };
        let build = || Watched::<Stack3>::build(&layers, 2, CHUNKS, mode, call).unwrap().0;
        let recomputes = build().recomputes(MICRO_BATCHES);
        // In each stage's second layer, which is its last.
        let places = (0..Stack3::STAGES).flat_map(|stage| (0..MICRO_BATCHES).map(move |number| (stage, number)));
        let faults: Vec<_> = places
            .filter(|&(stage, number)| recomputes(stage, number))
            .map(|(stage, micro_batch)| Fault { layer: 2 * stage + 1, micro_batch, recomputing: true, how: How::Panic })
            .collect();

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
            assert!(error.to_string().contains(ON_PURPOSE), "{error}, {about}");
            watched.assert_gradients(&before.gradients, &about);
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
