//! What this library does where torchgpipe is wrong: for each fault a value, or the text of an
//! error. `compare.py` has a function of the same name that shows the fault in torchgpipe.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, bail};
use pipe_runtime::balance::Balance;
use pipe_runtime::nn::{Add, DeferredBatchNorm};
use pipe_runtime::{Context, Devices, Layer, Pipe, autocast, pipeline};
use serde_json::{Value, json};
use tch::nn::{self, BatchNorm, Linear, VarStore};
use tch::{Device, Kind, Tensor};

/// The name of every fault, and this library's result.
pub fn all() -> Result<Value> {
    Ok(json!({
        "except_last_spares_none": except_last_spares_none()?,
        "biased_variance": deferred(&counting(4), 2)?.1,
        "cancelling_variance": deferred(&(counting(4) / 8. + 4096.), 2)?.1,
        "straddling_statistics": deferred(&counting(6), 4)?.0,
        "statistics_updated_twice": statistics_updated_twice()?,
        "lost_rows": lost_rows()?,
        "ignored_first_output": ignored_first_output()?,
        "integer_first_output": integer_first_output()?,
        "list_outputs": list_outputs()?,
        "skip_without_gradient": skip_without_gradient()?,
        "lost_autocast": lost_autocast()?,
        "second_backward": second_backward()?,
        "gradients_of_parameters": gradients_of_parameters()?,
        "polluted_gradients": polluted_gradients()?,
        "names": names()?,
        "block_partitions": block_partitions()?,
    }))
}

/// The numbers `0, 1, 2, ...` in rows of two.
fn counting(rows: i64) -> Tensor {
    Tensor::arange(2 * rows, (Kind::Float, Device::Cpu)).view([rows, 2])
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(Vec::try_from(tensor.to_kind(Kind::Double).view(-1))?)
}

/// A layer from two numbers to two, with weights `0.1, 0.2, ...` and without bias.
fn linear(path: nn::Path<'_>) -> Linear {
    let config = nn::LinearConfig { bias: false, ..Default::default() };
    let layer = nn::linear(path, 2, 2, config);
    let weights = (counting(2) + 1.) * 0.1;
    tch::no_grad(|| layer.ws.shallow_clone().copy_(&weights));
    layer
}

#[pipeline(chunks = 2, checkpoint = always)]
struct Chain {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    last: Linear,
}

fn chain() -> Result<(Pipe<Chain>, ChainVars)> {
    let vars = Chain::vars(&Devices::cpu(2))?;
    let model = Chain { first: linear(vars.first()), last: linear(vars.last()) };
    Ok((model.pipe(&vars).build()?, vars))
}

/// `first.weight` and `last.weight`.
fn parameters(vars: &ChainVars) -> [Tensor; 2] {
    let variables = vars.var_store().variables();
    ["first.weight", "last.weight"].map(|name| variables[name].shallow_clone())
}

/// Counts its recomputations.
struct Recomputed(Arc<AtomicUsize>);

impl Layer<Tensor> for Recomputed {
    type Out = Tensor;

    fn run(&self, x: Tensor, cx: &Context) -> Tensor {
        self.0.fetch_add(usize::from(cx.is_recomputing()), Ordering::Relaxed);
        x * 2.
    }
}

/// The number of micro-batches that are recomputed, of the three that five rows in four chunks
/// give.
fn except_last_spares_none() -> Result<usize> {
    #[pipeline(chunks = 4, checkpoint = except_last)]
    struct Net {
        #[device("cpu")]
        first: Recomputed,
        #[device("cpu")]
        last: Linear,
    }
    let count = Arc::new(AtomicUsize::new(0));
    let vars = Net::vars(&Devices::cpu(2))?;
    let mut pipe = Net { first: Recomputed(Arc::clone(&count)), last: linear(vars.last()) }.pipe(&vars).build()?;
    pipe.forward(counting(5).set_requires_grad(true))?.sum(Kind::Float).f_backward()?;
    Ok(count.load(Ordering::Relaxed))
}

/// The running mean and variance after a step.
fn deferred(x: &Tensor, chunks: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    #[pipeline]
    struct Net {
        #[device("cpu")]
        norm: DeferredBatchNorm,
        #[device("cpu")]
        last: Linear,
    }
    let vars = Net::vars(&Devices::cpu(2))?;
    let model = Net { norm: DeferredBatchNorm::new1d(vars.norm(), 2, Default::default()), last: linear(vars.last()) };
    model.pipe(&vars).chunks(chunks).build()?.forward(x)?.sum(Kind::Float).f_backward()?;
    let variables = vars.var_store().variables();
    Ok((numbers(&variables["norm.running_mean"])?, numbers(&variables["norm.running_var"])?))
}

