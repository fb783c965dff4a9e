//! The rig's own servers: a PostgreSQL, and one nats-server or a cluster of three. It starts, kills and restarts them, always at
//! the same addresses; it knows nothing of what they hold.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::processes::{ChildProcess, free_port, log};
use crate::proxy::{Line, Proxy};

const READY_WAIT: Duration = Duration::from_secs(60);
const END_WAIT: Duration = Duration::from_secs(30);

fn program(variable: &str) -> PathBuf {
    std::env::var_os(variable)
        .unwrap_or_else(|| panic!("{variable} is not set: run scripts/test, or scripts/faults"))
        .into()
}

/// Gives a directory to a user who is not root, and returns the command that runs another one as this user: neither PostgreSQL nor
/// PgBouncer runs as root.
fn give_away(home: &Path) -> Vec<String> {
    let mut as_user = Vec::new();
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        let users = std::fs::read_to_string("/etc/passwd").unwrap();
        let owner = if users.lines().any(|line| line.starts_with("postgres:")) { "postgres" } else { "nobody" };
        assert!(Command::new("chown").arg(owner).arg(home).status().unwrap().success());
        let group = std::fs::metadata(home).unwrap();
        as_user = ["setpriv", "--reuid", owner, "--clear-groups", "--regid"].map(str::to_owned).to_vec();
        let line = users.lines().find(|line| line.starts_with(&format!("{owner}:"))).unwrap();
        as_user.push(line.split(':').nth(3).map_or_else(|| group.gid().to_string(), str::to_owned));
        as_user.push("--".to_owned());
    }
    as_user
}

/// `program`, run by this command.
fn command_as(as_user: &[String], program: PathBuf) -> Command {
    match as_user.split_first() {
        None => Command::new(program),
        Some((change, arguments)) => {
            let mut command = Command::new(change);
            command.args(arguments).arg(program);
            command
        }
    }
}

/// A PostgreSQL server with a directory of its own.
#[derive(Debug)]
pub(crate) struct Postgres {
    bin: PathBuf,
    home: PathBuf,
    /// A command that changes the user: PostgreSQL refuses to run as root.
    as_user: Vec<String>,
    port: u16,
    child: Option<ChildProcess>,
}

impl Postgres {
    /// A new server, started.
    pub(crate) async fn new(root: &Path) -> Self {
        Self::configured(root, "").await
    }

    /// The same with these lines in its configuration.
    pub(crate) async fn configured(root: &Path, lines: &str) -> Self {
        let mut postgres = Self::place(root, "postgres");
        postgres.run(
            "initdb",
            &["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync", "--pgdata=data"],
        );
        let more = "listen_addresses = '127.0.0.1'\nunix_socket_directories = ''\nmax_connections = 300\n\
                    shared_buffers = '128MB'\nfsync = off\nsynchronous_commit = on\n";
        postgres.configure(&format!("{more}{lines}"));
        postgres.start().await;
        postgres
    }

    /// A copy of this server as it is now, not started.
    pub(crate) fn base_backup(&self, root: &Path, name: &str, options: &[&str]) -> Self {
        let copy = Self::place(root, name);
        let from = format!("host=127.0.0.1 port={} user=postgres application_name={name}", self.port);
        let all = ["--pgdata=data", "--checkpoint=fast", "--no-sync", "--dbname", &from];
        copy.run("pg_basebackup", &[&all[..], options].concat());
        copy
    }

    /// A directory of its own for a server that does not exist yet.
    fn place(root: &Path, name: &str) -> Self {
        let home = root.join(name);
        std::fs::create_dir(&home).unwrap();
        let as_user = give_away(&home);
        Self { bin: program("POSTGRES_BIN"), home, as_user, port: free_port(), child: None }
    }

    /// Runs one of its programs to its end.
    fn run(&self, name: &str, arguments: &[&str]) {
        let status = self.command(name).args(arguments).status().unwrap();
        assert!(status.success(), "{name} failed: {}", self.home.join("log").display());
    }

    /// Adds lines to its configuration, which it reads when it starts.
    pub(crate) fn configure(&self, lines: &str) {
        let file = self.data().join("postgresql.conf");
        let text = std::fs::read_to_string(&file).unwrap() + lines;
        std::fs::write(&file, text).unwrap();
    }

