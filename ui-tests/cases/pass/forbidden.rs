//! Lints that the user forbids, so that generated code cannot allow them, are about the user's
//! code.
#![forbid(non_camel_case_types, non_snake_case, non_upper_case_globals, missing_docs, unsafe_code)]
#![forbid(unused_imports, unused_variables, unreachable_pub, dropping_copy_types)]
#![deny(dead_code)]

use pipe_runtime::nn::{Concat, Linear, Reader, Split};
use pipe_runtime::{Mean, pipeline};

#[pipeline(sum(penalty: Mean), chunks = 2)]
struct Net {
    #[device("cpu")]
    #[stash(skip = output)]
    #[lend(memory = output, Time = output)]
    encode: Linear,
    #[sum(penalty)]
    code: Split,
    #[device("cpu")]
    #[read(memory, Time)]
    decode: Reader,
    #[read(Time, memory)]
    again: Reader,
    #[pop(skip)]
    join: Concat,
}

fn main() {
    let net = Net { encode: Linear, code: Split, decode: Reader, again: Reader, join: Concat };
    let _ = net.unpipelined();
}
