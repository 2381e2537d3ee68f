use std::sync::Arc;

use tch::Tensor;

use super::{Flow, MiniBatch, Packer, Portable, Unpacker};
use crate::error::{Error, Result};

impl Portable for Tensor {}

impl Flow for Tensor {
    fn pack(self, packer: &mut Packer) {
        packer.tensor(self);
    }

    fn unpack(unpacker: &mut Unpacker) -> Self {
        unpacker.tensor()
    }

    fn share(&self) -> Self {
        self.shallow_clone()
    }

    fn join(mut parts: Vec<Self>, _batch: &MiniBatch) -> Result<Self> {
        if parts.len() == 1 {
            return Ok(parts.remove(0));
        }
        if parts.iter().any(|part| part.dim() == 0) {
            return Err(Error::Output(
                "a zero-dimensional output cannot be joined over micro-batches: give it a batch dimension, or say with `Sum`, `Mean` or `List` \
                 what is to become of it"
                    .into(),
            ));
        }
        Ok(Tensor::f_cat(&parts, 0)?)
    }
}

/// Returns the value on which all parts agree.
fn agreed<T: PartialEq>(parts: Vec<T>, what: &str) -> Result<T> {
    let mut parts = parts.into_iter().enumerate();
    let (_, first) = parts.next().ok_or_else(|| Error::Output("there are no micro-batches to join".into()))?;
    match parts.find(|(_, part)| *part != first) {
        None => Ok(first),
        Some((index, _)) => Err(Error::Output(format!(
            "the outputs of micro-batches 0 and {index} cannot be joined: {what} differs between them; `List` gives one for each"
        ))),
    }
}

macro_rules! plain {
    ($($type:ty),*) => {$(
        impl Portable for $type {}

        impl Flow for $type {
            fn pack(self, packer: &mut Packer) {
                packer.plain(self);
            }

            fn unpack(unpacker: &mut Unpacker) -> Self {
                unpacker.plain()
            }

            fn share(&self) -> Self {
                self.clone()
            }

            fn join(parts: Vec<Self>, _batch: &MiniBatch) -> Result<Self> {
                agreed(parts, "a plain value")
            }
        }
    )*};
}

plain!(bool, char, i8, i16, i32, i64, i128, isize, u8, u16, u32, u64, u128, usize, f32, f64, String);

/// An `Arc` that equals another one if both point to the same allocation.
struct Shared<T>(Arc<T>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T: Send + Sync + 'static> Flow for Arc<T> {
    const PORTABLE: bool = false;

    fn pack(self, packer: &mut Packer) {
        packer.plain(Shared(self));
    }

    fn unpack(unpacker: &mut Unpacker) -> Self {
        unpacker.plain::<Shared<T>>().0
    }

    fn share(&self) -> Self {
        Arc::clone(self)
    }

    fn join(parts: Vec<Self>, _batch: &MiniBatch) -> Result<Self> {
        agreed(parts.into_iter().map(Shared).collect(), "a shared value").map(|shared| shared.0)
    }
}

impl<T: Portable> Portable for Option<T> {}

impl<T: Flow> Flow for Option<T> {
    const PORTABLE: bool = T::PORTABLE;

    fn pack(self, packer: &mut Packer) {
        packer.is_some(self.is_some());
        if let Some(value) = self {
            value.pack(packer);
        }
    }

    fn unpack(unpacker: &mut Unpacker) -> Self {
        (unpacker.length() == 1).then(|| T::unpack(unpacker))
    }

    fn share(&self) -> Self {
        self.as_ref().map(T::share)
    }

    fn join(parts: Vec<Self>, batch: &MiniBatch) -> Result<Self> {
        match agreed(parts.iter().map(Self::is_some).collect(), "whether an `Option` is there")? {
            true => T::join(parts.into_iter().flatten().collect(), batch).map(Some),
            false => Ok(None),
        }
    }
}

impl<T: Portable> Portable for Vec<T> {}

impl<T: Flow> Flow for Vec<T> {
    const PORTABLE: bool = T::PORTABLE;

    fn pack(self, packer: &mut Packer) {
        packer.length(self.len());
        for value in self {
            value.pack(packer);
        }
    }

    fn unpack(unpacker: &mut Unpacker) -> Self {
        let length = unpacker.length();
        // A length of another process is no reason to allocate for more than has come.
        let mut values = Vec::with_capacity(length.min(unpacker.left()));
        for _ in 0..length {
            values.push(T::unpack(unpacker));
        }
        values
    }

    fn share(&self) -> Self {
        self.iter().map(T::share).collect()
    }

    fn join(parts: Vec<Self>, batch: &MiniBatch) -> Result<Self> {
        let length = agreed(parts.iter().map(Self::len).collect(), "the length of a `Vec`")?;
        let mut parts: Vec<_> = parts.into_iter().map(Vec::into_iter).collect();
        (0..length).map(|_| T::join(parts.iter_mut().flat_map(Iterator::next).collect(), batch)).collect()
    }
}

impl<T: Portable, const N: usize> Portable for [T; N] {}

