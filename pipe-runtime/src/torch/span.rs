//! The memory of tensors, as bytes that one process sends and another one receives.
//!
//! libtorch's kernels give other bits for other strides and for other alignments of the memory. So
//! a received tensor has the strides of the one that was sent, and its address modulo 64.

use std::ffi::c_void;
use std::slice;

use pipe_comm::nccl::DeviceBytes;
use pipe_comm::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::bytes::bytes_of_mut;
use super::{GradMode, Stream, TorchError, version};

/// The kinds of numbers that cross processes. A kind is sent as its position here.
const KINDS: [Kind; 12] = [
    Kind::Uint8,
    Kind::Int8,
    Kind::Int16,
    Kind::Int,
    Kind::Int64,
    Kind::Half,
    Kind::Float,
    Kind::Double,
    Kind::ComplexFloat,
    Kind::ComplexDouble,
    Kind::Bool,
    Kind::BFloat16,
];

/// libtorch aligns its memory to so many bytes.
const ALIGNMENT: usize = 64;

/// The place of a tensor's elements in its memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout {
    kind: u8,
    size: Vec<i64>,
    stride: Vec<i64>,
    /// The address modulo 64.
    offset: u8,
    /// Whether only the elements are sent, row by row, because there is much memory between them.
    gaps: bool,
    /// Whether they go straight from one accelerator to the other, and not through the hosts.
    direct: bool,
}

/// The memory of a tensor that is sent: so many elements, from the first one in memory on.
#[derive(Debug)]
pub(crate) struct SentSpan {
    tensor: Tensor,
    elements: usize,
}

/// The memory of a tensor that is received.
#[derive(Debug)]
pub(crate) struct ReceivedSpan {
    /// The tensor itself if its elements are in a row. Otherwise it has one dimension, with the
    /// memory from the first element to the last one.
    span: Tensor,
    layout: Layout,
}

/// The number by which a kind is sent.
pub(crate) fn number_of_kind(kind: Kind) -> Result<u8, TorchError> {
    let number = KINDS.iter().position(|&known| known == kind);
    number
        .map(|number| number as u8)
        .ok_or_else(|| TorchError(format!("a tensor of kind {kind:?} cannot go to another process")))
}

/// The kind of this number.
pub(crate) fn kind_from_number(number: u8) -> Option<Kind> {
    KINDS.get(usize::from(number)).copied()
}

impl Layout {
    /// Whether the bytes go straight from one accelerator to another.
    pub(crate) fn is_direct(&self) -> bool {
        self.direct
    }

    fn kind(&self) -> Result<Kind, TorchError> {
        kind_from_number(self.kind).ok_or_else(|| TorchError("a message names no kind".into()))
    }

    /// The number of elements from the first one in memory to the last one.
    fn span(&self) -> Option<i64> {
        if self.size.contains(&0) {
            return Some(0);
        }
        let last = self.size.iter().zip(&self.stride).try_fold(0_i64, |last, (&size, &stride)| {
            (size > 0 && stride >= 0).then(|| size - 1)?.checked_mul(stride)?.checked_add(last)
        });
        last?.checked_add(1)
    }

    fn elements(&self) -> Option<i64> {
        self.size.iter().try_fold(1_i64, |elements, &size| elements.checked_mul(size).filter(|&product| product >= 0))
    }

    /// Whether the elements are in a row, as in a tensor that has just been made.
    fn is_plain(&self) -> bool {
        let mut expected: i64 = 1;
        let in_row = self.size.iter().zip(&self.stride).rev().all(|(&size, &stride)| {
            let holds = stride == expected;
            // A tensor without elements may have any other sizes.
            expected = expected.saturating_mul(size.max(1));
            holds
        });
        in_row && !self.gaps
    }

