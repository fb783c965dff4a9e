//! The span that the current task works for, so that what a command publishes follows from it.

use crate::world::Trace;

tokio::task_local! {
    static CURRENT: Trace;
}

/// The span that [`within`] named, if the caller runs in it.
pub fn current() -> Option<Trace> {
    CURRENT.try_with(Clone::clone).ok()
}

/// Does `work` for the span, if there is one.
pub async fn within<F: Future>(span: Option<Trace>, work: F) -> F::Output {
    match span {
        Some(span) => CURRENT.scope(span, work).await,
        None => work.await,
    }
}
