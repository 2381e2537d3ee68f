//! What layers cost is measured, divides them into stages, and is written down. Measuring changes
//! nothing.

use std::thread::sleep;
use std::time::Duration;

use pipe_runtime::balance::{Balance, Profile};
use pipe_runtime::{Context, Devices, Layer, Rows, pipeline};
use pipe_tests::layers::{dropout, func, linear};
use pipe_tests::serial;
use tch::nn::{self, BatchNorm, Conv2D, Func, FuncT, Linear, Module, VarStore};
use tch::{Device, Kind, Tensor};

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

/// A block of layers of one type.
#[pipeline]
pub(super) struct Chain<L: Layer<Tensor, Out = Tensor>> {
    #[repeat]
    pub(super) layers: Vec<L>,
}

type Stack = Chain<Func<'static>>;

/// Profiles `layers` as a model whose store is empty.
pub(super) fn of<L: Module>(layers: Vec<L>, profile: impl FnOnce(Balance<'_, Chain<L>>) -> Profile) -> Profile {
    let store = VarStore::new(Device::Cpu);
    let model = Chain { layers };
    profile(Balance::of_block(&model, &store, &store.root()).timeout(Duration::ZERO))
}

fn delay(milliseconds: u64) -> Func<'static> {
    func(move |x| {
        sleep(Duration::from_millis(milliseconds));
        x.shallow_clone()
    })
}

/// Creates a layer that keeps `times` outputs for its backward.
pub(super) fn keep(times: usize) -> Func<'static> {
    func(move |x| (0..times).fold(x.shallow_clone(), |x, _| x.sigmoid()))
}

pub(super) fn sample(size: &[i64]) -> Tensor {
    Tensor::rand(size, CPU).set_requires_grad(true)
}

#[test]
fn by_time_layers_that_take_long_get_stages_of_their_own() {
    let _serial = serial();
    let balance = |delays: [u64; 6], stages| {
        let x = Tensor::rand([1], CPU);
        of(delays.map(delay).into(), |balance| balance.stages(stages).by_time(x).unwrap()).balance()
    };
    assert_eq!(balance([1, 1, 1, 1, 1, 40], 2), [5, 1]);
    assert_eq!(balance([40, 1, 1, 1, 1, 1], 2), [1, 5]);
    assert_eq!(balance([1, 1, 1, 40, 1, 1], 3), [3, 1, 2]);
}

#[test]
fn a_sample_needs_no_tensor() {
    #[pipeline(input = Rows<String>, chunks = 2)]
    struct Words {
        count: Count,
        last: Linear,
    }

    struct Count;

    impl Layer<Rows<String>> for Count {
        type Out = Tensor;

        fn run(&self, Rows(words): Rows<String>, _cx: &Context) -> Tensor {
            Tensor::from_slice(&words.iter().map(|word| word.len() as f32).collect::<Vec<_>>()).unsqueeze(-1)
        }
    }

    let _serial = serial();
    let store = VarStore::new(Device::Cpu);
    let model = Words { count: Count, last: linear(store.root().sub("last"), 1, 2) };
    let balance = || Balance::of_block(&model, &store, &store.root()).stages(2).timeout(Duration::ZERO);
    let words = Rows(vec!["two", "words", "and", "more"]);
    assert_eq!(balance().by_time(words.clone()).unwrap().balance(), [1, 1]);
    assert_eq!(balance().by_size(words).unwrap().balance(), [1, 1]);
}

#[test]
fn the_backward_counts_for_the_layer_whose_forward_it_belongs_to() {
    let _serial = serial();
    /// A layer whose forward reads one weight, and whose backward fills the gradient of all of
    /// them.
    #[derive(Debug)]
    struct Slice(Tensor);

    impl Module for Slice {
        fn forward(&self, x: &Tensor) -> Tensor {
            x * self.0.narrow(0, 0, 1)
        }
    }

    #[pipeline]
    struct Slices {
        cos: Func<'static>,
        slice: Slice,
        sin: Func<'static>,
    }

    let store = VarStore::new(Device::Cpu);
    let vars = Slices::vars_at(store.root());
    let slice = Slice(vars.slice().zeros("weight", &[1 << 23]));
    let model = Slices { cos: func(|x| x.cos()), slice, sin: func(|x| x.sin()) };
    let balance = Balance::of_block(&model, &store, &store.root()).timeout(Duration::from_millis(400));
    let profile = balance.stages(3).by_time(sample(&[8])).unwrap();
    let [cos, slice, sin] = profile.layers() else { panic!("three layers") };
    assert!(slice.backward > 10 * slice.forward, "{profile}");
    assert!(slice.backward > 10 * (cos.backward + sin.backward), "{profile}");
}

