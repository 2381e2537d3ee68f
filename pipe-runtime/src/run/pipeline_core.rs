//! The part of a pipeline that is not generic over the model, so that it is compiled once, in this
//! crate.

use std::sync::{Arc, Mutex};

use pipe_schedule::ScheduleKind;
use tch::nn::VarStore;
use tch::{Device, Tensor};

use super::built_pipeline::BuiltPipeline;
use super::call::{Begun, Call, Given, attach_node};
use super::remote::{Opened, Opening};
use super::schedule_choice::ScheduleChoice;
use super::settings::Choices;
use crate::error::{Error, Result};
use crate::flow::{MiniBatch, PackedValue, Scattered, Sources, scatter};
use crate::lock::lock;
use crate::model::{Defaults, Devices, State, Vars};
use crate::stages::Graph;
use crate::torch::{Draw, Parameters, grad_enabled, is_elsewhere};

/// The untyped core of a [`Pipe`](crate::Pipe).
pub(crate) struct PipelineCore {
    pub(crate) pipeline: Arc<BuiltPipeline>,
    /// The model's variables, on all devices.
    variables: VarStore,
    /// The parameters that were trained in the last call.
    parameters: Mutex<Arc<Parameters>>,
    /// For each stage, the result of [`Vars::training_bytes`].
    pub(crate) parameter_bytes: Vec<(u64, u64)>,
    pub(crate) chunks: usize,
    pub(crate) training: bool,
}

/// A call that has begun.
pub(crate) struct Prepared {
    /// The inputs of the first stage, if it is in this process.
    pub(crate) micro_batches: Vec<PackedValue>,
    pub(crate) shape: MiniBatch,
    pub(crate) sources: Sources,
    pub(crate) begun: Begun,
    /// The parameters that are trained in this call.
    pub(crate) parameters: Arc<Parameters>,
}

/// A mini-batch after all stages.
pub(crate) struct Forwarded {
    call: Arc<Call>,
    /// The output of each micro-batch.
    outputs: Vec<PackedValue>,
    pub(crate) shape: MiniBatch,
}

impl PipelineCore {
    pub(crate) fn new(graph: Graph, vars: &Vars, choices: Choices, annotated: Defaults) -> Result<Self> {
        let settings = choices.settings(annotated)?;
        vars.check_devices()?;
        let (stages, routes) = graph.finish(vars.merging());
        let chunks = settings.chunks;
        let pipeline = BuiltPipeline::new(stages, routes, vars.devices(), vars.across(), State::new(vars)?, settings)?;
        let mut variables = VarStore::new(vars.var_store().device());
        variables.variables_ = vars.var_store().variables_.clone();
        let parameter_bytes = vars.training_bytes();
        Ok(Self {
            parameters: Mutex::new(Arc::new(Parameters::new(Vec::new(), pipeline.fuse_gradient_accumulation)?)),
            pipeline: Arc::new(pipeline),
            variables,
            parameter_bytes,
            chunks,
            training: true,
        })
    }

