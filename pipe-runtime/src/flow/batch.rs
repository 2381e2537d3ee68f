//! A mini-batch into micro-batches. The way back is [`Flow::join`](super::Flow::join).

use tch::Tensor;

use super::parcel::{Item, Parcel};
use crate::{Error, Result};

/// Splits a mini-batch into at most `chunks` micro-batches along dimension 0, as `torch.chunk` does: all of `ceil(rows / chunks)` rows but the last
/// ones. An empty mini-batch is one empty micro-batch. What is not a tensor, or is wrapped in `Replicate`, goes whole to each.
///
/// A part of a tensor that wants a gradient (if `gradients` are recorded) belongs to the caller's graph. Any other is a tensor of its own on the same memory: an
/// in-place operation on one micro-batch is none on the others.
pub(crate) fn scatter(batch: &Parcel, chunks: usize, gradients: bool) -> Result<(Vec<Parcel>, MiniBatch)> {
    let mut count = None;
    let mut rows = Vec::new();
    let mut pieces = Vec::with_capacity(batch.items.len());
    for item in &batch.items {
        if item.whole {
            pieces.push(None);
            continue;
        }
        let mut split = chunk(&item.tensor, chunks)?;
        if !(gradients && item.needs_gradient) {
            split = split.iter().map(|part| part.f_data()).collect::<Result<_, _>>()?;
        }
        let expected = *count.get_or_insert_with(|| {
            rows = split.iter().map(|part| part.size()[0]).collect();
            split.len()
        });
        if split.len() != expected {
            return Err(Error::Input(format!(
                "Found different number of chunks produced for inputs: {expected} and {}. Give them rows (dimension 0) that \
                 split alike; wrap what goes whole to every micro-batch in `Replicate`",
                split.len()
            )));
        }
        pieces.push(Some(split));
    }
    let Some(count) = count else {
        return Err(Error::Input(
            "inputs do not have any tensors to split into micro-batches: at least one must not be wrapped in `Replicate`".into(),
        ));
    };
    let parcels = (0..count)
        .map(|index| {
            let piece = |(item, split): (&Item, &Option<Vec<Tensor>>)| match split {
                Some(split) => Item::new(split[index].shallow_clone(), item),
                None => item.share(),
            };
            Parcel {
                items: batch.items.iter().zip(&pieces).map(piece).collect(),
                rest: batch.rest.clone(),
                ready: None,
            }
        })
        .collect();
    Ok((parcels, MiniBatch { rows }))
}

/// How a mini-batch was split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MiniBatch {
    rows: Vec<i64>,
}

impl MiniBatch {
    /// For each micro-batch, its number of rows (of the first input that was split).
    pub fn rows(&self) -> &[i64] {
        &self.rows
    }

    /// The share of each micro-batch in the rows of the whole; equal shares of an empty mini-batch.
    pub fn weights(&self) -> Vec<f64> {
        let total: i64 = self.rows.iter().sum();
        let share = |&rows: &i64| if total == 0 { 1. / self.rows.len() as f64 } else { rows as f64 / total as f64 };
        self.rows.iter().map(share).collect()
    }
}

fn chunk(tensor: &Tensor, chunks: usize) -> Result<Vec<Tensor>> {
    let size = tensor.size();
    let Some(&rows) = size.first() else {
        return Err(Error::Input(
            "a zero-dimensional tensor cannot be split into micro-batches: wrap it in `Replicate` to hand it to each of them".into(),
        ));
    };
    match rows.min(i64::try_from(chunks).unwrap_or(i64::MAX)) {
        0 | 1 => Ok(vec![tensor.shallow_clone()]),
        chunks => Ok(tensor.f_chunk(chunks, 0)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Flow, Replicate};
    use tch::{Device, Kind};

    fn zeros(rows: i64) -> Tensor {
        Tensor::zeros([rows, 2], (Kind::Float, Device::Cpu))
    }

    fn rows(parts: &[Parcel]) -> Vec<i64> {
        parts.iter().map(|part| part.items[0].tensor.size()[0]).collect()
    }

    #[test]
    fn splits_by_ceiling_division() {
        let split = |rows_in, chunks| rows(&scatter(&Parcel::of(zeros(rows_in)), chunks, true).unwrap().0);
        assert_eq!(split(5, 4), [2, 2, 1]);
        assert_eq!(split(6, 4), [2, 2, 2]);
        assert_eq!(split(2, 4), [1, 1]);
        assert_eq!(split(0, 4), [0]);
        assert_eq!(split(8, 1), [8]);
        assert_eq!(split(3, usize::MAX), [1, 1, 1]);
    }

    #[test]
    fn inputs_that_disagree_are_named() {
        let error = scatter(&Parcel::of((zeros(3), zeros(4))), 4, true).unwrap_err().to_string();
        assert!(error.starts_with("Found different number of chunks produced for inputs: 3 and 4"), "{error}");
        let error = scatter(&Parcel::of((Replicate(zeros(3)), 7_i64)), 4, true).unwrap_err().to_string();
        assert!(error.starts_with("inputs do not have any tensors"), "{error}");
        let error = scatter(&Parcel::of(Tensor::from(1.0)), 2, true).unwrap_err().to_string();
        assert!(error.contains("zero-dimensional"), "{error}");
    }

    #[test]
    fn what_is_replicated_goes_whole_to_each() {
        let (parts, _) = scatter(&Parcel::of((zeros(4), Replicate(zeros(3)), 7_i64, Some(zeros(4)))), 2, true).unwrap();
        for part in parts {
            let (x, Replicate(mask), seven, tail) = part.open::<(Tensor, Replicate<Tensor>, i64, Option<Tensor>)>();
            assert_eq!((x.size()[0], mask.size()[0], seven, tail.unwrap().size()[0]), (2, 3, 7, 2));
        }
    }

    #[test]
    fn joins_what_it_split() {
        let x = Tensor::arange(10, (Kind::Float, Device::Cpu)).view([5, 2]);
        type Pair = (Tensor, String);
        let (parts, batch) = scatter(&Parcel::of((x.shallow_clone(), "same".to_owned())), 3, true).unwrap();
        assert_eq!(batch.rows(), [2, 2, 1]);
        let parts = Parcel::open_all::<Pair>(parts);
        let (y, text) = Pair::join(parts, &batch).unwrap();
        assert_eq!((y, text.as_str()), (x, "same"));
    }
}
