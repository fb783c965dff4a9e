//! A WebSocket to the platform: opened with token and `last_seq`, text frames in and out, closed. It owns the limits of the
//! WebSocket library and knows no commands and events.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::account::Account;
use crate::frame::{self, Frame};
use crate::http::HttpClient;
use crate::transport::Connection;

/// The device of every person.
pub(crate) const PHONE: &str = "simulator";
/// The second device of some drivers.
pub(crate) const TABLET: &str = "tablet";
/// The wait for the welcome, from the connection on.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that accepts no frame for so long is gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// The wait for the peer's close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The largest message that is read, bytes.
const MESSAGE_MAX: usize = 1 << 20;

/// An open WebSocket whose welcome has been read.
#[derive(Debug)]
pub(crate) struct Socket(WebSocketStream<Connection>);

/// What the welcome says.
#[derive(Debug)]
pub(crate) struct Welcome {
    pub(crate) user_id: String,
    /// The newest `seq` of the mailbox.
    pub(crate) last_seq: u64,
    /// The body of `GET /v1/state`.
    pub(crate) state: Value,
    /// `track_max_speed_mps` of its limits: faster motion is no track.
    pub(crate) fastest_mps: Option<f64>,
}

#[derive(Debug)]
pub(crate) enum SocketInput {
    Text(String),
    /// A ping or a pong; the library answers pings.
    Control,
    /// The socket has ended: the close code, or what went wrong.
    Closed(String),
}

impl Socket {
    /// Opens a WebSocket for the events after `last_seq`, or without it for new events only, and reads the welcome.
    ///
    /// # Errors
    /// No connection, no welcome as the first frame within 10 s, or a refused token, which the next attempt refreshes.
    pub(crate) async fn open(
        client: &HttpClient,
        account: &Account,
        last_seq: Option<u64>,
        device: &str,
    ) -> Result<(Self, Welcome)> {
        let token = account.token().await?;
        let opening = async {
            let connection = client.connect().await?;
            let query = last_seq.map(|seq| format!("&last_seq={seq}")).unwrap_or_default();
            let url = format!("ws://{}{}?device={device}{query}", client.authority(), client.path("/v1/ws"));
            let mut request = url.into_client_request()?;
            let bearer = HeaderValue::try_from(format!("Bearer {token}")).context("the token is no header")?;
            request.headers_mut().insert(header::AUTHORIZATION, bearer);
            let mut stream = match client_async_with_config(request, connection, Some(limits())).await {
                Ok((stream, _)) => stream,
                Err(Error::Http(response)) => {
                    if response.status().as_u16() == 401 {
                        account.token_refused(&token).await;
                    }
                    bail!("GET /v1/ws: {}", response.status());
                }
                Err(error) => return Err(error.into()),
            };
            let welcome = read_welcome(&mut stream).await?;
            Ok((Self(stream), welcome))
        };
        match timeout(OPEN_TIMEOUT, opening).await {
            Ok(opened) => opened,
            Err(_) => bail!("no welcome within {OPEN_TIMEOUT:?}"),
        }
    }

    /// Cancel-safe: a message is not lost if the future is dropped while it waits.
    pub(crate) async fn read(&mut self) -> SocketInput {
        match self.0.next().await {
            Some(Ok(Message::Text(frame))) => SocketInput::Text(frame.as_str().to_owned()),
            Some(Ok(Message::Close(frame))) => SocketInput::Closed(
                frame.map_or_else(|| "no code".to_owned(), |frame| u16::from(frame.code).to_string()),
            ),
            Some(Ok(Message::Binary(_))) => SocketInput::Closed("a binary frame".to_owned()),
            Some(Ok(_)) => SocketInput::Control,
            Some(Err(error)) => {
                tracing::debug!(%error, "connection lost while reading");
                SocketInput::Closed("connection lost".to_owned())
            }
            None => SocketInput::Closed("connection lost".to_owned()),
        }
    }

    /// # Errors
    /// The connection is lost, or the peer accepts nothing for 10 s.
    pub(crate) async fn send(&mut self, frame: String) -> Result<()> {
        timeout(SEND_TIMEOUT, self.0.send(Message::text(frame))).await.context("the peer accepts nothing")??;
        Ok(())
    }

    /// Sends a close frame and waits a while for the peer's.
    pub(crate) async fn close(mut self) {
        let closing = async {
            if self.0.close(None).await.is_ok() {
                while let Some(Ok(_)) = self.0.next().await {}
            }
        };
        if timeout(CLOSE_TIMEOUT, closing).await.is_err() {
            tracing::debug!("no answer to the close frame");
        }
    }

    pub(crate) fn into_stream(self) -> WebSocketStream<Connection> {
        self.0
    }
}

async fn read_welcome(stream: &mut WebSocketStream<Connection>) -> Result<Welcome> {
    loop {
        match stream.next().await.context("closed before the welcome")?? {
            Message::Text(frame) => match frame::parse(&frame) {
                Ok(Frame::Welcome { user_id, last_seq, state, fastest_mps }) => {
                    return Ok(Welcome { user_id, last_seq, state, fastest_mps });
                }
                other => bail!("the first frame is no welcome but {other:?}"),
            },
            Message::Close(frame) => bail!("closed before the welcome: {frame:?}"),
            _ => {}
        }
    }
}

/// The library's defaults read 64 MiB messages, buffer without limit, and cost 133 KiB a socket.
fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4096)
        .write_buffer_size(0)
        .max_write_buffer_size(MESSAGE_MAX)
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX))
}
