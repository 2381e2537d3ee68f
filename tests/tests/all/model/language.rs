//! The meaning of valid structs at run time.

use pipe_runtime::{Context, Devices, Layer, Pipe, pipeline};
use pipe_tests::compare::{leaf, rows};
use pipe_tests::layers::{func, linear};
use tch::nn::{self, Func, Linear, ModuleT};
use tch::{Kind, Tensor};

/// A struct with a generic layer and depth, a plain field, and a field under `#[cfg]`.
#[pipeline(chunks = 2)]
#[derive(Debug)]
pub struct Stack<B: ModuleT + 'static, const DEPTH: usize>
where
    B: Clone2,
{
    #[device("cpu")]
    first: B,
    #[devices("cpu", "cpu")]
    blocks: [B; DEPTH],
    #[cfg(any())]
    never: DoesNotExist,
    /// A field with a name that generated code might use for a local.
    x: B,
    r#type: B,
    #[not_a_layer]
    pub(crate) config: Config,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    width: i64,
}

pub trait Clone2 {}

impl Clone2 for Linear {}

fn stack() -> (Stack<Linear, 3>, StackVars<3>) {
    tch::manual_seed(1);
    let vars = Stack::<Linear, 3>::vars(&Devices::cpu(Stack::<Linear, 3>::STAGES)).unwrap();
    let model = Stack {
        first: linear(vars.first(), 8, 8),
        blocks: vars.blocks().map(|path| linear(path, 8, 8)),
        x: linear(vars.x(), 8, 8),
        r#type: linear(vars.r#type(), 8, 8),
        config: Config { width: 8 },
    };
    (model, vars)
}

#[test]
fn generic_models_with_plain_fields() {
    let _serial = pipe_tests::serial();
    let (model, vars) = stack();
    let x = rows(4);
    let expected = model.unpipelined().forward(&x).unwrap();
    let mut pipe: Pipe<Stack<Linear, 3>> = model.pipe(&vars).build().unwrap();
    assert_eq!(pipe.chunks(), 2);
    assert_eq!(pipe.config.width, 8, "a plain field is readable at the pipeline");
    assert_eq!(pipe.forward(&x).unwrap(), expected);
    let model = pipe.into_inner();
    assert_eq!(model.config, Config { width: 8 });
    assert_eq!(model.blocks.len(), 3);
}

#[test]
fn the_plan_prints_as_a_table() {
    let _serial = pipe_tests::serial();
    let table = Stack::<Linear, 3>::PLAN.to_string();
    let expected = "\
Stack
  stage  device  layers              skips in  skips out
  -----  ------  ------------------  --------  ---------
  0      cpu     first               -         -
  1      cpu     blocks[0..2]        -         -
  2      cpu     blocks[2], x, type  -         -
";
    assert_eq!(table, expected);
    assert!(stack().1.var_store().variables().contains_key("type.weight"));
}

mod renamed {
    pub use pipe_runtime as pipes;

    use pipes::pipeline;
    use tch::nn::Linear;

    #[pipeline(crate = crate::model::language::renamed::pipes, allow(single_stage))]
    pub(super) struct Inner {
        #[device("cpu")]
        pub(super) only: Linear,
    }
}

#[test]
fn the_crate_may_have_another_name() {
    let _serial = pipe_tests::serial();
    let vars = renamed::Inner::vars(&Devices::cpu(1)).unwrap();
    let mut pipe = renamed::Inner { only: linear(vars.only(), 8, 2) }.pipe(&vars).build().unwrap();
    assert_eq!(pipe.forward(rows(3)).unwrap().size(), [3, 2]);
}

/// A block that borrows: only a model with devices must own its layers.
#[pipeline]
struct Borrowing<'a> {
    first: Func<'a>,
    last: Linear,
}

#[test]
fn a_block_may_borrow() {
    let _serial = pipe_tests::serial();
    let scale = 2.0;
    let factor = &scale;
    let store = nn::VarStore::new(tch::Device::Cpu);
    let vars = Borrowing::vars_at(store.root() / "block");
    let block = Borrowing { first: nn::func(|x| x * *factor), last: linear(vars.last(), 8, 8) };
    let x = rows(2);
    assert_eq!(block.unpipelined().forward(&x).unwrap(), (&x * scale).apply(&block.last));
    assert!(store.variables().contains_key("block.last.weight"));
}

/// A model with several inputs, which are passed by reference.
#[pipeline(input = (Tensor, Option<Tensor>))]
struct TwoInputs {
    #[device("cpu")]
    sum: Sum,
    #[device("cpu")]
    relu: Func<'static>,
}

struct Sum;

impl Layer<(Tensor, Option<Tensor>)> for Sum {
    type Out = Tensor;

    fn run(&self, (a, b): (Tensor, Option<Tensor>), _cx: &Context) -> Tensor {
        b.map_or_else(|| a.shallow_clone(), |b| &a + b)
    }
}

