//! All mistakes with sums are reported, in source order.

use pipe_runtime::nn::{Linear, Split};
use pipe_runtime::{Mean, pipeline};

#[pipeline(sum(balance: Mean, lost: Mean, lost: Mean))]
struct Model {
    #[device("cpu")]
    #[sum(balanse)]
    one: Split,
    #[device("cpu")]
    #[sum(missing)]
    two: Split,
    #[sum(balance, balance)]
    three: Split,
    #[sum(balance)]
    four: Option<Split>,
    five: Linear,
}

fn main() {}
