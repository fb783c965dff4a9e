//! How this process shows a NATS server who it is: user and password, token, nkey, credentials file, client certificate, and
//! what the addresses themselves carry. Reads files; opens no connection. No secret gets into a text.

use std::fmt;
use std::path::{Path, PathBuf};

use async_nats::{ConnectOptions, ServerAddr};

/// Text that no log, error or `Debug` shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// What an operator has set, by the names that the `nats` tool uses; at most one of creds, user, token and nkey.
#[derive(Debug, Clone, Default)]
pub struct Login {
    /// NATS_USER; without a password it is a token, as for the `nats` tool.
    pub user: Option<String>,
    /// NATS_PASSWORD.
    pub password: Option<Secret>,
    /// NATS_TOKEN.
    pub token: Option<Secret>,
    /// NATS_NKEY: the seed of a user, or the file that holds it.
    pub nkey: Option<Secret>,
    /// NATS_CREDS: a credentials file, as `nsc` writes it.
    pub creds: Option<PathBuf>,
    /// NATS_CERT and NATS_KEY: a client certificate and its key, in PEM.
    pub cert: Option<PathBuf>,
    /// See [`cert`](Self::cert).
    pub key: Option<PathBuf>,
    /// NATS_CA: the root certificates to trust, in PEM, instead of the system's.
    pub ca: Option<PathBuf>,
}

/// What is sent to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Credential {
    None,
    User {
        user: String,
        password: Secret,
    },
    Token(Secret),
    /// A seed.
    Nkey(Secret),
    /// The text of a credentials file.
    Creds(Secret),
}

/// Addresses without user, password or token, and the one credential for all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) servers: Vec<String>,
    pub(super) credential: Credential,
}

/// What stands before the host of an address: a user, or a token, and perhaps a password.
type UserInfo = (String, Option<String>);

fn read(setting: &str, path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("{setting} {}: {e}", path.display()))
}

/// Decodes `%40` and the like.
fn percent_decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        match (digit(rest.next()), digit(rest.next())) {
            (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
            _ => return Err("NATS_URL: % in a user or password must be written as %25".to_owned()),
        }
    }
    String::from_utf8(bytes).map_err(|_| "NATS_URL: a user or password is no UTF-8".to_owned())
}

/// The address without user and password, and these.
fn split_address(number: usize, url: &str) -> Result<(String, Option<UserInfo>), String> {
    // The text is not repeated: it may hold a password.
    let wrong = || {
        format!(
            "address {number} of NATS_URL is none: it must be nats://host:port or tls://host:port, with user:password@ or \
             token@ before the host if the server wants it; of these, write @ as %40, : as %3A, / as %2F and a comma as %2C"
        )
    };
    let mut parsed = url.trim().parse::<ServerAddr>().map_err(|_| wrong())?.into_inner();
    if parsed.host_str().is_none_or(str::is_empty) || !matches!(parsed.scheme(), "nats" | "tls") {
        return Err(wrong());
    }
    let user = percent_decoded(parsed.username())?;
    let password = parsed.password().map(percent_decoded).transpose()?;
    let shown = !user.is_empty() || password.is_some();
    parsed.set_username("").map_err(|()| wrong())?;
    parsed.set_password(None).map_err(|()| wrong())?;
    Ok((parsed.to_string(), shown.then_some((user, password))))
}

impl Login {
    /// The credential to use for `urls`. What is set by name goes before what an address holds.
    ///
    /// # Errors
    /// A sentence that names the setting, without any secret.
    pub(super) fn resolve(&self, urls: &[String]) -> Result<Resolved, String> {
        let mut servers = Vec::new();
        let mut in_url: Option<UserInfo> = None;
        for (index, url) in urls.iter().enumerate() {
            let (server, shown) = split_address(index + 1, url)?;
            if let (Some(one), Some(other)) = (&in_url, &shown)
                && one != other
            {
                return Err("NATS_URL holds two different users: one connection has one, so use the same for all \
                            addresses, or NATS_USER and NATS_PASSWORD"
                    .to_owned());
            }
            servers.push(server);
            in_url = in_url.or(shown);
        }
        if self.cert.is_some() != self.key.is_some() {
            return Err("NATS_CERT and NATS_KEY go together: set both, or neither".to_owned());
        }
        if self.password.is_some() && self.user.is_none() {
            return Err("NATS_PASSWORD needs NATS_USER".to_owned());
        }
        let set: Vec<&str> = [
            ("NATS_CREDS", self.creds.is_some()),
            ("NATS_USER", self.user.is_some()),
            ("NATS_TOKEN", self.token.is_some()),
            ("NATS_NKEY", self.nkey.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, is_set)| is_set.then_some(name))
        .collect();
        if set.len() > 1 {
            return Err(format!("{} are set: a connection shows one of them, so set one only", set.join(" and ")));
        }
        let credential = match (&self.creds, &self.user, &self.token, &self.nkey) {
            (Some(path), ..) => Credential::Creds(read("NATS_CREDS", path)?.into()),
            (_, Some(user), ..) => Self::user(user.clone(), self.password.clone()),
            (_, _, Some(token), _) => Credential::Token(token.clone()),
            (_, _, _, Some(nkey)) => Credential::Nkey(seed(nkey)?),
            _ => match in_url {
                Some((user, password)) => Self::user(user, password.map(Secret)),
                None => Credential::None,
            },
        };
        Ok(Resolved { servers, credential })
    }

    fn user(user: String, password: Option<Secret>) -> Credential {
        match password {
            Some(password) => Credential::User { user, password },
            None => Credential::Token(Secret(user)),
        }
    }

