//! What a client's command does: one transaction with its events, then the data of the `ack`; or why not. It never
//! touches a socket, and nobody but the caller's own rows change by it.

use std::sync::Arc;

use platform::store::StoreError;
use platform::{Problem, Transaction, kill_point};
use serde_json::{Value, json};
use streams::event::LocationUpdate;
use streams::ride_command::{RIDE_COMMAND_WAIT, RIDE_COMMANDS, RideAction, RideCommand, RideReply};
use streams::{Event, MatchId, Message, Position, RideId, Service, UserId};

use crate::gateway::frame::{Command, Point, Refusal, Trip};
use crate::offer::{Answer, State};
use crate::search::Search;
use crate::{Tables, Users, account, live_ride, mailbox, offer, presence, search};

/// Tries of a command whose transaction met another one.
const TRIES: u32 = 4;

/// Why a try ended without a result.
enum Failed {
    Refused(Refusal),
    Store(StoreError),
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem.into())
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

type Done = Result<Value, Failed>;

fn not_driver() -> Refusal {
    Refusal::new("not_driver", "only a driver may do this: register with POST /v1/drivers")
}

impl Users {
    /// Does what `user` wants; `ride` is the ride that a driver's positions belong to. What is returned is durable.
    ///
    /// # Errors
    /// [`Refusal`], and nothing is changed; for `unavailable` the client repeats the same command.
    pub(crate) async fn execute(&self, user: UserId, ride: Option<RideId>, command: Command) -> Result<Value, Refusal> {
        match command {
            Command::Ride(ride_id, action) => self.ask_rides(user, ride_id, action).await,
            Command::Location(points) => {
                if !self.is_driver(user).await? {
                    return Err(not_driver());
                }
                self.publish_points(user, ride, points).await
            }
            command => {
                let mut tries = 0;
                loop {
                    tries += 1;
                    match self.attempt(user, &command).await {
                        Ok(data) => {
                            kill_point::reached("command.before_ack");
                            return Ok(data);
                        }
                        Err(Failed::Refused(refusal)) => return Err(refusal),
                        // Another command of the same user was first: what it left is judged anew.
                        Err(Failed::Store(StoreError::Serialization(_) | StoreError::Conflict { .. }))
                            if tries < TRIES => {}
                        Err(Failed::Store(error)) => return Err(Problem::from(error).into()),
                    }
                }
            }
        }
    }

    async fn attempt(&self, user: UserId, command: &Command) -> Done {
        match command {
            Command::Beacon { active, location } => self.update_beacon(user, *active, *location).await,
            Command::Search(trip) => self.search(user, *trip).await,
            Command::EndSearch => self.end_search(user).await,
            Command::Accept(id) => self.answer(user, *id, Answer::Accept).await,
            Command::Reject(id) => self.answer(user, *id, Answer::Reject).await,
            Command::MailboxAck(seq) => self.ack_mailbox(user, *seq).await,
            Command::Location(_) | Command::Ride(..) => Err(Refusal::unavailable().into()),
        }
    }

    async fn update_beacon(&self, user: UserId, active: bool, location: Option<Position>) -> Done {
        let mut tx = self.store.begin().await?;
        let driver = account::driver_of(&mut tx, user).await?.ok_or_else(not_driver)?;
        let known = presence::beacons(&mut tx, &[user]).await?.pop();
        let now = self.platform.world.now();
        let next = presence::updated(known.as_ref(), user, driver.vehicle_type, active, location, now);
        if let Some((beacon, event)) = next
            && (event.is_some() || known != Some(beacon))
        {
            presence::put(&mut tx, &beacon).await?;
            self.publish(&mut tx, event);
            tx.commit().await?;
        }
        Ok(json!({"active": active}))
    }

    async fn search(&self, user: UserId, trip: Trip) -> Done {
        let mut tx = self.store.begin().await?;
        let open = search::open_of(&mut tx, user).await?;
        if let Some(open) = open.filter(|open| open.trip == trip) {
            return Ok(json!({"request_id": open.request_id}));
        }
        if live_ride::of_passenger(&mut tx, user).await?.is_some() {
            let message = "you are in a ride: another can be asked for when it is over";
            return Err(Problem::conflict("ride_live", message).into());
        }
        let mut now = self.platform.world.now();
        if let Some(open) = open {
            search::remove(&mut tx, &open).await?;
            let ended = open.ended(now);
            // The new one begins after the end of the old one, also for who sorts by time.
            now = ended.occurred_at().unwrap_or(now) + chrono::Duration::microseconds(1);
            self.publish(&mut tx, Some(ended));
        }
        let began = Search {
            request_id: self.platform.world.id(),
            user_id: user,
            trip,
            began_at: now,
            expires_at: now + chrono::Duration::seconds(i64::from(self.config.request_ttl_s)),
        };
        search::insert(&mut tx, &began).await?;
        self.publish(&mut tx, Some(began.began()));
        tx.commit().await?;
        Ok(json!({"request_id": began.request_id}))
    }

