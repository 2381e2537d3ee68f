//! Steps of models with lent values, sums, and values of another form in each micro-batch, of which
//! an allocation or an operator fails: where they are sent, kept, added or recomputed, too.

use std::collections::BTreeMap;

use pipe_failing_libtorch::in_use;
use pipe_runtime::{Checkpoint, Flow, Pipe, Result, Vars};
use pipe_tests::mirrored::uneven::Uneven;
use pipe_tests::mirrored::{Mirrored, build, lent, rows, sums};
use pipe_tests::torture::Countdown;
use pipe_tests::way::Way;
use pipe_tests::zoo::same_bits;
use tch::Tensor;

mod countdowns;

/// With `PIPE_STRIDE`, one of so many fails, in all checkpoint modes. Otherwise they take turns.
fn own_stride() -> Option<usize> {
    std::env::var("PIPE_STRIDE").ok().map(|text| text.parse().expect("a number"))
}

fn step<M: Mirrored>(pipe: &mut Pipe<M>, input: &M::Input) -> Result<Tensor> {
    let loss = |output: &M::Output, (): &()| M::loss(output);
    Ok(pipe.train_step(input.share(), (), loss)?.loss)
}

/// The variables and their gradients, those that there are.
fn state(vars: &Vars) -> BTreeMap<String, (Tensor, Option<Tensor>)> {
    let both = |(name, tensor): (String, Tensor)| {
        let gradient = tensor.grad();
        (name, (tensor.detach().copy(), gradient.defined().then(|| gradient.copy())))
    };
    vars.var_store().variables().into_iter().map(both).collect()
}

fn assert_same(found: &Vars, expected: &Vars, about: &str) {
    let expected = state(expected);
    for (name, (value, gradient)) in state(found) {
        assert!(same_bits(&value, &expected[&name].0), "{name}, {about}");
        let same = match (&gradient, &expected[&name].1) {
            (Some(found), Some(expected)) => same_bits(found, expected),
            (found, expected) => found.is_none() && expected.is_none(),
        };
        assert!(same, "the gradient of {name}, {about}");
    }
}

/// In each schedule. Returns how many steps failed.
fn fails<M: Mirrored>(countdown: Countdown, usual: usize, input: &M::Input) -> usize {
    let mut failed = 0;
    let (stride, all) = (own_stride().unwrap_or(usual), own_stride().is_some());
    let modes = [Checkpoint::Never, Checkpoint::ExceptLast, Checkpoint::Always];
    for (turn, checkpoint) in modes.into_iter().enumerate() {
        for (number, way) in Way::all(M::PLAN.stages.len(), checkpoint).into_iter().enumerate() {
            if all || number % modes.len() == turn {
                failed += fails_so::<M>(countdown, (number * 7919 % stride, stride), way, input);
            }
        }
    }
    println!("{}: {failed} times, an {} failed", M::PLAN.name, countdown.what);
    failed
}

fn fails_so<M: Mirrored>(countdown: Countdown, (first, stride): (usize, usize), way: Way, input: &M::Input) -> usize {
    let pair = || [build::<M>(way), build::<M>(way)];
    let [(mut troubled, vars), (mut calm, calm_vars)] = pair();
    let mut failed = 0;
    let mut memory = None;
    for number in (1 + first as i64..).step_by(stride) {
        let about = format!("{} {number}, {}, {way:?}", countdown.what, M::PLAN.name);
        step(&mut troubled, input).and_then(|loss| Ok((loss, step(&mut calm, input)?))).map_or_else(
            |error| panic!("before {about}: {error}"),
            |(found, expected)| assert!(same_bits(&found, &expected), "the loss before {about}"),
        );
        assert_same(&vars, &calm_vars, &format!("before {about}"));
        let now = in_use();
        assert!(now <= *memory.get_or_insert(now), "{now} tensors have memory, and not {memory:?}, before {about}");
        (countdown.fail_at)(number);
        let result = step(&mut troubled, input);
        let reached = (countdown.left)() == 0;
        (countdown.fail_at)(0);
        match result.map_err(|error| error.to_string()) {
            Ok(_) if !reached => return failed,
            Ok(_) => drop(step(&mut calm, input).expect("a step without a fault")),
            Err(error) => {
                assert!(error.contains(countdown.says), "{error}, {about}");
                failed += 1;
                if error.contains("which have been dropped") {
                    assert!(state(&vars).values().all(|(_, gradient)| gradient.is_none()), "{error}, {about}");
                    return failed;
                }
                assert_same(&vars, &calm_vars, &format!("{error}, {about}"));
            }
        }
    }
    unreachable!("a step ends")
}

#[test]
fn a_step_of_which_anything_fails_changes_nothing_whatever_its_routes_are() {
    let _serial = pipe_tests::serial();
    for (countdown, usual) in [(countdowns::ALLOCATION, 401), (countdowns::OPERATOR, 1601)] {
        tch::manual_seed(5);
        let masked = (rows(15), Some(rows(15)));
        let count = fails::<lent::Kept>(countdown, usual, &masked)
            + fails::<lent::Again>(countdown, usual, &masked)
            + fails::<sums::Kept>(countdown, usual, &rows(15))
            + fails::<sums::Again>(countdown, usual, &rows(15))
            + fails::<Uneven>(countdown, usual, &rows(15));
        println!("{count} times, an {} of a step with routes failed", countdown.what);
        assert!(count > 50, "{count}");
    }
}
