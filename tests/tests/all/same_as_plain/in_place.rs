//! Layers that change a value in place while another value shares its memory: the gradients are
//! those of the model in one stage, or there is an error. Never other gradients.

use pipe_runtime::{Checkpoint, Context, Devices, Error, Layer, Result, pipeline};
use pipe_tests::compare::rows;
use pipe_tests::layers::{Merge, func, linear};
use tch::nn::{Func, Linear};
use tch::{Reduction, Tensor};

/// Changes its first input in place, and adds the second one.
struct InPlace;

impl Layer<(Tensor, Tensor)> for InPlace {
    type Out = Tensor;

    fn run(&self, (x, skip): (Tensor, Tensor), _cx: &Context) -> Tensor {
        x.shallow_clone().relu_() + skip
    }
}

/// The loss and the gradients of a step, or why there is none.
type Step = Result<Vec<Tensor>>;

/// Defines a model, and its step with a layer `act` between a stash and its pop.
macro_rules! model {
    ($name:ident { $($body:tt)* } $($field:ident: $value:expr),*) => {
        #[pipeline(allow(short_skip, single_stage), chunks = 2)]
        pub struct $name {
            #[device("cpu")]
            $($body)*
            #[device("cpu")]
            end: Linear,
        }

        impl $name {
            pub fn step(checkpoint: Checkpoint) -> Step {
                tch::manual_seed(3);
                let vars = $name::vars(&Devices::cpu($name::STAGES))?;
                let net = $name { a: linear(vars.a(), 8, 8), $($field: $value,)* end: linear(vars.end(), 8, 8) };
                let mut pipe = net.pipe(&vars).checkpoint(checkpoint).build()?;
                let x = rows(4);
                let report = pipe.train_step(&x, &x, |y, x: &Tensor| y.mse_loss(x, Reduction::Mean))?;
                let gradients = vars.var_store().trainable_variables().into_iter().map(|weight| weight.grad());
                Ok(gradients.chain([report.loss]).collect())
            }
        }
    };
}

fn in_place() -> Func<'static> {
    func(|x| x.shallow_clone().relu_())
}

/// On a copy, the result differs: in one stage, the skip is changed too.
fn on_a_copy() -> Func<'static> {
    func(|x| x.relu())
}

mod after_a_skip {
    use super::*;