    /// Adds the credential and the certificates. With certificates of its own, a connection without TLS is refused.
    pub(super) fn options(
        &self,
        mut options: ConnectOptions,
        credential: &Credential,
    ) -> Result<ConnectOptions, String> {
        options = match credential {
            Credential::None => options,
            Credential::User { user, password } => options.user_and_password(user.clone(), password.0.clone()),
            Credential::Token(token) => options.token(token.0.clone()),
            Credential::Nkey(seed) => options.nkey(seed.0.clone()),
            Credential::Creds(text) => {
                options.credentials(&text.0).map_err(|e| format!("NATS_CREDS is no credentials file: {e}"))?
            }
        };
        for (setting, path) in [("NATS_CA", &self.ca), ("NATS_CERT", &self.cert), ("NATS_KEY", &self.key)] {
            if let Some(path) = path {
                read(setting, path)?;
            }
        }
        if let Some(ca) = &self.ca {
            options = options.add_root_certificates(ca.clone()).require_tls(true);
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            options = options.add_client_certificate(cert.clone(), key.clone()).require_tls(true);
        }
        Ok(options)
    }
}

/// The seed in the setting itself, or in the file that it names.
fn seed(setting: &Secret) -> Result<Secret, String> {
    let is_seed = |text: &str| {
        let digits = |b: u8| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b);
        text.len() == 58 && text.starts_with("SU") && text.bytes().all(digits)
    };
    let text = setting.reveal().trim();
    if is_seed(text) {
        return Ok(Secret(text.to_owned()));
    }
    // Not repeated: a seed with a mistake in it is still most of a seed.
    let wrong = || "NATS_NKEY is neither the seed of a user (58 characters, SU…) nor a file that holds one".to_owned();
    let file = std::fs::read_to_string(text).map_err(|_| wrong())?;
    let line = file.lines().map(str::trim).find(|line| is_seed(line)).ok_or_else(wrong)?;
    Ok(Secret(line.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: &str = "SUANQDPB2RUOE4ETUA26CNX7FUKE5ZZKFCQIIW63OX225F2CO7UEXTM7ZY";

    fn urls(urls: &[&str]) -> Vec<String> {
        urls.iter().map(|url| (*url).to_owned()).collect()
    }

    fn user(user: &str, password: &str) -> Credential {
        Credential::User { user: user.to_owned(), password: Secret(password.to_owned()) }
    }

    fn token(token: &str) -> Credential {
        Credential::Token(Secret(token.to_owned()))
    }

    #[test]
    fn an_address_gives_its_user_or_token_and_is_used_without_it() {
        for (given, credential) in [
            (&["nats://h:1"][..], Credential::None),
            (&["nats://rs:secret@h:1"], user("rs", "secret")),
            (&["nats://s3cret@h:1"], token("s3cret")),
            (&["rs:secret@h:1"], user("rs", "secret")),
            (&["nats://r%40s:a%2Cb%25%C3%A9@h:1"], user("r@s", "a,b%é")),
            (&["nats://rs:secret@h:1", "nats://h:1", "nats://rs:secret@h:1"], user("rs", "secret")),
        ] {
            let resolved = Login::default().resolve(&urls(given)).unwrap();
            assert_eq!(resolved.credential, credential, "{given:?}");
            assert!(resolved.servers.iter().all(|s| s == "nats://h:1"), "{:?}", resolved.servers);
        }
    }

    #[test]
    fn what_is_set_by_name_goes_first() {
        let some = |text: &str| Some(Secret(text.to_owned()));
        for (login, credential) in [
            (Login { user: Some("u".into()), password: some("p"), ..Login::default() }, user("u", "p")),
            (Login { user: Some("t".into()), ..Login::default() }, token("t")),
            (Login { token: some("t"), ..Login::default() }, token("t")),
            (Login { nkey: some(SEED), ..Login::default() }, Credential::Nkey(Secret(SEED.to_owned()))),
        ] {
            assert_eq!(login.resolve(&urls(&["nats://rs:secret@h:1"])).unwrap().credential, credential);
        }
    }

    #[test]
    fn a_mistake_is_named_and_no_secret_is_shown() {
        let some = |text: &str| Some(Secret(text.to_owned()));
        let url = &["nats://h:1"][..];
        let none = Login::default;
        for (login, given, reason) in [
            (none(), &["nats://rs:hunter2/@h:1"][..], "NATS_URL"),
            // A comma in a password splits the address.
            (none(), &["nats://rs:hunter2", "x@h:1"], "address 1 of NATS_URL"),
            (none(), &["http://rs:hunter2@h:1"], "address 1 of NATS_URL"),
            (none(), &["nats://rs:hunter2%@h:1"], "%25"),
            (none(), &["nats://rs:hunter2@h:1", "nats://rs:other@h:1"], "two different users"),
            (Login { password: some("hunter2"), ..none() }, url, "needs NATS_USER"),
            (Login { token: some("hunter2"), user: Some("u".into()), ..none() }, url, "NATS_USER and NATS_TOKEN"),
            (Login { cert: Some("x".into()), ..none() }, url, "NATS_CERT and NATS_KEY go together"),
            (Login { nkey: some("SUhunter2"), ..none() }, url, "NATS_NKEY is neither"),
            (Login { creds: Some("/no/such".into()), ..none() }, url, "NATS_CREDS /no/such: No such file"),
        ] {
            let error = login.resolve(&urls(given)).map(|r| r.servers).unwrap_err();
            assert!(error.contains(reason) && !error.contains("hunter2"), "{given:?}: {error}");
            assert!(!format!("{login:?}").contains("hunter2"));
        }
    }
}