    /// Runs a mini-batch through the stages. The outputs carry an autograd graph if grad mode is on
    /// and a parameter or an input needs a gradient. Only the process with the last stage has them,
    /// unless they are `shared`. It calls `check` with them before all processes agree that the
    /// call has succeeded.
    pub(crate) fn forward(
        &self,
        what: &str,
        batch: &PackedValue,
        shared: bool,
        check: &mut dyn FnMut(&[PackedValue], &MiniBatch) -> Result<()>,
    ) -> Result<Forwarded> {
        let parameters = self.parameters();
        let trains = parameters.as_ref().is_ok_and(|parameters| !parameters.tensors().is_empty());
        let gradients = grad_enabled() && (trains || batch.tensors.iter().any(|item| item.needs_gradient));
        let checked = if gradients { self.check_graph().and(parameters) } else { parameters };
        let Prepared { micro_batches, shape, mut sources, begun, parameters } = self.begin(what, batch, checked)?;
        let inputs: Vec<_> = micro_batches.iter().map(PackedValue::share).collect();
        let number = begun.number;
        let given = Given { inputs: micro_batches, begun, training: self.training, gradients, parameters };
        let outcome = Call::run(&self.pipeline, given);
        let noted = sources.note_changes();
        let (ran, told) = match outcome {
            Ok(ran) => {
                let told = noted.and_then(|()| if shared { self.pipeline.can_share(&ran.1) } else { Ok(()) });
                let told = told.and_then(|()| if self.pipeline.has_last() { check(&ran.1, &shape) } else { Ok(()) });
                let told = told.and_then(|()| ran.0.combine_statistics());
                (Some(ran), told)
            }
            Err(error) => (None, Err(error)),
        };
        let closed = self.pipeline.close(number, told);
        let (call, outputs) = match (ran, closed) {
            (Some(ran), Ok(_)) => ran,
            (ran, closed) => {
                ran.map_or(Ok(()), |(call, _)| call.undo())?;
                return Err(closed.err().unwrap_or(Error::Elsewhere));
            }
        };
        let outputs = match shared {
            true => self.pipeline.share_outputs(number, shape.rows().len(), outputs),
            false => Ok(outputs),
        };
        let mut outputs = outputs.or_else(|error| call.undo().and(Err(error)))?;
        let differentiable = outputs.iter().flat_map(|value| &value.tensors).any(|item| item.needs_gradient);
        let mut given = inputs.iter().flat_map(|value| &value.tensors);
        let outcome = if given.any(|item| gradients && item.needs_gradient && item.is_changed()) {
            Err(Error::Input(
                "an input that wants a gradient was modified by an in-place operation of a layer, which the caller's graph cannot see: \
                 let the layer work on a copy"
                    .into(),
            ))
        } else if gradients && differentiable {
            attach_node(Arc::clone(&call), &mut outputs, &inputs, sources)
        } else {
            Ok(())
        };
        match outcome {
            Ok(()) => Ok(Forwarded { call, outputs, shape }),
            Err(error) => {
                call.undo()?;
                Err(error)
            }
        }
    }

    /// Splits the mini-batch, which must be on the first stage's device, into micro-batches.
    pub(crate) fn scatter(&self, batch: &PackedValue) -> Result<Scattered> {
        let devices = batch.tensors.iter().map(|item| item.tensor.device());
        check_devices(self.pipeline.stages[0].device, devices)?;
        scatter(batch, self.chunks, grad_enabled())
    }

    /// Checks that a `forward` can be followed by a `backward()`.
    fn check_graph(&self) -> Result<()> {
        let built_for = match &self.pipeline.schedule {
            _ if self.pipeline.remote.is_some() => {
                return Err(Error::Setting(
                    "`forward` keeps no graph over several processes: train with `train_step`, or call it under `no_grad`, as `predict` does".into(),
                ));
            }
            ScheduleChoice::Published(ScheduleKind::GPipe) => return Ok(()),
            ScheduleChoice::Published(kind) => format!("`{kind}`"),
            ScheduleChoice::Custom(_) => "a custom schedule".to_owned(),
        };
        Err(Error::Setting(format!(
            "`forward` and `backward()` run GPipe's order, but this pipeline was built for {built_for}: use `train_step`, or build it with `schedule(ScheduleKind::GPipe)`. \
             `predict` works with every schedule"
        )))
    }

    /// Begins a call of this kind, together with the other processes that run stages. The process
    /// with the first stage splits the mini-batch; the others ignore theirs. `checked` has the
    /// parameters if the call is possible here.
    ///
    /// Whatever can fail in one process comes before or after, and not in between: a process that
    /// left would keep the others waiting.
    pub(crate) fn begin(&self, what: &str, batch: &PackedValue, checked: Result<Arc<Parameters>>) -> Result<Prepared> {
        let Some(remote) = &self.pipeline.remote else {
            let parameters = checked?;
            let Scattered { micro_batches, shape, sources } = self.scatter(batch)?;
            let draw = Draw::new()?;
            let begun = Begun { micro_batches: micro_batches.len(), before: 0, seed: draw.seed, draw, number: None };
            return Ok(Prepared { micro_batches, shape, sources, begun, parameters });
        };
        let mode = if self.training { "training" } else { "evaluation" };
        let prepared = checked.and_then(|parameters| {
            let scattered = self.pipeline.has_first().then(|| self.scatter(batch)).transpose()?;
            Ok((parameters, scattered, Draw::new()?))
        });
        let opening = prepared.as_ref().map(|(_, scattered, draw)| Opening {
            seed: draw.seed,
            rows: scattered.as_ref().map_or_else(Vec::new, |scattered| scattered.shape.rows().to_vec()),
        });
        let opened = remote.open(&format!("{what} in {mode} mode"), opening);
        let (parameters, scattered, draw) = match prepared {
            Ok(prepared) => prepared,
            // All processes report the same error, which may be another one's.
            Err(own) => return Err(opened.err().unwrap_or(own)),
        };
        let opened = opened.and_then(|opened| self.pipeline.check_replicas().map(|()| opened));
        let Opened { number, seed, rows, before } = opened.or_else(|error| Ok(draw.undo()?).and(Err(error)))?;
        let begun = Begun { micro_batches: rows.len(), before, draw, seed, number: Some(number) };
        let Scattered { micro_batches, shape, sources } = scattered.unwrap_or_else(|| Scattered {
            micro_batches: Vec::new(),
            shape: MiniBatch::of(rows),
            sources: Sources::default(),
        });
        Ok(Prepared { micro_batches, shape, sources, begun, parameters })
    }

