use std::ffi::CString;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use tch::{Device, Tensor};
use torch_sys::C_tensor;

use super::{TorchError, ffi};

/// The variables of a model, numbered, with their names and stages, and with the memory that they
/// had when they were looked at.
#[derive(Debug)]
pub(crate) struct Variables {
    variables: NonNull<ffi::Variables>,
    list: Arc<[Variable]>,
}

#[derive(Debug)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) tensor: Tensor,
    /// The stage to which it belongs by its name.
    pub(crate) stage: usize,
}

// SAFETY: written only while it is built (in `new`, before it is shared); afterwards the shim only
// reads it.
unsafe impl Send for Variables {}
// SAFETY: as above; the tensor handles in the list are only read.
unsafe impl Sync for Variables {}

impl Variables {
    pub(crate) fn new(list: Vec<Variable>) -> Result<Self, TorchError> {
        // SAFETY: a place for the result.
        let variables = ffi::owned(|variables| unsafe { ffi::pipe_variables_new(variables) })?;
        let this = Self { variables, list: list.into() };
        for Variable { name, tensor, stage } in this.list.iter() {
            let name = CString::new(name.replace('\0', "")).expect("no NUL is left");
            // SAFETY: all handles are alive; the shim copies the name and keeps its own handles on
            // the tensor.
            ffi::check(unsafe {
                ffi::pipe_variables_push(this.variables.as_ptr(), tensor.as_ptr(), name.as_ptr(), *stage as i64)
            })?;
        }
        Ok(this)
    }

    pub(crate) fn get(&self, index: usize) -> &Variable {
        &self.list[index]
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Variable> {
        self.list.iter()
    }

    /// Looks at the variables again if the memory of some variables of `stage` (or of any stage)
    /// was replaced, which a cast and `set_data` do.
    pub(crate) fn again(&self, stage: Option<usize>) -> Result<Option<Self>, TorchError> {
        let stage = stage.map_or(-1, |stage| stage as i64);
        // SAFETY: the handle is alive.
        if unsafe { ffi::pipe_variables_stand(self.variables.as_ptr(), stage) } != 0 {
            return Ok(None);
        }
        // SAFETY: the handle is alive; the result is new.
        let variables =
            ffi::owned(|fresh| unsafe { ffi::pipe_variables_again(self.variables.as_ptr(), stage, fresh) })?;
        Ok(Some(Self { variables, list: Arc::clone(&self.list) }))
    }
}

impl Drop for Variables {
    fn drop(&mut self) {
        // SAFETY: made by `pipe_variables_new`, freed once.
        unsafe { ffi::pipe_variables_free(self.variables.as_ptr()) }
    }
}

/// Frees the gradient of a variable, if it has one.
pub(crate) fn drop_gradient(variable: &Tensor) -> Result<(), TorchError> {
    // SAFETY: the handle is alive; the shim replaces the variable's handle on its gradient.
    ffi::check(unsafe { ffi::pipe_gradient_drop(variable.as_ptr()) })
}

/// Copies, while it exists, each variable that a layer on this thread is about to change.
#[derive(Debug)]
pub(crate) struct Watch {
    watch: NonNull<ffi::Watch>,
    variables: Arc<Variables>,
    _this_thread: PhantomData<*const ()>,
}

/// A variable that was changed.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) variable: usize,
    pub(crate) before: Tensor,
    /// Whether it was changed only as a statistic of a norm, which no backward reads.
    pub(crate) statistic: bool,
}

/// The changes and uses that a [`Watch`] has seen, by the numbers of the variables.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) changed: Vec<Change>,
    /// The variables that were arguments of operators, if these are recorded.
    pub(crate) used: Vec<usize>,
}

impl Watch {
    /// Starts to watch the layers of `stage`. An operator that would change a variable of another
    /// stage fails. With `uses`, all variables that are used are recorded.
    pub(crate) fn start(variables: Arc<Variables>, stage: usize, uses: bool) -> Result<Self, TorchError> {
        // SAFETY: the returned guard keeps the variables alive; the result is a new watch.
        let watch = ffi::owned(|watch| unsafe {
            ffi::pipe_watch_start(variables.variables.as_ptr(), stage as i64, uses.into(), watch)
        })?;
        Ok(Self { watch, variables, _this_thread: PhantomData })
    }

