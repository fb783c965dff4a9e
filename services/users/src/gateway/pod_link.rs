//! The core subjects by which this pod receives what concerns its sockets. It subscribes for all of them, and passes each frame to the
//! sessions of its user: `users.pod.<pod id>`, `users.broadcast`, and, from processes of the version before, `users.session.<user>.notify`.
//! By `location.progress` it learns how far positions are read.
//!
//! Nothing here is promised: what is lost is found by the poll of mailboxes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use platform::{CancellationToken, Trace, retry};
use streams::UserId;
use streams::bus::CoreMessage;
use streams::position_progress::POSITION_PROGRESS;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::displacement::{self, Reason};
use super::frame::EventFrame;
use super::inbox::WrittenFrame;
use super::pod_message::{
    self, BROADCAST, PREVIOUS_VERSION, PodMessage, SilentSocket, UserFrame, pod_subject, sign_sockets,
};
use super::sockets::OpenSocket;
use super::transport::TOO_MANY;
use crate::context::Context;
use crate::mailbox::notification::{self, Notification};

/// Users whose sockets on several pods are counted at once; more wait.
const COUNTS_MAX: usize = 16;

/// The subscriptions of [`run`].
const LINKS: usize = 4;
/// How long a session waits for them at most.
const LINK_WAIT: Duration = Duration::from_secs(5);

/// Returns once frames are received: what is committed from then on reaches the registered sockets. False if that takes too long.
pub(super) async fn is_up(context: &Context) -> bool {
    timeout(LINK_WAIT, context.sockets.wait_for_links(LINKS)).await.is_ok()
}

/// Receives until `stop`.
pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let own = pod_subject(&context.platform.pod);
    tokio::join!(
        receive(&context, &own, &stop),
        receive(&context, BROADCAST, &stop),
        receive(&context, PREVIOUS_VERSION, &stop),
        receive(&context, POSITION_PROGRESS, &stop),
        count_sockets(&context, &stop),
    );
}

async fn receive(context: &Context, subject: &str, stop: &CancellationToken) {
    let mut delays = retry::dependency();
    // Counted once, also if the subscription has to be made again.
    let mut new = true;
    loop {
        match context.platform.bus.subscribe(subject, None).await {
            Ok(mut messages) => {
                if std::mem::take(&mut new) {
                    context.sockets.add_link();
                }
                delays.reset();
                loop {
                    let message = tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        message = messages.next() => message,
                    };
                    let Some(message) = message else { break };
                    on_message(context, message).await;
                }
            }
            Err(error) => tracing::warn!(%error, subject, "frames come by the poll: cannot subscribe"),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = sleep(delays.next_delay()) => {}
        }
    }
}

async fn on_message(context: &Context, CoreMessage { subject, payload, reply, .. }: CoreMessage) {
    let tokens = &context.tokens;
    if subject == POSITION_PROGRESS {
        match serde_json::from_slice(&payload) {
            Ok(progress) => context.window.on_progress(&progress, Instant::now()),
            Err(error) => tracing::debug!(%error, subject, "not the progress of a reader"),
        }
        return;
    }
    if let Some(user) = pod_message::user_of(&subject) {
        if context.sockets.count(user) > 0 {
            on_notification(context, user, notification::read(tokens, user, &payload));
        }
        return;
    }
    match PodMessage::read(tokens, &payload) {
        Some(PodMessage::Frames(frames)) => {
            for UserFrame { user_id, seq, is_pushed, traceparent, frame } in frames {
                if is_pushed {
                    context.sockets.expect_answer(user_id, seq);
                }
                let trace = traceparent.as_deref().and_then(Trace::parse).map(Arc::new);
                context.sockets.deliver(user_id, seq, &WrittenFrame { text: Arc::from(frame.get()), trace });
            }
        }
        Some(PodMessage::SocketsOf(user)) => {
            let silent = |socket: OpenSocket| SilentSocket {
                session: socket.session,
                silence_ms: u64::try_from(socket.silence.as_millis()).unwrap_or(u64::MAX),
            };
            let sockets = context.sockets.of(user).into_iter().map(silent).collect();
            respond(context, reply, sign_sockets(tokens, user, sockets)).await;
        }
        Some(PodMessage::Displace(user, sessions)) => {
            for session in sessions {
                context.sockets.end(user, session, TOO_MANY);
            }
            respond(context, reply, sign_sockets(tokens, user, Vec::new())).await;
        }
        Some(PodMessage::PersonChanged(user)) => context.people.forget(user),
        Some(PodMessage::Accepted(user, offer, device)) => context.sockets.record_accepted(user, offer, &device.into()),
        None => tracing::debug!(subject, "not a message that this platform signed"),
    }
}

fn on_notification(context: &Context, user: UserId, notification: Notification) {
    match notification {
        Notification::Event(frame) => {
            if let Ok(EventFrame { seq, .. }) = serde_json::from_str(&frame) {
                context.sockets.deliver(user, seq, &frame.as_str().into());
            }
        }
        Notification::Displaced(session) => _ = context.sockets.end(user, session, TOO_MANY),
        Notification::Unsigned => tracing::debug!("not a notification that this platform signed"),
    }
}

async fn respond(context: &Context, reply: Option<String>, body: String) {
    let Some(to) = reply else { return };
    if let Err(error) = context.platform.bus.publish_core(&to, body.into()).await {
        tracing::debug!(%error, "a pod was not answered; it asks again");
    }
}

/// Counts the sockets of users who have some here and some at other pods, each time that one opens here.
async fn count_sockets(context: &Context, stop: &CancellationToken) {
    let mut counts = JoinSet::new();
    let mut waiting: BTreeSet<UserId> = BTreeSet::new();
    loop {
        while counts.len() < COUNTS_MAX
            && let Some(user) = waiting.pop_first()
        {
            let context = context.clone();
            counts.spawn(async move {
                if let Err(error) = displacement::run(&context, user, Reason::Opened).await {
                    tracing::debug!(%error, "the sockets of a user were not counted; they are when the next one opens");
                }
            });
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(_) = counts.join_next(), if !counts.is_empty() => {}
            users = context.sockets.take_uncounted() => waiting.extend(users),
        }
    }
}
