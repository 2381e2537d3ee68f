//! Splits a mini-batch into micro-batches. [`Flow::join`](super::Flow::join) is the inverse.

use tch::Tensor;

use super::Sources;
use super::packed::{PackedPlain, PackedTensor, PackedValue, Split, Value};
use super::rows::{Part, in_rows, refuse_bare_lists};
use crate::error::{Error, Result};

/// A mini-batch that has been split.
#[derive(Debug)]
pub(crate) struct Scattered {
    pub(crate) micro_batches: Vec<PackedValue>,
    pub(crate) shape: MiniBatch,
    pub(crate) sources: Sources,
}

/// Splits a mini-batch into at most `chunks` micro-batches, as `torch.chunk` does: each has
/// `ceil(rows / chunks)` rows, except that the last one may have fewer. An empty mini-batch becomes
/// one empty micro-batch. Plain values, and everything wrapped in `Replicate`, go to each
/// micro-batch undivided.
///
/// If a tensor needs a gradient and `gradients` are recorded, its parts are views in the caller's
/// graph. Otherwise each part is a separate tensor on the same memory, with its own version
/// counter: an in-place operation on one micro-batch does not count as a change of the others.
pub(crate) fn scatter(batch: &PackedValue, chunks: usize, gradients: bool) -> Result<Scattered> {
    refuse_bare_lists(batch, "inputs")?;
    let parts = Part::all(batch);
    let first = parts.iter().find(|part| part.per_row() == 1).or(parts.first());
    let Some(first) = first else {
        return Err(Error::Input(
            "inputs do not have any tensors to split into micro-batches: at least one must not be wrapped in `Replicate`".into(),
        ));
    };
    let rows = first.rows()?;
    for part in &parts {
        part.check(rows, || {
            let length = first.length().unwrap_or_default();
            format!("rows of the inputs do not belong together: {first} has {}", in_rows(length))
        })?;
    }
    let shape = MiniBatch::new(rows, chunks);
    let mut sources = Sources::default();
    Ok(Scattered { micro_batches: deal(batch, &shape, gradients, &mut sources)?, shape, sources })
}

/// Splits targets in the same way as the inputs. Targets without a part to split go to each
/// micro-batch undivided.
pub(crate) fn scatter_targets(targets: &PackedValue, batch: &MiniBatch) -> Result<Vec<PackedValue>> {
    refuse_bare_lists(targets, "targets")?;
    let rows = batch.rows.iter().sum();
    for part in Part::all(targets) {
        part.check(rows, || {
            format!("rows of the targets do not belong to those of the inputs: the inputs have {}", in_rows(rows))
        })?;
    }
    deal(targets, batch, true, &mut Sources::default())
}

/// Distributes the parts of a value that has the rows of `shape` among the micro-batches.
fn deal(batch: &PackedValue, shape: &MiniBatch, gradients: bool, sources: &mut Sources) -> Result<Vec<PackedValue>> {
    let mut values: Vec<PackedValue> = shape.rows.iter().map(|_| PackedValue::default()).collect();
    for item in &batch.tensors {
        match item.split {
            Split::Along { dim, per_row } => {
                let mut split = cut(&item.tensor, dim, per_row, shape)?;
                if !(gradients && item.needs_gradient) {
                    split = split.iter().map(|part| part.f_data()).collect::<Result<_, _>>()?;
                    sources.add(&item.tensor, &split)?;
                }
                for (value, part) in values.iter_mut().zip(split) {
                    value.tensors.push(PackedTensor::new(part, item));
                }
            }
            Split::Whole => values.iter_mut().for_each(|value| value.tensors.push(item.share())),
            Split::Row(row) => values[shape.micro_batch_of(row)].tensors.push(item.share()),
        }
    }
    for rest in &batch.plain {
        match (rest.row, &rest.value) {
            (Some(row), _) => values[shape.micro_batch_of(row)].plain.push(rest.clone()),
            (None, Value::Rows(_)) => {
                for (value, &rows) in values.iter_mut().zip(&shape.rows) {
                    value.plain.push(PackedPlain { value: Value::Length(rows as usize), row: None });
                }
            }
            (None, _) => values.iter_mut().for_each(|value| value.plain.push(rest.clone())),
        }
    }
    Ok(values)
}

