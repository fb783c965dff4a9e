//! Errors that clients see, with the same stable codes in both protocols: RFC 9457 over HTTP, an error frame over WebSocket.
//! Also the JSON extractor of all routes, so that a body that cannot be read becomes a problem like any other.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use axum::Router;
use axum::body::{Bytes, HttpBody as _};
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, OptionalFromRequest, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use streams::event::rfc3339;
use tokio::time::timeout;

use crate::store::StoreError;

/// An error that a client sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub status: StatusCode,
    /// Stable, for programs: `invalid_field`, `not_found` …
    pub code: Cow<'static, str>,
    /// For people: what was wrong, and what would be right.
    pub message: String,
    /// The field at fault, if it is one.
    pub field: Option<String>,
    /// Seconds after which the same request may succeed, if known.
    pub retry_after_s: Option<u64>,
    /// The name of the limit that was reached, if it is one of `limits::table`.
    pub limit: Option<&'static str>,
    /// When the same request may succeed, if it came too early.
    pub allowed_at: Option<DateTime<Utc>>,
}

impl Problem {
    /// A problem without a field.
    pub fn new(status: StatusCode, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let code = code.into();
        Self { status, code, message: message.into(), field: None, retry_after_s: None, limit: None, allowed_at: None }
    }

    /// 422: a field is missing, malformed or out of range.
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        let (status, field) = (StatusCode::UNPROCESSABLE_ENTITY, Some(field.into()));
        Self { field, ..Self::new(status, "invalid_field", message) }
    }

    /// 404: there is none, or it belongs to another user. The client cannot tell which.
    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("no such {what} of yours"))
    }

    /// 401.
    pub fn unauthorized(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// 403.
    pub fn forbidden(message: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// 409: the current state forbids it; `code` says how.
    pub fn conflict(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    /// 429: the same request may succeed after `retry_after_s` seconds.
    pub fn too_many_requests(message: impl Into<String>, retry_after_s: u64) -> Self {
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message);
        Self { retry_after_s: Some(retry_after_s), ..problem }
    }

    /// 503: a dependency does not answer; the same request may succeed later.
    pub fn unavailable() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "not possible at the moment: try the same again")
    }

    /// 503: this process has too much to do, and drops what matters least first.
    pub fn overloaded() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "too much to do at the moment: try the same again")
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "the store failed; the client gets `unavailable`");
        Self::unavailable()
    }
}

/// The body of a problem (RFC 9457).
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub struct ProblemBody {
    /// `about:blank`: problems differ by their `code`.
    r#type: &'static str,
    /// The name of the status.
    title: &'static str,
    /// That of the answer.
    #[schemars(range(min = 400, max = 599))]
    status: u16,
    /// Stable, for programs. There may be more codes in a later version.
    code: Cow<'static, str>,
    /// For people: what was wrong, and what would be right.
    detail: String,
    /// The field at fault, if it is one: a path with dots and indexes.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// The name of the limit that was reached, with `too_many_requests`.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'static str>,
    /// When the same request is allowed, if it came too early.
    #[serde(with = "rfc3339::optional", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DateTime<Utc>>")]
    allowed_at: Option<DateTime<Utc>>,
}

/// The content type of a problem.
pub const PROBLEM_JSON: &str = "application/problem+json";

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = ProblemBody {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            code: self.code,
            detail: self.message,
            field: self.field,
            limit: self.limit,
            allowed_at: self.allowed_at,
        };
        let text = serde_json::to_string(&body).expect("a struct of texts and numbers is JSON");
        let kind = (header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        let mut response = (self.status, [kind], text).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            let seconds = HeaderValue::from(self.retry_after_s.unwrap_or(1));
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

/// Limit of a request's body, bytes.
pub const BODY_MAX: usize = 16 * 1024;
/// Limit of the wait for a whole body.
const BODY_WAIT: Duration = Duration::from_secs(10);

/// A JSON body. As an extractor it reads the request's, and rejects with a [`Problem`]; as a response it writes one.
#[derive(Debug, Clone, Copy)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        require_json(request.headers())?;
        let body = read_body(request, state, BODY_MAX).await?;
        read_json(&body).map(|Object(body)| Self(body))
    }
}

/// The whole body, of at most `most` bytes.
///
/// # Errors
/// `body_too_large`, `invalid_json` if it breaks off, `body_too_slow`.
pub async fn read_body<S: Send + Sync>(mut request: Request, state: &S, most: usize) -> Result<Bytes, Problem> {
    let too_large = || {
        let message = format!("the body has more than {most} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    };
    // By the length that the head names, before any of it is read.
    if request.body().size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    DefaultBodyLimit::max(most).apply(&mut request);
    match timeout(BODY_WAIT, Bytes::from_request(request, state)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(too_large()),
        Ok(Err(_)) => Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_json", "the body broke off")),
        Err(_) => {
            let message = format!("the body did not arrive within {BODY_WAIT:?}");
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", message))
        }
    }
}

/// Refuses a request whose header does not say that its body is JSON.
///
/// # Errors
/// `unsupported_media_type`.
pub fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    if is_json(headers) {
        return Ok(());
    }
    let message = "the body must be JSON, and the header `Content-Type: application/json` must say so";
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message))
}

