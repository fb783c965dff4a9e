//! `GET /v1/ws`: who may open a WebSocket, and the WebSocket as a session's frames.

use axum::Router;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use futures_util::{SinkExt, StreamExt, future};
use platform::Problem;
use streams::UserId;
use tokio_tungstenite::tungstenite;

use super::frame::FRAME_MAX;
use super::session;
use super::sockets::AdmissionError;
use super::transport::{Incoming, Outgoing};
use crate::context::Context;

const SUBPROTOCOL: &str = "bearer";
/// Buffers of one socket, in bytes. The library's defaults cost 133 KiB a socket.
const READ_BUFFER: usize = 4_096;
const WRITE_BUFFER_MAX: usize = 256 * 1024;
/// A frame of up to twice the limit is read whole, so that its client gets an error frame before the close.
const READ_MAX: usize = 2 * FRAME_MAX;

pub(crate) fn router() -> Router<Context> {
    Router::new().route("/v1/ws", get(upgrade))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenSource {
    Header,
    /// A browser cannot set headers, and sends `Sec-WebSocket-Protocol: bearer, <token>`.
    Subprotocol,
}

fn token(headers: &HeaderMap) -> Option<(&str, TokenSource)> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    if let Some((scheme, token)) = text(header::AUTHORIZATION).and_then(|v| v.split_once(' ')) {
        return scheme.eq_ignore_ascii_case("bearer").then_some((token.trim(), TokenSource::Header));
    }
    let mut offered = text(header::SEC_WEBSOCKET_PROTOCOL)?.split(',').map(str::trim);
    match (offered.next(), offered.next()) {
        (Some(SUBPROTOCOL), Some(token)) => Some((token, TokenSource::Subprotocol)),
        _ => None,
    }
}

fn last_seq(query: Option<&str>) -> Result<Option<u64>, Problem> {
    let mut pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let wrong = |_| Problem::field("last_seq", "must be a whole number, 0 or more");
    pairs.find(|(name, _)| *name == "last_seq").map(|(_, text)| text.parse().map_err(wrong)).transpose()
}

async fn upgrade(
    State(context): State<Context>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    socket: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let missing = "the header `Authorization: Bearer <access token>` is missing";
    let (token, token_source) = token(&headers).ok_or_else(|| Problem::unauthorized(missing))?;
    let user = context.tokens.verify(token)?.user;
    let last_seq = last_seq(query.as_deref())?;
    let not_one = |_| Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", "this route is a WebSocket");
    let socket = socket.map_err(not_one)?;
    // The session checks the limits again. Here a client still gets a status, which a browser does not show.
    match context.sockets.check_limits(user, &context.config) {
        Ok(()) => {}
        Err(AdmissionError::UserLimit) => {
            return Err(Problem::too_many_requests("you have too many open sockets: close one first", 1));
        }
        Err(AdmissionError::Closing | AdmissionError::PodLimit) => return Err(Problem::unavailable()),
    }
    let socket = socket
        .max_message_size(READ_MAX)
        .max_frame_size(READ_MAX)
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER_MAX);
    let socket = match token_source {
        TokenSource::Header => socket,
        TokenSource::Subprotocol => socket.protocols([SUBPROTOCOL]),
    };
    Ok(socket.on_upgrade(move |socket| Box::pin(serve(context, user, last_seq, socket))))
}

async fn serve(context: Context, user: UserId, last_seq: Option<u64>, socket: WebSocket) {
    let (sink, stream) = socket.split();
    // After an error nothing can be read. If a frame was too large, the session sends the client an error first.
    let incoming = stream.scan(false, |ended, read| {
        future::ready(match read {
            _ if *ended => None,
            Ok(Message::Text(text)) => Some(Incoming::Text(text.as_str().to_owned())),
            Ok(Message::Binary(_)) => Some(Incoming::Binary),
            Ok(Message::Ping(_) | Message::Pong(_)) => Some(Incoming::Alive),
            Ok(Message::Close(_)) => None,
            Err(error) => {
                *ended = true;
                let error = error.into_inner().downcast::<tungstenite::Error>();
                error.is_ok_and(|e| matches!(*e, tungstenite::Error::Capacity(_))).then_some(Incoming::TooLarge)
            }
        })
    });
    let outgoing = sink.with(|frame| {
        future::ready(Ok::<_, axum::Error>(match frame {
            Outgoing::Text(text) => Message::Text(text.into()),
            Outgoing::Ping => Message::Ping(axum::body::Bytes::new()),
            Outgoing::Close(code, reason) => {
                Message::Close(Some(CloseFrame { code, reason: Utf8Bytes::from_static(reason) }))
            }
        }))
    });
    session::serve(&context, user, last_seq, incoming, outgoing).await;
}

#[cfg(test)]
mod tests {
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
    fn last_seq_is_a_whole_number() {
        let parsed = |query| last_seq(query).map_err(|problem| problem.field);
        assert_eq!(parsed(None), Ok(None));
        assert_eq!(parsed(Some("a=1&b")), Ok(None));
        assert_eq!(parsed(Some("a=1&last_seq=7")), Ok(Some(7)));
        for wrong in ["last_seq=", "last_seq=-1", "last_seq=x", "last_seq=1.0"] {
            assert_eq!(parsed(Some(wrong)), Err(Some("last_seq".to_owned())), "{wrong}");
        }
    }
}
