//! Deferred batch norm: its statistics are those of the whole mini-batch, and are committed once.

use pipe_runtime::nn::{DeferredBatchNorm, DeferredBatchNormConfig};
use pipe_runtime::{Checkpoint, Devices, Pipe, pipeline};
use pipe_tests::compare::leaf;
use pipe_tests::layers::{func, linear};
use proptest::prelude::*;
use tch::nn::{self, Func, Linear, ModuleT};
use tch::{Kind, Tensor};

#[pipeline]
struct Net {
    #[device("cpu")]
    first: Func<'static>,
    norm: DeferredBatchNorm,
    #[device("cpu")]
    last: Linear,
}

fn net(config: DeferredBatchNormConfig, chunks: usize, checkpoint: Checkpoint) -> (Pipe<Net>, NetVars) {
    let vars = Net::vars(&Devices::cpu(2)).unwrap();
    let net = Net {
        first: func(|x| x + 100.),
        norm: DeferredBatchNorm::new1d(vars.norm(), 8, config),
        last: linear(vars.last(), 8, 2),
    };
    (net.pipe(&vars).chunks(chunks).checkpoint(checkpoint).build().unwrap(), vars)
}

fn modes() -> impl Strategy<Value = Checkpoint> {
    prop_oneof![Just(Checkpoint::Always), Just(Checkpoint::ExceptLast), Just(Checkpoint::Never)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    /// This includes means that are large relative to the deviations, and mini-batches that do not
    /// divide evenly.
    #[test]
    fn running_statistics_are_those_of_full_batch_batch_norm(
        mode in modes(),
        chunks in 1..7_usize,
        rows in 2..20_i64,
        seed in 0..1000_i64,
        momentum in prop_oneof![Just(Some(0.1)), Just(Some(1.0)), Just(None)],
    ) {
        let _serial = pipe_tests::serial();
        tch::manual_seed(seed);
        let (mut pipe, vars) = net(DeferredBatchNormConfig { momentum, ..Default::default() }, chunks, mode);
        let store = nn::VarStore::new(tch::Device::Cpu);
        let mut config = nn::BatchNormConfig::default();
        for step in 1..4 {
            // tch has no cumulative average, which is equal to a momentum of 1 / step.
            config.momentum = momentum.unwrap_or(1. / f64::from(step));
            let plain = nn::batch_norm1d(store.root() / step, 8, config);
            if step > 1 {
                let before = |name: &str| store.variables()[&format!("{}.{name}", step - 1)].shallow_clone();
                plain.running_mean.shallow_clone().copy_(&before("running_mean"));
                plain.running_var.shallow_clone().copy_(&before("running_var"));
            }
            let x = leaf(rows);
            let _ = plain.forward_t(&(&x + 100.), true);
            pipe.forward(&x).unwrap().sum(Kind::Float).backward();
            let variables = vars.var_store().variables();
            for (name, expected) in [("running_mean", &plain.running_mean), ("running_var", &plain.running_var)] {
                let found = &variables[&format!("norm.{name}")];
                prop_assert!(found.allclose(expected, 1e-5, 1e-5, false), "{name}: {found:?} {expected:?}");
            }
        }
    }
}

#[test]
fn gradients_are_those_of_batch_norm_on_each_micro_batch() {
    let _serial = pipe_tests::serial();
    tch::manual_seed(1);
    let (mut pipe, vars) = net(DeferredBatchNormConfig::default(), 2, Checkpoint::Always);
    let variables = vars.var_store().variables();
    let x = leaf(6);
    let mut outputs = Vec::new();
    for part in x.chunk(2, 0) {
        let normal = Tensor::batch_norm(
            &(part + 100.),
            Some(&variables["norm.weight"]),
            Some(&variables["norm.bias"]),
            None,
            None,
            true,
            0.,
            1e-5,
            true,
        );
        let last = nn::Linear {
            ws: variables["last.weight"].shallow_clone(),
            bs: Some(variables["last.bias"].shallow_clone()),
        };
        outputs.push(normal.apply(&last));
    }
    let expected = Tensor::cat(&outputs, 0);
    let leaves: Vec<_> = [&x, &variables["norm.weight"], &variables["norm.bias"]].into();
    let expected_gradients = Tensor::run_backward(&[expected.square().sum(Kind::Float)], &leaves, false, false);
    let found = pipe.forward(&x).unwrap();
    assert_eq!(found, expected);
    assert_eq!(Tensor::run_backward(&[found.square().sum(Kind::Float)], &leaves, false, false), expected_gradients);
}

#[test]
fn evaluation_uses_the_running_statistics_and_leaves_them() {
    let _serial = pipe_tests::serial();
    let (mut pipe, vars) = net(DeferredBatchNormConfig::default(), 3, Checkpoint::Never);
    let _ = pipe.forward(leaf(6)).unwrap();
    let before = vars.var_store().variables()["norm.running_mean"].copy();
    pipe.eval();
    let x = leaf(6);
    let whole = pipe.forward(&x).unwrap();
    let one = pipe.forward(x.narrow(0, 2, 1)).unwrap();
    assert!(whole.narrow(0, 2, 1).allclose(&one, 1e-5, 1e-6, false));
    assert_eq!(vars.var_store().variables()["norm.running_mean"], before);
}

#[test]
fn a_training_pass_without_gradients_commits_too() {
    let _serial = pipe_tests::serial();
    let (mut pipe, vars) = net(DeferredBatchNormConfig::default(), 3, Checkpoint::Always);
    let _ = tch::no_grad(|| pipe.forward(leaf(6)).unwrap());
    let mean = vars.var_store().variables()["norm.running_mean"].mean(Kind::Float);
    assert!((f64::try_from(mean).unwrap() - 10.).abs() < 1., "a tenth of the mean, 100");
}

#[test]
fn two_and_three_dimensions_from_a_plain_batch_norm() {
    #[pipeline(chunks = 2)]
    struct Both {
        #[device("cpu")]
        two: DeferredBatchNorm,
        widen: Func<'static>,
        #[device("cpu")]
        three: DeferredBatchNorm,
    }
    let _serial = pipe_tests::serial();
    let vars = Both::vars(&Devices::cpu(2)).unwrap();
    let config = DeferredBatchNormConfig { affine: false, ..Default::default() };
    let plain = nn::batch_norm3d(vars.three(), 3, nn::BatchNormConfig { affine: false, ..Default::default() });
    let model = Both {
        two: DeferredBatchNorm::new2d(vars.two(), 3, config),
        widen: func(|x| x.unsqueeze(-1)),
        three: DeferredBatchNorm::from_batch_norm(vars.three(), plain, config),
    };
    let mut pipe = model.pipe(&vars).build().unwrap();
    let x = Tensor::randn([6, 3, 4, 5], (Kind::Float, tch::Device::Cpu)) * 3. + 2.;
    let _ = pipe.forward(&x).unwrap();
    let variables = vars.var_store().variables();
    let mut names: Vec<_> = variables.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["three.running_mean", "three.running_var", "two.running_mean", "two.running_var"]);
    let dims: &[i64] = &[0, 2, 3];
    let mean = x.mean_dim(dims, false, Kind::Float) * 0.1;
    let var = x.var_dim(dims, true, false) * 0.1 + 0.9;
    assert!(variables["two.running_mean"].allclose(&mean, 1e-5, 1e-6, false));
    assert!(variables["two.running_var"].allclose(&var, 1e-5, 1e-6, false));
    let error = pipe.forward(x.narrow(3, 0, 1).squeeze_dim(3)).unwrap_err().to_string();
    assert!(error.contains("batch norm 2d: an input of 3 dimensions"), "{error}");
}

