//! A WebSocket connection: its opening with token and `last_seq`, text frames in and out, its end. It owns the limits of
//! the protocol's library and knows nothing of commands and events.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::account::Account;
use crate::frame::{self, Frame};
use crate::http::Http;
use crate::transport::Connection;

/// From the first packet to the welcome.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// A peer that takes no frame for so long is gone.
const SEND_LIMIT: Duration = Duration::from_secs(10);
/// For the goodbye.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// The largest message that is read.
const MESSAGE_LIMIT: usize = 1 << 20;

/// An open, welcomed connection.
#[derive(Debug)]
pub(crate) struct Socket(WebSocketStream<Connection>);

/// What was read.
#[derive(Debug)]
pub(crate) enum Read {
    Text(String),
    /// A ping, a pong: answered by the library.
    Nothing,
    /// The end, with the close code or the error's kind.
    Closed(String),
}

impl Socket {
    /// Connects and waits for the welcome. Returns also the user and the newest `seq` that it names.
    ///
    /// # Errors
    /// No connection, a refused token (the account is told), or no welcome as the first frame.
    pub(crate) async fn open(http: &Http, account: &Account, last_seq: u64) -> Result<(Self, String, u64)> {
        let token = account.token().await?;
        let opening = async {
            let connection = http.connect().await?;
            let url = format!("ws://{}{}?last_seq={last_seq}", http.authority(), http.path("/v1/ws"));
            let mut request = url.into_client_request()?;
            let bearer = HeaderValue::try_from(format!("Bearer {token}")).context("the token is no header")?;
            request.headers_mut().insert(header::AUTHORIZATION, bearer);
            let mut stream = match client_async_with_config(request, connection, Some(limits())).await {
                Ok((stream, _)) => stream,
                Err(Error::Http(reply)) => {
                    if reply.status().as_u16() == 401 {
                        account.refused(&token).await;
                    }
                    bail!("GET /v1/ws: {}", reply.status());
                }
                Err(error) => return Err(error.into()),
            };
            loop {
                let message = stream.next().await.context("closed before the welcome")??;
                match message {
                    Message::Text(frame) => match frame::parse(&frame) {
                        Ok(Frame::Welcome { user_id, last_seq }) => return Ok((Self(stream), user_id, last_seq)),
                        other => bail!("the first frame is no welcome but {other:?}"),
                    },
                    Message::Close(frame) => bail!("closed before the welcome: {frame:?}"),
                    _ => {}
                }
            }
        };
        match timeout(OPEN_LIMIT, opening).await {
            Ok(opened) => opened,
            Err(_) => bail!("no welcome within {OPEN_LIMIT:?}"),
        }
    }

    /// The next message. Nothing is lost if this is dropped while it waits.
    pub(crate) async fn read(&mut self) -> Read {
        match self.0.next().await {
            Some(Ok(Message::Text(frame))) => Read::Text(frame.as_str().to_owned()),
            Some(Ok(Message::Close(frame))) => {
                Read::Closed(frame.map_or_else(|| "no code".to_owned(), |frame| u16::from(frame.code).to_string()))
            }
            Some(Ok(Message::Binary(_))) => Read::Closed("a binary frame".to_owned()),
            Some(Ok(_)) => Read::Nothing,
            Some(Err(error)) => {
                tracing::debug!(%error, "connection lost while reading");
                Read::Closed("connection lost".to_owned())
            }
            None => Read::Closed("connection lost".to_owned()),
        }
    }

    /// # Errors
    /// The connection is gone, or takes nothing.
    pub(crate) async fn send(&mut self, frame: String) -> Result<()> {
        timeout(SEND_LIMIT, self.0.send(Message::text(frame))).await.context("the peer takes nothing")??;
        Ok(())
    }

    /// Says goodbye; whether it is heard does not matter.
    pub(crate) async fn close(mut self) {
        let goodbye = async {
            if self.0.close(None).await.is_ok() {
                while let Some(Ok(_)) = self.0.next().await {}
            }
        };
        if timeout(CLOSE_LIMIT, goodbye).await.is_err() {
            tracing::debug!("no answer to the close frame");
        }
    }
}

/// The defaults take 64 MiB messages, buffer without limit and cost 133 KiB a socket.
fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4096)
        .write_buffer_size(0)
        .max_write_buffer_size(MESSAGE_LIMIT)
        .max_message_size(Some(MESSAGE_LIMIT))
        .max_frame_size(Some(MESSAGE_LIMIT))
}
