//! The request to stop: set once by a signal or another thread, looked at wherever work may take long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
