//! Extracts the sentence that matters from messages of libtorch and of panics.

use std::any::Any;

/// The message of a panic. A panic of tch contains a debug-printed [`tch::TchError`] and libtorch's
/// C++ stack; both are removed.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
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

/// The part of libtorch's message before its stack trace.
pub(crate) fn without_stack(message: &str) -> String {
    let end = message.find("\nException raised from").unwrap_or(message.len());
    message[..end].trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tch_panic_is_reduced_to_its_sentence() {
        let panic = std::panic::catch_unwind(|| {
            let _ = tch::Tensor::ones([2, 3], (tch::Kind::Float, tch::Device::Cpu))
                .matmul(&tch::Tensor::ones([2, 3], (tch::Kind::Float, tch::Device::Cpu)));
        });
        let message = panic_message(panic.unwrap_err().as_ref());
        // libtorch 2.15 puts the operator's name before the message.
        assert_eq!(message.trim_start_matches("mm: "), "mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)");
    }
}