impl<T: Flow, const N: usize> Flow for [T; N] {
    const PORTABLE: bool = T::PORTABLE;

    fn pack(self, packer: &mut Packer) {
        for value in self {
            value.pack(packer);
        }
    }

    fn unpack(unpacker: &mut Unpacker) -> Self {
        std::array::from_fn(|_| T::unpack(unpacker))
    }

    fn share(&self) -> Self {
        self.each_ref().map(T::share)
    }

    fn join(parts: Vec<Self>, batch: &MiniBatch) -> Result<Self> {
        let joined = Vec::join(parts.into_iter().map(Vec::from).collect(), batch)?;
        joined.try_into().map_err(|_| Error::Output("an array lost elements".into()))
    }
}

/// Destructures a tuple and pushes each element to the `Vec` that is named after its type
/// parameter.
macro_rules! push {
    ($part:ident [] [$($unused:ident)*] [$($name:ident $local:ident)*]) => {
        let ($($local,)*) = $part;
        $($name.push($local);)*
    };
    ($part:ident [$name:ident $($names:ident)*] [$local:ident $($locals:ident)*] [$($done:tt)*]) => {
        push!($part [$($names)*] [$($locals)*] [$($done)* $name $local])
    };
}

macro_rules! tuples {
    (@push $part:ident $($name:ident)*) => {
        push!($part [$($name)*] [a b c d e f g h i j k l] [])
    };
    ($(($($name:ident),*)),* $(,)?) => {$(
        impl<$($name: Portable),*> Portable for ($($name,)*) {}

        impl<$($name: Flow),*> Flow for ($($name,)*) {
            const PORTABLE: bool = true $(&& $name::PORTABLE)*;

            #[allow(non_snake_case, unused_variables)]
            fn pack(self, packer: &mut Packer) {
                let ($($name,)*) = self;
                $($name.pack(packer);)*
            }

            #[allow(clippy::unused_unit, unused_variables)]
            fn unpack(unpacker: &mut Unpacker) -> Self {
                ($($name::unpack(unpacker),)*)
            }

            #[allow(non_snake_case, clippy::unused_unit)]
            fn share(&self) -> Self {
                let ($($name,)*) = self;
                ($($name.share(),)*)
            }

            #[allow(non_snake_case, unused_variables, clippy::unused_unit)]
            fn join(parts: Vec<Self>, batch: &MiniBatch) -> Result<Self> {
                $(let mut $name = Vec::with_capacity(parts.len());)*
                for part in parts {
                    tuples!(@push part $($name)*);
                }
                Ok(($($name::join($name, batch)?,)*))
            }
        }
    )*};
}

tuples!(
    (),
    (A),
    (A, B),
    (A, B, C),
    (A, B, C, D),
    (A, B, C, D, E),
    (A, B, C, D, E, F),
    (A, B, C, D, E, F, G),
    (A, B, C, D, E, F, G, H),
    (A, B, C, D, E, F, G, H, I),
    (A, B, C, D, E, F, G, H, I, J),
    (A, B, C, D, E, F, G, H, I, J, K),
    (A, B, C, D, E, F, G, H, I, J, K, L),
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::PackedValue;
    use tch::{Device, Kind};

    fn two() -> MiniBatch {
        crate::flow::scatter(&PackedValue::of(zeros(2)), 2, true).unwrap().shape
    }

    fn zeros(rows: i64) -> Tensor {
        Tensor::zeros([rows, 2], (Kind::Float, Device::Cpu))
    }

    #[test]
    fn outputs_that_differ_are_an_error() {
        let error = Option::join(vec![Some(zeros(1)), None], &two()).unwrap_err().to_string();
        assert!(error.contains("micro-batches 0 and 1"), "{error}");
        let error = i64::join(vec![1, 2], &two()).unwrap_err().to_string();
        assert!(error.contains("micro-batches 0 and 1"), "{error}");
        let error = Vec::join(vec![vec![zeros(1)], vec![]], &two()).unwrap_err().to_string();
        assert!(error.contains("the length of a `Vec`"), "{error}");
        let (a, b) = (Arc::new(1), Arc::new(1));
        assert!(Arc::join(vec![a.clone(), b], &two()).is_err());
        assert!(Arc::join(vec![a.clone(), a], &two()).is_ok());
    }

    #[test]
    fn a_scalar_is_taken_as_it_is_or_not_at_all() {
        let scalar = || Tensor::from(1.0);
        assert!(Tensor::join(vec![scalar(), scalar()], &two()).unwrap_err().to_string().contains("zero-dimensional"));
        assert!(Tensor::join(vec![scalar()], &two()).is_ok());
    }

    #[test]
    fn containers_are_joined_part_by_part() {
        let part = |rows| (vec![zeros(rows)], [zeros(rows), zeros(rows + 1)], (Some(zeros(rows)), 7_u8));
        let (list, [a, b], (some, seven)) = Flow::join(vec![part(1), part(2)], &two()).unwrap();
        let rows = [&list[0], &a, &b, &some.unwrap()].map(|tensor| tensor.size()[0]);
        assert_eq!((rows, seven), ([3, 3, 5, 3], 7));
    }
}
