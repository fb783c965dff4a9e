//! What `docker/` ships for a nats-server: the configuration of compose.yaml, the users with their permissions, and certificates. Only the
//! addresses, the directories and the passwords are a test's own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use streams::nats::Login;

/// The users of `docker/nats-users.conf`.
pub const USERS: [&str; 7] = ["admin", "users", "match", "rides", "location", "operator", "observer"];

fn docker() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docker")
}

fn read(name: &str) -> Result<String> {
    let file = docker().join(name);
    std::fs::read_to_string(&file).with_context(|| file.display().to_string())
}

/// The password of a user in tests. A server that reads the value without quotes takes it for a number.
#[must_use]
pub fn password(user: &str) -> String {
    format!("12e4-{user}")
}

/// The address of a server over TLS, with a user.
#[must_use]
pub fn with_login(url: &str, user: &str, password: &str) -> String {
    let host = url.rsplit("//").next().unwrap_or(url);
    format!("tls://{user}:{password}@{host}")
}

/// `docker/nats-users.conf` with these passwords in the place of its variables.
///
/// # Errors
/// If the file cannot be read, or has no variable for one of the users.
pub fn users(password: impl Fn(&str) -> String) -> Result<String> {
    let mut text = read("nats-users.conf")?;
    for user in USERS {
        let variable = format!("$NATS_{}_PASSWORD", user.to_uppercase());
        text = replaced(&text, &variable, &format!("\"{}\"", password(user))).context("nats-users.conf")?;
    }
    Ok(text)
}

/// The text with every `from` replaced, of which there must be one.
fn replaced(text: &str, from: &str, to: &str) -> Result<String> {
    ensure!(text.contains(from), "`{from}` is not in it any more");
    Ok(text.replace(from, to))
}

/// Writes the configuration of compose.yaml's server to `directory`, for a server that listens at this port of 127.0.0.1 and stores its
/// messages there; the path of its main file.
pub(crate) fn write_configuration(directory: &Path, port: &str, certificates: &Certificates) -> Result<PathBuf> {
    let here = directory.display();
    let mut base = read("nats.conf")?;
    for (from, to) in [
        ("listen: \"0.0.0.0:4222\"", format!("listen: \"127.0.0.1:{port}\"\nports_file_dir: \"{here}\"")),
        ("http: \"127.0.0.1:8222\"", "http: \"127.0.0.1:-1\"".to_owned()),
        ("store_dir: \"/data\"", format!("store_dir: \"{here}/jetstream\"")),
    ] {
        base = replaced(&base, from, &to).context("nats.conf")?;
    }
    let main = replaced(&read("nats-compose.conf")?, "/etc/nats/certs/", &certificates.file(""))?;
    let file = directory.join("nats-compose.conf");
    for (name, text) in [("nats.conf", base), ("nats-users.conf", users(password)?), ("nats-compose.conf", main)] {
        std::fs::write(directory.join(name), text)?;
    }
    Ok(file)
}

/// Files that `docker/nats-certs` made: the authority's certificate, one that servers and clients show, and its key.
#[derive(Debug, Clone)]
pub struct Certificates(PathBuf);

impl Certificates {
    /// New ones in `directory`, of an authority of their own.
    ///
    /// # Errors
    /// What `docker/nats-certs` says.
    pub fn new(directory: &Path) -> Result<Self> {
        let output = Command::new(docker().join("nats-certs")).arg(directory).output()?;
        ensure!(output.status.success(), "docker/nats-certs: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Self(directory.to_owned()))
    }

    /// The path of a file: `ca.pem`, `server.pem` or `server-key.pem`.
    #[must_use]
    pub fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// What makes a server show its certificate, and accept nobody without one of an authority that it trusts.
    #[must_use]
    pub fn of_server(&self) -> String {
        let [certificate, key, authority] = ["server.pem", "server-key.pem", "ca.pem"].map(|name| self.file(name));
        format!(
            "tls {{ cert_file: \"{certificate}\", key_file: \"{key}\", ca_file: \"{authority}\", verify: true, timeout: 10 }}\n"
        )
    }

    /// A copy in `directory`, which changes by itself.
    ///
    /// # Errors
    /// If a file cannot be copied.
    pub fn copy(&self, directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let copy = Self(directory.to_owned());
        std::fs::copy(self.file("ca-key.pem"), copy.file("ca-key.pem"))?;
        copy.trust(self)?;
        copy.show(self)?;
        Ok(copy)
    }

    /// From here on the authority of `other` is trusted, and no other one.
    ///
    /// # Errors
    /// If its file cannot be copied.
    pub fn trust(&self, other: &Self) -> Result<()> {
        std::fs::copy(other.file("ca.pem"), self.file("ca.pem"))?;
        Ok(())
    }

    /// From here on the certificate of `other` is shown.
    ///
    /// # Errors
    /// If a file cannot be copied.
    pub fn show(&self, other: &Self) -> Result<()> {
        for name in ["server.pem", "server-key.pem"] {
            std::fs::copy(other.file(name), self.file(name))?;
        }
        Ok(())
    }

    /// What a client shows and trusts.
    #[must_use]
    pub fn login(&self) -> Login {
        let [ca, cert, key] = ["ca.pem", "server.pem", "server-key.pem"].map(|name| Some(self.0.join(name)));
        Login { ca, cert, key, ..Login::default() }
    }
}
