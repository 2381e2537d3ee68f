//! Optimizers over stages, against formulas in double precision, against tch's, and against
//! themselves under other partitionings.

use pipe_runtime::optim::{Adam, AdamW, Group, LossScaler, LrSchedule, Rule, Sgd};
use pipe_runtime::{Devices, Error, Optimizer, OptimizerBuilder, Pipe, pipeline};
use pipe_tests::layers::linear;
use pipe_tests::serial;
use proptest::prelude::*;
use tch::nn::{self, Linear, OptimizerConfig};
use tch::{Device, Kind, Tensor};

macro_rules! net {
    ($name:ident, $spread:meta, $more:meta) => {
        #[pipeline(allow(single_stage))]
        struct $name {
            #[device("cpu")]
            #[$spread]
            blocks: [Linear; 4],
            #[$more]
            head: Linear,
        }

        impl Model for $name {
            fn make(width: i64) -> (Pipe<Self>, Vec<(String, Tensor)>) {
                tch::manual_seed(7);
                let vars = $name::vars(&Devices::cpu($name::STAGES)).unwrap();
                let blocks = vars.blocks().map(|path| linear(path, width, width));
                let head = linear(vars.head(), width, 2);
                let named = vars.select("*").unwrap();
                ($name { blocks, head }.pipe(&vars).build().unwrap(), named)
            }
        }
    };
}

trait Model: pipe_runtime::Pipeline<Input = Tensor, Output = Tensor> {
    fn make(width: i64) -> (Pipe<Self>, Vec<(String, Tensor)>);
}

net!(Whole, repeat, doc = "In the stage of the blocks.");
net!(Halves, repeat, device("cpu"));

#[pipeline]
struct Spread {
    #[devices("cpu", "cpu", "cpu")]
    blocks: [Linear; 4],
    #[device("cpu")]
    head: Linear,
}

impl Model for Spread {
    fn make(width: i64) -> (Pipe<Self>, Vec<(String, Tensor)>) {
        tch::manual_seed(7);
        let vars = Spread::vars(&Devices::cpu(Spread::STAGES)).unwrap();
        let blocks = vars.blocks().map(|path| linear(path, width, width));
        let head = linear(vars.head(), width, 2);
        let named = vars.select("*").unwrap();
        (Spread { blocks, head }.pipe(&vars).build().unwrap(), named)
    }
}

/// Adds `gradient` to the parameter's own.
fn give(parameter: &Tensor, gradient: &Tensor) {
    (parameter * gradient).sum(parameter.kind()).backward();
}

/// Gradients that depend on the step and on the parameter's name alone.
fn gradients(named: &[(String, Tensor)], step: i64) -> Vec<Tensor> {
    let gradient = |(name, tensor): &(String, Tensor)| {
        tch::manual_seed(step * 1000 + name.bytes().map(i64::from).sum::<i64>());
        tensor.randn_like().detach() * 0.1
    };
    named.iter().map(gradient).collect()
}

fn values(named: &[(String, Tensor)]) -> Vec<Tensor> {
    named.iter().map(|(_, tensor)| tensor.detach().copy()).collect()
}

fn equal(a: &[Tensor], b: &[Tensor]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.equal(b))
}

fn farthest(a: &[Tensor], b: &[Tensor]) -> f64 {
    let far = |(a, b): (&Tensor, &Tensor)| {
        let (a, b) = (a.to_kind(Kind::Double), b.to_kind(Kind::Double));
        ((&a - &b).abs() / (b.abs() + 1e-3)).max().double_value(&[])
    };
    a.iter().zip(b).map(far).fold(0., f64::max)
}

/// One parameter as the formulas of the papers update it, in double precision.
struct Formula {
    value: Tensor,
    first: Option<Tensor>,
    second: Option<Tensor>,
    greatest: Option<Tensor>,
    step: i32,
}

impl Formula {
    fn new(value: &Tensor) -> Self {
        let value = value.detach().to_kind(Kind::Double);
        Self { value, first: None, second: None, greatest: None, step: 0 }
    }

