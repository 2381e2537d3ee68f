//! AmoebaNet-D (L, F), with torchgpipe's 6 + L layers. All but the last one hand on a pair.

use pipe_runtime::{Context, Devices, Layer, pipeline};
use tch::nn::{self, Conv2D, Linear, ModuleT, Path, SequentialT};
use tch::{Kind, Tensor};

/// Each cell takes the outputs of the two cells before it, and hands on its own and the nearer one.
type Pair = (Tensor, Tensor);

#[pipeline(allow(single_stage))]
pub struct AmoebaNetD {
    #[device("cpu")]
    image: Stem,
    #[repeat]
    shrink1: [Cell; 2],
    #[repeat]
    cells1: Vec<Cell>,
    shrink2: Cell,
    #[repeat]
    cells2: Vec<Cell>,
    shrink3: Cell,
    #[repeat]
    cells3: Vec<Cell>,
    classify: Classify,
}

/// A convolution over the image. What it gives is both members of the first pair.
#[derive(Debug)]
struct Stem(SequentialT);

impl Layer<Tensor> for Stem {
    type Out = Pair;

    fn run(&self, image: Tensor, cx: &Context) -> Pair {
        let x = self.0.forward_t(&image, cx.is_training());
        (x.shallow_clone(), x)
    }
}

/// Ten operations on the two inputs and on each other's sums, two and two.
#[derive(Debug)]
struct Cell {
    nearer: SequentialT,
    farther: SequentialT,
    genotype: &'static Genotype,
    operations: Vec<SequentialT>,
}

impl Layer<Pair> for Cell {
    type Out = Pair;

    fn run(&self, (nearer, farther): Pair, cx: &Context) -> Pair {
        let train = cx.is_training();
        let mut states = vec![self.nearer.forward_t(&nearer, train), self.farther.forward_t(&farther, train)];
        for (operations, sums) in self.operations.chunks(2).zip(self.genotype.sums) {
            let [a, b] = [0, 1].map(|side| operations[side].forward_t(&states[sums[side].0], train));
            states.push(a + b);
        }
        let joined: Vec<_> = self.genotype.joined.iter().map(|&state| &states[state]).collect();
        (Tensor::cat(&joined, 1), nearer)
    }
}

#[derive(Debug)]
struct Classify(Linear);

impl Layer<Pair> for Classify {
    type Out = Tensor;

    fn run(&self, (x, _): Pair, _cx: &Context) -> Tensor {
        // An average pooling over 7 by 7 pixels, which is all that is left of 224 by 224.
        x.mean_dim([2, 3].as_slice(), false, Kind::Float).apply(&self.0)
    }
}

/// What a cell computes. Its states are the two inputs, and then the sums.
#[derive(Debug)]
struct Genotype {
    /// For each sum, of which two states it is, each after an operation.
    sums: [[(usize, Operation); 2]; 5],
    /// The states that are joined to the output.
    joined: &'static [usize],
    /// Whether the output has half of the size: operations on the inputs have a stride of 2.
    shrinks: bool,
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Nothing,
    AveragePool,
    MaxPool,
    Conv1,
    Conv3,
    Conv7,
}

use Operation::{AveragePool, Conv1, Conv3, Conv7, MaxPool, Nothing};

/// torchgpipe joins other states than the paper (Real et al. 2018, "Regularized Evolution for Image
/// Classifier Architecture Search"), as TensorFlow's implementation does. With these, the numbers
/// of parameters are those that GPipe's paper has. What is called a max pooling over 3 by 3 pixels
/// in torchgpipe's code is an average pooling, as here.
static NORMAL: Genotype = Genotype {
    sums: [
        [(1, Conv1), (1, AveragePool)],
        [(1, Nothing), (0, Conv7)],
        [(0, Conv1), (0, Conv7)],
        [(2, AveragePool), (2, Nothing)],
        [(1, AveragePool), (5, Conv1)],
    ],
    joined: &[0, 3, 4, 6],
    shrinks: false,
};

static REDUCTION: Genotype = Genotype {
    sums: [
        [(0, MaxPool), (0, AveragePool)],
        [(2, Nothing), (1, Conv3)],
        [(2, Conv7), (2, AveragePool)],
        [(3, Nothing), (1, MaxPool)],
        [(2, AveragePool), (3, Conv1)],
    ],
    joined: &[4, 5, 6],
    shrinks: true,
};

/// A nonlinearity, a convolution over `size` pixels, and a norm.
fn conv(path: &Path<'_>, channels: [i64; 2], size: [i64; 2], stride: [i64; 2]) -> SequentialT {
    let config = nn::ConvConfigND { stride, padding: size.map(|size| size / 2), bias: false, ..Default::default() };
    let [inputs, outputs] = channels;
    nn::seq_t().add_fn(Tensor::relu).add(nn::conv(path / "conv", inputs, outputs, size, config)).add(nn::batch_norm2d(
        path / "norm",
        outputs,
        Default::default(),
    ))
}

/// Halves the size by two convolutions, one of which sees the pixels that the other one leaves out.
#[derive(Debug)]
struct Halve([Conv2D; 2]);

