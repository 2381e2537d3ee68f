//! A whole training iteration in one call, and what is left of one that fails.

use std::sync::atomic::{AtomicBool, Ordering};

use pipe_runtime::optim::{AdamW, Group, LossScaler, LrSchedule, Sgd};
use pipe_runtime::{Devices, Error, Pipe, Trainer, Vars, pipeline};
use pipe_tests::layers::linear;
use pipe_tests::serial;
use tch::nn::Linear;
use tch::{Device, Kind, Tensor, nn};

#[derive(Debug)]
struct Drop;

impl pipe_runtime::Layer<Tensor> for Drop {
    type Out = Tensor;

    fn run(&self, input: Tensor, cx: &pipe_runtime::Context) -> Tensor {
        input.dropout(0.3, cx.is_training())
    }
}

#[pipeline(chunks = 2, schedule = "1f1b")]
struct Net {
    #[device("cpu")]
    first: Linear,
    drop: Drop,
    #[device("cpu")]
    norm: nn::BatchNorm,
    last: Linear,
}

fn net() -> (Pipe<Net>, NetVars) {
    tch::manual_seed(3);
    let vars = Net::vars(&Devices::cpu(2)).unwrap();
    let first = linear(vars.first(), 4, 8);
    let norm = nn::batch_norm1d(vars.norm(), 8, Default::default());
    let net = Net { first, drop: Drop, norm, last: linear(vars.last(), 8, 2) };
    (net.pipe(&vars).build().unwrap(), vars)
}

fn trainer() -> (Trainer<Net>, NetVars) {
    let (pipe, vars) = net();
    let optimizer = pipe.optimizer(AdamW { lr: 0.01, ..AdamW::default() }).clip_norm(0.5).build().unwrap();
    (Trainer::new(pipe, optimizer).unwrap(), vars)
}

fn batch(step: i64) -> (Tensor, Tensor) {
    tch::manual_seed(100 + step);
    (Tensor::randn([8, 4], (Kind::Float, Device::Cpu)), Tensor::randn([8, 2], (Kind::Float, Device::Cpu)))
}

fn mse(output: &Tensor, y: &Tensor) -> Tensor {
    output.mse_loss(y, tch::Reduction::Mean)
}

fn values(vars: &Vars) -> Vec<Tensor> {
    vars.select("*").unwrap().into_iter().map(|(_, tensor)| tensor.detach().copy()).collect()
}

fn equal(a: &[Tensor], b: &[Tensor]) -> bool {
    a.iter().zip(b).all(|(a, b)| a.equal(b))
}

#[test]
fn an_iteration_is_its_pieces() {
    let _serial = serial();
    let (mut trainer, vars) = trainer();
    let (mut pipe, plain) = net();
    let mut optimizer = pipe.optimizer(AdamW { lr: 0.01, ..AdamW::default() }).clip_norm(0.5).build().unwrap();
    for step in 0..5 {
        let (x, y) = batch(step);
        let report = trainer.step(&x, &y, mse).unwrap();
        let (x, y) = batch(step);
        let expected = pipe.train_step(&x, &y, mse).unwrap();
        let update = optimizer.step().unwrap();
        optimizer.zero_grad().unwrap();
        assert!(report.step.loss.equal(&expected.loss));
        assert_eq!(report.update, Some(update));
    }
    assert!(equal(&values(&vars), &values(&plain)));
    assert_eq!((trainer.steps(), trainer.optimizer().updates()), (5, 5));
    assert!(vars.select("first").unwrap().iter().all(|(_, tensor)| !tensor.grad().defined()));
}

#[pipeline]
struct Plain {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    last: Linear,
}

fn plain_pipe() -> (Pipe<Plain>, PlainVars) {
    tch::manual_seed(3);
    let vars = Plain::vars(&Devices::cpu(2)).unwrap();
    let net = Plain { first: linear(vars.first(), 4, 8), last: linear(vars.last(), 8, 2) };
    (net.pipe(&vars).build().unwrap(), vars)
}

fn plain(accumulate: usize) -> (Trainer<Plain>, PlainVars) {
    let (pipe, vars) = plain_pipe();
    let optimizer = pipe.optimizer(Sgd { lr: 0.1, momentum: 0.9, ..Sgd::default() }).build().unwrap();
    (Trainer::new(pipe, optimizer).unwrap().accumulate(accumulate).unwrap(), vars)
}