    model!(One { #[stash(skip = output)] a: Linear, act: Func<'static>, #[pop(skip)] merge: Merge, }
        act: in_place(), merge: Merge);
    model!(Marked { #[recompute] #[stash(skip = output)] a: Linear, act: Func<'static>, #[pop(skip)] merge: Merge, }
        act: in_place(), merge: Merge);
    model!(Cut { #[stash(skip = output)] a: Linear, #[device("cpu")] act: Func<'static>, #[pop(skip)] merge: Merge, }
        act: in_place(), merge: Merge);
    model!(Far { #[recompute] #[stash(skip = output)] a: Linear, act: Func<'static>, #[device("cpu")] #[pop(skip)] merge: Merge, }
        act: in_place(), merge: Merge);
    model!(CutBehind { #[stash(skip = output)] a: Linear, act: Func<'static>, #[device("cpu")] #[pop(skip)] merge: Merge, }
        act: in_place(), merge: Merge);
    model!(OneCopy { #[stash(skip = output)] a: Linear, act: Func<'static>, #[pop(skip)] merge: Merge, }
        act: on_a_copy(), merge: Merge);
    model!(MarkedCopy { #[recompute] #[stash(skip = output)] a: Linear, act: Func<'static>, #[pop(skip)] merge: Merge, }
        act: on_a_copy(), merge: Merge);
}

mod in_the_popping_layer {
    use super::*;

    model!(One { #[stash(skip = output)] a: Linear, #[pop(skip)] merge: InPlace, } merge: InPlace);
    model!(Marked { #[recompute] #[stash(skip = output)] a: Linear, #[pop(skip)] merge: InPlace, } merge: InPlace);
    model!(Cut { #[stash(skip = output)] a: Linear, #[device("cpu")] #[pop(skip)] merge: InPlace, } merge: InPlace);
    model!(Past { #[stash(skip = output)] a: Linear, #[device("cpu")] same: Option<Linear>, #[device("cpu")] #[pop(skip)] merge: InPlace, }
        same: None, merge: InPlace);
}

/// Changes the second input in place.
struct ChangesRead;

impl Layer<(Tensor, Tensor)> for ChangesRead {
    type Out = Tensor;

    fn run(&self, (x, read): (Tensor, Tensor), _cx: &Context) -> Tensor {
        x + read.shallow_clone().relu_()
    }
}

mod in_a_reading_layer {
    use super::*;

    model!(One { #[lend(memory = output)] a: Linear, b: Func<'static>, #[read(memory)] one: ChangesRead, #[read(memory)] two: Merge, }
        b: on_a_copy(), one: ChangesRead, two: Merge);
    model!(Cut { #[lend(memory = output)] a: Linear, b: Func<'static>, #[device("cpu")] #[read(memory)] one: ChangesRead, #[read(memory)] two: Merge, }
        b: on_a_copy(), one: ChangesRead, two: Merge);
    model!(Apart { #[lend(memory = output)] a: Linear, b: Func<'static>, #[device("cpu")] #[read(memory)] one: ChangesRead, #[device("cpu")] #[read(memory)] two: Merge, }
        b: on_a_copy(), one: ChangesRead, two: Merge);
    model!(Marked { #[lend(memory = output)] a: Linear, b: Func<'static>, #[device("cpu")] #[recompute] #[read(memory)] one: ChangesRead, #[read(memory)] two: Merge, }
        b: on_a_copy(), one: ChangesRead, two: Merge);
}

fn assert_refused(step: Step, what: &str) {
    match step {
        Err(Error::Failed(failure)) => {
            assert!(failure.cause.contains("in-place operation of a layer"), "{what}: {failure}");
            assert!(failure.cause.contains("work on a copy"), "{what}: {failure}");
        }
        other => panic!("{what}: {other:?}"),
    }
}

/// The input of what is recomputed, a layer or a stage, was changed.
fn assert_not_recomputed(step: Step, what: &str) {
    match step {
        Err(Error::Failed(failure)) => {
            let expected = format!("an input of the {what} was modified by an in-place operation after its first pass");
            assert!(failure.cause.contains(&expected), "{what}: {failure}");
            assert!(failure.cause.contains("work on a copy"), "{what}: {failure}");
        }
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn a_change_that_would_have_to_reach_a_skip_too_is_an_error_or_reaches_it() {
    let _serial = pipe_tests::serial();
    for checkpoint in [Checkpoint::Never, Checkpoint::ExceptLast, Checkpoint::Always] {
        // In one stage, the change reaches both.
        let kept = after_a_skip::One::step(Checkpoint::Never).unwrap();
        assert_eq!(after_a_skip::One::step(checkpoint).unwrap(), kept);
        assert_eq!(after_a_skip::CutBehind::step(checkpoint).unwrap(), kept);
        let kept = in_the_popping_layer::One::step(Checkpoint::Never).unwrap();
        assert_eq!(in_the_popping_layer::One::step(checkpoint).unwrap(), kept);
        assert_refused(after_a_skip::Cut::step(checkpoint), "cut");
        assert_refused(in_the_popping_layer::Cut::step(checkpoint), "cut before the popping layer");
        assert_refused(in_the_popping_layer::Past::step(checkpoint), "past a stage that changes nothing");
        // `always` spares a micro-batch whose backward comes next, so layers are recomputed alone.
        assert_refused(after_a_skip::Marked::step(checkpoint), "marked");
        assert_refused(after_a_skip::Far::step(checkpoint), "marked, popped in another stage");
        assert_refused(in_the_popping_layer::Marked::step(checkpoint), "marked before the popping layer");
    }
}

#[test]
fn a_layer_that_works_on_a_copy_is_recomputed_as_it_is_kept() {
    let _serial = pipe_tests::serial();
    let kept = after_a_skip::OneCopy::step(Checkpoint::Never).unwrap();
    assert_eq!(after_a_skip::MarkedCopy::step(Checkpoint::Never).unwrap(), kept);
}

#[test]
fn a_change_of_a_lent_value_reaches_all_later_readers_or_is_an_error() {
    let _serial = pipe_tests::serial();
    for checkpoint in [Checkpoint::Never, Checkpoint::ExceptLast, Checkpoint::Always] {
        let kept = in_a_reading_layer::One::step(Checkpoint::Never).unwrap();
        assert_eq!(in_a_reading_layer::One::step(checkpoint).unwrap(), kept);
        match checkpoint {
            Checkpoint::Never => assert_eq!(in_a_reading_layer::Cut::step(checkpoint).unwrap(), kept),
            // It is an input of the stage, which is recomputed.
            _ => assert_not_recomputed(in_a_reading_layer::Cut::step(checkpoint), "stage"),
        }
        assert_refused(in_a_reading_layer::Apart::step(checkpoint), "readers in two stages");
        assert_not_recomputed(in_a_reading_layer::Marked::step(checkpoint), "layer");
    }
}
