//! Silences the panic hook for panics that are returned as errors.
//!
//! tch panics with libtorch's message, which contains some forty lines of C++ stack frames. A panic
//! in a stage becomes a [`Failure`](crate::Failure), which holds the location and the relevant
//! sentence, so the output of the panic hook would be noise. It is still printed if
//! `RUST_BACKTRACE` is set.

use std::cell::{Cell, RefCell};
use std::panic;
use std::sync::Once;

thread_local! {
    /// The number of nested [`Quiet`] guards on this thread.
    static STEPS: Cell<usize> = const { Cell::new(0) };
    /// The panic that was not printed. A second panic before the first one is caught ends the
    /// process, so then both are printed.
    static HELD_BACK: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A guard: while it lives, panics of this thread are not printed.
#[derive(Debug)]
pub(crate) struct Quiet(());

impl Quiet {
    pub(crate) fn enter() -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let wants_all = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
            // A panic that ends the process is not returned as an error.
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