#[test]
fn inputs_by_value_and_by_reference() {
    let _serial = pipe_tests::serial();
    let vars = TwoInputs::vars(&TwoInputs::devices()).unwrap();
    let mut pipe = TwoInputs { sum: Sum, relu: func(Tensor::relu) }.pipe(&vars).chunks(2).build().unwrap();
    let (a, b) = (rows(4), rows(4));
    let both = (&a + &b).relu();
    assert_eq!(pipe.forward((&a, Some(&b))).unwrap(), both);
    assert_eq!(pipe.forward((a.shallow_clone(), Some(b.shallow_clone()))).unwrap(), both);
    assert_eq!(pipe.forward((&a, None::<Tensor>)).unwrap(), a.relu());
}

/// Code that implements `Layer` has it in scope beside tch's traits, whose methods must still be
/// callable.
#[test]
fn the_methods_of_tchs_traits_can_be_called_where_layer_is_in_scope() {
    use tch::nn::Module;
    let _serial = pipe_tests::serial();
    let vars = TwoInputs::vars(&TwoInputs::devices()).unwrap();
    let (linear, x) = (linear(vars.sum(), 8, 3), rows(4));
    assert_eq!(linear.forward(&x), x.apply(&linear));
    assert_eq!(linear.forward_t(&x, true), x.apply(&linear));
    let relu = func(Tensor::relu);
    assert_eq!(relu.forward(&x), x.relu());
}

#[test]
fn with_one_chunk_it_is_the_plain_model() {
    let _serial = pipe_tests::serial();
    for checkpoint in ["always", "except_last", "never"] {
        let (model, vars) = stack();
        let x = leaf(5);
        let mut plain = x.apply(&model.first);
        for block in model.blocks.iter().chain([&model.x, &model.r#type]) {
            plain = plain.apply(block);
        }
        let parameters = vars.var_store().trainable_variables();
        let leaves: Vec<_> = parameters.iter().chain([&x]).collect();
        let expected = Tensor::run_backward(&[plain.square().sum(Kind::Float)], &leaves, false, false);

        let mut pipe = model
            .pipe(&vars)
            .chunks(1)
            .checkpoint(checkpoint.parse::<pipe_runtime::Checkpoint>().unwrap())
            .build()
            .unwrap();
        let piped = pipe.forward(&x).unwrap();
        assert_eq!(piped, plain);
        let found = Tensor::run_backward(&[piped.square().sum(Kind::Float)], &leaves, false, false);
        assert_eq!(found, expected);
    }
}

#[test]
fn stages_layers_and_skips_are_counted_found_by_name_and_gone_through_in_order() {
    #[pipeline]
    struct Net {
        #[device("cpu")]
        #[stash(early = output)]
        first: Linear,
        second: Linear,
        #[device("cpu")]
        #[pop(early)]
        #[layer(name = "join")]
        merge: pipe_tests::layers::Merge,
    }
    let plan = Net::PLAN;
    assert_eq!((plan.stages.len(), plan.layers().count()), (2, 3));
    let names: Vec<_> = plan.layers().map(|(stage, layer)| (stage, layer.name)).collect();
    assert_eq!(names, [(0, "first"), (0, "second"), (1, "join")]);
    assert_eq!(plan.layer("join").map(|(stage, _)| stage), Some(1));
    assert!(plan.layer("merge").is_none());
    let skip = plan.skip("early").unwrap();
    assert_eq!((skip.stash, skip.from, skip.pop, skip.to), ("first", 0, "join", 1));
}

/// A block with a skip inside.
#[pipeline]
struct Residual {
    #[stash(kept = input)]
    linear: Linear,
    #[pop(kept)]
    add: pipe_runtime::nn::Add,
}

#[pipeline(chunks = 2)]
struct Residuals {
    #[device("cpu")]
    #[stash(kept = output)]
    first: Residual,
    #[device("cpu")]
    second: Residual,
    #[pop(kept)]
    add: pipe_runtime::nn::Add,
}

#[test]
fn a_block_with_skips_nests_more_than_once() {
    let _serial = pipe_tests::serial();
    let vars = Residuals::vars(&Devices::cpu(2)).unwrap();
    let block = |path| {
        let vars = Residual::vars_at(path);
        Residual { linear: linear(vars.linear(), 8, 8), add: pipe_runtime::nn::Add }
    };
    let model = Residuals { first: block(vars.first()), second: block(vars.second()), add: pipe_runtime::nn::Add };
    let x = rows(4);
    let first = x.apply(&model.first.linear) + &x;
    let expected = first.apply(&model.second.linear) + &first + &first;
    let found = model.pipe(&vars).chunks(1).build().unwrap().forward(&x).unwrap();
    assert!(found.allclose(&expected, 1e-6, 1e-6, false));
}

#[test]
fn a_block_without_layers_gives_its_input_back() {
    #[pipeline]
    struct Nothing {}

    let _serial = pipe_tests::serial();
    let x = rows(3);
    assert_eq!(Nothing {}.unpipelined().chunks(2).forward(&x).unwrap(), x);
}
