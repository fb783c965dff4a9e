//! Who wins, of every two of those that can end or take an offer, in either order and at once. `winner` is the table; a new command that can
//! race is one more [`Act`] and its column.

use std::time::Duration;

use serde_json::{Value, json};
use streams::event::{MatchFound, MatchRejected, RejectReason};
use streams::ride_command::{RIDE_COMMANDS, RideReply};
use streams::{Event, RequestId, Service, UserId};
use testing::{Backend, on_both_stores};
use tokio::task::JoinHandle;
use users::DriverStatus;

use crate::client::{id_of, match_id, trip};
use crate::pods::{Cluster, HERE, Pod, THERE};

on_both_stores!(of_every_two_the_table_says_who_wins, at_once_it_is_as_one_after_the_other);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// `match.accept`
    Accept,
    /// `match.reject`
    Reject,
    /// `finder.update` with `active` false.
    EndSearch,
    /// `finder.update` with another trip.
    OtherTrip,
    /// match says that the time to answer is over.
    Expire,
    /// An operator suspends the driver.
    Suspend,
}

use Act::{Accept, EndSearch, Expire, OtherTrip, Reject, Suspend};

const ALL: [Act; 6] = [Accept, Reject, EndSearch, OtherTrip, Expire, Suspend];

/// What becomes of the second of two, and the reason with which both parties see the offer end; `None`: it becomes a ride. rides agrees to
/// every end, as it does until it has made the ride; that it has is in `ends_of_searches`.
fn winner(first: Act, second: Act) -> (&'static str, Option<&'static str>) {
    match (first, second) {
        // Only the end of the search wins over an acceptance.
        (Accept, EndSearch | OtherTrip) => ("ack", Some("cancelled")),
        (Accept, Accept | Expire | Suspend) => ("ack", None),
        (Accept, Reject) => ("offer_closed", None),
        // Whatever ends an offer first ends it for good, and the repeat of an answer is acked.
        (Reject, Reject) => ("ack", Some("declined")),
        (_, Accept | Reject) => ("offer_closed", Some(reason(first))),
        (_, EndSearch | OtherTrip | Expire | Suspend) => ("ack", Some(reason(first))),
    }
}

/// By which each ends an open offer.
fn reason(act: Act) -> &'static str {
    match act {
        Accept => unreachable!("it ends none"),
        Reject | Suspend => "declined",
        EndSearch | OtherTrip => "cancelled",
        Expire => "expired",
    }
}

struct Scene {
    cluster: Cluster,
    pod: Pod,
    driver: UserId,
    passenger: UserId,
    rides: JoinHandle<()>,
}

impl Scene {
    async fn on(backend: Backend) -> Self {
        let cluster = Cluster::on(backend).await;
        let mut pod = cluster.idle_pod("one", users::Config::default()).await;
        pod.run();
        let (driver, passenger) = (pod.driver("+12125553801").await, pod.passenger("+12125553802").await);
        let mut requests = cluster.bus.subscribe(RIDE_COMMANDS, Some("rides")).await.unwrap();
        let bus = cluster.bus.clone();
        let rides = tokio::spawn(async move {
            while let Some(message) = requests.next().await {
                let reply = serde_json::to_vec(&RideReply::Ok(json!({}))).unwrap();
                bus.publish_core(&message.reply.unwrap(), reply.into()).await.unwrap();
            }
        });
        Self { cluster, pod, driver, passenger, rides }
    }

    /// An offer that both parties have.
    async fn offered(&self) -> MatchFound {
        let search = self.pod.command(self.passenger, "finder.update", trip(THERE)).await.unwrap();
        let request = RequestId(id_of(&search, "request_id"));
        let found = self.cluster.found(self.driver, self.passenger, request, 600);
        self.cluster.publish(&Event::MatchFound(found.clone())).await;
        self.until(async || self.pod.state(self.driver).await["offer"]["match_id"] == json!(found.match_id)).await;
        found
    }

