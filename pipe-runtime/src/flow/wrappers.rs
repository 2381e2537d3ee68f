//! Wrappers that define how a value relates to the rows of the mini-batch.

use tch::Tensor;

use super::{Flow, MiniBatch, Packer, Portable, Unpacker};
use crate::error::{Error, Result};

/// A value that every micro-batch gets undivided, such as a mask, a table or any tensor without a
/// batch dimension. It corresponds to `NoChunk` of torch's `Pipe`.
///
/// ```
/// # use pipe_runtime::{Context, Layer, Replicate};
/// # use tch::Tensor;
/// struct Attend;
///
/// // x: [batch, length, width]; mask: [length, length].
/// impl Layer<(Tensor, Replicate<Tensor>)> for Attend {
///     type Out = Tensor;
///
///     fn run(&self, (x, mask): (Tensor, Replicate<Tensor>), _cx: &Context) -> Tensor {
///         (x.matmul(&x.transpose(1, 2)) + mask.0).softmax(-1, x.kind()).matmul(&x)
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replicate<T>(pub T);

/// A tensor whose batch dimension is `DIM`. It is split along that dimension, and joined along it
/// if it is an output.
///
/// ```
/// # use pipe_runtime::{Along, Context, Devices, Layer, pipeline};
/// # use tch::{Device, Kind, Tensor};
/// type In = (Tensor, Along<1>);
///
/// struct AddPositions;
///
/// // x: [batch, length]; positions: [3, batch, length].
/// impl Layer<In> for AddPositions {
///     type Out = Tensor;
///
///     fn run(&self, (x, Along(positions)): In, _cx: &Context) -> Tensor {
///         x + positions.sum_dim_intlist(0, false, Kind::Float)
///     }
/// }
///
/// #[pipeline(input = In, chunks = 2, allow(single_stage))]
/// struct Net {
///     #[device("cpu")]
///     add: AddPositions,
/// }
///
/// let vars = Net::vars(&Devices::cpu(1))?;
/// let mut pipe = Net { add: AddPositions }.pipe(&vars).build()?;
/// let x = Tensor::zeros([2, 5], (Kind::Float, Device::Cpu));
/// let positions = Tensor::ones([3, 2, 5], (Kind::Float, Device::Cpu));
/// // References work too. The pipeline's type determines the dimension.
/// assert_eq!(pipe.forward((&x, Along(&positions)))?, x + 3.);
/// # Ok::<(), pipe_runtime::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Along<const DIM: usize, T = Tensor>(pub T);

/// A tensor with `K` consecutive indices of dimension 0 for each row of the batch, such as five
/// captions for each image. They stay in one micro-batch. An output is joined along dimension 0.
///
/// ```
/// # use pipe_runtime::{Context, Layer, PerRow};
/// # use tch::Tensor;
/// type Captioned = (Tensor, PerRow<5>);
///
/// struct Score;
///
/// // images: [batch, width]; captions: [5 * batch, width]. Scores: [batch, 5].
/// impl Layer<Captioned> for Score {
///     type Out = Tensor;
///
///     fn run(&self, (images, PerRow(captions)): Captioned, _cx: &Context) -> Tensor {
///         let width = images.size()[1];
///         captions.view([-1, 5, width]).matmul(&images.unsqueeze(-1)).squeeze_dim(-1)
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerRow<const K: usize, T = Tensor>(pub T);

/// A list with one entry for each row of the batch. A micro-batch gets the entries of its rows. The
/// entries themselves are not split, so tensors in them may have any shape. As outputs, the lists
/// of the micro-batches are concatenated.
///
/// ```
/// # use pipe_runtime::{Context, Layer, Rows};
/// # use tch::{Device, Kind, Tensor};
/// struct Embed;
///
/// // One string for each row of the micro-batch.
/// impl Layer<Rows<String>> for Embed {
///     type Out = Tensor;
///
///     fn run(&self, Rows(words): Rows<String>, _cx: &Context) -> Tensor {
///         let lengths: Vec<_> = words.iter().map(|word| word.len() as f32).collect();
///         Tensor::from_slice(&lengths).unsqueeze(-1)
///     }
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows<T>(pub Vec<T>);

/// A list whose parts are each split as they would be outside of the list, so each has the rows of
/// the batch. As an output, it is joined part by part.
///
/// ```
/// # use pipe_runtime::{Context, Each, Layer};
/// # use tch::Tensor;
/// struct Total;
///
/// // Takes any number of tensors of shape [batch, width].
/// impl Layer<Each<Tensor>> for Total {
///     type Out = Tensor;
///
///     fn run(&self, Each(parts): Each<Tensor>, _cx: &Context) -> Tensor {
///         parts.into_iter().sum()
///     }
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Each<T>(pub Vec<T>);

