use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Failure, Phase, Result};
use crate::flow::{Flow, IntoFlow, PackedValue, Scattered, scatter};
use crate::model::{Context, Layer, Model, Pass, unique};
use crate::quiet::Quiet;
use crate::run::{check_chunks, check_threads};
use crate::threads::IntraOpThreads;
use crate::torch::{Draw, LayerRng, Modes, grad_enabled, panic_message};

/// The reference for every pipelined run: the same layers one after the other on one device and one
/// thread, with the same micro-batches, order and random numbers, and with libtorch's own backward.
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

    /// Sets the greatest number of micro-batches that a mini-batch is split into. The default is
    /// the annotated number, or 1 if there is none.
    pub fn chunks(mut self, chunks: usize) -> Self {
        self.chunks = Some(chunks);
        self
    }

    /// Sets training or evaluation mode. The default is training.
    pub fn training(mut self, training: bool) -> Self {
        self.training = training;
        self
    }

    /// Sets how many threads libtorch uses inside one operator of the forward, from 1 to 4096. The
    /// default is the caller's number. The backward is libtorch's own and always uses the caller's.
    pub fn intra_op_threads(mut self, threads: usize) -> Self {
        self.intra_op_threads = Some(threads);
        self
    }

    /// Runs a mini-batch, micro-batch by micro-batch, and returns the joined output.
    ///
    /// # Errors
    ///
    /// * [`Error::Setting`](crate::Error::Setting): a setting is out of range.
    /// * [`Error::Input`](crate::Error::Input): the inputs cannot be split.
    /// * [`Error::Output`](crate::Error::Output): the outputs cannot be joined.
    /// * [`Error::Failed`](crate::Error::Failed): a layer fails. Running statistics stay as it left
    ///   them.
    /// * [`Error::Torch`](crate::Error::Torch) and [`Error::Tch`](crate::Error::Tch): a call into
    ///   libtorch fails outside any layer.
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
                call_seed: seed,
                call,
                will_be_recomputed: false,
            });
            let _quiet = Quiet::enter();
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                let _rng = LayerRng::enter()?;
                Ok(self.model.run(value.unpack(), &cx))
            }));
            outcome.unwrap_or_else(|panic| {
                let cause = panic_message(panic.as_ref());
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
