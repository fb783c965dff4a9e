//! Who is suspended, or has papers that expired, is not on duty and gets no ride, whatever happens at the same time.

use chrono::{NaiveDate, TimeDelta};
use platform::Store;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use streams::operators::{Document, DocumentKind, UsersRequest};
use streams::{Event, UserId};
use testing::{Backend, database, on_both_stores};
use users::{DriverStatus, MIGRATIONS};

use crate::client::match_id;
use crate::commands::Pair;
use crate::pods::{Cluster, HERE, Pod};
use crate::suspensions::until;

on_both_stores!(an_offer_is_not_accepted_with_expired_papers, papers_that_expired_long_ago_take_a_driver_off_duty,);

fn on() -> Value {
    json!({"active": true, "location": HERE})
}

impl Pod {
    async fn set_licence(&self, user_id: UserId, expires_on: NaiveDate) {
        let documents = vec![Document { kind: DocumentKind::Licence, number: None, expires_on }];
        self.operate(|act| UsersRequest::SetDocuments { act, user_id, documents }).await;
    }

    fn today(&self) -> NaiveDate {
        self.platform.world.now().date_naive()
    }

    async fn is_active(&self, user: UserId) -> bool {
        self.state(user).await["beacon"]["active"] == json!(true)
    }
}

async fn an_offer_is_not_accepted_with_expired_papers(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let mut pair = Pair::offered(&cluster, &pod, 391, 600).await;
    let yesterday = pod.today().pred_opt().unwrap();
    pod.set_licence(pair.driver, yesterday).await;
    for client in [&mut pair.d, &mut pair.p] {
        assert_eq!(client.event_of("match.rejected").await["data"]["reason"], "declined");
    }
    // One that was on its way.
    let found = cluster.found(pair.driver, pair.passenger, pair.found.request_id, 600);
    cluster.publish(&Event::MatchFound(found.clone())).await;
    pair.d.event_of("match.found").await;
    assert_eq!(pair.d.refused("match.accept", match_id(&found)).await, "documents_expired -");
    pod.set_licence(pair.driver, pod.today()).await;
    pair.d.ack("match.accept", match_id(&found)).await;
    // A repeat is answered as before, whatever the papers are by now.
    pod.set_licence(pair.driver, yesterday).await;
    pair.d.ack("match.accept", match_id(&found)).await;
    pod.stop().await;
}

async fn papers_that_expired_long_ago_take_a_driver_off_duty(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let driver = pod.driver("+12125553903").await;
    pod.connect(driver, None).await.ack("beacon.update", on()).await;
    pod.set_licence(driver, pod.today()).await;
    assert!(pod.is_active(driver).await);
    // No process ran for so long.
    pod.stop().await;
    let mut pod = cluster.later(TimeDelta::days(30)).pod("two").await;
    until("the driver is off duty", async || !pod.is_active(driver).await).await;
    pod.stop().await;
}

/// The shared cluster on PostgreSQL, and its database.
async fn on_postgres() -> (Cluster, PgConnection) {
    let url = database::fresh().await;
    let cluster = Cluster::on(Backend::Memory).await;
    let store = Store::postgres(&cluster.world, &"shared".into(), &url, "users", &MIGRATIONS, 8).await.unwrap();
    (Cluster { store, ..cluster }, PgConnection::connect(&url).await.unwrap())
}

/// Statements that wait for a lock in this database.
async fn waiting(database: &mut PgConnection) -> i64 {
    let waiting =
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    sqlx::query_scalar(waiting).fetch_one(database).await.unwrap()
}

#[tokio::test]
async fn who_is_suspended_while_they_go_on_duty_is_off_duty() {
    let (cluster, mut database) = on_postgres().await;
    let mut pod = cluster.pod("one").await;
    for (phone, was_on_duty) in [("+12125553904", true), ("+12125553905", false)] {
        let driver = pod.driver(phone).await;
        let mut d = pod.connect(driver, None).await;
        if was_on_duty {
            d.ack("beacon.update", on()).await;
            d.ack("beacon.update", json!({"active": false})).await;
        }
        // The command is held in the middle of its checks.
        let mut hold = database.begin().await.unwrap();
        hold.execute("lock table users.driver_documents in access exclusive mode").await.unwrap();
        d.text(json!({"id": "on", "type": "beacon.update", "data": on()}).to_string()).await;
        until("the command waits", async || waiting(&mut hold).await == 1).await;
        let users = pod.users.clone();
        let suspension = tokio::spawn(async move { users.set_driver_status(driver, DriverStatus::Suspended).await });
        until("the suspension is done, or waits", async || suspension.is_finished() || waiting(&mut hold).await == 2)
            .await;
        hold.rollback().await.unwrap();
        suspension.await.unwrap().unwrap();
        until("the command is answered", async || d.next().await["id"] == "on").await;
        let state = pod.state(driver).await;
        assert_eq!(state["user"]["driver"]["status"], "suspended");
        assert_ne!(state["beacon"]["active"], json!(true), "was on duty before: {was_on_duty}");
    }
    pod.stop().await;
}

#[tokio::test]
async fn a_repeated_suspension_takes_a_driver_off_duty() {
    let (cluster, mut database) = on_postgres().await;
    let mut pod = cluster.pod("one").await;
    let driver = pod.driver("+12125553906").await;
    let mut d = pod.connect(driver, None).await;
    d.ack("beacon.update", on()).await;
    pod.suspend(driver, None).await;
    // As a process without the locks may have left it.
    let stale = sqlx::query("update users.beacons set active = true where user_id = $1").bind(driver.0);
    stale.execute(&mut database).await.unwrap();
    assert!(pod.is_active(driver).await);
    pod.suspend(driver, None).await;
    assert!(!pod.is_active(driver).await);
    pod.stop().await;
}
