//! Answers rides, which passes a call for help on to operators: names and numbers of both parties.

use std::sync::Arc;

use bytes::Bytes;
use platform::responder::{self, Endpoint, Reply};
use platform::{CancellationToken, StoreError};
use streams::contacts::{CONTACTS, CONTACTS_WAIT, Contact, Contacts, ContactsRequest};
use streams::{Service, UserId};
use tokio::sync::Semaphore;

use crate::account;
use crate::context::Context;

/// Requests that are worked on at once, and those in hand at most.
const CONCURRENCY: usize = 4;
const ACCEPTED_MAX: usize = 64;

/// Answers until `stop`.
pub(crate) async fn answer(context: Context, stop: CancellationToken) {
    let endpoint = Endpoint {
        service: Some(Service::Users),
        name: "contacts".to_owned(),
        subject: CONTACTS.to_owned(),
        queue_group: Some(CONTACTS.to_owned()),
        accepted_max: ACCEPTED_MAX,
        wait: CONTACTS_WAIT,
        health_part: None,
    };
    let permits = Arc::new(Semaphore::new(CONCURRENCY));
    let platform = context.platform.clone();
    responder::serve(platform, endpoint, stop, move |request| reply(context.clone(), permits.clone(), request)).await;
}

async fn reply(context: Context, permits: Arc<Semaphore>, request: Bytes) -> Reply {
    let request: ContactsRequest = match serde_json::from_slice(&request) {
        Ok(request) => request,
        Err(error) => return Reply::unreadable(&error),
    };
    let Ok(_permit) = permits.acquire().await else { return Reply::none("it ends") };
    match contacts(&context, &request).await {
        Ok(contacts) => Reply::json(&contacts),
        Err(error) => Reply::none(error.to_string()),
    }
}

async fn contacts(context: &Context, request: &ContactsRequest) -> Result<Contacts, StoreError> {
    let ContactsRequest { driver_id, passenger_id } = *request;
    let mut tx = context.store.begin().await?;
    let people = account::rows::people(&mut tx, &[driver_id, passenger_id]).await?;
    let (driver_phone, passenger_phone) =
        (account::rows::phone_of(&mut tx, driver_id).await?, account::rows::phone_of(&mut tx, passenger_id).await?);
    let contact = |user_id: UserId, phone: Option<crate::sign_in::phone::Phone>| {
        let name = people.get(&user_id)?.name.clone();
        Some(Contact { user_id, name, phone: phone?.as_str().to_owned() })
    };
    Ok(Contacts {
        driver: contact(driver_id, driver_phone),
        passenger: contact(passenger_id, passenger_phone),
        vehicle: people.get(&driver_id).and_then(|person| person.as_driver()),
    })
}
