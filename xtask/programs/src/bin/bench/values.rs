//! The initial numbers of weights and data. They come from a formula that the other contenders
//! compute too.

use std::f64::consts::PI;

use anyhow::Result;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

/// Numbers between -1 and 1 that look random and differ for each name.
pub fn uniform(name: &str, shape: &[i64]) -> Tensor {
    let letters = name.bytes().zip(1..).map(|(letter, place): (u8, i64)| i64::from(letter) * place);
    let phase = letters.sum::<i64>() % 1000;
    let count = shape.iter().product::<i64>();
    let waves = (Tensor::arange(count, (Kind::Double, Device::Cpu)) * 12.9898 + phase as f64 * PI).sin() * 43758.5453;
    let numbers = (&waves - waves.floor()) * 2. - 1.;
    numbers.to_kind(Kind::Float).reshape(shape)
}

/// Sets all variables. Matrices are scaled by their number of inputs, so that activations neither
/// vanish nor grow. Weights of norms and scales are near 1, biases near 0.
pub fn set(store: &VarStore) -> Result<()> {
    for (name, mut variable) in store.variables() {
        // In torch, the names have no dot where a model is one list of layers.
        let name = name.replace('.', "_");
        let shape = variable.size();
        let numbers = uniform(&name, &shape);
        let numbers = match shape.len() {
            1 if name.ends_with("weight") => numbers * 0.1 + 1.,
            1 => numbers * 0.1,
            _ => numbers * (3. / shape[1..].iter().product::<i64>() as f64).sqrt(),
        };
        tch::no_grad(|| variable.f_copy_(&numbers))?;
    }
    Ok(())
}
