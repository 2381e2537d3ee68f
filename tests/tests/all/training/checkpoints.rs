//! Checkpoints of a training: one that is resumed goes on as if it had not been interrupted, and
//! what is not a complete checkpoint is refused.

use std::fs;
use std::path::Path;

use pipe_runtime::optim::{AdamW, Group, LossScaler, LrSchedule, Sgd};
use pipe_runtime::{
    Checkpoints, Context, Devices, Layer, PipeBuilder, Pipeline, ScheduleKind, Trainer, Vars, pipeline,
};
use pipe_tests::layers::linear;
use pipe_tests::serial;
use proptest::prelude::*;
use tch::nn::{self, Linear};
use tch::{Kind, Tensor};

#[derive(Debug)]
struct Drop(f64);

impl Layer<Tensor> for Drop {
    type Out = Tensor;

    fn run(&self, input: Tensor, cx: &Context) -> Tensor {
        input.dropout(self.0, cx.is_training() && self.0 > 0.)
    }
}

/// How a training is set up.
#[derive(Clone, Copy, Debug)]
struct Setup {
    dropout: f64,
    chunks: usize,
    schedule: ScheduleKind,
    scaled: bool,
    average: bool,
}

const SETUP: Setup = Setup { dropout: 0.2, chunks: 2, schedule: ScheduleKind::OneFOneB, scaled: false, average: false };

trait Make: Pipeline<Input = Tensor, Output = Tensor> {
    fn make(setup: Setup) -> (Trainer<Self>, Vec<(String, Tensor)>);
}

fn trainer<M: Pipeline>(builder: PipeBuilder<'_, M>, setup: Setup) -> Trainer<M> {
    let pipe = builder.chunks(setup.chunks).schedule(setup.schedule).build().unwrap();
    let mut optimizer = pipe
        .optimizer(AdamW { lr: 0.01, amsgrad: true, ..AdamW::default() })
        .group(Group::biases_and_norms().weight_decay(0.))
        .clip_norm(0.7)
        .lr_schedule(LrSchedule::cosine(20, 0.1).warmup(3));
    if setup.average {
        optimizer = optimizer.moving_average(0.9);
    }
    let trainer = Trainer::new(pipe, optimizer.build().unwrap()).unwrap();
    if setup.scaled { trainer.loss_scaling(LossScaler::default().growth(2., 4)).unwrap() } else { trainer }
}

macro_rules! net {
    ($name:ident, $norm:meta, $blocks:meta, $last:meta) => {
        #[pipeline(allow(single_stage))]
        struct $name {
            #[device("cpu")]
            first: Linear,
            drop: Drop,
            #[$norm]
            norm: nn::BatchNorm,
            #[$blocks]
            blocks: [Linear; 3],
            #[$last]
            last: Linear,
        }

        impl Make for $name {
            fn make(setup: Setup) -> (Trainer<Self>, Vec<(String, Tensor)>) {
                tch::manual_seed(5);
                let vars = $name::vars(&Devices::cpu($name::STAGES)).unwrap();
                let net = $name {
                    first: linear(vars.first(), 4, 8),
                    drop: Drop(setup.dropout),
                    norm: nn::batch_norm1d(vars.norm(), 8, Default::default()),
                    blocks: vars.blocks().map(|path| linear(path, 8, 8)),
                    last: linear(vars.last(), 8, 2),
                };
                (trainer(net.pipe(&vars), setup), vars.select("*").unwrap())
            }
        }
    };
}

net!(One, doc = "One stage.", repeat, doc = "One stage.");
net!(Two, doc = "Two stages.", repeat, device("cpu"));
net!(Four, device("cpu"), devices("cpu", "cpu"), doc = "In the last stage of the blocks.");

fn batch(step: u64) -> (Tensor, Tensor) {
    // From a generator of its own, as a data loader's.
    let number = |index: i64, of: u64| ((index as u64 * 2654435761 + of * 40503 + step * 97) % 1000) as f32 / 500. - 1.;
    let tensor = |columns: i64, of: u64| {
        let numbers: Vec<_> = (0..8 * columns).map(|index| number(index, of)).collect();
        Tensor::from_slice(&numbers).view([8, columns])
    };
    (tensor(4, 1), tensor(2, 2))
}

