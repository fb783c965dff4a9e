//! The limits that concern one user, as the welcome names them: what a client must keep to. Pure.

use platform::limits::{Amount, By, Limit, Limits, TABLE};
use serde_json::{Map, Value, json};

use super::frame::{FRAME_MAX, POINTS_MAX};
use super::transport::SILENCE_MAX;

/// What the contract names, and under `by_name` every limit of the table that counts by user, sign-in or socket.
pub(crate) fn limits_of_client(limits: &Limits) -> Value {
    let of_client = TABLE.iter().filter(|row| matches!(row.by, By::User | By::SignIn | By::Socket));
    let by_name: Map<String, Value> = of_client
        .map(|row| {
            let by = row.by.as_str();
            let value = match limits.amount(row.limit) {
                Amount::Rate(quota) => json!({"by": by, "burst": quota.burst, "per_s": quota.per_s}),
                Amount::Count(count) => json!({"by": by, "count": count}),
            };
            (row.name.to_owned(), value)
        })
        .collect();
    json!({
        "points_per_message": POINTS_MAX,
        "frame_bytes": FRAME_MAX,
        "frames_per_s": limits.quota(Limit::Frames).per_s,
        "sockets_per_user": limits.count(Limit::SocketsUser),
        "silence_s": SILENCE_MAX.as_secs(),
        "by_name": by_name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_learns_its_own_limits_with_what_the_settings_change() {
        let named = limits_of_client(&"points=7/2,sockets_user=3".parse().unwrap());
        assert_eq!((&named["points_per_message"], &named["sockets_per_user"]), (&json!(100), &json!(3)));
        assert_eq!((&named["frames_per_s"], &named["silence_s"]), (&json!(50.0), &json!(60)));
        assert_eq!(named["by_name"]["points"], json!({"by": "user", "burst": 7, "per_s": 2.0}));
        assert_eq!(named["by_name"]["sockets_user"], json!({"by": "user", "count": 3}));
        assert!(named["by_name"].get("codes_all").is_none(), "not what counts by others");
    }
}
