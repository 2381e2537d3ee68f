//! Keeps panics that are returned as errors from being printed as well.
//!
//! tch panics with libtorch's message, which includes some forty lines of C++ frames. In a stage, a
//! panic becomes a [`Failure`](crate::Failure) with its place and the relevant sentence, so the
//! output of the panic hook would be noise. With `RUST_BACKTRACE` set, it is printed all the same.

use std::cell::{Cell, RefCell};
use std::panic;
use std::sync::Once;

thread_local! {
    /// The number of nested steps that this thread is in.
    static STEPS: Cell<usize> = const { Cell::new(0) };
    /// The message that was not printed. If a second panic happens before the first one is caught,
    /// the process ends; then both are printed.
    static HELD_BACK: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// While it exists, panics of this thread are not printed.
#[derive(Debug)]
pub(crate) struct Quiet(());

impl Quiet {
    pub(crate) fn enter() -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let wants_all = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
            // If panics end the process, they are not returned.
            if wants_all || cfg!(panic = "abort") {
                return;
            }
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                if STEPS.get() == 0 {
                    return before(info);
                }
                match HELD_BACK.take() {
                    None => HELD_BACK.set(Some(info.to_string())),
                    Some(first) => {
                        eprintln!("{first}");
                        before(info);
                    }
                }
            }));
        });
        STEPS.set(STEPS.get() + 1);
        Self(())
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        STEPS.set(STEPS.get() - 1);
        HELD_BACK.take();
    }
}
