//! What operators see: metrics in Prometheus' text format, and the health of each part of the process.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::event_metrics::{CONVENTIONAL, EventMetrics, PublishMetrics};
use crate::exemplars::{Exemplars, TracedHistogram};
use crate::process_metrics::ProcessMetrics;
use crate::registry::registered;
use prometheus::{
    CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

/// The metrics of one process. A label is named after what it counts by.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    exemplars: Exemplars,
    pub publishes: PublishMetrics,
    pub events: EventMetrics,
    /// By service.
    pub published: IntCounterVec,
    /// Events published again because their stream was lost, by service.
    pub published_again: IntCounterVec,
    /// Messages processed and acknowledged, by consumer.
    pub handled: IntCounterVec,
    /// Failed attempts, by consumer.
    pub failed: IntCounterVec,
    /// Deliveries after the first, by consumer.
    pub redelivered: IntCounterVec,
    /// By consumer.
    pub dead_lettered: IntCounterVec,
    /// Seconds for one batch, from the begin of its transaction to its commit, by service.
    pub handler_seconds: HistogramVec,
    /// Age of the oldest message that is not handled, seconds, by consumer: 0 if there is none.
    pub lag: GaugeVec,
    /// Messages not delivered yet, by consumer, as the server reports it.
    pub pending: IntGaugeVec,
    /// Messages delivered and not acknowledged, by consumer, as the server reports it.
    pub ack_pending: IntGaugeVec,
    /// Age of the oldest event not yet published, seconds, by service.
    pub outbox_age: GaugeVec,
    pub sockets: Gauge,
    /// By direction: in, out.
    pub frames: IntCounterVec,
    /// By outcome: found, accepted, declined, expired, cancelled, superseded.
    pub matches: IntCounterVec,
    /// What operators did, by act.
    pub operator_acts: IntCounterVec,
    /// By status reached.
    pub rides: IntCounterVec,
    /// Final distances that nobody can have driven, billed by the estimate instead, by service.
    pub sos: IntCounterVec,
    pub distances_refused: IntCounterVec,
    pub distances_late: IntCounterVec,
    /// Positions of free drivers that were not published because the readers were behind, by service.
    pub positions_left_out: IntCounterVec,
    /// Positions that a process of location recorded in its memory, by source: stream (it read them), owner (it owns their zone), everyone (a
    /// process of another version is there), zone (their driver came into another zone, or the zone into another process).
    pub positions_recorded: IntCounterVec,
    /// Positions on the live lane, by outcome: published and publish_failed by the driver's process; shown, stale (shown once more, because no
    /// newer one came), superseded (a newer one came before it was shown) and refused (not signed by this platform) by the passenger's.
    pub live_positions: IntCounterVec,
    /// Seconds from a position's reception by the driver's process to its frame at the passenger's.
    pub live_position_age: Histogram,
    /// Core messages dropped because a subscription's buffer was full.
    pub core_dropped: IntCounter,
    /// 1 while a message is stored in an interest or work-queue stream although every consumer's lag is 0, by stream.
    pub stuck: IntGaugeVec,
    /// Bytes that a stream stores, as a part of the most that it may: 1 is full.
    pub stream_fill: GaugeVec,
    /// Messages that a stream dropped for want of room before a consumer was delivered them, by consumer; as far as observations show it.
    pub discarded: IntCounterVec,
    /// Limits reached, by limit.
    pub limited: IntCounterVec,
    /// Requests for one-time codes, by outcome: sent, limited, refused (a kind of number or a country), undelivered.
    pub codes: IntCounterVec,
    /// One-time codes presented, by outcome: right, wrong, dead (there is no live code), limited.
    pub codes_presented: IntCounterVec,
    /// Requests dropped because the process has too much to do, by class.
    pub shed: IntCounterVec,
    /// Sign-ins, by outcome: started, refreshed, repeated (the answer may have been lost), refused (a refresh token that is not
    /// valid), reused (a refresh token that was used before), ended.
    pub sign_ins: IntCounterVec,
    /// 1 if this part of the process works, by part, as health names it.
    part_healthy: IntGaugeVec,
    /// 1 while this process makes the offers.
    pub match_active: Gauge,
    /// Zones whose offers this process makes.
    pub match_zones: Gauge,
    /// Zones that have had no owner for longer than a take-over takes.
    pub match_zones_without_owner: Gauge,
    /// New offers that were not made because another zone of match was first with the driver or the passenger.
    pub match_conflicts: IntCounter,
    /// What MATCH_SHADOW_POLICY would have done with a search that was offered, or would have been: same_driver, other_driver, only_real,
    /// only_shadow. And its steps that were dropped because it was too slow, and panicked.
    pub match_shadow: IntCounterVec,
    /// The seconds to the pickup of searches that both would have offered, by policy: real, shadow.
    pub match_shadow_eta: CounterVec,
    /// Ways whose road times are estimated because there was no room to ask for them, by where: step (a step of match wants too many), requests
    /// (match has too many under way), time (the wait of one call was over before they were asked for).
    pub road_ways_left_out: IntCounterVec,
    /// 0 closed, 1 half-open, 2 open, by breaker.
    pub breakers: IntGaugeVec,
    /// Requests not sent because their breaker was open, by breaker.
    pub breaker_refused: IntCounterVec,
    /// Tries of the HTTP client, by purpose and outcome: 2xx to 5xx, timeout, connection, circuit_open, refused (an address that is
    /// not public).
    pub http_requests: IntCounterVec,
    /// Tries to send pushes, by platform and outcome: sent, failed, not_tried (a breaker is open), gone (its device is removed), refused,
    /// expired, unconfigured; and, of any platform, taken (by a socket, so that none was sent).
    pub pushes: IntCounterVec,
    /// Hosts to which nothing is sent, because they do not answer, by purpose.
    pub http_hosts_open: IntGaugeVec,
    /// Seconds from a command of a client to its answer, by command and outcome: ok, or the code of the refusal. Of positions only
    /// those that are not published at once.
    pub commands: TracedHistogram,
    /// Seconds of an HTTP request, by method, route and status.
    pub http_server: TracedHistogram,
    /// Seconds from the time of a match.found to its frame's end in a socket.
    pub offer_to_phone: TracedHistogram,
    /// Spans that the collector took.
    pub spans_exported: IntCounter,
    /// Spans that were not exported, by reason: queue (no room), collector (it did not take them).
    pub spans_dropped: IntCounterVec,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let (registry, exemplars) = (Registry::new(), Exemplars::default());
        registry.register(Box::new(ProcessMetrics::new())).expect("metric names are distinct");
        let counter = |name: &str, help: &str, label: &str| {
            registered(&registry, IntCounterVec::new(Opts::new(format!("rideshare_{name}"), help), &[label]))
        };
        let gauges = |name: &str, help: &str, label: &str| {
            registered(&registry, IntGaugeVec::new(Opts::new(format!("rideshare_{name}"), help), &[label]))
        };
        let parts = |name: &str, help: &str, label: &str| {
            registered(&registry, GaugeVec::new(Opts::new(format!("rideshare_{name}"), help), &[label]))
        };
        // What alarms watch for an increase begins with 0: a first event that makes its series is none.
        let begun = |name: &str, help: &str, label: &str, values: &[&str]| {
            let total = counter(name, help, label);
            for value in values {
                total.with_label_values(&[value]);
            }
            total
        };
        let seconds = || prometheus::exponential_buckets(0.0005, 2.0, 18).expect("buckets grow");
        let gauge = |name: &str, help: &str| registered(&registry, Gauge::new(format!("rideshare_{name}"), help));
        Self {
            publishes: PublishMetrics::new(&registry),
            events: EventMetrics::new(&registry, &exemplars),
            published: counter("events_published_total", "Events published to streams.", "service"),
            published_again: counter(
                "events_published_again_total",
                "Events published again because their stream was lost.",
                "service",
            ),
            handled: counter("messages_handled_total", "Messages handled and acknowledged.", "consumer"),
            failed: counter("message_failures_total", "Tries that failed.", "consumer"),
            redelivered: counter("messages_redelivered_total", "Messages that came again.", "consumer"),
            dead_lettered: counter("dead_letters_total", "Messages dead-lettered.", "consumer"),
            handler_seconds: registered(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new("rideshare_handler_seconds", "One batch, from begin to commit.")
                        .buckets(prometheus::exponential_buckets(0.0005, 2.0, 15).expect("buckets grow")),
                    &["service"],
                ),
            ),
            pending: gauges("consumer_pending", "Messages not delivered yet.", "consumer"),
            lag: parts("consumer_lag_seconds", "Age of the oldest message that is not handled.", "consumer"),
            ack_pending: gauges("consumer_ack_pending", "Messages delivered and not acknowledged.", "consumer"),
            outbox_age: registered(
                &registry,
                GaugeVec::new(
                    Opts::new("rideshare_outbox_oldest_seconds", "Age of the oldest event not yet published."),
                    &["service"],
                ),
            ),
            sockets: gauge("sockets", "Open WebSockets."),
            frames: counter("frames_total", "WebSocket frames.", "direction"),
            matches: counter("matches_total", "Matches by outcome.", "outcome"),
            operator_acts: counter("operator_acts_total", "What operators did, by act.", "act"),
            sos: begun(
                "sos_total",
                "Calls for help and their positions, by what became of them.",
                "outcome",
                &["raised", "no_sink", "accepted", "failed", "dead"],
            ),
            distances_refused: counter(
                "distances_refused_total",
                "Final distances that nobody can have driven, billed by the estimate instead.",
                "service",
            ),
            distances_late: counter(
                "distances_late_total",
                "Final distances that points changed by more than 2 % after they were billed.",
                "service",
            ),
            discarded: counter(
                "messages_discarded_total",
                "Messages that a full stream dropped before a consumer was delivered them, as observed every few seconds.",
                "consumer",
            ),
            positions_left_out: counter(
                "positions_left_out_total",
                "Positions of free drivers that newer ones replaced while they waited, because the readers were behind.",
                "service",
            ),
            positions_recorded: counter(
                "positions_recorded_total",
                "Positions that a process of location recorded in its memory, by how they came.",
                "source",
            ),
            rides: counter("rides_total", "Rides by status reached.", "status"),
            live_positions: begun(
                "live_positions_total",
                "Positions on the live lane.",
                "outcome",
                &["published", "publish_failed", "shown", "stale", "superseded", "refused"],
            ),
            live_position_age: registered(
                &registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "rideshare_live_position_age_seconds",
                        "From a position's reception by the driver's process to its frame at the passenger's.",
                    )
                    .buckets(seconds()),
                ),
            ),
            core_dropped: registered(
                &registry,
                IntCounter::new(
                    "rideshare_core_messages_dropped_total",
                    "Core messages dropped, a subscription was full.",
                ),
            ),
            stuck: gauges("stream_stuck", "1 while messages are stored and every lag is 0.", "stream"),
            stream_fill: parts("stream_fill", "Bytes stored by the most that the stream may store.", "stream"),
            limited: counter("limited_total", "Limits reached.", "limit"),
            codes: begun(
                "codes_total",
                "Requests for one-time codes.",
                "outcome",
                &["sent", "limited", "refused", "undelivered"],
            ),
            codes_presented: begun(
                "codes_presented_total",
                "One-time codes presented.",
                "outcome",
                &["right", "wrong", "dead", "limited"],
            ),
            sign_ins: counter("sign_ins_total", "Sign-ins by what became of them.", "outcome"),
            shed: begun(
                "requests_shed_total",
                "Requests dropped, too much to do.",
                "class",
                &["estimates", "accounts", "rides"],
            ),
            part_healthy: gauges("part_healthy", "1 if this part of the process works.", "part"),
            match_active: gauge("match_active", "1 while this process makes the offers."),
            match_zones: gauge("match_zones", "Zones whose offers this process makes."),
            match_zones_without_owner: gauge("match_zones_without_owner", "Zones that nobody matches in."),
            match_conflicts: registered(
                &registry,
                IntCounter::new("rideshare_match_conflicts_total", "Offers that another zone was first with."),
            ),
            match_shadow: counter("match_shadow_total", "What the shadow policy would have done.", "outcome"),
            match_shadow_eta: registered(
                &registry,
                CounterVec::new(
                    Opts::new(
                        "rideshare_match_shadow_eta_seconds_total",
                        "Seconds to pickups, where both would offer.",
                    ),
                    &["policy"],
                ),
            ),
            road_ways_left_out: counter("road_ways_left_out_total", "Ways estimated for want of room to ask.", "at"),
            breakers: gauges("breaker_state", "0 closed, 1 half-open, 2 open.", "breaker"),
            breaker_refused: counter("breaker_refused_total", "Requests not sent, the breaker was open.", "breaker"),
            http_requests: registered(
                &registry,
                IntCounterVec::new(
                    Opts::new("rideshare_http_client_requests_total", "Requests sent, with each retry."),
                    &["purpose", "outcome"],
                ),
            ),
            pushes: registered(
                &registry,
                IntCounterVec::new(
                    Opts::new("rideshare_pushes_total", "Tries to send pushes."),
                    &["platform", "outcome"],
                ),
            ),
            http_hosts_open: gauges("http_client_hosts_open", "Hosts that do not answer: nothing is sent.", "purpose"),
            commands: TracedHistogram::new(
                &registry,
                &exemplars,
                ("rideshare_command_seconds", "From a client's command to its answer."),
                &["command", "outcome"],
                &seconds(),
            ),
            // Name, labels and buckets are those of OpenTelemetry's conventions.
            http_server: TracedHistogram::new(
                &registry,
                &exemplars,
                ("http_server_request_duration_seconds", "Duration of HTTP server requests."),
                &["http_request_method", "http_route", "http_response_status_code"],
                &CONVENTIONAL,
            ),
            offer_to_phone: TracedHistogram::new(
                &registry,
                &exemplars,
                ("rideshare_offer_to_phone_seconds", "From match.found to its frame in a socket."),
                &[],
                &seconds(),
            ),
            spans_exported: registered(
                &registry,
                IntCounter::new("rideshare_spans_exported_total", "Spans that the collector took."),
            ),
            spans_dropped: begun(
                "spans_dropped_total",
                "Spans that were not exported.",
                "reason",
                &["queue", "collector"],
            ),
            registry,
            exemplars,
        }
    }

    /// In Prometheus' text format, with the parts of `health`.
    pub fn text(&self, health: &Health) -> String {
        self.set_parts(health);
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }

    /// In the format of OpenMetrics, with exemplars and the parts of `health`.
    pub fn open_metrics(&self, health: &Health) -> String {
        self.set_parts(health);
        self.exemplars.text(&self.registry.gather())
    }

    fn set_parts(&self, health: &Health) {
        self.part_healthy.reset();
        for (part, state) in health.parts() {
            self.part_healthy.with_label_values(&[part.as_str()]).set(i64::from(state == PartState::Healthy));
        }
    }
}

