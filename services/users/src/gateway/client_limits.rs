//! The limits that concern one user, as the welcome names them: what a client must keep to. Pure.

use platform::limits::{Amount, By, Limit, Limits, TABLE};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;

use super::transport::{FRAME_MAX, POINTS_MAX, SILENCE_MAX};

/// What a client must keep to.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub(crate) struct ClientLimits {
    points_per_message: usize,
    frame_bytes: usize,
    frames_per_s: f64,
    sockets_per_user: usize,
    /// A socket over which nothing comes for so long is closed.
    silence_s: u64,
    /// A point that would need more than so many metres a second is left out of a ride's distance.
    track_max_speed_mps: f64,
    /// Every limit that counts by user, sign-in or socket, by its name.
    by_name: BTreeMap<&'static str, NamedLimit>,
}

/// A limit: how often at once and in the long run, or how many.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
enum NamedLimit {
    Rate { by: &'static str, burst: u32, per_s: f64 },
    Count { by: &'static str, count: u32 },
}

/// What the contract names, and under `by_name` every limit of the table that counts by user, sign-in or socket.
pub(crate) fn limits_of_client(limits: &Limits, track_max_speed_mps: f64) -> ClientLimits {
    let of_client = TABLE.iter().filter(|row| matches!(row.by, By::User | By::SignIn | By::Socket));
    let by_name = of_client
        .map(|row| {
            let by = row.by.as_str();
            let limit = match limits.amount(row.limit) {
                Amount::Rate(quota) => NamedLimit::Rate { by, burst: quota.burst, per_s: quota.per_s },
                Amount::Count(count) => NamedLimit::Count { by, count },
            };
            (row.name, limit)
        })
        .collect();
    ClientLimits {
        points_per_message: POINTS_MAX,
        frame_bytes: FRAME_MAX,
        frames_per_s: limits.quota(Limit::Frames).per_s,
        sockets_per_user: limits.count(Limit::SocketsUser),
        silence_s: SILENCE_MAX.as_secs(),
        track_max_speed_mps,
        by_name,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_client_learns_its_own_limits_with_what_the_settings_change() {
        let named = json!(limits_of_client(&"points=7/2,sockets_user=3".parse().unwrap(), 70.0));
        assert_eq!((&named["points_per_message"], &named["sockets_per_user"]), (&json!(100), &json!(3)));
        assert_eq!((&named["frames_per_s"], &named["silence_s"]), (&json!(50.0), &json!(60)));
        assert_eq!(named["by_name"]["points"], json!({"by": "user", "burst": 7, "per_s": 2.0}));
        assert_eq!(named["by_name"]["sockets_user"], json!({"by": "user", "count": 3}));
        assert!(named["by_name"].get("codes_all").is_none(), "not what counts by others");
    }
}
