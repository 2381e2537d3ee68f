//! Changing state: it is updated once per micro-batch, belongs to one stage, and is restored after
//! a failure.

use super::*;

/// A layer that moves its variable halfway to the mean of its input.
struct Centre(Tensor);

impl Layer<Tensor> for Centre {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        let moved = tch::no_grad(|| &self.0 * 0.5 + x.mean_dim([0_i64].as_slice(), false, Kind::Float) * 0.5);
        self.0.data().copy_(&moved);
        (x - self.0.copy()).square()
    }
}

#[pipeline(chunks = 3)]
struct Centred {
    #[device("cpu")]
    scale: Func<'static>,
    #[device("cpu")]
    centre: Centre,
    fails: Func<'static>,
}

#[test]
fn a_frozen_variable_that_a_layer_moves_is_moved_once_and_put_back_after_a_failure() {
    let _serial = pipe_tests::serial();
    for mode in MODES {
        let vars = Centred::vars(&Devices::cpu(2)).unwrap();
        let centre = vars.centre().zeros("c", &[8]).set_requires_grad(false);
        let scale = vars.scale().ones("s", &[8]);
        let (factor, fails) = (scale.shallow_clone(), Arc::new(Mutex::new(true)));
        let trigger = Arc::clone(&fails);
        let fails_once = func(move |x| {
            if std::mem::take(&mut *trigger.lock().unwrap()) {
                std::panic::resume_unwind(Box::new("on purpose"));
            }
            x * 1.
        });
        let net =
            Centred { scale: func(move |x| x * &factor), centre: Centre(centre.shallow_clone()), fails: fails_once };
        let mut pipe = net.pipe(&vars).checkpoint(mode).build().unwrap();
        let x = Tensor::ones([6, 8], (Kind::Float, tch::Device::Cpu));
        assert!(pipe.forward(&x).is_err());
        assert_eq!(centre.double_value(&[0]), 0.);
        pipe.forward(&x).unwrap().sum(Kind::Float).backward();
        // The state is 1 - 0.5^3. The gradient is 2 (1/2 + 1/4 + 1/8) for each of two rows.
        assert_eq!((centre.double_value(&[0]), scale.grad().double_value(&[0])), (0.875, 3.5), "{mode}");
    }
}

#[test]
fn a_variable_that_belongs_to_no_layer_is_an_error_that_names_it() {
    let _serial = pipe_tests::serial();
    let vars = Normed::vars(&Devices::cpu(2)).unwrap();
    let norm = nn::batch_norm1d(vars.var_store().root() / "bn1", 8, Default::default());
    let net = Normed { norm, head: linear(vars.head(), 8, 2), end: func(Tensor::relu) };
    let error = net.pipe(&vars).build().unwrap_err().to_string();
    assert!(error.starts_with("the variable `bn1.bias` belongs to no layer of `Normed`"), "{error}");
}

#[test]
fn a_variable_that_another_stage_changes_is_an_error_before_it_is_changed() {
    let _serial = pipe_tests::serial();
    for mode in MODES {
        let vars = Normed::vars(&Devices::cpu(2)).unwrap();
        let norm = nn::batch_norm1d(vars.head() / "bn", 8, Default::default());
        let (mean, variance) = (norm.running_mean.shallow_clone(), norm.running_var.shallow_clone());
        let net = Normed { norm, head: linear(vars.head(), 8, 2), end: func(Tensor::relu) };
        let mut pipe = net.pipe(&vars).checkpoint(mode).build().unwrap();
        let error = pipe.forward(rows(12)).unwrap_err().to_string();
        assert!(
            error.contains("stage 0, layer `norm`: stage 0 changes the variable `head.bn.running_mean`"),
            "{error}"
        );
        assert_eq!((mean.double_value(&[0]), variance.double_value(&[0])), (0., 1.));
        // In evaluation mode it is only read, which is allowed.
        pipe.eval();
        let _ = pipe.forward(rows(12)).unwrap();
    }
}

