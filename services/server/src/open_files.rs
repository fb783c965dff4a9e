//! The process's limit of open files, which bounds its connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one, which any process may do. Shells and service managers leave the soft limit at 256 or 1,024,
/// for programs that use `select`.
pub(crate) fn raise() {
    let before = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum });
    let (before, after) = (text(before.current), text(getrlimit(Resource::Nofile).current));
    match raised {
        Ok(()) => tracing::info!(before, after, "the limit of open files is raised to the hard one"),
        Err(error) => tracing::warn!(%error, before, after, "the limit of open files cannot be raised"),
    }
}

/// How many files this process may have open.
pub(crate) fn limit() -> usize {
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

fn text(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}
