//! Time of an expansion by the number of layers: `cargo bench -p pipe-macros`.
//!
//! A procedural-macro crate exports only macros, so its phases are compiled into this benchmark.
//! The tokens here are `proc_macro2`'s fallback; `docs/compile-time.md` has the times inside rustc.

// Cargo sets `cfg(test)` for benchmarks, so the phases' tests are compiled too, and nothing calls
// them.
#![allow(dead_code, unused_imports)]

#[path = "../src/pipeline/mod.rs"]
mod pipeline;
#[path = "../src/support/mod.rs"]
mod support;

use std::fmt::Write;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use proc_macro2::TokenStream;

/// Writes the fields: stages of ten layers, with a skip from each stage to the next.
fn fields(layers: usize) -> String {
    let mut fields = String::new();
    for layer in 0..layers {
        let (stage, place) = (layer / 10, layer % 10);
        let _ = match place {
            0 => write!(fields, "#[device(\"cuda:{}\")] ", stage % 8),
            1 if stage * 10 + 15 < layers => write!(fields, "#[stash(skip{stage} = output)] "),
            5 if stage > 0 => write!(fields, "#[pop(skip{})] ", stage - 1),
            _ => Ok(()),
        };
        let _ = writeln!(fields, "layer{layer}: Layer,");
    }
    fields
}

fn expansion(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("expansion");
    for layers in [10, 100, 1000] {
        let item: TokenStream = format!("pub struct Model {{ {} }}", fields(layers)).parse().expect("it is Rust");
        let args: TokenStream = "chunks = 8".parse().expect("it is Rust");
        group.throughput(Throughput::Elements(layers as u64));
        group.bench_function(BenchmarkId::from_parameter(layers), |bencher| {
            // `derive` gets the struct with the attributes that `attach_derive` adds.
            let attached = pipeline::attach_derive(args.clone(), item.clone());
            bencher.iter(|| pipeline::derive(black_box(attached.clone())));
        });
    }
    group.finish();
}

criterion_group!(benches, expansion);
criterion_main!(benches);