fn mse(output: &Tensor, y: &Tensor) -> Tensor {
    output.mse_loss(y, tch::Reduction::Mean)
}

/// Trains up to `steps` steps. Returns the losses.
fn train<M: Make>(trainer: &mut Trainer<M>, steps: u64) -> Vec<f64> {
    let mut losses = Vec::new();
    while trainer.steps() < steps {
        let (x, y) = batch(trainer.steps());
        losses.push(trainer.step(&x, &y, mse).unwrap().step.loss.double_value(&[]));
    }
    losses
}

fn values(named: &[(String, Tensor)]) -> Vec<Tensor> {
    named.iter().map(|(_, tensor)| tensor.detach().copy()).collect()
}

fn equal(a: &[Tensor], b: &[Tensor]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.equal(b))
}

/// Trains `A` up to step `stop`, saves, and goes on with `B`, which begins with other values.
/// Compares with an uninterrupted training.
fn interrupted<A: Make, B: Make>(before: Setup, after: Setup, stop: u64, background: bool) -> (f64, f64) {
    const STEPS: u64 = 8;
    let folder = tempfile::tempdir().unwrap();
    let (mut whole, of_whole) = A::make(before);
    let mut losses = train(&mut whole, STEPS);

    let (mut first, _) = A::make(before);
    train(&mut first, stop);
    first.set_value("best", 0.1 + stop as f64);
    let mut checkpoints = Checkpoints::in_folder(folder.path());
    if background {
        checkpoints.save_in_background(&first).unwrap();
        // What is trained meanwhile is not in the checkpoint.
        train(&mut first, stop + 1);
        assert_eq!(checkpoints.finish().unwrap(), checkpoints.latest().unwrap());
    } else {
        checkpoints.save(&first).unwrap();
    }
    drop(first);

    let (mut second, of_second) = B::make(after);
    // The checkpoint's numbers replace those of another training, random ones too.
    train(&mut second, 2);
    tch::manual_seed(77);
    assert!(checkpoints.resume(&mut second).unwrap());
    assert_eq!((second.steps(), second.optimizer().updates()), (stop, stop));
    assert_eq!(second.value::<f64>("best").unwrap(), Some(0.1 + stop as f64));
    let resumed = train(&mut second, STEPS);
    losses.drain(..stop as usize);
    let far = |(a, b): (f64, &f64)| (a - b).abs();
    let of_losses = losses.into_iter().zip(&resumed).map(far).fold(0., f64::max);
    let far = |(a, b): (&Tensor, &Tensor)| (a - b).abs().max().double_value(&[]);
    (of_losses, values(&of_whole).iter().zip(&values(&of_second)).map(far).fold(0., f64::max))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_resumed_training_equals_an_uninterrupted_one_to_the_bit(
        stop in 0u64..7,
        background in any::<bool>(),
        scaled in any::<bool>(),
        average in any::<bool>(),
        chunks in 1usize..4,
    ) {
        let _serial = serial();
        let setup = Setup { scaled, average, chunks, ..SETUP };
        prop_assert_eq!(interrupted::<Two, Two>(setup, setup, stop, background), (0., 0.));
        prop_assert_eq!(interrupted::<Two, Four>(setup, setup, stop, background), (0., 0.));
        prop_assert_eq!(interrupted::<Four, One>(setup, setup, stop, background), (0., 0.));
        let other = Setup { schedule: ScheduleKind::ZbH1, ..setup };
        prop_assert_eq!(interrupted::<Two, Four>(setup, other, stop, background), (0., 0.));
    }
}

#[test]
fn with_other_micro_batches_it_is_equal_up_to_rounding() {
    let _serial = serial();
    // Batch norm sees other micro-batches too, so its layer is left out of this comparison.
    #[pipeline]
    struct Plain {
        #[device("cpu")]
        first: Linear,
        #[device("cpu")]
        last: Linear,
    }
    impl Make for Plain {
        fn make(setup: Setup) -> (Trainer<Self>, Vec<(String, Tensor)>) {
            tch::manual_seed(5);
            let vars = Plain::vars(&Devices::cpu(2)).unwrap();
            let net = Plain { first: linear(vars.first(), 4, 8), last: linear(vars.last(), 8, 2) };
            (trainer(net.pipe(&vars), setup), vars.select("*").unwrap())
        }
    }
    let other = Setup { chunks: 4, schedule: ScheduleKind::GPipe, ..SETUP };
    let (losses, parameters) = interrupted::<Plain, Plain>(SETUP, other, 3, false);
    assert!(losses < 1e-5 && parameters < 1e-5, "{losses}, {parameters}");
}

