//! Settings: flags, each with its environment variable. The environment is read here and nowhere else.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use axum::http::Uri;
use axum::http::uri::Scheme;
use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use matching::zones::Partition;
use platform::limits::{Amount, Limit, Limits, Quota, TrustedProxies};
use platform::webhook::Secret;
use platform::{Tokens, World};
use pricing::market::Markets;
use pricing::{Tariffs, WaitingRules};
use rides::sos::sink::SosSink;
use roads::Roads;
use streams::{Service, VehicleType};

use crate::admin::tokens::OperatorTokens;
use crate::databases::{DatabaseUrl, Databases};
use crate::nats_login::NatsLogin;
use crate::otel_settings::OtelSettings;
use crate::push_settings::PushSettings;
use crate::stream_sizes::StreamSizes;

/// The most days of SIGN_IN_MAX_DAYS: ten years.
const SIGN_IN_MAX_DAYS: u32 = 3_650;
/// After a pause a socket may send as many frames at once as its rate allows in this many seconds.
const FRAMES_BURST_S: u32 = 4;

/// Doubts about one MARKETS_FILE that are logged each.
const WARNINGS_MAX: usize = 20;

/// The topics of `--help`; those of a file of settings are named there.
const SERVERS: &str = "Servers";
const DATABASES: &str = "Databases";
const SECURITY: &str = "Security";
const OPERATORS: &str = "Operators";
const MATCHING: &str = "Matching";
const FARES: &str = "Fares and markets";
const LOCATION: &str = "Location";
const LIMITS: &str = "Limits";
const RETENTION: &str = "How long data is stored";
const OBSERVABILITY: &str = "Observability";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QueueType {
    /// In this process.
    Memory,
    /// A NATS server or cluster with JetStream.
    Nats,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Clone, Args)]
