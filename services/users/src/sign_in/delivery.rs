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

use crate::sign_in::otp::CODE_LIFE_S;
use crate::sign_in::phone::Phone;

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
    let socket =
        TcpStream::connect((host.as_str(), port)).await.map_err(|e| format!("connecting to the webhook: {e}"))?;
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

    use super::*;

    // For `localhost` until 2126, with no worth outside this test.
    const CERTIFICATE: &[u8] = include_bytes!("../../tests/webhook/cert.der");
    const KEY: &[u8] = include_bytes!("../../tests/webhook/key.der");

    fn trusting_the_test() -> Result<TlsConnector, String> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(CERTIFICATE)).map_err(|e| e.to_string())?;
        trusting(roots)
    }

    fn trusting_none() -> Result<TlsConnector, String> {
        trusting(RootCertStore::empty())
    }

    /// Takes one connection and answers 202; returns what it was sent.
    async fn serve(listener: TcpListener) -> String {
        let key = PrivateKeyDer::try_from(KEY).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(CERTIFICATE)], key)
            .unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let Ok(mut socket) = TlsAcceptor::from(Arc::new(config)).accept(socket).await else { return String::new() };
        let mut request = vec![0; 4_096];
        let mut read = 0;
        while !request[..read].ends_with(b"{}") {
            read += socket.read(&mut request[read..]).await.unwrap();
        }
        socket.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        String::from_utf8_lossy(&request[..read]).into_owned()
    }

    #[tokio::test]
    async fn https_reaches_whom_the_certificate_names_and_nobody_else() {
        type Tls = fn() -> Result<TlsConnector, String>;
        let cases: [(&str, Tls, bool); 3] = [
            ("localhost", trusting_the_test, true),
            ("127.0.0.1", trusting_the_test, true),
            ("localhost", trusting_none, false),
        ];
        for (host, tls, reached) in cases {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let url = format!("https://{host}:{port}/send?key=1").parse().unwrap();
            let (request, status) = tokio::join!(serve(listener), post(&url, "{}".to_owned(), tls));
            if reached {
                assert_eq!(status, Ok(StatusCode::ACCEPTED));
                assert!(request.starts_with("POST /send?key=1 HTTP/1.1\r\n"), "{request}");
                assert!(request.contains(&format!("host: {host}:{port}\r\n")), "{request}");
            } else {
                assert!(status.unwrap_err().starts_with("TLS with the webhook"));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_webhook_that_never_answers_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let delivery: OtpDelivery = format!("webhook:http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let phone = Phone::parse("+14155550132").unwrap();
        let error = delivery.deliver(&phone, "123456").await.unwrap_err();
        assert!(error.contains("did not answer in 5s"), "{error}");
    }

    #[test]
    fn ways_are_read_and_others_refused() {
        assert_eq!("response".parse(), Ok(OtpDelivery::Response));
        assert_eq!("log".parse(), Ok(OtpDelivery::Log));
        for url in ["http://127.0.0.1:9/x?y=z", "https://sms.example.com", "http://[::1]:80/"] {
            assert_eq!(format!("webhook:{url}").parse(), Ok(OtpDelivery::Webhook(url.parse().unwrap())));
        }
        let wrong = [
            "",
            "Response",
            "sms",
            "log:",
            "webhook",
            "webhook:",
            "webhook:/x",
            "webhook:sms.example.com",
            "webhook:ftp://a/b",
            "webhook:http://",
            "webhook:http://user:word@a/b",
        ];
        for text in wrong {
            assert!(text.parse::<OtpDelivery>().is_err(), "{text}");
        }
    }
}