    /// Who may connect, by the lines of pg_hba.conf; read again at once.
    pub(crate) fn admit(&self, lines: &str) {
        std::fs::write(self.data().join("pg_hba.conf"), lines).unwrap();
        if let Some(child) = &self.child {
            child.signal("HUP");
        }
    }

    fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    fn command(&self, name: &str) -> Command {
        let mut command = command_as(&self.as_user, self.bin.join(name));
        let out = log(&self.home.join("log"));
        command.current_dir(&self.home).stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        command
    }

    /// Its port, around every proxy.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The address of its database behind `port`.
    pub(crate) fn url(port: u16) -> String {
        format!("postgres://postgres@127.0.0.1:{port}/postgres")
    }

    /// Runs a block of docker/RUNBOOK.md on it, in its directory: `psql` finds it.
    pub(crate) fn runs(&self, block: &str) {
        let path = format!("{}:{}", self.bin.display(), std::env::var("PATH").unwrap());
        let environment = [
            ("PATH", path),
            ("PGHOST", "127.0.0.1".to_owned()),
            ("PGPORT", self.port.to_string()),
            ("PGUSER", "postgres".to_owned()),
            ("PGDATABASE", "postgres".to_owned()),
        ];
        crate::runbook::run(block, &self.data(), &environment);
    }

    /// Starts it if it does not run, until it answers; after a crash it recovers from its write-ahead log.
    pub(crate) async fn start(&mut self) {
        if self.child.is_some() {
            return;
        }
        let (data, port) = (self.data(), self.port.to_string());
        let child = self.command("postgres").arg("-D").arg(&data).args(["-p", &port]).spawn().unwrap();
        let child = self.child.insert(ChildProcess(child));
        let until = Instant::now() + READY_WAIT;
        loop {
            let file = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            let is_ours = file.lines().next() == Some(&child.0.id().to_string());
            if is_ours
                && file.lines().nth(7).is_some_and(|line| line.starts_with("ready") || line.starts_with("standby"))
            {
                return;
            }
            let log = self.home.join("log");
            assert!(child.ended().is_none(), "PostgreSQL ended: {}", log.display());
            assert!(Instant::now() < until, "PostgreSQL was not ready in {READY_WAIT:?}: {}", log.display());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills the server itself; its other processes end when they notice.
    pub(crate) fn kill(&mut self) {
        self.child = None;
    }

    /// Stops it in immediate mode: without a checkpoint, as in a crash.
    pub(crate) async fn crash(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.signal("QUIT");
            child.end(END_WAIT).await;
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // On SIGQUIT it ends its own children; killed, it would leave them.
        if let Some(child) = &mut self.child {
            child.signal("QUIT");
            let _ = child.0.wait();
        }
    }
}

/// A PgBouncer in transaction mode, before the PostgreSQL at a port.
#[derive(Debug)]
pub(crate) struct Bouncer {
    pub(crate) port: u16,
    _child: ChildProcess,
}

impl Bouncer {
    /// With so many connections to each database.
    pub(crate) async fn new(root: &Path, to: u16, pool_size: u32) -> Self {
        let (home, port) = (root.join("pgbouncer"), free_port());
        std::fs::create_dir(&home).unwrap();
        std::fs::write(home.join("users"), "\"postgres\" \"\"\n").unwrap();
        let config = format!(
            "[databases]\n* = host=127.0.0.1 port={to}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = users\npool_mode = transaction\n\
             default_pool_size = {pool_size}\nmax_client_conn = 500\n\
             query_wait_timeout = 10\n"
        );
        std::fs::write(home.join("pgbouncer.ini"), config).unwrap();
        let out = log(&home.join("log"));
        let child = command_as(&give_away(&home), program("PGBOUNCER"))
            .arg("pgbouncer.ini")
            .current_dir(&home)
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        let mut child = ChildProcess(child);
        let until = Instant::now() + READY_WAIT;
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(child.ended().is_none(), "PgBouncer ended: {}", home.join("log").display());
            assert!(Instant::now() < until, "PgBouncer was not ready in {READY_WAIT:?}");
            sleep(Duration::from_millis(20)).await;
        }
        Self { port, _child: child }
    }
}

#[derive(Debug)]
struct Node {
    name: String,
    port: u16,
    /// Its port for the other nodes, and the proxy through which they connect to it.
    route: u16,
    line: Proxy,
    child: Option<ChildProcess>,
}

/// One nats-server, or a cluster.
#[derive(Debug)]
pub(crate) struct Nats {
    root: PathBuf,
    nodes: Vec<Node>,
}

impl Nats {
    pub(crate) async fn new(root: &Path, nodes: usize) -> Self {
        let mut nats = Self { root: root.to_owned(), nodes: Vec::new() };
        for n in 0..nodes {
            let route = free_port();
            let (name, port, line) = (format!("n{n}"), free_port(), Proxy::to(route).await);
            nats.nodes.push(Node { name, port, route, line, child: None });
        }
        for n in 0..nodes {
            nats.launch(n);
        }
        for n in 0..nodes {
            nats.ready(n).await;
        }
        nats
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The port of each node, around every proxy.
    pub(crate) fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.port).collect()
    }