    /// Whether the tensor has the address that it should have, modulo 64. One that begins between
    /// two elements is moved to the next one.
    fn is_aligned_as(&self, tensor: &Tensor) -> bool {
        let offset = usize::from(self.offset).next_multiple_of(tensor.kind().elt_size_in_bytes()) % ALIGNMENT;
        tensor.numel() == 0 || tensor.data_ptr() as usize % ALIGNMENT == offset
    }

    /// The number of elements that are sent; `None` if this is not the layout of a tensor. The
    /// memory of one has less than 2^63 bytes, between its elements too.
    fn sent(&self) -> Option<i64> {
        let size = kind_from_number(self.kind)?.elt_size_in_bytes() as i64;
        let (span, elements) = (self.span()?, self.elements()?);
        let most = (i64::MAX - ALIGNMENT as i64) / size;
        let is_one = span <= most && elements <= most && self.size.len() == self.stride.len();
        (is_one && usize::from(self.offset) < ALIGNMENT).then_some(if self.gaps { elements } else { span })
    }
}

impl SentSpan {
    /// The memory of `tensor`, and where its elements are. What is on an accelerator is copied to
    /// the host, unless it goes straight to another one: if it is on the device `direct`.
    pub(crate) fn new(tensor: &Tensor, direct: Option<Device>) -> Result<(Layout, Self), TorchError> {
        let _constant = GradMode::set(false);
        let failed = |error: tch::TchError| TorchError(error.to_string());
        if tensor.is_sparse() {
            return Err(TorchError("a sparse tensor cannot go to another process: make it dense".into()));
        }
        let kind = tensor.f_kind().map_err(failed)?;
        let device = direct.filter(|direct| *direct == tensor.device());
        let mut tensor = tensor.f_detach().map_err(failed)?;
        // Each of these calls takes as long as a short message, so they are made where they do
        // something.
        if tensor.is_conj() || tensor.is_neg() {
            tensor = tensor.f_resolve_conj().and_then(|tensor| tensor.f_resolve_neg()).map_err(failed)?;
        }
        if device.is_none() && tensor.device() != Device::Cpu {
            tensor = tensor.f_to_device(Device::Cpu).map_err(failed)?;
        }
        let mut layout = Layout {
            kind: number_of_kind(kind)?,
            size: tensor.size(),
            stride: tensor.stride(),
            offset: (tensor.data_ptr() as usize % ALIGNMENT) as u8,
            gaps: false,
            direct: device.is_some(),
        };
        let too_large = || TorchError("a tensor is too large to be sent".into());
        let (span, elements) = (layout.span().ok_or_else(too_large)?, layout.elements().ok_or_else(too_large)?);
        layout.gaps = span / 2 > elements;
        if layout.gaps {
            tensor = tensor.f_contiguous().map_err(failed)?;
        }
        let elements = if layout.gaps { elements } else { span } as usize;
        Ok((layout, Self { tensor, elements }))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.elements == 0
    }

    /// Tells later whether the memory is what it is now.
    pub(crate) fn unchanged(&self) -> Unchanged {
        Unchanged { tensor: self.tensor.shallow_clone(), version: version(&self.tensor) }
    }
}

/// Tells whether a tensor that is sent is still what it was.
pub(crate) struct Unchanged {
    tensor: Tensor,
    version: u64,
}

impl Unchanged {
    pub(crate) fn holds(&self) -> bool {
        version(&self.tensor) == self.version
    }
}

impl ReceivedSpan {
    /// Allocates memory for a tensor of this size and kind, row by row.
    pub(crate) fn contiguous(size: Vec<i64>, kind: Kind) -> Result<Self, TorchError> {
        let mut stride = vec![1; size.len()];
        for dim in (1..size.len()).rev() {
            stride[dim - 1] = stride[dim] * size[dim];
        }
        let layout = Layout { kind: number_of_kind(kind)?, size, stride, offset: 0, gaps: false, direct: false };
        Self::new(layout, Device::Cpu)
    }

