//! A guard for test harnesses whose checks are in an explicit end.

/// Fails the test that drops a harness before its end: a forgotten `stop().await` would check nothing, and stay green.
///
/// A harness holds one, and calls [`reached`](Self::reached) as the last step of its end. A test that is failing already is
/// left alone.
#[derive(Debug)]
#[must_use]
pub struct MustEnd {
    end: &'static str,
    reached: bool,
}

impl MustEnd {
    /// `end` is the call that a test must make, as in `Running::stop`.
    pub const fn new(end: &'static str) -> Self {
        Self { end, reached: false }
    }

    /// The end was reached.
    pub const fn reached(&mut self) {
        self.reached = true;
    }
}

impl Drop for MustEnd {
    fn drop(&mut self) {
        if !self.reached && !std::thread::panicking() {
            panic!("{} was not called: the test ended without its last checks", self.end);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_harness_that_was_not_ended_fails_its_test() {
        let mut ended = MustEnd::new("Rig::finish");
        ended.reached();
        drop(ended);
        let failure = catch_unwind(|| drop(MustEnd::new("Rig::finish"))).unwrap_err();
        assert!(failure.downcast_ref::<String>().unwrap().contains("Rig::finish was not called"));
    }

    #[test]
    fn a_test_that_fails_already_keeps_its_own_reason() {
        let failure = catch_unwind(AssertUnwindSafe(|| {
            let _end = MustEnd::new("Rig::finish");
            panic!("its own reason");
        }));
        assert_eq!(*failure.unwrap_err().downcast_ref::<&str>().unwrap(), "its own reason");
    }
}