    async fn end_search(&self, user: UserId) -> Done {
        let mut tx = self.store.begin().await?;
        let Some(open) = search::open_of(&mut tx, user).await? else {
            return Ok(json!({"request_id": null}));
        };
        search::remove(&mut tx, &open).await?;
        let now = self.platform.world.now();
        self.publish(&mut tx, Some(open.ended(now)));
        tx.commit().await?;
        Ok(json!({"request_id": open.request_id}))
    }

    async fn answer(&self, driver: UserId, id: MatchId, answer: Answer) -> Done {
        let mut tx = self.store.begin().await?;
        let known = offer::of_driver(&mut tx, id, driver).await?;
        let offer = known.ok_or_else(|| Problem::not_found("offer"))?;
        if let Some((state, event)) = offer.answered(answer, self.platform.world.now())? {
            offer::change(&mut tx, id, state).await?;
            self.publish(&mut tx, Some(event));
            tx.commit().await?;
            let outcome = if state == State::Accepted { "accepted" } else { "declined" };
            self.platform.metrics.matches.with_label_values(&[outcome]).inc();
        }
        Ok(json!({"match_id": id}))
    }

    async fn ack_mailbox(&self, user: UserId, seq: u64) -> Done {
        let mut tx = self.store.begin().await?;
        if !mailbox::ack(&mut tx, user, seq).await? {
            return Err(Refusal::field("seq", "is beyond the newest event of your mailbox").into());
        }
        kill_point::reached("mailbox.before_cursor");
        tx.commit().await?;
        Ok(json!({"seq": seq}))
    }

    pub(crate) fn publish(&self, tx: &mut Transaction<Tables>, event: Option<Event>) {
        if let Some(event) = event {
            tx.publish(&event, &self.platform.world.trace());
        }
    }

    async fn ask_rides(&self, user: UserId, ride_id: RideId, action: RideAction) -> Result<Value, Refusal> {
        let traceparent = self.platform.world.trace().as_str().to_owned();
        let command = RideCommand { user_id: user, ride_id, action, traceparent };
        let payload = serde_json::to_vec(&command).map_err(|_| Refusal::unavailable())?;
        let reply = match self.platform.bus.request(RIDE_COMMANDS, payload.into(), RIDE_COMMAND_WAIT).await {
            Ok(reply) => reply,
            Err(error) => {
                tracing::warn!(%error, %ride_id, "rides does not answer");
                return Err(Refusal::unavailable());
            }
        };
        match serde_json::from_slice(&reply) {
            Ok(RideReply::Ok(data)) => Ok(data),
            Ok(RideReply::Error { code, message, field }) => Err(Refusal { code: code.into(), message, field }),
            Err(error) => {
                tracing::error!(%error, %ride_id, "rides answers what nobody understands");
                Err(Refusal::unavailable())
            }
        }
    }

    pub(crate) async fn is_driver(&self, user: UserId) -> Result<bool, Refusal> {
        let failed = |error: StoreError| Refusal::from(Problem::from(error));
        let mut tx = self.store.begin().await.map_err(failed)?;
        Ok(account::driver_of(&mut tx, user).await.map_err(failed)?.is_some())
    }

    /// Publishes a driver's positions, straight to the stream; returns once it has them all.
    ///
    /// # Errors
    /// `unavailable` if one was not taken; a repeat publishes them under the same ids.
    pub(crate) async fn publish_points(
        &self,
        driver: UserId,
        ride: Option<RideId>,
        points: Vec<Point>,
    ) -> Result<Value, Refusal> {
        let count = points.len();
        let trace = self.platform.world.trace();
        let mut messages: Vec<Message> =
            points.into_iter().map(|point| self.message(driver, ride, point, trace.as_str())).collect();
        // So many publishes at most await the server's word at once, of all sockets together.
        let wanted = u32::try_from(messages.len()).unwrap_or(u32::MAX);
        let Ok(_permits) = Arc::clone(&self.publishing).acquire_many_owned(wanted).await else {
            return Err(Refusal::unavailable());
        };
        let results = match (messages.len(), messages.pop()) {
            (1, Some(message)) => vec![self.platform.bus.publish(message).await],
            (_, last) => {
                messages.extend(last);
                self.platform.bus.publish_all(messages).await
            }
        };
        let published = results.iter().filter(|r| r.is_ok()).count();
        self.platform.metrics.published.with_label_values(&[Service::Users.name()]).inc_by(published as u64);
        match results.into_iter().find_map(Result::err) {
            None => {
                kill_point::reached("positions.before_ack");
                Ok(json!({"points": count}))
            }
            Some(error) => {
                tracing::warn!(%error, "positions were not published");
                Err(Refusal::unavailable())
            }
        }
    }

    fn message(&self, driver: UserId, ride: Option<RideId>, point: Point, traceparent: &str) -> Message {
        let Point { location, accuracy_m, speed_mps, heading_deg, recorded_at } = point;
        let event = Event::LocationUpdate(LocationUpdate {
            user_id: driver,
            ride_id: ride,
            location,
            accuracy_m,
            speed_mps,
            heading_deg,
            recorded_at,
        });
        let (id, entity) = (event.message_id(recorded_at), driver.to_string());
        let (subject, body) = (event.subject().as_str(), event.body().into());
        platform::outbox::message(subject, &id, &entity, recorded_at, traceparent, Service::Users, body)
    }
}
