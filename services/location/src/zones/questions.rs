//! Where drivers are, whichever process is asked: it asks the owners of the zones in question, and answers with what they know. Of an owner
//! that does not answer in time, it answers with what it knows itself: what it read from the stream, and the rows.
//!
//! Of a driver whom two processes name, the newer place counts: owners may have changed a moment ago.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use platform::api::Schemas;
use platform::responder::{self, Endpoint, Reply};
use platform::{CancellationToken, Platform};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use streams::bus::BusError;
use streams::fleet::{FLEET_PAGE, FleetDriver, FleetReply};
use streams::newest_position::NewestPosition;
use streams::operators::MapQuery;
use streams::{Position, UserId};
use uuid::Uuid;

use super::members::{Asked, Plan};
use super::zone::{Scope, Zone};
use crate::cache::Cache;
use crate::positions::{FreeDriver, NearDriver, SNAPPED_WITHIN_M, ShownDrivers, first_shown};

/// How long an owner may take: it answers from memory.
const ANSWER_WAIT: Duration = Duration::from_millis(250);
/// Questions in hand at most.
const ACCEPTED_MAX: usize = 256;

/// Where one process is asked about the drivers of its zones.
fn subject_of(pod: &str) -> String {
    format!("location.pod.{pod}.drivers")
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DriversRequest")]
struct Request<Q> {
    /// The process that is asked answers for these, whether it owns them or not.
    #[schemars(with = "Vec<Zone>")]
    zones: BTreeSet<Zone>,
    question: Q,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "DriversQuestion")]
enum Question {
    /// The answer is a list of [`NearDriver`].
    Nearby { from: Position, radius_m: f64, limit: usize },
    /// [`FleetReply`].
    Fleet { after: Option<UserId>, limit: usize },
    /// [`NewestPosition`], or null.
    Newest { driver_id: UserId },
    /// [`ShownDrivers`].
    Map { map: MapQuery },
}

/// The schema of a question.
pub(crate) fn request_body(schemas: &mut Schemas) -> Value {
    schemas.written::<Request<Question>>()
}

/// The schema of what is answered, of all questions.
pub(crate) fn reply_body(schemas: &mut Schemas) -> Value {
    json!({"anyOf": [
        schemas.written::<Vec<NearDriver>>(),
        schemas.written::<FleetReply>(),
        schemas.written::<Option<NewestPosition>>(),
        schemas.written::<ShownDrivers>(),
    ]})
}

/// Asks owners, and answers them.
#[derive(Debug, Clone)]
pub(crate) struct Questions {
    platform: Platform,
    cache: Arc<Cache>,
}

impl Questions {
    pub(crate) fn new(platform: &Platform, cache: &Arc<Cache>) -> Self {
        Self { platform: platform.clone(), cache: cache.clone() }
    }

    /// Answers other processes until `stop`.
    pub(crate) async fn answer(self, stop: CancellationToken) {
        if !self.platform.bus.is_shared() {
            stop.cancelled().await;
            return;
        }
        let endpoint = Endpoint {
            // Each process has a subject of its own, which only the others use.
            service: None,
            name: "drivers".to_owned(),
            subject: subject_of(&self.platform.pod),
            queue_group: None,
            accepted_max: ACCEPTED_MAX,
            wait: ANSWER_WAIT,
            health_part: None,
        };
        let cache = self.cache;
        responder::serve(self.platform, endpoint, stop, move |request| {
            let reply = match serde_json::from_slice(&request) {
                Ok(request) => reply(&cache, request),
                Err(error) => Reply::unreadable(&error),
            };
            async { reply }
        })
        .await;
    }

    /// Whether this process answers, as others see it.
    pub(crate) async fn are_answered_here(&self) -> bool {
        let question = Question::Newest { driver_id: UserId(Uuid::nil()) };
        self.ask::<Option<NewestPosition>>(&self.platform.pod, BTreeSet::new(), &question).await.is_ok()
    }