/// The running mean of a plain batch norm after a step of two checkpointed micro-batches.
fn statistics_updated_twice() -> Result<Vec<f64>> {
    #[pipeline(chunks = 2, checkpoint = always)]
    struct Net {
        #[device("cpu")]
        norm: BatchNorm,
        #[device("cpu")]
        last: Linear,
    }
    let vars = Net::vars(&Devices::cpu(2))?;
    let model = Net { norm: nn::batch_norm1d(vars.norm(), 2, Default::default()), last: linear(vars.last()) };
    model.pipe(&vars).build()?.forward(counting(4))?.sum(Kind::Float).f_backward()?;
    numbers(&vars.var_store().variables()["norm.running_mean"])
}

/// The result of inputs with four rows and three rows, in four chunks.
fn lost_rows() -> Result<String> {
    #[pipeline(input = (Tensor, Tensor), chunks = 4)]
    struct Net {
        #[device("cpu")]
        add: Add,
        #[device("cpu")]
        last: Linear,
    }
    let vars = Net::vars(&Devices::cpu(2))?;
    let mut pipe = Net { add: Add, last: linear(vars.last()) }.pipe(&vars).build()?;
    error(pipe.forward((counting(4), counting(3))))
}

/// The gradient of the first layer if the loss ignores the first output.
fn ignored_first_output() -> Result<Vec<f64>> {
    #[pipeline(output = (Tensor, Tensor), chunks = 2, checkpoint = always)]
    struct Net {
        #[device("cpu")]
        first: Linear,
        #[device("cpu")]
        last: SineCosine,
    }

    struct SineCosine;

    impl Layer<Tensor> for SineCosine {
        type Out = (Tensor, Tensor);

        fn run(&self, x: Tensor, _cx: &Context) -> (Tensor, Tensor) {
            (x.sin(), x.cos())
        }
    }
    let vars = Net::vars(&Devices::cpu(2))?;
    let mut pipe = Net { first: linear(vars.first()), last: SineCosine }.pipe(&vars).build()?;
    let (_, cosine) = pipe.forward(counting(4))?;
    cosine.sum(Kind::Float).f_backward()?;
    numbers(&vars.var_store().variables()["first.weight"].grad())
}

/// The gradient of the first layer if the outputs are a list.
fn list_outputs() -> Result<Vec<f64>> {
    #[pipeline(output = Vec<Tensor>, chunks = 2, checkpoint = always)]
    struct Net {
        #[device("cpu")]
        first: Linear,
        #[device("cpu")]
        last: List,
    }

    struct List;

    impl Layer<Tensor> for List {
        type Out = Vec<Tensor>;

        fn run(&self, x: Tensor, _cx: &Context) -> Vec<Tensor> {
            vec![x.sin(), x.cos()]
        }
    }
    let vars = Net::vars(&Devices::cpu(2))?;
    let mut pipe = Net { first: linear(vars.first()), last: List }.pipe(&vars).build()?;
    let outputs = pipe.forward(counting(4))?;
    (&outputs[0] * &outputs[1]).sum(Kind::Float).f_backward()?;
    numbers(&vars.var_store().variables()["first.weight"].grad())
}

/// The gradient of the first layer if the first output has none.
fn integer_first_output() -> Result<Vec<f64>> {
    #[pipeline(output = (Tensor, Tensor), chunks = 2, checkpoint = always)]
    struct Net {
        #[device("cpu")]
        first: Linear,
        #[device("cpu")]
        last: LabelAndSine,
    }

    struct LabelAndSine;

    impl Layer<Tensor> for LabelAndSine {
        type Out = (Tensor, Tensor);

        fn run(&self, x: Tensor, _cx: &Context) -> (Tensor, Tensor) {
            (x.argmax(-1, false), x.sin())
        }
    }
    let vars = Net::vars(&Devices::cpu(2))?;
    let mut pipe = Net { first: linear(vars.first()), last: LabelAndSine }.pipe(&vars).build()?;
    let (_, sine) = pipe.forward(counting(4))?;
    sine.sum(Kind::Float).f_backward()?;
    numbers(&vars.var_store().variables()["first.weight"].grad())
}

