//! Sign-in, tokens and phone numbers of the simulated people. Tokens, codes and phones are never logged.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hyper::Method;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::clock;
use crate::frame::text;
use crate::http::{HttpClient, Response};

/// How long a call of the sign-in is retried while the platform does not answer.
const RETRY_LIMIT: Duration = Duration::from_secs(30);
/// The same for a refresh: the platform repeats a lost answer for 30 seconds, and later takes the token for a stolen one.
const REFRESH_RETRY_LIMIT: Duration = Duration::from_secs(20);
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(100);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(3);
/// A token is refreshed when less than this is left, or a fifth of its life if that is shorter.
const REFRESH_BEFORE: Duration = Duration::from_secs(60);

/// US area codes in use.
const AREA_CODES: [u16; 60] = [
    201, 202, 203, 205, 206, 207, 212, 213, 214, 215, 216, 217, 303, 304, 305, 310, 312, 313, 314, 402, 404, 405, 408,
    410, 412, 415, 503, 504, 505, 512, 513, 602, 603, 606, 612, 614, 615, 617, 702, 703, 704, 713, 716, 718, 801, 802,
    803, 804, 808, 812, 816, 901, 904, 907, 912, 913, 914, 916, 917, 919,
];
/// Lines an area code: exchanges 200 to 999 without 555, times 10,000.
const LINES: u64 = 7_990_000;

/// The E.164 phone of the person `index` in the run `run_id`: a valid US number, never in the fictional exchange 555. Two
/// runs rarely share a number.
pub(crate) fn phone(run_id: u64, index: usize) -> String {
    let areas = AREA_CODES.len() as u64;
    // Run ids are microseconds: multiplied, so that runs shortly after each other use numbers far apart.
    let base = run_id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11;
    let number = base.wrapping_add(index as u64) % (areas * LINES);
    let area = AREA_CODES[(number % areas) as usize];
    let line = 2_000_000 + number / areas;
    let line = if line < 5_550_000 { line } else { line + 10_000 };
    format!("+1{area}{line:07}")
}

/// A person who is signed in.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) user_id: String,
    phone: String,
    clients: Vec<HttpClient>,
    tokens: Mutex<Tokens>,
}

#[derive(Debug)]
struct Tokens {
    access: String,
    refresh: String,
    refresh_at: Instant,
}

impl Account {
    /// Signs in with a one-time code. An unknown phone becomes a passenger.
    ///
    /// # Errors
    /// The platform does not answer for 30 s, refuses, or does not return the code in its answer.
    pub(crate) async fn sign_in(clients: Vec<HttpClient>, phone: String) -> Result<Self> {
        let (user_id, tokens) = sign_in_by_code(&clients, &phone).await?;
        Ok(Self { user_id, phone, clients, tokens: Mutex::new(tokens) })
    }

    /// Registers the person as a driver too. The plate begins with `prefix`, and is the person's own as the phone is: another run
    /// against the same platform uses others.
    ///
    /// # Errors
    /// The platform does not answer for 30 s, or refuses.
    pub(crate) async fn register_driver(&self, vehicle_type: &str, prefix: &str) -> Result<()> {
        let token = self.token().await?;
        let plate = format!("{prefix}{}", self.phone.trim_start_matches("+1"));
        let body = json!({"vehicle_type": vehicle_type, "plate": plate});
        let response = post_with_retries(&self.clients, "/v1/drivers", Some(&token), &body, RETRY_LIMIT).await?;
        // Registered by an earlier try whose answer was lost, or by an earlier run with this phone.
        let is_registered = response.status == 409 && text(&response.body, "code") == "already_driver";
        ensure!(response.status == 201 || is_registered, "POST /v1/drivers: {}", response.problem());
        Ok(())
    }

    /// An access token that is valid for a while yet.
    ///
    /// # Errors
    /// It had to be refreshed, and could not be.
    pub(crate) async fn token(&self) -> Result<String> {
        let mut tokens = self.tokens.lock().await;
        if clock::now() >= tokens.refresh_at {
            self.refresh(&mut tokens).await?;
        }
        Ok(tokens.access.clone())
    }

    /// The platform refused `access`: the next [`Self::token`] is another one.
    pub(crate) async fn token_refused(&self, access: &str) {
        let mut tokens = self.tokens.lock().await;
        if tokens.access == access {
            tokens.refresh_at = clock::now();
        }
    }

    /// Signs in again with a code, as an app does that was installed again. With `signs_out` the sign-in before is ended first.
    ///
    /// # Errors
    /// See [`Self::sign_in`].
    pub(crate) async fn sign_in_again(&self, signs_out: bool) -> Result<()> {
        let mut tokens = self.tokens.lock().await;
        if signs_out {
            let body = json!({});
            let access = Some(tokens.access.as_str());
            let response = post_with_retries(&self.clients, "/v1/auth/sign-out", access, &body, RETRY_LIMIT).await?;
            // By an earlier try whose answer was lost, the token is refused.
            ensure!([204, 401].contains(&response.status), "POST /v1/auth/sign-out: {}", response.problem());
        }
        self.sign_in_as_before(&mut tokens).await
    }