    /// The `limit` nearest free drivers within `radius_m`, nearest first.
    pub(crate) async fn nearby(&self, from: Position, radius_m: f64, limit: usize) -> Vec<FreeDriver> {
        let scope = Scope::Zones(Zone::around(&from, radius_m + SNAPPED_WITHIN_M));
        let question = Question::Nearby { from, radius_m, limit };
        let (answers, own) = self.gather::<Vec<NearDriver>>(self.plan(&scope), &question).await;
        let here = self.cache.positions().nearby(&from, radius_m, limit, &own);
        let found = newest(answers.into_iter().flatten().chain(here), |near| {
            (near.user_id, (near.free.recorded_at, near.received_at))
        });
        let mut found: Vec<NearDriver> = found.into_values().collect();
        // Stable: equal distances stay in the order of ids.
        found.sort_by(|a, b| a.free.distance_m.total_cmp(&b.free.distance_m));
        found.truncate(limit);
        found.into_iter().map(|near| near.free).collect()
    }

    /// A page of where the drivers on duty are, in the order of their ids.
    pub(crate) async fn fleet(&self, after: Option<UserId>) -> FleetReply {
        let plan = self.plan(&Scope::All);
        let limit = FLEET_PAGE / (1 + plan.others.len());
        let (mut pages, own) = self.gather::<FleetReply>(plan, &Question::Fleet { after, limit }).await;
        pages.push(self.cache.positions().fleet(after, limit, &own));
        one_page(pages)
    }

    /// Where the driver is.
    pub(crate) async fn newest_of(&self, driver_id: UserId) -> Option<NewestPosition> {
        let zone = self.cache.positions().zone_of(driver_id);
        let scope = zone.map_or(Scope::All, |zone| Scope::Zones(BTreeSet::from([zone])));
        let (answers, _) =
            self.gather::<Option<NewestPosition>>(self.plan(&scope), &Question::Newest { driver_id }).await;
        let here = self.cache.positions().newest_of(driver_id);
        answers.into_iter().flatten().chain(here).max_by_key(|newest| (newest.recorded_at, newest.received_at))
    }

    /// Who is on duty or in a ride, in the order of ids.
    pub(crate) async fn shown(&self, map: &MapQuery) -> ShownDrivers {
        let question = Question::Map { map: *map };
        let (mut answers, own) = self.gather::<ShownDrivers>(self.plan(&Scope::All), &question).await;
        answers.push(shown_here(&self.cache, map, &own));
        let limit = map.limit as usize;
        let mut truncated = answers.iter().any(|answer| answer.truncated);
        let drivers = answers.into_iter().flat_map(|answer| answer.drivers);
        let drivers = newest(drivers, |driver| (driver.user_id, (driver.recorded_at, driver.received_at)));
        truncated |= drivers.len() > limit;
        ShownDrivers { drivers: drivers.into_values().take(limit).collect(), truncated }
    }

    fn plan(&self, scope: &Scope) -> Plan {
        self.cache.members().plan(scope, self.platform.world.now())
    }

    /// What the others answer, and of which zones this process must answer itself.
    async fn gather<A: DeserializeOwned>(&self, plan: Plan, question: &Question) -> (Vec<A>, Scope) {
        let Plan { mut own, others } = plan;
        let asked = others.into_iter().map(async |(pod, Asked { owned, owned_before })| {
            let zones = owned.union(&owned_before).copied().collect();
            (self.ask::<A>(&pod, zones, question).await, pod, owned)
        });
        let mut answers = Vec::new();
        for (answer, pod, owned) in join_all(asked).await {
            match answer {
                Ok(answer) => answers.push(answer),
                Err(error) => {
                    tracing::debug!(%error, pod = &*pod, "another location process did not answer");
                    if matches!(error, BusError::NoResponders(_))
                        && self.cache.members().gone(&pod, self.platform.world.now())
                    {
                        self.cache.members_changed().notify_one();
                    }
                    if let Scope::Zones(own) = &mut own {
                        own.extend(owned);
                    }
                }
            }
        }
        (answers, own)
    }

    async fn ask<A: DeserializeOwned>(
        &self,
        pod: &str,
        zones: BTreeSet<Zone>,
        question: &Question,
    ) -> Result<A, BusError> {
        let request =
            serde_json::to_vec(&Request { zones, question }).expect("a request has string keys and finite numbers");
        let reply = self.platform.bus.request(&subject_of(pod), request.into(), ANSWER_WAIT).await?;
        serde_json::from_slice(&reply).map_err(|error| BusError::Unavailable(error.to_string()))
    }
}

