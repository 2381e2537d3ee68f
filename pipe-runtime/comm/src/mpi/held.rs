//! Values whose memory MPI uses.

use std::any::Any;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

/// A value in an allocation of its own. Nothing in Rust touches it until it is taken out or
/// dropped, so that MPI may read and write its memory in the meantime.
///
/// A `Box` does not do: it is taken for the only pointer to its memory whenever it is moved.
#[derive(Debug)]
pub(super) struct Held<T: ?Sized>(NonNull<T>);

// SAFETY: it owns the value, as a `Box` does.
unsafe impl<T: ?Sized + Send> Send for Held<T> {}

impl<T> Held<T> {
    pub(super) fn new(value: T) -> Self {
        Self(NonNull::from(Box::leak(Box::new(value))))
    }

    pub(super) fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }

    pub(super) fn into_inner(self) -> T {
        let held = ManuallyDrop::new(self);
        // SAFETY: the pointer is that of a box, which nobody else frees.
        *unsafe { Box::from_raw(held.as_ptr()) }
    }
}

impl<T: Send + 'static> Held<T> {
    /// The same value, of which only the destructor is known.
    pub(super) fn erased(self) -> Held<dyn Any + Send> {
        let pointer: NonNull<dyn Any + Send> = ManuallyDrop::new(self).0;
        Held(pointer)
    }
}

impl<T: ?Sized> Drop for Held<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer is that of a box, which nobody else frees.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}
