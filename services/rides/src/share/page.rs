//! The page of a shared ride for a browser: one document without scripts and without anything from elsewhere, which the browser loads again
//! every few seconds. Pure.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use platform::Problem;
use streams::{RideStatus, VehicleType};

use super::viewed::{NotShown, SharedRide};

/// Seconds after which the browser loads the page again.
const REFRESH_S: u32 = 5;
const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;margin:0;background:#f4f5f7;color:#16181d}\
main{max-width:26rem;margin:2rem auto;padding:1.5rem;background:#fff;border-radius:12px}\
h1{font-size:1.4rem;margin:0 0 1rem}dl{display:grid;grid-template-columns:auto 1fr;gap:.4rem 1rem;margin:0}\
dt{color:#667085}dd{margin:0;text-align:right;font-weight:600;overflow-wrap:anywhere}\
.plate{font-size:1.3rem;letter-spacing:.06em}.stale{color:#b54708}a{color:inherit}p{margin:1rem 0 0;color:#667085}\
@media(prefers-color-scheme:dark){body{background:#16181d;color:#f4f5f7}main{background:#22252c}}";

pub(crate) fn response(shared: Result<SharedRide, NotShown>) -> Response {
    let (status, html) = match shared {
        Ok(ride) => (StatusCode::OK, ride_page(&ride)),
        Err(NotShown::Ended) => (StatusCode::GONE, document(false, "This trip has ended", "")),
        Err(NotShown::Unknown) => (StatusCode::NOT_FOUND, document(false, "There is no such trip", "")),
        Err(NotShown::Unavailable) => (StatusCode::SERVICE_UNAVAILABLE, document(true, "One moment, please", "")),
    };
    page(status, html)
}

/// Instead of the page, when too many are asked for from one address: it comes back by itself. `refusal` is the answer for programs.
pub(crate) fn refused(refusal: &Response) -> Response {
    let wait = "<p>Too many pages were opened from here at once. This one comes back by itself.</p>";
    let mut response = page(refusal.status(), document(true, "One moment, please", wait));
    if let Some(after) = refusal.headers().get(header::RETRY_AFTER) {
        response.headers_mut().insert(header::RETRY_AFTER, after.clone());
    }
    response
}

fn page(status: StatusCode, html: String) -> Response {
    let mut response = (status, html).into_response();
    let style = STANDARD.encode(digest(&SHA256, STYLE.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let Ok(policy) = HeaderValue::from_str(&policy) else { return Problem::unavailable().into_response() };
    let fixed = |value: &'static str| HeaderValue::from_static(value);
    for (name, value) in [
        (header::CONTENT_TYPE, fixed("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::REFERRER_POLICY, fixed("no-referrer")),
        (header::CACHE_CONTROL, fixed("no-store")),
        (header::X_FRAME_OPTIONS, fixed("DENY")),
        (HeaderName::from_static("x-robots-tag"), fixed("noindex, nofollow")),
    ] {
        response.headers_mut().insert(name, value);
    }
    response
}

fn document(is_refreshed: bool, title: &str, content: &str) -> String {
    let refresh = match is_refreshed {
        true => format!("<meta http-equiv=\"refresh\" content=\"{REFRESH_S}\">"),
        false => String::new(),
    };
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><meta name=\"robots\" content=\"noindex,nofollow\">\
         <meta name=\"referrer\" content=\"no-referrer\">{refresh}<title>{title}</title><style>{STYLE}</style></head>\
         <body><main><h1>{title}</h1>{content}</main></body></html>"
    )
}

fn ride_page(ride: &SharedRide) -> String {
    let title = match ride.status {
        RideStatus::Pickup => "The driver is on the way to the pickup",
        RideStatus::Waiting => "The driver waits at the pickup",
        RideStatus::Started => "On the way",
        _ => "Arrived",
    };
    let kind = match ride.vehicle.vehicle_type {
        VehicleType::Car => "Car",
        VehicleType::Motorcycle => "Motorcycle",
        VehicleType::Van => "Van",
    };
    let words = [&ride.vehicle.color, &ride.vehicle.make, &ride.vehicle.model];
    let words: Vec<&str> = words.into_iter().flatten().map(String::as_str).collect();
    let vehicle = if words.is_empty() { kind.to_owned() } else { format!("{kind}, {}", words.join(" ")) };
    let mut rows = String::new();
    let mut row = |name: &str, value: &str| _ = write!(rows, "<dt>{name}</dt><dd>{}</dd>", escaped(value));
    if let Some(name) = &ride.driver.first_name {
        row("Driver", name);
    }
    row("Vehicle", &vehicle);
    if let Some(eta_s) = ride.eta_s.filter(|_| !ride.stale && ride.status != RideStatus::Arrived) {
        let minutes = (eta_s / 60.0).ceil().max(1.0);
        row(if ride.eta_to == "pickup" { "At the pickup in" } else { "Arrives in" }, &format!("{minutes} min"));
    }
    if let Some(plate) = &ride.vehicle.plate {
        let _ = write!(rows, "<dt>Plate</dt><dd class=\"plate\">{}</dd>", escaped(plate));
    }
    let mut note = "<p>Its position is not known now.</p>".to_owned();
    if let (Some(at), Some(recorded_at)) = (ride.location, ride.recorded_at) {
        // A `geo:` link opens a map on the device; no other site learns of it before.
        let _ = write!(
            rows,
            "<dt>Position</dt><dd><a href=\"geo:{lat:.5},{lng:.5}\">{lat:.5}, {lng:.5}</a></dd>",
            lat = at.lat,
            lng = at.lng
        );
        let age_s = (ride.server_time - recorded_at).num_seconds().max(0);
        let class = if ride.stale { " class=\"stale\"" } else { "" };
        note = format!("<p{class}>Position of {age_s} s ago.</p>");
    }
    document(true, title, &format!("<dl>{rows}</dl>{note}"))
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Duration};
    use streams::Position;

    use super::super::viewed::{SharedDriver, SharedVehicle};
    use super::*;

    #[test]
    fn a_page_has_no_script_and_escapes_what_people_wrote() {
        let now = DateTime::UNIX_EPOCH;
        let ride = SharedRide {
            status: RideStatus::Started,
            vehicle: SharedVehicle {
                vehicle_type: VehicleType::Car,
                plate: Some("AB 12".to_owned()),
                make: Some("<script>alert(1)</script>".to_owned()),
                model: Some("\"' onload=x".to_owned()),
                color: None,
            },
            driver: SharedDriver { first_name: Some("A&n".to_owned()) },
            location: Some(Position { lat: 40.75, lng: -73.98 }),
            heading_deg: None,
            speed_mps: None,
            recorded_at: Some(now - Duration::seconds(3)),
            eta_s: Some(61.0),
            eta_to: "dropoff",
            stale: false,
            server_time: now,
        };
        let page = ride_page(&ride);
        for expected in
            ["A&amp;n", "AB 12", "2 min", "3 s ago", "&lt;script&gt;", "&quot;&#39; onload", "content=\"5\""]
        {
            assert!(page.contains(expected), "{expected}: {page}");
        }
        assert!(!page.contains("<script") && !page.contains("http://") && !page.contains("https://"), "{page}");
        let stale = ride_page(&SharedRide { stale: true, ..ride.clone() });
        assert!(!stale.contains("2 min") && stale.contains("class=\"stale\""), "{stale}");
        let unknown = ride_page(&SharedRide { location: None, recorded_at: None, eta_s: None, ..ride });
        assert!(unknown.contains("not known"), "{unknown}");
    }

    #[test]
    fn a_refused_page_comes_back_by_itself() {
        let refusal = (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "3")], "{}").into_response();
        let response = refused(&refusal);
        assert_eq!((response.status(), &response.headers()["retry-after"]), (refusal.status(), &"3".parse().unwrap()));
        assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
        assert!(document(true, "", "").contains("content=\"5\""), "it is loaded again");
    }

    #[test]
    fn the_headers_keep_a_page_to_itself() {
        for (shared, status) in [(NotShown::Unknown, 404), (NotShown::Ended, 410), (NotShown::Unavailable, 503)] {
            let response = response(Err(shared));
            assert_eq!(response.status().as_u16(), status);
            let headers = response.headers();
            assert_eq!(headers["referrer-policy"], "no-referrer");
            assert_eq!(headers["cache-control"], "no-store");
            assert_eq!(headers["x-robots-tag"], "noindex, nofollow");
            let policy = headers["content-security-policy"].to_str().unwrap();
            assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        }
    }
}
