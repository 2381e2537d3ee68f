//! A mistake in the struct is the only one: what the crate does with it stays free of errors.

use pipe_runtime::nn::{Linear, Path};
use pipe_runtime::{Tensor, pipeline};

#[pipeline(chunks = 0)]
struct Model<const DEPTH: usize> {
    #[device("cpu")]
    encode: Linear,
    #[devices("cpu", "cuda:0")]
    blocks: [Linear; DEPTH],
    #[not_a_layer]
    name: String,
}

#[pipeline(input = Tensor, chunks = 0)]
struct Block {
    layer: Linear,
}

#[pipeline]
struct Unreadable {
    #[device(cpu)]
    layer: Linear,
}

impl<const DEPTH: usize> Model<DEPTH> {
    fn new(vars: &ModelVars<DEPTH>) -> Self {
        let _ = vars.encode();
        Self { encode: Linear, blocks: vars.blocks().map(|_| Linear), name: String::new() }
    }
}

fn run(path: Path<'_>) -> Option<Tensor> {
    let vars = Model::<3>::vars(&Model::<3>::devices()).ok()?;
    let model = Model::new(&vars);
    let _ = (Model::<3>::PLAN.name, Model::<3>::STAGES, Block::vars_at(path).layer());
    model.in_place().forward(Tensor).ok()?;
    let pipe = model.pipe(&vars).build().ok()?;
    println!("{}", pipe.name);
    let vars = Unreadable::vars(&Unreadable::devices()).ok()?;
    let _ = vars.layer();
    Block { layer: Linear }.in_place().forward(Tensor).ok()
}

fn main() {}
