//! The limit of sockets a user, over all pods: those that sent nothing for longest make room for the newest. When something last came over
//! a socket only its own pod knows; it is asked when it matters, which is when a user has sockets at several pods.

use std::time::Duration;

use futures_util::future::join_all;
use platform::StoreError;
use platform::limits::Limit;
use streams::UserId;
use uuid::Uuid;

use super::pod_message::{PodMessage, SilentSocket, pod_subject, read_sockets};
use super::sockets::OpenSocket;
use super::transport::TOO_MANY;
use crate::context::Context;
use crate::presence::{self, Pod};

/// How long another pod is waited for, and how often it is asked.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
const ASKS: usize = 2;

/// Why the sockets of a user are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// One has opened here.
    Opened,
    /// Another pod, where one has opened, could not ask this one.
    Requested,
}

/// A socket of the user, and where it is: `None` is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Candidate {
    pod: Option<usize>,
    session: Uuid,
    silence_ms: u64,
}

/// Those that make room, so that `most` of `candidates` and of `unknown` more are left: the longest silence first.
fn displaced(mut candidates: Vec<Candidate>, unknown: usize, most: usize) -> Vec<Candidate> {
    let excess = (candidates.len() + unknown).saturating_sub(most);
    candidates.sort_by_key(|socket| (std::cmp::Reverse(socket.silence_ms), socket.session));
    candidates.truncate(excess);
    candidates
}

/// Closes the sockets of `user` here that are too many, as far as this pod alone knows.
pub(crate) fn here(context: &Context, user: UserId) {
    for socket in displaced(local(context, user), 0, most(context)) {
        context.sockets.end(user, socket.session, TOO_MANY);
    }
}

fn most(context: &Context) -> usize {
    context.platform.limiter.limits().count(Limit::SocketsUser)
}

fn local(context: &Context, user: UserId) -> Vec<Candidate> {
    let candidate = |OpenSocket { session, silence, .. }: OpenSocket| Candidate {
        pod: None,
        session,
        silence_ms: u64::try_from(silence.as_millis()).unwrap_or(u64::MAX),
    };
    context.sockets.of(user).into_iter().map(candidate).collect()
}

/// Counts the sockets of `user` at all pods, and closes those that are too many. A pod that does not answer counts its own when it
/// touches its lease.
pub(crate) async fn run(context: &Context, user: UserId, reason: Reason) -> Result<(), StoreError> {
    let mut tx = context.store.begin().await?;
    let others = presence::rows::connected_elsewhere(&mut tx, user, context.lease.incarnation()).await?;
    drop(tx);
    let answers = join_all(others.iter().map(|(pod, _)| ask(context, pod, user, PodMessage::SocketsOf(user)))).await;
    let (mut candidates, mut unknown, mut silent) = (local(context, user), 0, Vec::new());
    for (n, ((pod, open), answer)) in others.iter().zip(answers).enumerate() {
        match answer {
            Some(sockets) => {
                candidates.extend(sockets.into_iter().map(|SilentSocket { session, silence_ms }| Candidate {
                    pod: Some(n),
                    session,
                    silence_ms,
                }))
            }
            None => {
                unknown += open;
                silent.push(pod.incarnation);
            }
        }
    }
    if reason == Reason::Opened && unknown > 0 {
        if candidates.len() + unknown > most(context) {
            recount_at(context, user, &silent).await?;
        }
        // The pods that do not answer close their own first.
        unknown = 0;
    }
    let displaced = displaced(candidates, unknown, most(context));
    for socket in displaced.iter().filter(|socket| socket.pod.is_none()) {
        context.sockets.end(user, socket.session, TOO_MANY);
    }
    for (n, (pod, _)) in others.iter().enumerate() {
        let theirs = displaced.iter().filter(|socket| socket.pod == Some(n));
        let sessions: Vec<Uuid> = theirs.map(|socket| socket.session).collect();
        if !sessions.is_empty() && ask(context, pod, user, PodMessage::Displace(user, sessions)).await.is_none() {
            recount_at(context, user, &[pod.incarnation]).await?;
        }
    }
    Ok(())
}

async fn recount_at(context: &Context, user: UserId, incarnations: &[Uuid]) -> Result<(), StoreError> {
    let mut tx = context.store.begin().await?;
    presence::rows::request_recount(&mut tx, user, incarnations).await?;
    tx.commit().await
}

/// What a pod answers; `None` if it does not.
async fn ask(context: &Context, pod: &Pod, user: UserId, message: PodMessage) -> Option<Vec<SilentSocket>> {
    let (subject, body) = (pod_subject(&pod.id), message.sign(&context.tokens));
    for _ in 0..ASKS {
        match context.platform.bus.request(&subject, body.clone().into(), ANSWER_WAIT).await {
            Ok(reply) => {
                if let Some(sockets) = read_sockets(&context.tokens, user, &reply) {
                    return Some(sockets);
                }
            }
            Err(error) => tracing::debug!(%error, pod = &*pod.id, "a pod does not say which sockets it has"),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_silent_for_longest_make_room() {
        let socket = |session: u128, silence_ms| Candidate { pod: None, session: Uuid::from_u128(session), silence_ms };
        let all = || vec![socket(1, 10), socket(2, 30), socket(3, 20), socket(4, 30), socket(5, 0)];
        let sessions = |unknown, most| -> Vec<u128> {
            displaced(all(), unknown, most).iter().map(|socket| socket.session.as_u128()).collect()
        };
        assert_eq!(sessions(0, 5), [0; 0]);
        assert_eq!(sessions(0, 4), [2]);
        assert_eq!(sessions(0, 2), [2, 4, 3]);
        assert_eq!(sessions(2, 5), [2, 4], "others that this pod does not know count");
        assert_eq!(sessions(9, 5).len(), 5);
    }
}