#[test]
fn a_variable_that_changes_and_that_another_stage_reads_is_an_error_in_the_first_call() {
    let _serial = pipe_tests::serial();
    for mode in MODES {
        let vars = Normed::vars(&Devices::cpu(2)).unwrap();
        let norm = nn::batch_norm1d(vars.norm(), 8, Default::default());
        let mean = norm.running_mean.shallow_clone();
        let seen = mean.shallow_clone();
        let end = func(move |x| x + seen.mean(Kind::Float));
        let net = Normed { norm, head: linear(vars.head(), 8, 2), end };
        let mut pipe = net.pipe(&vars).checkpoint(mode).build().unwrap();
        let error = pipe.forward(rows(12)).unwrap_err().to_string();
        assert!(
            error.contains(
                "the variable `norm.running_mean` of stage 0 is changed by its layers, and stage 1 uses it too"
            ),
            "{error}"
        );
        assert_eq!(mean.double_value(&[0]), 0.);
    }
}

#[pipeline(chunks = 4)]
struct Dropping {
    #[device("cpu")]
    drop: FuncT<'static>,
    #[device("cpu")]
    fails: Func<'static>,
}

#[test]
fn a_call_that_fails_draws_no_random_number_of_the_callers() {
    let _serial = pipe_tests::serial();
    let vars = Dropping::vars(&Devices::cpu(2)).unwrap();
    let fails = Arc::new(Mutex::new(false));
    let trigger = Arc::clone(&fails);
    let end = func(move |x| {
        if *trigger.lock().unwrap() {
            std::panic::resume_unwind(Box::new("on purpose"));
        }
        x.shallow_clone()
    });
    let mut pipe = Dropping { drop: dropout(0.5), fails: end }.pipe(&vars).build().unwrap();
    let x = rows(8);
    tch::manual_seed(9);
    let expected = pipe.forward(&x).unwrap();
    tch::manual_seed(9);
    *fails.lock().unwrap() = true;
    assert!(pipe.forward(&x).is_err());
    *fails.lock().unwrap() = false;
    assert_eq!(pipe.forward(&x).unwrap(), expected);
}

/// A model whose call can fail. A failing call draws no random number, so the next call has the
/// same seed, but it counts as another call.
#[pipeline(chunks = 3)]
struct Deferred {
    #[device("cpu")]
    norm: DeferredBatchNorm,
    #[device("cpu")]
    fails: Func<'static>,
}

#[test]
fn the_statistics_of_a_failed_call_are_no_part_of_the_next_ones() {
    let _serial = pipe_tests::serial();
    let x = rows(6);
    let expected = x.var_dim([0_i64].as_slice(), true, false) * 0.1 + 0.9;
    for mode in MODES {
        let fails = Arc::new(Mutex::new(true));
        let trigger = Arc::clone(&fails);
        let end = func(move |x| {
            if std::mem::take(&mut *trigger.lock().unwrap()) {
                std::panic::resume_unwind(Box::new("on purpose"));
            }
            x * 1.
        });
        let vars = Deferred::vars(&Devices::cpu(2)).unwrap();
        let norm = DeferredBatchNorm::new1d(vars.norm(), 8, Default::default());
        let mut pipe = Deferred { norm, fails: end }.pipe(&vars).checkpoint(mode).build().unwrap();
        assert!(pipe.forward(rows(6) * 100.).is_err());
        let _ = pipe.forward(&x).unwrap();
        let found = vars.var_store().variables()["norm.running_var"].shallow_clone();
        assert!(found.allclose(&expected, 1e-5, 1e-6, false), "{mode}");
    }
}

/// A layer that updates statistics by the operator that has no flag for it.
struct Updates([Tensor; 2]);

impl Layer<Tensor> for Updates {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        let [mean, variance] = &self.0;
        let _ = tch::no_grad(|| Tensor::batch_norm_update_stats(&x.detach(), Some(mean), Some(variance), 0.1));
        x * 1.
    }
}

