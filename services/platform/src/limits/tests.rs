use std::net::IpAddr;

use chrono::{DateTime, Duration, Utc};
use uuid::Uuid;

use super::buckets::{self, Buckets};
use super::*;
use crate::Problem;

const NOW: i64 = 1_800_000_000_000_000;
const SECOND: i64 = 1_000_000;

fn at(us: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(NOW + us).unwrap()
}

fn ip(text: &str) -> ClientAddress {
    ClientAddress(text.parse().unwrap())
}

#[test]
fn a_bucket_gives_its_burst_and_then_its_rate() {
    let quota = Quota { burst: 5, per_s: 0.5 };
    let mut tat = None;
    let mut take = |at: i64, n| match quota.take(tat, NOW + at, n) {
        Admission::Allowed { tat_us } => {
            tat = Some(tat_us);
            0
        }
        Admission::Refused { wait_us } => wait_us,
    };
    assert_eq!([0; 5].map(|at| take(at, 1)), [0; 5]);
    assert_eq!(take(0, 1), 2 * SECOND);
    assert_eq!(take(SECOND, 1), SECOND, "a refusal takes nothing");
    assert_eq!(take(2 * SECOND, 1), 0);
    assert_eq!(take(12 * SECOND, 5), 0, "full again after 10 s");
    assert_eq!(take(12 * SECOND, 5), 10 * SECOND);
    assert!(take(1_000 * SECOND, 6) > 0, "more than the burst at once is never allowed");
    assert_eq!(take(1_000 * SECOND, 5), 0);
}

#[test]
fn a_clock_that_is_set_back_empties_a_bucket_and_no_more() {
    let quota = Quota { burst: 5, per_s: 1.0 };
    let Admission::Allowed { tat_us } = quota.take(None, NOW, 1) else { panic!() };
    assert_eq!(quota.take(Some(tat_us), NOW - 3_600 * SECOND, 1), Admission::Refused { wait_us: SECOND });
}

#[test]
fn what_was_taken_in_vain_is_put_back_and_never_more_than_the_burst() {
    let quota = Quota { burst: 3, per_s: 1.0 };
    let empty = quota.take_up_to(None, NOW, 7);
    assert_eq!(empty, NOW + 3 * SECOND, "no debt");
    assert!(matches!(quota.take(Some(quota.put_back(Some(empty), NOW, 1)), NOW, 1), Admission::Allowed { .. }));
    assert!(matches!(quota.take(Some(quota.put_back(Some(empty), NOW, 99)), NOW, 4), Admission::Refused { .. }));
}

#[test]
fn each_key_of_each_limit_has_its_own_bucket() {
    let limiter = Limiter::new("nearby=2/1,commands=1/1".parse().unwrap());
    let (ann, bob) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let take = |limit, user: Uuid| limiter.take(limit, user, 1, at(0));
    assert_eq!([take(Limit::Nearby, ann), take(Limit::Nearby, ann)], [Ok(()); 2]);
    assert_eq!(take(Limit::Nearby, ann), Err(Refused { limit: Limit::Nearby, retry_after_s: 1 }));
    assert_eq!(take(Limit::Nearby, bob), Ok(()));
    assert_eq!(take(Limit::Commands, ann), Ok(()));
    assert!(take(Limit::Commands, ann).is_err());
    let problem = Problem::from(take(Limit::Nearby, ann).unwrap_err());
    assert_eq!((&*problem.code, problem.limit, problem.retry_after_s), ("too_many_requests", Some("nearby"), Some(1)));
}

#[test]
fn the_map_is_bounded_and_forgets_what_is_nearly_full_first() {
    let mut buckets = Buckets::default();
    let quota = Quota { burst: 10, per_s: 0.01 };
    let take = |buckets: &mut Buckets, key: u128, n, now| {
        buckets.take(Limit::HttpUser, Key::from(Uuid::from_u128(key)), quota, n, now)
    };
    take(&mut buckets, 0, 10, NOW);
    for key in 1..=2 * u128::try_from(buckets::KEYS_MAX).unwrap() {
        take(&mut buckets, key, 1, NOW);
    }
    assert_eq!(buckets.len(), buckets::KEYS_MAX);
    assert!(matches!(take(&mut buckets, 0, 1, NOW), Admission::Refused { .. }), "whoever used up a bucket stays known");
    // Full buckets go two at a time.
    let later = NOW + 2_000 * SECOND;
    for _ in 0..buckets::KEYS_MAX {
        take(&mut buckets, 0, 1, later);
    }
    assert_eq!(buckets.len(), 1);
}

#[test]
fn the_table_is_in_the_order_of_its_limits_and_names_differ() {
    for (n, definition) in TABLE.iter().enumerate() {
        assert_eq!(definition.limit as usize, n, "{}", definition.name);
        assert_eq!(TABLE.iter().filter(|d| d.name == definition.name).count(), 1, "{}", definition.name);
    }
}

