//! `rideshare dispatch what-if`: the recorded inputs under another policy, beside what happened.

use std::process::ExitCode;

use anyhow::{Result, bail};
use chrono::{DateTime, Utc};
use clap::Args;
use matching::record::query;
use matching::record::what_if::Report;
use matching::{Policy, Tables};
use platform::{Store, World};
use serde_json::json;
use streams::event::rfc3339;

use super::evaluate::{Format, HEAD, line, object};

#[derive(Debug, Clone, Args)]
pub struct WhatIf {
    /// batched, first-come or shortest-pair.
    #[arg(long, value_name = "P")]
    pub policy: Policy,
    /// Searches that began at this time or later, as 2026-11-21T08:00:00Z, or so long ago, as 15m or 2h.
    #[arg(long, value_name = "T", value_parser = since)]
    pub since: Since,
    /// For people or for programs.
    #[arg(long, default_value = "table")]
    pub format: Format,
}

/// Where to begin in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    At(DateTime<Utc>),
    /// So long before now.
    Ago(chrono::Duration),
}

fn since(text: &str) -> Result<Since, String> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(Since::At(at.to_utc()));
    }
    let ago = humantime::parse_duration(text).ok().and_then(|ago| chrono::Duration::from_std(ago).ok());
    ago.map(Since::Ago)
        .ok_or_else(|| "a time as 2026-11-21T08:00:00Z is needed, or how long ago as 90s, 15m, 2h, 1d".to_owned())
}

pub(super) async fn run(store: &Store<Tables>, world: &World, what: &WhatIf) -> Result<ExitCode> {
    let since = match what.since {
        Since::At(at) => at,
        Since::Ago(ago) => world.now().checked_sub_signed(ago).unwrap_or(DateTime::UNIX_EPOCH),
    };
    let began_at = world.now();
    let Some(report) = query::what_if(store, what.policy, since).await? else {
        bail!("nothing is recorded: MATCH_RECORD_HOURS is 0, or nobody has matched yet");
    };
    let seconds = (world.now() - began_at).as_seconds_f64().max(1e-6);
    let rate = |matched: usize| matched as f64 / seconds;
    let Report { happened, what_if, .. } = &report;
    match what.format {
        Format::Table => {
            println!("{HEAD}");
            println!("{}  happened", line(happened, rate(happened.matched)));
            println!("{}  what-if", line(what_if, rate(what_if.matched)));
            print!("{}", notes(&report));
        }
        Format::Json => {
            let report = json!({
                "from": rfc3339::text(&report.from),
                "until": rfc3339::text(&report.until),
                "entries": report.entries,
                "gaps": report.gaps,
                "happened": object(happened, rate(happened.matched)),
                "what_if": object(what_if, rate(what_if.matched)),
                "offers": report.offers,
                "same_offers": report.same_offers,
                "zones": report.zones,
                "drivers_twice": report.twice,
                "assumed_answer_s": report.answer_s,
                "assumptions": assumptions(&report),
            });
            println!("{}", serde_json::to_string_pretty(&report)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

const ASSUMPTIONS: &str = "Beacons, searches and places of drivers are as recorded. An offer that was made in the same step ends as it did; another \
one to the same driver for the same search is answered as that one was; one that was never made is accepted after the median time. \
Rides of the latter two last their estimate.";

const ASSUMPTIONS_OF_ZONES: &str = " Each zone is run by itself: drivers whom another zone had are not offered, as was so then, and whoever two \
zones would have at a time is counted for both.";

fn assumptions(report: &Report) -> String {
    format!("{ASSUMPTIONS}{}", if report.zones > 1 { ASSUMPTIONS_OF_ZONES } else { "" })
}

fn notes(report: &Report) -> String {
    let Report { from, until, entries, gaps, offers, same_offers, answer_s, zones, twice, .. } = report;
    let of_zones = format!(" {zones} zones; {twice} rides begin while their driver is in one of another zone.");
    format!(
        "\n{entries} entries from {} to {}, {gaps} gaps. {same_offers} of {offers} offers are those that were made; others are accepted after \
         {answer_s:.1} s.{}\n{}\n",
        rfc3339::text(from),
        rfc3339::text(until),
        if *zones > 1 { &of_zones } else { "" },
        assumptions(report),
    )
}
