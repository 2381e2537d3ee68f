/// The number of threads that libtorch uses inside one operator, per executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IntraOpThreads(i32);

impl IntraOpThreads {
    /// The count in `wish`, or else an equal share of the caller's threads for each of `executors`.
    pub(crate) fn choose(wish: Option<usize>, executors: usize) -> Self {
        let share = (tch::get_num_threads() as usize / executors).max(1);
        Self(wish.unwrap_or(share).max(1) as i32)
    }

    /// Sets this count on the calling thread until the guard is dropped.
    pub(crate) fn enter(self) -> EnteredThreads {
        let before = tch::get_num_threads();
        if before != self.0 {
            tch::set_num_threads(self.0);
        }
        EnteredThreads { before, now: self.0 }
    }

    /// Sets this count permanently, on a worker thread.
    pub(crate) fn keep(self) {
        tch::set_num_threads(self.0);
    }

    /// Runs `start`, which starts threads that set their own counts, and then restores the caller's
    /// count. libtorch also keeps the count in a global, from which new threads start.
    pub(crate) fn spare_caller<T>(start: impl FnOnce() -> T) -> T {
        let before = tch::get_num_threads();
        let result = start();
        tch::set_num_threads(before);
        result
    }
}

/// A guard that restores the thread's own count when dropped.
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
