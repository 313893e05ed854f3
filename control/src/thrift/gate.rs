//! How many threads may wait for something of the node at once.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Readers that wait for the node to take them: it refuses more than 64 listeners, and gives one after the other a stream.
pub(super) const READERS: usize = 48;

/// A door.
#[derive(Debug, Default)]
pub(super) struct Gate {
    inside: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    /// Waits until one more may be inside, or `given_up`; then `None`.
    pub(super) fn enter(&self, most: usize, given_up: impl Fn() -> bool) -> Option<Inside<'_>> {
        let mut inside = self.lock();
        while *inside >= most {
            if given_up() {
                return None;
            }
            inside = self.changed.wait(inside).unwrap_or_else(PoisonError::into_inner);
        }
        *inside += 1;
        Some(Inside(self))
    }

    /// Something was given up: who waits looks again.
    pub(super) fn look(&self) {
        // Not between a look and the wait that follows it.
        drop(self.lock());
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Goes out when dropped.
#[derive(Debug)]
pub(super) struct Inside<'g>(&'g Gate);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn who_comes_when_it_is_full_waits_for_a_place_or_gives_up() {
        let (gate, given_up) = (Gate::default(), AtomicBool::new(false));
        let first = gate.enter(1, || false).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| gate.enter(1, || given_up.load(Ordering::Relaxed)).is_none());
            given_up.store(true, Ordering::Relaxed);
            gate.look();
            assert!(waiting.join().unwrap());
            let waiting = scope.spawn(|| gate.enter(1, || false).is_some());
            drop(first);
            assert!(waiting.join().unwrap());
        });
    }
}
