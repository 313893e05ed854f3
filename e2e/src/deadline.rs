//! Bounded waiting for what another process does: a condition is polled until it holds, the time is up, or a
//! person interrupts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks. The condition decides, this only bounds how late it is noticed.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Set by a signal handler; every wait in this crate ends soon after with an error, so that guards clean up.
pub fn interrupt_flag() -> Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    Arc::clone(FLAG.get_or_init(Arc::default))
}

/// Has [`interrupt_flag`] been set?
#[must_use]
pub fn interrupted() -> bool {
    interrupt_flag().load(Ordering::Relaxed)
}

/// A point in time that no wait passes.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    end: Instant,
    allowed: Duration,
}

impl Deadline {
    /// This much from now.
    #[must_use]
    pub fn after(allowed: Duration) -> Self {
        Self { end: Instant::now() + allowed, allowed }
    }

    /// Polls `look` until it returns a value. The `Err` of a look ends the wait at once; `Ok(None)` goes on.
    ///
    /// # Errors
    /// What `look` said; that the time is up, with `what` was waited for; that a person interrupted.
    pub fn wait<T>(self, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        loop {
            if interrupted() {
                bail!("interrupted while waiting for {what}");
            }
            if let Some(value) = look()? {
                return Ok(value);
            }
            if Instant::now() >= self.end {
                bail!("waited {:.1} s for {what}, in vain", self.allowed.as_secs_f64());
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_the_value_the_error_or_the_time() {
        let mut looks = 0;
        let value = Deadline::after(Duration::from_secs(60)).wait("three looks", || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(value.unwrap(), 3);
        let failed = Deadline::after(Duration::from_secs(60)).wait::<()>("it", || bail!("broken"));
        assert_eq!(failed.unwrap_err().to_string(), "broken");
        let late = Deadline::after(Duration::ZERO).wait::<()>("godot", || Ok(None));
        assert!(late.unwrap_err().to_string().contains("godot"));
    }
}