#[test]
fn accumulated_steps_train_as_one_large_one() {
    let _serial = serial();
    let (mut whole, of_whole) = plain(1);
    let (mut parts, of_parts) = plain(4);
    for step in 0..3 {
        let batches: Vec<_> = (0..4).map(|part| batch(step * 4 + part)).collect();
        let joined =
            |side: fn(&(Tensor, Tensor)) -> &Tensor| Tensor::cat(&batches.iter().map(side).collect::<Vec<_>>(), 0);
        let update = whole.step(joined(|b| &b.0), joined(|b| &b.1), mse).unwrap().update.unwrap();
        let mut updates = batches.iter().map(|(x, y)| parts.step(x, y, mse).unwrap().update).collect::<Vec<_>>();
        let last = updates.pop().flatten().expect("the fourth step updates");
        assert_eq!(updates, [None; 3]);
        assert!((last.norm - update.norm).abs() < 1e-5 * update.norm);
    }
    for (a, b) in values(&of_whole).iter().zip(values(&of_parts)) {
        assert!((a - b).abs().max().double_value(&[]) < 1e-6);
    }
    assert_eq!((parts.steps(), parts.optimizer().updates()), (12, 3));
    let error = plain(1).0.accumulate(0).unwrap_err().to_string();
    assert_eq!(error, "an update takes the gradients of at least 1 step");
}

/// After each way to fail, the training goes on as if the failed step had not been tried. Its model
/// has no statistics.
#[test]
fn a_step_that_fails_or_is_skipped_leaves_everything_as_it_was() {
    let _serial = serial();
    type Loss = fn(&Tensor, &Tensor) -> Tensor;
    let fails_in_loss: Loss = |_, _| panic!("no loss today");
    let nan: Loss = |output, y| mse(output, y) * f64::NAN;
    // Its loss is finite, and its gradient is not.
    let steep: Loss = |output, y| (mse(output, y) * 0.).sqrt();
    let ways: [(&str, Loss, bool); 4] =
        [("a panic", fails_in_loss, false), ("NaN", nan, false), ("steep", steep, false), ("skipped", steep, true)];
    for (what, bad, scaled) in ways {
        let run = |with_failure: bool| {
            let (mut trainer, vars) = plain(1);
            if scaled {
                trainer = trainer.loss_scaling(LossScaler::default().with_scale(1024.)).unwrap();
            }
            let mut losses = Vec::new();
            for step in 0..3 {
                let (x, y) = batch(step);
                if with_failure && step == 1 {
                    let outcome = trainer.step(&x, &y, bad);
                    match outcome {
                        Ok(report) => assert!(scaled && report.update.unwrap().skipped, "{what}"),
                        Err(_) => assert!(!scaled, "{what}"),
                    }
                }
                losses.push(trainer.step(&x, &y, mse).unwrap().step.loss.double_value(&[]));
                // What the caller draws next.
                losses.push(Tensor::rand([1], (Kind::Double, Device::Cpu)).double_value(&[0]));
            }
            (losses, values(&vars), trainer.optimizer().updates())
        };
        let (losses, parameters, updates) = run(false);
        let (other_losses, other, other_updates) = run(true);
        assert_eq!(losses, other_losses, "{what}");
        assert_eq!(updates, other_updates, "{what}");
        assert!(equal(&parameters, &other), "{what}");
    }
}

#[test]
fn a_schedule_that_panics_or_gives_no_factor_updates_nothing() {
    let _serial = serial();
    for (factor, says) in [
        (None, "failed (no factor) for update 2: nothing was updated"),
        (Some(-0.5), "gave the factor -0.5, which is not one from 0 on for update 2: nothing was updated"),
        (Some(f64::NAN), "gave the factor NaN, "),
        (Some(f64::INFINITY), "gave the factor inf, "),
    ] {
        let run = |fails: bool| {
            let fails = AtomicBool::new(fails);
            // Once, before the second update of what is in the group.
            let schedule =
                LrSchedule::custom(move |updates| match updates == 1 && fails.swap(false, Ordering::Relaxed) {
                    true => factor.expect("no factor"),
                    false => 1.,
                });
            let (pipe, vars) = plain_pipe();
            let group = Group::matching(|name, _| name.starts_with("last")).lr_schedule(schedule);
            let optimizer = pipe.optimizer(AdamW { lr: 0.01, ..AdamW::default() }).group(group).build().unwrap();
            (Trainer::new(pipe, optimizer).unwrap(), vars)
        };
        let ((mut trainer, vars), (mut other, expected)) = (run(true), run(false));
        for step in 0..3 {
            let (x, y) = batch(step);
            if step == 1 {
                let before = values(&vars);
                let error = trainer.step(&x, &y, mse).unwrap_err().to_string();
                assert!(error.starts_with("the schedule of the learning rate ") && error.contains(says), "{error}");
                assert!(equal(&before, &values(&vars)), "{factor:?}");
                assert_eq!((trainer.steps(), trainer.optimizer().updates()), (1, 1));
            }
            let losses = [&mut trainer, &mut other].map(|trainer| trainer.step(&x, &y, mse).unwrap().step.loss);
            assert!(losses[0].equal(&losses[1]), "{factor:?}");
        }
        assert!(equal(&values(&vars), &values(&expected)), "{factor:?}");
    }
}