/// Cuts a tensor into one part for each micro-batch. The parts are views of its memory.
fn cut(tensor: &Tensor, dim: usize, per_row: usize, shape: &MiniBatch) -> Result<Vec<Tensor>> {
    match shape.rows.as_slice() {
        [_] => Ok(vec![tensor.shallow_clone()]),
        _ => Ok(tensor.f_split(shape.size() * per_row as i64, dim as i64)?),
    }
}

/// The division of a mini-batch into micro-batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MiniBatch {
    rows: Vec<i64>,
}

impl MiniBatch {
    /// Divides `rows` as `torch.chunk` does: at most `chunks` parts of `ceil(rows / chunks)` rows,
    /// except that the last may have fewer.
    fn new(rows: i64, chunks: usize) -> Self {
        let chunks = i64::try_from(chunks).unwrap_or(i64::MAX).min(rows);
        if chunks <= 1 {
            return Self { rows: vec![rows] };
        }
        let size = (rows - 1) / chunks + 1;
        let part = |index| size.min(rows - index * size);
        Self { rows: (0..(rows - 1) / size + 1).map(part).collect() }
    }

    /// A division into micro-batches of these rows.
    pub(crate) fn of(rows: Vec<i64>) -> Self {
        Self { rows }
    }

    /// The number of rows of every micro-batch except the last, which may have fewer.
    fn size(&self) -> i64 {
        self.rows.first().copied().unwrap_or_default()
    }

    /// The index of the micro-batch that contains this row.
    fn micro_batch_of(&self, row: usize) -> usize {
        row / self.size() as usize
    }

    /// The number of rows of each micro-batch.
    pub fn rows(&self) -> &[i64] {
        &self.rows
    }

    /// The number of rows of each micro-batch, divided by that of the mini-batch. The weights sum
    /// to 1. Those of an empty mini-batch are equal.
    pub fn weights(&self) -> Vec<f64> {
        let total: i64 = self.rows.iter().sum();
        let share = |&rows: &i64| if total == 0 { 1. / self.rows.len() as f64 } else { rows as f64 / total as f64 };
        self.rows.iter().map(share).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Along, Each, Flow, List, PerRow, Replicate, Rows};
    use proptest::prelude::*;
    use tch::{Device, Kind};

    /// The micro-batches, and the division into them.
    fn in_parts(batch: &PackedValue, chunks: usize) -> (Vec<PackedValue>, MiniBatch) {
        let Scattered { micro_batches, shape, .. } = scatter(batch, chunks, true).unwrap();
        (micro_batches, shape)
    }

    fn zeros(rows: i64) -> Tensor {
        Tensor::zeros([rows, 2], (Kind::Float, Device::Cpu))
    }

    fn rows(parts: &[PackedValue]) -> Vec<i64> {
        parts.iter().map(|part| part.tensors[0].tensor.size()[0]).collect()
    }

    #[test]
    fn splits_by_ceiling_division() {
        let split = |rows_in, chunks| rows(&in_parts(&PackedValue::of(zeros(rows_in)), chunks).0);
        assert_eq!(split(5, 4), [2, 2, 1]);
        assert_eq!(split(6, 4), [2, 2, 2]);
        assert_eq!(split(2, 4), [1, 1]);
        assert_eq!(split(0, 4), [0]);
        assert_eq!(split(8, 1), [8]);
        assert_eq!(split(3, usize::MAX), [1, 1, 1]);
    }

    fn refused(batch: impl Flow) -> String {
        scatter(&PackedValue::of(batch), 4, true).unwrap_err().to_string()
    }

