//! Bare clients for measurements and tests: many people signed in and connected, without behaviour, statistics or checks.

use std::sync::Arc;

use anyhow::{Context, Result};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::account::{self, Account};
use crate::client::{PHONE, Socket};
use crate::frame;
use crate::http::HttpClient;
use crate::transport::{Connection, Transport};

const CONCURRENT_SIGN_INS: usize = 16;

/// Somebody who is signed in.
#[derive(Debug)]
pub struct Person {
    /// The user id.
    pub id: String,
    account: Account,
    client: HttpClient,
}

/// The sending half of a WebSocket.
#[derive(Debug)]
pub struct Sender(SplitSink<WebSocketStream<Connection>, Message>);

/// The receiving half of a WebSocket.
#[derive(Debug)]
pub struct Receiver(SplitStream<WebSocketStream<Connection>>);

/// A GET without a token: status and body. A body that is not JSON is null.
///
/// # Errors
/// No answer in time.
pub async fn get(url: &str, path: &str) -> Result<(u16, Value)> {
    let response = HttpClient::new(&Transport::Tcp, url)?.call(hyper::Method::GET, path, None, None).await?;
    Ok((response.status, response.body))
}

/// Signs in `count` people, with the phones of the run `run_id` from index `first` on. With a `plate` prefix they are
/// registered as drivers of cars.
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
    let client = HttpClient::new(transport, url)?;
    let permits = Arc::new(Semaphore::new(CONCURRENT_SIGN_INS));
    let mut tasks = JoinSet::new();
    for index in first..first + count {
        let permit = permits.clone().acquire_owned().await.context("sign-in")?;
        let (client, plate) = (client.clone(), plate.map(str::to_owned));
        tasks.spawn(async move {
            let account = Account::sign_in(vec![client.clone()], account::phone(run_id, index)).await?;
            if let Some(plate) = plate {
                account.register_driver("car", &plate).await?;
            }
            drop(permit);
            Ok::<_, anyhow::Error>(Person { id: account.user_id.clone(), account, client })
        });
    }
    let mut people = Vec::with_capacity(count);
    while let Some(person) = tasks.join_next().await {
        people.push(person??);
    }
    Ok(people)
}

impl Person {
    /// Opens a WebSocket for new events only.
    ///
    /// # Errors
    /// The platform refuses it.
    pub async fn connect(&self) -> Result<(Sender, Receiver)> {
        let (sender, receiver, _) = self.open(None).await?;
        Ok((sender, receiver))
    }

    /// Opens a WebSocket for the events after `last_seq`. Returns also the newest `seq`, which the welcome names.
    ///
    /// # Errors
    /// The platform refuses it.
    pub async fn resume(&self, last_seq: u64) -> Result<(Sender, Receiver, u64)> {
        self.open(Some(last_seq)).await
    }

    async fn open(&self, last_seq: Option<u64>) -> Result<(Sender, Receiver, u64)> {
        let (socket, welcome) = Socket::open(&self.client, &self.account, last_seq, PHONE).await?;
        let (sender, receiver) = socket.into_stream().split();
        Ok((Sender(sender), Receiver(receiver), welcome.last_seq))
    }
}

impl Sender {
    /// Sends a command. The platform answers it only if it has an `id`.
    ///
    /// # Errors
    /// The WebSocket is closed.
    pub async fn send(&mut self, id: Option<&str>, kind: &str, data: &Value) -> Result<()> {
        Ok(self.0.send(Message::text(frame::command(id, kind, data))).await?)
    }
}

impl Receiver {
    /// The next text frame as JSON; `None` once the WebSocket is closed.
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
