//! Panics that come back as errors are not printed as well.
//!
//! tch panics with libtorch's message, some forty lines of C++ frames among it. In a stage, a
//! panic becomes a [`Failure`](crate::Failure) with the place and the sentence that counts, so
//! what the panic hook would print is noise. With `RUST_BACKTRACE` set, it is printed all the
//! same.

use std::cell::{Cell, RefCell};
use std::panic;
use std::sync::Once;

thread_local! {
    /// How many steps this thread is in, one inside the other.
    static STEPS: Cell<usize> = const { Cell::new(0) };
    /// What was not printed. A second panic before the first one is caught ends the process: then
    /// both are.
    static HELD_BACK: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// While it lives, panics of this thread are not printed.
#[derive(Debug)]
pub(crate) struct Quiet(());

impl Quiet {
    pub(crate) fn enter() -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let wants_all = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
            // Where panics end the process, nothing comes back.
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
