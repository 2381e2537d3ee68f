//! Measures the time of each op of a schedule while all stages are busy, and computes the makespan
//! that the schedule could reach with these times.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow};
use pipe_runtime::ScheduleKind;
use pipe_schedule::{Costs, simulate};
use tch::{Kind, Tensor};

use crate::models::{PlainStage, Task};

/// Computes one number from a stage's outputs, from which the backward starts.
type Root = Box<dyn Fn(&[Tensor]) -> Tensor + Send>;

/// The stages of a plain model, each with a micro-batch as its input.
pub struct Stages {
    stages: Vec<Stage>,
    micro_batches: usize,
}

struct Stage {
    run: PlainStage,
    inputs: Vec<Tensor>,
    /// Makes the number that the stage's backward starts from.
    root: Root,
}

impl Stages {
    /// Prepares the stages for the task's mini-batch, split into `micro_batches` micro-batches.
    pub fn new(stages: Vec<PlainStage>, task: &Task, micro_batches: usize) -> Self {
        let share = 1. / micro_batches as f64;
        let [input, target] =
            [&task.input, &task.target].map(|all| all.tensor_split(micro_batches as i64, 0).remove(0));
        let loss = task.loss;
        let (mut values, mut made) = (vec![input], Vec::new());
        for run in stages {
            let inputs = values;
            let outputs = tch::no_grad(|| run(inputs.iter().map(Tensor::shallow_clone).collect()));
            values = outputs.iter().map(|output| output.detach().set_requires_grad(true)).collect();
            // tch starts a backward from scalars only. This product costs two passes over the
            // values of the boundary.
            let gradients: Vec<_> = outputs.iter().map(Tensor::randn_like).collect();
            let dot = |(output, gradient): (&Tensor, &Tensor)| (output * gradient).sum(Kind::Float);
            let root = move |outputs: &[Tensor]| outputs.iter().zip(&gradients).map(dot).sum();
            made.push(Stage { run, inputs, root: Box::new(root) });
        }
        if let Some(last) = made.last_mut() {
            last.root = Box::new(move |outputs| loss(&outputs[0], &target) * share);
        }
        Self { stages: made, micro_batches }
    }

    /// Measures the ops: every stage runs all its forwards, then all its backwards, on a separate
    /// thread, and all stages run at the same time.
    pub fn measure(&mut self) -> Result<OpTimes> {
        let (start, busy) = (&Barrier::new(self.stages.len()), &AtomicUsize::new(self.stages.len()));
        let micro_batches = self.micro_batches;
        thread::scope(|scope| {
            let measure = |stage: &mut Stage| {
                tch::set_num_threads(1);
                start.wait();
                let times = stage.ops(micro_batches);
                busy.fetch_sub(1, Ordering::Relaxed);
                // This keeps the core busy until the other stages have been measured too.
                while times.is_ok() && busy.load(Ordering::Relaxed) > 0 {
                    stage.ops(1)?;
                }
                times
            };
            let start = |stage| scope.spawn(move || measure(stage));
            let threads: Vec<_> = self.stages.iter_mut().map(start).collect();
            let times = threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a stage failed"))?);
            Ok(OpTimes(times.collect::<Result<_>>()?))
        })
    }
}

impl Stage {
    fn ops(&mut self, micro_batches: usize) -> Result<OpTime> {
        let start = Instant::now();
        let forward = |_| {
            let inputs = self.inputs.iter().map(|input| input.detach().set_requires_grad(input.requires_grad()));
            (self.root)(&(self.run)(inputs.collect()))
        };
        let mut roots: Vec<_> = (0..micro_batches).map(forward).collect();
        let middle = Instant::now();
        while let Some(root) = roots.pop() {
            root.f_backward()?;
        }
        let per_op = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e3 / micro_batches as f64;
        Ok(OpTime { forward: per_op(start, middle), backward: per_op(middle, Instant::now()) })
    }
}

/// The mean times of a stage's ops, in ms.
#[derive(Clone, Copy, Debug)]
struct OpTime {
    forward: f64,
    backward: f64,
}

/// The op times of all stages.
#[derive(Clone, Debug)]
pub struct OpTimes(Vec<OpTime>);

impl OpTimes {
    /// The time at which the last op ends under this schedule, in ms, if nothing but the ops takes
    /// time.
    pub fn makespan(&self, method: ScheduleKind, micro_batches: usize) -> Result<f64> {
        let mut costs = Costs::equal(self.0.len(), 0., 0., 0.);
        for (stage, times) in costs.stages.iter_mut().zip(&self.0) {
            (stage.forward, stage.backward_input) = (times.forward, times.backward);
        }
        let schedule = method.schedule(self.0.len(), 1, micro_batches)?;
        Ok(simulate(&schedule, &costs)?.makespan)
    }

    /// The same for equal stages: the work and the bubble, in ms.
    pub fn bound(&self, micro_batches: usize) -> f64 {
        let stages = self.0.len();
        let work: f64 = self.0.iter().map(|times| times.forward + times.backward).sum();
        work / stages as f64 * (micro_batches + stages - 1) as f64
    }
}
