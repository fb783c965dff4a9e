//! The settings of PostgreSQL: where the schema of each service is, all in one database or each in a database of its own.

use clap::Args;
use streams::Service;

#[derive(Clone, Args)]
#[command(next_help_heading = "Databases")]
pub struct Databases {
    /// The database of users, if it has one of its own [default: DATABASE_URL].
    #[arg(long, value_name = "URL", env = "DATABASE_URL_USERS", hide_env_values = true, global = true)]
    database_url_users: Option<String>,
    /// As above, of match.
    #[arg(long, value_name = "URL", env = "DATABASE_URL_MATCH", hide_env_values = true, global = true)]
    database_url_match: Option<String>,
    /// As above, of rides, and so of `audit` and `sos`.
    #[arg(long, value_name = "URL", env = "DATABASE_URL_RIDES", hide_env_values = true, global = true)]
    database_url_rides: Option<String>,
    /// As above, of location.
    #[arg(long, value_name = "URL", env = "DATABASE_URL_LOCATION", hide_env_values = true, global = true)]
    database_url_location: Option<String>,
}

/// An address and the setting that it comes from, for errors.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DatabaseUrl<'a> {
    pub url: &'a str,
    pub setting: &'static str,
}

impl Databases {
    /// The service's own database. An empty setting is one that a deployment passes on although nobody set it.
    pub fn of(&self, service: Service) -> Option<DatabaseUrl<'_>> {
        let (own, setting) = match service {
            Service::Users => (&self.database_url_users, "DATABASE_URL_USERS"),
            Service::Match => (&self.database_url_match, "DATABASE_URL_MATCH"),
            Service::Rides => (&self.database_url_rides, "DATABASE_URL_RIDES"),
            Service::Location => (&self.database_url_location, "DATABASE_URL_LOCATION"),
        };
        own.as_deref().filter(|url| !url.is_empty()).map(|url| DatabaseUrl { url, setting })
    }
}
