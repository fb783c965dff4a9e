//! The passenger's end of the live lane: while the user of a session rides, the newest position of the driver.
//!
//! It subscribes to the core subject of the ride, then asks location where the driver is, so that the passenger sees the vehicle before
//! its next point. Neither delays anything else of the session, and neither needs the database: a socket that is open stays served
//! while PostgreSQL is away. `feed` decides what is sent and when.

mod feed;
mod road;

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use streams::UserId;
use streams::bus::{CoreMessage, Subscription};
use streams::newest_position::{NEWEST_POSITION, NEWEST_POSITION_WAIT, NewestPosition, NewestPositionRequest};
use tokio::time::{Instant, sleep};

use self::feed::Feed;
pub(crate) use self::feed::LiveView;
use self::road::RoadScale;
use crate::context::Context;
use crate::live_ride::position::{LivePosition, live_subject};
use crate::live_ride::{CurrentRide, Destination};

/// The pause before the next try to subscribe, or to ask location.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How often location is asked at most. Points come meanwhile.
const ASKS_MAX: u32 = 3;

/// The live lane of one session. Empty, and a word in size, while its user does not ride.
pub(crate) struct LiveLane<'a> {
    context: &'a Context,
    following: Option<Box<Following<'a>>>,
}

struct Following<'a> {
    feed: Feed,
    positions: Positions<'a>,
    /// What location answers.
    newest: Option<BoxFuture<'a, Option<NewestPosition>>>,
    scale: RoadScale,
    /// What ROUTING_URL answers.
    road: Option<BoxFuture<'a, Option<(Destination, f64)>>>,
}

/// The subscription, once it is there.
enum Positions<'a> {
    Opening(BoxFuture<'a, Subscription>),
    Open(Subscription),
}

/// What the lane reacts to.
pub(crate) enum LiveInput {
    Opened(Subscription),
    /// `None` if the subscription has ended.
    Message(Option<CoreMessage>),
    /// What location answered; `None` if it knows no position, or did not answer.
    Newest(Option<NewestPosition>),
    /// The time by road divided by that at the pace; `None` if it is not known.
    Road(Option<(Destination, f64)>),
}

impl<'a> LiveLane<'a> {
    pub(crate) fn new(context: &'a Context) -> Self {
        Self { context, following: None }
    }

    /// `ride` is the one in which the user rides now.
    pub(crate) fn follow(&mut self, ride: Option<&CurrentRide>) {
        match (ride, &mut self.following) {
            (None, None) => {}
            (None, following) => *following = None,
            (Some(ride), Some(following)) if following.feed.ride().ride_id == ride.ride_id => {
                following.feed.set_ride(*ride);
            }
            (Some(ride), following) => {
                let positions = Positions::Opening(subscribe(self.context, *ride, Duration::ZERO).boxed());
                let (feed, scale) = (Feed::new(*ride), RoadScale::default());
                *following = Some(Box::new(Following { feed, positions, newest: None, scale, road: None }));
            }
        }
    }

    /// The next input; pending for ever while the user does not ride. A cancelled call loses nothing.
    pub(crate) async fn next(&mut self) -> LiveInput {
        let Some(following) = self.following.as_deref_mut() else { return std::future::pending().await };
        let Following { positions, newest, road, .. } = following;
        tokio::select! {
            biased;
            input = async {
                match positions {
                    Positions::Opening(opening) => LiveInput::Opened(opening.await),
                    Positions::Open(subscription) => LiveInput::Message(subscription.next().await),
                }
            } => input,
            newest = async {
                match newest {
                    Some(newest) => newest.await,
                    None => std::future::pending().await,
                }
            } => LiveInput::Newest(newest),
            scale = async {
                match road {
                    Some(road) => road.await,
                    None => std::future::pending().await,
                }
            } => LiveInput::Road(scale),
        }
    }

    pub(crate) fn on_input(&mut self, input: LiveInput) {
        let (context, now) = (self.context, self.context.platform.world.now());
        let Some(following) = self.following.as_deref_mut() else { return };
        let Following { feed, positions, newest, scale, road } = following;
        match input {
            LiveInput::Opened(subscription) => {
                *positions = Positions::Open(subscription);
                // Only now: what comes after the answer was given comes over the subscription.
                *newest = Some(newest_position(context, feed.ride().driver_id).boxed());
            }
            LiveInput::Message(Some(message)) => {
                match LivePosition::read(&context.tokens, feed.ride().ride_id, &message.payload) {
                    Some(position) => feed.receive(position, now),
                    None => tracing::debug!(subject = message.subject, "not a position that this platform signed"),
                }
            }
            LiveInput::Message(None) => {
                *positions = Positions::Opening(subscribe(context, *feed.ride(), RETRY_PAUSE).boxed());
            }
            LiveInput::Newest(position) => {
                *newest = None;
                if let Some(position) = position {
                    feed.receive_newest(position, now);
                }
            }
            LiveInput::Road(answer) => {
                *road = None;
                scale.receive(answer);
            }
        }
    }

    /// When the next frame is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let due_at = self.following.as_ref()?.feed.due_at()?;
        Some(self.context.platform.world.instant(due_at))
    }

    /// The frame that is due now. It counts as sent.
    pub(crate) fn take_due(&mut self) -> Option<LiveView> {
        let (context, now) = (self.context, self.context.platform.world.now());
        let Following { feed, scale, road, .. } = self.following.as_deref_mut()?;
        let mut view = feed.take_due(now)?;
        let Some((eta_s, places)) = view.eta_s.zip(feed.ride().places) else { return Some(view) };
        let pace = context.config.markets.get().of(None, &places.pickup).map_or(1.0, |market| market.pace(now));
        let (eta_s, to) = (eta_s * pace, view.eta_to);
        view.eta_s = Some((scale.scaled(to, eta_s) * 100.0).round() / 100.0);
        if let (Some(roads), None) = (&context.config.roads, &road) {
            let place = if to == Destination::Pickup { places.pickup } else { places.dropoff };
            *road = scale.ask((roads, &context.road_permits), (view.location, (to, place)), eta_s, now);
        }
        Some(view)
    }
}

/// Subscribes to the positions of a ride; tries until the bus is there.
async fn subscribe(context: &Context, ride: CurrentRide, mut pause: Duration) -> Subscription {
    loop {
        if !pause.is_zero() {
            sleep(pause).await;
        }
        pause = RETRY_PAUSE;
        match context.platform.bus.subscribe(&live_subject(ride.ride_id), None).await {
            Ok(subscription) => return subscription,
            Err(error) => tracing::debug!(%error, "cannot subscribe to the positions of a ride"),
        }
    }
}

/// Asks location for the newest position of a driver.
async fn newest_position(context: &Context, driver_id: UserId) -> Option<NewestPosition> {
    let request = serde_json::to_vec(&NewestPositionRequest { driver_id }).ok()?;
    for _ in 0..ASKS_MAX {
        let bus = &context.platform.bus;
        match bus.request(NEWEST_POSITION, request.clone().into(), NEWEST_POSITION_WAIT).await {
            Ok(reply) => match serde_json::from_slice::<Option<NewestPosition>>(&reply) {
                Ok(position) => return position.filter(|position| position.location.is_valid()),
                Err(error) => tracing::debug!(%error, "the reply of location is no position"),
            },
            Err(error) => tracing::debug!(%error, "location did not say where a driver is"),
        }
        sleep(RETRY_PAUSE).await;
    }
    None
}
