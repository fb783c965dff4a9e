//! The frames of new mailbox entries, on their way to the pods that hold their users' sockets.

use std::collections::BTreeMap;

use platform::Trace;
use serde_json::value::RawValue;
use streams::UserId;

use super::frame;
use super::pod_message::{BROADCAST, UserFrame, in_messages, pod_subject};
use crate::context::Context;
use crate::mailbox::{Appended, NewEntry, notification, notify_subject};
use crate::party::{self, FrameBody};
use crate::presence::Route;
use crate::push::rows::SOCKET_WAIT;

/// Sends the frames of committed entries, each with its `seq`, in their order, with the spans (by event) that they follow from: a pod gets one message for all its users, and all pods
/// what is for a user without a route, because a socket whose row is missing may still be open.
pub(crate) async fn publish(
    context: &Context,
    entries: Vec<(NewEntry, Appended)>,
    routes: &BTreeMap<UserId, Vec<Route>>,
    traces: &BTreeMap<&str, &Trace>,
) {
    if entries.iter().any(|(_, appended)| appended.is_pushed) {
        context.due.add(context.platform.world.now() + SOCKET_WAIT);
    }
    let mut by_subject: BTreeMap<String, Vec<UserFrame>> = BTreeMap::new();
    let bodies = {
        let frames: Vec<FrameBody<'_>> = entries.iter().map(|(entry, _)| body_of(entry)).collect();
        match party::join(context, &frames).await {
            Ok(bodies) => bodies,
            // The poll of mailboxes finds the entries.
            Err(error) => {
                return tracing::warn!(%error, "the other parties of new events cannot be read; their frames come later");
            }
        }
    };
    for ((entry, appended), body) in entries.into_iter().zip(bodies) {
        let text = frame::event(entry.subject.as_str(), appended.seq, &entry.event_id, entry.time, &body);
        let trace = traces.get(entry.event_id.as_str()).copied();
        let Some(routes) = routes.get(&entry.user) else {
            let frames = by_subject.entry(BROADCAST.to_owned()).or_default();
            frames.extend(user_frame(entry.user, appended, text, trace));
            continue;
        };
        for route in routes {
            match route {
                Route::Pod(pod) => {
                    let frames = by_subject.entry(pod_subject(pod)).or_default();
                    frames.extend(user_frame(entry.user, appended, text.clone(), trace));
                }
                Route::PreviousVersion => {
                    let message = notification::of_event(&context.tokens, entry.user, &text);
                    send(context, &notify_subject(entry.user), message).await;
                }
            }
        }
    }
    for (subject, frames) in by_subject {
        for message in in_messages(frames) {
            send(context, &subject, message.sign(&context.tokens)).await;
        }
    }
}

/// What a frame of this entry shows.
pub(crate) fn body_of(entry: &NewEntry) -> FrameBody<'_> {
    FrameBody { viewer: entry.user, subject: entry.subject.as_str(), time: entry.time, body: &entry.body }
}

fn user_frame(
    user_id: UserId,
    Appended { seq, is_pushed }: Appended,
    text: String,
    trace: Option<&Trace>,
) -> Option<UserFrame> {
    let traceparent = trace.map(|trace| trace.as_str().to_owned());
    Some(UserFrame { user_id, seq, is_pushed, traceparent, frame: RawValue::from_string(text).ok()? })
}

async fn send(context: &Context, subject: &str, body: String) {
    if let Err(error) = context.platform.bus.publish_core(subject, body.into()).await {
        // The poll of mailboxes finds the entries.
        tracing::debug!(%error, "the frames of new mailbox entries were not sent");
    }
}