pub struct Settings {
    /// The bus: `memory` (this process, all services) or `nats`.
    #[arg(long, value_name = "TYPE", help_heading = SERVERS, env = "QUEUE_TYPE", default_value = "memory", global = true)]
    pub queue_type: QueueType,
    /// Memory bus: messages that a stream may hold before publishers wait.
    #[arg(long, value_name = "N", help_heading = SERVERS, env = "QUEUE_SIZE", default_value_t = 100_000, global = true)]
    pub queue_size: usize,
    /// NATS servers, with commas; user:password@ or token@ may stand before the host.
    #[arg(
        long,
        value_name = "URL",
        help_heading = SERVERS,
        env = "NATS_URL",
        default_value = "nats://127.0.0.1:4222",
        value_delimiter = ',',
        hide_env_values = true,
        global = true
    )]
    pub nats_url: Vec<String>,
    #[command(flatten)]
    pub nats: NatsLogin,
    /// The fast lane: core subscriptions bring the events that somebody waits for before their streams do; true or false, yes or no, on or off, 1 or 0.
    #[arg(long, value_name = "BOOL", help_heading = SERVERS, env = "ENABLE_CORE_NATS", default_value_t = true, value_parser = BoolishValueParser::new(), action = clap::ArgAction::Set, global = true)]
    pub enable_core_nats: bool,
    /// The queue group of the fast lane is this, a dot, and the service.
    #[arg(long, value_name = "NAME", help_heading = SERVERS, env = "CORE_NATS_QUEUE_GROUP", default_value = "rideshare", global = true)]
    pub core_nats_queue_group: String,
    /// Copies of each stream.
    #[arg(long, value_name = "N", help_heading = SERVERS, env = "NATS_REPLICAS", default_value_t = 1, global = true)]
    pub nats_replicas: usize,
    /// PostgreSQL; without it state is in memory and gone at exit. Required with `nats`.
    #[arg(long, value_name = "URL", help_heading = DATABASES, env = "DATABASE_URL", hide_env_values = true, global = true)]
    pub database_url: Option<String>,
    /// Database connections of each service in this process.
    #[arg(long, value_name = "N", help_heading = DATABASES, env = "DATABASE_CONNECTIONS", default_value_t = 16, global = true)]
    pub database_connections: u32,
    /// Where HTTP and WebSocket are served.
    #[arg(long, value_name = "ADDR", help_heading = SERVERS, env = "HTTP_ADDR", default_value = "127.0.0.1:8080", global = true)]
    pub http_addr: SocketAddr,
    /// This process among others; what is neither a letter, a digit, - nor _ becomes - [default: host name and process id].
    #[arg(long, value_name = "NAME", help_heading = SERVERS, env = "POD_ID", global = true)]
    pub pod_id: Option<String>,
    /// Where clients reach the platform, as in https://rides.example: links of shared rides begin with it; without it they are paths.
    #[arg(long, value_name = "URL", help_heading = SERVERS, env = "PUBLIC_URL", default_value = "", hide_default_value = true, global = true)]
    pub public_url: String,
    /// Signs access tokens; at least 32 bytes, the same in every process. Made at start when embedded.
    #[arg(long, value_name = "SECRET", help_heading = SECURITY, env = "JWT_SECRET", hide_env_values = true, global = true)]
    pub jwt_secret: Option<String>,
    /// The secret that JWT_SECRET was before: what it signed is still accepted. To change the secret, first set this to the new one in
    /// every process, then exchange the two.
    #[arg(long, value_name = "SECRET", help_heading = SECURITY, env = "JWT_SECRET_PREVIOUS", hide_env_values = true, global = true)]
    pub jwt_secret_previous: Option<String>,
    /// Another name of JWT_SECRET_PREVIOUS.
    #[arg(long, value_name = "SECRET", help_heading = SECURITY, env = "JWT_SECRET_OLD", hide_env_values = true, hide = true, global = true)]
    pub jwt_secret_old: Option<String>,
    /// Keys of PINs, codes and refresh tokens, so that JWT_SECRET can change without them; at least 32 bytes, the same in every
    /// process [default: JWT_SECRET].
    #[arg(long, value_name = "SECRET", help_heading = SECURITY, env = "DATA_SECRET", hide_env_values = true, global = true)]
    pub data_secret: Option<String>,
    /// The secret that DATA_SECRET was before, as with JWT_SECRET_PREVIOUS.
    #[arg(long, value_name = "SECRET", help_heading = SECURITY, env = "DATA_SECRET_PREVIOUS", hide_env_values = true, global = true)]
    pub data_secret_previous: Option<String>,
    /// Days that a sign-in lasts at most, however often it is refreshed.
    #[arg(long, value_name = "DAYS", help_heading = SECURITY, env = "SIGN_IN_MAX_DAYS", default_value_t = 90, global = true)]
    pub sign_in_max_days: u32,
    /// How a sign-in code reaches its phone: `response` (in the answer; for development), `log`, or `webhook:<url>`
    /// [default: response when embedded on a loopback address, log when embedded on another one, else required].
    #[arg(long, value_name = "HOW", help_heading = SECURITY, env = "OTP_DELIVERY", hide_env_values = true, global = true)]
    pub otp_delivery: Option<String>,
    /// Networks (CIDR, with commas) of proxies whose X-Forwarded-For is believed.
    #[arg(long, value_name = "LIST", help_heading = SECURITY, env = "TRUSTED_PROXIES", default_value = "", hide_default_value = true, global = true)]
    pub trusted_proxies: String,
    /// Countries to whose numbers codes are sent: ISO regions or calling codes, with commas, as in `US,CA,49` [default: all].
    #[arg(long, value_name = "LIST", help_heading = SECURITY, env = "CODE_COUNTRIES", default_value = "", hide_default_value = true, global = true)]
    pub code_countries: String,
    /// Where operators' routes are served: /metrics, /stats, /admin/v1 and the console; then they are there alone, and health on both
    /// [default: HTTP_ADDR].
    #[arg(long, value_name = "ADDR", help_heading = OPERATORS, env = "ADMIN_ADDR", global = true)]
    pub admin_addr: Option<SocketAddr>,
    /// The operators: lines `name role sha256-of-token`, with the roles viewer, support and admin. It is read again on SIGHUP. Without it nobody
    /// may use /admin/v1; when embedded, a token is made at start and printed with the console's address.
    #[arg(long, value_name = "FILE", help_heading = OPERATORS, env = "ADMIN_TOKENS_FILE", global = true)]
    pub admin_tokens_file: Option<String>,
    /// Where the console's operators look at a trace: an address in which `{trace_id}` stands for its id, as in
    /// https://jaeger.example/trace/{trace_id}; without it the console shows the id alone.
    #[arg(long, value_name = "URL", help_heading = OPERATORS, env = "TRACE_URL", global = true)]
    pub trace_url: Option<String>,
    /// Where calls for help go: an http or https address of the operators; without it they are logged and counted, and nobody is informed.
    #[arg(long, value_name = "URL", help_heading = OPERATORS, env = "SOS_WEBHOOK", hide_env_values = true, global = true)]
    pub sos_webhook: Option<String>,
    /// Signs what is sent there, as Standard Webhooks have it: `whsec_` and base64, or 24 to 64 bytes. Required with SOS_WEBHOOK. Several of the
    /// first form, with spaces between them, all sign: while the secret changes.
    #[arg(long, value_name = "SECRET", help_heading = OPERATORS, env = "SOS_WEBHOOK_SECRET", hide_env_values = true, global = true)]
    pub sos_webhook_secret: Option<String>,
    /// Whether a new driver may drive at once (`auto`), or only after an operator has approved them (`manual`).
    #[arg(long, value_name = "HOW", help_heading = OPERATORS, env = "DRIVER_APPROVAL", default_value = "auto", global = true)]
    pub driver_approval: users::DriverApproval,
    /// Seconds that a driver has to answer an offer.
    #[arg(long, value_name = "S", help_heading = MATCHING, env = "MATCH_OFFER_TTL_S", default_value_t = 15, global = true)]
    pub match_offer_ttl_s: u32,
    /// Seconds that a passenger's request stays open.
    #[arg(long, value_name = "S", help_heading = MATCHING, env = "MATCH_REQUEST_TTL_S", default_value_t = 300, global = true)]
    pub match_request_ttl_s: u32,
    /// Metres from a pickup within which drivers are sought.
    #[arg(long, value_name = "M", help_heading = MATCHING, env = "MATCH_RADIUS_M", default_value_t = 5_000.0, global = true)]
    pub match_radius_m: f64,
    /// The same once a search has waited for two thirds of its time, at least MATCH_RADIUS_M: the radius grows from a third of the time on
    /// [default: MATCH_RADIUS_M].
    #[arg(long, value_name = "M", help_heading = MATCHING, env = "MATCH_RADIUS_MAX_M", global = true)]
    pub match_radius_max_m: Option<f64>,
    /// How drivers are offered to passengers: `batched` pairs those who wait and the drivers around them together, at the least total
    /// cost; with `first-come` who waits longest takes the nearest driver.
    #[arg(long, value_name = "POLICY", help_heading = MATCHING, env = "MATCH_POLICY", default_value = "batched", value_parser = policy, global = true)]
    pub match_policy: matching::Policy,
    /// Milliseconds after its beginning in which a search may be held back for a driver who is about to be free nearer, while others
    /// wait around it (`batched`); 0: never.
    #[arg(long, value_name = "MS", help_heading = MATCHING, env = "MATCH_WINDOW_MS", default_value_t = 300_000, value_parser = clap::value_parser!(u32).range(0..=3_600_000), global = true)]
    pub match_window_ms: u32,
    /// Hours for which it is recorded what each decision about offers depended on, for `rideshare dispatch explain`; 0: not at all.
    #[arg(long, value_name = "HOURS", help_heading = MATCHING, env = "MATCH_RECORD_HOURS", default_value_t = 24, value_parser = clap::value_parser!(u32).range(0..=168), global = true)]
    pub match_record_hours: u32,
    /// A policy that sees what MATCH_POLICY sees, and whose decisions are only counted [default: none].
    #[arg(long, value_name = "POLICY", help_heading = MATCHING, env = "MATCH_SHADOW_POLICY", value_parser = policy, global = true)]
    pub match_shadow_policy: Option<matching::Policy>,
    /// A server that knows times by road, OSRM or compatible (table and route services), as in `http://127.0.0.1:5000`. What it does not
    /// answer in 200 ms is estimated: the great circle times 1.3 at the market's speed [default: everything is].
    #[arg(long, value_name = "URL", help_heading = MATCHING, env = "ROUTING_URL", global = true)]
    pub routing_url: Option<String>,
    /// Zones in which processes of match match beside each other, each in its share of them; with 1, one process matches and the others
    /// stand by. The same for all processes.
    #[arg(long, value_name = "N", help_heading = MATCHING, env = "MATCH_ZONES", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64), global = true)]
    pub match_zones: u16,
    /// Kilometres of the edge of a cell of the map: each cell belongs to a zone.
    #[arg(long, value_name = "KM", help_heading = MATCHING, env = "MATCH_ZONE_KM", default_value_t = 10.0, value_parser = zone_km, global = true)]
    pub match_zone_km: f64,
    /// Seconds that a driver waits at the pickup for nothing; after that each minute costs.
    #[arg(long, value_name = "S", help_heading = FARES, env = "MATCH_WAIT_FREE_S", default_value_t = 180, value_parser = clap::value_parser!(u32).range(0..=3_600), global = true)]
    pub match_wait_free_s: u32,
    /// Seconds of waiting after which a driver may cancel with the reason `no_show`, and is paid the cancellation fee.
    #[arg(long, value_name = "S", help_heading = FARES, env = "NO_SHOW_AFTER_S", default_value_t = 300, value_parser = clap::value_parser!(u32).range(0..=3_600), global = true)]
    pub no_show_after_s: u32,
    /// Cents: base=250,per_km=120,per_minute=30,wait_per_minute=30,minimum=600,cancellation=300 and platform_fee_bp=2000
    /// (hundredths of a per cent); what is not named keeps its default, which is as here.
    #[arg(long, value_name = "FARE", help_heading = FARES, env = "FARE_CAR", default_value = "", hide_default_value = true, global = true)]
    pub fare_car: String,
    /// The same for motorcycles: base=150,per_km=80,per_minute=20,wait_per_minute=20,minimum=400.
    #[arg(long, value_name = "FARE", help_heading = FARES, env = "FARE_MOTORCYCLE", default_value = "", hide_default_value = true, global = true)]
    pub fare_motorcycle: String,
    /// The same for vans: base=400,per_km=180,per_minute=45,wait_per_minute=45,minimum=900.
    #[arg(long, value_name = "FARE", help_heading = FARES, env = "FARE_VAN", default_value = "", hide_default_value = true, global = true)]
    pub fare_van: String,
    /// A GeoJSON file of the markets: where people are driven, at which fares and by which rules. It is read again on SIGHUP; a ride keeps the
    /// fares with which it began [default: the world is one market, at the fares of FARE_*].
    #[arg(long, value_name = "FILE", help_heading = FARES, env = "MARKETS_FILE", global = true)]
    pub markets_file: Option<String>,
    /// Markets instead of the world, while MARKETS_FILE is not set: the two cities of the demo.
    #[arg(skip)]
    pub default_markets: Option<&'static str>,
    /// Who captures payments: `ledger` (books only), or `refuse` (refuses every capture; for tests).
    #[arg(long, value_name = "WHO", help_heading = FARES, env = "PAYMENT_PROVIDER", default_value = "ledger", global = true)]
    pub payment_provider: String,
    /// A GPS point that would need more metres a second is a jump and left out of the distance.
    #[arg(long, value_name = "MPS", help_heading = LOCATION, env = "TRACK_MAX_SPEED_MPS", default_value_t = 70.0, global = true)]
    pub track_max_speed_mps: f64,
    /// Seconds that a ride which has arrived waits at most for positions that the driver's phone has not sent yet. It does not wait
    /// if the newest one reaches the arrival.
    #[arg(long, value_name = "S", help_heading = LOCATION, env = "TRACK_FINAL_WAIT_S", default_value_t = 30, value_parser = clap::value_parser!(u32).range(0..=3_600), global = true)]
    pub track_final_wait_s: u32,
    /// Frames a second that one socket may send, over time; four times that in a burst.
    #[arg(long, value_name = "N", help_heading = LIMITS, env = "SOCKET_FRAMES_PER_S", default_value_t = 50, global = true)]
    pub socket_frames_per_s: u32,
    /// What changes in the table of limits: `name=burst/per_s`, with commas, as in `codes_address=1000/10`. README.md has the
    /// table.
    #[arg(long, value_name = "LIST", help_heading = LIMITS, env = "LIMITS", default_value = "", hide_default_value = true, global = true)]
    pub limits: String,
    /// Days for which phone and plate of a suspended driver whose account has ended are remembered, as keyed hashes: so that nobody comes back
    /// as approved by registering again.
    #[arg(long, value_name = "DAYS", help_heading = RETENTION, env = "SUSPENSION_MEMORY_DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(0..=3_650), global = true)]
    pub suspension_memory_days: u32,
    /// Days for which the comment of a rating is stored. The stars stay.
    #[arg(long, value_name = "DAYS", help_heading = RETENTION, env = "RATING_COMMENT_RETENTION_DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3_650), global = true)]
    pub rating_comment_retention_days: u32,
    /// Days for which a call for help is stored after it was closed.
    #[arg(long, value_name = "DAYS", help_heading = RETENTION, env = "SOS_RETENTION_DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3_650), global = true)]
    pub sos_retention_days: u32,
    /// Logs for people or for machines.
    #[arg(long, value_name = "FORMAT", help_heading = OBSERVABILITY, env = "LOG_FORMAT", default_value = "text", global = true)]
    pub log_format: LogFormat,
    /// What is logged, as in `info,rides=debug` [default: info; warn in the demo].
    #[arg(long, value_name = "FILTER", help_heading = OBSERVABILITY, env = "RUST_LOG", global = true)]
    pub log: Option<String>,
    #[command(flatten)]
    pub otel: OtelSettings,
    #[command(flatten)]
    pub push: PushSettings,
    #[command(flatten)]
    pub databases: Databases,
    #[command(flatten)]
    pub stream_sizes: StreamSizes,
}

