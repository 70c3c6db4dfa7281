//! The request to stop: set once by a signal or another thread, looked at wherever work may take long; and the
//! time at which a run must have ended.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// A request to stop. All clones share it.
///
/// # Examples
///
/// ```
/// let stop = glm_batch::StopFlag::default();
/// let seen = stop.clone();
/// assert!(!seen.is_requested());
/// stop.request();
/// assert!(seen.is_requested());
/// ```
#[derive(Clone, Debug, Default)]
pub struct StopFlag {
    requested: Arc<AtomicBool>,
    #[cfg(test)]
    asking: Option<asking::Asking>,
}

impl StopFlag {
    /// The flag itself, for a signal handler.
    pub fn shared(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.requested)
    }

    /// Asks the work to stop.
    pub fn request(&self) {
        self.requested.store(true, Ordering::SeqCst);
    }

    /// Whether the work is to stop.
    pub fn is_requested(&self) -> bool {
        #[cfg(test)]
        if let Some(asking) = &self.asking {
            return asking.is_requested();
        }
        self.requested.load(Ordering::SeqCst)
    }
}

/// The time at which a run must have ended. It decides when a run stops, never what an answer is.
#[derive(Clone)]
pub struct Deadline {
    left: Arc<dyn Fn() -> Duration + Send + Sync>,
}

impl Deadline {
    /// A point in time of the system's clock.
    #[must_use]
    pub fn at(at: SystemTime) -> Self {
        Self::told_by(move || at.duration_since(SystemTime::now()).unwrap_or_default())
    }

    /// A deadline of another clock: `left` tells how long it is until then.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// let deadline = glm_batch::Deadline::told_by(|| Duration::from_secs(3));
    /// assert_eq!(deadline.left(), Duration::from_secs(3));
    /// ```
    pub fn told_by(left: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self {
            left: Arc::new(left),
        }
    }

    /// Time until then; zero afterwards.
    pub fn left(&self) -> Duration {
        (self.left)()
    }
}

impl fmt::Debug for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Deadline(in {:?})", self.left())
    }
}

/// Flags of tests that must stop at a certain look, or do something at each.
#[cfg(test)]
mod asking {
    use std::fmt;
    use std::sync::Arc;

    use super::StopFlag;

    type Question = dyn Fn() -> bool + Send + Sync;

    #[derive(Clone)]
    pub(super) struct Asking(Arc<Question>);

    impl Asking {
        pub(super) fn is_requested(&self) -> bool {
            (self.0)()
        }
    }

    impl fmt::Debug for Asking {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Asking")
        }
    }

    impl StopFlag {
        /// A flag that asks `question` at every look.
        pub(crate) fn asking(question: impl Fn() -> bool + Send + Sync + 'static) -> Self {
            Self {
                asking: Some(Asking(Arc::new(question))),
                ..Self::default()
            }
        }
    }
}
