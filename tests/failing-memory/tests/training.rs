//! Iterations, saves and resumes of a training of which an allocation fails, wherever it is.

use pipe_failing_memory::{fail_at, left};
use pipe_runtime::optim::AdamW;
use pipe_runtime::{Checkpoints, Devices, Trainer, pipeline};
use tch::nn;
use tch::{Device, Kind, Tensor};

const WIDTH: i64 = 8;

#[pipeline(chunks = 2, schedule = "1f1b")]
struct Net {
    #[device("cpu")]
    first: nn::Linear,
    #[device("cpu")]
    last: nn::Linear,
}

/// A training, with its variables.
struct Training {
    trainer: Trainer<Net>,
    vars: NetVars,
}

impl Training {
    fn new() -> Self {
        tch::manual_seed(1);
        let vars = Net::vars(&Devices::cpu(2)).unwrap();
        let linear = |path: nn::Path<'_>| nn::linear(path, WIDTH, WIDTH, Default::default());
        let net = Net { first: linear(vars.first()), last: linear(vars.last()) };
        let pipe = net.pipe(&vars).build().unwrap();
        let optimizer = pipe.optimizer(AdamW::default()).clip_norm(1.).moving_average(0.9).build().unwrap();
        Self { trainer: Trainer::new(pipe, optimizer).unwrap(), vars }
    }

    fn step(&mut self) -> pipe_runtime::Result<()> {
        let rows = Tensor::full([4, WIDTH], self.trainer.steps() as f64 / 10. - 1., (Kind::Float, Device::Cpu));
        self.step_with(&rows)
    }

    fn step_with(&mut self, rows: &Tensor) -> pipe_runtime::Result<()> {
        let loss = |output: &Tensor, target: &Tensor| output.mse_loss(target, tch::Reduction::Mean);
        self.trainer.step(rows, rows, loss).map(drop)
    }

    fn variables(&self) -> Vec<Tensor> {
        self.vars.select("*").unwrap().into_iter().map(|(_, tensor)| tensor.detach().copy()).collect()
    }

    fn assert_same(&self, other: &Self, about: &str) {
        assert_eq!(self.trainer.steps(), other.trainer.steps(), "{about}");
        let pairs = self.variables().into_iter().zip(other.variables());
        assert!(pairs.into_iter().all(|(found, expected)| found.equal(&expected)), "variables, {about}");
    }
}

/// Makes allocation `number` of the call fail. The second result tells whether there was one.
fn without(number: i64, call: impl FnOnce() -> pipe_runtime::Result<()>) -> (pipe_runtime::Result<()>, bool) {
    fail_at(number);
    let result = call();
    let reached = left() == 0;
    fail_at(0);
    (result, reached)
}

/// Tries one number after the other, until the call has no more allocations. Returns how many it
/// has.
fn each(mut call: impl FnMut(i64) -> (pipe_runtime::Result<()>, bool)) -> i64 {
    for number in 1.. {
        match call(number) {
            (Ok(()), false) => return number - 1,
            (Ok(()), true) => {}
            (Err(error), _) => assert!(error.to_string().contains("not enough memory"), "{error}"),
        }
    }
    unreachable!("a call ends")
}

/// The forward, the backward, and the update with its state.
#[test]
fn an_iteration_of_which_an_allocation_fails_changes_nothing() {
    let _serial = pipe_tests::serial();
    for before in 0..2 {
        let count = each(|number| {
            let (mut training, mut calm) = (Training::new(), Training::new());
            for _ in 0..before {
                training.step().and_then(|()| calm.step()).unwrap();
            }
            let rows = Tensor::full([4, WIDTH], 0.5, (Kind::Float, Device::Cpu));
            let (result, reached) = without(number, || training.step_with(&rows));
            if result.is_ok() {
                calm.step_with(&rows).unwrap();
            }
            let about = format!("allocation {number} of an iteration after {before}");
            training.assert_same(&calm, &about);
            for _ in 0..2 {
                training.step().and_then(|()| calm.step()).unwrap_or_else(|error| panic!("after {about}: {error}"));
            }
            training.assert_same(&calm, &format!("after {about}"));
            (result, reached)
        });
        println!("{count} allocations of an iteration failed");
        assert!(count > 20, "{count} allocations");
    }
}

#[test]
fn a_save_and_a_resume_of_which_an_allocation_fails_change_nothing() {
    let _serial = pipe_tests::serial();
    let folder = tempfile::tempdir().unwrap();
    let names = || {
        let names = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect::<std::collections::BTreeSet<_>>()
    };
    let mut training = Training::new();
    let mut checkpoints = Checkpoints::in_folder(folder.path());
    (0..3).for_each(|_| training.step().unwrap());
    let kept = checkpoints.save(&training.trainer).unwrap();
    training.step().unwrap();
    let before = names();
    let saves = each(|number| {
        let (result, reached) = without(number, || checkpoints.save(&training.trainer).map(drop));
        assert!(result.is_ok() || names() == before, "{:?}", names());
        (result, reached)
    });

    let (mut resumed, fresh) = (Training::new(), Training::new());
    let resumes = each(|number| {
        let (result, reached) = without(number, || Checkpoints::resume_from(&kept, &mut resumed.trainer));
        match result.is_ok() {
            true => resumed = Training::new(),
            false => resumed.assert_same(&fresh, &format!("allocation {number} of a resume")),
        }
        (result, reached)
    });
    println!("{saves} allocations of a save failed, {resumes} of a resume");
    assert!(saves > 0 && resumes > 0, "{saves} and {resumes} allocations");
    Checkpoints::resume_from(&kept, &mut resumed.trainer).unwrap();
    resumed.step().unwrap();
    resumed.assert_same(&training, "a training that is resumed");
}
