//! Settings, stages and recomputed layers are chosen by measurement, for a limit of memory.

use std::time::Duration;

use pipe_runtime::balance::{Balance, Choice};
use pipe_runtime::schedule::{Division, LayerOptions, advise_layers, simulate};
use pipe_runtime::{CheapOutputs, Checkpoint, Devices, PipeBuilder, Pipeline, ScheduleKind, Vars, pipeline};
use pipe_tests::serial;
use tch::nn::{self, Linear, Module};
use tch::{Device, Kind, Reduction, Tensor};

const WIDTH: i64 = 96;
const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

/// A layer that keeps much more than its output.
#[derive(Debug)]
struct Wide {
    widen: Linear,
    narrow: Linear,
}

impl Wide {
    fn new(path: nn::Path<'_>) -> Self {
        Self {
            widen: nn::linear(&path / "widen", WIDTH, 4 * WIDTH, Default::default()),
            narrow: nn::linear(&path / "narrow", 4 * WIDTH, WIDTH, Default::default()),
        }
    }
}

impl Module for Wide {
    fn forward(&self, x: &Tensor) -> Tensor {
        x + x.apply(&self.widen).gelu("none").apply(&self.narrow)
    }
}

#[pipeline(chunks = 8)]
struct Two {
    #[devices("cpu", "cpu")]
    layers: Vec<Wide>,
}

#[pipeline(chunks = 8)]
struct Four {
    #[devices("cpu", "cpu", "cpu", "cpu")]
    layers: Vec<Wide>,
}

/// The same as `Two`, without cheap outputs.
#[pipeline(chunks = 8, checkpoint = never, cheap_outputs = recompute_all)]
struct Cheap {
    #[devices("cpu", "cpu")]
    layers: Vec<Wide>,
}

fn sample() -> Tensor {
    Tensor::rand([8 * 64, WIDTH], CPU)
}

fn two() -> (Two, TwoVars) {
    let vars = Two::vars(&Devices::cpu(2)).unwrap();
    (Two { layers: vars.layers(8).into_iter().map(Wide::new).collect() }, vars)
}

fn balance<'m>(model: &'m Two, vars: &Vars) -> Balance<'m, Two> {
    Balance::of(model, vars).timeout(Duration::from_millis(120)).intra_op_threads(1)
}

/// The measured peak of the rank that takes most, with the chosen settings.
fn measured<M: Pipeline<Input = Tensor, Output = Tensor>>(choice: &Choice, builder: PipeBuilder<'_, M>) -> f64 {
    let builder = builder.schedule(choice.schedule).ranks(choice.ranks).chunks(choice.chunks);
    peak(builder.checkpoint(choice.checkpoint).cheap_outputs(choice.cheap_outputs))
}

/// The measured peak of the rank that takes most.
fn peak<M: Pipeline<Input = Tensor, Output = Tensor>>(builder: PipeBuilder<'_, M>) -> f64 {
    let mut pipe = builder.intra_op_threads(1).build().unwrap();
    let x = sample();
    for _ in 0..2 {
        pipe.start_trace();
        pipe.train_step(&x, &x, |y, x: &Tensor| y.mse_loss(x, Reduction::Mean)).unwrap();
        let _trace = pipe.stop_trace().unwrap();
    }
    let ranks = pipe.memory().unwrap().ranks;
    ranks.iter().map(|rank| rank.peak() as f64).fold(0., f64::max)
}

/// A cut that rests on noise may give a rank one layer of four more than it has here, so only gross
/// errors are found; `cargo xtask bench --only advise` compares the numbers.
#[test]
fn what_is_chosen_takes_the_memory_that_is_said() {
    let _serial = serial();
    for schedule in [ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::ZbH1, ScheduleKind::Zbv] {
        let (model, vars) = two();
        let profile = balance(&model, &vars).schedules([schedule]).advise(sample(), 2).unwrap();
        let choice = profile.choice().unwrap();
        assert!(choice.schedule == schedule && profile.layers().iter().all(|layer| !layer.recomputed), "all fits");
        let peak = match profile.balance().len() {
            2 => measured(choice, model.pipe(&vars)),
            _ => {
                let vars = Four::vars(&Devices::cpu(4)).unwrap();
                let model = Four { layers: vars.layers(8).into_iter().map(Wide::new).collect() };
                measured(choice, model.pipe(&vars))
            }
        };
        let ratio = choice.bytes / peak;
        assert!((0.7..1.3).contains(&ratio), "said {}, measured {peak}:\n{profile}", choice.bytes);
    }
}

#[test]
fn cheap_outputs_are_a_setting_of_the_struct() {
    let _serial = serial();
    let (model, vars) = two();
    let kept = peak(model.pipe(&vars).checkpoint(Checkpoint::Never));
    let cheap = || {
        let vars = Cheap::vars(&Devices::cpu(2)).unwrap();
        (Cheap { layers: vars.layers(8).into_iter().map(Wide::new).collect() }, vars)
    };
    let (model, vars) = cheap();
    assert!(peak(model.pipe(&vars)) < 0.8 * kept);
    // The builder has the last word. What is under way at the peak may differ.
    let (model, vars) = cheap();
    assert!((peak(model.pipe(&vars).cheap_outputs(CheapOutputs::Keep)) / kept - 1.).abs() < 0.1);
}

