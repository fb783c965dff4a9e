//! Files of trips as people have them: every way in which a row may be written, and every way in which it is none.

use super::*;

const ANY: Usable = Usable { length_min_m: 0.0, needs_dropoff_time: false };
const HEADER: &str = "pickup_time,pickup_lat,pickup_lng,dropoff_lat,dropoff_lng\n";
const GOOD: &str = "2015-01-01T00:07:21-05:00,40.7299,-73.980843,40.746704,-73.978233\n";

fn parse(text: impl AsRef<[u8]>) -> Trips {
    read(text.as_ref(), ANY).unwrap()
}

fn error(text: &str, usable: Usable) -> String {
    format!("{:#}", read(text.as_bytes(), usable).unwrap_err())
}

#[test]
fn columns_are_found_by_name_however_the_file_is_written() {
    let expected = parse(format!("{HEADER}{GOOD}")).requests;
    assert_eq!(expected[0].pickup_time.to_rfc3339(), "2015-01-01T05:07:21+00:00");
    assert_eq!(expected[0].pickup, Position { lat: 40.7299, lng: -73.980843 });
    let with_others = "fare,dropoff_lng,pickup_lat,pickup_lng,dropoff_lat,pickup_time\n\
                       1,-73.978233,40.7299,-73.980843,40.746704,2015-01-01T05:07:21Z\n";
    for text in [
        format!("\u{feff}{HEADER}{GOOD}"),
        format!("{HEADER}{GOOD}").replace('\n', "\r\n"),
        format!("{HEADER}{GOOD}").replace(',', " , "),
        format!("{HEADER}\n{}\n\n", GOOD.trim_end()),
        format!("{HEADER}{}", GOOD.trim_end()),
        with_others.to_owned(),
    ] {
        let trips = parse(&text);
        assert_eq!((trips.requests, trips.left_out.rows), (expected.clone(), 0), "{text:?}");
    }
    // A note that is not UTF-8 concerns nobody.
    let mut bytes = HEADER.replace('\n', ",note\n").into_bytes();
    bytes.extend(GOOD.trim_end().as_bytes());
    bytes.extend(b",caf\xe9\n");
    assert_eq!(parse(bytes).requests, expected);
}

#[test]
fn a_time_may_be_without_an_offset_and_trips_are_sorted() {
    let trips = parse(format!("{HEADER}{GOOD}2015-01-01 00:06:32,40.7,-73.9,40.8,-73.9\n"));
    let times: Vec<_> = trips.requests.iter().map(|r| (r.pickup_time.to_rfc3339(), r.has_offset)).collect();
    let expected = [("2015-01-01T00:06:32+00:00", false), ("2015-01-01T05:07:21+00:00", true)];
    assert_eq!(times, expected.map(|(time, has)| (time.to_owned(), has)));
}

#[test]
fn a_row_that_is_no_trip_is_left_out_with_its_reason() {
    for (row, reason) in [
        ("yesterday,1,2,3,4", "pickup_time: `yesterday` is no time"),
        ("2016-12-31T23:59:60Z,40.7,-73.9,40.8,-73.9", "pickup_time: `2016-12-31T23:59:60Z` is no time"),
        ("2015-01-01 00:06:60,40.7,-73.9,40.8,-73.9", "pickup_time: `2015-01-01 00:06:60` is no time"),
        (",40.7,-73.9,40.8,-73.9", "pickup_time: `` is no time"),
        ("2015-01-01T00:06:32Z,,,40.8,-73.9", "pickup_lat: `` is no number of degrees"),
        ("2015-01-01T00:06:32Z,40.7,-73.9,x,-73.9", "dropoff_lat: `x` is no number"),
        ("2015-01-01T00:06:32Z,91,-73.9,40.8,-73.9", "pickup_lat: `91` is no number"),
        ("2015-01-01T00:06:32Z,NaN,-73.9,40.8,-73.9", "pickup_lat: `NaN` is no number"),
        ("2015-01-01T00:06:32Z,40.7,inf,40.8,-73.9", "pickup_lng: `inf` is no number"),
        ("2015-01-01T00:06:32Z,40.7", "pickup_lng: `` is no number"),
        ("2015-01-01T00:06:32Z,0,0,40.8,-73.9", "pickup: 0, 0 is no place"),
        ("2015-01-01T00:06:32Z,40.8,-73.9,0.0,0", "dropoff: 0, 0 is no place"),
        ("2015-01-01T00:06:32Z,40.7,-73.9,51.5,-0.1", "m is outside of 0 to 200000 m"),
        ("garbage", "pickup_time: `garbage` is no time"),
    ] {
        let trips = parse(format!("{HEADER}{GOOD}{row}\n{GOOD}"));
        assert_eq!((trips.requests.len(), trips.left_out.rows), (2, 1), "{row}");
        let said = &trips.left_out.reasons[0];
        assert!(said.starts_with("line 3: ") && said.contains(reason), "{row}: {said}");
        let error = error(&format!("{HEADER}{row}\n"), ANY);
        assert!(error.contains("no row is a usable trip") && error.contains(reason), "{row}: {error}");
    }
    let trips = parse(format!("{HEADER}{GOOD}{}", "x\n".repeat(20)));
    let text = trips.left_out.to_string();
    assert!(text.starts_with("20 rows are left out\n  line 3: ") && text.ends_with("\n  and 15 more"), "{text}");
}

#[test]
fn the_line_of_a_row_is_that_of_the_file() {
    let text = format!("{HEADER}{GOOD}\n\nx,\"a\nb\"\n\ny");
    for end in ["\n", "\r\n", "\r"] {
        let reasons = parse(text.replace('\n', end)).left_out.reasons;
        let lines: Vec<_> = reasons.iter().map(|reason| reason.split(':').next().unwrap()).collect();
        assert_eq!(lines, ["line 5", "line 8"], "{end:?}");
    }
}

#[test]
fn what_must_be_known_depends_on_the_use() {
    let here = "2015-01-01T00:06:32Z,40.7,-73.9,40.7,-73.9\n";
    assert_eq!(parse(format!("{HEADER}{here}")).requests.len(), 1);
    let rides = Usable { length_min_m: RIDE_MIN_M, needs_dropoff_time: false };
    assert!(error(&format!("{HEADER}{here}"), rides).contains("a trip of 0 m is outside of 200"));

    let driven = Usable { length_min_m: 0.0, needs_dropoff_time: true };
    assert!(error(&format!("{HEADER}{GOOD}"), driven).contains("the columns dropoff_time are missing"));
    let row = |time: &str| format!("2015-01-01T00:06:32Z,40.7,-73.9,40.8,-73.9,{time}\n");
    let text =
        HEADER.replace('\n', ",dropoff_time\n") + &row("2015-01-01T00:16:32Z") + &row("") + &row("2015-01-01 00:16:32");
    let trips = read(text.as_bytes(), driven).unwrap();
    assert_eq!((trips.requests.len(), trips.left_out.rows), (1, 2), "{}", trips.left_out);
    assert!(trips.left_out.reasons[1].contains("an offset is at one of the times alone"), "{}", trips.left_out);
    // Who does not need it takes them all.
    assert_eq!(read(text.as_bytes(), ANY).unwrap().requests.len(), 3);
}

#[test]
fn a_file_without_trips_is_refused() {
    for (text, said) in [
        ("", "the columns pickup_time, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng are missing"),
        ("pickup_time,pickup_lat,pickup_lng,dropoff_lat\n", "the columns dropoff_lng are missing"),
        (HEADER, "there are no trips"),
    ] {
        let error = error(text, ANY);
        assert!(error.contains(said), "{text}: {error}");
    }
}