    #[test]
    fn inputs_that_disagree_are_named() {
        let error = refused((zeros(3), zeros(4)));
        assert_eq!(
            error,
            "rows of the inputs do not belong together: tensor 0, of shape [3, 2] and split along dimension 0, has \
             3 rows, and tensor 1, of shape [4, 2] and split along dimension 0, has 4 rows instead of 3. Wrap what goes \
             whole to every micro-batch in `Replicate`, a tensor whose batch dimension is not 0 in `Along::<DIM>`, one \
             with several rows for each row of the batch in `PerRow::<K>`, a list with one entry per row in `Rows`"
        );
        let error = refused((Replicate(zeros(3)), 7_i64));
        assert!(error.starts_with("inputs do not have any tensors"), "{error}");
        let error = refused(Tensor::from(1.0));
        assert!(error.contains("a zero-dimensional tensor cannot be split"), "{error}");
        let error = refused((zeros(3), Along::<2>(zeros(3))));
        assert_eq!(error, "a tensor of shape [3, 2] cannot be split along dimension 2, which it does not have");
    }

    #[test]
    fn the_way_out_that_would_fit_is_named() {
        // A replicated tensor is counted in the tensors' numbers, but its rows are not checked.
        let error = refused((zeros(6), Replicate(zeros(5)), Tensor::zeros([3, 6], (Kind::Float, Device::Cpu))));
        assert!(error.contains("tensor 2, of shape [3, 6] and split along dimension 0, has 3 rows instead"), "{error}");
        assert!(error.contains("`Along::<1>`") && error.contains("`PerRow::<K>`"), "{error}");
        let error = refused((zeros(8), zeros(16)));
        assert!(error.contains("has 16 rows instead of 8") && error.contains("`PerRow::<2>`"), "{error}");
        let error = refused((zeros(2), zeros(1)));
        assert!(error.contains("has 1 row instead of 2"), "{error}");
    }

    #[test]
    fn wrapped_parts_that_disagree_are_named() {
        let error = refused((PerRow::<2>(zeros(7)), zeros(4)));
        assert!(error.contains("tensor 1, of shape [4, 2] and split along dimension 0, has 4 rows, and"), "{error}");
        let part = "tensor 0, of shape [7, 2] and split along dimension 0 by 2 for each row of the batch,";
        assert!(error.contains(&format!("{part} has 7 rows instead of 8")), "{error}");
        let error = refused(PerRow::<2>(zeros(7)));
        assert_eq!(error, format!("{part} has 7 rows, which is not a multiple of 2"));
        let error = refused((zeros(4), Along::<1>(zeros(4))));
        assert!(error.contains("of shape [4, 2] and split along dimension 1, has 2 rows instead of 4"), "{error}");
        // The tensors inside the list are not counted in the tensors' numbers.
        let error = refused((Rows(vec![zeros(9), zeros(1)]), zeros(3)));
        assert!(error.contains("tensor 0, of shape [3, 2]"), "{error}");
        assert!(error.contains("a list in `Rows`, split by its entries, has 2 rows instead of 3"), "{error}");
        let error = refused(Each(vec![zeros(3), zeros(3), zeros(2)]));
        assert!(error.contains("tensor 2, of shape [2, 2]") && error.contains("2 rows instead of 3"), "{error}");
    }

    #[test]
    fn a_bare_list_is_refused_whatever_its_length() {
        let error = refused((zeros(4), vec![zeros(4), zeros(4)]));
        assert_eq!(
            error,
            "a list in the inputs, of length 2, does not say how it belongs to the rows of the batch. Wrap it in `Rows` \
             if it has one entry per row, in `Each` if each part has the batch's rows and is to be split like them, in \
             `Replicate` if every micro-batch is to get all of it; or give an array or a tuple, whose parts are split \
             each by itself"
        );
        let numbers = || vec![1_i64, 2, 3, 4];
        for error in [
            refused((zeros(4), numbers())),
            refused((zeros(4), Some(List(numbers())))),
            refused((zeros(4), [numbers()])),
        ] {
            assert!(error.starts_with("a list in the inputs, of length 4, does not say"), "{error}");
        }
        let (_, shape) = in_parts(&PackedValue::of(zeros(4)), 2);
        let error = scatter_targets(&PackedValue::of(numbers()), &shape).unwrap_err().to_string();
        assert!(error.starts_with("a list in the targets, of length 4, does not say"), "{error}");

        let known = (
            zeros(4),
            Replicate(numbers()),
            Rows(vec![numbers(); 4]),
            Each(vec![numbers(), numbers()]),
            Replicate(Rows(numbers())),
            Some(Each(Vec::<Tensor>::new())),
        );
        let (parts, _) = in_parts(&PackedValue::of(known), 2);
        type Known =
            (Tensor, Replicate<Vec<i64>>, Rows<Vec<i64>>, Each<Vec<i64>>, Replicate<Rows<i64>>, Option<Each<Tensor>>);
        for (x, all, rows, each, whole, empty) in PackedValue::unpack_all::<Known>(parts) {
            assert_eq!(x.size(), [2, 2]);
            assert_eq!((all, whole), (Replicate(numbers()), Replicate(Rows(numbers()))));
            assert_eq!((rows, each), (Rows(vec![numbers(); 2]), Each(vec![numbers(); 2])));
            assert_eq!(empty, Some(Each(vec![])));
        }
    }