/// The gradient of the first layer if it stashes integers that another stage pops.
fn skip_without_gradient() -> Result<Vec<f64>> {
    #[pipeline(chunks = 2, checkpoint = never, allow(short_skip))]
    struct Net {
        #[device("cpu")]
        first: Linear,
        #[stash(order)]
        sort: Sort,
        #[device("cpu")]
        #[pop(order)]
        last: Gather,
    }

    struct Sort;

    impl Layer<Tensor> for Sort {
        type Out = (Tensor, Tensor);

        fn run(&self, x: Tensor, _cx: &Context) -> (Tensor, Tensor) {
            let order = x.argsort(-1, false);
            (x, order)
        }
    }

    struct Gather;

    impl Layer<(Tensor, Tensor)> for Gather {
        type Out = Tensor;

        fn run(&self, (x, order): (Tensor, Tensor), _cx: &Context) -> Tensor {
            x.gather(-1, &order, false).sin()
        }
    }
    let vars = Net::vars(&Devices::cpu(2))?;
    let mut pipe = Net { first: linear(vars.first()), sort: Sort, last: Gather }.pipe(&vars).build()?;
    pipe.forward(counting(4))?.sum(Kind::Float).f_backward()?;
    numbers(&vars.var_store().variables()["first.weight"].grad())
}

/// The kind of an output under autocast.
fn lost_autocast() -> Result<String> {
    let (mut pipe, _vars) = chain()?;
    let output = autocast(Device::Cpu, Kind::BFloat16, || pipe.forward(counting(4)))??;
    Ok(format!("{:?}", output.kind()).to_lowercase())
}

/// The gradient of the last layer after two backward passes through one graph.
fn second_backward() -> Result<Vec<f64>> {
    let (mut pipe, vars) = chain()?;
    let loss = pipe.forward(counting(4))?.sum(Kind::Float);
    let [first, last] = parameters(&vars);
    let mut sum = last.zeros_like();
    for retain in [true, false] {
        sum += &Tensor::f_run_backward(&[&loss], &[&first, &last], retain, false)?[1];
    }
    numbers(&sum)
}

/// The gradients that `autograd.grad` returns for both layers.
fn gradients_of_parameters() -> Result<Vec<f64>> {
    let (mut pipe, vars) = chain()?;
    let loss = pipe.forward(counting(4).set_requires_grad(true))?.sum(Kind::Float);
    let gradients = Tensor::f_run_backward(&[loss], &parameters(&vars), false, false)?;
    numbers(&Tensor::stack(&gradients, 0))
}

/// The number of parameters that have a `.grad` after `autograd.grad` for the input.
fn polluted_gradients() -> Result<usize> {
    let (mut pipe, vars) = chain()?;
    let x = counting(4).set_requires_grad(true);
    let loss = pipe.forward(&x)?.sum(Kind::Float);
    Tensor::f_run_backward(&[loss], &[&x], false, false)?;
    Ok(parameters(&vars).iter().filter(|parameter| parameter.grad().defined()).count())
}

/// The names in a saved file.
fn names() -> Result<Vec<String>> {
    let (_pipe, vars) = chain()?;
    let mut names: Vec<_> = vars.var_store().variables().into_keys().collect();
    names.sort();
    Ok(names)
}

/// The size of the largest of three stages, for layers with these numbers of parameters.
fn block_partitions() -> Result<usize> {
    #[pipeline]
    struct Chain {
        #[repeat]
        layers: Vec<Heavy>,
    }

    #[derive(Debug)]
    struct Heavy {
        _weight: Tensor,
    }

    impl nn::Module for Heavy {
        fn forward(&self, x: &Tensor) -> Tensor {
            x.shallow_clone()
        }
    }
    let sizes = [4, 1, 1, 4, 1, 1, 1, 4];
    let store = VarStore::new(Device::Cpu);
    let paths = Chain::vars_at(store.root()).layers(sizes.len());
    let layer = |(path, size): (nn::Path<'_>, usize)| Heavy { _weight: path.zeros("weight", &[size as i64]) };
    let model = Chain { layers: paths.into_iter().zip(sizes).map(layer).collect() };
    let profile = Balance::of_block(&model, &store, &store.root()).stages(3).by_size(counting(1))?;
    let mut rest = sizes.iter();
    let stages = profile.balance().into_iter().map(|count| rest.by_ref().take(count).sum());
    stages.max().context("there are stages")
}

fn error<T, E: ToString>(outcome: Result<T, E>) -> Result<String> {
    match outcome {
        Err(error) => Ok(error.to_string()),
        Ok(_) => bail!("an error was expected"),
    }
}
