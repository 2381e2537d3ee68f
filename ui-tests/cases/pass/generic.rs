//! Types with bounds, where clauses, constants and plain fields that mention them.
#![deny(warnings)]

use pipe_runtime::nn::{Linear, ModuleT, Path};
use pipe_runtime::{Flow, Layer, Tensor, pipeline};

#[pipeline(chunks = 4)]
pub struct Stack<B: ModuleT + 'static, H, const N: usize = 4>
where
    H: Layer<Tensor, Out = Tensor> + Send + 'static,
{
    #[devices("cuda:0" = 1, "cuda:1" = 3)]
    blocks: [B; N],
    #[device("cuda:2")]
    head: H,
    #[not_a_layer]
    widths: [usize; N],
    #[not_a_layer]
    example: Option<H>,
}

#[pipeline(input = T, output = T)]
pub struct Carry<T: Flow, L: Layer<T, Out = T> + Send + 'static> {
    #[device("cpu")]
    one: L,
    #[device("cpu")]
    #[repeat]
    more: Vec<L>,
    #[not_a_layer]
    example: T,
}

/// A block may borrow.
#[pipeline]
pub struct Scoped<'a, 'vars, L: Layer<Tensor, Out = Tensor>> {
    layer: L,
    #[not_a_layer]
    _names: (&'a str, &'vars str),
}

fn main() {
    let _ = |vars: StackVars, stack: Stack<Linear, Linear>| {
        let _: [Path<'_>; 4] = vars.blocks();
        let _ = vars.head();
        let pipe = stack.pipe(&vars).build().ok()?;
        Some((pipe.widths[0], pipe.example.is_some()))
    };
    let _ = |carry: Carry<i64, Number>| carry.unpipelined().forward(1);
    let _ = |vars: CarryVars| (vars.one(), vars.more(3)).1.len();
    let _ = |path: Path<'static>| Scoped::<Linear>::vars_at(path);
    let _ = |vars: ScopedVars<'static>| vars.layer();
}

struct Number;

impl Layer<i64> for Number {
    type Out = i64;
    fn run(&self, input: i64, _: &pipe_runtime::Context) -> i64 {
        input
    }
}
