//! What the routes of operators are asked with: paths, queries, keys and reasons, read and checked. Pure.

use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::str::FromStr;

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, StatusCode};
use platform::problem::Json;
use platform::{Problem, plain_text};
use schemars::JsonSchema;
use serde::Deserialize;
use streams::ActId;
use streams::operators::{ActHead, MAP_MAX, MapBox, MapQuery, NOTE_MAX, PAGE_MAX, REASON_MAX};

const PAGE_DEFAULT: u32 = 50;
const MAP_DEFAULT: u32 = 500;

pub(super) type RawId = Result<Path<String>, PathRejection>;

/// 404.
pub(super) fn not_found(what: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}"))
}

/// The id in the path. What is none is not found, like one that does not exist.
pub(super) fn id<T: FromStr>(id: RawId, what: &str) -> Result<T, Problem> {
    id.ok().and_then(|Path(id)| id.parse().ok()).ok_or_else(|| not_found(what))
}

/// A parameter of a query; an empty one is not there.
pub(super) type Parameter = Option<String>;

fn given(parameter: &Parameter) -> Option<&str> {
    parameter.as_deref().filter(|text| !text.is_empty())
}

pub(super) fn text(parameter: Parameter) -> Option<String> {
    parameter.filter(|text| !text.is_empty())
}

pub(super) fn parsed<T: FromStr>(field: &str, parameter: &Parameter, what: &str) -> Result<Option<T>, Problem> {
    let parse = |text: &str| text.parse().map_err(|_| Problem::field(field, format!("must be {what}")));
    given(parameter).map(parse).transpose()
}

/// One of `known`.
pub(super) fn one_of(field: &str, parameter: Parameter, known: &[&str]) -> Result<Option<String>, Problem> {
    match text(parameter) {
        Some(text) if !known.contains(&text.as_str()) => {
            Err(Problem::field(field, format!("must be one of {}", known.join(", "))))
        }
        text => Ok(text),
    }
}

fn limit_of(parameter: &Parameter, default: u32, among: RangeInclusive<u32>) -> Result<u32, Problem> {
    let what = format!("a number from {} to {}", among.start(), among.end());
    match parsed::<u32>("limit", parameter, &what)? {
        None => Ok(default),
        Some(limit) if among.contains(&limit) => Ok(limit),
        Some(_) => Err(Problem::field("limit", format!("must be {what}"))),
    }
}

/// A page of a list whose rows are in the order of their `C`.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(bound = "C: JsonSchema")]
pub(super) struct PageQuery<C> {
    /// The `next_cursor` of the page before.
    #[schemars(with = "Option<C>")]
    cursor: Parameter,
    /// How many rows, 50 if it is left out.
    #[schemars(with = "Option<u32>", range(min = 1, max = PAGE_MAX))]
    limit: Parameter,
    #[serde(skip)]
    order: PhantomData<C>,
}

impl<C: FromStr> PageQuery<C> {
    pub(super) fn cursor(&self) -> Result<Option<C>, Problem> {
        cursor(&self.cursor)
    }

    pub(super) fn limit(&self) -> Result<u32, Problem> {
        limit_of(&self.limit, PAGE_DEFAULT, 1..=PAGE_MAX)
    }
}

/// How many rows, where none may be asked for.
pub(super) fn limit_or_none(limit: &Parameter) -> Result<u32, Problem> {
    limit_of(limit, PAGE_DEFAULT, 0..=PAGE_MAX)
}

/// Where the next page begins.
pub(super) fn cursor<C: FromStr>(cursor: &Parameter) -> Result<Option<C>, Problem> {
    parsed("cursor", cursor, "the `next_cursor` of an earlier answer")
}

/// A part of the map.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(super) struct MapParameters {
    /// South, west, north and east in degrees, with commas; everywhere if it is left out. A west that is greater than the east crosses the
    /// antimeridian.
    r#box: Parameter,
    /// How many rows of each list, 500 if it is left out.
    #[schemars(with = "Option<u32>", range(min = 1, max = MAP_MAX))]
    limit: Parameter,
}

impl MapParameters {
    pub(super) fn read(&self) -> Result<MapQuery, Problem> {
        let within = given(&self.r#box).map(read_box).transpose()?;
        Ok(MapQuery { within, limit: limit_of(&self.limit, MAP_DEFAULT, 1..=MAP_MAX)? })
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

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "OptionalReason")]
pub(super) struct MayBeWhy {
    #[schemars(length(min = 1, max = REASON_MAX))]
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

    fn query<T: serde::de::DeserializeOwned>(text: &str) -> T {
        let uri = format!("/?{text}").parse().unwrap();
        axum::extract::Query::try_from_uri(&uri).unwrap().0
    }

    #[test]
    fn a_box_is_four_degrees() {
        let map = |text: &str| query::<MapParameters>(text).read();
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
        let limit = |text: &str| query::<PageQuery<u64>>(text).limit();
        assert_eq!(limit(""), Ok(PAGE_DEFAULT));
        assert_eq!(limit("limit=200"), Ok(200));
        for wrong in ["limit=0", "limit=201", "limit=x", "limit=-1"] {
            assert_eq!(limit(wrong).unwrap_err().field.as_deref(), Some("limit"), "{wrong}");
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
