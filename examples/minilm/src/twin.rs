//! BERT with adapters in plain tch: one sentence at a time, without padding, and with every formula
//! written out.

use std::collections::BTreeMap;

use anyhow::Result;
use pipe_examples::twin::Step;
use pipe_runtime::Pipe;
use tch::{Device, Kind, Tensor};

use crate::adapters;
use crate::files::Config;
use crate::model::{MiniLm, MiniLmVars};
use crate::text::Batch;

/// By the names of Hugging Face.
pub type Weights = BTreeMap<String, Tensor>;

/// The embedding of one sentence, `[width]`.
pub fn embedding(weights: &Weights, heads: i64, epsilon: f64, tokens: &[i64]) -> Tensor {
    let linear = |x: &Tensor, name: String| {
        x.matmul(&weights[&format!("{name}.weight")].tr()) + &weights[&format!("{name}.bias")]
    };
    let norm = |x: Tensor, name: String| {
        let from_mean = &x - x.mean_dim(-1, true, Kind::Float);
        let variance = from_mean.square().mean_dim(-1, true, Kind::Float);
        from_mean / (variance + epsilon).sqrt() * &weights[&format!("{name}.weight")]
            + &weights[&format!("{name}.bias")]
    };
    let gelu = |x: Tensor| &x * ((&x / 2_f64.sqrt()).erf() + 1) / 2;
    // The files of the pretrained model have no adapters.
    let adapter = |x: Tensor, name: String| match weights.contains_key(&format!("{name}.down.weight")) {
        true => &x + linear(&gelu(linear(&x, format!("{name}.down"))), format!("{name}.up")),
        false => x,
    };
    let table = |name: &str| &weights[&format!("embeddings.{name}_embeddings.weight")];
    let words = table("word").index_select(0, &Tensor::from_slice(tokens));
    let places = table("position").narrow(0, 0, tokens.len() as i64);
    let mut x = norm(words + places + table("token_type").get(0), "embeddings.LayerNorm".to_owned());
    for layer in (0..6).map(|number| format!("encoder.layer.{number}")) {
        let [q, k, v] = ["query", "key", "value"].map(|name| linear(&x, format!("{layer}.attention.self.{name}")));
        let width = x.size()[1] / heads;
        let head = |number: i64| {
            let [q, k, v] = [&q, &k, &v].map(|all| all.narrow(1, number * width, width));
            (q.matmul(&k.tr()) / (width as f64).sqrt()).softmax(-1, Kind::Float).matmul(&v)
        };
        let found = Tensor::cat(&(0..heads).map(head).collect::<Vec<_>>(), 1);
        let found = linear(&found, format!("{layer}.attention.output.dense"));
        let found = adapter(found, format!("{layer}.attention.output.adapter"));
        x = norm(x + found, format!("{layer}.attention.output.LayerNorm"));
        let wide = gelu(linear(&x, format!("{layer}.intermediate.dense")));
        let fed = adapter(linear(&wide, format!("{layer}.output.dense")), format!("{layer}.output.adapter"));
        x = norm(x + fed, format!("{layer}.output.LayerNorm"));
    }
    let mean = x.mean_dim(0, false, Kind::Float);
    &mean / mean.square().sum(Kind::Float).sqrt()
}

/// Compares one more step of the training of the adapters: loss and gradients, on the CPU.
///
/// # Errors
///
/// Fails if the step does, or if they differ by more than rounding.
pub fn compare(
    pipe: &mut Pipe<MiniLm>,
    vars: &MiniLmVars,
    config: &Config,
    (tokens, mask): &Batch,
    labels: &Tensor,
    topics: &Tensor,
) -> Result<()> {
    let step = Step::pipelined(vars.var_store().variables(), || {
        let loss = |embeddings: &Tensor, labels: &Tensor| adapters::loss(embeddings, labels, topics);
        Ok(pipe.train_step((tokens, mask), labels, loss)?.loss)
    })?;
    let copy =
        |variable: &Tensor| variable.detach().to_device(Device::Cpu).copy().set_requires_grad(variable.requires_grad());
    let variables = vars.var_store().variables();
    let copies: Vec<(String, Tensor)> = variables.iter().map(|(name, all)| (name.clone(), copy(all))).collect();
    let in_file = |name: &str| match name.strip_prefix("layers.") {
        Some(rest) => format!("encoder.layer.{rest}"),
        None => name.to_owned(),
    };
    let weights: Weights = copies.iter().map(|(name, copy)| (in_file(name), copy.shallow_clone())).collect();
    let [tokens, mask, labels, topics] = [tokens, mask, labels, topics].map(|all| all.to_device(Device::Cpu));
    let sentence = |row: i64| {
        let tokens = tokens.get(row).masked_select(&mask.get(row).ne(0));
        let tokens = Vec::try_from(tokens).expect("a list of numbers");
        embedding(&weights, config.num_attention_heads, config.layer_norm_eps, &tokens)
    };
    let sentences = || Tensor::stack(&(0..tokens.size()[0]).map(sentence).collect::<Vec<_>>(), 0);
    let plain = Step::plain(copies.into_iter().collect(), || adapters::loss(&sentences(), &labels, &topics))?;
    step.compare(&plain)
}