    pub(crate) fn variables(&self) -> &Variables {
        &self.variables
    }

    /// Returns what was seen so far.
    pub(crate) fn read(&mut self) -> Result<Seen, TorchError> {
        let (mut moved, mut used) = (0, 0);
        // SAFETY: the handle is alive and borrowed exclusively; two numbers are written.
        ffi::check(unsafe { ffi::pipe_watch_counts(self.watch.as_ptr(), &mut moved, &mut used) })?;
        if moved == 0 && used == 0 {
            return Ok(Seen { changed: Vec::new(), used: Vec::new() });
        }
        let mut numbers = vec![0; moved];
        let mut before: Vec<*mut C_tensor> = vec![ptr::null_mut(); moved];
        let mut statistic = vec![0_u8; moved];
        let mut used = vec![0; used];
        // SAFETY: the arrays have as many entries as the shim has just counted; the tensors are
        // new.
        ffi::check(unsafe {
            ffi::pipe_watch_read(
                self.watch.as_ptr(),
                numbers.as_mut_ptr(),
                before.as_mut_ptr(),
                statistic.as_mut_ptr(),
                used.as_mut_ptr(),
            )
        })?;
        let before = before.into_iter().map(|tensor| ffi::take(tensor).expect("the shim wrote a tensor"));
        let changed = numbers.into_iter().zip(before).zip(statistic);
        let changed =
            changed.map(|((variable, before), statistic)| Change { variable, before, statistic: statistic != 0 });
        Ok(Seen { changed: changed.collect(), used })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: made by `pipe_watch_start` on this thread, freed once.
        unsafe { ffi::pipe_watch_free(self.watch.as_ptr()) }
    }
}

/// Whether all numbers of a tensor on the CPU are finite; `None` for a tensor on an accelerator.
pub(crate) fn is_finite(tensor: &Tensor) -> Result<Option<bool>, TorchError> {
    if tensor.device() != Device::Cpu {
        return Ok(None);
    }
    let mut finite = 0;
    // SAFETY: the handle is alive; a number is written.
    ffi::check(unsafe { ffi::pipe_is_finite(tensor.as_ptr(), &mut finite) })?;
    Ok(Some(finite != 0))
}

/// A digest of the values, kind and layout of a tensor. `None` for a tensor that is not on the CPU,
/// because only the CPU's results are reproducible to the bit.
pub(crate) fn digest(tensor: &Tensor) -> Result<Option<u64>, TorchError> {
    if tensor.device() != Device::Cpu {
        return Ok(None);
    }
    let mut number = 0;
    // SAFETY: the handle is alive; a number is written.
    ffi::check(unsafe { ffi::pipe_digest(tensor.as_ptr(), &mut number) })?;
    Ok(Some(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn a_digest_sees_every_bit_and_the_shape() {
        let x = Tensor::arange(37, (Kind::Float, Device::Cpu));
        let of = |tensor: &Tensor| digest(tensor).unwrap().unwrap();
        assert_eq!(of(&x), of(&x.copy()));
        for place in 0..37 {
            let y = x.copy();
            let _ = y.get(place).fill_(-1.);
            assert_ne!(of(&x), of(&y), "{place}");
        }
        assert_ne!(of(&x.view([37, 1])), of(&x));
        let square = x.narrow(0, 0, 36).view([6, 6]);
        assert_ne!(of(&square), of(&square.tr()));
    }

    #[test]
    fn numbers_that_are_none_are_found_in_every_kind() {
        for kind in [Kind::Float, Kind::Double, Kind::Half, Kind::BFloat16] {
            for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                let x = Tensor::ones([9], (kind, Device::Cpu));
                assert_eq!(is_finite(&x).unwrap(), Some(true));
                let _ = x.get(8).fill_(bad);
                assert_eq!(is_finite(&x).unwrap(), Some(false), "{kind:?} {bad}");
            }
        }
        assert_eq!(is_finite(&Tensor::from(7_i64)).unwrap(), Some(true));
    }
}
