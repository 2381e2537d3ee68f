//! The layers, written as a user of the pipeline writes them.

use pipe_runtime::{Carried, Context};
use tch::nn::{self, Module, ModuleT, Path, RNN};
use tch::{Device, Kind, Tensor};

use super::creature::Creature;
use super::formulas::{self, HEADS, QUEUE, TOKENS, WIDTH, WORDS};

/// Function of a layer on a micro-batch.
pub(super) type Body = Box<dyn Fn(&Tensor, &Context) -> Tensor + Send>;

/// Creates a square weight.
fn weight(path: &Path<'_>, name: &str) -> Tensor {
    path.randn(name, &[WIDTH, WIDTH], 0., 0.4)
}

/// Creates a gain per column, with values around one.
fn gain(path: &Path<'_>, name: &str) -> Tensor {
    path.randn(name, &[WIDTH], 1., 0.2)
}

/// Creates a layer of this kind, with its variables at `path`.
pub(super) fn body(creature: Creature, path: &Path<'_>) -> Body {
    match creature {
        Creature::Mix => {
            let linear = nn::linear(path, WIDTH, WIDTH, Default::default());
            Box::new(move |x, _| x.apply(&linear).tanh())
        }
        Creature::Lstm => {
            let lstm = nn::lstm(path, WIDTH, WIDTH, Default::default());
            Box::new(move |x, _| x * 0.5 + lstm.seq(x).0)
        }
        Creature::Gru => {
            let gru = nn::gru(path, WIDTH, WIDTH, Default::default());
            Box::new(move |x, _| x * 0.5 + gru.seq(x).0)
        }
        Creature::Spectral | Creature::SpectralFrozenVector => spectral(creature, path),
        Creature::BatchNorm => {
            let norm = nn::batch_norm1d(path, WIDTH, Default::default());
            Box::new(move |x, cx| x.transpose(1, 2).apply_t(&norm, cx.is_training()).transpose(1, 2))
        }
        Creature::NestedBatchNorm => {
            let block = Block::new(&(path / "outer"));
            Box::new(move |x, cx| block.forward_t(x, cx.is_training()))
        }
        Creature::Centre => {
            let mean = path.zeros_no_train("mean", &[WIDTH]);
            Box::new(move |x, cx| {
                if cx.is_training() {
                    let moved = tch::no_grad(|| &mean * 0.5 + formulas::mean(x) * 0.5);
                    tch::no_grad(|| mean.shallow_clone().copy_(&moved));
                }
                // A copy, because this graph saves the mean and the next micro-batch changes it.
                (x - mean.copy()).sin()
            })
        }
        Creature::Counting => {
            let gain = gain(path, "gain");
            let count = path.add("count", Tensor::zeros([1], (Kind::Int64, Device::Cpu)), false);
            Box::new(move |x, cx| {
                if cx.is_training() {
                    let _ = count.shallow_clone().g_add_scalar_(1);
                }
                x * &gain + (count.to_kind(Kind::Float) * 0.1).sin()
            })
        }
        Creature::Queue => {
            let gain = gain(path, "gain");
            let queue = path.zeros_no_train("queue", &[QUEUE, WIDTH]);
            let place = path.add("place", Tensor::from(0_i64), false);
            Box::new(move |x, cx| {
                let y = formulas::with_queue(x, &gain, &queue);
                if cx.is_training() {
                    let now = place.int64_value(&[]);
                    queue.select(0, now).copy_(&formulas::mean(&y));
                    let _ = place.shallow_clone().fill_((now + 1) % QUEUE);
                }
                y
            })
        }
        Creature::SlowWeight => {
            let (weight, slow) = (weight(path, "weight"), path.zeros_no_train("slow", &[WIDTH, WIDTH]));
            Box::new(move |x, cx| {
                if cx.is_training() {
                    let _ = slow.shallow_clone().lerp_(&weight.detach(), 0.3);
                }
                formulas::two_weights(x, &weight, &slow.copy())
            })
        }
        Creature::MovedMean => {
            let mean = path.zeros_no_train("mean", &[WIDTH]);
            Box::new(move |x, cx| {
                if cx.is_training() {
                    mean.shallow_clone().set_data(&(&mean * 0.5 + formulas::mean(x) * 0.5));
                }
                (x - &mean).sin()
            })
        }
        Creature::Identity => Box::new(|x, _| x.shallow_clone()),
        Creature::FastWeight => one_weight(path, formulas::fast_weight),
        Creature::DenseEmbedding | Creature::SparseEmbedding => {
            let sparse = creature == Creature::SparseEmbedding;
            let table = nn::embedding(path, WORDS, WIDTH, nn::EmbeddingConfig { sparse, ..Default::default() });
            Box::new(move |x, _| x * 0.5 + table.forward(&formulas::words(x)) * 0.3)
        }
        Creature::SparseAndDense => {
            let table = path.randn("table", &[WORDS, WIDTH], 0., 0.5);
            Box::new(move |x, _| formulas::sparse_and_dense(x, &table))
        }
        Creature::Forces => one_weight(path, formulas::forces),
        Creature::SlopePenalty => one_weight(path, formulas::slope_penalty),
        Creature::Twice => one_weight(path, formulas::twice),
        Creature::Cut => one_weight(path, formulas::cut),
        Creature::InnerSteps => {
            let (weight, gain) = (weight(path, "weight"), gain(path, "gain"));
            Box::new(move |x, _| formulas::inner_steps(x, &weight, &gain))
        }
        Creature::OwnLeaf => one_gain(path, formulas::own_leaf),
        Creature::InPlaceView => one_gain(path, formulas::in_place_view),
        Creature::Chains => {
            let (inner, outer, gain) = (weight(path, "inner"), weight(path, "outer"), gain(path, "gain"));
            Box::new(move |x, _| formulas::chains(x, &inner, &outer, &gain))
        }
        Creature::LowRank => {
            let frozen = weight(path, "weight").set_requires_grad(false);
            let (a, b) = (path.randn("a", &[WIDTH, 2], 0., 0.4), path.randn("b", &[2, WIDTH], 0., 0.4));
            Box::new(move |x, _| formulas::low_rank(x, &frozen, &a, &b))
        }
        Creature::SummedWeights => {
            let (weight, other, gain) = (weight(path, "weight"), weight(path, "other"), gain(path, "gain"));
            Box::new(move |x, _| formulas::summed_weights(x, &weight, &other, &gain))
        }
        Creature::NormalisedWeight => {
            let (weight, gain) = (weight(path, "weight"), gain(path, "gain"));
            Box::new(move |x, _| formulas::normalised_weight(x, &weight, &gain))
        }
        Creature::BiasedAttention => {
            let weight = path.randn("weight", &[WIDTH, 3 * WIDTH], 0., 0.4);
            let table = path.randn("table", &[HEADS, 2 * TOKENS - 1], 0., 0.5);
            Box::new(move |x, _| formulas::attention(x, &weight, &formulas::distance_bias(&table)))
        }
        Creature::MaskedAttention => {
            let weight = path.randn("weight", &[WIDTH, 3 * WIDTH], 0., 0.4);
            let mask = formulas::causal_mask();
            Box::new(move |x, _| formulas::attention(x, &weight, &mask))
        }
        Creature::Rotary => {
            let (weight, table) = (weight(path, "weight"), formulas::rotations());
            Box::new(move |x, _| {
                let turned = formulas::as_real(&(formulas::as_complex(&x.matmul(&weight)) * &table));
                x * 0.5 + turned.tanh()
            })
        }
        Creature::ComplexWeights => {
            let options = (Kind::ComplexFloat, Device::Cpu);
            let half = WIDTH / 2;
            let weight = path.add("weight", Tensor::randn([half, half], options) * 0.5, true);
            let constant = path.add("constant", Tensor::randn([half], options), false);
            Box::new(move |x, _| formulas::complex_weights(x, &weight, &constant))
        }
        Creature::Experts => {
            let gate = path.randn("gate", &[WIDTH, 4], 0., 0.5);
            let weights = ["0", "1", "2", "3"].map(|expert| weight(&(path / expert), "weight"));
            Box::new(move |x, _| formulas::experts(x, &gate, &weights))
        }
        Creature::Cache | Creature::CacheOfOneCall => cache(creature, path),
        Creature::Dropout => {
            let gain = gain(path, "gain");
            Box::new(move |x, cx| (x * &gain).dropout(0.3, cx.is_training()))
        }
    }
}