wraps!([T: Flow] Replicate<T>, T,
    |value, packer| packer.whole(|packer| value.pack(packer)),
    |parts, _batch| match parts.len() {
        1 => Ok(parts.remove(0)),
        _ => Err(Error::Output(
            "a `Replicate` cannot be joined over micro-batches, as each has one of its own: `List` gives them all"
                .into(),
        )),
    }
);

wraps!([const DIM: usize] Along<DIM>, Tensor,
    |value, packer| packer.tensor_along(value, DIM, 1),
    |parts, _batch| {
        if parts.len() == 1 {
            return Ok(Self(parts.remove(0)));
        }
        if let Some(part) = parts.iter().find(|part| part.dim() <= DIM) {
            return Err(Error::Output(format!(
                "an output of shape {:?} cannot be joined over micro-batches as `Along<{DIM}>`: it has no dimension {DIM}",
                part.size()
            )));
        }
        Ok(Tensor::f_cat(&parts, DIM as i64)?)
    }
);

wraps!([const K: usize] PerRow<K>, Tensor,
    |value, packer| {
        const { assert!(K > 0, "`PerRow<0>` would have no rows at all") };
        packer.tensor_along(value, 0, K);
    },
    |parts, batch| Tensor::join(parts, batch)
);

wraps!([T: Flow] Rows<T>, Vec<T>,
    |value, packer| packer.rows(value),
    |parts, _batch| Ok(parts.into_iter().flatten().collect())
);

wraps!([T: Flow] Each<T>, Vec<T>,
    |value, packer| packer.each(|packer| value.pack(packer)),
    |parts, batch| Vec::join(parts, batch)
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{IntoFlow, List, PackedValue, scatter};
    use tch::{Device, Kind};

    fn zeros(size: &[i64]) -> Tensor {
        Tensor::zeros(size, (Kind::Float, Device::Cpu))
    }

    fn two() -> MiniBatch {
        scatter(&PackedValue::of(zeros(&[2])), 2, true).unwrap().shape
    }

    #[test]
    fn each_is_joined_in_its_own_way() {
        let along = Along::<1>::join(vec![Along(zeros(&[3, 2])), Along(zeros(&[3, 1]))], &two()).unwrap();
        assert_eq!(along.0.size(), [3, 3]);
        let per_row = PerRow::<2>::join(vec![PerRow(zeros(&[4, 5])), PerRow(zeros(&[2, 5]))], &two()).unwrap();
        assert_eq!(per_row.0.size(), [6, 5]);
        assert_eq!(Rows::join(vec![Rows(vec![1_u8, 2]), Rows(vec![3])], &two()).unwrap(), Rows(vec![1, 2, 3]));
        let each = |rows| Each(vec![(zeros(&[rows]), List(vec![rows])), (zeros(&[rows + 1]), List(vec![]))]);
        let Each(joined) = Each::join(vec![each(1), each(2)], &two()).unwrap();
        assert_eq!(joined.iter().map(|(tensor, _)| tensor.size()[0]).collect::<Vec<_>>(), [3, 5]);
        assert_eq!(joined[0].1, List(vec![1, 2]));
    }

    #[test]
    fn outputs_that_cannot_be_joined_are_named() {
        let error = Along::<1>::join(vec![Along(zeros(&[3])), Along(zeros(&[3]))], &two()).unwrap_err().to_string();
        assert_eq!(
            error,
            "an output of shape [3] cannot be joined over micro-batches as `Along<1>`: it has no dimension 1"
        );
        assert!(Along::<1>::join(vec![Along(zeros(&[3]))], &two()).is_ok());
        let error = Each::join(vec![Each(vec![1]), Each(vec![])], &two()).unwrap_err().to_string();
        assert!(error.contains("the length of a `Vec`"), "{error}");
    }

    #[test]
    fn they_are_handed_over_by_value_and_by_reference() {
        type All = (Along<1>, PerRow<2>, Rows<String>, Each<Tensor>, Replicate<Tensor>);
        fn given(all: impl IntoFlow<All>) -> All {
            all.into_flow()
        }
        let (x, y) = (zeros(&[2, 3]), zeros(&[4]));
        let owned: All = (
            Along(x.shallow_clone()),
            PerRow(y.shallow_clone()),
            Rows(vec!["a".into()]),
            Each(vec![x.shallow_clone()]),
            Replicate(y.shallow_clone()),
        );
        assert_eq!(given((&owned.0, &owned.1, &owned.2, &owned.3, &owned.4)), owned);
        let references = (Along(&x), PerRow(&y), Rows(vec!["a"]), Each(vec![&x]), Replicate(&y));
        let shared = given(references);
        assert_eq!(shared.0.0.data_ptr(), x.data_ptr());
        assert_eq!(shared, owned);
        assert_eq!(given(shared.share()), owned);
    }
}