#[test]
fn a_loss_scale_grows_and_shrinks_and_changes_no_update() {
    let _serial = serial();
    let run = |scaler: Option<LossScaler>| {
        let (mut trainer, vars) = trainer();
        if let Some(scaler) = scaler {
            trainer = trainer.loss_scaling(scaler).unwrap();
        }
        let mut scales = Vec::new();
        for step in 0..4 {
            let (x, y) = batch(step);
            let report = trainer.step(&x, &y, mse).unwrap();
            scales.push(report.loss_scale);
        }
        (scales, values(&vars))
    };
    let (_, plain) = run(None);
    let (scales, scaled) = run(Some(LossScaler::default().with_scale(256.).growth(2., 2)));
    assert_eq!(scales, [256., 256., 512., 512.]);
    assert!(equal(&plain, &scaled), "a power of two changes no bit");

    // With a scale that is too large even for 32 bits, steps are skipped until it fits.
    let (trainer, vars) = trainer();
    let mut trainer = trainer.loss_scaling(LossScaler::default().with_scale(3e38).backoff(1e-3)).unwrap();
    let before = values(&vars);
    let (x, y) = batch(0);
    let first = trainer.step(&(x * 1e3), &(y * 1e3), mse).unwrap().update.unwrap();
    assert!(first.skipped);
    let trained: Vec<_> = vars.select("first").unwrap().into_iter().map(|(_, tensor)| tensor).collect();
    assert!(equal(&trained, &before[..2]));
    assert!(trainer.scaler().unwrap().scale() < 1e36);
}

#[test]
fn a_scale_that_the_kind_of_the_loss_cannot_hold_is_refused() {
    let _serial = serial();
    let (trainer, _vars) = trainer();
    let mut trainer = trainer.loss_scaling(LossScaler::default().with_scale(1e6)).unwrap();
    let (x, y) = batch(0);
    let in_half = |output: &Tensor, y: &Tensor| mse(output, y).to_kind(Kind::Half);
    let error = trainer.step(&x, &y, in_half).unwrap_err().to_string();
    assert!(
        error.contains("the loss is a Half, which cannot hold the scale 500000: compute the loss in Float"),
        "{error}"
    );
}

#[test]
fn the_moving_average_is_evaluated_and_taken_out_again() {
    let _serial = serial();
    let (pipe, vars) = net();
    let optimizer = pipe.optimizer(AdamW { lr: 0.1, ..AdamW::default() }).moving_average(0.5).build().unwrap();
    let mut trainer = Trainer::new(pipe, optimizer).unwrap();
    for step in 0..3 {
        let (x, y) = batch(step);
        trainer.step(&x, &y, mse).unwrap();
    }
    let trained = values(&vars);
    let (x, _) = batch(9);
    let now = trainer.pipe().predict(&x).unwrap();
    let averaged = trainer.with_average(|pipe| pipe.forward(&x)).unwrap();
    assert!(!now.equal(&averaged));
    assert!(equal(&values(&vars), &trained));
    let failed = trainer.with_average(|_| Err::<(), _>(Error::Setting("no".into())));
    assert!(failed.is_err() && equal(&values(&vars), &trained));
}

#[test]
fn an_optimizer_of_another_pipeline_is_refused() {
    let _serial = serial();
    let (pipe, _vars) = net();
    let (other, _other_vars) = net();
    let optimizer = other.optimizer(AdamW::default()).build().unwrap();
    let error = Trainer::new(pipe, optimizer).unwrap_err().to_string();
    assert_eq!(error, "the optimizer is one of another pipeline: make it by `pipe.optimizer(..)`");
}

#[test]
fn the_users_values_come_back_as_they_were() {
    let _serial = serial();
    let (mut trainer, _vars) = trainer();
    trainer.set_value("epoch", 3);
    trainer.set_value("best", 0.1 + 0.2);
    assert_eq!(trainer.value::<u32>("epoch").unwrap(), Some(3));
    assert_eq!(trainer.value::<f64>("best").unwrap(), Some(0.1 + 0.2));
    assert_eq!(trainer.value::<u32>("none").unwrap(), None);
    let error = trainer.value::<u32>("best").unwrap_err().to_string();
    assert_eq!(error, "the value `best` is \"0.30000000000000004\", which is not a u32");
}