    async fn until(&self, mut is_so: impl AsyncFnMut() -> bool) {
        for _ in 0..2_000 {
            if is_so().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("it does not become so");
    }

    /// `ack`, or the code of the error.
    async fn act(&self, act: Act, found: &MatchFound) -> String {
        let command = async |user, kind, data| match self.pod.command(user, kind, data).await {
            Ok(_) => "ack".to_owned(),
            Err(problem) => problem.split(' ').nth(1).unwrap().to_owned(),
        };
        match act {
            Accept => command(self.driver, "match.accept", match_id(found)).await,
            Reject => command(self.driver, "match.reject", match_id(found)).await,
            EndSearch => command(self.passenger, "finder.update", json!({"active": false})).await,
            OtherTrip => command(self.passenger, "finder.update", trip(HERE)).await,
            Expire => {
                let Event::MatchRejected(e) = self.cluster.rejected(found, RejectReason::Expired) else {
                    unreachable!()
                };
                let rejected_at = MatchRejected::time(Service::Match, e.rejected_at);
                self.cluster.publish(&Event::MatchRejected(MatchRejected { rejected_at, ..e })).await;
                "ack".to_owned()
            }
            Suspend => {
                self.pod.users.set_driver_status(self.driver, DriverStatus::Suspended).await.unwrap();
                "ack".to_owned()
            }
        }
    }

    /// Whether all that was committed is published, and all of it that concerns users is handled.
    async fn is_settled(&self) -> bool {
        if self.cluster.store.waiting().await.unwrap() > 0 {
            return false;
        }
        for consumer in self.pod.platform.topology.consumers.iter().filter(|c| c.durable.ends_with("_users")) {
            let info = self.cluster.bus.consumer_info(&consumer.stream, &consumer.durable).await.unwrap();
            if info.pending + info.ack_pending > 0 {
                return false;
            }
        }
        true
    }

    /// The reasons with which the offer ended, as each party has received them once all that was on its way has arrived.
    async fn ends(&self, found: &MatchFound) -> [Vec<String>; 2] {
        self.until(async || self.is_settled().await).await;
        let mut ends = [self.driver, self.passenger].map(|user| (user, Vec::new()));
        for (user, reasons) in &mut ends {
            let mut client = self.pod.connect(*user, Some(0)).await;
            let mut seq = 0;
            while seq < client.last_seq {
                let event: Value = client.event().await;
                seq = event["seq"].as_u64().unwrap();
                if event["type"] == "match.rejected" && event["data"]["match_id"] == json!(found.match_id) {
                    reasons.push(event["data"]["reason"].as_str().unwrap().to_owned());
                }
            }
            client.close().await;
        }
        ends.map(|(_, reasons)| reasons)
    }

    /// Ends what is left of a race.
    async fn clean_up(&self) {
        self.act_to_end().await;
        self.pod.users.set_driver_status(self.driver, DriverStatus::Approved).await.unwrap();
    }

    async fn act_to_end(&self) {
        self.pod.command(self.passenger, "finder.update", json!({"active": false})).await.unwrap();
    }

    async fn stop(mut self) {
        self.pod.stop().await;
        self.rides.abort();
    }
}

async fn of_every_two_the_table_says_who_wins(backend: Backend) {
    let scene = Scene::on(backend).await;
    for first in ALL {
        for second in ALL {
            let found = scene.offered().await;
            assert_eq!(scene.act(first, &found).await, "ack", "{first:?} alone");
            if first == Expire {
                scene.until(async || scene.pod.state(scene.driver).await["offer"].is_null()).await;
            }
            let answer = scene.act(second, &found).await;
            let ends = scene.ends(&found).await;
            let (expected, end) = winner(first, second);
            let end: Vec<String> = end.into_iter().map(str::to_owned).collect();
            assert_eq!((answer.as_str(), &ends), (expected, &[end.clone(), end]), "{first:?}, then {second:?}");
            scene.clean_up().await;
        }
    }
    scene.stop().await;
}

async fn at_once_it_is_as_one_after_the_other(backend: Backend) {
    let scene = Scene::on(backend).await;
    for (n, one) in ALL.into_iter().enumerate() {
        for other in &ALL[n + 1..] {
            for _ in 0..2 {
                let found = scene.offered().await;
                let (a, b) = tokio::join!(scene.act(one, &found), scene.act(*other, &found));
                let [of_driver, of_passenger] = scene.ends(&found).await;
                assert_eq!(of_driver, of_passenger, "{one:?} and {other:?}: both parties see the same end");
                let as_if = |first: Act, second: Act| {
                    let (answer, end) = winner(first, second);
                    let answers = if first == one { ["ack", answer] } else { [answer, "ack"] };
                    answers == [a.as_str(), b.as_str()] && of_driver == end.into_iter().collect::<Vec<_>>()
                };
                assert!(as_if(one, *other) || as_if(*other, one), "{one:?} {a}, {other:?} {b}: {of_driver:?}");
                scene.clean_up().await;
            }
        }
    }
    scene.stop().await;
}