    async fn refresh(&self, tokens: &mut Tokens) -> Result<()> {
        let body = json!({"refresh_token": tokens.refresh});
        // A repeat after a lost answer gets the same pair of tokens.
        let limit = REFRESH_RETRY_LIMIT;
        if let Ok(response) = post_with_retries(&self.clients, "/v1/auth/refresh", None, &body, limit).await
            && response.status == 200
        {
            *tokens = Tokens::read(&response.body)?;
            return Ok(());
        }
        self.sign_in_as_before(tokens).await
    }

    async fn sign_in_as_before(&self, tokens: &mut Tokens) -> Result<()> {
        let (user_id, fresh) = sign_in_by_code(&self.clients, &self.phone).await?;
        ensure!(user_id == self.user_id, "signed in again as {user_id}, but was {}", self.user_id);
        *tokens = fresh;
        Ok(())
    }
}

impl Tokens {
    fn read(body: &Value) -> Result<Self> {
        let access = text(body, "access_token").to_owned();
        let refresh = text(body, "refresh_token").to_owned();
        ensure!(!access.is_empty() && !refresh.is_empty(), "the answer to a sign-in holds no tokens");
        let life_s = body.get("expires_in_s").and_then(Value::as_u64).context("a token without `expires_in_s`")?;
        let life = Duration::from_secs(life_s);
        let refresh_at = clock::now() + life.saturating_sub(REFRESH_BEFORE.min(life / 5));
        Ok(Self { access, refresh, refresh_at })
    }
}

async fn sign_in_by_code(clients: &[HttpClient], phone: &str) -> Result<(String, Tokens)> {
    let response = post_with_retries(clients, "/v1/auth/otp", None, &json!({"phone": phone}), RETRY_LIMIT).await?;
    ensure!(response.status == 202, "POST /v1/auth/otp: {}", response.problem());
    let Some(Value::String(code)) = response.body.get("code") else {
        bail!(
            "the platform does not give the one-time code in its answer: \
             start it with OTP_DELIVERY=response to simulate a city on it"
        )
    };
    let body = json!({"phone": phone, "code": code});
    let response = post_with_retries(clients, "/v1/auth/token", None, &body, RETRY_LIMIT).await?;
    ensure!(response.status == 200, "POST /v1/auth/token: {}", response.problem());
    let user_id = response.body.get("user").map(|user| text(user, "id").to_owned()).unwrap_or_default();
    ensure!(!user_id.is_empty(), "POST /v1/auth/token: the answer has no `user.id`");
    Ok((user_id, Tokens::read(&response.body)?))
}

/// POSTs to one base URL after the other, with a growing pause, until there is an answer that is not 502, 503 or 504.
async fn post_with_retries(
    clients: &[HttpClient],
    path: &str,
    token: Option<&str>,
    body: &Value,
    limit: Duration,
) -> Result<Response> {
    let give_up_at = clock::now() + limit;
    let mut pause = RETRY_PAUSE_MIN;
    for client in clients.iter().cycle() {
        let response = client.call(Method::POST, path, token, Some(body)).await;
        let last = clock::now() >= give_up_at;
        match response {
            Ok(response) if !matches!(response.status, 502..=504) || last => return Ok(response),
            Err(error) if last => return Err(error.context(format!("POST {path}"))),
            _ => sleep(pause).await,
        }
        pause = (pause * 2).min(RETRY_PAUSE_MAX);
    }
    bail!("no URL of a users process given")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phones_are_us_numbers_that_differ() {
        let mut seen = std::collections::BTreeSet::new();
        for run_id in [0, 1, 2, u64::MAX, 1_700_000_000_000_000] {
            for index in 0..5_000 {
                let phone = phone(run_id, index);
                assert_eq!(phone.len(), 12, "{phone}");
                assert!(phone.starts_with("+1"));
                assert!(phone.as_bytes()[5] >= b'2' && &phone[5..8] != "555", "{phone}");
                assert!(seen.insert(phone));
            }
        }
        assert_eq!(phone(3, 4), phone(3, 4));
    }

    #[test]
    fn a_token_is_refreshed_before_it_expires() {
        let body = json!({"access_token": "a", "refresh_token": "r", "expires_in_s": 10});
        let tokens = Tokens::read(&body).unwrap();
        let left = tokens.refresh_at - clock::now();
        assert!(left > Duration::from_secs(7) && left <= Duration::from_secs(8), "{left:?}");
        assert!(Tokens::read(&json!({"access_token": "a"})).is_err());
    }
}
