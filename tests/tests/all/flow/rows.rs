//! Values by rows of the batch: along another dimension, several per row, or as a list.

use pipe_runtime::{
    Along, Checkpoint, Context, Devices, Each, Flow, Layer, PerRow, Pipe, Pipeline, Replicate, Rows, Vars, pipeline,
};
use pipe_tests::compare::{leaf, mse, rows};
use pipe_tests::layers::linear;
use tch::nn::Linear;
use tch::{Device, Kind, Tensor};

/// Asserts closeness, not equality: the expected tensor is computed on the whole batch, which
/// rounds differently.
fn assert_close(found: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!(found.size(), expected.size(), "{what}");
    assert!(found.allclose(expected, 1e-5, 1e-6, false), "{what}: {found} instead of {expected}");
}

/// Compares with `plain`, which is the loss of plain tch on the whole batch. Compares the loss of
/// `forward` with the gradients of `inputs` and parameters, and the loss of the training step
/// `step` with the gradients of the parameters. Returns the second value of `forward`.
fn assert_as_plain<M: Pipeline, O>(
    pipe: &mut Pipe<M>,
    vars: &Vars,
    inputs: &[&Tensor],
    plain: &Tensor,
    forward: impl FnOnce(&mut Pipe<M>) -> (Tensor, O),
    step: impl FnOnce(&mut Pipe<M>) -> Tensor,
) -> O {
    let mut parameters: Vec<_> = vars.var_store().variables().into_iter().collect();
    parameters.sort_by(|(a, _), (b, _)| a.cmp(b));
    let leaves: Vec<&Tensor> = parameters.iter().map(|(_, tensor)| tensor).chain(inputs.iter().copied()).collect();
    let expected = Tensor::run_backward(&[plain], &leaves, false, false);

    let (loss, output) = forward(pipe);
    assert_close(&loss, plain, "loss of forward");
    let found = Tensor::run_backward(&[&loss], &leaves, false, false);
    for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let name = parameters.get(index).map_or("of an input", |(name, _)| name);
        assert_close(found, expected, &format!("{name}: gradient {index} of backward"));
    }

    assert_close(&step(pipe), &plain.detach(), "loss of the step");
    for ((name, parameter), expected) in parameters.iter().zip(&expected) {
        assert_close(&parameter.grad(), expected, &format!("{name}: gradient of the step"));
    }
    output
}

fn random(size: &[i64]) -> Tensor {
    Tensor::randn(size, (Kind::Float, Device::Cpu))
}

/// Rows of a batch with micro-batches of 3, 3 and 1 rows.
const RAGGED: i64 = 7;

const MODES: [Checkpoint; 2] = [Checkpoint::Always, Checkpoint::Never];

#[test]
fn along_another_dimension() {
    type In = (Tensor, Along<1>);

    #[pipeline(input = In, output = Along<1>, chunks = 3)]
    struct Placed {
        #[device("cpu")]
        first: Scale,
        #[device("cpu")]
        last: Place,
    }

    /// A layer on `[batch, 8]` that passes positions `[3, batch, 8]` to the next stage.
    struct Scale(Linear);

    impl Layer<In> for Scale {
        type Out = In;

        fn run(&self, (x, positions): In, _cx: &Context) -> In {
            (x.apply(&self.0), positions)
        }
    }

    /// A layer that returns `[3, batch, 8]`.
    struct Place(Linear);

    impl Layer<In> for Place {
        type Out = Along<1>;

        fn run(&self, (x, Along(positions)): In, _cx: &Context) -> Along<1> {
            Along((x + positions).apply(&self.0))
        }
    }

    let _serial = pipe_tests::serial();
    for mode in MODES {
        let vars = Placed::vars(&Devices::cpu(2)).unwrap();
        let (first, last) = (linear(vars.first(), 8, 8), linear(vars.last(), 8, 8));
        let (x, positions) = (leaf(RAGGED), random(&[3, RAGGED, 8]).set_requires_grad(true));
        let y = random(&[3, RAGGED, 8]);
        let whole = (x.apply(&first) + &positions).apply(&last);
        let plain = mse(&whole, &y);

        let mut pipe = Placed { first: Scale(first), last: Place(last) }.pipe(&vars).checkpoint(mode).build().unwrap();
        let output = assert_as_plain(
            &mut pipe,
            &vars,
            &[&x, &positions],
            &plain,
            |pipe| {
                let Along(output) = pipe.forward((&x, Along(&positions))).unwrap();
                (mse(&output, &y), output)
            },
            |pipe| {
                let loss = |Along(output): &Along<1>, Along(y): &Along<1>| mse(output, y);
                let report =
                    pipe.step().keep_output().run((x.detach(), Along(positions.detach())), Along(&y), loss).unwrap();
                assert_close(&report.output.0, &whole.detach(), "output of the step");
                report.loss
            },
        );
        assert_close(&output, &whole, "output of forward");
    }
}

