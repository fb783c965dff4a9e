//! `GET /v1/ws`: who may open a WebSocket, and the WebSocket as a session's frames.
//!
//! The handshake of RFC 6455 is done here and not by axum, because the bytes of a client go through a [`FrameMeter`] on their
//! way to the WebSocket library.

use std::sync::atomic::Ordering;
use std::task::Poll;

use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_util::{Sink, SinkExt, Stream, StreamExt, future, stream};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use platform::Problem;
use platform::api::Schemas;
use platform::routes::Routes;
use schemars::JsonSchema;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::frame_meter::FrameMeter;
use super::rate_limit::Bucket;
use super::session;
use super::transport::{FRAME_MAX, Incoming, Outgoing, SocketRequest};
use crate::context::Context;

const SUBPROTOCOL: &str = "bearer";
/// Buffers of one socket, in bytes. The library's defaults cost 133 KiB a socket. It holds the read buffer as long as the socket is
/// open; a larger frame gets a larger one.
const READ_BUFFER: usize = 1_024;
const WRITE_BUFFER_MAX: usize = 256 * 1024;
/// A frame of up to twice the limit is read whole, so that its client gets an error frame before the close.
const READ_MAX: usize = 2 * FRAME_MAX;

pub(crate) fn routes() -> Routes<Context> {
    Routes::default()
        .get("/v1/ws", upgrade)
        .described(
            "The WebSocket: its frames are in the AsyncAPI document. A browser sends `Sec-WebSocket-Protocol: bearer, <token>`.",
            &["unauthorized", "invalid_field", "upgrade_required"],
        )
        .with(|operation| {
            operation.needs_sign_in = true;
            operation.query = Some(Schemas::read::<SocketQuery>);
            operation.add_answer(101, None);
        })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenSource {
    Header,
    /// A browser cannot set headers, and sends `Sec-WebSocket-Protocol: bearer, <token>`.
    Subprotocol,
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn token(headers: &HeaderMap) -> Option<(&str, TokenSource)> {
    if let Some((scheme, token)) = text(headers, header::AUTHORIZATION).and_then(|v| v.split_once(' ')) {
        return scheme.eq_ignore_ascii_case("bearer").then_some((token.trim(), TokenSource::Header));
    }
    let mut offered = text(headers, header::SEC_WEBSOCKET_PROTOCOL)?.split(',').map(str::trim);
    match (offered.next(), offered.next()) {
        (Some(SUBPROTOCOL), Some(token)) => Some((token, TokenSource::Subprotocol)),
        _ => None,
    }
}

/// The parameters of the query; the socket reads them itself.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "its schema alone is used")]
struct SocketQuery {
    /// The newest event that the client has; without it only events from now on come.
    last_seq: Option<u64>,
    /// The installation of the app, of its own choosing.
    #[schemars(length(min = 1, max = 64))]
    device: Option<String>,
}

/// `last_seq` and `device` of the query; of a name that comes twice the first.
fn parameters(query: &[(String, String)], request: SocketRequest) -> Result<SocketRequest, Problem> {
    let first = |name| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let wrong = |_| Problem::field("last_seq", "must be a whole number, 0 or more");
    let last_seq = first("last_seq").map(|text| text.parse().map_err(wrong)).transpose()?;
    let request = SocketRequest { last_seq, ..request };
    match first("device") {
        None => Ok(request),
        Some(name) => {
            request.on_device(name).ok_or_else(|| Problem::field("device", "must have 1 to 64 visible characters"))
        }
    }
}

/// The `Sec-WebSocket-Accept` of a request that is a handshake (RFC 6455, 4.2.1).
fn accept_key(headers: &HeaderMap) -> Option<String> {
    let has = |name, word: &str| {
        let values = headers.get_all(name).iter().filter_map(|value: &HeaderValue| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(word))
    };
    let is_handshake = has(header::CONNECTION, "upgrade")
        && has(header::UPGRADE, "websocket")
        && text(headers, header::SEC_WEBSOCKET_VERSION) == Some("13");
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    is_handshake.then(|| derive_accept_key(key.as_bytes()))
}

async fn upgrade(State(context): State<Context>, mut request: Request) -> Result<Response, Problem> {
    let missing = "the header `Authorization: Bearer <access token>` is missing";
    let (token, token_source) = token(request.headers()).ok_or_else(|| Problem::unauthorized(missing))?;
    let access = context.tokens.verify(token)?;
    let query = Query::<Vec<(String, String)>>::try_from_uri(request.uri()).map(|Query(query)| query);
    let socket_request = parameters(&query.unwrap_or_default(), SocketRequest::new(access, None))?;
    let not_one = || Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", "this route is a WebSocket");
    let accept = accept_key(request.headers()).ok_or_else(not_one)?;
    let connection = request.extensions_mut().remove::<OnUpgrade>().ok_or_else(not_one)?;
    // The session checks the limits again. Here a client still gets a status, which a browser does not show.
    context.sockets.check_limits(&context.config).map_err(|_| Problem::unavailable())?;
    tokio::spawn(async move {
        match connection.await {
            Ok(upgraded) => Box::pin(serve(context, socket_request, upgraded)).await,
            Err(error) => tracing::debug!(%error, "a connection did not become a WebSocket"),
        }
    });
    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, accept);
    if token_source == TokenSource::Subprotocol {
        response = response.header(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
    }
    response.body(Body::empty()).map_err(|_| Problem::unavailable())
}

async fn serve(context: Context, request: SocketRequest, upgraded: Upgraded) {
    let (incoming, outgoing) = frames(&context, upgraded).await;
    session::serve(&context, request, incoming, outgoing).await;
}

/// The frames of a WebSocket, in both directions.
async fn frames(
    context: &Context,
    upgraded: Upgraded,
) -> (impl Stream<Item = Incoming> + Unpin + Send + use<>, impl Sink<Outgoing> + Unpin + Send + use<>) {
    let meter = FrameMeter::new(TokioIo::new(upgraded), Bucket::full(context.frames_quota(), Instant::now()));
    let exceeded = meter.exceeded();
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER_MAX)
        .max_message_size(Some(READ_MAX))
        .max_frame_size(Some(READ_MAX));
    let (sink, mut messages) = WebSocketStream::from_raw_socket(meter, Role::Server, Some(config)).await.split();
    let incoming = stream::poll_fn(move |cx| {
        loop {
            return match messages.poll_next_unpin(cx) {
                Poll::Pending if exceeded.swap(false, Ordering::Relaxed) => Poll::Ready(Some(Incoming::TooFast)),
                Poll::Pending => Poll::Pending,
                Poll::Ready(None | Some(Ok(Message::Close(_)))) => Poll::Ready(None),
                Poll::Ready(Some(Ok(Message::Frame(_)))) => continue,
                Poll::Ready(Some(Ok(message))) => Poll::Ready(Some(incoming_of(message))),
                // After an error nothing can be read. The session tells the client why before it closes.
                Poll::Ready(Some(Err(error))) => Poll::Ready(incoming_of_error(&error)),
            };
        }
    });
    let outgoing = sink.with(|frame| {
        future::ready(Ok::<_, Error>(match frame {
            Outgoing::Text(text) => Message::Text(text.into()),
            Outgoing::Ping => Message::Ping(axum::body::Bytes::new()),
            Outgoing::Close(code, reason) => {
                Message::Close(Some(CloseFrame { code: code.into(), reason: Utf8Bytes::from_static(reason) }))
            }
        }))
    });
    (incoming, outgoing)
}

fn incoming_of(message: Message) -> Incoming {
    match message {
        Message::Text(text) => Incoming::Text(text.as_str().to_owned()),
        Message::Binary(_) => Incoming::Binary,
        _ => Incoming::Alive,
    }
}

/// `None` if the connection is gone.
fn incoming_of_error(error: &Error) -> Option<Incoming> {
    match error {
        Error::Capacity(_) => Some(Incoming::TooLarge),
        Error::Utf8(_) => Some(Incoming::NotUtf8),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(_) => Some(Incoming::NotWebSocket),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use platform::token::Access;
    use streams::UserId;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_token_comes_by_header_or_by_subprotocol() {
        let by = |name: header::HeaderName, value: &str| {
            let headers = [(name, value.parse().unwrap())].into_iter().collect();
            token(&headers).map(|(token, source)| (token.to_owned(), source))
        };
        assert_eq!(by(header::AUTHORIZATION, "Bearer abc"), Some(("abc".to_owned(), TokenSource::Header)));
        assert_eq!(by(header::AUTHORIZATION, "bearer  abc "), Some(("abc".to_owned(), TokenSource::Header)));
        assert_eq!(by(header::AUTHORIZATION, "Basic abc"), None);
        assert_eq!(
            by(header::SEC_WEBSOCKET_PROTOCOL, "bearer, abc"),
            Some(("abc".to_owned(), TokenSource::Subprotocol))
        );
        assert_eq!(by(header::SEC_WEBSOCKET_PROTOCOL, "bearer"), None);
        assert_eq!(by(header::SEC_WEBSOCKET_PROTOCOL, "chat, bearer"), None);
        assert_eq!(token(&HeaderMap::new()), None);
    }

    #[test]
    fn last_seq_is_a_whole_number_and_a_device_has_a_visible_name() {
        let parsed = |query: &str| {
            let uri = format!("/v1/ws?{query}").parse().unwrap();
            let Query(query) = Query::<Vec<(String, String)>>::try_from_uri(&uri).unwrap();
            let user = UserId(Uuid::nil());
            let access = Access { user, sign_in: None, expires_at: DateTime::UNIX_EPOCH };
            parameters(&query, SocketRequest::new(access, None))
                .map(|request| (request.last_seq, request.device.as_str().to_owned()))
                .map_err(|problem| problem.field.unwrap_or_default())
        };
        let of = |last_seq: Option<u64>, device: &str| Ok((last_seq, device.to_owned()));
        assert_eq!(parsed(""), of(None, ""));
        assert_eq!(parsed("a=1&b"), of(None, ""));
        assert_eq!(parsed("a=1&last_seq=7"), of(Some(7), ""));
        assert_eq!(parsed("device=pixel-8%2F1&last_seq=0"), of(Some(0), "pixel-8/1"));
        assert_eq!(parsed("device=%C3%84nne&device="), of(None, "Änne"));
        for wrong in ["last_seq=", "last_seq=-1", "last_seq=x", "last_seq=1.0"] {
            assert_eq!(parsed(wrong), Err("last_seq".to_owned()), "{wrong}");
        }
        for wrong in ["device=", "device", "device=a%20b", "device=%00", &format!("device={}", "x".repeat(65))] {
            assert_eq!(parsed(wrong), Err("device".to_owned()), "{wrong}");
        }
    }

    #[test]
    fn a_handshake_is_answered_with_the_key_of_rfc_6455() {
        let handshake = |without: Option<header::HeaderName>| {
            let headers = [
                (header::CONNECTION, "keep-alive, Upgrade"),
                (header::UPGRADE, "WebSocket"),
                (header::SEC_WEBSOCKET_VERSION, "13"),
                (header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
            ];
            let kept = headers.into_iter().filter(|(name, _)| Some(name) != without.as_ref());
            accept_key(&kept.map(|(name, value)| (name, HeaderValue::from_static(value))).collect())
        };
        assert_eq!(handshake(None).as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        for name in [header::CONNECTION, header::UPGRADE, header::SEC_WEBSOCKET_VERSION, header::SEC_WEBSOCKET_KEY] {
            assert_eq!(handshake(Some(name)), None);
        }
    }
}
