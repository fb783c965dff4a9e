//! The settings by which this process shows a NATS server who it is; named as the `nats` tool names them.

use std::fmt;
use std::path::PathBuf;

use clap::Args;
use streams::nats::{INBOX_PREFIX, Login};

#[derive(Clone, Args)]
#[command(next_help_heading = "Servers")]
pub struct NatsLogin {
    /// User for NATS; without a password it is a token. NATS_URL may hold both too: nats://user:password@host.
    #[arg(long, value_name = "NAME", env = "NATS_USER", hide_env_values = true, global = true)]
    pub nats_user: Option<String>,
    /// Password for NATS.
    #[arg(long, value_name = "SECRET", env = "NATS_PASSWORD", hide_env_values = true, global = true)]
    pub nats_password: Option<String>,
    /// Token for NATS. NATS_URL may hold it too: nats://token@host.
    #[arg(long, value_name = "SECRET", env = "NATS_TOKEN", hide_env_values = true, global = true)]
    pub nats_token: Option<String>,
    /// Seed of an nkey user (SU…), or the file that holds it.
    #[arg(long, value_name = "SEED", env = "NATS_NKEY", hide_env_values = true, global = true)]
    pub nats_nkey: Option<String>,
    /// A NATS credentials file, as `nsc` writes it.
    #[arg(long, value_name = "FILE", env = "NATS_CREDS", global = true)]
    pub nats_creds: Option<PathBuf>,
    /// Client certificate for NATS, in PEM; needs NATS_KEY, and makes TLS a must.
    #[arg(long, value_name = "FILE", env = "NATS_CERT", global = true)]
    pub nats_cert: Option<PathBuf>,
    /// Key of NATS_CERT, in PEM.
    #[arg(long, value_name = "FILE", env = "NATS_KEY", global = true)]
    pub nats_key: Option<PathBuf>,
    /// Root certificates for NATS, in PEM, instead of the system's; makes TLS a must.
    #[arg(long, value_name = "FILE", env = "NATS_CA", global = true)]
    pub nats_ca: Option<PathBuf>,
    /// First part of the subjects on which replies and pulled messages arrive. With one for each service, the server's
    /// permissions can keep services from reading each other's.
    #[arg(long, value_name = "PREFIX", env = "NATS_INBOX_PREFIX", default_value = INBOX_PREFIX, global = true)]
    pub nats_inbox_prefix: String,
}

impl NatsLogin {
    pub fn login(&self) -> Login {
        // An empty variable, as an orchestrator's template may leave it, is none.
        let text = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
        let path = |path: &Option<PathBuf>| path.clone().filter(|p| !p.as_os_str().is_empty());
        Login {
            user: text(&self.nats_user),
            password: text(&self.nats_password).map(Into::into),
            token: text(&self.nats_token).map(Into::into),
            nkey: text(&self.nats_nkey).map(Into::into),
            creds: path(&self.nats_creds),
            cert: path(&self.nats_cert),
            key: path(&self.nats_key),
            ca: path(&self.nats_ca),
        }
    }
}

impl fmt::Debug for NatsLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.login(), f)
    }
}
