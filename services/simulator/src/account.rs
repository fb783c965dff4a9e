//! Sign-in, tokens and phone numbers of the simulated people. It owns the tokens of each, and logs none of them.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hyper::Method;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::clock;
use crate::frame::text;
use crate::http::{Http, Reply};

/// A call of the sign-in is tried again for so long while the platform does not answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// A token is renewed when less than this is left, or a fifth of its life if that is shorter.
const RENEW_BEFORE: Duration = Duration::from_secs(60);

/// US area codes in use.
const AREA_CODES: [u16; 60] = [
    201, 202, 203, 205, 206, 207, 212, 213, 214, 215, 216, 217, 303, 304, 305, 310, 312, 313, 314, 402, 404, 405, 408,
    410, 412, 415, 503, 504, 505, 512, 513, 602, 603, 606, 612, 614, 615, 617, 702, 703, 704, 713, 716, 718, 801, 802,
    803, 804, 808, 812, 816, 901, 904, 907, 912, 913, 914, 916, 917, 919,
];
/// Exchanges 200 to 999 without 555, times 10,000.
const LINES: u64 = 7_990_000;

/// The E.164 phone of the person `index` in the run `run_id`: a valid US number, never in the 555 exchange. Two runs
/// may share a number, but seldom do.
pub(crate) fn phone(run_id: u64, index: usize) -> String {
    let areas = AREA_CODES.len() as u64;
    // Neighbouring run ids (microseconds) must not use neighbouring blocks.
    let base = run_id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11;
    let place = base.wrapping_add(index as u64) % (areas * LINES);
    let area = AREA_CODES[(place % areas) as usize];
    let line = 2_000_000 + place / areas;
    let line = if line < 5_550_000 { line } else { line + 10_000 };
    format!("+1{area}{line:07}")
}

/// A person who is signed in.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) user_id: String,
    phone: String,
    https: Vec<Http>,
    tokens: Mutex<Tokens>,
}

#[derive(Debug)]
struct Tokens {
    access: String,
    refresh: String,
    renew_at: Instant,
}

impl Account {
    /// Signs in with a one-time code; an unknown phone becomes a passenger.
    ///
    /// # Errors
    /// The platform is away for long, refuses, or does not give the code in its answer.
    pub(crate) async fn sign_in(https: Vec<Http>, phone: String) -> Result<Self> {
        let (user_id, tokens) = by_code(&https, &phone).await?;
        Ok(Self { user_id, phone, https, tokens: Mutex::new(tokens) })
    }

    /// Makes the person a driver too.
    ///
    /// # Errors
    /// The platform is away for long, or refuses.
    pub(crate) async fn become_driver(&self, vehicle_type: &str, plate: &str) -> Result<()> {
        let token = self.token().await?;
        let body = json!({"vehicle_type": vehicle_type, "plate": plate});
        let reply = patient(&self.https, "/v1/drivers", Some(&token), &body).await?;
        // 409: a call before got through and its answer was lost, or an earlier run had this phone.
        ensure!(matches!(reply.status, 201 | 409), "POST /v1/drivers: {}", reply.problem());
        Ok(())
    }

    /// An access token that is good for a while yet.
    ///
    /// # Errors
    /// It had to be renewed, and could not be.
    pub(crate) async fn token(&self) -> Result<String> {
        let mut tokens = self.tokens.lock().await;
        if clock::now() >= tokens.renew_at {
            self.renew(&mut tokens).await?;
        }
        Ok(tokens.access.clone())
    }

    /// The platform refused `access`: the next token is another one.
    pub(crate) async fn refused(&self, access: &str) {
        let mut tokens = self.tokens.lock().await;
        if tokens.access == access {
            tokens.renew_at = clock::now();
        }
    }

    async fn renew(&self, tokens: &mut Tokens) -> Result<()> {
        let body = json!({"refresh_token": tokens.refresh});
        let http = self.https.first().context("no URL")?;
        // Tried once: if its answer is lost, the token is used up, and to use it again would end the sign-in.
        if let Ok(reply) = http.call(Method::POST, "/v1/auth/refresh", None, Some(&body)).await
            && reply.status == 200
        {
            *tokens = Tokens::read(&reply.body)?;
            return Ok(());
        }
        let (user_id, fresh) = by_code(&self.https, &self.phone).await?;
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
        let renew_at = clock::now() + life.saturating_sub(RENEW_BEFORE.min(life / 5));
        Ok(Self { access, refresh, renew_at })
    }
}

async fn by_code(https: &[Http], phone: &str) -> Result<(String, Tokens)> {
    let reply = patient(https, "/v1/auth/otp", None, &json!({"phone": phone})).await?;
    ensure!(reply.status == 202, "POST /v1/auth/otp: {}", reply.problem());
    let code = match reply.body.get("code") {
        Some(Value::String(code)) => code.clone(),
        _ => bail!(
            "the platform does not give the one-time code in its answer: \
             start it with OTP_DELIVERY=response to simulate a city on it"
        ),
    };
    let reply = patient(https, "/v1/auth/token", None, &json!({"phone": phone, "code": code})).await?;
    ensure!(reply.status == 200, "POST /v1/auth/token: {}", reply.problem());
    let user_id = reply.body.get("user").map(|user| text(user, "id").to_owned()).unwrap_or_default();
    ensure!(!user_id.is_empty(), "POST /v1/auth/token: the answer has no `user.id`");
    Ok((user_id, Tokens::read(&reply.body)?))
}

/// POSTs to one base URL after the other, with a growing pause, while there is no answer or one of a platform that is
/// not ready.
async fn patient(https: &[Http], path: &str, token: Option<&str>, body: &Value) -> Result<Reply> {
    let give_up = clock::now() + PATIENCE;
    let mut pause = Duration::from_millis(100);
    for http in https.iter().cycle() {
        let answer = http.call(Method::POST, path, token, Some(body)).await;
        let late = clock::now() >= give_up;
        match answer {
            Ok(reply) if !matches!(reply.status, 502..=504) || late => return Ok(reply),
            Err(error) if late => return Err(error.context(format!("POST {path}"))),
            _ => sleep(pause).await,
        }
        pause = (pause * 2).min(Duration::from_secs(3));
    }
    bail!("no URL of a users process given")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phones_are_us_numbers_that_differ() {
        let mut seen = std::collections::BTreeSet::new();
        for run in [0, 1, 2, u64::MAX, 1_700_000_000_000_000] {
            for index in 0..5_000 {
                let phone = phone(run, index);
                assert_eq!(phone.len(), 12, "{phone}");
                assert!(phone.starts_with("+1"));
                assert!(phone.as_bytes()[5] >= b'2' && &phone[5..8] != "555", "{phone}");
                assert!(seen.insert(phone));
            }
        }
        assert_eq!(phone(3, 4), phone(3, 4));
    }

    #[test]
    fn short_lived_tokens_are_renewed_in_time() {
        let body = json!({"access_token": "a", "refresh_token": "r", "expires_in_s": 10});
        let tokens = Tokens::read(&body).unwrap();
        let left = tokens.renew_at - clock::now();
        assert!(left > Duration::from_secs(7) && left <= Duration::from_secs(8), "{left:?}");
        assert!(Tokens::read(&json!({"access_token": "a"})).is_err());
    }
}