#[test]
fn without_gradients_there_is_no_backward() {
    let _serial = serial();
    let x = Tensor::ones([8], CPU);
    let profile = of(vec![func(|x| x.tanh()), func(|x| x.sin())], |balance| balance.stages(2).by_time(x).unwrap());
    assert!(profile.layers().iter().all(|layer| layer.backward.is_zero()), "{profile}");
}

#[test]
fn each_pass_begins_with_the_sample_again() {
    let _serial = serial();
    #[pipeline]
    struct Shapes {
        conv: Conv2D,
        flat: Func<'static>,
        head: Linear,
    }

    let store = VarStore::new(Device::Cpu);
    let vars = Shapes::vars_at(store.root());
    let model = Shapes {
        conv: nn::conv2d(vars.conv(), 3, 2, 1, Default::default()),
        flat: func(|x| x.flat_view()),
        head: linear(vars.head(), 128, 10),
    };
    let x = Tensor::rand([10, 3, 8, 8], CPU);
    let profile =
        Balance::of_block(&model, &store, &store.root()).stages(2).timeout(Duration::ZERO).by_time(&x).unwrap();
    assert_eq!(profile.balance().iter().sum::<usize>(), 3);
}

#[test]
fn by_size_activations_count() {
    let _serial = serial();
    let x = sample(&[10, 100, 100]);
    let profile = |times: [usize; 6]| of(times.map(keep).into(), |balance| balance.stages(2).by_size(&x).unwrap());
    assert_eq!(profile([1, 2, 3, 4, 5, 6]).balance(), [4, 2]);
    assert_eq!(profile([6, 5, 4, 3, 2, 1]).balance(), [2, 4]);
    let kept: Vec<_> = profile([1, 2, 3, 4, 5, 6]).layers().iter().map(|layer| layer.activation_bytes).collect();
    assert_eq!(kept, [1, 2, 3, 4, 5, 6].map(|times| times * 10 * 100 * 100 * 4));
}

#[test]
fn by_size_activations_are_those_of_one_micro_batch() {
    let _serial = serial();
    let x = sample(&[12, 100]);
    let kept = |chunks| {
        let profile = of(vec![keep(1)], |balance| balance.stages(1).chunks(chunks).by_size(&x).unwrap());
        profile.layers()[0].activation_bytes
    };
    assert_eq!((kept(1), kept(4)), (12 * 100 * 4, 3 * 100 * 4));
}

#[test]
fn memory_that_is_freed_before_the_backward_is_no_activation() {
    let _serial = serial();
    // The saved tensors are the inputs of the two sines. The addition's backward saves nothing.
    let layers = vec![func(|x| (x.sin() + 1.).sin()), func(|x| x + 1.), func(|x| x.sum(Kind::Float).unsqueeze(0))];
    let profile = of(layers, |balance| balance.stages(1).by_size(sample(&[1000])).unwrap());
    let kept: Vec<_> = profile.layers().iter().map(|layer| layer.activation_bytes).collect();
    assert_eq!(kept, [4000, 0, 4]);
}

#[test]
fn by_size_parameters_count() {
    let _serial = serial();
    let balance = |sizes: [(i64, i64); 6]| {
        let store = VarStore::new(Device::Cpu);
        let root = &store.root();
        let paths = Chain::<Linear>::vars_at(root / "net").layers(6);
        let layers = paths.into_iter().zip(sizes).map(|(path, (inputs, outputs))| linear(path, inputs, outputs));
        let model = Chain { layers: layers.collect() };
        let x = Tensor::rand([7, sizes[0].0], CPU);
        let balance = Balance::of_block(&model, &store, &(root / "net"));
        balance.stages(2).param_scale(100.).by_size(&x).unwrap()
    };
    let rising = balance([(1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7)]);
    assert_eq!(rising.balance(), [4, 2]);
    assert_eq!(rising.layers()[5].parameter_bytes, (6 * 7 + 7) * 4);
    assert_eq!(balance([(7, 6), (6, 5), (5, 4), (4, 3), (3, 2), (2, 1)]).balance(), [2, 4]);
}