/// A saved training of three steps, and its checkpoint.
fn saved(folder: &Path) -> std::path::PathBuf {
    let (mut trainer, _) = Two::make(SETUP);
    train(&mut trainer, 3);
    Checkpoints::in_folder(folder).save(&trainer).unwrap()
}

/// Resumes a checkpoint that was changed. The training must be as it was.
fn refusal(checkpoint: &Path) -> String {
    let (mut trainer, named) = Two::make(SETUP);
    train(&mut trainer, 1);
    let before = values(&named);
    let error = Checkpoints::resume_from(checkpoint, &mut trainer).unwrap_err().to_string();
    assert!(equal(&values(&named), &before), "{error}");
    assert_eq!(trainer.steps(), 1);
    // It goes on as if nothing had been tried.
    let (mut untouched, expected) = Two::make(SETUP);
    train(&mut untouched, 1);
    tch::manual_seed(1);
    train(&mut untouched, 2);
    tch::manual_seed(1);
    train(&mut trainer, 2);
    assert!(equal(&values(&named), &values(&expected)), "{error}");
    error.split_once("step-0000000003: ").expect("the checkpoint is named").1.to_owned()
}

#[test]
fn a_folder_that_is_torn_foreign_or_newer_is_refused_and_changes_nothing() {
    let _serial = serial();
    let changed = |change: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = saved(folder.path());
        change(&checkpoint);
        refusal(&checkpoint)
    };
    let description = |checkpoint: &Path, from: &str, to: &str| {
        let file = checkpoint.join("training.json");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(file, text.replace(from, to)).unwrap();
    };
    let shard = "model-00002-of-00002.safetensors";
    let cut = changed(&|checkpoint| {
        let file = fs::File::options().write(true).open(checkpoint.join(shard)).unwrap();
        file.set_len(file.metadata().unwrap().len() - 4).unwrap();
    });
    assert!(cut.starts_with(&format!("`{shard}` has ")) && cut.ends_with(": it is torn"), "{cut}");
    let missing = changed(&|checkpoint| fs::remove_file(checkpoint.join(shard)).unwrap());
    assert_eq!(missing, format!("`{shard}`: No such file or directory (os error 2)"));
    let foreign = changed(&|checkpoint| fs::remove_file(checkpoint.join("training.json")).unwrap());
    assert_eq!(foreign, "it is not a checkpoint: `training.json`: No such file or directory (os error 2)");
    let other = changed(&|checkpoint| description(checkpoint, "pipe-runtime checkpoint", "another one"));
    assert_eq!(other, "`training.json` is not that of a checkpoint of this library");
    let newer = changed(&|checkpoint| description(checkpoint, "\"version\": 1", "\"version\": 7"));
    assert_eq!(
        newer,
        "it has version 7 of the format, and this library reads versions up to 1: it was written by a newer one"
    );
    let damaged = changed(&|checkpoint| fs::write(checkpoint.join("training.json"), "{").unwrap());
    assert!(damaged.starts_with("`training.json` is damaged: EOF"), "{damaged}");
    let without = changed(&|checkpoint| description(checkpoint, "\"steps\"", "\"stops\""));
    assert_eq!(without, "`training.json` is damaged: `steps` is missing or wrong");
    let count = format!("\"updates\": {}", u64::MAX);
    let endless = changed(&|checkpoint| description(checkpoint, "\"updates\": 3", &count));
    assert_eq!(endless, "`training.json` is damaged: `updates` is missing or wrong");
    for name in ["../another", "/tmp", ".."] {
        let outside =
            changed(&|checkpoint| description(checkpoint, "\"model.safetensors.index.json\"", &format!("\"{name}\"")));
        assert_eq!(outside, format!("`training.json` names the file `{name}`, which is not one of its own folder"));
    }
    // libtorch checks the start of the 5056 bytes, which are the last ones of the first file.
    let random = changed(&|checkpoint| {
        let file = checkpoint.join("optimizer-00001-of-00002.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        let length = bytes.len();
        bytes[length - 5056..].fill(255);
        fs::write(file, bytes).unwrap();
    });
    assert!(random.starts_with("`random_state.cpu` is damaged: "), "{random}");
}

