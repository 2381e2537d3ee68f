/// The number of threads that libtorch uses inside one operator, per executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IntraOpThreads(i32);

impl IntraOpThreads {
    /// The number that was set, or an equal share of the caller's threads for each of `executors`.
    pub(crate) fn choose(wish: Option<usize>, executors: usize) -> Self {
        let share = (tch::get_num_threads() as usize / executors).max(1);
        Self(wish.unwrap_or(share).max(1) as i32)
    }

    /// Sets this number on the calling thread until the guard is dropped.
    pub(crate) fn enter(self) -> EnteredThreads {
        let before = tch::get_num_threads();
        if before != self.0 {
            tch::set_num_threads(self.0);
        }
        EnteredThreads { before, now: self.0 }
    }

    /// Sets this number permanently, on a thread of this crate.
    pub(crate) fn keep(self) {
        tch::set_num_threads(self.0);
    }

    /// Restores the caller's number after `start` has started threads that set theirs: libtorch
    /// keeps the number in a global too, from which new threads start.
    pub(crate) fn spare_caller<T>(start: impl FnOnce() -> T) -> T {
        let before = tch::get_num_threads();
        let result = start();
        tch::set_num_threads(before);
        result
    }
}

/// Restores the thread's number when dropped.
#[derive(Debug)]
pub(crate) struct EnteredThreads {
    before: i32,
    now: i32,
}

impl Drop for EnteredThreads {
    fn drop(&mut self) {
        if self.before != self.now {
            tch::set_num_threads(self.before);
        }
    }
}