#[test]
fn with_less_memory_more_is_recomputed() {
    let _serial = serial();
    let (model, vars) = two();
    // GPipe's order keeps all micro-batches: with more of them, it keeps as much.
    let gpipe = || balance(&model, &vars).schedules([ScheduleKind::GPipe]);
    let free = gpipe().advise(sample(), 2).unwrap();
    let limit = (0.75 * free.choice().unwrap().bytes) as u64;
    let profile = gpipe().memory_limit(limit).advise(sample(), 2).unwrap();
    let choice = profile.choice().unwrap();
    assert!(choice.bytes <= limit as f64);
    let recomputes = choice.checkpoint != Checkpoint::Never
        || choice.cheap_outputs != CheapOutputs::Keep
        || profile.layers().iter().any(|layer| layer.recomputed);
    assert!(recomputes, "{profile}");
    let text = profile.to_string();
    assert!(text.contains(&format!("#[pipeline({})]", choice.settings())), "{text}");

    let error = balance(&model, &vars).memory_limit(1000).advise(sample(), 2).unwrap_err().to_string();
    assert!(error.contains("nothing was found that fits into 1000 B per rank: the smallest, `"), "{error}");
}

#[test]
fn settings_that_are_chosen_cannot_be_set() {
    let _serial = serial();
    let (model, vars) = two();
    let error = balance(&model, &vars).stages(2).advise(sample(), 2).unwrap_err().to_string();
    assert!(error.contains("leave these settings out"), "{error}");
    let error = balance(&model, &vars).advise(sample(), 9).unwrap_err().to_string();
    assert!(error.contains("sequence is shorter than intended partitions (8 < 9)"), "{error}");
    let error = balance(&model, &vars).advise(sample(), 0).unwrap_err().to_string();
    assert!(error.contains("at least one rank"), "{error}");
    let error = balance(&model, &vars).devices(&Devices::cpu(3)).advise(sample(), 2).unwrap_err().to_string();
    assert!(error.contains("3 devices were given for 2 ranks"), "{error}");
}

#[test]
fn the_file_has_the_settings() {
    let _serial = serial();
    let (model, vars) = two();
    let before: Vec<Tensor> = vars.var_store().trainable_variables().iter().map(|tensor| tensor.copy()).collect();
    let profile = balance(&model, &vars).advise(sample(), 2).unwrap();
    for (before, after) in before.iter().zip(vars.var_store().trainable_variables()) {
        assert!(before.equal(&after) && !after.grad().defined());
    }
    let file = std::env::temp_dir().join(format!("pipe-choice-{}.toml", std::process::id()));
    profile.write(&file).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let choice = profile.choice().unwrap();
    for line in [
        format!("schedule = \"{}\"", choice.schedule),
        format!("chunks = {}", choice.chunks),
        format!("checkpoint = \"{}\"", choice.checkpoint),
        format!("cheap_outputs = \"{}\"", choice.cheap_outputs),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[test]
fn costs_are_measured_for_simulations_of_ones_own() {
    let _serial = serial();
    let (model, vars) = two();
    let layers = balance(&model, &vars).chunks(4).costs(sample()).unwrap();
    assert_eq!((layers.micro_batches, layers.layers.len(), layers.boundaries.len()), (4, 8, 7));
    let rows = (8 * 64 / 4 * WIDTH * 4) as f64;
    for layer in &layers.layers {
        assert!(layer.forward > 0. && layer.backward_input > 0. && layer.backward_weight >= 0., "{layer:?}");
        assert!(layer.gradients >= (8 * WIDTH * WIDTH * 4) as f64 && layer.kept >= 4. * rows, "{layer:?}");
    }
    // Stages on the CPU share their memory, and those of other devices do not.
    let received = |layers: &pipe_runtime::schedule::Layers| layers.boundaries[0].received;
    assert_eq!(received(&layers), 0.);
    let devices = Devices::new([Device::Cuda(0), Device::Cuda(1)]);
    let apart = balance(&model, &vars).chunks(4).devices(&devices).costs(sample()).unwrap();
    assert_eq!(received(&apart), rows);

    let options = LayerOptions { schedules: vec![ScheduleKind::GPipe], ..LayerOptions::new(2) };
    let best = advise_layers(std::slice::from_ref(&layers), f64::INFINITY, &options).unwrap().best.unwrap();
    let schedule = ScheduleKind::GPipe.schedule(2, 1, 4).unwrap();
    let even = Division { stages: vec![4, 4], recomputed: Vec::new() };
    let step = simulate(&schedule, &layers.costs(&even, false, 0.)).unwrap();
    assert!(best.candidate.time <= step.makespan, "{best:?}\n{}", step.makespan);
}
