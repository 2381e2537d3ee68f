//! Extracts the relevant sentence from messages of libtorch and of panics.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs code of the user's. A panic becomes an error with its message.
pub(crate) fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(panic_message)
}

/// Takes a panic's message and drops the panic. It holds any value of the user's, whose destructor
/// may panic, too: nobody is left to be told of that, and the thread must go on.
pub(crate) fn panic_message(panic: Box<dyn Any + Send>) -> String {
    let message = sentence(&*panic);
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        let _for_ever = Box::leak(another);
    }
    message
}

/// What a panic says. tch panics with a debug-printed [`tch::TchError`] that contains libtorch's
/// C++ stack; neither helps a reader, so both are removed.
fn sentence(panic: &(dyn Any + Send)) -> String {
    let text = match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
        (Some(text), _) => text.as_str(),
        (_, Some(text)) => text,
        _ => return "a panic without a message".into(),
    };
    let Some(error) = text.strip_prefix("called `Result::unwrap()` on an `Err` value: ") else {
        return text.to_owned();
    };
    let Some(torch) = error.strip_prefix("Torch(\"").and_then(|rest| rest.strip_suffix("\")")) else {
        return error.to_owned();
    };
    without_stack(&torch.replace("\\n", "\n").replace("\\\"", "\"").replace("\\'", "'"))
}

/// libtorch's message without its stack trace.
pub(crate) fn without_stack(message: &str) -> String {
    let end = message.find("\nException raised from").unwrap_or(message.len());
    message[..end].trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tch_panic_is_reduced_to_its_sentence() {
        let message = caught(|| {
            let _ = tch::Tensor::ones([2, 3], (tch::Kind::Float, tch::Device::Cpu))
                .matmul(&tch::Tensor::ones([2, 3], (tch::Kind::Float, tch::Device::Cpu)));
        });
        // libtorch 2.15 puts the name of the operator before it.
        assert_eq!(
            message.unwrap_err().trim_start_matches("mm: "),
            "mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)"
        );
    }

    #[test]
    fn a_panic_whose_value_panics_when_it_is_dropped_is_caught() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                std::panic::panic_any(Self);
            }
        }
        assert_eq!(caught(|| std::panic::panic_any(Bomb)), Err("a panic without a message".into()));
    }
}
