//! Types, lengths and attributes are nested up to 128 tokens deep.

use pipe_runtime::nn::Linear;

#[pipe_runtime::pipeline]
struct Model {
    first: Linear,
    #[device("cpu")]
    deep: fn() -> fn() -> fn() -> fn() -> fn() -> fn() -> fn() -> fn() -> fn() -> fn() ->
        fn() -> fn() -> fn() -> fn() -> fn() -> fn() -> fn() -> fn() -> fn() -> fn() ->
        fn() -> fn() -> fn() -> fn() -> fn() -> fn() -> fn() -> fn() -> fn() -> fn() ->
        fn() -> fn() -> fn() -> fn() -> fn() -> fn() -> fn() -> fn() -> fn() -> fn() ->
        Linear,
}

fn main() {}