    /// Allocates memory on `device` for a tensor of this layout.
    pub(crate) fn new(layout: Layout, device: Device) -> Result<Self, TorchError> {
        let _constant = GradMode::set(false);
        let kind = layout.kind()?;
        let count = layout.sent().ok_or_else(|| TorchError("a message describes no tensor".into()))?;
        let size = kind.elt_size_in_bytes();
        let memory = |before: usize| Tensor::f_empty([count + before as i64], (kind, device));
        let failed = |error: tch::TchError| TorchError(error.to_string());
        let span = match layout.is_plain() {
            true => Tensor::f_empty(&layout.size, (kind, device)),
            false => memory(0),
        };
        let span = span.map_err(failed)?;
        let missing = (usize::from(layout.offset) + ALIGNMENT - span.data_ptr() as usize % ALIGNMENT) % ALIGNMENT;
        if missing == 0 || layout.gaps || count == 0 {
            return Ok(Self { span, layout });
        }
        // The memory of the allocator is aligned.
        let before = missing.div_ceil(size);
        let span = memory(before).and_then(|span| span.f_narrow(0, before as i64, count)).map_err(failed)?;
        Ok(Self { span, layout })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.span.numel() == 0
    }

    /// The tensor, once its bytes are there.
    pub(crate) fn tensor(self) -> Result<Tensor, TorchError> {
        let _constant = GradMode::set(false);
        let Layout { size, stride, gaps, .. } = &self.layout;
        if self.span.dim() == size.len() && self.span.size() == *size && self.span.stride() == *stride {
            return Ok(self.span);
        }
        let made = || match gaps {
            false => self.span.f_as_strided(size, stride, None)?.f_detach(),
            true => {
                let span = Layout { gaps: false, ..self.layout.clone() };
                let span =
                    Self::new(span, self.span.device()).map_err(|error| tch::TchError::Kind(error.to_string()))?;
                let tensor = span.span.f_as_strided(size, stride, None)?.f_detach()?;
                tensor.shallow_clone().f_copy_(&self.span.f_view(size.as_slice())?)?;
                Ok(tensor)
            }
        };
        let tensor = made().map_err(|error: tch::TchError| TorchError(error.to_string()))?;
        debug_assert!(self.layout.is_aligned_as(&tensor));
        Ok(tensor)
    }
}

// SAFETY: the memory is the tensor's, which stays where it is.
unsafe impl Bytes for SentSpan {
    fn bytes(&self) -> &[u8] {
        assert_eq!(self.tensor.device(), Device::Cpu, "only the host's memory has bytes here");
        match self.elements * self.tensor.kind().elt_size_in_bytes() {
            0 => &[],
            // SAFETY: the memory from the tensor's first element to its last one, which is alive
            // and not written meanwhile: a change is an error when all is sent.
            length => unsafe { slice::from_raw_parts(self.tensor.data_ptr().cast(), length) },
        }
    }
}

/// The memory of a tensor on an accelerator, while a stream copies it.
pub(crate) struct DeviceSpan<'s> {
    span: &'s Tensor,
    elements: usize,
}

impl SentSpan {
    /// The memory, for work on `stream`, which may read it until that work is done.
    pub(crate) fn on(&self, stream: &Stream) -> Result<DeviceSpan<'_>, TorchError> {
        DeviceSpan::new(&self.tensor, self.elements, stream)
    }
}

impl ReceivedSpan {
    /// The memory, for work on `stream`, which may write it until that work is done.
    pub(crate) fn on(&mut self, stream: &Stream) -> Result<DeviceSpan<'_>, TorchError> {
        DeviceSpan::new(&self.span, self.span.numel(), stream)
    }
}

impl<'s> DeviceSpan<'s> {
    fn new(span: &'s Tensor, elements: usize, stream: &Stream) -> Result<Self, TorchError> {
        // The allocator does not give the memory to anybody else before.
        stream.uses(span)?;
        Ok(Self { span, elements })
    }
}

