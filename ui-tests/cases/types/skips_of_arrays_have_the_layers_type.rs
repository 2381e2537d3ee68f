//! Each layer of an array takes what each layer of another one has stashed.

use pipe_runtime::nn::{Concat, Linear, Split};
use pipe_runtime::{Context, Layer, Tensor, pipeline};

struct Down;

impl Layer<Tensor> for Down {
    type Out = (Tensor, (Tensor, i64));

    fn run(&self, x: Tensor, _cx: &Context) -> Self::Out {
        (x, (Tensor, 1))
    }
}

#[pipeline]
struct Unlike {
    #[device("cpu")]
    #[repeat]
    #[stash(level[..])]
    downs: [Down; 4],
    #[device("cpu")]
    #[repeat]
    #[pop(level[..])]
    ups: [Concat; 4],
}

#[pipeline]
struct NotReturned {
    #[device("cpu")]
    #[repeat]
    #[stash(level[..])]
    downs: [Linear; 4],
    #[device("cpu")]
    #[repeat]
    #[pop(level[..])]
    ups: [Concat; 4],
}

#[pipeline]
struct NotTaken {
    #[device("cpu")]
    #[repeat]
    #[stash(level[..])]
    downs: [Split; 4],
    #[device("cpu")]
    #[repeat]
    #[pop(level[..])]
    ups: [Linear; 4],
}

fn main() {}
