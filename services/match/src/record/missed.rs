//! A driver's own view of the decisions around them: why others were offered searches while the driver was on duty. It names nobody, and
//! places and times are rounded, so that neither passengers nor the other drivers can be followed. Pure.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, DurationRound, Utc};
use geospatial::rounding::snapped;
use streams::missed_offers::{MISSED_OFFERS_MAX, MissedOffer, MissedOffersReply, WhyMissed};
use streams::{Event, RequestId, UserId};

use super::explain::{Why, candidate};
use super::replay::{Replay, RulesByVersion};
use super::{Entry, Kind};

/// Places and distances are rounded to this, in metres.
const ROUNDED_M: f64 = 100.0;
/// Times are cut to this.
const CUT_TO: Duration = Duration::minutes(1);

/// Runs entries again for one driver.
#[derive(Debug)]
pub struct Missed {
    driver: UserId,
    since: DateTime<Utc>,
    replay: Option<Replay>,
    /// Since the snapshot from which on nothing is missing. `None`: what came last is not known.
    complete_since: Option<DateTime<Utc>>,
    /// The newest offer of each search to somebody else.
    searches: BTreeMap<RequestId, MissedOffer>,
}

impl Missed {
    pub fn new(driver: UserId, since: DateTime<Utc>) -> Self {
        // Else it could be found out by trying when exactly a search was offered.
        Self { driver, since: cut(since), replay: None, complete_since: None, searches: BTreeMap::new() }
    }

    /// The next entry. What cannot be run again, or comes out otherwise than it happened, is left out up to the next snapshot.
    pub fn entry(&mut self, entry: &Entry, rules: &RulesByVersion) {
        let done = match (&mut self.replay, entry.kind) {
            (before, Kind::Snapshot) => {
                if !before.as_ref().is_some_and(|before| before.is_followed_by(entry)) {
                    self.complete_since = Some(entry.at);
                }
                Replay::begin(entry, rules).map(|begun| self.replay = Some(begun))
            }
            (Some(_), _) => self.step(entry, rules),
            (None, _) => return,
        };
        if done.is_err() {
            (self.replay, self.complete_since) = (None, None);
        }
    }

    fn step(&mut self, entry: &Entry, rules: &RulesByVersion) -> Result<(), String> {
        let Some(replay) = &mut self.replay else { return Ok(()) };
        let (driver, since) = (self.driver, self.since);
        let mut seen: Vec<(RequestId, MissedOffer)> = Vec::new();
        let replayed = replay.step_observed(entry, rules, &mut |decision| {
            let on_duty = decision.marketplace.engine.drivers().get(&driver).is_some_and(|row| row.active);
            if decision.marketplace.now < since || !on_duty {
                return;
            }
            let own = decision.assignments.iter().find(|one| one.driver.id == driver).map(|one| one.request_id);
            for assignment in decision.assignments.iter().filter(|one| one.driver.id != driver) {
                let Some(request) = decision.marketplace.waiting_one(assignment.request_id) else { continue };
                let Some(candidate) = candidate(decision.marketplace, &request, driver, own.as_ref()) else { continue };
                // A driver says where they are. By distances from the exact place they could find it.
                let pickup = snapped(&request.pickup, ROUNDED_M);
                let distance_m = candidate.position.distance_m(&pickup);
                let nearer_by_m = distance_m - assignment.driver.position.distance_m(&pickup);
                let why = match candidate.why {
                    Why::CostsMore if nearer_by_m > 0.0 => WhyMissed::Farther,
                    Why::CostsMore => WhyMissed::BetterTogether,
                    Why::OfferedAnother { .. } => WhyMissed::OfferedAnother,
                    Why::AskedBefore | Why::Declined { .. } | Why::Missed { .. } => WhyMissed::AskedBefore,
                    Why::InOffer => WhyMissed::InOffer,
                    Why::InRide { .. } => WhyMissed::InRide,
                    Why::NoRoad => WhyMissed::NoRoad,
                    // That they cancelled on this passenger would say who it is.
                    Why::CancelledRide | Why::IsPassenger | Why::Offered => continue,
                    // It was none for the driver.
                    Why::OffDuty | Why::OtherVehicle | Why::OtherMarket | Why::OutsideRadius => continue,
                };
                if distance_m > request.radius_m {
                    continue;
                }
                let missed = MissedOffer {
                    at: cut(decision.marketplace.now),
                    pickup,
                    distance_m: rounded(distance_m),
                    why,
                    nearer_by_m: rounded(nearer_by_m),
                };
                seen.push((assignment.request_id, missed));
            }
        })?;
        if !replayed.is_same {
            return Err(format!("step {} of term {} decides otherwise now", entry.number, entry.epoch));
        }
        // An assignment becomes no offer if one of the two was taken by another one of the step.
        let is_offered = |id: &RequestId| {
            replayed.output.events.iter().any(|event| matches!(event, Event::MatchFound(e) if e.request_id == *id))
        };
        for (id, missed) in seen.into_iter().filter(|(id, _)| is_offered(id)) {
            self.searches.insert(id, missed);
        }
        Ok(())
    }

    /// The reply: the newest first.
    pub fn finish(self) -> MissedOffersReply {
        let complete_since = self.complete_since.map(|at| at.max(self.since));
        let mut searches: Vec<MissedOffer> = self.searches.into_values().collect();
        searches.sort_by_key(|missed| std::cmp::Reverse(missed.at));
        let more = searches.len().saturating_sub(MISSED_OFFERS_MAX);
        searches.truncate(MISSED_OFFERS_MAX);
        MissedOffersReply::Missed { searches, more, complete_since }
    }
}

fn cut(at: DateTime<Utc>) -> DateTime<Utc> {
    at.duration_trunc(CUT_TO).unwrap_or(at)
}

fn rounded(distance_m: f64) -> f64 {
    // Minus zero is zero.
    (distance_m / ROUNDED_M).round() * ROUNDED_M + 0.0
}
