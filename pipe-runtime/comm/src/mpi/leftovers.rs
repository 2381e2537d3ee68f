//! Operations that were dropped before they were done.

use std::any::Any;

use super::held::Held;
use super::request::{Request, test};
use super::world::World;

/// What was dropped before it was done.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    pending: Vec<(Vec<Request>, Held<dyn Any + Send>)>,
    /// The one to test next.
    next: usize,
    /// The buffers of failed operations. Another process may be copying from or to them, even if
    /// MPI is done with them here, so they are never freed.
    kept: Vec<Held<dyn Any + Send>>,
}

impl Leftovers {
    /// How many of them a call tests.
    const STEP: usize = 4;

    pub(super) fn add(&mut self, requests: Vec<Request>, held: Held<dyn Any + Send>) {
        self.pending.push((requests, held));
    }

    pub(super) fn keep(&mut self, held: Held<dyn Any + Send>) {
        self.kept.push(held);
    }

    /// Tests some. Returns what can be freed.
    pub(super) fn advance(&mut self, world: &World) -> Vec<Held<dyn Any + Send>> {
        let mut freed = Vec::new();
        for _ in 0..self.pending.len().min(Self::STEP) {
            let index = self.next % self.pending.len();
            match test(world, &mut self.pending[index].0, None) {
                Ok(false) => self.next = index + 1,
                Ok(true) => freed.push(self.pending.swap_remove(index).1),
                Err(_) => self.kept.push(self.pending.swap_remove(index).1),
            }
        }
        freed
    }
}
