//! Numbers that a machine may still be computing.

use crate::{Result, cuda};

/// A result for the host. On the CPU it is there already; on a machine it is waited for when it is asked for, so that
/// nothing stops until then.
pub struct Pending<T>(State<T>);

enum State<T> {
    Known(T),
    Coming(Box<dyn FnOnce() -> cuda::Result<T>>),
}

impl<T> Pending<T> {
    pub(crate) fn known(value: T) -> Self {
        Self(State::Known(value))
    }

    pub(crate) fn coming(wait: impl FnOnce() -> cuda::Result<T> + 'static) -> Self {
        Self(State::Coming(Box::new(wait)))
    }

    /// The result, once all commands before have run.
    ///
    /// # Errors
    /// What the machine says of the commands before.
    pub fn wait(self) -> Result<T> {
        match self.0 {
            State::Known(value) => Ok(value),
            State::Coming(wait) => Ok(wait()?),
        }
    }
}