    fn update(&mut self, rule: &Rule, lr: f64, gradient: &Tensor) {
        self.step += 1;
        match *rule {
            Rule::Adam(o) => {
                let gradient = if o.maximize { -gradient } else { gradient.shallow_clone() };
                self.adam(&(gradient + o.weight_decay * &self.value), lr, o.betas, o.eps, o.amsgrad);
            }
            Rule::AdamW(o) => {
                let gradient = if o.maximize { -gradient } else { gradient.shallow_clone() };
                self.value = &self.value * (1. - lr * o.weight_decay);
                self.adam(&gradient, lr, o.betas, o.eps, o.amsgrad);
            }
            Rule::Sgd(o) => {
                let gradient = if o.maximize { -gradient } else { gradient.shallow_clone() };
                let gradient = gradient + o.weight_decay * &self.value;
                let direction = if o.momentum == 0. {
                    gradient
                } else {
                    let buffer = match &self.first {
                        None => gradient.copy(),
                        Some(buffer) => o.momentum * buffer + (1. - o.dampening) * &gradient,
                    };
                    self.first = Some(buffer.copy());
                    if o.nesterov { gradient + o.momentum * buffer } else { buffer }
                };
                self.value = &self.value - lr * direction;
            }
            _ => unreachable!("all rules are listed"),
        }
    }

    fn adam(&mut self, gradient: &Tensor, lr: f64, (b1, b2): (f64, f64), eps: f64, amsgrad: bool) {
        let zero = || gradient.zeros_like();
        let first = b1 * self.first.take().unwrap_or_else(zero) + (1. - b1) * gradient;
        let second = b2 * self.second.take().unwrap_or_else(zero) + (1. - b2) * gradient * gradient;
        let mut under = second.copy();
        if amsgrad {
            under = self.greatest.take().unwrap_or_else(zero).max_other(&second);
            self.greatest = Some(under.copy());
        }
        let under = under.sqrt() / (1. - b2.powi(self.step)).sqrt() + eps;
        self.value = &self.value - lr / (1. - b1.powi(self.step)) * &first / under;
        (self.first, self.second) = (Some(first), Some(second));
    }
}

fn rules() -> impl Strategy<Value = Rule> {
    let betas = || (0.5..0.99, 0.9..0.9999);
    let adam = (1e-4..0.1, betas(), 0. ..0.3, any::<bool>(), any::<bool>());
    let sgd = (1e-4..0.1, prop_oneof![Just(0.), 0.1..0.95], 0. ..0.3, any::<bool>(), any::<bool>());
    prop_oneof![
        adam.clone().prop_map(|(lr, betas, weight_decay, amsgrad, maximize)| {
            AdamW { lr, betas, eps: 1e-8, weight_decay, amsgrad, maximize }.into()
        }),
        adam.prop_map(|(lr, betas, weight_decay, amsgrad, maximize)| {
            Adam { lr, betas, eps: 1e-8, weight_decay, amsgrad, maximize }.into()
        }),
        sgd.prop_map(|(lr, momentum, weight_decay, plain, maximize)| {
            let dampening = if plain || momentum == 0. { 0. } else { 0.2 };
            Sgd { lr, momentum, dampening, weight_decay, nesterov: plain && momentum > 0., maximize }.into()
        }),
    ]
}

#[derive(Clone, Debug)]
struct Case {
    rule: Rule,
    decay_of_vectors: Option<f64>,
    lr_of_head: Option<f64>,
    clip: Option<f64>,
    warmup: u64,
    frozen: Vec<bool>,
    width: i64,
}

fn cases() -> impl Strategy<Value = Case> {
    let clip = prop_oneof![Just(None), (0.01..10.).prop_map(Some)];
    let frozen = prop::collection::vec(prop::bool::weighted(0.3), 10);
    let some = |range: std::ops::Range<f64>| prop::option::of(range);
    (rules(), some(0. ..0.1), some(1e-4..0.1), clip, 0u64..5, frozen, 1i64..40).prop_map(
        |(rule, decay_of_vectors, lr_of_head, clip, warmup, frozen, width)| Case {
            rule,
            decay_of_vectors,
            lr_of_head,
            clip,
            warmup,
            frozen,
            width,
        },
    )
}