#[test]
fn the_scale_weighs_parameters_against_activations() {
    let _serial = serial();
    #[derive(Debug)]
    struct Tradeoff {
        _unused: Linear,
        kept: usize,
    }

    impl Module for Tradeoff {
        fn forward(&self, x: &Tensor) -> Tensor {
            (0..self.kept).fold(x.shallow_clone(), |x, _| x.sigmoid())
        }
    }

    let store = VarStore::new(Device::Cpu);
    let vars = Chain::<Tradeoff>::vars_at(store.root());
    let layers = vars.layers(6).into_iter().zip(1..7_usize);
    let layers =
        layers.map(|(path, size)| Tradeoff { _unused: linear(path, size as i64, size as i64), kept: 7 - size });
    let model = Chain { layers: layers.collect() };
    let balance = |scale| {
        let balance = Balance::of_block(&model, &store, &store.root()).stages(2);
        balance.param_scale(scale).by_size(sample(&[1])).unwrap().balance()
    };
    assert_eq!(balance(0.), [2, 4]);
    // The layers have 2, 6, 12, 20, 30 and 42 parameters. A split into 70 and 42 is better than
    // torchgpipe's 40 and 72.
    assert_eq!(balance(100.), [5, 1]);
}

/// A layer that changes a variable that is not trained, one that is, and its input.
#[derive(Debug)]
struct Meddles {
    linear: Linear,
    counter: Tensor,
}

impl Module for Meddles {
    fn forward(&self, x: &Tensor) -> Tensor {
        let _ = self.counter.shallow_clone().f_add_scalar_(1.).unwrap();
        let _ = self.linear.ws.data().f_mul_scalar_(2.).unwrap();
        x.shallow_clone().relu_().apply(&self.linear)
    }
}

#[pipeline]
struct Stateful {
    #[device("cpu")]
    meddles: Meddles,
    norm: BatchNorm,
    #[device("cpu")]
    drop: FuncT<'static>,
    fails: Func<'static>,
}

fn stateful(fails: bool) -> (Stateful, StatefulVars) {
    let vars = Stateful::vars(&Devices::cpu(Stateful::STAGES)).unwrap();
    let path = vars.meddles();
    let counter = path.zeros_no_train("counter", &[1]);
    let model = Stateful {
        meddles: Meddles { linear: linear(path, 8, 8), counter },
        norm: nn::batch_norm1d(vars.norm(), 8, Default::default()),
        drop: dropout(0.5),
        fails: func(move |x| if fails { x.view([-7]) } else { x.shallow_clone() }),
    };
    (model, vars)
}

fn values(vars: &StatefulVars) -> Vec<(String, Tensor)> {
    let mut named: Vec<_> =
        vars.var_store().variables().into_iter().map(|(name, value)| (name, value.detach().copy())).collect();
    named.sort_by(|(a, _), (b, _)| a.cmp(b));
    named
}

#[test]
fn nothing_of_the_model_or_the_caller_changes() {
    let _serial = serial();
    let (model, vars) = stateful(false);
    let before = values(&vars);
    let x = (Tensor::randn([6, 8], CPU) - 0.5).set_requires_grad(true);
    let input = x.detach().copy();
    for by_time in [true, false] {
        tch::manual_seed(7);
        let expected = Tensor::randn([4], CPU);
        tch::manual_seed(7);
        let balance = Balance::of(&model, &vars).timeout(Duration::ZERO);
        let profile = if by_time { balance.by_time(&x) } else { balance.by_size(&x) };
        assert_eq!(profile.unwrap().balance().len(), Stateful::STAGES);
        assert_eq!(Tensor::randn([4], CPU), expected, "random numbers");
        assert_eq!(values(&vars), before, "variables");
        assert_eq!(x, input, "the sample");
        assert!(!x.grad().defined());
        assert!(vars.var_store().trainable_variables().iter().all(|parameter| !parameter.grad().defined()));
    }
}