#[test]
fn several_rows_for_each() {
    type In = (Tensor, PerRow<2>);

    #[pipeline(input = In, output = PerRow<2>, chunks = 3)]
    struct Captioned {
        #[device("cpu")]
        first: Look,
        #[device("cpu")]
        last: Read,
    }

    /// A layer on images `[batch, 8]` that passes captions `[2 * batch, 8]` on.
    struct Look(Linear);

    impl Layer<In> for Look {
        type Out = In;

        fn run(&self, (images, captions): In, _cx: &Context) -> In {
            (images.apply(&self.0), captions)
        }
    }

    /// A layer that returns `[2 * batch, 8]`.
    struct Read(Linear);

    impl Layer<In> for Read {
        type Out = PerRow<2>;

        fn run(&self, (images, PerRow(captions)): In, _cx: &Context) -> PerRow<2> {
            PerRow(captions.apply(&self.0) * images.repeat_interleave_self_int(2, 0, None))
        }
    }

    let _serial = pipe_tests::serial();
    for mode in MODES {
        let vars = Captioned::vars(&Devices::cpu(2)).unwrap();
        let (first, last) = (linear(vars.first(), 8, 8), linear(vars.last(), 8, 8));
        let (images, captions, y) = (leaf(RAGGED), leaf(2 * RAGGED), rows(2 * RAGGED));
        let whole =
            (captions.view([-1, 2, 8]).apply(&last) * images.apply(&first).unsqueeze(1)).reshape([2 * RAGGED, 8]);
        let plain = mse(&whole, &y);

        let mut pipe = Captioned { first: Look(first), last: Read(last) }.pipe(&vars).checkpoint(mode).build().unwrap();
        let output = assert_as_plain(
            &mut pipe,
            &vars,
            &[&images, &captions],
            &plain,
            |pipe| {
                let PerRow(output) = pipe.forward((&images, PerRow(&captions))).unwrap();
                (mse(&output, &y), output)
            },
            |pipe| {
                let loss = |PerRow(output): &PerRow<2>, PerRow(y): &PerRow<2>| mse(output, y);
                pipe.train_step((images.detach(), PerRow(captions.detach())), PerRow(&y), loss).unwrap().loss
            },
        );
        assert_close(&output, &whole, "output of forward");
    }
}

