//! The settings of push: which platforms can be used, and the files of their keys.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use platform::http_client::Reach;
use users::{ApnsConfig, FcmConfig, PushConfig, VapidConfig};

#[derive(Clone, Args)]
#[command(next_help_heading = "Push")]
pub struct PushSettings {
    /// Firebase Cloud Messaging: the JSON file of the service account, as Google's console writes it.
    #[arg(long, value_name = "FILE", env = "FCM_CREDENTIALS_FILE", global = true)]
    pub fcm_credentials_file: Option<PathBuf>,
    /// The address of Firebase Cloud Messaging.
    #[arg(long, value_name = "URL", env = "FCM_URL", default_value = "https://fcm.googleapis.com", global = true)]
    pub fcm_url: String,
    /// Apple's push service: the .p8 file of the key; needs APNS_KEY_ID, APNS_TEAM_ID and APNS_TOPIC.
    #[arg(long, value_name = "FILE", env = "APNS_KEY_FILE", global = true)]
    pub apns_key_file: Option<PathBuf>,
    /// The id of APNS_KEY_FILE.
    #[arg(long, value_name = "ID", env = "APNS_KEY_ID", global = true)]
    pub apns_key_id: Option<String>,
    /// The team at Apple that the key belongs to.
    #[arg(long, value_name = "ID", env = "APNS_TEAM_ID", global = true)]
    pub apns_team_id: Option<String>,
    /// The bundle id of the app.
    #[arg(long, value_name = "ID", env = "APNS_TOPIC", global = true)]
    pub apns_topic: Option<String>,
    /// The address of Apple's push service; https://api.sandbox.push.apple.com for apps under development.
    #[arg(long, value_name = "URL", env = "APNS_URL", default_value = "https://api.push.apple.com", global = true)]
    pub apns_url: String,
    /// Web Push: the private key (P-256, PKCS #8, PEM) by which browsers' push services know this platform; needs PUSH_VAPID_SUBJECT.
    #[arg(long, value_name = "FILE", env = "PUSH_VAPID_KEY_FILE", global = true)]
    pub push_vapid_key_file: Option<PathBuf>,
    /// Whom a push service writes to if something is wrong: mailto:… or https://…
    #[arg(long, value_name = "WHOM", env = "PUSH_VAPID_SUBJECT", global = true)]
    pub push_vapid_subject: Option<String>,
    /// Whether devices may name addresses of this machine, also by http, beside public ones by https [default: if embedded].
    #[arg(long, value_name = "BOOL", env = "PUSH_TO_LOOPBACK", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set, global = true)]
    pub push_to_loopback: Option<bool>,
}

impl fmt::Debug for PushSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushSettings").finish_non_exhaustive()
    }
}

impl PushSettings {
    /// Reads the files.
    ///
    /// # Errors
    /// A sentence that names the variable.
    pub fn config(&self, embedded: bool) -> anyhow::Result<PushConfig> {
        let reach = if self.push_to_loopback.unwrap_or(embedded) { Reach::PublicOrLoopback } else { Reach::Public };
        Ok(PushConfig { reach, fcm: self.fcm()?, apns: self.apns()?, vapid: self.vapid()?, ..PushConfig::default() })
    }

    fn fcm(&self) -> anyhow::Result<Option<FcmConfig>> {
        let Some(file) = set(&self.fcm_credentials_file) else { return Ok(None) };
        let config = FcmConfig::new(&read(file, "FCM_CREDENTIALS_FILE")?, &self.fcm_url);
        config.map(Some).map_err(anyhow::Error::msg).context("FCM_CREDENTIALS_FILE")
    }

    fn apns(&self) -> anyhow::Result<Option<ApnsConfig>> {
        let Some(file) = set(&self.apns_key_file) else { return Ok(None) };
        let key_id = needed(&self.apns_key_id, "APNS_KEY_FILE", "APNS_KEY_ID")?;
        let team_id = needed(&self.apns_team_id, "APNS_KEY_FILE", "APNS_TEAM_ID")?;
        let topic = needed(&self.apns_topic, "APNS_KEY_FILE", "APNS_TOPIC")?;
        let config = ApnsConfig::new(&read(file, "APNS_KEY_FILE")?, key_id, team_id, topic, &self.apns_url);
        config.map(Some).map_err(anyhow::Error::msg).context("APNS_KEY_FILE")
    }

    fn vapid(&self) -> anyhow::Result<Option<VapidConfig>> {
        let Some(file) = set(&self.push_vapid_key_file) else { return Ok(None) };
        let subject = needed(&self.push_vapid_subject, "PUSH_VAPID_KEY_FILE", "PUSH_VAPID_SUBJECT")?;
        let config = VapidConfig::new(&read(file, "PUSH_VAPID_KEY_FILE")?, subject);
        config.map(Some).map_err(anyhow::Error::msg).context("PUSH_VAPID_KEY_FILE or PUSH_VAPID_SUBJECT")
    }
}

/// An empty variable, as an orchestrator's template may leave it, is none.
fn set(path: &Option<PathBuf>) -> Option<&Path> {
    path.as_deref().filter(|path| !path.as_os_str().is_empty())
}

fn needed<'a>(text: &'a Option<String>, by: &str, name: &str) -> anyhow::Result<&'a str> {
    text.as_deref().filter(|text| !text.is_empty()).with_context(|| format!("{by} needs {name}"))
}

fn read(file: &Path, name: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("{name}: {} cannot be read", file.display()))
}
