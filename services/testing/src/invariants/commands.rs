//! An `ack` means that what was asked is durable.

use std::collections::BTreeSet;

use serde_json::Value;

use super::history::{History, text, time};

/// A command that was acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct AckedCommand<'a> {
    pub user: &'a str,
    /// The command's `type`.
    pub kind: &'a str,
    /// The command's data.
    pub data: &'a Value,
    /// The ack's data.
    pub answer: &'a Value,
}

impl History<'_> {
    /// Every command that was acked has had its effect. Positions are looked for only if the events have them: they go past the
    /// outbox. `acked_seq` is the user's cursor of `mailbox.ack`.
    pub fn effects<'a>(
        &self,
        commands: impl Iterator<Item = AckedCommand<'a>>,
        acked_seq: impl Fn(&str) -> u64,
    ) -> Vec<String> {
        let beacons: BTreeSet<&str> = self.bodies("user.beacon").map(|body| text(body, "user_id")).collect();
        let searches: BTreeSet<(&str, bool)> =
            self.bodies("user.finder").map(|body| (text(body, "request_id"), body["active"] == true)).collect();
        let accepted: BTreeSet<&str> = self.bodies("match.accepted").map(|body| text(body, "match_id")).collect();
        let declined: BTreeSet<&str> = self
            .bodies("match.rejected")
            .filter(|body| text(body, "reason") == "declined")
            .map(|body| text(body, "match_id"))
            .collect();
        // By the device's own clock, as in the command.
        let measured_at = |body: &Value| match &body["reception"] {
            Value::Null => time(body, "recorded_at"),
            reception => time(reception, "device_at"),
        };
        let points: BTreeSet<_> =
            self.bodies("location.update").map(|body| (text(body, "user_id"), measured_at(body))).collect();
        let steps: BTreeSet<(&str, &str)> = self
            .rides
            .iter()
            .flat_map(|(ride, events)| events.iter().map(move |event| (*ride, event.subject)))
            .collect();
        let has_effect = |command: &AckedCommand<'_>| {
            let AckedCommand { user, kind, data, answer } = *command;
            let (ride, match_id) = (text(data, "ride_id"), text(data, "match_id"));
            match kind {
                "finder.update" => match answer["request_id"].as_str() {
                    Some(request) => searches.contains(&(request, data["active"] == true)),
                    // There was no search to end.
                    None => data["active"] == false,
                },
                "beacon.update" => beacons.contains(user),
                "match.accept" => accepted.contains(match_id),
                "match.reject" => declined.contains(match_id),
                "location.update" => {
                    let one = std::slice::from_ref(data);
                    let sent = data["points"].as_array().map_or(one, Vec::as_slice);
                    let refused: BTreeSet<u64> = answer["refused"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter_map(|refused| refused["index"].as_u64())
                        .collect();
                    let mut accepted = (0..).zip(sent).filter(|(index, _)| !refused.contains(index));
                    points.is_empty() || accepted.all(|(_, point)| points.contains(&(user, time(point, "recorded_at"))))
                }
                "ride.wait" => steps.contains(&(ride, "ride.waiting")),
                "ride.start" => steps.contains(&(ride, "ride.started")),
                "ride.arrive" => steps.contains(&(ride, "ride.arrived")),
                "ride.cancel" => steps.contains(&(ride, "ride.cancelled")),
                "mailbox.ack" => data["seq"].as_u64().is_some_and(|seq| seq <= acked_seq(user)),
                _ => true,
            }
        };
        let without = commands.filter(|command| !has_effect(command));
        without
            .map(|AckedCommand { user, kind, data, answer }| {
                format!("{user}: {kind} {data} was acked with {answer} and has no effect")
            })
            .collect()
    }
}