    /// The address of each node, around every proxy.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.ports().iter().map(|port| format!("nats://127.0.0.1:{port}")).collect()
    }

    /// The place of a node by its name.
    pub(crate) fn named(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    fn directory(&self, n: usize) -> PathBuf {
        self.root.join(format!("nats-{}", self.nodes[n].name))
    }

    fn launch(&mut self, n: usize) {
        let directory = self.directory(n);
        std::fs::create_dir_all(&directory).unwrap();
        let Node { name, port, route, line, .. } = &self.nodes[n];
        let mut config = format!(
            "listen: \"127.0.0.1:{port}\"\nserver_name: \"{name}\"\n\
             jetstream {{ store_dir: \"{}/jetstream\", max_file_store: 1TB, max_memory_store: 64GB }}\n",
            directory.display()
        );
        if self.nodes.len() > 1 {
            let routes: Vec<String> =
                self.nodes.iter().map(|node| format!("\"nats://127.0.0.1:{}\"", node.line.port)).collect();
            // Neither clients nor nodes may learn of addresses that lead around their proxies.
            config += &format!(
                "cluster {{ name: rig, listen: \"127.0.0.1:{route}\", no_advertise: true, \
                 advertise: \"127.0.0.1:{}\", routes: [{}] }}\n",
                line.port,
                routes.join(", ")
            );
        }
        let file = directory.join("nats.conf");
        std::fs::write(&file, config).unwrap();
        let _ = std::fs::rename(directory.join("log"), directory.join("log.before"));
        let child = Command::new(program("NATS_SERVER"))
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log(&directory.join("log")))
            .spawn()
            .unwrap();
        self.nodes[n].child = Some(ChildProcess(child));
    }

    async fn ready(&mut self, n: usize) {
        let log = self.directory(n).join("log");
        let until = Instant::now() + READY_WAIT;
        while !std::fs::read_to_string(&log).unwrap_or_default().contains("Server is ready") {
            let ended = self.nodes[n].child.as_mut().and_then(ChildProcess::ended);
            assert!(ended.is_none(), "nats-server ended: {}", std::fs::read_to_string(&log).unwrap_or_default());
            assert!(Instant::now() < until, "nats-server was not ready in {READY_WAIT:?}: {}", log.display());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Changes the line from the other nodes to this one.
    pub(crate) fn set_route(&self, n: usize, line: Line) {
        self.nodes[n].line.set(line);
    }

    /// Kills a node as a crash would.
    pub(crate) fn kill(&mut self, n: usize) {
        self.nodes[n].child = None;
    }

    /// Kills nodes and deletes their stores.
    pub(crate) fn wipe(&mut self, nodes: &[usize]) {
        for n in nodes {
            self.kill(*n);
            let _ = std::fs::remove_dir_all(self.directory(*n).join("jetstream"));
        }
    }

    /// Starts nodes that do not run: all, and then waits for each, since a node of a cluster is not ready alone.
    pub(crate) async fn start_all(&mut self, nodes: &[usize]) {
        for n in nodes {
            if self.nodes[*n].child.is_none() {
                self.launch(*n);
            }
        }
        for n in nodes {
            self.ready(*n).await;
        }
    }

    pub(crate) fn signal(&self, n: usize, name: &str) {
        if let Some(child) = &self.nodes[n].child {
            child.signal(name);
        }
    }
}