#[test]
fn a_failing_layer_is_named_and_leaves_no_trace() {
    let _serial = serial();
    let (model, vars) = stateful(true);
    let before = values(&vars);
    let x = Tensor::rand([6, 8], CPU);
    for _ in 0..2 {
        let error = Balance::of(&model, &vars).by_time(&x).unwrap_err().to_string();
        assert!(error.starts_with("forward of micro-batch 0 in stage 0, layer `fails`: "), "{error}");
        assert_eq!(values(&vars), before);
    }
    let (model, vars) = stateful(false);
    assert!(Balance::of(&model, &vars).timeout(Duration::ZERO).by_time(&x).is_ok());
}

#[test]
fn layers_are_measured_in_training_mode_and_with_gradients() {
    let _serial = serial();
    let layers = || vec![nn::func_t(|x, train| if train { x.tanh() } else { panic!("evaluation mode") })];
    let store = VarStore::new(Device::Cpu);
    let model = Chain { layers: layers() };
    let balance = || Balance::of_block(&model, &store, &store.root()).timeout(Duration::ZERO).stages(1);
    let x = sample(&[1000]);
    let profile = tch::no_grad(|| {
        let profile = balance().by_time(&x).unwrap();
        assert!(!(&x * 2.).requires_grad());
        profile
    });
    assert!(!profile.layers()[0].backward.is_zero());
}

#[test]
fn samples_and_values_between_layers_may_be_tuples() {
    let _serial = serial();
    struct Twin;

    impl Layer<(Tensor, i64)> for Twin {
        type Out = (Tensor, Tensor);

        fn run(&self, (x, times): (Tensor, i64), _cx: &Context) -> (Tensor, Tensor) {
            (&x * times, x.detach())
        }
    }

    struct Add;

    impl Layer<(Tensor, Tensor)> for Add {
        type Out = Tensor;

        fn run(&self, (a, b): (Tensor, Tensor), _cx: &Context) -> Tensor {
            a + b
        }
    }

    #[pipeline(input = (Tensor, i64))]
    struct Pair {
        twin: Twin,
        add: Add,
    }

    let store = VarStore::new(Device::Cpu);
    let model = Pair { twin: Twin, add: Add };
    let balance = || Balance::of_block(&model, &store, &store.root()).stages(2).timeout(Duration::ZERO);
    assert_eq!(balance().by_time((sample(&[1]), 3)).unwrap().balance(), [1, 1]);
    assert_eq!(balance().by_size((sample(&[1]), 3)).unwrap().balance(), [1, 1]);
}

#[test]
fn a_parameter_with_a_gradient_is_refused() {
    let _serial = serial();
    let store = VarStore::new(Device::Cpu);
    let vars = Chain::<Linear>::vars_at(store.root());
    let model = Chain { layers: vars.layers(1).into_iter().map(|path| linear(path, 3, 3)).collect() };
    let x = Tensor::rand([2, 3], CPU);
    model.unpipelined().forward(&x).unwrap().sum(Kind::Float).backward();
    let error = Balance::of_block(&model, &store, &store.root()).stages(1).by_time(&x).unwrap_err().to_string();
    assert!(error.starts_with("some parameter already has gradient"), "{error}");
}

#[test]
fn stages_that_cannot_be_are_refused() {
    let _serial = serial();
    let store = VarStore::new(Device::Cpu);
    let model = Chain { layers: vec![keep(1), keep(1)] };
    let error = |adjust: for<'a> fn(Balance<'a, Stack>) -> Balance<'a, Stack>| {
        let balance = adjust(Balance::of_block(&model, &store, &store.root()));
        balance.by_time(sample(&[4, 250])).unwrap_err().to_string()
    };
    assert!(error(|b| b.stages(0)).starts_with("partitions must be a positive integer (0 < 1)"));
    let short = error(|b| b.stages(3));
    assert!(short.starts_with("sequence is shorter than intended partitions (2 < 3)"), "{short}");
    let devices = error(|b| b.stages(3).devices(&Devices::cpu(2)));
    assert_eq!(devices, "2 devices were given for 3 stages: give one for each stage");
    let memory = error(|b| b.stages(2).timeout(Duration::ZERO).memory_limit(2000));
    assert_eq!(memory, "no partition keeps every stage within 1.95 KiB: layer `layers[0]` alone takes 3.91 KiB");
    let memory = error(|b| b.stages(1).timeout(Duration::ZERO).memory_limit(4096));
    assert_eq!(memory, "no partition keeps every stage within 4 KiB: the best of 1 stages take up to 7.81 KiB");
}