#[test]
fn a_number_that_the_kind_of_a_variable_does_not_have_is_refused() {
    let _serial = serial();
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = saved(folder.path());
    // The same file with variables in Double, one of them out of Float's range.
    let file = checkpoint.join("model-00002-of-00002.safetensors");
    let mut tensors = Tensor::read_safetensors(&file).unwrap();
    for (name, tensor) in &mut tensors {
        *tensor = tensor.to_kind(Kind::Double);
        if name == "last.bias" {
            let _ = tensor.fill_(1e300);
        }
    }
    Tensor::write_safetensors(&tensors, &file).unwrap();
    let description = checkpoint.join("training.json");
    let mut described: serde_json::Value = serde_json::from_slice(&fs::read(&description).unwrap()).unwrap();
    described["files"]["model-00002-of-00002.safetensors"] = fs::metadata(&file).unwrap().len().into();
    fs::write(&description, described.to_string()).unwrap();
    assert_eq!(
        refusal(&checkpoint),
        "its variables do not fit: `last.bias` has the value 1e300, out of range of the model's Float"
    );
}

#[test]
fn a_name_that_cannot_be_counted_on_is_an_error_and_stays() {
    let _serial = serial();
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = saved(folder.path());
    let last = folder.path().join(format!("step-0000000003.{}", u64::MAX));
    fs::rename(checkpoint, &last).unwrap();
    let (mut trainer, _) = Two::make(SETUP);
    train(&mut trainer, 3);
    let mut checkpoints = Checkpoints::in_folder(folder.path());
    let error = checkpoints.save(&trainer).unwrap_err().to_string();
    assert!(error.ends_with("no name comes after `step-0000000003.18446744073709551615`: remove it"), "{error}");
    assert!(checkpoints.resume(&mut trainer).unwrap());
    train(&mut trainer, 4);
    assert!(checkpoints.save(&trainer).unwrap().ends_with("step-0000000004"));
    assert!(last.exists());
}

#[test]
fn a_loss_scale_that_is_not_one_is_refused() {
    let _serial = serial();
    let scaled = Setup { scaled: true, ..SETUP };
    let (mut trainer, _) = Two::make(scaled);
    train(&mut trainer, 3);
    for (from, to) in [
        ("\"65536\"", "\"NaN\""),
        ("\"65536\"", "\"0\""),
        ("\"updates_since_change\": 3", "\"updates_since_change\": -1"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoints::in_folder(folder.path()).save(&trainer).unwrap();
        let file = checkpoint.join("training.json");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&file, text.replace(from, to)).unwrap();
        let (mut other, _) = Two::make(scaled);
        let error = Checkpoints::resume_from(&checkpoint, &mut other).unwrap_err().to_string();
        assert!(error.ends_with("`training.json` is damaged: `loss_scale` is missing or wrong"), "{error}");
        assert_eq!(other.steps(), 0);
    }
}

#[test]
fn a_checkpoint_of_another_training_is_refused_in_words() {
    let _serial = serial();
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = saved(folder.path());
    let refused = |outcome: pipe_runtime::Result<()>| {
        outcome.unwrap_err().to_string().split_once("step-0000000003: ").unwrap().1.to_owned()
    };
    let other = |optimizer: &dyn Fn(&pipe_runtime::Pipe<Two>) -> pipe_runtime::OptimizerBuilder| {
        let (trainer, _) = Two::make(SETUP);
        let (pipe, _) = trainer.into_parts();
        let optimizer = optimizer(&pipe).build().unwrap();
        refused(Checkpoints::resume_from(&checkpoint, &mut Trainer::new(pipe, optimizer).unwrap()))
    };
    assert_eq!(
        other(&|pipe| pipe.optimizer(Sgd::default())),
        "`blocks.0.bias` was updated by \"AdamW\", and is by SGD here"
    );
    let without = other(&|pipe| pipe.optimizer(AdamW::default()));
    assert!(
        without.starts_with("its optimizer's tensors do not fit: there is no `max_exp_avg_sq.blocks.0.bias` here; "),
        "{without}"
    );
    let (mut scaled, _) = Two::make(Setup { scaled: true, ..SETUP });
    assert_eq!(
        refused(Checkpoints::resume_from(&checkpoint, &mut scaled)),
        "its training does not scale the loss, and this one does"
    );
    let (mut average, _) = Two::make(Setup { average: true, ..SETUP });
    let error = refused(Checkpoints::resume_from(&checkpoint, &mut average));
    assert!(error.starts_with("its optimizer's tensors do not fit: `average.blocks.0.bias` is missing"), "{error}");
}

