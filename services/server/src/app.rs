//! One process of the platform: the bus, the stores, the services named, and their graceful end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use location::Location;
use matching::Matching;
use platform::dead_letters::sweeper;
use platform::routes::{Route, Routes};
use platform::spans::Exporter;
use platform::token::ended;
use platform::{CancellationToken, Limiter, Platform, Store, StoreError, World, background, pod};
use pricing::market;
use rides::Rides;
use roads::Roads;
use sqlx::migrate::Migrator;
use streams::event::OperatorRole;
use streams::memory::MemoryBus;
use streams::nats::{NatsBus, NatsSettings};
use streams::operators::Operator;
use streams::pods::pod_id_from;
use streams::{Bus, Service};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use users::Users;

use crate::admin;
use crate::admin::tokens::{Current as OperatorsCurrent, OperatorTokens};
use crate::api as documents;
use crate::databases::DatabaseUrl;
use crate::http::{self, Faults};
use crate::monitor::{self, Check};
use crate::settings::{QueueType, Settings};

/// Limit of a graceful shutdown.
const STOP_WAIT: Duration = Duration::from_secs(30);

/// A running process.
#[derive(Debug)]
pub struct App {
    /// The address of the HTTP listener.
    pub addr: SocketAddr,
    pub platform: Platform,
    /// The users service, if it runs here: a test serves sessions over in-memory pipes by it.
    pub users: Option<Users>,
    /// Of ADMIN_ADDR, if it is set.
    pub admin_addr: Option<SocketAddr>,
    /// The token that an embedded process makes for its console.
    pub admin_token: Option<String>,
    /// The routes of all services.
    pub router: Router,
    /// Their list, with the operators' routes unless these have a listener of their own.
    pub routes: Vec<Route>,
    /// The routes of ADMIN_ADDR, if it is set, and their list.
    pub admin: Option<(Router, Vec<Route>)>,
    markets: market::Current,
    operators: OperatorsCurrent,
    tasks: JoinSet<()>,
    /// Sends spans until everything else has ended.
    exporter: JoinSet<()>,
    exporter_stop: CancellationToken,
}

/// The bus that the settings name.
///
/// # Errors
/// If the server does not answer within a minute, or is too old.
pub async fn bus(settings: &Settings, world: &World, pod: &str) -> Result<Bus> {
    Ok(match settings.queue_type {
        QueueType::Memory => Bus::Memory(MemoryBus::new(world.started_at(), settings.queue_size)),
        QueueType::Nats => {
            let nats = NatsSettings {
                urls: settings.nats_url.clone(),
                login: settings.nats.login(),
                inbox_prefix: settings.nats.nats_inbox_prefix.clone(),
                replicas: settings.nats_replicas,
                name: format!("rideshare {pod}"),
            };
            Bus::Nats(NatsBus::connect(&nats).await.context("NATS_URL")?)
        }
    })
}

/// The id of this process, from POD_ID, or host name and process id.
pub fn pod_id(settings: &Settings) -> Arc<str> {
    let default = || {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = if host.trim().is_empty() { "host" } else { host.trim() };
        format!("{host}-{}", std::process::id())
    };
    pod_id_from(&settings.pod_id.clone().unwrap_or_else(default)).into()
}

/// Opens the stores, and collects their checks for the monitor.
struct Opening<'a> {
    settings: &'a Settings,
    platform: &'a Platform,
    checks: Vec<(&'static str, Check)>,
}

impl Opening<'_> {
    async fn store<T: platform::Tables>(
        &mut self,
        service: Service,
        schema: &'static str,
        migrations: &Migrator,
    ) -> Result<Store<T>> {
        let Platform { world, pod, .. } = self.platform;
        let store: Store<T> = match self.settings.database_of(service) {
            None => Store::memory(world, pod),
            Some(DatabaseUrl { url, setting }) => {
                let connections = self.settings.database_connections;
                Store::postgres(world, pod, url, schema, migrations, connections).await.context(setting)?
            }
        };
        let store = store.with_spans(&self.platform.spans);
        let checked = store.clone();
        let check: Check = Box::new(move || {
            let store = checked.clone();
            Box::pin(async move { store.check().await })
                as std::pin::Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>
        });
        self.checks.push((service.name(), check));
        Ok(store)
    }
}

