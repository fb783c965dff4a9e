//! The passenger's end of the live lane: while the user of a session rides, the newest position of the driver.
//!
//! It subscribes to the core subject of the ride, then asks location where the driver is, and the driver's own pod if location does not know,
//! so that the passenger sees the vehicle before its next point; until somebody knows, again and again. Neither delays anything else of the session, and neither needs the database: a socket that is open stays served
//! while PostgreSQL is away. `feed` decides what is sent and when.

mod feed;
mod road;

use std::time::Duration;

use chrono::TimeDelta;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use platform::connected_drivers;
use streams::UserId;
use streams::bus::{CoreMessage, Subscription};
use streams::connected_drivers::ConnectedDriver;
use streams::newest_position::{NEWEST_POSITION, NEWEST_POSITION_WAIT, NewestPosition, NewestPositionRequest};
use tokio::time::{Instant, sleep};

use self::feed::Feed;
pub(crate) use self::feed::LiveView;
use self::road::RoadScale;
use crate::context::Context;
use crate::live_ride::position::{LivePosition, live_subject};
use crate::live_ride::{CurrentRide, Destination};

/// The pause before the next try to subscribe, or to ask where the driver is.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// After so many times without an answer the pause is longer.
const QUICK_ASKS: u32 = 3;
const SLOW_PAUSE: Duration = Duration::from_secs(15);
/// What location knows is the newest if it was received this long ago at most: a phone sends where it is every few seconds. Of an older one
/// the driver's pod is asked as well: location may have lost what came since.
const FRESH: TimeDelta = TimeDelta::seconds(5);
/// How long pods are waited for; what location says waits with it, so that the vehicle does not jump.
const PODS_WAIT: Duration = Duration::from_millis(500);

/// The live lane of one session. Empty, and a word in size, while its user does not ride.
pub(crate) struct LiveLane<'a> {
    context: &'a Context,
    following: Option<Box<Following<'a>>>,
}

struct Following<'a> {
    feed: Feed,
    positions: Positions<'a>,
    /// What location and the driver's pod answer.
    newest: Option<BoxFuture<'a, Answer>>,
    /// How often they were asked, since one of them answered.
    asks: u32,
    scale: RoadScale,
    /// What ROUTING_URL answers.
    road: Option<BoxFuture<'a, Option<(Destination, f64)>>>,
}

/// The subscription, once it is there.
enum Positions<'a> {
    Opening(BoxFuture<'a, Subscription>),
    Open(Subscription),
}

/// Where the driver is, as others know.
#[derive(Default)]
pub(crate) struct Answer {
    /// `None` if location knows no position, or did not answer.
    location: Option<NewestPosition>,
    /// Of the pods where the driver has a socket, if they were asked.
    pods: Vec<ConnectedDriver>,
}

/// What the lane reacts to.
pub(crate) enum LiveInput {
    Opened(Subscription),
    /// `None` if the subscription has ended.
    Message(Option<CoreMessage>),
    Newest(Answer),
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
                *following = Some(Box::new(Following { feed, positions, newest: None, asks: 0, scale, road: None }));
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
        let Following { feed, positions, newest, asks, scale, road } = following;
        match input {
            LiveInput::Opened(subscription) => {
                *positions = Positions::Open(subscription);
                // Only now: what comes after the answer was given comes over the subscription.
                *asks = 1;
                *newest = Some(ask(context, *feed.ride(), Duration::ZERO).boxed());
            }
            LiveInput::Message(Some(message)) => {
                match LivePosition::read(&context.tokens, feed.ride().ride_id, &message.payload) {
                    Some(position) => feed.receive(position, now),
                    None => {
                        context.platform.metrics.live_positions.with_label_values(&["refused"]).inc();
                        tracing::debug!(subject = message.subject, "not a position that this platform signed");
                    }
                }
            }
            LiveInput::Message(None) => {
                *positions = Positions::Opening(subscribe(context, *feed.ride(), RETRY_PAUSE).boxed());
            }
            LiveInput::Newest(Answer { location, pods }) => {
                *newest = None;
                if let Some(position) = location {
                    feed.receive_newest(position, now);
                }
                pods.into_iter().for_each(|connected| feed.receive_connected(connected, now));
                // A ride without a position: nobody knew one, or could be asked.
                if feed.age(now).is_none() {
                    let pause = if *asks < QUICK_ASKS { RETRY_PAUSE } else { SLOW_PAUSE };
                    *asks += 1;
                    *newest = Some(ask(context, *feed.ride(), pause).boxed());
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
        let Following { feed, scale, road, newest, .. } = self.following.as_deref_mut()?;
        let mut view = feed.take_due(now)?;
        // Once for each silence: a position may have got lost on the way here.
        if view.stale && newest.is_none() {
            *newest = Some(ask(context, *feed.ride(), Duration::ZERO).boxed());
        }
        let metrics = &context.platform.metrics;
        metrics.live_positions.with_label_values(&["superseded"]).inc_by(feed.take_superseded());
        metrics.live_positions.with_label_values(&[if view.stale { "stale" } else { "shown" }]).inc();
        if let Some(received_at) = feed.newest_received_at().filter(|_| !view.stale) {
            metrics.live_position_age.observe((now - received_at).as_seconds_f64().max(0.0));
        }
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

/// Asks where the driver of a ride is, after a pause: location, and the driver's pod if location does not know a recent place.
async fn ask(context: &Context, ride: CurrentRide, pause: Duration) -> Answer {
    if !pause.is_zero() {
        sleep(pause).await;
    }
    let (platform, now) = (&context.platform, context.platform.world.now());
    let location = newest_position(context, ride.driver_id).await;
    let is_fresh = location.as_ref().is_some_and(|position| now - position.received_at <= FRESH);
    let pods = match is_fresh {
        true => Vec::new(),
        false => connected_drivers::one(platform, ride.driver_id, PODS_WAIT).await,
    };
    Answer { location, pods }
}

/// What location knows.
async fn newest_position(context: &Context, driver_id: UserId) -> Option<NewestPosition> {
    let request = serde_json::to_vec(&NewestPositionRequest { driver_id }).ok()?;
    match context.platform.bus.request(NEWEST_POSITION, request.into(), NEWEST_POSITION_WAIT).await {
        Ok(reply) => match serde_json::from_slice::<Option<NewestPosition>>(&reply) {
            Ok(position) => position.filter(|position| position.location.is_valid()),
            Err(error) => {
                tracing::debug!(%error, "the reply of location is no position");
                None
            }
        },
        Err(error) => {
            tracing::debug!(%error, "location did not say where a driver is");
            None
        }
    }
}
