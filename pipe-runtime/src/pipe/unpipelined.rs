use crate::error::{Failure, Phase, Result};
use crate::flow::{Flow, IntoFlow, PackedValue, Scattered, scatter};
use crate::model::{Context, Layer, Model, Pass, unique};
use crate::quiet::Quiet;
use crate::run::{check_chunks, check_threads};
use crate::threads::IntraOpThreads;
use crate::torch::{Draw, LayerRng, Modes, caught, grad_enabled};

/// The reference for pipelined runs: the same layers, run one after the other on one device and one
/// thread. Micro-batches, their order and random numbers are the same; the backward is libtorch's
/// own.
#[derive(Debug)]
#[must_use = "an unpipelined run does nothing until `forward` is called"]
pub struct Unpipelined<'m, M> {
    model: &'m M,
    chunks: Option<usize>,
    training: bool,
    intra_op_threads: Option<usize>,
}

impl<'m, M: Model> Unpipelined<'m, M> {
    #[doc(hidden)]
    pub fn new(model: &'m M) -> Self {
        Self { model, chunks: None, training: true, intra_op_threads: None }
    }

    /// The greatest number of micro-batches that a mini-batch is split into. 1 if it is neither set
    /// nor annotated.
    pub fn chunks(mut self, chunks: usize) -> Self {
        self.chunks = Some(chunks);
        self
    }

    /// Sets training or evaluation mode; training is the default.
    pub fn training(mut self, training: bool) -> Self {
        self.training = training;
        self
    }

    /// Sets the number of threads that libtorch uses inside one operator of the forward; the
    /// caller's number is the default. The backward is libtorch's own and always uses the caller's
    /// number.
    pub fn intra_op_threads(mut self, threads: usize) -> Self {
        self.intra_op_threads = Some(threads);
        self
    }

    /// Runs a mini-batch, one micro-batch after the other, and returns the joined output.
    ///
    /// # Errors
    ///
    /// Fails in the same cases as [`Pipe::forward`](crate::Pipe::forward). Running statistics then
    /// stay as the failed layer left them.
    pub fn forward(self, inputs: impl IntoFlow<M::Input>) -> Result<M::Output>
    where
        M: Layer<M::Input, Out = M::Output>,
    {
        let chunks = self.chunks.or(M::DEFAULTS.chunks).unwrap_or(1);
        check_chunks(chunks)?;
        check_threads(self.intra_op_threads)?;
        let Scattered { micro_batches, shape, mut sources } =
            scatter(&PackedValue::of(inputs.into_flow()), chunks, grad_enabled())?;
        let (seed, call) = (Draw::new()?.seed, unique());
        let _modes = Modes::capture()?.enter()?;
        let _threads = IntraOpThreads::choose(self.intra_op_threads, 1).enter();

        let run = |(index, value): (usize, PackedValue)| {
            let cx = Context::new(Pass {
                training: self.training,
                recomputing: false,
                stage: 0,
                micro_batch: index,
                micro_batches: shape.rows().len(),
                before: 0,
                call_seed: seed,
                call,
                will_be_recomputed: false,
            });
            let _quiet = Quiet::enter();
            let outcome = caught(|| {
                let _rng = LayerRng::enter()?;
                Ok(self.model.run(value.unpack(), &cx))
            });
            outcome.unwrap_or_else(|cause| {
                let layer = cx.path();
                Err(Failure { phase: Phase::Forward, stage: 0, layer, micro_batch: index, cause }.into())
            })
        };
        let parts = micro_batches.into_iter().enumerate().map(run).collect::<Result<Vec<_>>>();
        sources.note_changes()?;
        let parts = parts?;
        M::Output::join(parts, &shape)
    }
}