#[test]
fn the_setting_changes_limits_by_name_and_has_no_off() {
    let limits: Limits = "codes_address=1000/10, connections_address = 7".parse().unwrap();
    assert_eq!(limits.quota(Limit::CodesAddress), Quota { burst: 1_000, per_s: 10.0 });
    assert_eq!(limits.count(Limit::ConnectionsAddress), 7);
    assert_eq!(limits.quota(Limit::Nearby), Limits::default().quota(Limit::Nearby));
    assert_eq!("".parse(), Ok(Limits::default()));
    for (wrong, why) in [
        ("off", "limits have no off"),
        ("codes=1/1", "no limit `codes`"),
        ("nearby=1", "burst/per_s"),
        ("nearby=0/1", "burst/per_s"),
        ("nearby=1/0", "burst/per_s"),
        ("nearby=1/NaN", "burst/per_s"),
        ("nearby=1/inf", "burst/per_s"),
        ("nearby=-1/1", "burst/per_s"),
        ("sockets_user=5/1", "whole number"),
    ] {
        let error = wrong.parse::<Limits>().unwrap_err();
        assert!(error.contains(why), "{wrong}: {error}");
    }
    let raised: Limits = Limits::raised().parse().unwrap();
    for definition in &TABLE {
        let changed = !matches!(definition.limit, Limit::Frames | Limit::SocketsUser);
        assert_eq!(raised.amount(definition.limit) != definition.amount, changed, "{}", definition.name);
    }
}

#[test]
fn amounts_are_readable() {
    assert_eq!(Amount::Rate(Quota { burst: 300, per_s: 0.2 }).text(), "300, then 12 a minute");
    assert_eq!(Amount::Rate(Quota { burst: 5, per_s: 1.0 / 600.0 }).text(), "5, then 6 an hour");
    assert_eq!(Amount::Rate(Quota { burst: 2_000, per_s: 500.0 }).text(), "2000, then 500 a second");
    assert_eq!(Amount::Count(5).text(), "5 at once");
}

#[test]
fn the_readme_has_the_table() {
    let readme = include_str!("../../../../README.md");
    assert!(readme.contains(&markdown()), "put this table into README.md:\n{}", markdown());
}

#[test]
fn an_ipv6_client_is_its_network() {
    assert_eq!(Key::from(ip("2001:db8:1:2::1")), Key::from(ip("2001:db8:1:2:ffff::9")));
    assert_ne!(Key::from(ip("2001:db8:1:2::1")), Key::from(ip("2001:db8:1:3::1")));
    assert_ne!(Key::from(ip("10.0.0.1")), Key::from(ip("10.0.0.2")));
    assert_eq!(Key::from(ip("::ffff:10.0.0.1")), Key::from(ip("10.0.0.1")));
}

#[test]
fn only_trusted_proxies_name_their_clients() {
    let client = |proxies: &str, peer: &str, forwarded: &[&str]| {
        let proxies: TrustedProxies = proxies.parse().unwrap();
        let peer: IpAddr = peer.parse().unwrap();
        proxies.client(peer, forwarded.iter().copied()).0.to_string()
    };
    let trusted = "10.0.0.0/8, fd00::/8";
    for (proxies, peer, forwarded, expected) in [
        ("", "10.0.0.1", &["1.2.3.4"][..], "10.0.0.1"),
        (trusted, "9.9.9.9", &["1.2.3.4"], "9.9.9.9"),
        (trusted, "10.0.0.1", &["1.2.3.4"], "1.2.3.4"),
        (trusted, "::ffff:10.0.0.1", &["1.2.3.4"], "1.2.3.4"),
        (trusted, "fd00::1", &["2001:db8::1"], "2001:db8::1"),
        // What a client put in front is not believed, in one header or in two.
        (trusted, "10.0.0.1", &["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
        (trusted, "10.0.0.1", &["6.6.6.6", "1.2.3.4, 10.0.0.2"], "1.2.3.4"),
        (trusted, "10.0.0.1", &["1.2.3.4:5678"], "1.2.3.4"),
        (trusted, "10.0.0.1", &["[2001:db8::1]:80"], "2001:db8::1"),
        (trusted, "10.0.0.1", &["1.2.3.4, unknown"], "10.0.0.1"),
        (trusted, "10.0.0.1", &[], "10.0.0.1"),
        ("0.0.0.0/0", "10.0.0.1", &["1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", "10.0.0.2", &["1.2.3.4"], "10.0.0.2"),
    ] {
        assert_eq!(client(proxies, peer, forwarded), expected, "{proxies} {peer} {forwarded:?}");
    }
    for wrong in ["x", "10.0.0.0/33", "10.0.0.0/-1", "fd00::/129", "10.0.0"] {
        assert!(wrong.parse::<TrustedProxies>().is_err(), "{wrong}");
    }
}

#[test]
fn a_wait_is_rounded_up_to_whole_seconds() {
    let wait = |us| Refused::new(Limit::Nearby, us).retry_after_s;
    assert_eq!([wait(1), wait(SECOND), wait(SECOND + 1)], [1, 1, 2]);
    let limiter = Limiter::default();
    let address = ip("10.0.0.1");
    for _ in 0..2_000 {
        limiter.take(Limit::HttpAddress, address, 1, at(0)).unwrap();
    }
    assert!(limiter.take(Limit::HttpAddress, address, 1, at(0)).is_err());
    assert!(limiter.take(Limit::HttpAddress, address, 500, at(0) + Duration::seconds(1)).is_ok());
}