    #[test]
    fn targets_are_split_as_the_inputs() {
        let (_, shape) = in_parts(&PackedValue::of(zeros(7)), 3);
        let targets = (zeros(7), PerRow::<2>(zeros(14)), Rows((0..7).collect::<Vec<i64>>()), 5_i64);
        let parts = scatter_targets(&PackedValue::of(targets), &shape).unwrap();
        let mut found = Vec::new();
        for (y, PerRow(pairs), Rows(numbers), five) in
            PackedValue::unpack_all::<(Tensor, PerRow<2>, Rows<i64>, i64)>(parts)
        {
            assert_eq!((pairs.size()[0], five), (2 * y.size()[0], 5));
            found.push(numbers);
        }
        assert_eq!(found, [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);

        for rows in [1, 6, 8, 9] {
            let error = scatter_targets(&PackedValue::of(zeros(rows)), &shape).unwrap_err().to_string();
            let expected = format!(
                "rows of the targets do not belong to those of the inputs: the inputs have 7 rows, and tensor 0, of shape \
                 [{rows}, 2] and split along dimension 0, has {} instead of 7. Wrap",
                in_rows(rows)
            );
            assert!(error.starts_with(&expected), "{error}");
        }
        let whole = scatter_targets(&PackedValue::of((Replicate(zeros(5)), 1_u8)), &shape).unwrap();
        assert_eq!(rows(&whole), [5, 5, 5]);
        assert_eq!(scatter_targets(&PackedValue::of(()), &shape).unwrap().len(), 3);
    }

    #[test]
    fn a_list_of_rows_is_enough_to_split_by() {
        let (parts, shape) = in_parts(&PackedValue::of(Rows(vec!["a".to_owned(), "b".into(), "c".into()])), 2);
        assert_eq!(shape.rows(), [2, 1]);
        let parts = PackedValue::unpack_all::<Rows<String>>(parts);
        assert_eq!(parts, [Rows(vec!["a".into(), "b".into()]), Rows(vec!["c".into()])]);
    }

    #[test]
    fn parts_are_views_of_the_callers_memory() {
        let x = Tensor::zeros([3, 5, 2], (Kind::Float, Device::Cpu));
        let batch = (Along::<1>(x.shallow_clone()), PerRow::<2>(Tensor::zeros([10], (Kind::Float, Device::Cpu))));
        let (parts, _) = in_parts(&PackedValue::of(batch), 2);
        let offsets = |index: usize| {
            let start = parts[0].tensors[index].tensor.data_ptr() as usize;
            parts.iter().map(|part| part.tensors[index].tensor.data_ptr() as usize - start).collect::<Vec<_>>()
        };
        assert_eq!(parts[0].tensors[0].tensor.data_ptr(), x.data_ptr());
        assert_eq!((offsets(0), offsets(1)), (vec![0, 3 * 2 * 4], vec![0, 6 * 4]));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_rows_are_those_of_torch_chunk(rows_in in 0..=9_i64, chunks in 1..=5_usize) {
            let (parts, shape) = in_parts(&PackedValue::of(zeros(rows_in)), chunks);
            let expected: Vec<_> = match rows_in {
                0 => vec![0],
                _ => zeros(rows_in).chunk(chunks as i64, 0).iter().map(|part| part.size()[0]).collect(),
            };
            prop_assert_eq!(shape.rows(), &expected[..]);
            prop_assert_eq!(rows(&parts), expected);
        }

        #[test]
        fn rows_agree_or_both_numbers_are_in_the_error(a in 0..9_i64, b in 0..=9_i64, chunks in 1..=5_usize) {
            let (_, shape) = in_parts(&PackedValue::of(zeros(a)), chunks);
            let along = || Along::<1>(Tensor::zeros([3, b], (Kind::Float, Device::Cpu)));
            let list = || Rows(vec![7_i64; b as usize]);
            let input = |batch: PackedValue| scatter(&batch, chunks, true).map(|_| ());
            let outcomes = [
                (1, input(PackedValue::of((zeros(a), zeros(b))))),
                (1, input(PackedValue::of((zeros(a), along())))),
                (3, input(PackedValue::of((zeros(a), PerRow::<3>(zeros(3 * b)))))),
                (1, input(PackedValue::of((zeros(a), list())))),
                (1, input(PackedValue::of(Each(vec![zeros(a), zeros(a), zeros(b)])))),
                (1, scatter_targets(&PackedValue::of(zeros(b)), &shape).map(|_| ())),
                (1, scatter_targets(&PackedValue::of(along()), &shape).map(|_| ())),
                (3, scatter_targets(&PackedValue::of(PerRow::<3>(zeros(3 * b))), &shape).map(|_| ())),
                (1, scatter_targets(&PackedValue::of(list()), &shape).map(|_| ())),
            ];
            for (per_row, outcome) in outcomes {
                match outcome {
                    Ok(()) => prop_assert_eq!(a, b),
                    Err(error) => {
                        prop_assert!(a != b);
                        let error = error.to_string();
                        let found = format!("has {} instead of {}.", in_rows(per_row * b), per_row * a);
                        prop_assert!(error.contains(&found) && error.contains(&in_rows(a)), "{error}");
                    }
                }
            }
        }

        #[test]
        fn joining_undoes_splitting(rows in 0..=9_i64, chunks in 1..=5_usize) {
            type All = (Along<1>, PerRow<3>, Rows<(String, Tensor)>, Each<(Tensor, Along<2>)>);
            let counted = |size: &[i64]| {
                Tensor::arange(size.iter().product::<i64>(), (Kind::Float, Device::Cpu)).view(size)
            };
            let entry = |row: i64| (row.to_string(), counted(&[row % 3, 2]));
            let part = || (counted(&[rows, 2]), Along::<2>(counted(&[2, 1, rows])));
            let all = || -> All {
                (
                    Along(counted(&[2, rows, 3])),
                    PerRow(counted(&[3 * rows, 2])),
                    Rows((0..rows).map(entry).collect()),
                    Each(vec![part(), part()]),
                )
            };
            let (parts, shape) = in_parts(&PackedValue::of(all()), chunks);
            prop_assert_eq!(parts.len(), shape.rows().len());
            let joined = All::join(PackedValue::unpack_all(parts), &shape).unwrap();
            prop_assert_eq!(joined, all());
        }
    }

    #[test]
    fn what_is_replicated_goes_whole_to_each() {
        let (parts, _) = in_parts(&PackedValue::of((zeros(4), Replicate(zeros(3)), 7_i64, Some(zeros(4)))), 2);
        for part in parts {
            let (x, Replicate(mask), seven, tail) = part.unpack::<(Tensor, Replicate<Tensor>, i64, Option<Tensor>)>();
            assert_eq!((x.size()[0], mask.size()[0], seven, tail.unwrap().size()[0]), (2, 3, 7, 2));
        }
    }

    #[test]
    fn joins_what_it_split() {
        let x = Tensor::arange(10, (Kind::Float, Device::Cpu)).view([5, 2]);
        type Pair = (Tensor, String);
        let (parts, batch) = in_parts(&PackedValue::of((x.shallow_clone(), "same".to_owned())), 3);
        assert_eq!(batch.rows(), [2, 2, 1]);
        let parts = PackedValue::unpack_all::<Pair>(parts);
        let (y, text) = Pair::join(parts, &batch).unwrap();
        assert_eq!((y, text.as_str()), (x, "same"));
    }
}
