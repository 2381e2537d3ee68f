//! Reads bytes as a message of another process, for `cargo xtask fuzz`.

use pipe_comm::BytesMut;
use tch::{Device, Tensor};

use super::agreement::{Opening, Said};
use super::framing::{self, HEAD, Read};
use super::wire::{Envelope, Form, Message};
use crate::flow::mark_shared;
use crate::run::repeats::Held;
use crate::torch::ReceivedSpan;
use crate::world::read_said;

/// More than this is not filled. That it is refused, or allocated, is of interest.
const SMALL: usize = 1 << 16;

/// Reads a message as a channel does, and what a process says in an agreement.
pub(crate) fn message(bytes: &[u8]) {
    let _ = read_said::<Said<Opening>>(bytes);
    let (head, mut rest) = bytes.split_at(bytes.len().min(HEAD));
    let mut read = framing::read_head(head);
    let envelope = loop {
        match read {
            Ok(Read::Whole(envelope)) => break *envelope,
            Ok(Read::Begun(begun)) => {
                let Some((piece, others)) = rest.split_at_checked(begun.next()) else { return };
                rest = others;
                read = begun.add(piece);
            }
            Err(_) => return,
        }
    };
    let again = |envelope: &Envelope| postcard::to_stdvec(envelope).expect("what was read can be written");
    let written = again(&envelope);
    let found = postcard::from_bytes(&written).expect("what is written can be read");
    assert_eq!(again(&found), written, "what is written is read as the same");

    let _ = envelope.message.fits(3, 4);
    let mut tensors = Vec::new();
    for layout in envelope.layouts {
        let Ok(mut span) = ReceivedSpan::new(layout, Device::Cpu) else { return };
        if span.bytes_mut().len() > SMALL {
            return;
        }
        span.bytes_mut().fill(1);
        tensors.extend(span.tensor());
    }
    if let Message::Value { port, value, .. } | Message::Output { micro_batch: port, value } = envelope.message {
        received(port, value, tensors);
    }
}

/// Puts a value together.
fn received(port: usize, form: Form, tensors: Vec<Tensor>) {
    let mut held = Held::new();
    let mut value = form.value(port, tensors, None, &mut held);
    mark_shared(value.tensors.iter_mut(), &[]);
    assert!(!value.is_changed());
}