#[test]
fn only_a_whole_state_is_saved() {
    let _serial = serial();
    let folder = tempfile::tempdir().unwrap();
    let mut checkpoints = Checkpoints::in_folder(folder.path());
    let (trainer, _) = Two::make(SETUP);
    let mut trainer = trainer.accumulate(2).unwrap();
    let (x, y) = batch(0);
    trainer.step(&x, &y, mse).unwrap();
    let error = checkpoints.save(&trainer).unwrap_err().to_string();
    assert!(error.starts_with("the gradients of 1 steps wait for an update"), "{error}");
    trainer.step(&x, &y, mse).unwrap();
    checkpoints.save(&trainer).unwrap();

    let (trainer, _) = Two::make(Setup { average: true, ..SETUP });
    let (pipe, mut optimizer) = trainer.into_parts();
    optimizer.swap_average().unwrap();
    let error = checkpoints.save(&Trainer::new(pipe, optimizer).unwrap()).unwrap_err().to_string();
    assert!(error.starts_with("the model holds its moving averages"), "{error}");
}

#[test]
fn the_newest_checkpoints_are_kept_and_the_newest_one_is_resumed() {
    let _serial = serial();
    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path().join("runs/one");
    let mut checkpoints = Checkpoints::in_folder(&runs).keep(2);
    let (mut trainer, _) = Two::make(SETUP);
    assert!(!checkpoints.resume(&mut trainer).unwrap());
    let names = || {
        let mut names: Vec<_> =
            fs::read_dir(&runs).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    for steps in 1..=3 {
        train(&mut trainer, steps);
        checkpoints.save(&trainer).unwrap();
    }
    assert_eq!(names(), ["step-0000000002", "step-0000000003"]);
    // What an interrupted save has left is no checkpoint, and the next save removes it.
    fs::create_dir(runs.join(".step-0000000009.partial")).unwrap();
    fs::create_dir(runs.join("step-0000000008")).unwrap();
    checkpoints.save(&trainer).unwrap();
    assert_eq!(names(), ["step-0000000003", "step-0000000003.1", "step-0000000008"]);
    let (mut other, _) = Two::make(SETUP);
    assert!(checkpoints.resume(&mut other).unwrap());
    assert_eq!(other.steps(), 3);
}

#[test]
fn a_checkpoints_model_is_read_as_any_other_file() {
    let _serial = serial();
    let folder = tempfile::tempdir().unwrap();
    let (mut trainer, named) = Four::make(SETUP);
    train(&mut trainer, 2);
    let checkpoint = Checkpoints::in_folder(folder.path()).save(&trainer).unwrap();
    let vars = One::vars(&Devices::cpu(1)).unwrap();
    let _net = One {
        first: linear(vars.first(), 4, 8),
        drop: Drop(0.),
        norm: nn::batch_norm1d(vars.norm(), 8, Default::default()),
        blocks: vars.blocks().map(|path| linear(path, 8, 8)),
        last: linear(vars.last(), 8, 2),
    };
    Vars::load(&vars, &checkpoint).unwrap();
    assert!(equal(&values(&vars.select("*").unwrap()), &values(&named)));
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let _serial = serial();
    let file = tempfile::NamedTempFile::new().unwrap();
    let (mut trainer, _) = Two::make(SETUP);
    let mut checkpoints = Checkpoints::in_folder(file.path());
    let start = format!("cannot save a checkpoint in {}: ", file.path().display());
    let error = checkpoints.save(&trainer).unwrap_err().to_string();
    assert!(error.starts_with(&start), "{error}");
    // An error in the background is that of the next call.
    checkpoints.save_in_background(&trainer).unwrap();
    train(&mut trainer, 1);
    let error = checkpoints.save_in_background(&trainer).unwrap_err().to_string();
    assert!(error.starts_with(&start), "{error}");
    assert_eq!(checkpoints.finish().unwrap(), None);
}