// SAFETY: the allocator knows that the stream uses the memory. That nobody writes what is sent is
// checked, as for what the hosts send; what is received has no other handle before the stream's
// event.
unsafe impl DeviceBytes for DeviceSpan<'_> {
    fn address(&self) -> *mut c_void {
        self.span.data_ptr()
    }

    fn length(&self) -> usize {
        self.elements * self.span.kind().elt_size_in_bytes()
    }
}

// SAFETY: as above; no other handle on this memory exists.
unsafe impl BytesMut for ReceivedSpan {
    fn bytes_mut(&mut self) -> &mut [u8] {
        bytes_of_mut(&mut self.span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sent(tensor: &Tensor) -> Tensor {
        let (layout, span) = SentSpan::new(tensor, None).unwrap();
        let mut received = ReceivedSpan::new(layout, Device::Cpu).unwrap();
        received.bytes_mut().copy_from_slice(span.bytes());
        received.tensor().unwrap()
    }

    proptest! {
        #[test]
        fn a_received_tensor_has_the_bits_the_strides_and_the_alignment_of_the_one_sent(
            kind in prop::sample::select(KINDS.to_vec()),
            size in prop::collection::vec(0_i64..5, 0..4),
            order in any::<prop::sample::Index>(),
            view in 0..6,
        ) {
            let made = Tensor::randint(2, &size[..], (Kind::Int64, Device::Cpu)).to_kind(kind);
            let tensor = match (view, size.as_slice()) {
                (1, [_, _, ..]) => made.transpose(order.index(size.len()) as i64, 0),
                (2, [first, ..]) if *first > 1 => made.narrow(0, 1, first - 1),
                (3, [.., last]) if *last > 1 => made.narrow(-1, last - 1, 1),
                (4, _) => made.unsqueeze(0).expand([&[3], &size[..]].concat(), false),
                (5, [.., last]) if *last > 0 => made.select(-1, 0),
                _ => made,
            };
            let found = sent(&tensor);
            prop_assert_eq!(found.kind(), kind);
            prop_assert_eq!(found.stride(), tensor.stride());
            prop_assert_eq!(found.size(), tensor.size());
            prop_assert!(found.equal(&tensor));
            let alignment = |tensor: &Tensor| tensor.data_ptr() as usize % ALIGNMENT;
            prop_assert!(tensor.numel() == 0 || alignment(&found) == alignment(&tensor));
        }
    }

    #[test]
    fn what_cannot_be_sent_is_named() {
        let sparse = Tensor::eye(3, (Kind::Float, Device::Cpu)).to_sparse(None, None::<i64>, None);
        assert!(SentSpan::new(&sparse, None).unwrap_err().to_string().contains("sparse"));
    }

    #[test]
    fn a_message_that_describes_no_tensor_is_an_error() {
        let (layout, _) = SentSpan::new(&Tensor::from_slice(&[1., 2.]), None).unwrap();
        for wrong in [
            Layout { kind: 99, ..layout.clone() },
            Layout { size: vec![-1], ..layout.clone() },
            Layout { size: vec![i64::MAX, 2], stride: vec![2, 1], ..layout.clone() },
            Layout { stride: vec![-1], ..layout.clone() },
            Layout { stride: vec![], ..layout.clone() },
            Layout { offset: 64, ..layout.clone() },
            // Less than 2^63 elements with more than 2^63 bytes.
            Layout { size: vec![1 << 61], ..layout.clone() },
            Layout { size: vec![2], stride: vec![1 << 61], ..layout.clone() },
            // The same element again and again.
            Layout { size: vec![i64::MAX, 2], stride: vec![0, 0], ..layout.clone() },
        ] {
            assert!(ReceivedSpan::new(wrong.clone(), Device::Cpu).is_err(), "{wrong:?}");
        }
        // Without elements, a product of the sizes that no number has does not matter.
        let empty = Layout { size: vec![0, i64::MAX, i64::MAX], stride: vec![0, i64::MAX, 1], ..layout };
        let _ = ReceivedSpan::new(empty, Device::Cpu).and_then(ReceivedSpan::tensor);
    }
}
