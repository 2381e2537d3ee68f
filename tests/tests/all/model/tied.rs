//! Tied weights have one owner. The other stage reads the value, and sends its gradient back.

use pipe_runtime::{Checkpoint, Context, Devices, Layer, ScheduleKind, Tied, pipeline};
use pipe_tests::layers::linear;
use tch::nn::{self, Embedding, Linear};
use tch::{Device, Kind, Tensor};

/// A layer that computes token logits by the embedding's vectors.
struct Head;

impl Layer<(Tensor, Tensor)> for Head {
    type Out = Tensor;

    fn run(&self, (x, words): (Tensor, Tensor), _cx: &Context) -> Tensor {
        x.matmul(&words.tr())
    }
}

#[pipeline(chunks = 3)]
struct Language {
    #[device("cpu")]
    #[lend(words = tied)]
    embed: Embedding,
    #[device("cpu")]
    body: Linear,
    #[device("cpu")]
    #[read(words)]
    head: Head,
}

fn language() -> (Language, LanguageVars) {
    tch::manual_seed(1);
    let vars = Language::vars(&Devices::cpu(3)).unwrap();
    let model = Language {
        embed: nn::embedding(vars.embed(), 11, 8, Default::default()),
        body: linear(vars.body(), 8, 8),
        head: Head,
    };
    (model, vars)
}

fn tokens() -> Tensor {
    Tensor::from_slice(&[1_i64, 5, 3, 10, 0, 7, 7, 2])
}

#[test]
fn the_gradient_of_a_tied_weight_is_that_of_both_uses() {
    let _serial = pipe_tests::serial();
    for checkpoint in [Checkpoint::Always, Checkpoint::ExceptLast, Checkpoint::Never] {
        for method in [ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::ZbH1] {
            let (model, vars) = language();
            let parameters = vars.var_store().trainable_variables();
            assert_eq!(parameters.len(), 3, "one variable for both layers");
            let plain = model.unpipelined().chunks(1).forward(tokens()).unwrap();
            let loss = plain.cross_entropy_for_logits(&tokens());
            let expected = Tensor::run_backward(&[&loss], &parameters, false, false);

            let mut pipe = model.pipe(&vars).checkpoint(checkpoint).schedule(method).build().unwrap();
            let report =
                pipe.train_step(tokens(), tokens(), |logits, y: &Tensor| logits.cross_entropy_for_logits(y)).unwrap();
            assert!(report.loss.allclose(&loss, 1e-6, 1e-6, false));
            for (parameter, expected) in parameters.iter().zip(&expected) {
                assert!(parameter.grad().allclose(expected, 1e-5, 1e-6, false), "{method} {checkpoint}");
            }
        }
    }
}

#[test]
fn a_tied_weight_stands_once_in_a_saved_file() {
    let _serial = pipe_tests::serial();
    let (_model, vars) = language();
    let mut names: Vec<_> = vars.var_store().variables().into_keys().collect();
    names.sort();
    assert_eq!(names, ["body.bias", "body.weight", "embed.weight"]);
}

/// A user's layer that lends a tensor and a number.
struct Scale(Tensor);

impl Tied for Scale {
    type Value = (Tensor, f64);

    fn tied(&self) -> (Tensor, f64) {
        (self.0.shallow_clone(), 2.)
    }
}

impl Layer<Tensor> for Scale {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        x * &self.0
    }
}

struct Unscale;

impl Layer<(Tensor, (Tensor, f64))> for Unscale {
    type Out = Tensor;

    fn run(&self, (x, (scale, times)): (Tensor, (Tensor, f64)), _cx: &Context) -> Tensor {
        x / scale * times
    }
}

#[test]
fn a_layer_may_lend_any_value_that_flows_also_inside_a_stage() {
    #[pipeline(chunks = 2)]
    struct Scaled {
        #[device("cpu")]
        #[lend(words = tied)]
        scale: Scale,
        #[read(words)]
        unscale: Unscale,
        #[device("cpu")]
        #[read(words)]
        again: Unscale,
    }

    let _serial = pipe_tests::serial();
    let vars = Scaled::vars(&Devices::cpu(2)).unwrap();
    let scale = vars.scale().var("scale", &[8], nn::Init::Const(4.));
    let mut pipe = Scaled { scale: Scale(scale), unscale: Unscale, again: Unscale }.pipe(&vars).build().unwrap();
    let x = Tensor::ones([4, 8], (Kind::Float, Device::Cpu));
    let y = pipe.forward(&x).unwrap();
    assert_eq!(y, &x * (2. * 2. / 4.));
    y.sum(Kind::Float).backward();
    // y = 4 x / scale, so the gradient is the sum of -4 / 16 over four rows.
    assert_eq!(vars.var_store().trainable_variables()[0].grad(), Tensor::ones([8], (Kind::Float, Device::Cpu)) * -1.);
}
