//! What a driver is after a suspension. The acts come as operators' requests.

use std::time::Duration;

use chrono::TimeDelta;
use platform::breaker::Rules;
use platform::{Asking, operators};
use streams::UserId;
use streams::event::OperatorRole;
use streams::operators::{ACT_WAIT, ActHead, Operator, USERS_OPERATORS, UsersRequest};
use testing::{Backend, on_both_stores};
use users::{Config, DriverApproval, DriverStatus};

use crate::pods::{Cluster, Pod};

on_both_stores!(after_a_suspension_a_driver_is_what_they_were_before_the_first);

impl Pod {
    /// An act of an operator on this driver, once the pod answers operators.
    pub(crate) async fn operate(&self, request: impl FnOnce(ActHead) -> UsersRequest) {
        let act_id = self.platform.world.id();
        let operator = Operator { name: "ann".to_owned(), role: OperatorRole::Admin };
        let rules = Rules { failures_max: u32::MAX, open_for: TimeDelta::seconds(1) };
        let (users, with) =
            (Asking::new(&self.platform, "users", rules, USERS_OPERATORS, 1), (&self.platform, &self.tokens));
        let request = request(ActHead { act_id, reason: None });
        until("the act is done", async || {
            operators::ask(with, &users, &operator, request.clone(), ACT_WAIT).await.is_ok()
        })
        .await;
    }

    pub(crate) async fn suspend(&self, user_id: UserId, for_s: Option<i64>) {
        let until = for_s.map(|s| self.platform.world.now() + TimeDelta::seconds(s));
        self.operate(|act| UsersRequest::Suspend { act, user_id, until }).await;
    }
}

pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..3_000 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it does not become so: {what}");
}

async fn after_a_suspension_a_driver_is_what_they_were_before_the_first(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let manual = Config { driver_approval: DriverApproval::Manual, ..Config::default() };
    let mut pod = cluster.idle_pod("one", manual).await;
    pod.run();
    let (nobodys, approved) = (pod.driver("+12125553901").await, pod.driver("+12125553902").await);
    pod.users.set_driver_status(approved, DriverStatus::Approved).await.unwrap();
    for driver in [nobodys, approved] {
        pod.suspend(driver, None).await;
        pod.suspend(driver, Some(1)).await;
    }
    let status = async |driver| pod.state(driver).await["user"]["driver"]["status"].clone();
    for (driver, expected) in [(nobodys, "pending"), (approved, "approved")] {
        until("the suspension is over", async || status(driver).await != "suspended").await;
        assert_eq!(status(driver).await, expected);
    }
    pod.stop().await;
}