fn configured(case: &Case, mut builder: OptimizerBuilder) -> OptimizerBuilder {
    if let Some(decay) = case.decay_of_vectors {
        builder = builder.group(Group::biases_and_norms().weight_decay(decay));
    }
    if let Some(lr) = case.lr_of_head {
        builder = builder.group(Group::pattern("head").lr(lr));
    }
    if let Some(limit) = case.clip {
        builder = builder.clip_norm(limit);
    }
    builder.lr_schedule(LrSchedule::constant().warmup(case.warmup))
}

/// Trains on made-up gradients. Returns the norms and the parameters.
fn train<M: Model>(case: &Case, steps: i64) -> (Vec<f64>, Vec<Tensor>) {
    let (pipe, named) = M::make(case.width);
    let mut optimizer = configured(case, pipe.optimizer(case.rule)).build().unwrap();
    let mut norms = Vec::new();
    for step in 0..steps {
        let gradients = gradients(&named, step);
        for (index, ((_, parameter), gradient)) in named.iter().zip(&gradients).enumerate() {
            // The first half of the steps trains all, the second half leaves some out.
            let frozen = step >= steps / 2 && case.frozen[index] && index > 0;
            let _ = parameter.set_requires_grad(!frozen);
            if !frozen {
                give(parameter, gradient);
            }
        }
        norms.push(optimizer.step().unwrap().norm);
        optimizer.zero_grad().unwrap();
    }
    (norms, values(&named))
}

fn by_formula(case: &Case, steps: i64) -> Vec<Tensor> {
    let (_, named) = Whole::make(case.width);
    let mut formulas: Vec<_> = named.iter().map(|(_, tensor)| Formula::new(tensor)).collect();
    for step in 0..steps {
        let gradients = gradients(&named, step);
        let trained = |index: usize| !(step >= steps / 2 && case.frozen[index] && index > 0);
        let counted = gradients.iter().enumerate().filter(|&(index, _)| trained(index));
        let squares = counted.map(|(_, g)| g.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[]));
        let norm = squares.sum::<f64>().sqrt();
        let factor = case.clip.map_or(1., |limit| (limit / (norm + 1e-6)).min(1.));
        let warm = if (step as u64) < case.warmup { (step + 1) as f64 / case.warmup as f64 } else { 1. };
        for (index, formula) in formulas.iter_mut().enumerate().filter(|&(index, _)| trained(index)) {
            let (name, tensor) = &named[index];
            let mut rule = case.rule;
            let mut lr = rule.lr();
            if let (Some(decay), true) = (case.decay_of_vectors, tensor.dim() <= 1) {
                match &mut rule {
                    Rule::Adam(o) => o.weight_decay = decay,
                    Rule::AdamW(o) => o.weight_decay = decay,
                    Rule::Sgd(o) => o.weight_decay = decay,
                    _ => unreachable!("all rules are listed"),
                }
            } else if let (Some(other), true) = (case.lr_of_head, name.starts_with("head")) {
                lr = other;
            }
            formula.update(&rule, lr * warm, &(gradients[index].to_kind(Kind::Double) * factor));
        }
    }
    formulas.into_iter().map(|formula| formula.value).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn parameters_are_those_of_the_formulas_for_every_partitioning(case in cases()) {
        let _serial = serial();
        let (norms, whole) = train::<Whole>(&case, 6);
        let far = farthest(&whole, &by_formula(&case, 6));
        prop_assert!(far < 2e-3, "{far} from the formulas");
        for (other_norms, other) in [train::<Halves>(&case, 6), train::<Spread>(&case, 6)] {
            prop_assert_eq!(&other_norms, &norms);
            prop_assert!(equal(&other, &whole), "another partitioning gives other bits");
        }
    }
}

/// Parameters that are larger than a piece, and that no piece divides.
#[test]
fn large_parameters_are_updated_to_the_last_element_with_the_same_bits_everywhere() {
    let _serial = serial();
    let case = Case {
        rule: AdamW::default().into(),
        decay_of_vectors: None,
        lr_of_head: None,
        clip: Some(1.),
        warmup: 0,
        frozen: vec![false; 10],
        width: 613,
    };
    let (norms, whole) = train::<Whole>(&case, 3);
    assert!(farthest(&whole, &by_formula(&case, 3)) < 2e-3);
    let (other_norms, other) = train::<Spread>(&case, 3);
    assert_eq!(other_norms, norms);
    assert!(equal(&other, &whole));
}

