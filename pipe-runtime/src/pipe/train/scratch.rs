//! Exchanges the values of tensors without changing where they are.

use tch::{Device, Kind, TchError, Tensor};

/// Memory in which tensors are exchanged, one after the other, for each device and kind.
pub(super) struct Scratch(Vec<Tensor>);

impl Scratch {
    pub(super) fn for_any_of<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> Result<Self, TchError> {
        let mut largest: Vec<((Kind, Device), i64)> = Vec::new();
        for tensor in tensors {
            let (of, numel) = ((tensor.kind(), tensor.device()), tensor.numel() as i64);
            match largest.iter_mut().find(|(other, _)| *other == of) {
                Some((_, most)) => *most = numel.max(*most),
                None => largest.push((of, numel)),
            }
        }
        Ok(Self(largest.into_iter().map(|(of, most)| Tensor::f_empty([most], of)).collect::<Result<_, _>>()?))
    }

    /// Exchanges the values of two tensors of one shape and kind. After an error, both are as
    /// before.
    pub(super) fn exchange(&mut self, a: &mut Tensor, b: &mut Tensor) -> Result<(), TchError> {
        let fits = |scratch: &&Tensor| (scratch.kind(), scratch.device()) == (a.kind(), a.device());
        let scratch = self.0.iter().find(fits).expect("there is memory for each device and kind");
        let mut value = scratch.f_narrow(0, 0, a.numel() as i64)?.f_view(a.size().as_slice())?;
        value.f_copy_(a)?;
        let exchanged = a.f_copy_(b).and_then(|()| b.f_copy_(&value));
        exchanged.or_else(|error| a.f_copy_(&value).and(Err(error)))
    }
}
