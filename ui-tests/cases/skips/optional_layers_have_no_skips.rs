//! A layer that may be absent pops nothing, and returns and lends no skip: absent, it is the
//! identity.

use pipe_runtime::nn::{Concat, Linear, Split};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[stash(half)]
    split: Option<Split>,
    #[stash(whole = output, weight)]
    encode: Option<Linear>,
    #[pop(half)]
    join: Option<Concat>,
    #[pop(whole)]
    last: Concat,
    #[pop(weight)]
    head: Concat,
}

fn main() {}