impl fmt::Debug for Settings {
    // Passwords, secrets and addresses that hold them are among the fields.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("queue_type", &self.queue_type).finish_non_exhaustive()
    }
}

/// A policy that is fit for passengers.
fn policy(text: &str) -> Result<matching::Policy, String> {
    match text.parse()? {
        matching::Policy::ShortestPair => Err("shortest-pair is for comparison: one of batched, first-come".to_owned()),
        policy => Ok(policy),
    }
}

/// Kilometres, from 100 m to 1,000 km.
fn zone_km(text: &str) -> Result<f64, String> {
    let km: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if (0.1..=1_000.0).contains(&km) { Ok(km) } else { Err("from 0.1 to 1000".to_owned()) }
}

impl Settings {
    /// How the map is divided among the processes of match.
    pub fn partition(&self) -> Partition {
        Partition::new(self.match_zones, (self.match_zone_km * 1_000.0) as u32)
    }

    /// Memory bus and memory state: nothing outside this process.
    pub fn embedded(&self) -> bool {
        self.queue_type == QueueType::Memory && !self.has_database()
    }

    /// Where the schema of `service` is: in its own database, else in that of DATABASE_URL; in memory if neither is set.
    pub fn database_of(&self, service: Service) -> Option<DatabaseUrl<'_>> {
        let shared = self.database_url.as_deref().map(|url| DatabaseUrl { url, setting: "DATABASE_URL" });
        self.databases.of(service).or(shared)
    }

    /// Whether the state of any service is in a database.
    pub fn has_database(&self) -> bool {
        Service::ALL.into_iter().any(|service| self.database_of(service).is_some())
    }

    pub fn track_final_wait(&self) -> chrono::Duration {
        chrono::Duration::seconds(i64::from(self.track_final_wait_s))
    }

    /// Where calls for help go, if anywhere.
    ///
    /// # Errors
    /// A sentence that names the variable.
    pub fn sos_sink(&self) -> anyhow::Result<Option<SosSink>> {
        let Some(text) = set_text(&self.sos_webhook) else { return Ok(None) };
        let wrong =
            || anyhow::anyhow!("SOS_WEBHOOK must be an address with http or https, as in https://ops.example/sos");
        let url: Uri = text.parse().map_err(|_| wrong())?;
        let is_http = url.scheme() == Some(&Scheme::HTTP) || url.scheme() == Some(&Scheme::HTTPS);
        if !is_http || url.host().is_none_or(str::is_empty) {
            return Err(wrong());
        }
        let secret = set_text(&self.sos_webhook_secret).ok_or_else(|| {
            anyhow::anyhow!("SOS_WEBHOOK needs SOS_WEBHOOK_SECRET, with which its receiver knows who calls")
        })?;
        let secret = Secret::parse(secret).map_err(|why| anyhow::anyhow!("SOS_WEBHOOK_SECRET: {why}"))?;
        Ok(Some(SosSink { url, secret }))
    }

    /// PUBLIC_URL without a slash at its end.
    pub fn public_url(&self) -> &str {
        self.public_url.trim_end_matches('/')
    }

    /// Whether a code is in the answer although nobody named `response`: only callers on this machine get it.
    pub fn answers_codes_by_default(&self) -> bool {
        self.embedded() && self.http_addr.ip().is_loopback()
    }

    /// How a sign-in code reaches its phone, or the default.
    pub fn otp_delivery(&self) -> &str {
        let default = if self.answers_codes_by_default() { "response" } else { "log" };
        self.otp_delivery.as_deref().unwrap_or(default)
    }

    /// Whether these settings can run `services` at all.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what would be right.
    pub fn validate(&self, services: &[Service]) -> anyhow::Result<()> {
        let memory = self.queue_type == QueueType::Memory;
        if memory && Service::ALL.iter().any(|s| !services.contains(s)) {
            anyhow::bail!(
                "QUEUE_TYPE=memory is a bus inside one process: run all four services in it, or use QUEUE_TYPE=nats"
            );
        }
        if let Some(without) = services.iter().find(|service| self.database_of(**service).is_none()) {
            let own = format!("DATABASE_URL_{}", without.name().to_uppercase());
            if !memory {
                anyhow::bail!(
                    "QUEUE_TYPE=nats needs DATABASE_URL, or {own}: without a database what was acknowledged would be gone at exit"
                );
            }
            if self.has_database() {
                anyhow::bail!(
                    "{own} is missing: if some services have a database, all need one, or what one acknowledged is gone \
                     at exit while the others remember it; DATABASE_URL is for all that have none of their own"
                );
            }
        }
        if self.queue_size == 0
            || self.nats_replicas == 0
            || self.match_offer_ttl_s == 0
            || self.match_request_ttl_s == 0
        {
            anyhow::bail!("QUEUE_SIZE, NATS_REPLICAS, MATCH_OFFER_TTL_S and MATCH_REQUEST_TTL_S must be 1 or more");
        }
        let group = &self.core_nats_queue_group;
        if group.is_empty() || !group.bytes().all(|b| b.is_ascii_graphic() && b != b'*' && b != b'>') {
            anyhow::bail!("CORE_NATS_QUEUE_GROUP must be a name without white space and wildcards, as in rideshare");
        }
        for (name, value) in
            [("MATCH_RADIUS_M", self.match_radius_m), ("TRACK_MAX_SPEED_MPS", self.track_max_speed_mps)]
        {
            if !(value.is_finite() && value > 0.0) {
                anyhow::bail!("{name} must be a number above 0");
            }
        }
        if self.match_radius_max_m.is_some_and(|max_m| !(max_m.is_finite() && max_m >= self.match_radius_m)) {
            anyhow::bail!("MATCH_RADIUS_MAX_M must be at least MATCH_RADIUS_M, {}", self.match_radius_m);
        }
        if !self.embedded() {
            if self.jwt_secret.is_none() && services.iter().any(|s| *s != Service::Match) {
                anyhow::bail!("JWT_SECRET is required: at least 32 bytes, the same in every process");
            }
            if self.jwt_secret.is_none() && self.admin_tokens_path().is_some() {
                anyhow::bail!(
                    "ADMIN_TOKENS_FILE needs JWT_SECRET, the same as in every process: what operators ask of the other services is \
                     sealed with it. Set it, or leave ADMIN_TOKENS_FILE to the processes that have it"
                );
            }
            if self.otp_delivery.is_none() && services.contains(&Service::Users) {
                anyhow::bail!("OTP_DELIVERY is required: log, webhook:<url>, or, for development only, response");
            }
        }
        if !(1..=SIGN_IN_MAX_DAYS).contains(&self.sign_in_max_days) {
            anyhow::bail!("SIGN_IN_MAX_DAYS must be a number from 1 to {SIGN_IN_MAX_DAYS}");
        }
        if self.pod_id.as_deref() == Some("") {
            anyhow::bail!("POD_ID is empty: give the process a name, or leave it unset");
        }
        let url = self.public_url();
        if !url.is_empty() && !url.starts_with("https://") && !url.starts_with("http://") {
            anyhow::bail!("PUBLIC_URL must begin with https:// or http://, as in https://rides.example");
        }
        self.sos_sink()?;
        self.limits()?;
        self.trusted_proxies()?;
        self.otel.config("")?;
        self.operators()?;
        self.trace_url()?;
        if self.admin_addr.is_some_and(|admin| admin.port() != 0 && admin == self.http_addr) {
            anyhow::bail!("ADMIN_ADDR is HTTP_ADDR: give operators another port, or leave it unset");
        }
        if services.contains(&Service::Users) {
            self.push.config(self.embedded())?;
        }
        Ok(())
    }

    /// Signs and verifies with the secrets of these settings; `JWT_SECRET` is made at random if there is none.
    ///
    /// # Errors
    /// A sentence that names the variable.
    pub fn tokens(&self, world: &World) -> anyhow::Result<Tokens> {
        let secret = match &self.jwt_secret {
            Some(secret) => secret.as_bytes().to_vec(),
            None => world.bytes::<32>().to_vec(),
        };
        let (before, data_before) = (set(&self.jwt_secret_previous), set(&self.data_secret_previous));
        let signing: Vec<&[u8]> =
            [Some(&secret[..]), before, set(&self.jwt_secret_old)].into_iter().flatten().collect();
        let data: Vec<&[u8]> =
            [set(&self.data_secret), data_before].into_iter().flatten().chain(signing.clone()).collect();
        Tokens::with_secrets(world, &signing, &data).map_err(anyhow::Error::msg)
    }

    /// The table of limits, with what LIMITS changes. SOCKET_FRAMES_PER_S is the rate of `frames` unless LIMITS names that.
    ///
    /// # Errors
    /// A sentence that names the variable.
    pub fn limits(&self) -> anyhow::Result<Limits> {
        let mut limits: Limits = self.limits.parse().map_err(|e| anyhow::anyhow!("LIMITS: {e}"))?;
        if limits.amount(Limit::Frames) == Limits::default().amount(Limit::Frames) {
            let per_s = self.socket_frames_per_s;
            let quota = Quota { burst: per_s.saturating_mul(FRAMES_BURST_S), per_s: per_s.into() };
            limits.set(Limit::Frames, Amount::Rate(quota));
        }
        Ok(limits)
    }

    /// # Errors
    /// A sentence that names the variable.
    pub fn trusted_proxies(&self) -> anyhow::Result<TrustedProxies> {
        self.trusted_proxies.parse().map_err(|e| anyhow::anyhow!("TRUSTED_PROXIES: {e}"))
    }

    /// The tariffs, with what FARE_* change.
    ///
    /// # Errors
    /// A sentence that names the variable.
    pub fn tariffs(&self) -> anyhow::Result<Tariffs> {
        let mut tariffs = Tariffs::default();
        for (name, text, vehicle) in [
            ("FARE_CAR", &self.fare_car, VehicleType::Car),
            ("FARE_MOTORCYCLE", &self.fare_motorcycle, VehicleType::Motorcycle),
            ("FARE_VAN", &self.fare_van, VehicleType::Van),
        ] {
            let tariff = match vehicle {
                VehicleType::Car => &mut tariffs.car,
                VehicleType::Motorcycle => &mut tariffs.motorcycle,
                VehicleType::Van => &mut tariffs.van,
            };
            *tariff = tariff.changed(text).map_err(|e| anyhow::anyhow!("{name}: {e}"))?;
        }
        tariffs.waiting = WaitingRules { free_s: self.match_wait_free_s, no_show_after_s: self.no_show_after_s };
        Ok(tariffs)
    }
}