/// In 16 bits too, where one of libtorch's own kernels leaves the parameters as they are.
#[test]
fn parameters_of_every_kind_are_updated() {
    let _serial = serial();
    let momentum = Sgd { lr: 0.1, momentum: 0.9, weight_decay: 0.1, ..Sgd::default() };
    let rules: [Rule; 4] = [
        AdamW { lr: 0.1, ..AdamW::default() }.into(),
        Adam { lr: 0.1, amsgrad: true, ..Adam::default() }.into(),
        Sgd { lr: 0.1, ..Sgd::default() }.into(),
        momentum.into(),
    ];
    for (kind, bar) in [(Kind::Double, 1e-12), (Kind::Float, 1e-5), (Kind::Half, 1.5e-2), (Kind::BFloat16, 4e-2)] {
        for rule in rules {
            let (pipe, named) = Halves::make(37);
            for (_, variable) in &named {
                variable.shallow_clone().set_data(&variable.detach().to_kind(kind));
            }
            let mut optimizer = pipe.optimizer(rule).build().unwrap();
            let mut formulas: Vec<_> = named.iter().map(|(_, variable)| Formula::new(variable)).collect();
            for step in 0..4 {
                for ((_, variable), formula) in named.iter().zip(&mut formulas) {
                    let gradient = (variable.randn_like().detach() + step) * 0.5;
                    give(variable, &gradient);
                    formula.update(&rule, rule.lr(), &gradient.to_kind(Kind::Double));
                }
                optimizer.step().unwrap();
                optimizer.zero_grad().unwrap();
            }
            let far = |((_, variable), formula): (&(String, Tensor), &Formula)| {
                (variable.detach().to_kind(Kind::Double) - &formula.value).abs().max().double_value(&[])
            };
            let far = named.iter().zip(&formulas).map(far).fold(0., f64::max);
            assert!(far < bar, "{rule:?} in {kind:?}: {far}");
        }
    }
}

#[test]
fn a_training_with_tchs_optimizers_gives_the_same_losses() {
    let _serial = serial();
    let x = Tensor::randn([16, 8], (Kind::Float, Device::Cpu));
    let y = Tensor::randn([16, 2], (Kind::Float, Device::Cpu));
    let loss = |output: &Tensor, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean);
    let ours = |rule: Rule| {
        let (mut pipe, _) = Spread::make(8);
        let mut optimizer = pipe.optimizer(rule).build().unwrap();
        (0..20)
            .map(|_| {
                let report = pipe.train_step(&x, &y, loss).unwrap();
                optimizer.step().unwrap();
                optimizer.zero_grad().unwrap();
                report.loss.double_value(&[])
            })
            .collect::<Vec<_>>()
    };
    let tchs = |build: &dyn Fn(&nn::VarStore) -> nn::Optimizer| {
        tch::manual_seed(7);
        let vars = Spread::vars(&Devices::cpu(Spread::STAGES)).unwrap();
        let blocks = vars.blocks().map(|path| linear(path, 8, 8));
        let net = Spread { blocks, head: linear(vars.head(), 8, 2) };
        let mut pipe = net.pipe(&vars).build().unwrap();
        let mut optimizer = build(vars.var_store());
        (0..20)
            .map(|_| {
                let report = pipe.train_step(&x, &y, loss).unwrap();
                optimizer.step();
                optimizer.zero_grad();
                report.loss.double_value(&[])
            })
            .collect::<Vec<_>>()
    };
    let close = |a: Vec<f64>, b: Vec<f64>| a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5 * b.abs());
    assert!(close(
        ours(AdamW { lr: 0.01, weight_decay: 0.05, ..AdamW::default() }.into()),
        tchs(&|vars| nn::AdamW { wd: 0.05, ..nn::AdamW::default() }.build(vars, 0.01).unwrap()),
    ));
    assert!(close(
        ours(Adam { lr: 0.01, ..Adam::default() }.into()),
        tchs(&|vars| nn::Adam::default().build(vars, 0.01).unwrap()),
    ));
    assert!(close(
        ours(Sgd { lr: 0.001, momentum: 0.9, nesterov: true, ..Sgd::default() }.into()),
        tchs(&|vars| nn::Sgd { momentum: 0.9, dampening: 0., wd: 0., nesterov: true }.build(vars, 0.001).unwrap()),
    ));
}

