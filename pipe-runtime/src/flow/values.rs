use std::sync::Arc;

use tch::Tensor;

use super::{Flow, Packer, Unpacker};

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
}

/// A value that every micro-batch gets whole: a mask, a table, a tensor whose dimension 0 is not the batch. As torch's `NoChunk`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replicate<T>(pub T);

impl<T: Flow> Flow for Replicate<T> {
    fn pack(self, packer: &mut Packer) {
        packer.whole(|packer| self.0.pack(packer));
    }

    fn unpack(unpacker: &mut Unpacker) -> Self {
        Self(T::unpack(unpacker))
    }

    fn share(&self) -> Self {
        Self(self.0.share())
    }
}

macro_rules! plain {
    ($($type:ty),*) => {$(
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
        }
    )*};
}

plain!(bool, char, i8, i16, i32, i64, i128, isize, u8, u16, u32, u64, u128, usize, f32, f64, String);

/// An `Arc` is the same in two micro-batches if it points to the same value.
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
    fn pack(self, packer: &mut Packer) {
        packer.plain(Shared(self));
    }

    fn unpack(unpacker: &mut Unpacker) -> Self {
        unpacker.plain::<Shared<T>>().0
    }

    fn share(&self) -> Self {
        Arc::clone(self)
    }
}

impl<T: Flow> Flow for Option<T> {
    fn pack(self, packer: &mut Packer) {
        packer.length(usize::from(self.is_some()));
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
}

impl<T: Flow> Flow for Vec<T> {
    fn pack(self, packer: &mut Packer) {
        packer.length(self.len());
        for value in self {
            value.pack(packer);
        }
    }

    fn unpack(unpacker: &mut Unpacker) -> Self {
        (0..unpacker.length()).map(|_| T::unpack(unpacker)).collect()
    }

    fn share(&self) -> Self {
        self.iter().map(T::share).collect()
    }
}

impl<T: Flow, const N: usize> Flow for [T; N] {
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
}

macro_rules! tuples {
    ($(($($name:ident),*)),* $(,)?) => {$(
        impl<$($name: Flow),*> Flow for ($($name,)*) {
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
