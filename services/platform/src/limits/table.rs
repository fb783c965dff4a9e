//! The one table of limits: name, by what it counts, how many at once, how many over time, and why. The README's table and
//! the frame `welcome` are made from it. Pure.

use std::fmt::Write as _;
use std::str::FromStr;

use super::gcra::Quota;

/// A limit, by its row in [`TABLE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    HttpAddress,
    HttpUser,
    SignInAddress,
    ConnectionsAddress,
    Nearby,
    MissedOffers,
    Shares,
    Commands,
    Points,
    Frames,
    SocketsUser,
    Refresh,
    CodesAddress,
    CodesAsker,
    CodesNumber,
    CodesFirst,
    CodesPrefix,
    CodesAll,
    WrongCodesAddress,
    WrongCodesFirst,
    WrongCodesAll,
    AdminTokensAddress,
    AdminActs,
    AdminLookUps,
    AdminStreams,
}

/// What a limit counts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    User,
    /// A client's address; of IPv6 its /64.
    Address,
    SignIn,
    Socket,
    /// Who has a token of ADMIN_TOKENS_FILE, by name.
    Operator,
    /// A phone number.
    Number,
    /// A phone number, for each address that asks for it.
    NumberAndAddress,
    /// A phone number without its last four digits.
    Prefix,
    /// Everybody together.
    All,
}

impl By {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Address => "address",
            Self::SignIn => "sign-in",
            Self::Socket => "socket",
            Self::Operator => "operator",
            Self::Number => "number",
            Self::NumberAndAddress => "number and address",
            Self::Prefix => "number prefix",
            Self::All => "all",
        }
    }
}

/// Where the buckets of a limit are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In each process: with N processes a client may do up to N times as much.
    Process,
    /// In rows that all processes share.
    Shared,
}

/// How much is allowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    Rate(Quota),
    /// So many at the same time.
    Count(u32),
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Definition {
    pub limit: Limit,
    /// In problems, metrics and the setting `LIMITS`.
    pub name: &'static str,
    pub by: By,
    pub scope: Scope,
    pub amount: Amount,
    /// What is counted, for the README.
    pub what: &'static str,
}

const fn rate(burst: u32, per_s: f64) -> Amount {
    Amount::Rate(Quota { burst, per_s })
}

const fn row(limit: Limit, name: &'static str, by: By, scope: Scope, amount: Amount, what: &'static str) -> Definition {
    Definition { limit, name, by, scope, amount, what }
}

