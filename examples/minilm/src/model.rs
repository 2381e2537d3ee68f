//! The model: BERT with an adapter in each half of its layers. Names are Hugging Face's.

use pipe_runtime::{Context, Layer, pipeline};
use tch::nn::{self, Embedding, LayerNorm, Linear, Module};
use tch::{Kind, Tensor};

use crate::files::Config;
use crate::text::Batch;

/// Values between the two halves of an adapter.
const ADAPTER: i64 = 16;

// ANCHOR: model
/// BERT with the mean over each sentence, from [`Batch`] to embeddings `[rows, width]` of length 1.
#[pipeline(input = Batch, chunks = 4, schedule = "1f1b")]
pub struct MiniLm {
    #[device("cuda:0")]
    #[lend(mask = input.1)]
    embeddings: Embeddings,
    #[devices("cuda:0", "cuda:1", "cuda:2")]
    #[read(mask)] // each of them takes `(x, mask)`
    layers: [Encoder; 6],
    #[read(mask)]
    pool: Pool,
}
// ANCHOR_END: model

/// The sum of a vector for each token, one for each place, and one for the first of two texts.
struct Embeddings {
    words: Embedding,
    places: Embedding,
    types: Embedding,
    norm: LayerNorm,
}

impl Layer<Batch> for Embeddings {
    type Out = Tensor;

    fn run(&self, (tokens, _): Batch, _: &Context) -> Tensor {
        let places = self.places.ws.narrow(0, 0, tokens.size()[1]);
        (tokens.apply(&self.words) + self.types.ws.get(0) + places).apply(&self.norm)
    }
}

/// A layer of BERT, with an adapter in each of its halves (Houlsby et al. 2019).
struct Encoder {
    heads: i64,
    qkv: [Linear; 3],
    mix: Linear,
    mixed: Residual,
    wide: Linear,
    narrow: Linear,
    fed: Residual,
}

impl Layer<(Tensor, Tensor)> for Encoder {
    type Out = Tensor;

    fn run(&self, (x, mask): (Tensor, Tensor), _: &Context) -> Tensor {
        let mask = mask.ne(0).unsqueeze(1).unsqueeze(1);
        let heads = |linear| x.apply(linear).view([x.size()[0], x.size()[1], self.heads, -1]).transpose(1, 2);
        let [q, k, v] = self.qkv.each_ref().map(heads);
        let found = Tensor::scaled_dot_product_attention(&q, &k, &v, Some(mask), 0., false, None, false);
        let found = found.transpose(1, 2).flatten(2, 3).apply(&self.mix);
        let x = self.mixed.add(x, &found);
        let fed = x.apply(&self.wide).gelu("none").apply(&self.narrow);
        self.fed.add(x, &fed)
    }
}

/// The end of each half: what it has found goes through an adapter, and is added to its input.
struct Residual {
    adapter: Adapter,
    norm: LayerNorm,
}

impl Residual {
    fn add(&self, x: Tensor, found: &Tensor) -> Tensor {
        (x + found.apply(&self.adapter)).apply(&self.norm)
    }
}

/// A narrow network that is added to its input. Its last weights begin as zeros, so that it changes
/// nothing before it is trained.
#[derive(Debug)]
struct Adapter {
    down: Linear,
    up: Linear,
}

impl Adapter {
    fn new(path: nn::Path<'_>, width: i64) -> Self {
        let zeros = nn::LinearConfig { ws_init: nn::Init::Const(0.), bs_init: Some(nn::Init::Const(0.)), bias: true };
        Self {
            down: nn::linear(&path / "down", width, ADAPTER, Default::default()),
            up: nn::linear(&path / "up", ADAPTER, width, zeros),
        }
    }
}

impl Module for Adapter {
    fn forward(&self, x: &Tensor) -> Tensor {
        x + x.apply(&self.down).gelu("none").apply(&self.up)
    }
}

/// The mean over the tokens of each row, scaled to length 1.
struct Pool;

impl Layer<(Tensor, Tensor)> for Pool {
    type Out = Tensor;

    fn run(&self, (x, mask): (Tensor, Tensor), _: &Context) -> Tensor {
        let mask = mask.unsqueeze(-1).to_kind(Kind::Float);
        let mean = (x * &mask).sum_dim_intlist(1, false, Kind::Float) / mask.sum_dim_intlist(1, false, Kind::Float);
        let length = mean.norm_scalaropt_dim(2, 1, true).clamp_min(1e-12);
        mean / length
    }
}

impl MiniLm {
    pub(crate) fn new(vars: &MiniLmVars, config: &Config) -> Self {
        let width = config.hidden_size;
        let path = vars.embeddings();
        let eps = nn::LayerNormConfig { eps: config.layer_norm_eps, ..Default::default() };
        let norm = |path: nn::Path<'_>| nn::layer_norm(path, vec![width], eps);
        let table = |name, rows| nn::embedding(&path / name, rows, width, Default::default());
        Self {
            embeddings: Embeddings {
                words: table("word_embeddings", config.vocab_size),
                places: table("position_embeddings", config.max_position_embeddings),
                types: table("token_type_embeddings", config.type_vocab_size),
                norm: norm(&path / "LayerNorm"),
            },
            layers: vars.layers().map(|path| {
                let (attention, output) = (&path / "attention", &path / "output");
                let (own, mixed) = (&attention / "self", &attention / "output");
                let linear = |path, from, to| nn::linear(path, from, to, Default::default());
                let residual = |path: &nn::Path<'_>| Residual {
                    adapter: Adapter::new(path / "adapter", width),
                    norm: norm(path / "LayerNorm"),
                };
                Encoder {
                    heads: config.num_attention_heads,
                    qkv: ["query", "key", "value"].map(|name| linear(&own / name, width, width)),
                    mix: linear(&mixed / "dense", width, width),
                    mixed: residual(&mixed),
                    wide: linear(&path / "intermediate" / "dense", width, config.intermediate_size),
                    narrow: linear(&output / "dense", config.intermediate_size, width),
                    fed: residual(&output),
                }
            }),
            pool: Pool,
        }
    }
}