#[pipeline(chunks = 3)]
struct Updating {
    #[device("cpu")]
    first: Linear,
    updates: Updates,
    #[device("cpu")]
    fails: Func<'static>,
}

#[test]
fn statistics_of_every_operator_are_updated_once_and_put_back() {
    let _serial = pipe_tests::serial();
    for (mode, fails) in MODES.into_iter().flat_map(|mode| [false, true].map(|fails| (mode, fails))) {
        let vars = Updating::vars(&Devices::cpu(2)).unwrap();
        let mean = vars.updates().zeros_no_train("running_mean", &[8]);
        let variance = vars.updates().ones_no_train("running_var", &[8]);
        let mut first = linear(vars.first(), 8, 8);
        let _ = tch::no_grad(|| first.ws.fill_(0.));
        let _ = tch::no_grad(|| first.bs.as_mut().unwrap().fill_(1.));
        let end = func(move |x| if fails { std::panic::resume_unwind(Box::new("on purpose")) } else { x * 1. });
        let updates = Updates([mean.shallow_clone(), variance]);
        let mut pipe = Updating { first, updates, fails: end }.pipe(&vars).checkpoint(mode).build().unwrap();
        match pipe.forward(rows(12)) {
            Ok(y) => y.sum(Kind::Float).backward(),
            Err(_) => assert!(fails),
        }
        // 1 - 0.9^3.
        let expected = if fails { 0. } else { 0.271 };
        assert!((mean.double_value(&[0]) - expected).abs() < 1e-6, "{mode}, {fails}: {mean:?}");
    }
}

/// A layer that multiplies by a state that it updates. Its graph saves the variable itself.
struct Follows(Tensor);

impl Layer<Tensor> for Follows {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        let mean = tch::no_grad(|| &self.0 * 0.5 + x.mean_dim([0_i64].as_slice(), false, Kind::Float));
        self.0.data().copy_(&mean);
        x * &self.0
    }
}

#[pipeline(chunks = 4)]
struct Following {
    #[device("cpu")]
    first: Linear,
    follows: Follows,
    #[device("cpu")]
    last: Linear,
}

#[test]
fn a_backward_sees_the_state_that_its_forward_left() {
    let _serial = pipe_tests::serial();
    for (mode, method) in MODES
        .into_iter()
        .flat_map(|mode| [ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::ZbH1].map(|method| (mode, method)))
    {
        tch::manual_seed(4);
        let vars = Following::vars(&Devices::cpu(2)).unwrap();
        let (first, last) = (linear(vars.first(), 8, 8), linear(vars.last(), 8, 8));
        let (x, y) = (rows(8), rows(8));
        // Plain tch runs micro-batch by micro-batch, with a new state tensor for each.
        let mut state = Tensor::ones([8], (Kind::Float, x.device()));
        let mut losses = Vec::new();
        for (x, y) in x.chunk(4, 0).iter().zip(y.chunk(4, 0)) {
            let h = x.apply(&first);
            state = &state * 0.5 + h.detach().mean_dim([0_i64].as_slice(), false, Kind::Float);
            losses.push(mse(&(h * &state).apply(&last), &y) / 4.);
        }
        let variables = [first.ws.shallow_clone(), last.ws.shallow_clone()];
        let expected = Tensor::run_backward(&[losses.into_iter().sum::<Tensor>()], &variables, false, false);
        let moving = vars.follows().ones_no_train("state", &[8]);
        let net = Following { first, follows: Follows(moving.shallow_clone()), last };
        let mut pipe = net.pipe(&vars).checkpoint(mode).schedule(method).build().unwrap();
        pipe.train_step(&x, &y, mse).unwrap();
        for (variable, expected) in variables.iter().zip(&expected) {
            assert!(variable.grad().allclose(expected, 1e-4, 1e-6, false), "{mode}, {method}");
        }
        assert!(moving.allclose(&state, 1e-5, 1e-6, false), "{mode}, {method}");
    }
}
