//! Users and drivers: looked up, signed out, approved, suspended; and the documents of drivers.

use axum::extract::State;
use axum::http::HeaderMap;
use chrono::{DateTime, TimeDelta, Utc};
use platform::Problem;
use platform::problem::Json;
use serde::Deserialize;
use serde_json::Value;
use streams::event::rfc3339;
use streams::operators::{DOCUMENTS_MAX, Document, DocumentKind, RidesRequest, UsersRequest};

use super::api::{Api, part};
use super::caller::{Admin, Support, Viewer};
use super::query::{Fields, MayBeWhy, RawId, RawQuery, head, id, line_of, optional_head};

const STATUSES: [&str; 3] = ["pending", "approved", "suspended"];
/// The longest suspension that has an end.
const UNTIL_MAX: TimeDelta = TimeDelta::days(3_650);
/// The most characters of a document's number.
const NUMBER_MAX: usize = 64;

/// Looking for somebody by phone is an act: a GET with an event.
pub(super) async fn look_up(
    State(api): State<Api>,
    Viewer(operator): Viewer,
    headers: HeaderMap,
    query: RawQuery,
) -> Result<Json<Value>, Problem> {
    let query = Fields::read(query)?;
    let wrong = || Problem::field("phone", "must be a number in E.164 form, as in %2B12125550123");
    let phone = query.text("phone").ok_or_else(wrong)?;
    let act = head(api.act_id(&headers)?, query.text("reason").as_deref())?;
    api.have_users(&operator, (act.act_id, UsersRequest::LookUp { act, phone })).await.map(Json)
}

pub(super) async fn user(
    State(api): State<Api>,
    Viewer(operator): Viewer,
    user: RawId,
) -> Result<Json<Value>, Problem> {
    let user_id = id(user, "user")?;
    let ask_user = api.ask_users(&operator, UsersRequest::User { user_id });
    let ask_debts = api.ask_rides(&operator, RidesRequest::Debts { user_id });
    let (user, debts) = tokio::join!(ask_user, ask_debts);
    let (mut shown, mut unavailable) = (user?, Vec::new());
    shown["debts"] = part(debts, "rides", &mut unavailable);
    shown["unavailable"] = unavailable.into();
    Ok(Json(shown))
}

pub(super) async fn drivers(
    State(api): State<Api>,
    Viewer(operator): Viewer,
    query: RawQuery,
) -> Result<Json<Value>, Problem> {
    let query = Fields::read(query)?;
    let (status, after, limit) = (query.one_of("status", &STATUSES)?, query.cursor()?, query.limit()?);
    api.ask_users(&operator, UsersRequest::Drivers { status, after, limit }).await.map(Json)
}

pub(super) async fn documents(
    State(api): State<Api>,
    Viewer(operator): Viewer,
    driver: RawId,
) -> Result<Json<Value>, Problem> {
    api.ask_users(&operator, UsersRequest::Documents { user_id: id(driver, "driver")? }).await.map(Json)
}

pub(super) async fn sign_out(
    State(api): State<Api>,
    Support(operator): Support,
    user: RawId,
    headers: HeaderMap,
    body: Option<Json<MayBeWhy>>,
) -> Result<Json<Value>, Problem> {
    let user_id = id(user, "user")?;
    let act = optional_head(api.act_id(&headers)?, body)?;
    api.have_users(&operator, (act.act_id, UsersRequest::SignOut { act, user_id })).await.map(Json)
}

pub(super) async fn approve(
    State(api): State<Api>,
    Admin(operator): Admin,
    driver: RawId,
    headers: HeaderMap,
    body: Option<Json<MayBeWhy>>,
) -> Result<Json<Value>, Problem> {
    let user_id = id(driver, "driver")?;
    let act = optional_head(api.act_id(&headers)?, body)?;
    api.have_users(&operator, (act.act_id, UsersRequest::Approve { act, user_id })).await.map(Json)
}

#[derive(Debug, Deserialize)]
pub(super) struct SuspendRequest {
    reason: String,
    #[serde(default, with = "rfc3339::optional")]
    until: Option<DateTime<Utc>>,
}

pub(super) async fn suspend(
    State(api): State<Api>,
    Admin(operator): Admin,
    driver: RawId,
    headers: HeaderMap,
    Json(request): Json<SuspendRequest>,
) -> Result<Json<Value>, Problem> {
    let user_id = id(driver, "driver")?;
    let act = head(api.act_id(&headers)?, Some(&request.reason))?;
    let now = api.platform.world.now();
    if request.until.is_some_and(|until| until <= now || until > now + UNTIL_MAX) {
        return Err(Problem::field("until", "must be in the future, within ten years"));
    }
    api.have_users(&operator, (act.act_id, UsersRequest::Suspend { act, user_id, until: request.until }))
        .await
        .map(Json)
}

#[derive(Debug, Deserialize)]
pub(super) struct DocumentsRequest {
    documents: Vec<Document>,
    reason: Option<String>,
}

pub(super) async fn set_documents(
    State(api): State<Api>,
    Admin(operator): Admin,
    driver: RawId,
    headers: HeaderMap,
    Json(request): Json<DocumentsRequest>,
) -> Result<Json<Value>, Problem> {
    let user_id = id(driver, "driver")?;
    let act = head(api.act_id(&headers)?, request.reason.as_deref())?;
    let documents = checked(request.documents)?;
    api.have_users(&operator, (act.act_id, UsersRequest::SetDocuments { act, user_id, documents })).await.map(Json)
}

/// In the order of their kinds; each kind once but `other`.
fn checked(mut documents: Vec<Document>) -> Result<Vec<Document>, Problem> {
    if documents.len() > DOCUMENTS_MAX {
        return Err(Problem::field("documents", format!("must be {DOCUMENTS_MAX} at most")));
    }
    for (n, document) in documents.iter_mut().enumerate() {
        let field = format!("documents[{n}].number");
        document.number = document.number.take().map(|number| line_of(&field, &number, NUMBER_MAX)).transpose()?;
    }
    documents.sort_by_key(|document| document.kind);
    let repeated =
        documents.windows(2).find(|pair| pair[0].kind == pair[1].kind && pair[0].kind != DocumentKind::Other);
    match repeated {
        Some(pair) => {
            let kind = pair[0].kind.as_str();
            Err(Problem::field("documents", format!("`{kind}` stands twice: each kind once, but `other`")))
        }
        None => Ok(documents),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_document_stands_once() {
        let document = |kind, number: Option<&str>| Document {
            kind,
            number: number.map(str::to_owned),
            expires_on: "2027-01-31".parse().unwrap(),
        };
        use DocumentKind::{Insurance, Licence, Other};
        let sorted = checked(vec![document(Other, None), document(Licence, Some(" A 1 ")), document(Other, None)]);
        assert_eq!(sorted.unwrap()[0], document(Licence, Some("A 1")));
        let twice = checked(vec![document(Insurance, None), document(Licence, None), document(Insurance, None)]);
        assert!(twice.unwrap_err().message.contains("insurance"));
        let long = checked(vec![document(Licence, Some(&"x".repeat(NUMBER_MAX + 1)))]);
        assert_eq!(long.unwrap_err().field.as_deref(), Some("documents[0].number"));
        assert!(checked(vec![document(Other, None); DOCUMENTS_MAX + 1]).is_err());
    }
}