/// How a part of this process is doing, with what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartState {
    Healthy,
    /// It does not work, and without this process nothing would work better: the process stays ready.
    Degraded(String),
    /// The process cannot do its work.
    Unhealthy(String),
}

/// The parts of this process that can fail, and what is wrong with each.
#[derive(Debug, Default)]
pub struct Health {
    parts: Mutex<BTreeMap<String, PartState>>,
    /// The circuit breakers and their states. An open one makes no process unready: the others could not answer either.
    breakers: Mutex<BTreeMap<&'static str, &'static str>>,
}

impl Health {
    pub fn set_healthy(&self, part: &str) {
        self.set(part, PartState::Healthy);
    }

    pub fn set_degraded(&self, part: &str, why: impl Into<String>) {
        self.set(part, PartState::Degraded(why.into()));
    }

    pub fn set_unhealthy(&self, part: &str, why: impl Into<String>) {
        self.set(part, PartState::Unhealthy(why.into()));
    }

    /// Forgets a part that has ended.
    pub fn remove(&self, part: &str) {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).remove(part);
    }

    fn set(&self, part: &str, state: PartState) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        match parts.get_mut(part) {
            Some(known) => *known = state,
            None => {
                parts.insert(part.to_owned(), state);
            }
        }
    }

    /// Also what a part's answers are worth, which makes no process unready either. Anything but `closed` is a degraded part.
    pub fn set_breaker(&self, breaker: &'static str, state: &'static str) {
        self.breakers.lock().unwrap_or_else(PoisonError::into_inner).insert(breaker, state);
    }

    /// The circuit breakers, each with its state.
    pub fn breakers(&self) -> Vec<(&'static str, &'static str)> {
        self.breakers.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(b, s)| (*b, *s)).collect()
    }

    /// All parts, in the order of their names.
    pub fn parts(&self) -> Vec<(String, PartState)> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.iter().map(|(part, state)| (part.clone(), state.clone())).collect()
    }

    /// The unhealthy parts, each with the reason.
    pub fn faults(&self) -> Vec<(String, String)> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = |(part, state): (&String, &PartState)| match state {
            PartState::Unhealthy(why) => Some((part.clone(), why.clone())),
            PartState::Healthy | PartState::Degraded(_) => None,
        };
        parts.iter().filter_map(fault).collect()
    }
}