#[test]
fn lists_with_an_entry_per_row() {
    type In = (Rows<String>, Tensor);
    type Out = (Tensor, Rows<String>);

    #[pipeline(input = In, output = Out, chunks = 3)]
    struct Words {
        #[device("cpu")]
        first: Count,
        #[device("cpu")]
        last: Weigh,
    }

    fn lengths(words: &[String]) -> Tensor {
        Tensor::from_slice(&words.iter().map(|word| word.len() as f32).collect::<Vec<_>>()).unsqueeze(-1)
    }

    struct Count(Linear);

    impl Layer<In> for Count {
        type Out = Out;

        fn run(&self, (words, x): In, _cx: &Context) -> Out {
            assert_eq!(words.0.len() as i64, x.size()[0]);
            ((x * lengths(&words.0)).apply(&self.0), words)
        }
    }

    struct Weigh(Linear);

    impl Layer<Out> for Weigh {
        type Out = Out;

        fn run(&self, (x, words): Out, _cx: &Context) -> Out {
            (x.apply(&self.0) + lengths(&words.0), words)
        }
    }

    let _serial = pipe_tests::serial();
    for mode in MODES {
        let vars = Words::vars(&Devices::cpu(2)).unwrap();
        let (first, last) = (linear(vars.first(), 8, 8), linear(vars.last(), 8, 8));
        let (x, words) = (leaf(RAGGED), ["a", "list", "of", "as", "many", "words", ""]);
        let labels = vec![3_i64, 1, 4, 1, 5, 2, 6];
        let owned = words.map(str::to_owned);
        let logits = (&x * lengths(&owned)).apply(&first).apply(&last) + lengths(&owned);
        let plain = logits.cross_entropy_for_logits(&Tensor::from_slice(&labels));

        let mut pipe = Words { first: Count(first), last: Weigh(last) }.pipe(&vars).checkpoint(mode).build().unwrap();
        let found = assert_as_plain(
            &mut pipe,
            &vars,
            &[&x],
            &plain,
            |pipe| {
                let (output, words) = pipe.forward((Rows(words.to_vec()), &x)).unwrap();
                (output.cross_entropy_for_logits(&Tensor::from_slice(&labels)), words)
            },
            |pipe| {
                let loss = |(output, _): &Out, Rows(labels): &Rows<i64>| {
                    output.cross_entropy_for_logits(&Tensor::from_slice(labels))
                };
                pipe.train_step((Rows(words.to_vec()), x.detach()), Rows(labels.clone()), loss).unwrap().loss
            },
        );
        assert_eq!(found.0, owned);
    }
}

#[test]
fn lists_of_images_of_different_sizes() {
    #[pipeline(input = Rows<Tensor>, output = Tensor, chunks = 3)]
    struct Images {
        #[device("cpu")]
        first: Pool,
        #[device("cpu")]
        last: Linear,
    }

    /// A layer from a list of `[3, height, width]` images to `[batch, 8]`.
    struct Pool(Linear);

    impl Layer<Rows<Tensor>> for Pool {
        type Out = Tensor;

        fn run(&self, Rows(images): Rows<Tensor>, _cx: &Context) -> Tensor {
            pooled(&images).apply(&self.0).tanh()
        }
    }

    fn pooled(images: &[Tensor]) -> Tensor {
        let pooled = images.iter().map(|image| image.square().mean_dim(&[1_i64, 2][..], false, None));
        Tensor::stack(&pooled.collect::<Vec<_>>(), 0)
    }

    let _serial = pipe_tests::serial();
    let images = |count: i64| {
        let image = |index: i64| random(&[3, 2 + index % 3, 4 + index]).set_requires_grad(true);
        Rows((0..count).map(image).collect::<Vec<_>>())
    };
    let make = || {
        let vars = Images::vars(&Devices::cpu(2)).unwrap();
        let model = Images { first: Pool(linear(vars.first(), 3, 8)), last: linear(vars.last(), 8, 8) };
        (model, vars)
    };
    // One row, equal micro-batches, and ragged ones.
    for (count, mode) in [1, 6, RAGGED].into_iter().flat_map(|count| MODES.map(|mode| (count, mode))) {
        let (model, vars) = make();
        let (images, y) = (images(count), rows(count));
        let plain = mse(&pooled(&images.0).apply(&model.first.0).tanh().apply(&model.last), &y);

        let mut pipe = model.pipe(&vars).checkpoint(mode).build().unwrap();
        assert_as_plain(
            &mut pipe,
            &vars,
            &images.0.iter().collect::<Vec<_>>(),
            &plain,
            |pipe| (mse(&pipe.forward(&images).unwrap(), &y), ()),
            |pipe| {
                let constant = Rows(images.0.iter().map(Tensor::detach).collect());
                pipe.train_step(constant, &y, |output, y: &Tensor| mse(output, y)).unwrap().loss
            },
        );
    }

    // With an empty list, the layer gets an empty list and has nothing to stack.
    let (model, vars) = make();
    let error = model.pipe(&vars).build().unwrap().forward(images(0)).unwrap_err().to_string();
    assert!(error.starts_with("forward of micro-batch 0 in stage 0, layer `first`"), "{error}");
}