/// In the order of [`Limit`].
pub const TABLE: [Definition; 25] = {
    use By::{Address, All, Number, NumberAndAddress, Operator, Prefix, SignIn, Socket, User};
    use Scope::{Process, Shared};
    [
        row(
            Limit::HttpAddress,
            "http_address",
            Address,
            Process,
            rate(2_000, 500.0),
            "HTTP requests, refused ones too",
        ),
        row(Limit::HttpUser, "http_user", User, Process, rate(200, 50.0), "HTTP requests with a valid access token"),
        row(Limit::SignInAddress, "sign_in_address", Address, Process, rate(1_000, 20.0), "requests to /v1/auth/"),
        row(
            Limit::ConnectionsAddress,
            "connections_address",
            Address,
            Process,
            Amount::Count(2_000),
            "open connections, sockets too; never more than half of the process's open files",
        ),
        row(Limit::Nearby, "nearby", User, Process, rate(5, 1.0), "GET /v1/drivers/nearby"),
        row(Limit::MissedOffers, "missed_offers", User, Process, rate(3, 0.1), "GET /v1/me/missed-offers"),
        row(Limit::Shares, "shares", Address, Process, rate(60, 5.0), "looks at shared rides: /s/ and /v1/shares/"),
        row(
            Limit::Commands,
            "commands",
            User,
            Process,
            rate(20, 0.5),
            "commands that cost others: beacon.update and finder.update",
        ),
        row(Limit::Points, "points", User, Process, rate(4_000, 10.0), "positions in location.update"),
        row(Limit::Frames, "frames", Socket, Process, rate(200, 50.0), "frames (SOCKET_FRAMES_PER_S)"),
        row(Limit::SocketsUser, "sockets_user", User, Process, Amount::Count(5), "open sockets"),
        row(Limit::Refresh, "refresh", SignIn, Process, rate(30, 0.1), "POST /v1/auth/refresh"),
        row(Limit::CodesAddress, "codes_address", Address, Shared, rate(300, 0.2), "codes requested from one address"),
        row(
            Limit::CodesAsker,
            "codes_asker",
            NumberAndAddress,
            Shared,
            rate(5, 1.0 / 600.0),
            "codes requested for one number from one address",
        ),
        row(
            Limit::CodesNumber,
            "codes_number",
            Number,
            Shared,
            rate(20, 1.0 / 180.0),
            "codes for one number, from all addresses",
        ),
        row(
            Limit::CodesFirst,
            "codes_first",
            Address,
            Shared,
            rate(2, 1.0 / 1_800.0),
            "codes that an address gets although codes_number, codes_prefix or codes_all is used up",
        ),
        row(
            Limit::CodesPrefix,
            "codes_prefix",
            Prefix,
            Shared,
            rate(30, 1.0 / 60.0),
            "codes for numbers without an account that differ in the last four digits only",
        ),
        row(Limit::CodesAll, "codes_all", All, Shared, rate(1_000, 2.0), "codes for numbers without an account"),
        row(
            Limit::WrongCodesAddress,
            "wrong_codes_address",
            Address,
            Shared,
            rate(100, 1.0 / 30.0),
            "wrong codes presented from one address; then the right one is refused too",
        ),
        row(
            Limit::WrongCodesFirst,
            "wrong_codes_first",
            Address,
            Shared,
            rate(3, 1.0 / 1_200.0),
            "wrong codes that an address may present although wrong_codes_all is used up",
        ),
        row(Limit::WrongCodesAll, "wrong_codes_all", All, Shared, rate(300, 0.2), "wrong codes presented by everybody"),
        row(
            Limit::AdminTokensAddress,
            "admin_tokens_address",
            Address,
            Process,
            rate(60, 1.0 / 10.0),
            "tokens of operators that were not right before from this address; then a right one is refused too",
        ),
        row(
            Limit::AdminActs,
            "admin_acts",
            Operator,
            Process,
            rate(200, 0.1),
            "acts of one operator, each an event for a year",
        ),
        row(
            Limit::AdminLookUps,
            "admin_look_ups",
            Operator,
            Process,
            rate(30, 1.0 / 120.0),
            "searches of one operator for a phone number, each an event for a year",
        ),
        row(Limit::AdminStreams, "admin_streams", All, Process, Amount::Count(8), "open event streams of operators"),
    ]
};

impl Limit {
    pub fn definition(self) -> &'static Definition {
        &TABLE[self as usize]
    }

    pub fn name(self) -> &'static str {
        self.definition().name
    }
}

/// The largest burst and rate that a setting may name.
const BURST_MAX: u32 = 100_000_000;
const PER_S_MAX: f64 = 1_000_000.0;
/// One in about 11 days.
const PER_S_MIN: f64 = 1e-6;

/// The table with what a setting changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    amounts: [Amount; TABLE.len()],
}

impl Default for Limits {
    fn default() -> Self {
        Self { amounts: TABLE.map(|definition| definition.amount) }
    }
}

impl Limits {
    pub fn amount(&self, limit: Limit) -> Amount {
        self.amounts[limit as usize]
    }

    /// The rate of a limit; of one that counts what is open at the same time, that count and no rate to speak of.
    pub fn quota(&self, limit: Limit) -> Quota {
        match self.amount(limit) {
            Amount::Rate(quota) => quota,
            Amount::Count(count) => Quota { burst: count, per_s: PER_S_MIN },
        }
    }