fn small() -> (Pipe<Halves>, Vec<(String, Tensor)>, Optimizer) {
    let (pipe, named) = Halves::make(4);
    let optimizer = pipe.optimizer(AdamW::default()).build().unwrap();
    (pipe, named, optimizer)
}

#[test]
fn nothing_changes_if_a_gradient_is_not_finite() {
    let _serial = serial();
    for unfit in [f64::NAN, f64::INFINITY] {
        let (_pipe, named, mut optimizer) = small();
        let before = values(&named);
        for (name, parameter) in &named {
            give(parameter, &(parameter.ones_like() * if name == "blocks.2.bias" { unfit } else { 1. }).detach());
        }
        let error = optimizer.step().unwrap_err();
        assert!(matches!(error, Error::Output(_)));
        assert_eq!(error.to_string(), "the gradient of `blocks.2.bias` is not finite: nothing was updated");
        assert_eq!(optimizer.updates(), 0);

        let mut scaler = LossScaler::default();
        let update = optimizer.step_scaled(&mut scaler).unwrap();
        assert!(update.skipped);
        assert_eq!((scaler.scale(), optimizer.updates()), (32768., 0));
        assert!(equal(&values(&named), &before));
    }
}

#[test]
fn a_scaled_loss_gives_the_same_update() {
    let _serial = serial();
    let run = |scale: f64| {
        let (_pipe, named, mut optimizer) = small();
        let mut scaler = LossScaler::default().with_scale(scale);
        let mut norms = Vec::new();
        for step in 0..3 {
            for ((_, parameter), gradient) in named.iter().zip(gradients(&named, step)) {
                give(parameter, &(gradient * scaler.scale()));
            }
            norms.push(optimizer.step_scaled(&mut scaler).unwrap().norm);
            optimizer.zero_grad().unwrap();
        }
        (norms, values(&named))
    };
    let (norms, parameters) = run(1.);
    let (scaled_norms, scaled) = run(1024.);
    assert_eq!(norms, scaled_norms);
    assert!(equal(&parameters, &scaled));
}

#[test]
fn gradients_are_clipped_by_value() {
    let _serial = serial();
    let (pipe, named) = Halves::make(4);
    let mut optimizer = pipe.optimizer(Sgd { lr: 1., ..Sgd::default() }).clip_value(0.05).build().unwrap();
    let (before, gradients) = (values(&named), gradients(&named, 1));
    for ((_, parameter), gradient) in named.iter().zip(&gradients) {
        give(parameter, &(gradient * 8.));
    }
    let mut scaler = LossScaler::default().with_scale(8.);
    optimizer.step_scaled(&mut scaler).unwrap();
    let expected: Vec<_> = before.iter().zip(&gradients).map(|(b, g)| b - g.clamp(-0.05, 0.05)).collect();
    assert!(equal(&values(&named), &expected));
}

#[test]
fn the_moving_average_follows_and_can_be_put_in_the_models_place() {
    let _serial = serial();
    let (mut pipe, named) = Spread::make(4);
    let mut optimizer = pipe.optimizer(Sgd { lr: 0.1, ..Sgd::default() }).moving_average(0.9).build().unwrap();
    let mut expected = values(&named);
    for step in 0..4 {
        for ((_, parameter), gradient) in named.iter().zip(gradients(&named, step)) {
            give(parameter, &gradient);
        }
        optimizer.step().unwrap();
        optimizer.zero_grad().unwrap();
        for (average, now) in expected.iter_mut().zip(values(&named)) {
            *average = &*average * 0.9 + now * 0.1;
        }
    }
    let trained = values(&named);
    optimizer.swap_average().unwrap();
    assert!(farthest(&values(&named), &expected) < 1e-5);
    let x = Tensor::ones([2, 4], (Kind::Float, Device::Cpu));
    let by_average = pipe.predict(&x).unwrap();
    give(&named[0].1, &named[0].1.ones_like().detach());
    let error = optimizer.step().unwrap_err().to_string();
    assert_eq!(error, "the model holds its moving averages: call `swap_average` again before training");
    optimizer.swap_average().unwrap();
    assert!(equal(&values(&named), &trained));
    assert!(!by_average.equal(&pipe.predict(&x).unwrap()));
}

