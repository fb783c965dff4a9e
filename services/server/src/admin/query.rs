//! What the routes of operators are asked with: paths, queries, keys and reasons, read and checked. Pure.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::str::FromStr;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query};
use axum::http::{HeaderMap, StatusCode};
use platform::problem::Json;
use platform::{Problem, plain_text};
use serde::Deserialize;
use streams::ActId;
use streams::operators::{ActHead, MAP_MAX, MapBox, MapQuery, NOTE_MAX, PAGE_MAX, REASON_MAX};

const PAGE_DEFAULT: u32 = 50;
const MAP_DEFAULT: u32 = 500;

pub(super) type RawQuery = Result<Query<BTreeMap<String, String>>, QueryRejection>;
pub(super) type RawId = Result<Path<String>, PathRejection>;

/// 404.
pub(super) fn not_found(what: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}"))
}

/// The id in the path. What is none is not found, like one that does not exist.
pub(super) fn id<T: FromStr>(id: RawId, what: &str) -> Result<T, Problem> {
    id.ok().and_then(|Path(id)| id.parse().ok()).ok_or_else(|| not_found(what))
}

/// The fields of a query.
pub(super) struct Fields(BTreeMap<String, String>);

impl Fields {
    pub(super) fn read(query: RawQuery) -> Result<Self, Problem> {
        query.map(|Query(fields)| Self(fields)).map_err(|why| Problem::field("query", why.body_text()))
    }

    /// A field that is left out or empty is not there.
    pub(super) fn text(&self, field: &str) -> Option<String> {
        self.0.get(field).filter(|text| !text.is_empty()).cloned()
    }

    pub(super) fn parsed<T: FromStr>(&self, field: &str, what: &str) -> Result<Option<T>, Problem> {
        let parse = |text: String| text.parse().map_err(|_| Problem::field(field, format!("must be {what}")));
        self.text(field).map(parse).transpose()
    }

    /// The cursor of an earlier answer.
    pub(super) fn cursor<T: FromStr>(&self) -> Result<Option<T>, Problem> {
        self.parsed("cursor", "the `next_cursor` of an earlier answer")
    }

    fn limit_of(&self, default: u32, among: RangeInclusive<u32>) -> Result<u32, Problem> {
        let what = format!("a number from {} to {}", among.start(), among.end());
        match self.parsed::<u32>("limit", &what)? {
            None => Ok(default),
            Some(limit) if among.contains(&limit) => Ok(limit),
            Some(_) => Err(Problem::field("limit", format!("must be {what}"))),
        }
    }

    pub(super) fn limit(&self) -> Result<u32, Problem> {
        self.limit_of(PAGE_DEFAULT, 1..=PAGE_MAX)
    }

    /// As [`limit`](Self::limit); 0 asks for what the answer says beside its rows.
    pub(super) fn limit_or_none(&self) -> Result<u32, Problem> {
        self.limit_of(PAGE_DEFAULT, 0..=PAGE_MAX)
    }

    /// One of `known`.
    pub(super) fn one_of(&self, field: &str, known: &[&str]) -> Result<Option<String>, Problem> {
        match self.text(field) {
            Some(text) if !known.contains(&text.as_str()) => {
                Err(Problem::field(field, format!("must be one of {}", known.join(", "))))
            }
            text => Ok(text),
        }
    }

    pub(super) fn map(&self) -> Result<MapQuery, Problem> {
        let within = self.text("box").map(|text| read_box(&text)).transpose()?;
        Ok(MapQuery { within, limit: self.limit_of(MAP_DEFAULT, 1..=MAP_MAX)? })
    }
}

fn read_box(text: &str) -> Result<MapBox, Problem> {
    let wrong = || {
        let message = "must be `south,west,north,east` in degrees, south below north, as in 40.5,-74.3,41,-73.6";
        Problem::field("box", message)
    };
    let degrees = text.split(',').map(|part| part.trim().parse::<f64>().map_err(|_| wrong()));
    let degrees = degrees.collect::<Result<Vec<_>, _>>()?;
    let [south, west, north, east] = degrees[..] else { return Err(wrong()) };
    let is_valid = (-90.0..=90.0).contains(&south)
        && (south..=90.0).contains(&north)
        && [west, east].iter().all(|lng| (-180.0..=180.0).contains(lng));
    if is_valid { Ok(MapBox { south, west, north, east }) } else { Err(wrong()) }
}