/// The events of positions wait for the lock: what is answered is written without it.
fn reply(cache: &Cache, request: Request<Question>) -> Reply {
    let scope = Scope::Zones(request.zones);
    match request.question {
        Question::Nearby { from, radius_m, limit } => {
            let near = cache.positions().nearby(&from, radius_m, limit, &scope);
            Reply::json(&near)
        }
        Question::Fleet { after, limit } => {
            let page = cache.positions().fleet(after, limit, &scope);
            Reply::json(&page)
        }
        Question::Newest { driver_id } => {
            let newest = cache.positions().newest_of(driver_id);
            Reply::json(&newest)
        }
        Question::Map { map } => Reply::json(&shown_here(cache, &map, &scope)),
    }
}

/// As far as this process knows. The events of positions wait for the lock: under it drivers are only copied.
fn shown_here(cache: &Cache, map: &MapQuery, scope: &Scope) -> ShownDrivers {
    let most = map.limit as usize;
    let found = cache.positions().shown(map.within.as_ref(), most + 1, scope);
    first_shown(found, most)
}

/// One of each driver: that with the newest place. `of` says who it is, and when the driver was there: a late point is received after
/// newer ones.
fn newest<D, T: Ord>(all: impl IntoIterator<Item = D>, of: impl Fn(&D) -> (UserId, T)) -> BTreeMap<UserId, D> {
    let mut drivers: BTreeMap<UserId, D> = BTreeMap::new();
    for driver in all {
        let (id, at) = of(&driver);
        if drivers.get(&id).is_none_or(|known| of(known).1 < at) {
            drivers.insert(id, driver);
        }
    }
    drivers
}

/// One page of several that begin at the same driver. What comes after the end of a page that has more is left for the next one, because
/// that page may have more before it.
fn one_page(pages: Vec<FleetReply>) -> FleetReply {
    let end =
        pages.iter().filter(|page| page.more).filter_map(|page| page.drivers.last()).map(|last| last.user_id).min();
    let drivers = newest(pages.into_iter().flat_map(|page| page.drivers), |driver| {
        (driver.user_id, (driver.recorded_at, driver.received_at))
    });
    let drivers: Vec<FleetDriver> =
        drivers.into_values().filter(|driver| end.is_none_or(|end| driver.user_id <= end)).collect();
    FleetReply { drivers, more: end.is_some() }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};

    use super::*;

    fn driver(n: u128, received: i64) -> FleetDriver {
        let received_at = DateTime::UNIX_EPOCH + TimeDelta::seconds(received);
        FleetDriver {
            user_id: UserId(Uuid::from_u128(n)),
            location: Position { lat: 0.0, lng: 0.0 },
            device: String::new(),
            is_beacon: true,
            device_at: received_at,
            recorded_at: received_at,
            received_at,
        }
    }

    fn page(drivers: &[FleetDriver], more: bool) -> FleetReply {
        FleetReply { drivers: drivers.to_vec(), more }
    }

    #[test]
    fn a_page_of_several_processes_ends_where_one_of_them_may_have_more() {
        let all = one_page(vec![page(&[driver(1, 0), driver(4, 0)], false), page(&[driver(2, 0)], false)]);
        assert_eq!(all, page(&[driver(1, 0), driver(2, 0), driver(4, 0)], false));
        let first =
            one_page(vec![page(&[driver(1, 0), driver(4, 0)], true), page(&[driver(2, 0), driver(7, 0)], true)]);
        assert_eq!(first, page(&[driver(1, 0), driver(2, 0), driver(4, 0)], true), "5 may be next");
        assert_eq!(one_page(vec![page(&[], false)]), page(&[], false));
        // The newer place of a driver whom two know.
        let twice =
            one_page(vec![page(&[driver(1, 5)], false), page(&[driver(1, 9)], false), page(&[driver(1, 7)], false)]);
        assert_eq!(twice, page(&[driver(1, 9)], false));
        let late = FleetDriver { received_at: DateTime::UNIX_EPOCH + TimeDelta::seconds(10), ..driver(1, 2) };
        let twice = one_page(vec![page(&[driver(1, 9)], false), page(&[late], false)]);
        assert_eq!(twice, page(&[driver(1, 9)], false));
    }
}