#[test]
fn lists_whose_parts_have_rows() {
    #[pipeline(input = Each<Tensor>, output = Each<Tensor>, chunks = 3)]
    struct Levels {
        #[device("cpu")]
        first: Mix,
        #[device("cpu")]
        last: Mix,
    }

    /// A layer on any number of `[batch, 8]` tensors.
    struct Mix(Linear);

    impl Layer<Each<Tensor>> for Mix {
        type Out = Each<Tensor>;

        fn run(&self, Each(parts): Each<Tensor>, _cx: &Context) -> Each<Tensor> {
            Each(mixed(&parts, &self.0))
        }
    }

    fn mixed(parts: &[Tensor], by: &Linear) -> Vec<Tensor> {
        let sum: Tensor = parts.iter().sum();
        parts.iter().map(|part| part.apply(by).sin() + &sum).collect()
    }

    fn loss(outputs: &[Tensor], targets: &[Tensor]) -> Tensor {
        outputs.iter().zip(targets).map(|(output, target)| mse(output, target)).sum()
    }

    let _serial = pipe_tests::serial();
    for (count, mode) in [1, 3].into_iter().flat_map(|count| MODES.map(|mode| (count, mode))) {
        let vars = Levels::vars(&Devices::cpu(2)).unwrap();
        let (first, last) = (linear(vars.first(), 8, 8), linear(vars.last(), 8, 8));
        let parts: Vec<_> = (0..count).map(|_| leaf(RAGGED)).collect();
        let y: Vec<_> = (0..count).map(|_| rows(RAGGED)).collect();
        let whole = mixed(&mixed(&parts, &first), &last);
        let plain = loss(&whole, &y);

        let mut pipe = Levels { first: Mix(first), last: Mix(last) }.pipe(&vars).checkpoint(mode).build().unwrap();
        let outputs = assert_as_plain(
            &mut pipe,
            &vars,
            &parts.iter().collect::<Vec<_>>(),
            &plain,
            |pipe| {
                let Each(outputs) = pipe.forward(Each(parts.iter().collect())).unwrap();
                (loss(&outputs, &y), outputs)
            },
            |pipe| {
                let parts = Each(parts.iter().map(Tensor::detach).collect::<Vec<_>>());
                let loss = |Each(outputs): &Each<Tensor>, Each(y): &Each<Tensor>| loss(outputs, y);
                pipe.train_step(parts, Each(y.iter().collect()), loss).unwrap().loss
            },
        );
        for (output, expected) in outputs.iter().zip(&whole) {
            assert_close(output, expected, "output of forward");
        }
    }
}

/// A struct with every kind of value by rows.
#[derive(Debug, Flow)]
struct Everything {
    x: Tensor,
    positions: Along<1>,
    captions: PerRow<2>,
    images: Rows<Tensor>,
    levels: Each<Tensor>,
    table: Replicate<Vec<Tensor>>,
}

#[pipeline(input = Everything, chunks = 3)]
struct AllWays {
    #[device("cpu")]
    pass: Pass,
    #[device("cpu")]
    unite: UniteAll,
}

/// Hands on whatever it gets.
pub(super) struct Pass;

impl<T: Flow> Layer<T> for Pass {
    type Out = T;

    fn run(&self, value: T, _cx: &Context) -> T {
        value
    }
}