#[test]
fn it_trains_between_convolutions_as_unpipelined() {
    #[pipeline(chunks = 3)]
    struct Images {
        #[device("cpu")]
        first: nn::Conv2D,
        norm: DeferredBatchNorm,
        #[device("cpu")]
        relu: Func<'static>,
        last: nn::Conv2D,
    }

    fn make() -> (Images, ImagesVars) {
        tch::manual_seed(2);
        let vars = Images::vars(&Devices::cpu(2)).unwrap();
        let model = Images {
            first: nn::conv2d(vars.first(), 2, 4, 3, Default::default()),
            norm: DeferredBatchNorm::new2d(vars.norm(), 4, Default::default()),
            relu: func(Tensor::relu),
            last: nn::conv2d(vars.last(), 4, 1, 3, Default::default()),
        };
        (model, vars)
    }

    fn train(vars: &ImagesVars, mut forward: impl FnMut(&Tensor) -> Tensor) -> Vec<(String, Tensor)> {
        let mut optimizer = nn::OptimizerConfig::build(nn::Sgd::default(), vars.var_store(), 0.1).unwrap();
        tch::manual_seed(4);
        for _ in 0..4 {
            // The micro-batches are ragged: 3, 3 and 1 rows.
            let x = Tensor::randn([7, 2, 6, 6], (Kind::Float, tch::Device::Cpu));
            optimizer.backward_step(&forward(&x).square().mean(Kind::Float));
        }
        let mut variables: Vec<_> = vars.var_store().variables().into_iter().collect();
        variables.sort_by(|(a, _), (b, _)| a.cmp(b));
        variables
    }

    let _serial = pipe_tests::serial();
    let (model, vars) = make();
    let expected = train(&vars, |x| model.unpipelined().intra_op_threads(1).forward(x).unwrap());
    for mode in [Checkpoint::Always, Checkpoint::ExceptLast, Checkpoint::Never] {
        let (model, vars) = make();
        let mut pipe = model.pipe(&vars).checkpoint(mode).intra_op_threads(1).build().unwrap();
        assert_eq!(train(&vars, |x| pipe.forward(x).unwrap()), expected, "{mode}");
    }
}

#[test]
fn the_weight_and_the_bias_begin_as_the_settings_say() {
    let _serial = pipe_tests::serial();
    let vars = Net::vars(&Devices::cpu(2)).unwrap();
    let (ws_init, bs_init) = (nn::Init::Const(1.), nn::Init::Const(-2.));
    DeferredBatchNorm::new1d(vars.norm(), 8, DeferredBatchNormConfig { ws_init, bs_init, ..Default::default() });
    let variables = vars.var_store().variables();
    for (name, expected) in [("norm.weight", 1.), ("norm.bias", -2.)] {
        assert_eq!(Vec::<f32>::try_from(&variables[name]).unwrap(), [expected; 8], "{name}");
    }
}