/// `None` if the request has no body at all.
impl<T: DeserializeOwned, S: Send + Sync> OptionalFromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, Problem> {
        if request.body().size_hint().exact() == Some(0) {
            return Ok(None);
        }
        <Self as FromRequest<S>>::from_request(request, state).await.map(Some)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// The parameters of a query. It rejects with a [`Problem`] of the field `query`.
#[derive(Debug, Clone, Copy)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = axum::extract::Query::try_from_uri(&parts.uri);
        query.map(|axum::extract::Query(query)| Self(query)).map_err(|why| Problem::field("query", why.body_text()))
    }
}

/// Whether the content type is `application/json` or `application/*+json`, with any parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind.strip_prefix("application/").is_some_and(|sub| sub == "json" || sub.ends_with("+json"))
}

/// Parses JSON from a client.
///
/// # Errors
/// `invalid_json` if it is not JSON; `invalid_field` with the path of the field (`points[3].lat`) if one is missing or
/// malformed.
pub fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let broken = |error: serde_json::Error| {
        Problem::new(StatusCode::BAD_REQUEST, "invalid_json", format!("the body is not JSON: {error}"))
    };
    let mut from = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut from).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        if !error.is_data() {
            return broken(error);
        }
        let message = error.to_string();
        match field_of(&path, &message) {
            Some(field) => Problem::field(field, message),
            None => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_field", message),
        }
    })?;
    from.end().map_err(broken)?;
    Ok(value)
}

/// A JSON object. A derived struct alone would also accept a list of its values.
#[derive(Debug, Clone, Copy, Default, JsonSchema)]
#[schemars(inline)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Map<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Map<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        from.deserialize_map(Map(PhantomData))
    }
}

/// The field at fault; none if it is the whole body. serde names a missing field only in the error's text.
fn field_of(path: &str, message: &str) -> Option<String> {
    let parent = (path != ".").then_some(path);
    let missing = message.strip_prefix("missing field `").and_then(|rest| rest.split_once('`')).map(|(name, _)| name);
    match (parent, missing) {
        (Some(parent), Some(name)) => Some(format!("{parent}.{name}")),
        (parent, missing) => parent.or(missing).map(str::to_owned),
    }
}

/// Adds fallbacks to the routes: 404 `no_such_route` and 405 `method_not_allowed`. To be called once, on all routes of the
/// process.
pub fn with_fallbacks(routes: Router) -> Router {
    routes.fallback(no_such_route).method_not_allowed_fallback(method_not_allowed)
}

async fn no_such_route() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no_such_route", "there is no such route here")
}

async fn method_not_allowed() -> Problem {
    let message = "this route does not have that method: the header `Allow` has those that it has";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Body {
        #[serde(rename = "points")]
        _points: Vec<Point>,
    }

    #[derive(Debug, Deserialize)]
    struct Point {
        #[serde(rename = "lat")]
        _lat: f64,
    }

    #[test]
    fn an_error_in_a_body_names_its_field() {
        let cases = [
            ("", "400 invalid_json -"),
            ("{", "400 invalid_json -"),
            (r#"{"points": []} x"#, "400 invalid_json -"),
            ("[1]", "422 invalid_field [0]"),
            ("7", "422 invalid_field -"),
            ("{}", "422 invalid_field points"),
            (r#"{"points": 7}"#, "422 invalid_field points"),
            (r#"{"points": [{"lat": 1}, {}]}"#, "422 invalid_field points[1].lat"),
            (r#"{"points": [{"lat": "x"}]}"#, "422 invalid_field points[0].lat"),
        ];
        for (body, expected) in cases {
            let problem = read_json::<Body>(body.as_bytes()).unwrap_err();
            let field = problem.field.as_deref().unwrap_or("-");
            assert_eq!(format!("{} {} {field}", problem.status.as_u16(), problem.code), expected, "{body}");
        }
        assert!(read_json::<Body>(br#"{"points": [], "unknown": 1}"#).is_ok());
        let list = read_json::<Object<Body>>(b"[[]]").map(drop).unwrap_err();
        assert_eq!((list.status.as_u16(), list.field), (422, None), "a list of the fields' values is no object");
    }

    #[test]
    fn json_is_recognised_by_its_content_type() {
        let recognised = |value: &str| is_json(&[(header::CONTENT_TYPE, value.parse().unwrap())].into_iter().collect());
        assert!(
            recognised("application/json")
                && recognised("Application/JSON; charset=utf-8")
                && recognised("application/merge-patch+json")
        );
        assert!(
            !recognised("text/plain")
                && !recognised("application/x-www-form-urlencoded")
                && !is_json(&HeaderMap::new())
        );
    }
}
