//! The kinds of numbers in files and in libtorch.

use safetensors::Dtype;
use tch::Kind;

/// The kinds of real numbers that are converted into each other.
const FLOATS: [Kind; 4] = [Kind::Half, Kind::BFloat16, Kind::Float, Kind::Double];

/// The kinds of integers that are converted into each other.
const INTEGERS: [Kind; 5] = [Kind::Uint8, Kind::Int8, Kind::Int16, Kind::Int, Kind::Int64];

/// Whether the kind is one of real numbers.
pub(super) fn is_float(kind: Kind) -> bool {
    FLOATS.contains(&kind)
}

/// Whether numbers of kind `from` are converted to `to`.
pub(super) fn converts(from: Kind, to: Kind) -> bool {
    let both = |kinds: &[Kind]| kinds.contains(&from) && kinds.contains(&to);
    from == to || both(&FLOATS) || both(&INTEGERS)
}

/// libtorch's kind for a kind of a file, if it is read here.
pub(super) fn kind(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::BOOL => Kind::Bool,
        Dtype::U8 => Kind::Uint8,
        Dtype::I8 => Kind::Int8,
        Dtype::I16 => Kind::Int16,
        Dtype::I32 => Kind::Int,
        Dtype::I64 => Kind::Int64,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        _ => return None,
    })
}

/// The kind in a file for libtorch's kind, if it is written here.
pub(super) fn dtype(kind: Kind) -> Option<Dtype> {
    Some(match kind {
        Kind::Bool => Dtype::BOOL,
        Kind::Uint8 => Dtype::U8,
        Kind::Int8 => Dtype::I8,
        Kind::Int16 => Dtype::I16,
        Kind::Int => Dtype::I32,
        Kind::Int64 => Dtype::I64,
        Kind::Half => Dtype::F16,
        Kind::BFloat16 => Dtype::BF16,
        Kind::Float => Dtype::F32,
        Kind::Double => Dtype::F64,
        Kind::ComplexFloat => Dtype::C64,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for kind in FLOATS.into_iter().chain(INTEGERS).chain([Kind::Bool]) {
            assert_eq!(super::kind(dtype(kind).unwrap()), Some(kind));
        }
    }
}
