//! Layers are divided into stages by their measured costs, and measuring changes nothing.

use std::thread::sleep;
use std::time::Duration;

use pipe_runtime::balance::{Balance, Profile};
use pipe_runtime::nn::Concat;
use pipe_runtime::{Context, Devices, Layer, MessagePrice, Rows, ScheduleKind, pipeline};
use pipe_tests::layers::{dropout, func, linear};
use pipe_tests::serial;
use tch::nn::{self, BatchNorm, Conv2D, Func, FuncT, Linear, Module, VarStore};
use tch::{Device, Kind, Tensor};

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

/// A block of layers of one type.
#[pipeline]
struct Chain<L: Layer<Tensor, Out = Tensor>> {
    #[repeat]
    layers: Vec<L>,
}

type Stack = Chain<Func<'static>>;

/// Profiles `layers` as a model whose store is empty.
fn of<L: Module>(layers: Vec<L>, profile: impl FnOnce(Balance<'_, Chain<L>>) -> Profile) -> Profile {
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
fn keep(times: usize) -> Func<'static> {
    func(move |x| (0..times).fold(x.shallow_clone(), |x, _| x.sigmoid()))
}

fn sample(size: &[i64]) -> Tensor {
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
fn a_limit_of_memory_moves_the_cut() {
    let _serial = serial();
    let delays = [(0, 4), (0, 4), (0, 1), (40, 1)];
    let layers = || {
        let layer = |(wait, kept): (u64, usize)| {
            func(move |x: &Tensor| {
                sleep(Duration::from_millis(wait));
                (0..kept).fold(x.shallow_clone(), |x, _| x.sigmoid())
            })
        };
        delays.map(layer).into()
    };
    let x = sample(&[1000]);
    assert_eq!(of(layers(), |b| b.stages(2).by_time(&x).unwrap()).balance(), [3, 1]);
    assert_eq!(of(layers(), |b| b.stages(2).memory_limit(8 * 4000).by_time(&x).unwrap()).balance(), [2, 2]);
}

/// The first stage of 1F1B has two micro-batches in flight, the second one has one: layers of the
/// first are recomputed, those that keep much for their time, and the slow one is not.
#[test]
fn a_limit_of_memory_chooses_what_is_recomputed() {
    let _serial = serial();
    let layers = || {
        let layer = |(wait, kept): (u64, usize)| {
            func(move |x: &Tensor| {
                sleep(Duration::from_millis(wait));
                (0..kept).fold(x.shallow_clone(), |x, _| x.sigmoid())
            })
        };
        [(20, 8), (1, 8), (20, 8), (21, 8)].map(layer).into()
    };
    let x = sample(&[2000]);
    let balance = |limit: u64| {
        of(layers(), |b| {
            let balance = b.stages(2).chunks(2).memory_limit(limit).param_scale(0.);
            balance.recompute(ScheduleKind::OneFOneB).by_time(&x).unwrap()
        })
    };
    let recomputed = |profile: &Profile| profile.layers().iter().map(|layer| layer.recomputed).collect::<Vec<_>>();
    // A micro-batch is 1000 rows of 4 bytes, of which each layer keeps eight: 2 x 2 x 32000.
    let all = balance(130_000);
    assert_eq!((all.balance(), recomputed(&all)), (vec![2, 2], vec![false; 4]));
    assert_eq!(all.layers()[1].activation_bytes, 32_000);
    // What the next layer keeps as well remains.
    assert_eq!(all.layers()[1].recomputed_bytes, 4_000);
    let less = balance(110_000);
    assert_eq!((less.balance(), recomputed(&less)), (vec![2, 2], vec![false, true, false, false]));
    // 2 x (32000 + 4000), and 28000 that are made again.
    assert_eq!(less.stages()[0].memory_bytes, 100_000);
    assert!(less.stages()[0].cost > all.stages()[0].cost);
    // So does the model's output.
    assert_eq!(all.layers()[3].recomputed_bytes, 4_000);
    // In the last stage there is one micro-batch at a time, and it keeps both of its layers.
    assert_eq!(less.stages()[1].memory_bytes, 64_000);

    let refused = |stages, limit: Option<u64>, schedule, by_time: bool| {
        let store = VarStore::new(Device::Cpu);
        let model = Chain { layers: layers() };
        let balance = Balance::of_block(&model, &store, &store.root()).stages(stages).chunks(2).recompute(schedule);
        let balance = limit.into_iter().fold(balance, Balance::memory_limit);
        if by_time { balance.by_time(&x) } else { balance.by_size(&x) }.unwrap_err().to_string()
    };
    let kind = ScheduleKind::OneFOneB;
    assert!(refused(2, None, kind, true).contains("set `memory_limit`"));
    assert!(refused(2, Some(9), kind, false).contains("`by_time`"));
    let little = refused(2, Some(9), kind, true);
    let expected = "no partition keeps every stage within 9 B: the best of 2 stages take up to";
    assert!(little.starts_with(expected), "{little}");
    let two_each = refused(3, Some(9), ScheduleKind::Zbv, true);
    assert!(two_each.contains("zbv"), "{two_each}");
}

#[test]
fn a_transfer_that_costs_time_moves_the_cut() {
    let _serial = serial();
    // The smallest crossing is after the third layer.
    let layers = || {
        vec![
            func(|x| x.sin()),
            func(|x| x.sin()),
            func(|x| x.narrow(0, 0, 1) * 2.),
            func(|x| x.expand([1000], false).sin()),
        ]
    };
    let x = sample(&[1000]);
    let profile = of(layers(), |b| b.stages(2).seconds_per_byte(1.).by_time(&x).unwrap());
    let crossing: Vec<_> = profile.layers().iter().map(|layer| layer.crossing_bytes).collect();
    assert_eq!(crossing, [8000, 8000, 8, 0]);
    assert_eq!(profile.balance(), [3, 1]);
}

#[test]
fn between_processes_a_cut_is_where_little_crosses() {
    let _serial = serial();
    // What crosses: 8000, 8, 8, 8000 bytes.
    let layers = || {
        vec![
            func(|x| x.sin()),
            func(|x| x.narrow(0, 0, 1) * 2.),
            func(|x| x.sin()),
            func(|x| x.expand([1000], false).sin()),
            func(|x| x.sin()),
        ]
    };
    let x = sample(&[1000]);
    let price = MessagePrice { latency: Duration::from_secs(1), seconds_per_byte: 1. };
    let profile = of(layers(), |b| b.stages(3).processes(2, price).by_time(&x).unwrap());
    // The first process has two stages, and only what leaves the second of them is a message.
    let processes: Vec<_> = profile.stages().iter().map(|stage| stage.process).collect();
    assert_eq!(processes, [Some(0), Some(0), Some(1)]);
    assert!([2, 3].contains(&profile.stages()[1].layers.end), "{:?}", profile.balance());
    let messages = |stage: usize| profile.stages()[stage].cost.floor();
    assert_eq!([messages(0), messages(1), messages(2)], [0., 8. + 2., 8. + 2.]);
    let alone = of(layers(), |b| b.stages(3).by_time(&x).unwrap());
    assert!(alone.stages().iter().all(|stage| stage.process.is_none() && stage.cost < 1.));
    let error = |processes: usize| {
        let store = VarStore::new(Device::Cpu);
        let model = Chain { layers: layers() };
        let balance = Balance::of_block(&model, &store, &store.root()).stages(3).processes(processes, price);
        balance.by_size(&x).unwrap_err().to_string()
    };
    assert_eq!(error(0), "there must be at least one process");
    assert!(error(4).contains("4 processes for 3 ranks"), "{}", error(4));
}

#[test]
fn a_skip_is_a_message_where_it_goes_to_another_process() {
    let _serial = serial();
    #[pipeline]
    struct Far {
        #[device("cpu")]
        #[stash(far = output)]
        first: Func<'static>,
        #[device("cpu")]
        #[stash(near = output)]
        second: Func<'static>,
        #[device("cpu")]
        third: Func<'static>,
        #[device("cpu")]
        #[pop(far)]
        fourth: Concat,
        #[pop(near)]
        fifth: Concat,
    }

    let vars = Far::vars(&Devices::cpu(Far::STAGES)).unwrap();
    let net = || Far {
        first: func(|x| x.sin()),
        second: func(|x| x.sin()),
        third: func(|x| x.sin()),
        fourth: Concat::default(),
        fifth: Concat::default(),
    };
    let messages = |devices: Devices, kind: ScheduleKind| {
        let price = MessagePrice { latency: Duration::from_secs(1), seconds_per_byte: 0. };
        let net = net();
        let balance = Balance::of(&net, &vars).devices(&devices.for_schedule(kind, None)).processes(2, price);
        let profile = balance.timeout(Duration::ZERO).by_time(sample(&[2, 8])).unwrap();
        // Each message goes there and back, and counts on both sides.
        let of = |process: usize| profile.stages().iter().filter(move |stage| stage.process == Some(process));
        [0, 1].map(|process| of(process).map(|stage| stage.cost.floor() as usize / 2).sum::<usize>())
    };
    // Both skips go from the first process to the second one, however the layers are divided, and
    // so does the flow.
    assert_eq!(messages(Devices::cpu(4), ScheduleKind::GPipe), [3, 3]);
    // There and back: the first process has the first and the last stage, so `far` is a message
    // unless the last stage has both layers at the end.
    let [first, second] = messages(Devices::cpu(4), ScheduleKind::Zbv);
    assert!(first == second && (2..=4).contains(&first), "{first} {second}");
}

#[test]
fn skips_cross_straight_and_integers_bring_no_gradient_back() {
    let _serial = serial();
    #[pipeline]
    struct Skips {
        #[device("cpu")]
        #[stash(level = output)]
        down: Func<'static>,
        order: Func<'static>,
        #[device("cpu")]
        inner: Func<'static>,
        #[pop(level)]
        concat: Concat,
    }

    let vars = Skips::vars(&Devices::cpu(Skips::STAGES)).unwrap();
    let model = Skips {
        down: func(|x| x.sin()),
        order: func(|x| x.argsort(1, false)),
        inner: func(|x| x.to_kind(Kind::Float)),
        concat: Concat::default(),
    };
    let profile = Balance::of(&model, &vars).by_size(sample(&[2, 100])).unwrap();
    let crossing: Vec<_> = profile.layers().iter().map(|layer| layer.crossing_bytes).collect();
    assert_eq!(crossing, [1600, 1600, 800, 0]);
    let [level] = profile.skips() else { panic!("one skip") };
    assert_eq!((level.name, level.from, level.to, level.bytes), ("level", 0, 3, 1600));
}

#[test]
fn in_place_layers_hand_on_what_they_changed() {
    let _serial = serial();
    let layers = vec![func(|x| x.sin()), func(|x| x.shallow_clone().relu_()), func(|x| x.exp())];
    let profile = of(layers, |balance| balance.stages(3).by_size(sample(&[100])).unwrap());
    let crossing: Vec<_> = profile.layers().iter().map(|layer| layer.crossing_bytes).collect();
    assert_eq!(crossing, [800, 800, 0]);
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
