//! Messages between processes, as bytes.

use std::any::Any;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use crate::flow::{PackedPlain, PackedTensor, PackedValue, Split, Value};
use crate::run::repeats::{Held, HeldTensor, Sent};
use crate::torch::{Event, Layout, SentSpan, TorchError, version};

/// A message of one process to another, without the memory of its tensors, which follows it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Envelope {
    /// The number of the call.
    pub(super) call: u64,
    pub(super) message: Message,
    /// The tensors whose memory follows.
    pub(super) layouts: Vec<Layout>,
    /// The connection between accelerators that carries those that go straight.
    pub(super) edge: Option<usize>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// A value that a stage sends on a port.
    Value { port: usize, micro_batch: usize, value: Form },
    /// The output of the last stage, for the callers of all processes.
    Output { micro_batch: usize, value: Form },
    /// The gradients that a stage sends back on a port, by the positions of their tensors in the
    /// value. It is sent even if there are none.
    Gradients { port: usize, micro_batch: usize, positions: Vec<usize> },
    /// The step at this position of the order has failed.
    Failed { step: usize },
    /// Tensors for the first process, with their stages and names.
    Tensors { names: Vec<(usize, String)> },
    /// In a sum over replicas: which tensors the sender has, and its parts of them; or the sums.
    /// `names` is a digest of what the tensors are called.
    Part { round: u64, present: Vec<bool>, names: u64 },
    /// Nothing of this call follows.
    End,
}

impl Message {
    /// Whether the port and the micro-batch that it names exist.
    pub(super) fn fits(&self, ports: usize, micro_batches: usize) -> bool {
        match self {
            Self::Value { port, micro_batch, .. } | Self::Gradients { port, micro_batch, .. } => {
                *port < ports && *micro_batch < micro_batches
            }
            _ => true,
        }
    }
}

/// A packed value without the memory of its tensors.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Form {
    tensors: Vec<TensorForm>,
    plain: Vec<(Plain, Option<usize>)>,
}

/// What a packed tensor is besides its memory.
#[derive(Debug, Serialize, Deserialize)]
struct TensorForm {
    split: Split,
    needs_gradient: bool,
    is_shared: bool,
    sent: Sent,
}

macro_rules! plain {
    ($($name:ident: $type:ty),* $(,)?) => {
        /// A plain part of a value.
        #[derive(Debug, Serialize, Deserialize)]
        enum Plain {
            Length(usize),
            List(usize),
            Rows(usize),
            $($name($type),)*
        }

        fn plain(value: &(dyn Any + Send + Sync)) -> Option<Plain> {
            $(
                if let Some(value) = value.downcast_ref::<$type>() {
                    return Some(Plain::$name(value.clone()));
                }
            )*
            None
        }

        impl From<Plain> for Value {
            fn from(plain: Plain) -> Self {
                match plain {
                    Plain::Length(length) => Value::Length(length),
                    Plain::List(length) => Value::List(length),
                    Plain::Rows(length) => Value::Rows(length),
                    $(Plain::$name(value) => Value::Plain(Arc::new(value), std::any::type_name::<$type>()),)*
                }
            }
        }
    };
}

plain!(
    Bool: bool, Char: char, I8: i8, I16: i16, I32: i32, I64: i64, I128: i128, Isize: isize, U8: u8, U16: u16,
    U32: u32, U64: u64, U128: u128, Usize: usize, F32: f32, F64: f64, String: String,
);

impl Form {
    /// Takes a value apart. What cannot go to another process is an error that names it.
    /// Tensors on the device `direct` go straight to another one, and those that were sent before
    /// are left out.
    pub(super) fn of(
        value: &PackedValue,
        direct: Option<Device>,
        sent: &[Sent],
    ) -> Result<(Self, Vec<Layout>, Vec<SentSpan>), String> {
        let sent = |position: usize| sent.get(position).copied().unwrap_or(Sent::Each);
        let numbered = value.tensors.iter().enumerate();
        let leaving = numbered.clone().filter(|(position, _)| sent(*position) != Sent::Before);
        let (layouts, spans) =
            spans(leaving.map(|(_, item)| &item.tensor), direct).map_err(|error| error.to_string())?;
        let mut parts = Vec::with_capacity(value.plain.len());
        for PackedPlain { value, row } in &value.plain {
            let part = match value {
                Value::Length(length) => Plain::Length(*length),
                Value::List(length) => Plain::List(*length),
                Value::Rows(length) => Plain::Rows(*length),
                Value::Plain(value, name) => plain(&**value).ok_or_else(|| {
                    format!(
                        "a value of type `{name}` cannot go to another process: tensors, numbers and strings can. Put both layers into one process, \
                         or send what the value is made of"
                    )
                })?,
            };
            parts.push((part, *row));
        }
        let tensors = numbered.map(|(position, item)| TensorForm {
            split: item.split,
            needs_gradient: item.needs_gradient,
            is_shared: item.is_shared,
            sent: sent(position),
        });
        Ok((Self { tensors: tensors.collect(), plain: parts }, layouts, spans))
    }

