use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

/// The variables of a store, sorted by name.
pub fn named(store: &VarStore) -> Vec<(String, Tensor)> {
    let mut named: Vec<_> = store.variables().into_iter().collect();
    named.sort_by(|(a, _), (b, _)| a.cmp(b));
    named
}

/// Gives the variables values from -0.5 to 0.5, the same on every device: each device would draw
/// its own. `is_here` says which variables this process has.
pub fn draw(store: &VarStore, seed: i64, is_here: impl Fn(&str) -> bool) {
    tch::manual_seed(seed);
    tch::no_grad(|| {
        for (name, variable) in &mut named(store) {
            let values = Tensor::rand(variable.size(), (Kind::Float, Device::Cpu)) - 0.5;
            if is_here(name) {
                variable.copy_(&values);
            }
        }
    });
}