#[test]
fn what_cannot_be_updated_is_named() {
    let _serial = serial();
    let (_pipe, named, mut optimizer) = small();
    let error = optimizer.step().unwrap_err().to_string();
    assert!(error.starts_with("no parameter has a gradient, so there is nothing to update"), "{error}");

    let weight = &named.iter().find(|(name, _)| name == "blocks.0.weight").unwrap().1;
    let rows = Tensor::from_slice(&[1i64]);
    Tensor::embedding(weight, &rows, -1, false, true).sum(Kind::Float).backward();
    let error = optimizer.step().unwrap_err().to_string();
    assert!(error.starts_with("`blocks.0.weight` has a sparse gradient"), "{error}");
    optimizer.zero_grad().unwrap();

    give(weight, &weight.ones_like().detach());
    optimizer.step().unwrap();
    optimizer.zero_grad().unwrap();
    let double = weight.detach().to_kind(Kind::Double);
    weight.shallow_clone().set_data(&double);
    give(weight, &weight.ones_like().detach());
    let error = optimizer.step().unwrap_err().to_string();
    assert!(error.starts_with("`blocks.0.weight` is Double on Cpu now, and its optimizer was built when"), "{error}");
}

#[test]
fn wrong_options_are_refused_when_the_optimizer_is_built() {
    let _serial = serial();
    let (pipe, _) = Halves::make(4);
    let refused = |change: &dyn Fn(OptimizerBuilder) -> OptimizerBuilder| {
        change(pipe.optimizer(AdamW::default())).build().unwrap_err().to_string()
    };
    assert_eq!(
        refused(&|o| o.group(Group::pattern("blokcs").lr(0.))),
        "no variable is selected by `blokcs`: did you mean `blocks`?"
    );
    assert_eq!(refused(&|o| o.group(Group::matching(|_, _| false))), "Group::matching(..) selects no variable");
    assert_eq!(
        refused(&|o| o.group(Group::pattern("*")).group(Group::pattern("head"))),
        "Group::pattern(\"head\") selects only variables that an earlier group has: put it before that"
    );
    assert_eq!(
        refused(&|o| o.group(Group::pattern("head").lr(-1.))),
        "AdamW: lr is -1, and must be a finite number of at least 0"
    );
    assert_eq!(refused(&|o| o.clip_norm(1.).clip_value(1.)), "`clip_norm` and `clip_value` are both set: choose one");
    assert_eq!(refused(&|o| o.clip_norm(0.)), "gradients are clipped to a finite number above 0, and not to 0");
    assert_eq!(
        refused(&|o| o.moving_average(1.)),
        "the decay of a moving average is at least 0 and below 1, and not 1"
    );
    assert_eq!(
        refused(&|o| o.lr_schedule(LrSchedule::cosine(0, 0.1))),
        "LrSchedule::cosine(0, 0.1): updates are counted from 1, and factors are finite and at least 0"
    );
}

/// The update is a change for autograd: a graph that was recorded before it cannot be used.
#[test]
fn graphs_from_before_an_update_notice_it() {
    let _serial = serial();
    let (_pipe, named, mut optimizer) = small();
    let weight = &named.iter().find(|(name, _)| name == "head.weight").unwrap().1;
    let squares = weight.square().sum(Kind::Float);
    give(weight, &weight.ones_like().detach());
    optimizer.step().unwrap();
    let error = squares.f_backward().unwrap_err().to_string();
    assert!(error.contains("modified by an inplace operation"), "{error}");
}