fn halve(path: &Path<'_>, inputs: i64, outputs: i64) -> SequentialT {
    let config = nn::ConvConfig { stride: 2, bias: false, ..Default::default() };
    let half = |name| nn::conv2d(path / name, inputs, outputs / 2, 1, config);
    let norm = nn::batch_norm2d(path / "norm", outputs, Default::default());
    nn::seq_t().add_fn(Tensor::relu).add(Halve(["even", "odd"].map(half))).add(norm)
}

impl ModuleT for Halve {
    fn forward_t(&self, x: &Tensor, _train: bool) -> Tensor {
        let [even, odd] = &self.0;
        let moved = x.slice(2, 1, None, 1).slice(3, 1, None, 1).constant_pad_nd([0, 1, 0, 1]);
        Tensor::cat(&[x.apply(even), moved.apply(odd)], 1)
    }
}

impl Operation {
    fn make(self, path: &Path<'_>, channels: i64, stride: i64) -> SequentialT {
        let inside = channels / 4;
        match self {
            Nothing if stride == 1 => nn::seq_t(),
            Nothing => halve(path, channels, channels),
            AveragePool => nn::seq_t().add_fn(move |x| x.avg_pool2d([3, 3], [stride; 2], [1, 1], false, false, None)),
            MaxPool => nn::seq_t().add_fn(move |x| x.max_pool2d([2, 2], [stride; 2], [0, 0], [1, 1], false)),
            Conv1 => conv(path, [channels; 2], [1, 1], [stride; 2]),
            Conv3 => nn::seq_t()
                .add(conv(&(path / 0), [channels, inside], [1, 1], [1, 1]))
                .add(conv(&(path / 1), [inside; 2], [3, 3], [stride; 2]))
                .add(conv(&(path / 2), [inside, channels], [1, 1], [1, 1])),
            Conv7 => nn::seq_t()
                .add(conv(&(path / 0), [channels, inside], [1, 1], [1, 1]))
                .add(conv(&(path / 1), [inside; 2], [1, 7], [1, stride]))
                .add(conv(&(path / 2), [inside; 2], [7, 1], [stride, 1]))
                .add(conv(&(path / 3), [inside, channels], [1, 1], [1, 1])),
        }
    }
}

/// Makes one cell after the other.
struct Cells {
    /// The channels of the two outputs before, the nearer one first.
    outputs: [i64; 2],
    /// The channels inside of a cell.
    channels: i64,
    /// Whether the cell before has halved the size.
    shrunk: bool,
}

impl Cells {
    fn cell(&mut self, path: Path<'_>, genotype: &'static Genotype) -> Cell {
        if genotype.shrinks {
            self.channels *= 2;
        }
        let channels = self.channels;
        let [nearer, farther] = self.outputs;
        let operations = genotype.sums.iter().flatten().enumerate().map(|(number, &(state, operation))| {
            let stride = if genotype.shrinks && state < 2 { 2 } else { 1 };
            operation.make(&(&path / "operations" / number), channels, stride)
        });
        let cell = Cell {
            nearer: conv(&(&path / "nearer"), [nearer, channels], [1, 1], [1, 1]),
            farther: match farther {
                _ if self.shrunk => halve(&(&path / "farther"), farther, channels),
                same if same == channels => nn::seq_t(),
                _ => conv(&(&path / "farther"), [farther, channels], [1, 1], [1, 1]),
            },
            genotype,
            operations: operations.collect(),
        };
        self.outputs = [channels * genotype.joined.len() as i64, nearer];
        self.shrunk = genotype.shrinks;
        cell
    }

    fn cells(&mut self, paths: Vec<Path<'_>>, genotype: &'static Genotype) -> Vec<Cell> {
        paths.into_iter().map(|path| self.cell(path, genotype)).collect()
    }
}

impl AmoebaNetD {
    /// Makes the model with `cells` normal cells, a multiple of 3, `filters` and 1000 classes.
    pub fn make(cells: usize, filters: i64) -> pipe_runtime::Result<(Self, AmoebaNetDVars)> {
        let vars = Self::vars(&Devices::cpu(Self::STAGES))?;
        let (channels, each) = (filters / 4, cells / 3);
        let mut next = Cells { outputs: [channels; 2], channels, shrunk: false };
        let path = vars.image();
        let config = nn::ConvConfig { stride: 2, padding: 1, bias: false, ..Default::default() };
        let image = nn::seq_t()
            .add_fn(Tensor::relu)
            .add(nn::conv2d(&path / "conv", 3, channels, 3, config))
            .add(nn::batch_norm2d(&path / "norm", channels, Default::default()));
        let model = Self {
            image: Stem(image),
            shrink1: vars.shrink1().map(|path| next.cell(path, &REDUCTION)),
            cells1: next.cells(vars.cells1(each), &NORMAL),
            shrink2: next.cell(vars.shrink2(), &REDUCTION),
            cells2: next.cells(vars.cells2(each), &NORMAL),
            shrink3: next.cell(vars.shrink3(), &REDUCTION),
            cells3: next.cells(vars.cells3(each), &NORMAL),
            classify: Classify(nn::linear(vars.classify(), next.outputs[0], 1000, Default::default())),
        };
        Ok((model, vars))
    }
}
