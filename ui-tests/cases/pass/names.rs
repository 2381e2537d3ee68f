//! Names of fields, parameters and structs that look special.
#![deny(warnings)]
#![allow(non_camel_case_types)]

use pipe_runtime::nn::{Concat, Linear, Reader};
use pipe_runtime::{Context, Layer, Tensor, pipeline};

/// A struct with a keyword for a name.
#[pipeline]
pub struct r#yield {
    #[device("cpu")]
    #[stash(self = output, input = output, x = output)]
    #[lend(type = output, gen = output, r#async = output, Skip = output)]
    r#struct: Linear,
    this: Linear,
    new: Linear,
    #[device("cpu")]
    deref: Linear,
    #[pop(self)]
    drop: Concat,
    #[pop(input)]
    clone: Concat,
    #[pop(x)]
    vars: Concat,
    #[read(type, gen)]
    path: Reader,
    #[read(r#async, Skip)]
    layer: Reader,
    #[read(r#type, r#gen)]
    layers: Reader,
    #[read(async, Skip)]
    last: Reader,
}

/// Generic parameters named like locals and types of generated code.
#[pipeline]
pub struct Generic<F, M, T, Self_, const X: usize>
where
    Self: Sized,
    F: Layer<Tensor, Out = Tensor> + Send,
    M: Layer<Tensor, Out = Tensor> + Send,
    T: Layer<Tensor, Out = Tensor> + Send,
    Self_: Layer<Tensor, Out = Tensor> + Send,
{
    #[device("cuda:0")]
    f: F,
    m: M,
    #[device("cuda:1")]
    t: T,
    self_: Self_,
    #[repeat]
    more: [Linear; X],
}

/// A layer that borrows.
struct Named<'a>(&'a str);

impl Layer<Tensor> for Named<'_> {
    type Out = Tensor;
    fn run(&self, input: Tensor, _: &Context) -> Tensor {
        println!("{}", self.0);
        input
    }
}

fn main() {
    let _ = |vars: yieldVars| [vars.r#struct(), vars.new(), vars.deref(), vars.layer(), vars.path()].len();
    let model = Generic { f: Named("f"), m: Linear, t: Linear, self_: Linear, more: [Linear, Linear] };
    let _ = model.unpipelined().forward(Tensor);
    let owned = Generic { f: Linear, m: Linear, t: Linear, self_: Linear, more: [Linear] };
    let _ = move |vars: GenericVars<1>| owned.pipe(&vars).build().is_ok();
}