impl Settings {
    /// ROUTING_URL, if it is set.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn routing_url(&self) -> anyhow::Result<Option<&str>> {
        let url = set_text(&self.routing_url);
        url.map(|url| Roads::check_url(url).map(|()| url).map_err(anyhow::Error::msg)).transpose()
    }

    /// TRACE_URL, if it is set.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn trace_url(&self) -> anyhow::Result<Option<&str>> {
        let Some(url) = set_text(&self.trace_url) else { return Ok(None) };
        let is_http = url.starts_with("https://") || url.starts_with("http://");
        let wrong = "TRACE_URL must be an address with {trace_id} in it, as in https://jaeger.example/trace/{trace_id}";
        anyhow::ensure!(is_http && url.contains("{trace_id}"), wrong);
        Ok(Some(url))
    }

    /// ADMIN_TOKENS_FILE, if it is set.
    pub fn admin_tokens_path(&self) -> Option<&Path> {
        set_text(&self.admin_tokens_file).map(Path::new)
    }

    /// The operators of ADMIN_TOKENS_FILE; nobody without it.
    ///
    /// # Errors
    /// A sentence that names the variable and the line at fault.
    pub fn operators(&self) -> anyhow::Result<OperatorTokens> {
        let Some(path) = self.admin_tokens_path() else { return Ok(OperatorTokens::default()) };
        let text = std::fs::read_to_string(path).with_context(|| format!("ADMIN_TOKENS_FILE {}", path.display()))?;
        OperatorTokens::parse(&text).map_err(|why| anyhow::anyhow!("ADMIN_TOKENS_FILE {}, {why}", path.display()))
    }

    /// MARKETS_FILE, if it is set.
    pub fn markets_path(&self) -> Option<&Path> {
        set_text(&self.markets_file).map(Path::new)
    }

    /// The markets of MARKETS_FILE, or the world. What the file has that is probably not meant so is logged.
    ///
    /// # Errors
    /// A sentence that names the variable, the feature and the property at fault.
    pub fn markets(&self) -> anyhow::Result<Markets> {
        let general = self.tariffs()?;
        let Some(path) = self.markets_path() else {
            let parse = |text| Markets::parse(text, &general).map_err(anyhow::Error::msg);
            return self.default_markets.map_or_else(|| Ok(Markets::world(general)), parse);
        };
        let text = std::fs::read_to_string(path).with_context(|| format!("MARKETS_FILE {}", path.display()))?;
        let file = path.display();
        let markets = Markets::parse(&text, &general).map_err(|why| anyhow::anyhow!("MARKETS_FILE {file} {why}"))?;
        let warnings = markets.warnings(&text);
        for warning in warnings.iter().take(WARNINGS_MAX) {
            tracing::warn!("MARKETS_FILE {file}: {warning}");
        }
        if warnings.len() > WARNINGS_MAX {
            tracing::warn!("MARKETS_FILE {file}: {} more of this kind", warnings.len() - WARNINGS_MAX);
        }
        Ok(markets)
    }
}

