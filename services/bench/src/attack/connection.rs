//! Connections from an address of the attacker's choosing: HTTP, WebSocket, and bare bytes.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const WAIT: Duration = Duration::from_secs(10);

pub(super) async fn tcp(from: Ipv4Addr, url: &str) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((from, 0).into())?;
    let to = url.rsplit('/').next().context("no address")?.parse()?;
    Ok(timeout(WAIT, socket.connect(to)).await??)
}

/// A keep-alive connection, which reconnects when it ends.
pub(super) struct Http {
    from: Ipv4Addr,
    url: String,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Http {
    pub(super) fn new(from: Ipv4Addr, url: &str) -> Self {
        Self { from, url: url.to_owned(), sender: None }
    }

    /// The status and the JSON of the answer.
    ///
    /// # Errors
    /// If the connection is refused or ends; the next call makes a new one.
    pub(super) async fn call(
        &mut self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: &Value,
    ) -> Result<(u16, Value)> {
        let answer = timeout(WAIT, self.send(method, path, token, body)).await;
        let answer = answer.map_err(anyhow::Error::from).and_then(|answer| answer);
        if answer.is_err() {
            self.sender = None;
        }
        answer
    }

    async fn send(&mut self, method: &str, path: &str, token: Option<&str>, body: &Value) -> Result<(u16, Value)> {
        if self.sender.as_ref().is_none_or(SendRequest::is_closed) {
            let (sender, connection) = handshake(TokioIo::new(tcp(self.from, &self.url).await?)).await?;
            tokio::spawn(connection);
            self.sender = Some(sender);
        }
        let sender = self.sender.as_mut().context("no connection")?;
        sender.ready().await?;
        let mut request = Request::builder().method(method).uri(path).header("host", "attacker");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let request = request.header("content-type", "application/json").body(Full::new(bytes))?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await?.to_bytes();
        Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    }

    /// A new account of this attacker, with its access and its refresh token.
    ///
    /// # Errors
    /// If the platform refuses it.
    pub(super) async fn sign_in(&mut self, phone: &str) -> Result<(String, String)> {
        let (status, code) = self.call("POST", "/v1/auth/otp", None, &json!({"phone": phone})).await?;
        ensure!(status == 202, "no code: {status} {code}");
        let body = json!({"phone": phone, "code": code["code"], "request_id": code["request_id"]});
        let (status, tokens) = self.call("POST", "/v1/auth/token", None, &body).await?;
        ensure!(status == 200, "no tokens: {status} {tokens}");
        let text = |name: &str| tokens[name].as_str().unwrap_or_default().to_owned();
        Ok((text("access_token"), text("refresh_token")))
    }
}

pub(super) struct WebSocket(pub(super) WebSocketStream<TcpStream>);

impl WebSocket {
    pub(super) async fn open(from: Ipv4Addr, url: &str, token: &str) -> Result<Self> {
        let mut request = format!("ws://{}/v1/ws", url.trim_start_matches("http://")).into_client_request()?;
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse()?);
        let (stream, _) = timeout(WAIT, tokio_tungstenite::client_async(request, tcp(from, url).await?)).await??;
        Ok(Self(stream))
    }

    /// Sends a command and counts the answers that have come meanwhile: acks and errors.
    pub(super) async fn send(&mut self, kind: &str, data: &Value) -> Result<()> {
        let text = json!({"id": "x", "type": kind, "data": data}).to_string();
        Ok(timeout(WAIT, self.0.send(Message::text(text))).await??)
    }

    /// The answer to the last command: whether it was acked.
    pub(super) async fn answer(&mut self) -> Result<bool> {
        loop {
            let message = timeout(WAIT, self.0.next()).await?.context("closed")??;
            if let Message::Text(text) = message {
                let frame: Value = serde_json::from_str(&text)?;
                match frame["type"].as_str() {
                    Some("ack") => return Ok(true),
                    Some("error") => return Ok(false),
                    _ => {}
                }
            }
        }
    }
}
