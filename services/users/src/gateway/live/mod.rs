//! The passenger's end of the live lane: while the user of a session rides, the newest position of the driver.
//!
//! It subscribes to the core subject of the ride, then asks location where the driver is, so that the passenger sees the vehicle before
//! its next point. Neither delays anything else of the session, and neither needs the database: a socket that is open stays served
//! while PostgreSQL is away. `feed` decides what is sent and when.

mod feed;

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use streams::UserId;
use streams::bus::{CoreMessage, Subscription};
use streams::newest_position::{NEWEST_POSITION, NEWEST_POSITION_WAIT, NewestPosition, NewestPositionRequest};
use tokio::time::{Instant, sleep};

use self::feed::Feed;
pub(crate) use self::feed::LiveView;
use crate::context::Context;
use crate::live_ride::CurrentRide;
use crate::live_ride::position::{LivePosition, live_subject};

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
                *following = Some(Box::new(Following { feed: Feed::new(*ride), positions, newest: None }));
            }
        }
    }

    /// The next input; pending for ever while the user does not ride. A cancelled call loses nothing.
    pub(crate) async fn next(&mut self) -> LiveInput {
        let Some(following) = self.following.as_deref_mut() else { return std::future::pending().await };
        let Following { positions, newest, .. } = following;
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
        }
    }

    pub(crate) fn on_input(&mut self, input: LiveInput) {
        let (context, now) = (self.context, self.context.platform.world.now());
        let Some(following) = self.following.as_deref_mut() else { return };
        let Following { feed, positions, newest } = following;
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
        }
    }

    /// When the next frame is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let due_at = self.following.as_ref()?.feed.due_at()?;
        Some(self.context.platform.world.instant(due_at))
    }

    /// The frame that is due now. It counts as sent.
    pub(crate) fn take_due(&mut self) -> Option<LiveView> {
        let now = self.context.platform.world.now();
        let feed = &mut self.following.as_deref_mut()?.feed;
        let mut view = feed.take_due(now)?;
        let pickup = feed.ride().places.map(|places| places.pickup);
        view.eta_s = view.eta_s.zip(pickup).map_or(view.eta_s, |(eta_s, pickup)| {
            let pace = self.context.config.markets.get().of_pickup(&pickup).pace(now);
            Some((eta_s * pace * 100.0).round() / 100.0)
        });
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
