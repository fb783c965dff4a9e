//! How a one-time code reaches its phone: in the response, as a log line, or posted to a program that can send messages.

use std::str::FromStr;
use std::time::Duration;

use axum::http::Uri;
use axum::http::uri::Scheme;
use platform::breaker::Rules;
use platform::http_client::{HttpClient, Protocol, Purpose, Reach};
use serde_json::json;

use super::otp::CODE_LIFE_S;
use super::phone::Phone;

/// The client of the webhook. One number may be slow: it must fail for many before nothing is sent. A code is sent once, because a
/// person who has two does not know which one counts.
pub(crate) const CODES: Purpose = Purpose {
    name: "webhook",
    wait: Duration::from_secs(5),
    tries: 1,
    circuit: Rules { failures_max: 10, open_for: chrono::Duration::seconds(10) },
    reach: Reach::Anywhere,
    protocol: Protocol::Any,
};

/// The values of `OTP_DELIVERY`: `response`, `log` or `webhook:<url>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum OtpDelivery {
    /// In the response of `/v1/auth/otp` itself; for development.
    #[default]
    Response,
    /// As a log line of the target `otp`, with the last digits of the phone.
    Log,
    /// Posted as JSON, `{phone, code, expires_in_s}`. Any 2xx within 5 s means that the webhook has taken the code.
    Webhook(Uri),
}

impl FromStr for OtpDelivery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "response" => Ok(Self::Response),
            None if text == "log" => Ok(Self::Log),
            Some(("webhook", url)) => {
                // Not repeated: it may hold a password.
                let wrong = || {
                    "what follows `webhook:` is no address of a webhook: use http://host/path or https://host/path, without \
                     a user and password"
                        .to_owned()
                };
                let url = Uri::from_str(url).map_err(|_| wrong())?;
                let scheme = url.scheme().ok_or_else(wrong)?;
                let known = *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS;
                let plain = url.authority().is_some_and(|a| !a.host().is_empty() && !a.as_str().contains('@'));
                if known && plain { Ok(Self::Webhook(url)) } else { Err(wrong()) }
            }
            _ => Err("this is no way to deliver codes: use response, log or webhook:<url>".to_owned()),
        }
    }
}

impl OtpDelivery {
    /// Delivers the code; with `Response` that is the caller's part.
    ///
    /// # Errors
    /// Why it was not delivered. The text contains neither the phone nor the code.
    pub(crate) async fn deliver(&self, client: &HttpClient, phone: &Phone, code: &str) -> Result<(), String> {
        match self {
            Self::Response => Ok(()),
            Self::Log => {
                tracing::info!(target: "otp", phone = format!("…{}", phone.last_digits()), code, "one-time code");
                Ok(())
            }
            Self::Webhook(url) => {
                let body = json!({"phone": phone.as_str(), "code": code, "expires_in_s": CODE_LIFE_S}).to_string();
                let posted = client.post_json(url, body).await;
                let status = posted.map_err(|error| format!("the webhook: {error}"))?.status();
                if status.is_success() { Ok(()) } else { Err(format!("the webhook answered {status}")) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_webhook_that_never_answers_is_given_up_after_5_s() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let delivery: OtpDelivery = format!("webhook:http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let phone = Phone::parse("+14155550132").unwrap();
        let bus = streams::Bus::Memory(streams::memory::MemoryBus::new(chrono::DateTime::UNIX_EPOCH, 1));
        let platform = platform::Platform::new(platform::World::seeded(chrono::DateTime::UNIX_EPOCH, 1), bus, "one");
        let error = delivery.deliver(&HttpClient::new(&platform, CODES), &phone, "123456").await.unwrap_err();
        assert_eq!(error, "the webhook: did not answer in 5s");
    }

    #[test]
    fn the_setting_names_a_known_delivery() {
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
            let error = text.parse::<OtpDelivery>().unwrap_err();
            assert!(!error.contains("word@"), "{error}");
        }
    }
}