    /// How many may be open at the same time; of a rate its burst.
    pub fn count(&self, limit: Limit) -> usize {
        let count = match self.amount(limit) {
            Amount::Rate(quota) => quota.burst,
            Amount::Count(count) => count,
        };
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    pub fn set(&mut self, limit: Limit, amount: Amount) {
        self.amounts[limit as usize] = amount;
    }

    /// A value of the setting `LIMITS` with which no limit of a rate is ever reached: for simulated cities and benchmarks,
    /// all of whose people share one address.
    pub fn raised() -> String {
        let mut text = String::new();
        for definition in &TABLE {
            let comma = if text.is_empty() { "" } else { "," };
            let _ = match definition.amount {
                Amount::Rate(_) if definition.limit == Limit::Frames => Ok(()),
                Amount::Rate(_) => write!(text, "{comma}{}=10000000/1000000", definition.name),
                Amount::Count(_) if definition.limit == Limit::SocketsUser => Ok(()),
                Amount::Count(_) => write!(text, "{comma}{}=1000000", definition.name),
            };
        }
        text
    }
}

/// `name=burst/per_s,…`; a limit that counts what is open is `name=count`. What is not named keeps its default.
impl FromStr for Limits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut limits = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(|| {
                format!("`{part}` is no limit: use name=burst/per_s, as in codes_address=1000/10; limits have no off")
            })?;
            let definition = TABLE.iter().find(|d| d.name == name.trim()).ok_or_else(|| {
                let names: Vec<_> = TABLE.iter().map(|d| d.name).collect();
                format!("there is no limit `{name}`: there are {}", names.join(", "))
            })?;
            limits.set(definition.limit, amount(definition, value.trim())?);
        }
        Ok(limits)
    }
}

fn amount(definition: &Definition, value: &str) -> Result<Amount, String> {
    let name = definition.name;
    let count = |text: &str| text.trim().parse().ok().filter(|n| (1..=BURST_MAX).contains(n));
    match definition.amount {
        Amount::Count(_) => count(value)
            .map(Amount::Count)
            .ok_or_else(|| format!("{name}: `{value}` must be a whole number from 1 to {BURST_MAX}")),
        Amount::Rate(_) => {
            let wrong = || {
                format!(
                    "{name}: `{value}` must be burst/per_s: a whole number from 1 to {BURST_MAX}, a slash, and a \
                     number from {PER_S_MIN} to {PER_S_MAX}"
                )
            };
            let (burst, per_s) = value.split_once('/').ok_or_else(wrong)?;
            let per_s = per_s.trim().parse().ok().filter(|rate| (PER_S_MIN..=PER_S_MAX).contains(rate));
            Ok(Amount::Rate(Quota { burst: count(burst).ok_or_else(wrong)?, per_s: per_s.ok_or_else(wrong)? }))
        }
    }
}

impl Amount {
    /// For people: `300, then 12 a minute`.
    pub fn text(self) -> String {
        let quota = match self {
            Self::Count(count) => return format!("{count} at once"),
            Self::Rate(quota) => quota,
        };
        let round = |n: f64| if (n - n.round()).abs() < 1e-6 { format!("{}", n.round()) } else { format!("{n:.1}") };
        let (per_minute, per_hour) = (quota.per_s * 60.0, quota.per_s * 3_600.0);
        let rate = if quota.per_s >= 1.0 {
            format!("{} a second", round(quota.per_s))
        } else if per_minute >= 1.0 {
            format!("{} a minute", round(per_minute))
        } else {
            format!("{} an hour", round(per_hour))
        };
        format!("{}, then {rate}", quota.burst)
    }
}

/// The README's table.
pub fn markdown() -> String {
    let mut text = "| limit | by | default | counted in | what |\n|---|---|---|---|---|\n".to_owned();
    for Definition { name, by, scope, amount, what, .. } in &TABLE {
        let counted_in = if *scope == Scope::Shared { "all together" } else { "each process" };
        let _ = writeln!(text, "| `{name}` | {} | {} | {counted_in} | {what} |", by.as_str(), amount.text());
    }
    text
}
