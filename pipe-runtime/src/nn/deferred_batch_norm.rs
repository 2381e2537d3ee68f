use std::borrow::Borrow;
use std::cell::RefCell;

use tch::nn::{self, BatchNorm, BatchNormConfig, Init, Path};
use tch::{Kind, Tensor};

use crate::model::{Context, Layer};

/// Batch norm whose running statistics are updated once per mini-batch instead of once per
/// micro-batch. It corresponds to torchgpipe's `DeferredBatchNorm`.
///
/// In training, each micro-batch is normalised with its own mean and biased variance: in a
/// pipeline, the other micro-batches are not available. The running mean and the running unbiased
/// variance are updated when the last micro-batch of the mini-batch has passed, with the statistics
/// of all rows of the mini-batch. This is the update that plain batch norm makes on the whole
/// mini-batch. The micro-batches are combined by their counts, means and sums of squared deviations
/// (Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
/// variances"), which is accurate for large means too.
///
/// In evaluation, the running statistics are used for normalisation. The variables have the same
/// names as those of [`tch::nn::BatchNorm`].
#[derive(Debug)]
pub struct DeferredBatchNorm {
    norm: BatchNorm,
    config: DeferredBatchNormConfig,
    /// The number of mini-batches so far, for the cumulative average.
    batches: Option<Tensor>,
    pending: RefCell<Option<Pending>>,
}

/// Settings of a [`DeferredBatchNorm`].
#[derive(Clone, Copy, Debug)]
pub struct DeferredBatchNormConfig {
    /// Number that is added to the variance. The default is 1e-5.
    pub eps: f64,
    /// Weight of a mini-batch in the running statistics; 0.1 by default. `None` selects the
    /// cumulative average over all mini-batches, which adds a variable `num_batches_tracked`.
    pub momentum: Option<f64>,
    /// Whether the layer has a trainable weight and bias; `true` by default.
    pub affine: bool,
    /// The initial weight. The default is tch's: uniform from 0 to 1. PyTorch has 1, which trains
    /// deep networks better: `Init::Const(1.)`.
    pub ws_init: Init,
    /// The initial bias; 0 by default.
    pub bs_init: Init,
}

impl Default for DeferredBatchNormConfig {
    fn default() -> Self {
        let BatchNormConfig { ws_init, bs_init, .. } = BatchNormConfig::default();
        Self { eps: 1e-5, momentum: Some(0.1), affine: true, ws_init, bs_init }
    }
}

/// The statistics of the micro-batches of the current call that have passed.
#[derive(Debug)]
struct Pending {
    call: u64,
    /// Whether each micro-batch has passed. A micro-batch counts once even if the layer is run on
    /// it twice.
    passed: Vec<bool>,
    rows: Option<Moments>,
}

/// Count, mean and sum of squared deviations from the mean, per channel.
#[derive(Debug)]
struct Moments {
    count: f64,
    mean: Tensor,
    deviations: Tensor,
}