struct UniteAll(Linear);

impl Layer<Everything> for UniteAll {
    type Out = Tensor;

    fn run(&self, all: Everything, _cx: &Context) -> Tensor {
        united(&all, &self.0)
    }
}

fn united(all: &Everything, by: &Linear) -> Tensor {
    let images: Vec<_> = all.images.0.iter().map(|image| image.sum_dim_intlist(0, false, Kind::Float)).collect();
    let levels: Tensor = all.levels.0.iter().map(Tensor::sin).sum();
    let positions = all.positions.0.square().sum_dim_intlist(0, false, Kind::Float);
    let captions = all.captions.0.view([-1, 2, 8]).prod_dim_int(1, false, Kind::Float);
    let sum = &all.x + positions + captions + Tensor::stack(&images, 0) + levels;
    (sum * &all.table.0[0]).apply(by).tanh() * &all.table.0[1]
}

fn everything(count: i64) -> Everything {
    let leaf = |size: &[i64]| random(size).set_requires_grad(true);
    Everything {
        x: leaf(&[count, 8]),
        positions: Along(leaf(&[3, count, 8])),
        captions: PerRow(leaf(&[2 * count, 8])),
        images: Rows((0..count).map(|row| leaf(&[1 + row, 8])).collect()),
        levels: Each(vec![leaf(&[count, 8]), leaf(&[count, 8])]),
        table: Replicate(vec![leaf(&[8]), leaf(&[1, 8])]),
    }
}

#[test]
fn all_of_them_in_a_struct() {
    let _serial = pipe_tests::serial();
    for (count, mode) in [2, 6, RAGGED].into_iter().flat_map(|count| MODES.map(|mode| (count, mode))) {
        let vars = AllWays::vars(&Devices::cpu(2)).unwrap();
        let model = AllWays { pass: Pass, unite: UniteAll(linear(vars.unite(), 8, 8)) };
        let all = everything(count);
        let plain = united(&all, &model.unite.0).square().mean(Kind::Float);
        let unpipelined = model.unpipelined().forward(&all).unwrap();
        let mut pipe = model.pipe(&vars).checkpoint(mode).intra_op_threads(1).build().unwrap();
        let inputs: Vec<&Tensor> = [&all.x, &all.positions.0, &all.captions.0]
            .into_iter()
            .chain(&all.images.0)
            .chain(&all.levels.0)
            .chain(&all.table.0)
            .collect();
        let constant = Everything {
            x: all.x.detach(),
            positions: Along(all.positions.0.detach()),
            captions: PerRow(all.captions.0.detach()),
            images: Rows(all.images.0.iter().map(Tensor::detach).collect()),
            levels: Each(all.levels.0.iter().map(Tensor::detach).collect()),
            table: Replicate(all.table.0.iter().map(Tensor::detach).collect()),
        };
        let output = assert_as_plain(
            &mut pipe,
            &vars,
            &inputs,
            &plain,
            |pipe| {
                let output = pipe.forward(&all).unwrap();
                (output.square().mean(Kind::Float), output)
            },
            |pipe| pipe.train_step(constant, (), |output, (): &()| output.square().mean(Kind::Float)).unwrap().loss,
        );
        assert_eq!(output, unpipelined);
    }
}

#[test]
fn a_list_of_words_alone_is_split_and_joined() {
    #[pipeline(input = Rows<String>, output = Rows<String>, chunks = 4)]
    struct Echo {
        #[device("cpu")]
        first: Pass,
        #[device("cpu")]
        last: Pass,
    }

    let _serial = pipe_tests::serial();
    let vars = Echo::vars(&Devices::cpu(2)).unwrap();
    let mut pipe = Echo { first: Pass, last: Pass }.pipe(&vars).build().unwrap();
    for count in 0..9 {
        let words = Rows((0..count).map(|index| index.to_string()).collect());
        assert_eq!(pipe.forward(&words).unwrap(), words);
    }
}
