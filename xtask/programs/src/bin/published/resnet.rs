//! ResNet-101. A bottleneck is four layers, because some cuts of torchgpipe's are inside of one.

use pipe_runtime::{Context, Devices, Layer, pipeline};
use tch::nn::{self, BatchNorm, Conv2D, Linear, Module, ModuleT, Path, SequentialT};
use tch::{Kind, Tensor};

#[pipeline(allow(single_stage))]
pub struct ResNet {
    #[device("cpu")]
    stem: Stem,
    #[repeat]
    parts: Vec<Part>,
    head: Head,
}

/// Torchgpipe's modules in a layer: a convolution, a norm, a ReLU, a sum and the like count as one.
const STEM: usize = 4;
const PARTS: [usize; 4] = [3, 4, 3, 1];
const HEAD: usize = 3;

/// Within a bottleneck, its input is handed on beside the value.
type Value = (Tensor, Option<Tensor>);

#[derive(Debug)]
struct Stem(SequentialT);

impl Layer<Tensor> for Stem {
    type Out = Value;

    fn run(&self, image: Tensor, cx: &Context) -> Value {
        (self.0.forward_t(&image, cx.is_training()), None)
    }
}

/// A part of a bottleneck.
#[derive(Debug)]
enum Part {
    Reduce(ConvNorm),
    Middle(ConvNorm),
    /// Adds the bottleneck's input, which is projected where the sizes differ.
    Expand(ConvNorm, Option<Box<ConvNorm>>),
    Relu,
}

impl Layer<Value> for Part {
    type Out = Value;

    fn run(&self, (x, input): Value, cx: &Context) -> Value {
        let train = cx.is_training();
        match (self, input) {
            (Self::Reduce(conv), None) => (conv.forward_t(&x, train), Some(x)),
            (Self::Middle(conv), input) => (conv.forward_t(&x.relu(), train).relu(), input),
            (Self::Expand(conv, project), Some(input)) => {
                let input = match project {
                    Some(project) => project.forward_t(&input, train),
                    None => input,
                };
                (conv.forward_t(&x, train) + input, None)
            }
            (Self::Relu, None) => (x.relu(), None),
            (part, _) => panic!("{part:?} is not in its place"),
        }
    }
}

#[derive(Debug)]
struct ConvNorm {
    conv: Conv2D,
    norm: BatchNorm,
}

impl ConvNorm {
    /// Makes a convolution over `size` by `size` pixels.
    fn new(path: &Path<'_>, [inputs, outputs]: [i64; 2], size: i64, stride: i64) -> Self {
        let config = nn::ConvConfig { stride, padding: size / 2, bias: false, ..Default::default() };
        Self {
            conv: nn::conv2d(path / "conv", inputs, outputs, size, config),
            norm: nn::batch_norm2d(path / "norm", outputs, Default::default()),
        }
    }
}

impl ModuleT for ConvNorm {
    fn forward_t(&self, x: &Tensor, train: bool) -> Tensor {
        self.norm.forward_t(&x.apply(&self.conv), train)
    }
}

#[derive(Debug)]
struct Head(Linear);

impl Layer<Value> for Head {
    type Out = Tensor;

    fn run(&self, (x, _): Value, _cx: &Context) -> Tensor {
        self.0.forward(&x.mean_dim([2, 3].as_slice(), false, Kind::Float))
    }
}

impl ResNet {
    /// Makes the model with so many bottlenecks in its four groups (3, 4, 23, 3) and 1000 classes.
    pub fn make(blocks: [usize; 4]) -> pipe_runtime::Result<(Self, ResNetVars)> {
        let vars = Self::vars(&Devices::cpu(Self::STAGES))?;
        let stem = nn::seq_t()
            .add(ConvNorm::new(&vars.stem(), [3, 64], 7, 2))
            .add_fn(Tensor::relu)
            .add_fn(|x| x.max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false));
        let mut paths = vars.parts(PARTS.len() * blocks.iter().sum::<usize>()).into_iter();
        let mut parts = Vec::new();
        let mut width = 64;
        for (group, count) in blocks.into_iter().enumerate() {
            let inside = 64 << group;
            for block in 0..count {
                let stride = if block == 0 && group > 0 { 2 } else { 1 };
                let outside = 4 * inside;
                let mut next = || paths.next().expect("there are as many paths as parts");
                parts.push(Part::Reduce(ConvNorm::new(&next(), [width, inside], 1, 1)));
                parts.push(Part::Middle(ConvNorm::new(&next(), [inside; 2], 3, stride)));
                let path = next();
                let project =
                    (block == 0).then(|| Box::new(ConvNorm::new(&(&path / "project"), [width, outside], 1, stride)));
                parts.push(Part::Expand(ConvNorm::new(&path, [inside, outside], 1, 1), project));
                next();
                parts.push(Part::Relu);
                width = outside;
            }
        }
        let head = Head(nn::linear(vars.head(), width, 1000, Default::default()));
        Ok((Self { stem: Stem(stem), parts, head }, vars))
    }

    /// How many of torchgpipe's modules each layer is.
    pub fn modules(blocks: [usize; 4]) -> Vec<usize> {
        let parts = PARTS.repeat(blocks.iter().sum());
        [vec![STEM], parts, vec![HEAD]].concat()
    }
}