impl DeferredBatchNorm {
    /// Creates a layer for inputs `[N, C]` or `[N, C, L]`, with `C = channels`.
    pub fn new1d<'a>(path: impl Borrow<Path<'a>>, channels: i64, config: DeferredBatchNormConfig) -> Self {
        let path = path.borrow();
        Self::from_batch_norm(path, nn::batch_norm1d(path, channels, config.plain()), config)
    }

    /// Creates a layer for inputs `[N, C, H, W]`, with `C = channels`.
    pub fn new2d<'a>(path: impl Borrow<Path<'a>>, channels: i64, config: DeferredBatchNormConfig) -> Self {
        let path = path.borrow();
        Self::from_batch_norm(path, nn::batch_norm2d(path, channels, config.plain()), config)
    }

    /// Creates a layer for inputs `[N, C, D, H, W]`, with `C = channels`.
    pub fn new3d<'a>(path: impl Borrow<Path<'a>>, channels: i64, config: DeferredBatchNormConfig) -> Self {
        let path = path.borrow();
        Self::from_batch_norm(path, nn::batch_norm3d(path, channels, config.plain()), config)
    }

    /// Converts a batch norm that was created at `path`, and takes over its variables. tch does not
    /// expose `eps` and `momentum` of a batch norm, so they are taken from `config`, whose other
    /// settings are ignored.
    pub fn from_batch_norm<'a>(path: impl Borrow<Path<'a>>, norm: BatchNorm, config: DeferredBatchNormConfig) -> Self {
        let cumulative = config.momentum.is_none();
        let batches = cumulative.then(|| path.borrow().zeros_no_train("num_batches_tracked", &[]));
        Self { norm, config, batches, pending: RefCell::default() }
    }

    /// Adds a micro-batch to the statistics of the mini-batch, and commits them after the last one.
    fn track(&self, x: &Tensor, cx: &Context) {
        let mut pending = self.pending.borrow_mut();
        // Statistics that a failed call left behind are discarded.
        let mut current = pending.take().filter(|pending| pending.call == cx.call()).unwrap_or(Pending {
            call: cx.call(),
            passed: vec![false; cx.micro_batches()],
            rows: None,
        });
        current.passed[cx.micro_batch()] = true;
        current.rows = match (current.rows, Moments::of(x)) {
            (Some(before), Some(new)) => Some(before.combined(&new)),
            (before, new) => before.or(new),
        };
        if current.passed.contains(&false) {
            *pending = Some(current);
        } else if let Some(rows) = current.rows {
            self.commit(&rows);
        }
    }

    fn commit(&self, rows: &Moments) {
        let weight = match (self.config.momentum, &self.batches) {
            (Some(momentum), _) => Tensor::from(momentum),
            (None, Some(batches)) => {
                batches.data().copy_(&(batches + 1.));
                batches.reciprocal()
            }
            (None, None) => return,
        };
        // Updates through `data`, so that autograd sees no in-place change, as with the update of
        // plain batch norm.
        let update = |running: &Tensor, new: &Tensor| {
            let mut running = running.data();
            let weight = weight.to_kind(running.kind()).to_device(running.device());
            let updated = running.lerp_tensor(&new.to_kind(running.kind()), &weight);
            running.copy_(&updated);
        };
        update(&self.norm.running_mean, &rows.mean);
        // The unbiased variance of a single value is undefined.
        if rows.count > 1. {
            update(&self.norm.running_var, &(&rows.deviations / (rows.count - 1.)));
        }
    }
}

impl DeferredBatchNormConfig {
    fn plain(self) -> BatchNormConfig {
        let Self { eps, affine, ws_init, bs_init, .. } = self;
        BatchNormConfig { eps, affine, ws_init, bs_init, ..Default::default() }
    }
}

impl Moments {
    /// Computes the moments of `[N, C, ...]` per channel; `None` for an empty batch.
    fn of(x: &Tensor) -> Option<Self> {
        let size = x.size();
        let count = (x.numel() as i64).checked_div(size[1])?;
        if count == 0 {
            return None;
        }
        let others: Vec<i64> = (0..size.len() as i64).filter(|&dim| dim != 1).collect();
        let x = match x.kind() {
            Kind::Half | Kind::BFloat16 => x.to_kind(Kind::Float),
            _ => x.shallow_clone(),
        };
        let (variance, mean) = x.var_mean_dim(others.as_slice(), false, false);
        Some(Self { count: count as f64, mean, deviations: variance * count as f64 })
    }

    fn combined(&self, other: &Self) -> Self {
        let count = self.count + other.count;
        let delta = &other.mean - &self.mean;
        let mean = &self.mean + &delta * (other.count / count);
        let between = delta.square() * (self.count * other.count / count);
        Self { count, mean, deviations: &self.deviations + &other.deviations + between }
    }
}

impl Layer<Tensor> for DeferredBatchNorm {
    type Out = Tensor;

    fn run(&self, x: Tensor, cx: &Context) -> Tensor {
        let dims = x.dim();
        let fits = if self.norm.nd == 1 { dims == 2 || dims == 3 } else { dims == self.norm.nd + 2 };
        assert!(fits, "batch norm {}d: an input of {dims} dimensions, {:?}", self.norm.nd, x.size());
        let training = cx.is_training();
        if training && !cx.is_recomputing() {
            tch::no_grad(|| self.track(&x.detach(), cx));
        }
        let running = |statistic| (!training).then_some(statistic);
        Tensor::batch_norm(
            &x,
            self.norm.ws.as_ref(),
            self.norm.bs.as_ref(),
            running(&self.norm.running_mean),
            running(&self.norm.running_var),
            training,
            0.,
            self.config.eps,
            true,
        )
    }
}
