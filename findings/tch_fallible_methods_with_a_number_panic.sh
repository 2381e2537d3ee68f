#!/usr/bin/env bash
# tch 0.24.0 with torch 2.11.0: the fallible methods that take a number, when they fail.
#
# Guess: `f_mul_scalar`, `f_div_scalar_`, `f_add_scalar`, `f_full_like` and the other methods that begin
# with `f_` return libtorch's error, as `f_mul` does.
# Seen: they panic with it. The number becomes a C++ object that is dropped at the end of the call's own
# statement, before the method reads the error; the destructor reads it first, and unwraps it. So `?` and
# `match` never see it, and a program that has no `catch_unwind` ends. Methods without a number are as
# guessed.
# Who is hit: whoever uses these methods in order not to panic: in a backward that C++ calls, in a thread
# of its own, or to go on after an allocation failed.
#
# Needs Cargo, a C++ compiler, Python 3 with pip and some 6 GB in the temporary folder. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.11.0 numpy==2.3.5
export PATH="$folder/env/bin:$PATH" LIBTORCH_USE_PYTORCH=1
LD_LIBRARY_PATH="$(python -c 'import os, torch; print(os.path.dirname(torch.__file__))')/lib"
export LD_LIBRARY_PATH
mkdir -p "$folder/crate/src"
cat >"$folder/crate/Cargo.toml" <<'TOML'
[package]
name = "numbers"
version = "0.1.0"
edition = "2021"
[dependencies]
tch = "=0.24.0"
TOML
cat >"$folder/crate/src/main.rs" <<'RUST'
use std::panic::{catch_unwind, AssertUnwindSafe};
use tch::{Device, Kind, TchError, Tensor};

/// Whether a method that fails returns the error.
fn shows<T>(name: &str, call: impl FnOnce() -> Result<T, TchError>) {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(_)) => println!("{name}: no failure"),
        Ok(Err(_)) => println!("{name}: an error"),
        Err(_) => println!("{name}: a panic"),
    }
}

fn main() {
    std::panic::set_hook(Box::new(|_| ()));
    let flags = || Tensor::zeros([2], (Kind::Bool, Device::Cpu));
    let halves = Tensor::full([2], 0.5, (Kind::Float, Device::Cpu));
    // A result of another kind cannot be stored in place.
    shows("f_mul_", || flags().f_mul_(&halves));
    shows("f_mul_scalar_", || flags().f_mul_scalar_(0.5));
    shows("f_div_", || flags().f_div_(&halves));
    shows("f_div_scalar_", || flags().f_div_scalar_(0.5));
    shows("f_add_scalar_", || flags().f_add_scalar_(0.5));
}
RUST
(cd "$folder/crate" && cargo run --quiet 2>&1) | tee "$folder/out"
diff - "$folder/out" <<'TEXT' || { echo "changed"; exit 1; }
f_mul_: an error
f_mul_scalar_: a panic
f_div_: an error
f_div_scalar_: a panic
f_add_scalar_: a panic
TEXT
echo "as found"