fn one_weight(path: &Path<'_>, formula: fn(&Tensor, &Tensor) -> Tensor) -> Body {
    let weight = weight(path, "weight");
    Box::new(move |x, _| formula(x, &weight))
}

fn one_gain(path: &Path<'_>, formula: fn(&Tensor, &Tensor) -> Tensor) -> Body {
    let gain = gain(path, "gain");
    Box::new(move |x, _| formula(x, &gain))
}

fn spectral(creature: Creature, path: &Path<'_>) -> Body {
    let weight = weight(path, "weight");
    let u = match creature {
        Creature::Spectral => path.ones_no_train("u", &[WIDTH]),
        _ => path.ones("u", &[WIDTH]).set_requires_grad(false),
    };
    Box::new(move |x, cx| {
        let (next, v) = formulas::power_iteration(&weight, &u);
        if cx.is_training() && creature == Creature::Spectral {
            u.data().copy_(&next);
        } else if cx.is_training() {
            let _ = next.mul_scalar_out(&u, 1.);
        }
        formulas::spectral(x, &weight, (&next, &v))
    })
}

fn cache(creature: Creature, path: &Path<'_>) -> Body {
    let gain = gain(path, "gain");
    let kept = Carried::<Tensor>::new();
    Box::new(move |x, cx| {
        if creature == Creature::CacheOfOneCall && cx.micro_batch() == 0 {
            kept.clear(cx);
        }
        let before = kept.get(cx);
        let y = formulas::with_kept(x, &gain, before.as_ref());
        kept.set(cx, formulas::to_keep(&y, before.as_ref()));
        y
    })
}

/// A module that contains modules.
#[derive(Debug)]
struct Block {
    first: nn::BatchNorm,
    second: nn::BatchNorm,
}

impl Block {
    fn new(path: &Path<'_>) -> Self {
        let plain = nn::BatchNormConfig { affine: false, momentum: 0.3, ..Default::default() };
        Self {
            first: nn::batch_norm1d(path / "inner" / "first", WIDTH, Default::default()),
            second: nn::batch_norm1d(path / "inner" / "second", TOKENS, plain),
        }
    }
}

impl ModuleT for Block {
    fn forward_t(&self, x: &Tensor, train: bool) -> Tensor {
        let x = x.transpose(1, 2).apply_t(&self.first, train).transpose(1, 2);
        x.tanh().apply_t(&self.second, train)
    }
}
