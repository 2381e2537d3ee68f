use std::ffi::c_int;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

use tch::Tensor;

use super::{TorchError, ffi};

/// A guard: while it exists, this thread's random operators draw from the generator that
/// [`restart_rng`] seeded last.
#[derive(Debug)]
pub(crate) struct LayerRng {
    before: c_int,
    _this_thread: PhantomData<*const ()>,
}

impl LayerRng {
    pub(crate) fn enter() -> Result<Self, TorchError> {
        install()?;
        // SAFETY: sets a thread-local dispatch flag; the kernels for it are installed.
        let before = unsafe { ffi::pipe_random_enter() };
        Ok(Self { before, _this_thread: PhantomData })
    }
}

/// Installs the kernels, once per process. Returns how many operators that draw and how many that
/// write they cover.
fn install() -> Result<(usize, usize), TorchError> {
    static INSTALLED: OnceLock<Result<(usize, usize), TorchError>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        let (mut drawing, mut writing) = (0, 0);
        // SAFETY: writes the counts; libtorch's dispatcher locks its own tables.
        ffi::check(unsafe { ffi::pipe_layer_key_install(&mut drawing, &mut writing) }).map(|()| (drawing, writing))
    });
    installed.clone()
}

impl Drop for LayerRng {
    fn drop(&mut self) {
        // SAFETY: restores the thread-local flag.
        unsafe { ffi::pipe_random_leave(self.before) }
    }
}

/// Seeds this thread's layer generator. This is cheap: the generator is made when an operator
/// draws.
pub(crate) fn restart_rng(seed: u64) {
    // SAFETY: writes this thread's own state.
    unsafe { ffi::pipe_random_restart(seed) }
}

/// A number that was drawn from the process's default CPU generator, which `tch::manual_seed`
/// seeds.
#[derive(Debug)]
pub(crate) struct Draw {
    pub(crate) seed: u64,
    /// The generator before the draw; `None` if a layer drew it, because a layer's generator is
    /// seeded again anyway.
    before: Option<NonNull<ffi::Generator>>,
}

// SAFETY: the copy of the generator has no other owner and is only read.
unsafe impl Send for Draw {}
// SAFETY: as above.
unsafe impl Sync for Draw {}

impl Draw {
    pub(crate) fn new() -> Result<Self, TorchError> {
        let (mut seed, mut before) = (0, ptr::null_mut());
        // SAFETY: writes the number and a new generator or null; the shim holds the generator's
        // lock.
        ffi::check(unsafe { ffi::pipe_random_draw(&mut seed, &mut before) })?;
        Ok(Self { seed, before: NonNull::new(before) })
    }

    /// Returns the number to the generator, unless another number has been drawn since.
    pub(crate) fn undo(&self) -> Result<(), TorchError> {
        match self.before {
            // SAFETY: the copy is alive; the shim holds the default generator's lock.
            Some(before) => ffi::check(unsafe { ffi::pipe_random_undo(before.as_ptr()) }),
            None => Ok(()),
        }
    }
}

impl Drop for Draw {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // SAFETY: made by `pipe_random_draw`, freed once.
            unsafe { ffi::pipe_random_forget(before.as_ptr()) }
        }
    }
}

/// The state of the process's default CPU generator, as bytes: that of everything random here.
pub(crate) fn random_state() -> Result<Tensor, TorchError> {
    let mut state = ptr::null_mut();
    // SAFETY: writes a new tensor; the shim holds the generator's lock.
    ffi::check(unsafe { ffi::pipe_random_state(&mut state) })?;
    Ok(ffi::take(state).expect("the shim wrote a tensor"))
}

/// Puts a state of [`random_state`] back.
pub(crate) fn set_random_state(state: &Tensor) -> Result<(), TorchError> {
    // SAFETY: the handle is alive; the shim checks the bytes and holds the generator's lock.
    ffi::check(unsafe { ffi::pipe_random_set_state(state.as_ptr()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the schemas of libtorch's operators from its headers.
    fn schemas() -> Vec<String> {
        let folder = std::path::Path::new(env!("PIPE_LIBTORCH")).join("include/ATen/ops");
        let headers = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let headers = headers.filter(|path| path.to_string_lossy().ends_with("_ops.h"));
        headers
            .flat_map(|path| {
                let text = std::fs::read_to_string(path).unwrap();
                let schemas = text.split("schema_str = \"").skip(1).filter_map(|rest| rest.split_once('"'));
                schemas.map(|(schema, _)| schema.to_owned()).collect::<Vec<_>>()
            })
            .collect()
    }

    /// Compares libtorch's register of operators with its headers. (No operator writes to a tensor
    /// with named dimensions, because tch cannot make one.)
    #[test]
    fn every_operator_of_libtorch_that_takes_a_generator_or_writes_is_covered() {
        let schemas = schemas();
        let count = |holds: fn(&String) -> bool| schemas.iter().filter(|schema| holds(schema)).count();
        let (drawing, writing) = install().unwrap();
        assert!(drawing > 0);
        assert_eq!(drawing, count(|schema| schema.contains("Generator? ")));
        // The statistics of norms are written too, although their schemas do not say so.
        let said = count(|schema| schema.contains("!)") && !schema.contains("Dimname"));
        assert!(writing >= said && said > 1000, "{writing} of {said}");
    }

    #[test]
    fn a_number_is_taken_back_unless_somebody_has_drawn_since() {
        let draw = || Draw::new().unwrap();
        let first = draw();
        first.undo().unwrap();
        assert_eq!(draw().seed, first.seed);
        let second = draw();
        let third = draw();
        second.undo().unwrap();
        assert!(![second.seed, third.seed].contains(&draw().seed));
    }
}
