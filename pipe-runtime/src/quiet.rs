//! Keeps the panic hook from printing panics that are returned as errors.
//!
//! tch panics with libtorch's message, which includes some forty lines of C++ frames. In a stage, a
//! panic becomes a [`Failure`](crate::Failure) with its place and the relevant sentence of the
//! message, so the panic hook's output would be noise. If `RUST_BACKTRACE` is set and not 0, the
//! output is printed nevertheless.

use std::cell::{Cell, RefCell};
use std::panic;
use std::sync::Once;

thread_local! {
    /// The number of nested steps that this thread is performing.
    static STEPS: Cell<usize> = const { Cell::new(0) };
    /// The output that was suppressed. A second panic before the first one is caught aborts the
    /// process, so both are printed then.
    static HELD_BACK: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Printed after a panic that ends the program.
const ABORTS: &str = "note: this program is compiled with `panic = \"abort\"`, so that a panic in a layer ends it; \
     otherwise, the call returns an error that names the stage, the layer and the micro-batch";

/// A guard. Panics of this thread are not printed while it is alive.
#[derive(Debug)]
pub(crate) struct Quiet(());

impl Quiet {
    pub(crate) fn enter() -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let wants_all = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                let is_in_step = STEPS.get() > 0;
                if is_in_step && !wants_all && cfg!(panic = "unwind") {
                    match HELD_BACK.take() {
                        None => return HELD_BACK.set(Some(info.to_string())),
                        Some(first) => eprintln!("{first}"),
                    }
                }
                before(info);
                if is_in_step && cfg!(panic = "abort") {
                    eprintln!("{ABORTS}");
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