/// Creates and migrates all schemas. With a `role_prefix`, the role of each schema, which is the prefix and the schema's name, may
/// then use it.
///
/// # Errors
/// Without a database for each service, or if the database refuses.
pub async fn migrate(settings: &Settings, role_prefix: Option<&str>) -> Result<()> {
    for service in Service::ALL {
        let name = service.name().to_uppercase();
        anyhow::ensure!(
            settings.database_of(service).is_some(),
            "migrate needs DATABASE_URL, or DATABASE_URL_{name} and those of the others: state in memory has no migrations"
        );
    }
    let world = World::real();
    let bus = Bus::Memory(MemoryBus::new(world.started_at(), 1));
    let platform = Platform::new(world, bus, pod_id(settings));
    let mut opening = Opening { settings, platform: &platform, checks: Vec::new() };
    opening.store::<users::Tables>(Service::Users, "users", &users::MIGRATIONS).await?;
    opening.store::<matching::Tables>(Service::Match, "matching", &matching::MIGRATIONS).await?;
    opening.store::<rides::Tables>(Service::Rides, "rides", &rides::MIGRATIONS).await?;
    opening.store::<location::Tables>(Service::Location, "location", &location::MIGRATIONS).await?;
    let schemas = [
        (Service::Users, "users"),
        (Service::Match, "matching"),
        (Service::Rides, "rides"),
        (Service::Location, "location"),
    ];
    for (service, schema) in schemas {
        if let (Some(prefix), Some(DatabaseUrl { url, .. })) = (role_prefix, settings.database_of(service)) {
            Store::<()>::grant(url, schema, &format!("{prefix}{schema}")).await.context("DATABASE_ROLE_PREFIX")?;
        }
    }
    Ok(())
}

/// The operators of the settings; embedded without a file, one with a token that is made.
fn operators(settings: &Settings, world: &World) -> Result<(OperatorTokens, Option<String>)> {
    if settings.embedded() && settings.admin_tokens_path().is_none() {
        let token = hex::encode(world.bytes::<32>());
        let operator = Operator { name: "console".to_owned(), role: OperatorRole::Admin };
        return Ok((OperatorTokens::one(operator, &token), Some(token)));
    }
    Ok((settings.operators()?, None))
}

impl App {
    /// Starts `services` and serves their routes at HTTP_ADDR. On return everything is ready.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what would be right.
    pub async fn start(settings: &Settings, services: &[Service], world: World) -> Result<Self> {
        Self::start_with(settings, services, world, None).await
    }

