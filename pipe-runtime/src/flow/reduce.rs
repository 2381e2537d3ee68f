//! Outputs that are joined in another way than by concatenating rows.

use tch::Tensor;

use super::{Flow, MiniBatch, Packer, Portable, Unpacker};
use crate::error::Result;
use crate::torch::times;

/// An output that is summed over the micro-batches. A layer that returns the sum over its rows thus
/// yields the sum over all rows of the mini-batch.
///
/// ```
/// # use pipe_runtime::{Context, Layer, Sum};
/// # use tch::{Kind, Tensor};
/// struct SquaredError;
///
/// // With `#[pipeline(input = (Tensor, Tensor), output = Sum)]`, the pipeline's output is the loss
/// // of the mini-batch.
/// impl Layer<(Tensor, Tensor)> for SquaredError {
///     type Out = Sum;
///
///     fn run(&self, (x, y): (Tensor, Tensor), _cx: &Context) -> Sum {
///         Sum((x - y).square().sum(Kind::Float))
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Sum(pub Tensor);

/// An output that is averaged over the micro-batches, each weighted by its number of rows. A layer
/// that returns the mean over its rows thus yields the mean over all rows of the mini-batch.
#[derive(Debug)]
pub struct Mean(pub Tensor);

/// An output that is collected into a list, in the order of the micro-batches. The layer returns a
/// list with one entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

wraps!([] Sum, Tensor, |value, packer| value.pack(packer), |parts, _batch| match parts.len() {
    1 => Ok(parts.remove(0)),
    _ => add(&parts),
});

wraps!([] Mean, Tensor, |value, packer| value.pack(packer), |parts, batch| match parts.len() {
    1 => Ok(parts.remove(0)),
    _ => {
        let weighed = parts.iter().zip(batch.weights()).map(|(part, weight)| times(part, weight));
        add(&weighed.collect::<std::result::Result<Vec<_>, _>>()?)
    }
});

wraps!([T: Flow] List<T>, Vec<T>,
    |value, packer| value.pack(packer),
    |parts, _batch| Ok(parts.into_iter().flatten().collect())
);

fn add(parts: &[Tensor]) -> Result<Tensor> {
    Ok(Tensor::f_stack(parts, 0)?.f_sum_dim_intlist(0, false, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{PackedValue, scatter};
    use tch::{Device, Kind};

    fn batch(rows: i64, chunks: usize) -> MiniBatch {
        scatter(&PackedValue::of(Tensor::zeros([rows], (Kind::Float, Device::Cpu))), chunks, true).unwrap().shape
    }

    #[test]
    fn a_mean_weighs_ragged_micro_batches_by_their_rows() {
        let rows = Tensor::from_slice(&[1., 2., 3., 4., 10.]);
        let parts = rows.chunk(3, 0).iter().map(|part| Mean(part.mean(Kind::Double))).collect();
        let mean = Mean::join(parts, &batch(5, 3)).unwrap().0;
        assert_eq!(f64::try_from(mean).unwrap(), 4.0);
    }

    #[test]
    fn a_sum_adds_and_a_list_collects() {
        let part = |value: f64| Sum(Tensor::from(value));
        let sum = Sum::join(vec![part(1.), part(2.5)], &batch(2, 2)).unwrap().0;
        assert_eq!(f64::try_from(sum).unwrap(), 3.5);
        let list = List::join(vec![List(vec![7_i64]), List(vec![8])], &batch(2, 2)).unwrap();
        assert_eq!(list, List(vec![7, 8]));
    }
}
