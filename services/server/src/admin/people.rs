//! Users and drivers: looked up, signed out, approved, suspended; and the documents of drivers.

use axum::extract::State;
use chrono::{DateTime, TimeDelta, Utc};
use platform::api::Passed;
use platform::problem::{Json, Query};
use platform::{Problem, operators};
use schemars::JsonSchema;
use serde::Deserialize;
use streams::UserId;
use streams::event::rfc3339;
use streams::operators::shown::{
    DriverDocuments, DriverDocumentsSet, DriverPage, DriverStatusChanged, DriverSuspended, Owner, SignedOut,
    UserScreen, UsersFound,
};
use streams::operators::{DOCUMENTS_MAX, Document, DocumentKind, REASON_MAX, RidesRequest, UsersRequest};

use super::api::{Api, part};
use super::caller::{Admin, Key, Support, Viewer};
use super::query::{MayBeWhy, PageQuery, Parameter, RawId, head, id, line_of, one_of, optional_head, text};

const STATUSES: [&str; 3] = ["pending", "approved", "suspended"];
/// The longest suspension that has an end.
const UNTIL_MAX: TimeDelta = TimeDelta::days(3_650);
/// The most characters of a document's number.
const NUMBER_MAX: usize = 64;

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct LookUpQuery {
    /// In E.164 form.
    #[schemars(with = "String", example = "+12125550123")]
    phone: Parameter,
    /// Why; it is in the event of the act.
    #[schemars(length(min = 1, max = REASON_MAX))]
    reason: Parameter,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct DriversQuery {
    #[schemars(extend("enum" = STATUSES))]
    status: Parameter,
    #[serde(flatten)]
    page: PageQuery<UserId>,
}

/// Looking for somebody by phone is an act: a GET with an event.
pub(super) async fn look_up(
    State(api): State<Api>,
    Viewer(operator): Viewer,
    Key(act): Key,
    Query(query): Query<LookUpQuery>,
) -> Result<Passed<UsersFound>, Problem> {
    let wrong = || Problem::field("phone", "must be a number in E.164 form, as in %2B12125550123");
    let phone = text(query.phone).ok_or_else(wrong)?;
    let act = head(act, text(query.reason).as_deref())?;
    api.have_users(&operator, (act.act_id, UsersRequest::LookUp { act, phone })).await.map(Passed::new)
}

pub(super) async fn user(
    State(api): State<Api>,
    Viewer(operator): Viewer,
    user: RawId,
) -> Result<Passed<UserScreen>, Problem> {
    let user_id = id(user, "user")?;
    let ask_user = api.ask_users(&operator, UsersRequest::User { user_id });
    let ask_debts = api.ask_rides(&operator, RidesRequest::Debts { user_id });
    let (user, debts) = tokio::join!(ask_user, ask_debts);
    let (mut shown, mut unavailable) = (user?, Vec::new());
    shown["debts"] = part(debts, Owner::Rides, &mut unavailable);
    shown["unavailable"] = operators::shown(&unavailable);
    Ok(Passed::new(shown))
}

pub(super) async fn drivers(
    State(api): State<Api>,
    Viewer(operator): Viewer,
    Query(DriversQuery { status, page }): Query<DriversQuery>,
) -> Result<Passed<DriverPage>, Problem> {
    let (status, after, limit) = (one_of("status", status, &STATUSES)?, page.cursor()?, page.limit()?);
    api.ask_users(&operator, UsersRequest::Drivers { status, after, limit }).await.map(Passed::new)
}

pub(super) async fn documents(
    State(api): State<Api>,
    Viewer(operator): Viewer,
    driver: RawId,
) -> Result<Passed<DriverDocuments>, Problem> {
    api.ask_users(&operator, UsersRequest::Documents { user_id: id(driver, "driver")? }).await.map(Passed::new)
}

pub(super) async fn sign_out(
    State(api): State<Api>,
    Support(operator): Support,
    user: RawId,
    Key(act): Key,
    body: Option<Json<MayBeWhy>>,
) -> Result<Passed<SignedOut>, Problem> {
    let user_id = id(user, "user")?;
    let act = optional_head(act, body)?;
    api.have_users(&operator, (act.act_id, UsersRequest::SignOut { act, user_id })).await.map(Passed::new)
}

pub(super) async fn approve(
    State(api): State<Api>,
    Admin(operator): Admin,
    driver: RawId,
    Key(act): Key,
    body: Option<Json<MayBeWhy>>,
) -> Result<Passed<DriverStatusChanged>, Problem> {
    let user_id = id(driver, "driver")?;
    let act = optional_head(act, body)?;
    api.have_users(&operator, (act.act_id, UsersRequest::Approve { act, user_id })).await.map(Passed::new)
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct SuspendRequest {
    #[schemars(length(min = 1, max = REASON_MAX))]
    reason: String,
    /// For ever without it; at most ten years from now.
    #[serde(default, with = "rfc3339::optional")]
    #[schemars(with = "Option<DateTime<Utc>>")]
    until: Option<DateTime<Utc>>,
}

pub(super) async fn suspend(
    State(api): State<Api>,
    Admin(operator): Admin,
    driver: RawId,
    Key(act): Key,
    Json(request): Json<SuspendRequest>,
) -> Result<Passed<DriverSuspended>, Problem> {
    let user_id = id(driver, "driver")?;
    let act = head(act, Some(&request.reason))?;
    let now = api.platform.world.now();
    if request.until.is_some_and(|until| until <= now || until > now + UNTIL_MAX) {
        return Err(Problem::field("until", "must be in the future, within ten years"));
    }
    api.have_users(&operator, (act.act_id, UsersRequest::Suspend { act, user_id, until: request.until }))
        .await
        .map(Passed::new)
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct DocumentsRequest {
    /// Each kind once, but `other`.
    #[schemars(length(max = DOCUMENTS_MAX))]
    documents: Vec<Document>,
    #[schemars(length(min = 1, max = REASON_MAX))]
    reason: Option<String>,
}

pub(super) async fn set_documents(
    State(api): State<Api>,
    Admin(operator): Admin,
    driver: RawId,
    Key(act): Key,
    Json(request): Json<DocumentsRequest>,
) -> Result<Passed<DriverDocumentsSet>, Problem> {
    let user_id = id(driver, "driver")?;
    let act = head(act, request.reason.as_deref())?;
    let documents = checked(request.documents)?;
    api.have_users(&operator, (act.act_id, UsersRequest::SetDocuments { act, user_id, documents }))
        .await
        .map(Passed::new)
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