    /// The same with `faults` on purpose, for people who test an app.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with(
        settings: &Settings,
        services: &[Service],
        world: World,
        faults: Option<Arc<Faults>>,
    ) -> Result<Self> {
        let mut app = Self::prepare(settings, services, world).await?;
        let listener = TcpListener::bind(settings.http_addr)
            .await
            .with_context(|| format!("HTTP_ADDR {}: cannot listen there", settings.http_addr))?;
        app.addr = listener.local_addr()?;
        let proxies = settings.trusted_proxies()?;
        app.tasks.spawn(http::serve(listener, app.router.clone(), app.platform.clone(), proxies, faults));
        if let (Some(addr), Some((router, _))) = (settings.admin_addr, &app.admin) {
            let listener =
                TcpListener::bind(addr).await.with_context(|| format!("ADMIN_ADDR {addr}: cannot listen there"))?;
            app.admin_addr = Some(listener.local_addr()?);
            let proxies = settings.trusted_proxies()?;
            app.tasks.spawn(http::serve(listener, router.clone(), app.platform.clone(), proxies, None));
        }
        Ok(app)
    }

    /// Starts `services` without a listener: for tests in one thread under paused time.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn prepare(settings: &Settings, services: &[Service], world: World) -> Result<Self> {
        settings.validate(services)?;
        let markets = market::Current::new(settings.markets()?);
        if let Some(path) = settings.markets_path() {
            let (version, markets) = (markets.get().version.clone(), markets.get().iter().count());
            tracing::info!(version, markets, "the markets are those of {}", path.display());
        }
        let pod = pod_id(settings);
        let bus = bus(settings, &world, &pod).await?;
        let mut platform = Platform::new(world.clone(), bus, pod);
        platform.topology = Arc::new(settings.stream_sizes.topology());
        platform.core_queue_group = settings.enable_core_nats.then(|| settings.core_nats_queue_group.as_str().into());
        platform.limiter = Arc::new(Limiter::new(settings.limits()?));
        let (mut exporter, exporter_stop) = (JoinSet::new(), CancellationToken::new());
        if let Some(config) = settings.otel.config(&platform.pod)? {
            let endpoint = config.endpoint.clone();
            let traces = Exporter::new(&mut platform, config);
            let traces = traces.map_err(anyhow::Error::msg).context("OTEL_EXPORTER_OTLP_ENDPOINT")?;
            tracing::info!(host = endpoint.host(), port = endpoint.port_u16(), "traces go to a collector");
            exporter.spawn(traces.run(exporter_stop.clone()));
        }
        background::apply_topology(&platform).await.map_err(anyhow::Error::msg)?;
        let tokens = settings.tokens(&world)?;
        let roads = settings.routing_url().context("ROUTING_URL")?.map(|url| Roads::new(&platform, url));
        let stop = platform.shutdown.clone();
        let mut opening = Opening { settings, platform: &platform, checks: Vec::new() };
        let mut tasks = JoinSet::new();
        let mut routes = Vec::new();
        let mut serving_users = None;
        // Against the flow of a ride: a service that reads events starts before the one that publishes them.
        if services.contains(&Service::Location) {
            let store = opening.store(Service::Location, "location", &location::MIGRATIONS).await?;
            let config = location::Config {
                max_speed_mps: settings.track_max_speed_mps,
                final_wait: settings.track_final_wait(),
                ..Default::default()
            };
            let location = Location::start(&platform, &store, tokens.clone(), config).await?;
            routes.push(location.routes());
            tasks.spawn(location.run(stop.clone()));
        }
        if services.contains(&Service::Rides) {
            let store = opening.store(Service::Rides, "rides", &rides::MIGRATIONS).await?;
            let provider = settings.payment_provider.parse().map_err(anyhow::Error::msg).context("PAYMENT_PROVIDER")?;
            let default = rides::Config::default();
            let config = rides::Config {
                markets: markets.clone(),
                provider,
                roads: roads.clone(),
                max_speed_mps: settings.track_max_speed_mps,
                // The final distance may come that late; then it still has to be computed and delivered.
                comment_retention: chrono::TimeDelta::days(settings.rating_comment_retention_days.into()),
                public_url: settings.public_url().to_owned(),
                sos_sink: settings.sos_sink()?,
                sos_retention: chrono::TimeDelta::days(settings.sos_retention_days.into()),
                completion_wait_s: default.completion_wait_s.max(2 * i64::from(settings.track_final_wait_s)),
            };
            let rides = Rides::start(&platform, &store, tokens.clone(), config).await?;
            routes.push(rides.routes());
            tasks.spawn(rides.run(stop.clone()));
        }
        if services.contains(&Service::Match) {
            let store = opening.store(Service::Match, "matching", &matching::MIGRATIONS).await?;
            let config = matching::Config {
                offer_ttl_s: settings.match_offer_ttl_s,
                request_ttl_s: settings.match_request_ttl_s,
                radius_m: settings.match_radius_m,
                radius_max_m: settings.match_radius_max_m.unwrap_or(settings.match_radius_m),
                markets: markets.clone(),
                policy: settings.match_policy,
                roads: roads.clone(),
                window_ms: settings.match_window_ms,
                record_hours: settings.match_record_hours,
                shadow_policy: settings.match_shadow_policy,
                partition: settings.partition(),
                ..Default::default()
            };
            let matching = Matching::start(&platform, &store, config).await?;
            tasks.spawn(matching.run(stop.clone()));
        }
        if services.contains(&Service::Users) {
            let store = opening.store(Service::Users, "users", &users::MIGRATIONS).await?;
            if settings.otp_delivery.is_none() && !settings.answers_codes_by_default() {
                tracing::warn!(
                    http_addr = %settings.http_addr,
                    "sign-in codes are logged, because HTTP_ADDR is reached from elsewhere: set OTP_DELIVERY to \
                     webhook:<url>, or, to hand every caller the code of any phone, to response"
                );
            }
            let config = users::Config {
                otp_delivery: settings.otp_delivery().parse().map_err(anyhow::Error::msg).context("OTP_DELIVERY")?,
                code_countries: settings
                    .code_countries
                    .parse()
                    .map_err(anyhow::Error::msg)
                    .context("CODE_COUNTRIES")?,
                request_ttl_s: settings.match_request_ttl_s,
                markets: markets.clone(),
                roads,
                driver_approval: settings.driver_approval,
                push: settings.push.config(settings.embedded())?,
                sign_in_life: chrono::TimeDelta::days(settings.sign_in_max_days.into()),
                suspension_memory: chrono::TimeDelta::days(settings.suspension_memory_days.into()),
                track_max_speed_mps: settings.track_max_speed_mps,
                ..Default::default()
            };
            let users = Users::start(&platform, &store, tokens.clone(), config).await?;
            routes.push(users.routes());
            tasks.spawn(users.clone().run(stop.clone()));
            serving_users = Some(users);
        }
        if !services.contains(&Service::Users) {
            tasks.spawn(ended::follow(platform.clone(), tokens.clone(), stop));
        }
        let checks = opening.checks;
        tasks.spawn(background::reconcile_topology(platform.clone()));
        tasks.spawn(sweeper::run(platform.clone(), services.to_vec()));
        tasks.spawn(monitor::watch(platform.clone(), checks));
        tasks.spawn(pod::run(platform.clone(), services.to_vec()));
        routes.push(documents::routes());
        let (operators, admin_token) = operators(settings, &world)?;
        let operators = OperatorsCurrent::new(operators);
        let shown = (markets.clone(), settings.trace_url()?.map(str::to_owned));
        let api = admin::Api::new(&platform, services, tokens.clone(), operators.clone(), shown);
        tasks.spawn(api.pods().run());
        let proxies = settings.trusted_proxies()?;
        let limited = |routes: Routes| {
            let list = routes.list().to_vec();
            (http::limited(http::router(routes, &platform), &platform, tokens.clone(), proxies.clone()), list)
        };
        let listeners = http::Listeners::new(&platform, services, routes, &api, settings.admin_addr.is_some());
        let (router, routes) = limited(listeners.http);
        let admin = listeners.admin.map(limited);
        let (addr, admin_addr, users) = (settings.http_addr, settings.admin_addr, serving_users);
        Ok(Self {
            addr,
            platform,
            users,
            admin_addr,
            admin_token,
            router,
            routes,
            admin,
            markets,
            operators,
            tasks,
            exporter,
            exporter_stop,
        })
    }

    /// Reads what may change while the process runs: MARKETS_FILE and ADMIN_TOKENS_FILE.
    pub fn reload(&self, settings: &Settings) {
        if settings.markets_path().is_some() {
            self.reload_markets(settings);
        }
        if settings.admin_tokens_path().is_some() {
            self.reload_operators(settings);
        }
    }

    /// Reads ADMIN_TOKENS_FILE again. A file with a mistake changes nothing.
    fn reload_operators(&self, settings: &Settings) {
        match settings.operators() {
            Ok(operators) => {
                tracing::info!(tokens = operators.len(), "the tokens of operators were read again");
                self.operators.replace(operators);
            }
            Err(error) => tracing::error!("the tokens of operators stay as they are: {error:#}"),
        }
    }

    /// Reads MARKETS_FILE again. A file with a mistake changes nothing.
    pub fn reload_markets(&self, settings: &Settings) {
        match settings.markets() {
            Ok(markets) => {
                tracing::info!(
                    version = markets.version,
                    markets = markets.iter().count(),
                    "the markets were read again"
                );
                self.markets.replace(markets);
            }
            Err(error) => tracing::error!("the markets stay as they are: {error:#}"),
        }
    }

    /// Stops accepting connections, finishes or puts back messages in hand, closes the sockets, drains the outboxes. False if
    /// that took longer than 30 s.
    pub async fn stop(mut self) -> bool {
        self.platform.shutdown.cancel();
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Err(error) = ended {
                    tracing::error!(%error, "a task ended badly");
                }
            }
        };
        let is_whole = tokio::time::timeout(STOP_WAIT, all).await.is_ok();
        // Last, so that the spans of what has just ended go out. It has a limit of its own.
        self.exporter_stop.cancel();
        while self.exporter.join_next().await.is_some() {}
        is_whole
    }

    /// Returns, with the reason, if a task ends before shutdown: the process is not whole any more, and must end.
    pub async fn broken(&mut self) -> String {
        loop {
            match self.tasks.join_next().await {
                Some(Err(error)) => return format!("a task ended badly: {error}"),
                Some(Ok(())) if self.platform.shutdown.is_cancelled() => std::future::pending().await,
                Some(Ok(())) => return "a service ended by itself".to_owned(),
                None => std::future::pending().await,
            }
        }
    }
}
