//! A nats-server of a test's own: started on a free port with a directory of its own, stopped and removed on drop.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::shipped::{self, Certificates};

const LOOK_EVERY: Duration = Duration::from_millis(20);
const READY_LIMIT: Duration = Duration::from_secs(30);

/// A running server.
#[derive(Debug)]
pub struct Server {
    program: PathBuf,
    /// With its store in `jetstream`.
    pub directory: PathBuf,
    child: Option<Child>,
    configuration: Configuration,
    /// Its address, the same after [`start`](Self::start) is called again.
    pub url: String,
}

#[derive(Debug)]
enum Configuration {
    Own {
        /// More lines, such as users.
        lines: String,
        /// How much JetStream may store.
        storage: String,
    },
    /// That of compose.yaml.
    Shipped(Certificates),
}

impl Server {
    /// Starts the program that `NATS_SERVER` names, with JetStream, on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// What was wrong, if it is not ready within 30 s.
    pub fn new() -> Result<Self> {
        Self::configured("")
    }

    /// The same with these lines in its configuration.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn configured(config: &str) -> Result<Self> {
        // The limits are no promise of space: each stream's own bound is counted against them.
        Self::with(config, "max_file_store: 1TB, max_memory_store: 64GB")
    }

    /// The server of compose.yaml: TLS, the users and permissions of `docker/nats-users.conf` with the passwords of
    /// [`crate::shipped::password`], and a certificate of [`Self::certificates`].
    ///
    /// # Errors
    /// As [`new`](Self::new), and without openssl.
    pub fn shipped() -> Result<Self> {
        let directory = Self::new_directory()?;
        let certificates = Certificates::new(&directory.join("certs"))?;
        Self::launch(directory, Configuration::Shipped(certificates))
    }

    /// Those of a [`shipped`](Self::shipped) server.
    #[must_use]
    pub fn certificates(&self) -> Option<&Certificates> {
        match &self.configuration {
            Configuration::Own { .. } => None,
            Configuration::Shipped(certificates) => Some(certificates),
        }
    }

    /// With these limits of JetStream, in the words of the server's configuration.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_storage(limits: &str) -> Result<Self> {
        Self::with("", limits)
    }

    fn with(lines: &str, storage: &str) -> Result<Self> {
        let configuration = Configuration::Own { lines: lines.to_owned(), storage: storage.to_owned() };
        Self::launch(Self::new_directory()?, configuration)
    }

    fn new_directory() -> Result<PathBuf> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("rideshare-nats-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        Ok(directory)
    }

    fn launch(directory: PathBuf, configuration: Configuration) -> Result<Self> {
        let program = std::env::var_os("NATS_SERVER")
            .context("NATS_SERVER is not set: run the tests by scripts/test, which finds a nats-server")?;
        let mut server = Self { program: program.into(), directory, child: None, configuration, url: String::new() };
        server.start()?;
        Ok(server)
    }

    /// Starts it (again, with its files and its port).
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn start(&mut self) -> Result<()> {
        let file = self.write_configuration()?;
        let log = std::fs::File::create(self.directory.join("nats.log"))?;
        let child = Command::new(&self.program)
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        let ports = self.directory.join(format!("nats-server_{}.ports", child.id()));
        self.child = Some(child);
        let mut looks = READY_LIMIT.as_millis() / LOOK_EVERY.as_millis();
        loop {
            if let Some(url) = ready(&ports, &self.directory.join("nats.log")) {
                self.url = url;
                return Ok(());
            }
            looks -= 1;
            if looks == 0 {
                bail!("nats-server was not ready in {READY_LIMIT:?}: {}", self.log());
            }
            if let Some(status) = self.child.as_mut().and_then(|c| c.try_wait().ok().flatten()) {
                bail!("nats-server ended with {status}: {}", self.log());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Reads these lines instead of the former ones, as after SIGHUP; connections whose user has changed end.
    ///
    /// # Errors
    /// If it does not say within 30 s that it has, or is a [`shipped`](Self::shipped) one.
    pub fn reload(&mut self, config: &str) -> Result<()> {
        let Configuration::Own { lines, .. } = &mut self.configuration else {
            bail!("its configuration is the one that is shipped")
        };
        config.clone_into(lines);
        self.write_configuration()?;
        let reloads = |log: String| log.matches("Reloaded server configuration").count();
        let before = reloads(self.log());
        let child = self.child.as_ref().context("it does not run")?;
        Command::new("kill").arg("-HUP").arg(child.id().to_string()).status()?;
        for _ in 0..READY_LIMIT.as_millis() / LOOK_EVERY.as_millis() {
            if reloads(self.log()) > before {
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        bail!("nats-server has not read its configuration again in {READY_LIMIT:?}: {}", self.log())
    }

    fn write_configuration(&self) -> Result<PathBuf> {
        let port = self.url.rsplit(':').next().filter(|p| !p.is_empty()).unwrap_or("-1");
        let (lines, storage) = match &self.configuration {
            Configuration::Own { lines, storage } => (lines, storage),
            Configuration::Shipped(certificates) => {
                return shipped::write_configuration(&self.directory, port, certificates);
            }
        };
        let directory = self.directory.display();
        let config = format!(
            "listen: \"127.0.0.1:{port}\"\nports_file_dir: \"{directory}\"\n\
             jetstream {{ store_dir: \"{directory}/jetstream\", {storage} }}\n{lines}"
        );
        let file = self.directory.join("nats.conf");
        std::fs::write(&file, config)?;
        Ok(file)
    }

    /// Kills it, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// What it has refused since it was started: the lines of its log about permissions that a client lacks.
    #[must_use]
    pub fn refused(&self) -> Vec<String> {
        self.log().lines().filter(|line| line.contains("iolation")).map(str::to_owned).collect()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("nats.log")).unwrap_or_default()
    }
}

/// The address in the server's file of ports, once it says that it is ready.
fn ready(ports: &Path, log: &Path) -> Option<String> {
    let text = std::fs::read_to_string(ports).ok()?;
    let url = text.split('"').find(|part| part.starts_with("nats://") || part.starts_with("tls://"))?;
    std::fs::read_to_string(log).ok()?.contains("Server is ready").then(|| url.to_owned())
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