#[test]
fn layers_of_a_block_belong_to_the_block() {
    let _serial = serial();
    #[pipeline]
    struct Block {
        linear: Linear,
        #[repeat]
        acts: [Func<'static>; 2],
    }

    #[pipeline]
    struct Outer {
        #[device("cpu")]
        block: Block,
        #[device("cpu")]
        last: Linear,
    }

    let vars = Outer::vars(&Devices::cpu(Outer::STAGES)).unwrap();
    let inner = Block::vars_at(vars.block());
    let model = Outer {
        block: Block { linear: linear(inner.linear(), 4, 8), acts: [keep(1), keep(1)] },
        last: linear(vars.last(), 8, 2),
    };
    let profile = Balance::of(&model, &vars).by_size(sample(&[5, 4])).unwrap();
    let sizes: Vec<_> =
        profile.layers().iter().map(|layer| (layer.name, layer.parameter_bytes, layer.activation_bytes)).collect();
    // The linear layer's backward does not need its output. The model's output stays alive.
    assert_eq!(sizes, [("block", (4 * 8 + 8) * 4, 2 * 5 * 8 * 4), ("last", (8 * 2 + 2) * 4, 5 * 2 * 4)]);
}

#[test]
fn the_file_says_what_the_plan_would_say() {
    let _serial = serial();
    #[pipeline]
    struct Cut {
        #[device("cuda:0")]
        first: Func<'static>,
        #[devices("cuda:0" = 1, "cuda:1" = 2)]
        layers: Vec<Func<'static>>,
    }

    let vars = Cut::vars(&Devices::cpu(Cut::STAGES)).unwrap();
    let model = Cut { first: keep(9), layers: vec![keep(1), keep(5), keep(5)] };
    let profile = Balance::of(&model, &vars).by_size(sample(&[100])).unwrap();
    assert_eq!(
        profile.annotations(),
        "#[device(\"cuda:0\")]\nfirst,\n#[devices(\"cuda:0\" = 1, \"cuda:1\" = 2)]\nlayers,\n"
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("balance.toml");
    profile.write(&file).unwrap();
    let expected = r#"# Which layer runs in which stage, as `pipe_runtime::balance` found it.
format = 1
model = "Cut"
stages = 2
devices = ["cuda:0", "cuda:1"]
costs = [4000, 4000]

[[layers]]
name = "first"
stage = 0

[[layers]]
name = "layers"
count = 3
stage = [0, 1, 1]
"#;
    assert_eq!(std::fs::read_to_string(file).unwrap(), expected);
    let error = profile.write(folder.path().join("missing/balance.toml")).unwrap_err().to_string();
    assert!(error.starts_with("cannot write "), "{error}");
}

/// Layers that are marked to be recomputed, of which two keep nothing for themselves.
#[pipeline(allow(single_stage), checkpoint = never)]
struct Marked {
    #[device("cpu")]
    #[recompute]
    shift: Func<'static>,
    #[recompute]
    relu: Func<'static>,
    linear: Linear,
    #[repeat]
    #[recompute(1)]
    keep: [Func<'static>; 2],
}

#[test]
fn a_mark_on_a_layer_that_keeps_nothing_is_noted() {
    let _serial = serial();
    let vars = Marked::vars(&Devices::cpu(1)).unwrap();
    let model = Marked {
        shift: func(|x| x + 1),
        relu: func(Tensor::relu),
        linear: linear(vars.linear(), 250, 250),
        keep: [keep(8), keep(8)],
    };
    let profile = || Balance::of(&model, &vars).stages(1).timeout(Duration::ZERO);
    for profile in [profile().by_time(sample(&[8, 250])).unwrap(), profile().by_size(sample(&[8, 250])).unwrap()] {
        let marked: Vec<_> = profile.layers().iter().map(|layer| layer.marked).collect();
        assert_eq!(marked, [true, true, false, true, false]);
        let text = profile.to_string();
        let notes: Vec<_> =
            text.lines().filter_map(|line| line.trim().strip_prefix("note: `#[recompute]` on ")).collect();
        assert_eq!(notes.len(), 2, "{text}");
        assert!(
            notes[0].starts_with("shift costs ") && notes[0].contains("it keeps nothing for its backward"),
            "{text}"
        );
        assert!(
            notes[1].starts_with("relu costs ") && notes[1].contains("all that it keeps (7.81 KiB) stays"),
            "{text}"
        );
    }
}
