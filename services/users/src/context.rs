//! What every part of the service works with. It is the state of the HTTP routes as well.

use std::sync::Arc;

use axum::extract::FromRef;
use platform::http_client::HttpClient;
use platform::{Platform, Store, Tokens, Trace, Transaction};
use streams::Event;
use tokio::sync::Semaphore;

use crate::config::Config;
use crate::gateway::sockets::Sockets;
use crate::tables::Tables;

/// Position messages of all sockets together that await the stream's acknowledgement at once.
const PUBLISHES_MAX: usize = 1_000;

/// Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) platform: Platform,
    pub(crate) store: Store<Tables>,
    pub(crate) tokens: Tokens,
    pub(crate) config: Arc<Config>,
    pub(crate) sockets: Arc<Sockets>,
    /// One permit for each position message whose acknowledgement is awaited.
    pub(crate) publish_permits: Arc<Semaphore>,
    pub(crate) http_client: HttpClient,
}

impl Context {
    pub(crate) fn new(platform: &Platform, store: &Store<Tables>, tokens: Tokens, config: Config) -> Self {
        Self {
            platform: platform.clone(),
            store: store.clone(),
            tokens,
            config: Arc::new(config),
            sockets: Arc::default(),
            publish_permits: Arc::new(Semaphore::new(PUBLISHES_MAX)),
            http_client: HttpClient::default(),
        }
    }

    /// Puts `event` into the outbox of `tx` as the first event of a new trace, which the current span records.
    pub(crate) fn publish(&self, tx: &mut Transaction<Tables>, event: &Event) {
        tx.publish(event, &self.new_trace());
    }

    /// The beginning of a new trace, which the current span records.
    pub(crate) fn new_trace(&self) -> Trace {
        let trace = self.platform.world.trace();
        tracing::Span::current().record("trace_id", trace.trace_id());
        trace
    }
}

impl FromRef<Context> for Tokens {
    fn from_ref(context: &Context) -> Self {
        context.tokens.clone()
    }
}