    /// The device of the last stage, where outputs and losses are computed.
    pub(crate) fn last_device(&self) -> Device {
        self.pipeline.stages[self.pipeline.stages.len() - 1].device
    }

    /// The parameters that are trained now.
    pub(crate) fn parameters(&self) -> Result<Arc<Parameters>> {
        let is_trained = |variable: &Tensor| variable.requires_grad() && !is_elsewhere(variable);
        let trained: Vec<_> = self.variables.trainable_variables().into_iter().filter(is_trained).collect();
        let mut parameters = lock(&self.parameters);
        if !parameters.are(&trained) {
            *parameters = Arc::new(Parameters::new(trained, self.pipeline.fuse_gradient_accumulation)?);
        }
        Ok(Arc::clone(&parameters))
    }
}

impl Forwarded {
    pub(crate) fn take_outputs(&mut self) -> Vec<PackedValue> {
        std::mem::take(&mut self.outputs)
    }

    /// Ends the call after the outputs were joined. If joining failed, all changes of the call are
    /// undone.
    pub(crate) fn end(self, joined: bool) -> Result<()> {
        if joined {
            self.call.keep();
            return Ok(());
        }
        self.call.undo()
    }
}

/// Inputs are not moved automatically, so that the caller sees the copy in each step.
fn check_devices(first: Device, inputs: impl IntoIterator<Item = Device>) -> Result<()> {
    all_on(first, inputs, |expected, found| {
        format!(
            "All inputs should be on the same device as the first partition: that is on {expected}, an input on {found}; move it with `to_device`"
        )
    })
}

/// Checks the targets in the same way: they are used with the output of the last stage.
pub(crate) fn check_targets(last: Device, targets: impl IntoIterator<Item = Device>) -> Result<()> {
    all_on(last, targets, |expected, found| {
        format!(
            "All targets should be on the same device as the last partition: that is on {expected}, a target on {found}; move it with `to_device`, or let the \
             loss capture what must stay there"
        )
    })
}

fn all_on(
    expected: Device,
    found: impl IntoIterator<Item = Device>,
    words: impl FnOnce(Devices, Devices) -> String,
) -> Result<()> {
    match found.into_iter().find(|&device| device != expected) {
        None => Ok(()),
        Some(device) => Err(Error::Input(words(Devices::new([expected]), Devices::new([device])))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_on_another_device_is_refused() {
        let gpu = Device::Cuda(1);
        assert!(check_devices(gpu, [gpu, gpu]).is_ok());
        let error = check_devices(gpu, [gpu, Device::Cpu]).unwrap_err().to_string();
        assert!(error.starts_with("All inputs should be on the same device as the first partition"), "{error}");
        assert!(error.contains("on cuda:1, an input on cpu"), "{error}");
    }

    #[test]
    fn a_target_on_another_device_is_refused() {
        let gpu = Device::Cuda(1);
        assert!(check_targets(gpu, [gpu, gpu]).is_ok());
        let error = check_targets(gpu, [gpu, Device::Cpu]).unwrap_err().to_string();
        assert_eq!(
            error,
            "All targets should be on the same device as the last partition: that is on cuda:1, a target on cpu; \
             move it with `to_device`, or let the loss capture what must stay there"
        );
    }
}