/// The header Idempotency-Key, which becomes the id of the act.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<ActId>, Problem> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.to_str().ok().and_then(|text| text.parse().ok());
    key.map(Some).ok_or_else(|| Problem::field("Idempotency-Key", "must be a UUID, another one for each act"))
}

/// The head of an act whose reason may be left out.
pub(super) fn head(act_id: ActId, reason: Option<&str>) -> Result<ActHead, Problem> {
    Ok(ActHead { act_id, reason: reason.map(|reason| line_of("reason", reason, REASON_MAX)).transpose()? })
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct MayBeWhy {
    reason: Option<String>,
}

/// The head of an act whose body may be left out.
pub(super) fn optional_head(act_id: ActId, body: Option<Json<MayBeWhy>>) -> Result<ActHead, Problem> {
    let why = body.map(|Json(why)| why).unwrap_or_default();
    head(act_id, why.reason.as_deref())
}

pub(super) fn note(text: &str) -> Result<String, Problem> {
    line_of("text", text, NOTE_MAX)
}

/// One line as it is seen.
pub(super) fn line_of(field: &str, text: &str, most: usize) -> Result<String, Problem> {
    let line = plain_text::line(text).filter(|line| line.chars().count() <= most);
    line.ok_or_else(|| Problem::field(field, format!("1 to {most} characters, at least one of which can be seen")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        Fields(text.split('&').filter_map(|p| p.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect())
    }

    #[test]
    fn a_box_is_four_degrees() {
        let map = |text: &str| fields(text).map();
        let within = map("box=40.5,-74.3,41,-73.6&limit=7").unwrap();
        let expected = MapBox { south: 40.5, west: -74.3, north: 41.0, east: -73.6 };
        assert_eq!((within.within, within.limit), (Some(expected), 7));
        assert_eq!(map("box=").unwrap(), MapQuery { within: None, limit: MAP_DEFAULT });
        assert!(map("box=-10,170,10,-170").is_ok(), "across the antimeridian");
        for wrong in ["box=1,2,3", "box=1,2,3,4,5", "box=a,2,3,4", "box=3,2,1,4", "box=-91,0,0,0", "box=0,0,0,181"] {
            assert_eq!(map(wrong).unwrap_err().field.as_deref(), Some("box"), "{wrong}");
        }
        assert_eq!(map("box=NaN,NaN,NaN,NaN").unwrap_err().field.as_deref(), Some("box"));
    }

    #[test]
    fn limits_keys_and_reasons_are_bounded() {
        assert_eq!(fields("").limit(), Ok(PAGE_DEFAULT));
        assert_eq!(fields("limit=200").limit(), Ok(200));
        for wrong in ["limit=0", "limit=201", "limit=x", "limit=-1"] {
            assert_eq!(fields(wrong).limit().unwrap_err().field.as_deref(), Some("limit"), "{wrong}");
        }
        let act: ActId = "0190b7a0-0000-7000-8000-000000000001".parse().unwrap();
        let headers = |key: &str| HeaderMap::from_iter([("idempotency-key".parse().unwrap(), key.parse().unwrap())]);
        assert_eq!(key(&HeaderMap::new()), Ok(None));
        assert_eq!(key(&headers(&act.to_string())), Ok(Some(act)));
        assert_eq!(key(&headers("one")).unwrap_err().field.as_deref(), Some("Idempotency-Key"));
        assert_eq!(head(act, None).unwrap().reason, None);
        assert_eq!(head(act, Some(" stuck\nfor hours ")).unwrap().reason.as_deref(), Some("stuck for hours"));
        assert_eq!(head(act, Some(&"x".repeat(REASON_MAX))).unwrap().reason.map(|r| r.len()), Some(REASON_MAX));
        for wrong in ["", " \u{200b}", &"x".repeat(REASON_MAX + 1)] {
            assert_eq!(head(act, Some(wrong)).unwrap_err().field.as_deref(), Some("reason"));
        }
    }
}
