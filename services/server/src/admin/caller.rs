//! The operator who calls a route, by the token in `Authorization: Bearer`: an argument of the route for each role.

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use platform::api::{Input, Operation, Schemas};
use platform::limits;
use platform::token::hash_of;
use platform::{ClientAddress, Limit, Problem};
use streams::ActId;
use streams::event::OperatorRole;
use streams::operators::Operator;

use super::api::Api;
use super::query::key;

/// Anybody with a token.
#[derive(Debug, Clone)]
pub(super) struct Viewer(pub(super) Operator);

/// Who may help people.
#[derive(Debug, Clone)]
pub(super) struct Support(pub(super) Operator);

/// Who may decide who drives.
#[derive(Debug, Clone)]
pub(super) struct Admin(pub(super) Operator);

/// The id of an act: the key of the request, or a new one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key(pub(super) ActId);

impl Input for Key {
    fn describe(operation: &mut Operation) {
        let description = "Another one for each act: a repeat with the same key is done once, and answered as before.";
        operation.headers.push(("Idempotency-Key", description, Schemas::read::<ActId>));
        operation.add_codes(&["invalid_field", "key_reused", "acts_full", "outcome_unknown"]);
    }
}

impl FromRequestParts<Api> for Key {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        Ok(Self(key(&parts.headers)?.unwrap_or_else(|| api.platform.world.id())))
    }
}

/// The token of a request.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// The caller, who has at least this role. A token that has not been right from this address is counted before it is compared: who has
/// guessed too often learns nothing more, also not of a right one. Colleagues behind the same address who were let in before go on.
///
/// # Errors
/// 401, 403, or 429 for an address that has presented too many tokens.
async fn caller(parts: &mut Parts, api: &Api, least: OperatorRole) -> Result<Operator, Problem> {
    let token = bearer(&parts.headers).map(str::to_owned);
    let token = token.ok_or_else(|| Problem::unauthorized("the header `Authorization: Bearer <token>` is missing"))?;
    let address = ClientAddress::from_request_parts(parts, api).await.unwrap_or_default();
    let presented = (limits::Key::from(address), hash_of(token.as_bytes()));
    let count = || api.platform.take(Limit::AdminTokensAddress, address, 1);
    let was_admitted = api.admitted.has(&presented);
    if !was_admitted {
        count()?;
    }
    let Some(operator) = api.operators.operator(&token) else {
        if was_admitted {
            // It was taken back.
            api.admitted.remove(&presented);
            count()?;
        }
        return Err(Problem::unauthorized("no operator has this token"));
    };
    if !was_admitted {
        api.admitted.add(presented);
    }
    if operator.role < least {
        let (has, needs) = (operator.role.as_str(), least.as_str());
        return Err(Problem::forbidden(&format!("your role is {has}, and this needs {needs}")));
    }
    Ok(operator)
}

macro_rules! extracted {
    ($($caller:ident needs $role:ident;)+) => {$(
        impl Input for $caller {
            fn describe(operation: &mut Operation) {
                operation.needs_operator = true;
                operation.is_for_operators = true;
                operation.add_codes(&["unauthorized", "forbidden"]);
            }
        }

        impl FromRequestParts<Api> for $caller {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
                caller(parts, api, OperatorRole::$role).await.map(Self)
            }
        }
    )+};
}

extracted! {
    Viewer needs Viewer;
    Support needs Support;
    Admin needs Admin;
}