    /// Puts the value of a port together again. `held` has what was received before.
    pub(super) fn value(
        self,
        port: usize,
        tensors: Vec<Tensor>,
        ready: Option<Arc<Event>>,
        held: &mut Held,
    ) -> PackedValue {
        let mut tensors = tensors.into_iter();
        // A value of which nothing has been sent now is complete when it was the first time.
        let mut before = None;
        let tensor = |(position, form): (usize, TensorForm)| {
            let TensorForm { split, needs_gradient, is_shared, sent } = form;
            let place = (port, position);
            let (tensor, version) = match sent {
                // If a layer has changed it since, its version tells.
                Sent::Before => {
                    let HeldTensor { tensor, version, ready } = held.get(&place)?.as_ref()?;
                    before.clone_from(ready);
                    (tensor.shallow_clone(), *version)
                }
                Sent::Each | Sent::Once => {
                    let tensor = tensors.next()?;
                    let version = version(&tensor);
                    let new = || HeldTensor { tensor: tensor.shallow_clone(), version, ready: ready.clone() };
                    held.insert(place, (sent == Sent::Once).then(new));
                    (tensor, version)
                }
            };
            Some(PackedTensor { tensor, split, needs_gradient, version, is_shared })
        };
        let tensors: Vec<_> = self.tensors.into_iter().enumerate().filter_map(tensor).collect();
        let plain = self.plain.into_iter().map(|(plain, row)| PackedPlain { value: plain.into(), row });
        PackedValue { tensors, plain: plain.collect(), ready: ready.or(before) }
    }
}

/// The layouts and the memory of tensors. Those on the device `direct` go straight to another one.
pub(super) fn spans<'t>(
    tensors: impl Iterator<Item = &'t Tensor>,
    direct: Option<Device>,
) -> Result<(Vec<Layout>, Vec<SentSpan>), TorchError> {
    Ok(tensors.map(|tensor| SentSpan::new(tensor, direct)).collect::<Result<Vec<_>, _>>()?.into_iter().unzip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Flow, Replicate, mark_shared};
    use crate::run::repeats::repeats;

    fn sent<T: Flow>(value: T) -> Result<T, String> {
        let value = PackedValue::of(value);
        let tensors = value.tensors.iter().map(|item| item.tensor.shallow_clone()).collect();
        let (form, ..) = Form::of(&value, None, &[])?;
        let bytes = postcard::to_stdvec(&form).unwrap();
        Ok(postcard::from_bytes::<Form>(&bytes).unwrap().value(0, tensors, None, &mut Held::new()).unpack())
    }

    #[test]
    fn values_of_every_plain_kind_go_to_another_process() {
        let value = (true, 'ä', -3_i8, u128::MAX, f64::NEG_INFINITY, "words".to_owned());
        assert_eq!(sent((true, 'ä', -3_i8, u128::MAX, f64::NEG_INFINITY, "words".to_owned())).unwrap(), value);
        let tensor = Tensor::from_slice(&[1_i64, 2]);
        let (some, none, list) =
            sent((Some(tensor.shallow_clone()), None::<f32>, vec![tensor.shallow_clone()])).unwrap();
        assert!(some.is_some_and(|found| found.equal(&tensor)) && none.is_none() && list.len() == 1);
    }

    #[test]
    fn a_variable_and_what_is_whole_are_sent_once_and_again_if_they_change() {
        let (mut here, mut there) = (Held::new(), Held::new());
        let mut variable = Tensor::from_slice(&[1., 2.]);
        let whole = Replicate(Tensor::from_slice(&[3.]));
        let address = variable.data_ptr();
        let mut send = |value: (Tensor, Replicate<Tensor>, Tensor)| {
            let value = PackedValue::of(value);
            let sent = repeats(7, &value, &mut here, &|tensor| tensor.data_ptr() == address);
            let (form, _, spans) = Form::of(&value, None, &sent).unwrap();
            let tensors = value.tensors.iter().zip(&sent).filter(|(_, sent)| **sent != Sent::Before);
            let tensors = tensors.map(|(item, _)| item.tensor.copy()).collect();
            let count = spans.len();
            (count, form.value(7, tensors, None, &mut there))
        };
        let own = || Tensor::from_slice(&[4.]);
        let (first, received) = send((variable.shallow_clone(), whole.share(), own()));
        let (second, again) = send((variable.shallow_clone(), whole.share(), own()));
        assert_eq!((first, second), (3, 1));
        for position in 0..3 {
            assert_eq!(received.tensors[position].tensor, again.tensors[position].tensor);
        }
        assert!(!again.is_changed());
        // A layer over there has changed what others get too.
        let _ = received.tensors[1].tensor.shallow_clone().fill_(5.);
        assert!(send((variable.shallow_clone(), whole.share(), own())).1.is_changed());
        // What is another one now is sent.
        let _ = variable.fill_(9.);
        let (count, changed) = send((variable.shallow_clone(), whole.share(), own()));
        assert_eq!((count, f64::try_from(changed.tensors[0].tensor.get(0)).unwrap()), (2, 9.));
    }

    #[test]
    fn tensors_that_share_memory_are_known_as_such_in_another_process() {
        let tensor = Tensor::from_slice(&[1., 2.]);
        let mut value = PackedValue::of((tensor.view([2]), tensor.copy(), tensor));
        mark_shared(value.tensors.iter_mut(), &[]);
        let (form, _, _) = Form::of(&value, None, &[]).unwrap();
        let tensors = value.tensors.iter().map(|item| item.tensor.copy()).collect();
        let arrived = form.value(0, tensors, None, &mut Held::new());
        let shared = arrived.tensors.iter().map(|item| item.is_shared);
        assert_eq!(shared.collect::<Vec<_>>(), [true, false, true]);
    }

    #[test]
    fn what_cannot_go_to_another_process_is_named() {
        let error = sent(Arc::new(5)).unwrap_err();
        assert!(error.contains("Shared<i32>` cannot go to another process"), "{error}");
    }
}