/// An empty variable is one that a deployment passes on although nobody set it.
fn set(secret: &Option<String>) -> Option<&[u8]> {
    secret.as_ref().map(String::as_bytes).filter(|secret| !secret.is_empty())
}

/// The value of a setting that is not empty.
fn set_text(setting: &Option<String>) -> Option<&str> {
    setting.as_deref().map(str::trim).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Alone {
        #[command(flatten)]
        settings: Settings,
    }

    fn settings(args: &[&str]) -> Settings {
        let args = std::iter::once("rideshare").chain(args.iter().copied());
        Alone::try_parse_from(args).unwrap().settings
    }

    #[test]
    fn a_boolean_may_be_written_as_people_write_it() {
        for (text, is_on) in [
            ("true", true),
            ("1", true),
            ("Yes", true),
            ("on", true),
            ("false", false),
            ("False", false),
            ("0", false),
            ("no", false),
            ("OFF", false),
        ] {
            let settings = settings(&["--enable-core-nats", text, "--push-to-loopback", text]);
            assert_eq!(settings.enable_core_nats, is_on, "{text}");
        }
        assert!(Alone::try_parse_from(["rideshare", "--enable-core-nats", "perhaps"]).is_err());
        assert!(Alone::try_parse_from(["rideshare", "--push-to-loopback", "perhaps"]).is_err());
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_reason() {
        for (args, services, reason) in [
            (vec![], vec![Service::Users], "run all four services"),
            (vec!["--queue-type", "nats"], Service::ALL.to_vec(), "DATABASE_URL"),
            (
                vec!["--queue-type", "nats", "--database-url-users", "postgres://x/y"],
                vec![Service::Users, Service::Rides],
                "DATABASE_URL_RIDES",
            ),
            (vec!["--database-url-rides", "postgres://x/y"], Service::ALL.to_vec(), "DATABASE_URL_USERS is missing"),
            (vec!["--queue-type", "nats", "--database-url", "postgres://x/y"], Service::ALL.to_vec(), "JWT_SECRET"),
            (
                vec!["--queue-type", "nats", "--database-url", "postgres://x/y", "--admin-tokens-file", "/none"],
                vec![Service::Match],
                "ADMIN_TOKENS_FILE needs JWT_SECRET",
            ),
            (
                vec!["--queue-type", "nats", "--database-url", "postgres://x/y", "--jwt-secret", "s"],
                vec![Service::Users],
                "OTP_DELIVERY",
            ),
            (vec!["--match-radius-m", "NaN"], Service::ALL.to_vec(), "MATCH_RADIUS_M"),
            (vec!["--queue-size", "0"], Service::ALL.to_vec(), "QUEUE_SIZE"),
            (vec!["--sign-in-max-days", "0"], Service::ALL.to_vec(), "SIGN_IN_MAX_DAYS"),
            (vec!["--fcm-credentials-file", "/none"], Service::ALL.to_vec(), "FCM_CREDENTIALS_FILE"),
            (vec!["--apns-key-file", "/none"], Service::ALL.to_vec(), "APNS_KEY_ID"),
            (vec!["--push-vapid-key-file", "/none"], Service::ALL.to_vec(), "PUSH_VAPID_SUBJECT"),
            (vec!["--limits", "off"], Service::ALL.to_vec(), "LIMITS: `off`"),
            (vec!["--trusted-proxies", "x"], Service::ALL.to_vec(), "TRUSTED_PROXIES"),
            (vec!["--trace-url", "https://traces.example"], Service::ALL.to_vec(), "TRACE_URL"),
            (vec!["--trace-url", "javascript:{trace_id}"], Service::ALL.to_vec(), "TRACE_URL"),
        ] {
            let error = settings(&args).validate(&services).unwrap_err().to_string();
            assert!(error.contains(reason), "{args:?}: {error}");
        }
        settings(&[]).validate(&Service::ALL).unwrap();
    }

    #[test]
    fn an_address_with_a_password_is_refused_and_not_repeated() {
        for (url, reason) in [
            ("http://u:hunter2@osrm:5000", "leave them out"),
            ("http://hunter2@osrm:5000/?x", "leave them out"),
            ("ftp://u:hunter2@osrm", "http://"),
            ("http://u:hunter2@[osrm", "no URL"),
        ] {
            let error = format!("{:#}", settings(&["--routing-url", url]).routing_url().unwrap_err());
            assert!(error.contains(reason) && !error.contains("hunter2"), "{url}: {error}");
        }
        let error = "http:https://u:hunter2@pay".parse::<rides::payment::Provider>().unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_service_has_its_own_database_or_that_of_all() {
        let settings = settings(&["--database-url", "all", "--database-url-match", "own", "--database-url-rides", ""]);
        let of = |service| settings.database_of(service).map(|database| (database.url, database.setting));
        assert_eq!(of(Service::Match), Some(("own", "DATABASE_URL_MATCH")));
        assert_eq!(of(Service::Rides), Some(("all", "DATABASE_URL")));
        assert_eq!(of(Service::Users), Some(("all", "DATABASE_URL")));
    }

    #[tokio::test]
    async fn tokens_follow_from_the_secrets() {
        let world = World::seeded("2026-01-01T00:00:00Z".parse().unwrap(), 1);
        let [one, two, three] = ["1", "2", "3"].map(|n| n.repeat(32));
        let tokens = |args: &[&str]| settings(args).tokens(&world);
        let user = world.id();
        let ride: streams::RideId = world.id();
        let old = tokens(&["--jwt-secret", &one]).unwrap();
        for (args, accepts_token, accepts_pin, same_pin) in [
            (vec!["--jwt-secret", &two], false, false, false),
            (vec!["--jwt-secret", &two, "--jwt-secret-previous", &one], true, true, false),
            (vec!["--jwt-secret", &two, "--jwt-secret-old", &one], true, true, false),
            (vec!["--jwt-secret", &two, "--jwt-secret-previous", &one, "--data-secret", &one], true, true, true),
            (vec!["--jwt-secret", &two, "--data-secret", &one], false, true, true),
            (vec!["--jwt-secret", &two, "--data-secret", &three, "--data-secret-previous", &one], false, true, false),
            (vec!["--jwt-secret", &one, "--jwt-secret-previous", "", "--data-secret", ""], true, true, true),
        ] {
            let tokens = tokens(&args).unwrap();
            let pin = old.ride_pin(ride);
            assert_eq!(tokens.verify(&old.access(user)).is_ok(), accepts_token, "{args:?}");
            assert_eq!(
                (tokens.is_ride_pin(ride, &pin), tokens.ride_pin(ride) == pin),
                (accepts_pin, same_pin),
                "{args:?}"
            );
        }
        for (name, text) in [("JWT_SECRET", "--jwt-secret-previous"), ("DATA_SECRET", "--data-secret")] {
            let error = tokens(&["--jwt-secret", &one, text, "short"]).map(|_| ()).unwrap_err().to_string();
            assert!(error.starts_with(name), "{error}");
        }
        assert!(tokens(&[]).unwrap().verify(&old.access(user)).is_err(), "made at random");
    }

    #[test]
    fn codes_are_answered_by_default_on_loopback_only() {
        for (args, delivery) in [
            (vec![], "response"),
            (vec!["--http-addr", "[::1]:0"], "response"),
            (vec!["--http-addr", "0.0.0.0:0"], "log"),
            (vec!["--http-addr", "[::]:0"], "log"),
            (vec!["--http-addr", "10.0.0.1:0"], "log"),
            (vec!["--http-addr", "0.0.0.0:0", "--otp-delivery", "response"], "response"),
        ] {
            assert_eq!(settings(&args).otp_delivery(), delivery, "{args:?}");
        }
    }

    #[test]
    fn the_rate_of_frames_is_the_older_setting_unless_the_table_names_it() {
        let frames = |args: &[&str]| settings(args).limits().unwrap().quota(Limit::Frames);
        assert_eq!(frames(&[]), Quota { burst: 200, per_s: 50.0 });
        assert_eq!(frames(&["--socket-frames-per-s", "10"]), Quota { burst: 40, per_s: 10.0 });
        let both = ["--socket-frames-per-s", "10", "--limits", "frames=7/3"];
        assert_eq!(frames(&both), Quota { burst: 7, per_s: 3.0 });
    }

    #[test]
    fn fares_change_by_name_and_bad_ones_are_named() {
        let tariffs = settings(&["--fare-car", "per_km=99, minimum=0"]).tariffs().unwrap();
        assert_eq!((tariffs.car.per_km, tariffs.car.minimum, tariffs.car.base), (99, 0, 250));
        for (text, reason) in [("per_mile=3", "unknown key"), ("base=-1", "whole number"), ("base", "key=cents")] {
            let error = settings(&["--fare-van", text]).tariffs().unwrap_err().to_string();
            assert!(error.starts_with("FARE_VAN") && error.contains(reason), "{error}");
        }
    }
}
