//! Layers that may be absent, and parts of values as skips, beside plain tch.

use pipe_runtime::nn::{Add, Identity};
use pipe_runtime::{Checkpoint, Context, Devices, Flow, Layer, pipeline};
use pipe_tests::compare::{leaf, rows};
use pipe_tests::layers::linear;
use tch::nn::Linear;
use tch::{Kind, Tensor};

#[pipeline(chunks = 3)]
struct Optional {
    #[device("cpu")]
    first: Option<Linear>,
    #[device("cpu")]
    #[stash(before = input, after = output)]
    middle: Option<Linear>,
    #[device("cpu")]
    last: Option<Linear>,
    same: Identity,
    #[pop(before)]
    add: Add,
    #[pop(after)]
    add_again: Add,
    head: Linear,
}

/// With those of the first three layers whose bit is set.
fn optional(there: u8) -> (Optional, OptionalVars) {
    tch::manual_seed(1);
    let vars = Optional::vars(&Devices::cpu(Optional::STAGES)).unwrap();
    let is_there = |layer: u8| there >> layer & 1 == 1;
    let model = Optional {
        first: is_there(0).then(|| linear(vars.first(), 8, 8)),
        middle: is_there(1).then(|| linear(vars.middle(), 8, 8)),
        last: is_there(2).then(|| linear(vars.last(), 8, 8)),
        same: Identity,
        add: Add,
        add_again: Add,
        head: linear(vars.head(), 8, 2),
    };
    (model, vars)
}

/// A loss that is a mean over rows.
fn loss(output: &Tensor, x: &Tensor) -> Tensor {
    (output.square().sum_dim_intlist([1].as_slice(), false, Kind::Float)
        * x.sum_dim_intlist([1].as_slice(), false, Kind::Float))
    .mean(Kind::Float)
}

/// The model in plain tch, on the whole batch.
fn plain(model: &Optional, x: &Tensor) -> Tensor {
    let apply = |layer: &Option<Linear>, x: &Tensor| layer.as_ref().map_or(x.shallow_clone(), |layer| x.apply(layer));
    let before = apply(&model.first, x);
    let after = apply(&model.middle, &before);
    (apply(&model.last, &after) + before + after).apply(&model.head)
}

#[test]
fn an_absent_layer_is_the_identity() {
    let _serial = pipe_tests::serial();
    for there in 0..8 {
        for checkpoint in [Checkpoint::Never, Checkpoint::Always] {
            let (model, vars) = optional(there);
            let variables = vars.select("*").unwrap();
            assert_eq!(variables.len() as u32, 2 * (1 + there.count_ones()));
            let mut pipe = model.pipe(&vars).checkpoint(checkpoint).build().unwrap();
            let x = rows(7);
            let report = pipe.train_step(&x, &x, loss).unwrap();
            let found: Vec<_> = variables.iter().map(|(_, variable)| variable.grad().copy()).collect();

            variables.into_iter().for_each(|(_, mut variable)| variable.zero_grad());
            let wanted = loss(&plain(&pipe.into_inner(), &x), &x);
            wanted.backward();
            assert!(report.loss.allclose(&wanted, 1e-5, 1e-6, false));
            for ((name, variable), found) in vars.select("*").unwrap().iter().zip(&found) {
                assert!(variable.grad().allclose(found, 1e-4, 1e-5, false), "{there} {checkpoint} {name}");
            }
        }
    }
}

#[derive(Flow)]
struct Noisy {
    value: Tensor,
    noise: Tensor,
}

/// Takes tokens and two more values, and gives two.
struct Embed(Linear);

impl Layer<(Tensor, (Tensor, Tensor))> for Embed {
    type Out = Noisy;

    fn run(&self, (x, (scale, noise)): (Tensor, (Tensor, Tensor)), _cx: &Context) -> Noisy {
        Noisy { value: x.apply(&self.0) * scale, noise: noise.tanh() }
    }
}

struct Project(Linear);

impl Layer<Noisy> for Project {
    type Out = Tensor;

    fn run(&self, x: Noisy, _cx: &Context) -> Tensor {
        (x.value + x.noise).apply(&self.0)
    }
}

#[pipeline(chunks = 2, input = (Tensor, (Tensor, Tensor)))]
struct Parts {
    #[device("cpu")]
    #[stash(scale = input.1.0, noise = output.noise)]
    embed: Embed,
    #[device("cpu")]
    project: Project,
    #[device("cpu")]
    #[pop(scale)]
    add_scale: Add,
    #[pop(noise)]
    add_noise: Add,
}

#[test]
fn a_part_of_a_value_is_kept_with_its_gradient() {
    let _serial = pipe_tests::serial();
    let vars = Parts::vars(&Devices::cpu(Parts::STAGES)).unwrap();
    let model = Parts {
        embed: Embed(linear(vars.embed(), 8, 8)),
        project: Project(linear(vars.project(), 8, 8)),
        add_scale: Add,
        add_noise: Add,
    };
    let leaves = [leaf(4), leaf(4), leaf(4)];
    let [x, scale, noise] = &leaves;
    let expected = (x.apply(&model.embed.0) * scale + noise.tanh()).apply(&model.project.0) + scale + noise.tanh();
    let wanted = Tensor::run_backward(&[expected.square().sum(Kind::Float)], &leaves, false, false);

    let mut pipe = model.pipe(&vars).build().unwrap();
    let found = pipe.forward((x, (scale, noise))).unwrap();
    assert!(found.allclose(&expected, 1e-5, 1e-6, false));
    let gradients = Tensor::run_backward(&[found.square().sum(Kind::Float)], &leaves, false, false);
    for (found, wanted) in gradients.iter().zip(&wanted) {
        assert!(found.allclose(wanted, 1e-4, 1e-5, false));
    }
}
