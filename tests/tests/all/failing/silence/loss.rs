//! The loss is computed once, from the outputs, and must be a finite number.

use super::*;

#[test]
fn the_loss_closure_runs_once_for_each_micro_batch_and_may_change_what_it_captures() {
    let _serial = pipe_tests::serial();
    for method in [ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::ZbH1, ScheduleKind::ZbH2] {
        for (mode, count) in MODES.into_iter().flat_map(|mode| [1, 3, 8].map(|count| (mode, count))) {
            let (net, vars) = net(func(Tensor::tanh));
            let mut pipe = net.pipe(&vars).checkpoint(mode).schedule(method).build().unwrap();
            let (mut counted, mut losses) = (0, Vec::new());
            let x = rows(count);
            let report = pipe.train_step(&x, &x, |output, y: &Tensor| {
                counted += output.size()[0];
                let loss = mse(output, y);
                losses.push(f64::try_from(&loss).unwrap());
                loss
            });
            let report = report.unwrap();
            assert_eq!(counted, count, "{method}, {mode}");
            let reported: Vec<f64> = report.losses.iter().map(|loss| loss.double_value(&[])).collect();
            assert_eq!(losses, reported);
        }
    }
}

/// A layer that counts its passes.
struct Counts(Arc<Mutex<[usize; 2]>>);

impl Layer<Tensor> for Counts {
    type Out = Tensor;

    fn run(&self, x: Tensor, cx: &Context) -> Tensor {
        self.0.lock().unwrap()[usize::from(cx.is_recomputing())] += 1;
        x * 1.
    }
}

#[pipeline(chunks = 4)]
struct Counting {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    counts: Counts,
}

#[test]
fn a_backward_right_after_its_forward_recomputes_nothing() {
    let _serial = pipe_tests::serial();
    for (method, recomputed) in [(ScheduleKind::OneFOneB, 0), (ScheduleKind::ZbH1, 0), (ScheduleKind::GPipe, 3)] {
        let count = Arc::new(Mutex::new([0; 2]));
        let vars = Counting::vars(&Devices::cpu(2)).unwrap();
        let net = Counting { first: linear(vars.first(), 8, 8), counts: Counts(Arc::clone(&count)) };
        let mut pipe = net.pipe(&vars).checkpoint(Checkpoint::Always).schedule(method).build().unwrap();
        pipe.train_step(rows(8), rows(8), mse).unwrap();
        assert_eq!(*count.lock().unwrap(), [4, recomputed], "{method}");
    }
}

#[test]
fn a_step_that_trains_nothing_is_an_error() {
    let _serial = pipe_tests::serial();
    type Loss = fn(&Tensor, &Tensor) -> Tensor;
    let losses: [(&str, Loss); 4] = [
        ("all is frozen", mse),
        ("the output is detached", |output, y| mse(&output.detach(), y)),
        ("under `no_grad`", |output, y| tch::no_grad(|| mse(output, y))),
        ("an accuracy", |output, y| {
            output.argmax(-1, false).eq_tensor(&y.argmax(-1, false)).to_kind(Kind::Float).mean(Kind::Float)
        }),
    ];
    for (mode, (name, loss)) in MODES.into_iter().flat_map(|mode| losses.map(|loss| (mode, loss))) {
        let (mut pipe, vars) = pipe(mode);
        if name == "all is frozen" {
            vars.var_store().variables().values().for_each(|variable| drop(variable.set_requires_grad(false)));
        }
        let error = pipe.train_step(rows(4), rows(4), loss).unwrap_err().to_string();
        assert!(error.starts_with("the step would train nothing"), "{mode}, {name}: {error}");
        assert_eq!(trained(&vars), 0);
    }
}

#[test]
fn a_step_of_which_one_micro_batch_trains_trains() {
    let _serial = pipe_tests::serial();
    let (mut pipe, vars) = pipe(Checkpoint::Always);
    let mut number = 0;
    let constant_but_once = |output: &Tensor, y: &Tensor| {
        number += 1;
        if number == 2 { mse(output, y) } else { Tensor::from(1_f32) }
    };
    pipe.train_step(rows(8), rows(8), constant_but_once).unwrap();
    assert_eq!(trained(&vars), 4);
}

#[test]
fn a_leaf_of_the_closures_own_is_no_training() {
    let _serial = pipe_tests::serial();
    let (mut pipe, vars) = pipe(Checkpoint::Never);
    let error = pipe.train_step(rows(8), rows(8), |output, y: &Tensor| {
        let scale = Tensor::ones([1], (Kind::Float, y.device())).set_requires_grad(true);
        mse(&(output.detach() * scale), y)
    });
    assert!(error.unwrap_err().to_string().starts_with("the step would train nothing"));
    assert_eq!(trained(&vars), 0);
}

/// Closures of `train_step` may capture a `Cell`, because they need not be `Fn` or `Sync`.
#[test]
fn the_callers_cells_count_too() {
    let _serial = pipe_tests::serial();
    let (mut pipe, _vars) = pipe(Checkpoint::Always);
    let count = Cell::new(0);
    let x = rows(7);
    pipe.train_step(&x, &x, |output, y: &Tensor| {
        count.set(count.get() + output.size()[0]);
        mse(output, y)
    })
    .unwrap();
    assert_eq!(count.get(), 7);
    // `Carried` is `Send`, so it can be part of a model.
    fn is_send<T: Send>(_: &T) {}
    is_send(&Carried::<Tensor>::new());
}
