//! How a one-time code reaches its phone: in the answer, as a log line, or posted to somebody who can send messages. It
//! touches no rows.

use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::uri::Scheme;
use axum::http::{Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use crate::otp::CODE_LIFE_S;
use crate::phone::Phone;

/// The wait for a webhook, from the connection to its answer.
const WEBHOOK_WAIT: Duration = Duration::from_secs(5);

/// The ways of `OTP_DELIVERY`: `response`, `log` or `webhook:<url>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum OtpDelivery {
    /// In the answer itself: for trying out, embedded.
    #[default]
    Response,
    /// As a log line of the target `otp`, with the last digits of the phone: for whoever reads the log.
    Log,
    /// Posted as JSON, `{phone, code, expires_in_s}`, to this address; any 2xx within 5 s says that it was taken.
    Webhook(Uri),
}

impl FromStr for OtpDelivery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "response" => Ok(Self::Response),
            None if text == "log" => Ok(Self::Log),
            Some(("webhook", url)) => {
                let wrong = || format!("`{url}` is no address of a webhook: use http://… or https://…");
                let url = Uri::from_str(url).map_err(|_| wrong())?;
                let scheme = url.scheme().ok_or_else(wrong)?;
                let known = *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS;
                let plain = url.authority().is_some_and(|a| !a.host().is_empty() && !a.as_str().contains('@'));
                if known && plain { Ok(Self::Webhook(url)) } else { Err(wrong()) }
            }
            _ => Err(format!("`{text}` is no way to deliver codes: use response, log or webhook:<url>")),
        }
    }
}

impl OtpDelivery {
    /// Hands the code over; in the answer it is the caller's to give.
    ///
    /// # Errors
    /// A sentence without the phone and the code: why it did not leave.
    pub(crate) async fn deliver(&self, phone: &Phone, code: &str) -> Result<(), String> {
        match self {
            Self::Response => Ok(()),
            Self::Log => {
                tracing::info!(target: "otp", phone = format!("…{}", phone.end()), code, "one-time code");
                Ok(())
            }
            Self::Webhook(url) => {
                let body = json!({"phone": phone.as_str(), "code": code, "expires_in_s": CODE_LIFE_S}).to_string();
                let status = timeout(WEBHOOK_WAIT, post(url, body, tls))
                    .await
                    .map_err(|_| format!("the webhook did not answer in {WEBHOOK_WAIT:?}"))??;
                if status.is_success() { Ok(()) } else { Err(format!("the webhook answered {status}")) }
            }
        }
    }
}

/// Posts JSON on a connection of its own; codes are few.
async fn post(url: &Uri, body: String, tls: fn() -> Result<TlsConnector, String>) -> Result<StatusCode, String> {
    let secure = url.scheme() == Some(&Scheme::HTTPS);
    let host = url.host().ok_or("the webhook has no host")?.trim_matches(['[', ']']).to_owned();
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let socket = TcpStream::connect((host.as_str(), port)).await.map_err(|e| format!("connecting to the webhook: {e}"))?;
    let request = Request::post(url.path_and_query().map_or("/", |p| p.as_str()))
        .header(header::HOST, url.authority().map_or("", |a| a.as_str()))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| format!("the webhook's address: {e}"))?;
    if secure {
        let name = ServerName::try_from(host).map_err(|e| format!("the webhook's host: {e}"))?;
        let socket = tls()?.connect(name, socket).await.map_err(|e| format!("TLS with the webhook: {e}"))?;
        exchange(socket, request).await
    } else {
        exchange(socket, request).await
    }
}

async fn exchange<S>(socket: S, request: Request<Full<Bytes>>) -> Result<StatusCode, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let failed = |e: hyper::Error| format!("the webhook: {e}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(failed)?;
    let answer = sender.send_request(request);
    tokio::pin!(connection, answer);
    let mut connected = true;
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return answer.map(|a| a.status()).map_err(failed),
            ended = &mut connection, if connected => {
                ended.map_err(failed)?;
                connected = false;
            }
        }
    }
}

/// TLS that trusts what this machine trusts, read once.
fn tls() -> Result<TlsConnector, String> {
    static TLS: OnceLock<TlsConnector> = OnceLock::new();
    if let Some(tls) = TLS.get() {
        return Ok(tls.clone());
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("this machine has no certificates to trust: https cannot be used".to_owned());
    }
    let tls = trusting(roots)?;
    Ok(TLS.get_or_init(|| tls).clone())
}

fn trusting(roots: RootCertStore) -> Result<TlsConnector, String> {
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS: {e}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
