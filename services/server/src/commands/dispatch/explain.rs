//! `rideshare dispatch explain`: why a passenger was offered this driver.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use matching::Tables;
use matching::record::explain::{Candidate, Explained, Explanation, Outcome, Target, Why};
use matching::record::query;
use platform::Store;
use streams::event::rfc3339;
use streams::{MatchId, RequestId};
use uuid::Uuid;

use super::evaluate::Format;
use crate::output::{out, outln};

/// What is asked for.
#[derive(Debug, Clone, Args)]
#[group(id = "what", required = true, multiple = false)]
pub struct What {
    /// The match that was made.
    #[arg(long = "match", value_name = "ID")]
    of_match: Option<Uuid>,
    /// The search: each recorded step that looked for a driver for it.
    #[arg(long, value_name = "ID")]
    request: Option<Uuid>,
}

#[derive(Debug, Clone, Args)]
pub struct Explain {
    #[command(flatten)]
    pub what: What,
    /// For people or for programs.
    #[arg(long, default_value = "table")]
    pub format: Format,
}

pub(super) async fn run(store: &Store<Tables>, asked: &Explain) -> Result<ExitCode> {
    let target = match (asked.what.of_match, asked.what.request) {
        (Some(id), _) => Target::Match(MatchId(id)),
        (None, Some(id)) => Target::Request(RequestId(id)),
        (None, None) => anyhow::bail!("--match or --request is needed"),
    };
    let explanation = query::explain(store, target).await?;
    match asked.format {
        Format::Table => out!("{}", table(&explanation))?,
        Format::Json => outln!("{}", serde_json::to_string_pretty(&explanation)?)?,
    }
    Ok(if explanation.reproduced { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn table(explanation: &Explanation) -> String {
    let Explanation { reproduced, reason, decisions, left_out } = explanation;
    let mut text = match reason {
        Some(reason) => format!("reproduced: {reproduced}, {reason}\n"),
        None => format!("reproduced: {reproduced}\n"),
    };
    for decision in decisions {
        text += &format!("\n{}\n", head(decision));
        text += &format!("  {:<36} {:>10} {:>6}  why\n", "driver", "distance m", "ETA s");
        for candidate in &decision.candidates {
            let Candidate { driver_id, distance_m, eta_s, why, .. } = candidate;
            text += &format!("  {driver_id} {distance_m:>10.0} {eta_s:>6.0}  {}\n", why_text(why));
        }
        match decision.left_out {
            0 if decision.candidates.is_empty() => text += "  nobody is near\n",
            0 => {}
            more => text += &format!("  and {more} farther ones\n"),
        }
    }
    if *left_out > 0 {
        text += &format!("\n{left_out} decisions are left out\n");
    }
    text
}

fn head(d: &Explained) -> String {
    let outcome = match (d.outcome, d.match_id) {
        (Outcome::Offered, Some(id)) => format!("offered as match {id}"),
        (Outcome::Offered, None) => "chosen, and not offered: one of them was taken in the same step".to_owned(),
        (Outcome::HeldBack, _) => "held back, although drivers are free".to_owned(),
        (Outcome::Resting, _) => "resting: moved too often, or just gone on".to_owned(),
        (Outcome::AwaitingRoads, _) => "waits for road times".to_owned(),
        (Outcome::NoDriver, _) => "no driver is free".to_owned(),
    };
    format!(
        "{} request {} ({}, waited {:.1} s): {outcome}\n  policy {}, window {} ms, radius {:.0} m, market {}, rules {}, {} others wait, step {}/{}",
        rfc3339::text(&d.at),
        d.request_id,
        d.vehicle_type.as_str(),
        d.waited_s,
        d.policy,
        d.window_ms,
        d.radius_m,
        d.market_id,
        d.rules_version,
        d.others_waiting,
        d.term,
        d.step,
    )
}

fn why_text(why: &Why) -> String {
    match why {
        Why::Offered => "OFFERED".to_owned(),
        Why::CostsMore => "free, but the pairs together cost more with this one".to_owned(),
        Why::OfferedAnother { request_id } => format!("offered request {request_id} in the same step"),
        Why::AskedBefore => "declined or missed it before: after all others".to_owned(),
        Why::Declined { until } => format!("declined it: not before {}", rfc3339::text(until)),
        Why::Missed { times, until } => format!("missed it {times} times: not before {}", rfc3339::text(until)),
        Why::CancelledRide => "cancelled a ride of this passenger".to_owned(),
        Why::InOffer => "has an open offer".to_owned(),
        Why::InRide { free_in_s: Some(s), may_be_waited_for: true } => {
            format!("in a ride, free in {s} s: may be waited for")
        }
        Why::InRide { free_in_s: Some(s), .. } => format!("in a ride, free in {s} s"),
        Why::InRide { free_in_s: None, .. } => "in a ride".to_owned(),
        Why::OffDuty => "off duty".to_owned(),
        Why::OtherVehicle => "another type of vehicle".to_owned(),
        Why::OtherMarket => "in another market".to_owned(),
        Why::OutsideRadius => "outside the radius".to_owned(),
        Why::NoRoad => "free, but no road leads from there".to_owned(),
        Why::IsPassenger => "is the passenger".to_owned(),
    }
}
