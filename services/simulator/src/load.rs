//! People for measurements: signed in and connected, many at once, without any behaviour of their own. It owns no clock and
//! measures nothing.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::account::{self, Account};
use crate::frame::{self, Frame};
use crate::http::Http;
use crate::transport::{Connection, Transport};

/// Sign-ins at once.
const AT_ONCE: usize = 16;

/// Somebody who is signed in.
#[derive(Debug)]
pub struct Person {
    /// The user id.
    pub id: String,
    account: Account,
    http: Http,
}

/// The half of a socket that sends.
#[derive(Debug)]
pub struct Sender(SplitSink<WebSocketStream<Connection>, Message>);

/// The half of a socket that receives.
#[derive(Debug)]
pub struct Receiver(SplitStream<WebSocketStream<Connection>>);

/// A GET without a token: status and body, which is JSON or null.
///
/// # Errors
/// Without an answer in time.
pub async fn get(url: &str, path: &str) -> Result<(u16, Value)> {
    let reply = Http::new(url)?.call(hyper::Method::GET, path, None, None).await?;
    Ok((reply.status, reply.body))
}

/// Signs in `count` people, numbered from `first` on in the block of phones of `run_id`; drivers of cars if a `plate`
/// prefix is given.
///
/// # Errors
/// The first sign-in that fails.
pub async fn people(url: &str, run_id: u64, first: usize, count: usize, plate: Option<&str>) -> Result<Vec<Person>> {
    people_over(&Transport::Tcp, url, run_id, first, count, plate).await
}

/// As [`people`], over any transport.
///
/// # Errors
/// The first sign-in that fails.
pub async fn people_over(
    transport: &Transport,
    url: &str,
    run_id: u64,
    first: usize,
    count: usize,
    plate: Option<&str>,
) -> Result<Vec<Person>> {
    let http = Http::over(transport, url)?;
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for index in first..first + count {
        let permit = permits.clone().acquire_owned().await.context("sign-in")?;
        let (http, plate) = (http.clone(), plate.map(|prefix| format!("{prefix}{index}")));
        tasks.spawn(async move {
            let account = Account::sign_in(vec![http.clone()], account::phone(run_id, index)).await?;
            if let Some(plate) = plate {
                account.become_driver("car", &plate).await?;
            }
            drop(permit);
            Ok::<_, anyhow::Error>(Person { id: account.user_id.clone(), account, http })
        });
    }
    let mut people = Vec::with_capacity(count);
    while let Some(person) = tasks.join_next().await {
        people.push(person??);
    }
    Ok(people)
}

impl Person {
    /// Opens a socket for what comes from now on, and reads the welcome.
    ///
    /// # Errors
    /// If the platform refuses it.
    pub async fn connect(&self) -> Result<(Sender, Receiver)> {
        let (sender, receiver, _) = self.open("/v1/ws").await?;
        Ok((sender, receiver))
    }

    /// Opens a socket for what comes after the event `last_seq`, and reads the welcome. Returns also the newest `seq` that
    /// it names.
    ///
    /// # Errors
    /// If the platform refuses it.
    pub async fn resume(&self, last_seq: u64) -> Result<(Sender, Receiver, u64)> {
        self.open(&format!("/v1/ws?last_seq={last_seq}")).await
    }

    async fn open(&self, path: &str) -> Result<(Sender, Receiver, u64)> {
        let mut request = format!("ws://{}{}", self.http.authority(), self.http.path(path)).into_client_request()?;
        let token = format!("Bearer {}", self.account.token().await?);
        request.headers_mut().insert("authorization", token.parse()?);
        let mut config = tokio_tungstenite::tungstenite::protocol::WebSocketConfig::default();
        config.read_buffer_size = 4096;
        let connection = self.http.connect().await?;
        let (socket, _) = client_async_with_config(request, connection, Some(config)).await?;
        let (sender, receiver) = socket.split();
        let mut receiver = Receiver(receiver);
        let newest = match frame::parse(&receiver.next().await.context("no welcome")?.to_string()) {
            Ok(Frame::Welcome { last_seq, .. }) => last_seq,
            other => bail!("the first frame is no welcome but {other:?}"),
        };
        Ok((Sender(sender), receiver, newest))
    }
}

impl Sender {
    /// Sends a command; with an `id` it is answered.
    ///
    /// # Errors
    /// If the socket is closed.
    pub async fn send(&mut self, id: Option<&str>, kind: &str, data: &Value) -> Result<()> {
        Ok(self.0.send(Message::text(frame::command(id, kind, data))).await?)
    }
}

impl Receiver {
    /// The next text frame as JSON; `None` once the socket is closed.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            match self.0.next().await? {
                Ok(Message::Text(text)) => return serde_json::from_str(&text).ok(),
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}
