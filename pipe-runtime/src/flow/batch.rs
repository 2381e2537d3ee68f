//! A mini-batch into micro-batches, and back.

use tch::Tensor;

use super::parcel::{Item, Parcel};
use crate::{Error, Result};

/// Splits a mini-batch into at most `chunks` micro-batches along dimension 0, as `torch.chunk` does: all of `ceil(rows / chunks)` rows but the last
/// ones. An empty mini-batch is one empty micro-batch. What is not a tensor, or is wrapped in `Replicate`, goes whole to each.
pub(crate) fn scatter(batch: &Parcel, chunks: usize) -> Result<Vec<Parcel>> {
    let mut count = None;
    let mut pieces = Vec::with_capacity(batch.items.len());
    for item in &batch.items {
        if item.whole {
            pieces.push(None);
            continue;
        }
        let split = chunk(&item.tensor, chunks)?;
        let expected = *count.get_or_insert(split.len());
        if split.len() != expected {
            return Err(Error::Input(format!(
                "Found different number of chunks produced for inputs: {expected} and {}. The inputs must have the same \
                 number of rows (dimension 0); wrap those that go whole to every micro-batch in `Replicate`",
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
    Ok((0..count)
        .map(|index| {
            let piece = |(item, split): (&Item, &Option<Vec<Tensor>>)| match split {
                Some(split) => Item { tensor: split[index].shallow_clone(), ..*item },
                None => item.share(),
            };
            Parcel { items: batch.items.iter().zip(&pieces).map(piece).collect(), rest: batch.rest.clone() }
        })
        .collect())
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

/// A mini-batch put together again.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) parcel: Parcel,
    /// For each tensor, the rows of each micro-batch's part; `None` if there was only one and it was taken as it is.
    pub(crate) rows: Vec<Option<Vec<i64>>>,
}

/// Joins micro-batches along dimension 0. `needs_gradient` of a joined tensor holds if it holds for any part.
pub(crate) fn join(parts: Vec<Parcel>) -> Result<Joined> {
    let mut parts = parts;
    if parts.len() == 1 {
        let parcel = parts.remove(0);
        let rows = parcel.items.iter().map(|_| None).collect();
        return Ok(Joined { parcel, rows });
    }
    let first = &parts[0];
    for (index, part) in parts.iter().enumerate() {
        let alike = part.items.len() == first.items.len()
            && part.rest.len() == first.rest.len()
            && part.rest.iter().zip(&first.rest).all(|(a, b)| a.same(b));
        if !alike {
            return Err(Error::Output(format!(
                "the outputs of micro-batches 0 and {index} cannot be joined: an `Option`, a length or a plain value differs between them"
            )));
        }
    }
    let mut parcel = Parcel { items: Vec::with_capacity(first.items.len()), rest: first.rest.clone() };
    let mut rows = Vec::with_capacity(first.items.len());
    for slot in 0..first.items.len() {
        let tensors: Vec<&Tensor> = parts.iter().map(|part| &part.items[slot].tensor).collect();
        if parts[0].items[slot].whole {
            return Err(Error::Output(
                "a `Replicate` cannot be an output: each micro-batch has one of its own and they cannot be joined"
                    .into(),
            ));
        }
        let sizes: Vec<_> = tensors.iter().map(|tensor| tensor.size().first().copied()).collect();
        let Some(sizes) = sizes.into_iter().collect::<Option<Vec<i64>>>() else {
            return Err(Error::Output(
                "a zero-dimensional output cannot be joined over micro-batches: give it a batch dimension, or use one chunk".into(),
            ));
        };
        let needs_gradient = parts.iter().any(|part| part.items[slot].needs_gradient);
        parcel.items.push(Item { tensor: Tensor::f_cat(&tensors, 0)?, whole: false, needs_gradient, version: 0 });
        rows.push(Some(sizes));
    }
    Ok(Joined { parcel, rows })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Flow, Packer, Replicate, Unpacker};
    use tch::{Device, Kind};

    fn parcel(value: impl Flow) -> Parcel {
        let mut packer = Packer::default();
        value.pack(&mut packer);
        packer.finish()
    }

    fn zeros(rows: i64) -> Tensor {
        Tensor::zeros([rows, 2], (Kind::Float, Device::Cpu))
    }

    fn rows(parts: &[Parcel]) -> Vec<i64> {
        parts.iter().map(|part| part.items[0].tensor.size()[0]).collect()
    }

    #[test]
    fn splits_by_ceiling_division() {
        let split = |rows_in, chunks| rows(&scatter(&parcel(zeros(rows_in)), chunks).unwrap());
        assert_eq!(split(5, 4), [2, 2, 1]);
        assert_eq!(split(6, 4), [2, 2, 2]);
        assert_eq!(split(2, 4), [1, 1]);
        assert_eq!(split(0, 4), [0]);
        assert_eq!(split(8, 1), [8]);
        assert_eq!(split(3, usize::MAX), [1, 1, 1]);
    }

    #[test]
    fn inputs_that_disagree_are_named() {
        let error = scatter(&parcel((zeros(3), zeros(4))), 4).unwrap_err().to_string();
        assert!(error.starts_with("Found different number of chunks produced for inputs: 3 and 4"), "{error}");
        let error = scatter(&parcel((Replicate(zeros(3)), 7_i64)), 4).unwrap_err().to_string();
        assert!(error.starts_with("inputs do not have any tensors"), "{error}");
        let error = scatter(&parcel(Tensor::from(1.0)), 2).unwrap_err().to_string();
        assert!(error.contains("zero-dimensional"), "{error}");
    }

    #[test]
    fn what_is_replicated_goes_whole_to_each() {
        let parts = scatter(&parcel((zeros(4), Replicate(zeros(3)), 7_i64, Some(zeros(4)))), 2).unwrap();
        for part in parts {
            let (x, Replicate(mask), seven, tail) =
                <(Tensor, Replicate<Tensor>, i64, Option<Tensor>)>::unpack(&mut Unpacker::new(part));
            assert_eq!((x.size()[0], mask.size()[0], seven, tail.unwrap().size()[0]), (2, 3, 7, 2));
        }
    }

    #[test]
    fn joins_what_it_split() {
        let x = Tensor::arange(10, (Kind::Float, Device::Cpu)).view([5, 2]);
        let joined = join(scatter(&parcel((x.shallow_clone(), "same".to_owned())), 3).unwrap()).unwrap();
        assert_eq!(joined.rows, [Some(vec![2, 2, 1])]);
        let (y, text) = <(Tensor, String)>::unpack(&mut Unpacker::new(joined.parcel));
        assert_eq!((y, text.as_str()), (x, "same"));
    }

    #[test]
    fn outputs_that_differ_are_an_error() {
        let error = join(vec![parcel(Some(zeros(1))), parcel(None::<Tensor>)]).unwrap_err().to_string();
        assert!(error.contains("micro-batches 0 and 1"), "{error}");
        let error = join(vec![parcel(1_i64), parcel(2_i64)]).unwrap_err().to_string();
        assert!(error.contains("micro-batches 0 and 1"), "{error}");
        let scalar = || parcel(Tensor::from(1.0));
        assert!(join(vec![scalar(), scalar()]).unwrap_err().to_string().contains("zero-dimensional"));
        assert!(join(vec![scalar()]).is_ok());
    }
}
