//! What every part of the service works with. It is the state of the HTTP routes as well.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use axum::extract::FromRef;
use chrono::Duration;
use platform::breaker::Rules;
use platform::http_client::HttpClient;
use platform::limits::{Limit, Quota};
use platform::{Asking, Breaker, Platform, Store, Tokens, Trace, Transaction, spans};
use streams::Event;
use streams::debts::DEBTS;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use uuid::Uuid;

use crate::commands::joint_publish::JointPublish;
use crate::commands::joint_search::JointSearches;
use crate::commands::stream_room::StreamRoom;
use crate::commands::window::Window;
use crate::config::Config;
use crate::gateway::client_limits::{ClientLimits, limits_of_client};
use crate::gateway::sockets::Sockets;
use crate::party::cache::PeopleCache;
use crate::party::means::MeansCache;
use crate::presence::lease::PodLease;
use crate::push::due::Due;
use crate::push::sinks::Sinks;
use crate::push::taken::Taken;
use crate::sign_in::delivery::CODES;
use crate::tables::Tables;

/// Position messages of all sockets together that await the stream's acknowledgement at once: those of frames with few
/// points, and those of frames with many.
const PUBLISHES_MAX: usize = 1_000;
const BATCHES_MAX: usize = 50;

/// Each request without an answer holds a command for its whole deadline.
const RIDES_RULES: Rules = Rules { failures_max: 10, open_for: Duration::seconds(2) };

/// Without an answer a state says that debts are unknown; commands have a breaker of their own.
const DEBTS_RULES: Rules = Rules { failures_max: 5, open_for: Duration::seconds(2) };
/// Without an answer frames have the ratings that were known.
const RATINGS_RULES: Rules = Rules { failures_max: 3, open_for: Duration::seconds(5) };
/// Requests for debts that await their reply at once.
const DEBTS_MAX: usize = 16;
/// Requests for missed offers at once: match works on one at a time.
const MISSED_MAX: usize = 4;
/// Questions at once how long drivers of live rides need by road.
const ROAD_ASKS_MAX: usize = 16;

/// Clones share everything, and cost a word: each socket holds one.
#[derive(Debug, Clone)]
pub(crate) struct Context(Arc<Parts>);

impl Deref for Context {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) platform: Platform,
    pub(crate) store: Store<Tables>,
    pub(crate) tokens: Tokens,
    pub(crate) config: Arc<Config>,
    pub(crate) sockets: Arc<Sockets>,
    /// By which other pods know that the sockets of this one are open.
    pub(crate) lease: Arc<PodLease>,
    /// One permit for each position message whose acknowledgement is awaited: of frames with few points, and with many.
    pub(crate) publish_permits: Arc<Semaphore>,
    pub(crate) batch_permits: Arc<Semaphore>,
    pub(crate) joint_publish: Arc<JointPublish>,
    pub(crate) joint_searches: Arc<JointSearches>,
    /// The positions of free drivers under way.
    pub(crate) window: Arc<Window>,
    /// Of the stream of positions.
    pub(crate) stream_room: StreamRoom,
    /// Of the webhook that delivers codes.
    pub(crate) codes_client: HttpClient,
    /// The limits that concern a client, as its welcome names them.
    pub(crate) limits: Arc<ClientLimits>,
    /// Of requests to rides.
    pub(crate) rides: Arc<Breaker>,
    /// Asks rides for debts.
    pub(crate) debts: Arc<Asking>,
    /// Of requests to match for missed offers.
    pub(crate) missed_permits: Arc<Semaphore>,
    /// Of questions how long drivers of live rides need by road.
    pub(crate) road_permits: Arc<Semaphore>,
    /// Where pushes go, when they are due, and which are not needed.
    pub(crate) sinks: Arc<Sinks>,
    pub(crate) due: Arc<Due>,
    pub(crate) taken: Arc<Taken>,
    /// People as others are shown them.
    pub(crate) people: Arc<PeopleCache>,
    /// The means of their ratings, and the breaker of requests to rides for them.
    pub(crate) means: Arc<MeansCache>,
    pub(crate) ratings: Arc<Breaker>,
}

impl Context {
    pub(crate) fn new(platform: &Platform, store: &Store<Tables>, tokens: Tokens, config: Config) -> Self {
        Self(Arc::new(Parts {
            platform: platform.clone(),
            store: store.clone(),
            tokens,
            sinks: Arc::new(Sinks::new(platform, &config.push)),
            due: Arc::default(),
            taken: Arc::default(),
            limits: Arc::new(limits_of_client(platform.limiter.limits(), config.track_max_speed_mps)),
            config: Arc::new(config),
            sockets: Arc::default(),
            lease: Arc::new(PodLease::new(platform)),
            publish_permits: Arc::new(Semaphore::new(PUBLISHES_MAX)),
            batch_permits: Arc::new(Semaphore::new(BATCHES_MAX)),
            joint_publish: Arc::default(),
            joint_searches: Arc::default(),
            window: Arc::new(Window::new(Instant::now())),
            stream_room: StreamRoom::default(),
            codes_client: HttpClient::new(platform, CODES),
            rides: Arc::new(Breaker::new(platform, "rides", RIDES_RULES)),
            debts: Arc::new(Asking::new(platform, "debts", DEBTS_RULES, DEBTS, DEBTS_MAX)),
            missed_permits: Arc::new(Semaphore::new(MISSED_MAX)),
            road_permits: Arc::new(Semaphore::new(ROAD_ASKS_MAX)),
            people: Arc::default(),
            means: Arc::default(),
            ratings: Arc::new(Breaker::new(platform, "ratings", RATINGS_RULES)),
        }))
    }

    /// The frames that a socket may send.
    pub(crate) fn frames_quota(&self) -> Quota {
        self.platform.limiter.limits().quota(Limit::Frames)
    }

    /// Puts `event` into the outbox of `tx`, in the trace of the command under way or as the first event of a new one.
    pub(crate) fn publish(&self, tx: &mut Transaction<Tables>, event: &Event) {
        tx.publish(event, &self.new_trace());
    }

    /// Puts `event`, which is about `subject`, into the outbox of `tx`, in the trace that `traces` has of that.
    pub(crate) fn publish_about(
        &self,
        tx: &mut Transaction<Tables>,
        event: &Event,
        subject: Uuid,
        traces: &BTreeMap<Uuid, Trace>,
    ) {
        let command = spans::current();
        match traces.get(&subject) {
            Some(trace) if command.as_ref().is_none_or(|c| c.trace_id() != trace.trace_id()) => {
                tx.publish(event, trace)
            }
            _ => tx.publish(event, &self.new_trace()),
        };
    }

    /// The span of the command under way, or the beginning of a new trace; the current span of the log records its trace.
    pub(crate) fn new_trace(&self) -> Trace {
        let trace = spans::current().unwrap_or_else(|| self.platform.new_trace());
        tracing::Span::current().record("trace_id", trace.trace_id());
        trace
    }
}

impl FromRef<Context> for Tokens {
    fn from_ref(context: &Context) -> Self {
        context.tokens.clone()
    }
}
