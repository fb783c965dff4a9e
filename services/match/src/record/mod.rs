//! The record of the engine: what each step depended on, so that the same engine decides the same again, bit for bit.
//!
//! A record is a chain in the order of a term's steps: a [`Snapshot`] of the engine at its beginning, after each load and every five
//! minutes, then the steps. [`Recorder`] makes the chain, [`Replay`] runs it again, `rows.rs` stores it in the transaction of
//! the step. A step is not recorded if it only ticked and changed nothing: then neither the engine's rows nor what it knows of roads nor the places have changed,
//! and whatever moved meanwhile is part of the next one.

mod codec;
mod encoding;
pub mod explain;
pub mod missed;
pub mod query;
mod replay;
pub mod rows;
mod rules;
pub mod what_if;

use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use geospatial::newest::Summary;
use pricing::market::Markets;
use streams::{MatchId, UserId};

use self::codec::Names;
use self::encoding::StepParts;
pub use self::encoding::{RecordedInput, RecordedStep, Snapshot, output_hash};
pub use self::replay::{Replay, Replayed, RulesByVersion};
pub use self::rules::{RulesVersion, parse as parse_rules, text_of as rules_text};
use crate::engine::{Engine, Input, Rules, StepOutput};
use crate::positions::DriverPositions;

/// A chain begins again after this long, so that a replay is short.
const SNAPSHOT_INTERVAL: Duration = Duration::minutes(5);
/// While passengers wait, moves of drivers are recorded so often at least, although nothing else happens.
const MOVES_INTERVAL: Duration = Duration::seconds(10);
/// The largest step: the moves of half a million drivers. A larger one leaves a gap.
const STEP_BYTES_MAX: usize = 8 << 20;
/// The largest snapshot: some 400,000 drivers. After a larger one nothing is recorded until the next.
const SNAPSHOT_BYTES_MAX: usize = 64 << 20;

/// What an entry of the record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Snapshot,
    Step,
    /// A step that was too large. The chain ends here.
    Gap,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Snapshot, Self::Step, Self::Gap];

    /// The name in `recorded_steps.kind`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Step => "step",
            Self::Gap => "gap",
        }
    }
}

/// One entry of the record.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Of the term.
    pub epoch: i64,
    /// 1, 2, 3 … in a term, without gaps.
    pub number: i64,
    pub kind: Kind,
    pub at: DateTime<Utc>,
    pub rules_version: RulesVersion,
    pub bytes: Arc<[u8]>,
}

/// Records the steps of one term.
#[derive(Debug)]
pub struct Recorder {
    epoch: i64,
    next_number: i64,
    names: Names,
    /// Of the rules in force.
    rules: Option<(Rules, RulesVersion)>,
    /// There is a snapshot, and every step since then.
    has_chain: bool,
    next_snapshot: DateTime<Utc>,
    next_moves: DateTime<Utc>,
    moves_interval: Duration,
}

/// What is to be stored in the transaction of a step.
#[derive(Debug, Default)]
pub struct Recorded {
    /// None, one, or a snapshot and a step.
    pub entries: Vec<Entry>,
    /// The rules, if a chain begins with them or they have changed.
    pub rules: Option<(RulesVersion, String)>,
}

/// A step that is about to be made.
#[derive(Debug)]
pub struct Recording {
    recorded: Recorded,
    moves: Option<Vec<(UserId, Summary)>>,
    is_due: bool,
}

impl Recorder {
    pub fn new(epoch: i64) -> Self {
        Self {
            epoch,
            next_number: 1,
            names: Names::default(),
            rules: None,
            has_chain: false,
            next_snapshot: DateTime::<Utc>::MIN_UTC,
            next_moves: DateTime::<Utc>::MIN_UTC,
            moves_interval: MOVES_INTERVAL,
        }
    }

    /// Records each step at which a driver has moved, for somebody who follows them all.
    pub fn with_all_moves(self) -> Self {
        Self { moves_interval: Duration::zero(), ..self }
    }

    /// The engine was loaded: what was recorded before says nothing of it.
    pub fn begin_again(&mut self) {
        (self.has_chain, self.next_snapshot) = (false, DateTime::<Utc>::MIN_UTC);
    }

    /// Before a step with `inputs`.
    pub fn before(
        &mut self,
        engine: &Engine,
        positions: &mut DriverPositions,
        inputs: &[Input<'_>],
        now: DateTime<Utc>,
    ) -> Recording {
        let only_ticks = inputs.iter().all(|input| matches!(input, Input::Tick));
        let is_snapshot_due = self.next_snapshot <= now && !(self.has_chain && only_ticks);
        let mut recorded = Recorded::default();
        if is_snapshot_due {
            recorded.entries.push(self.snapshot(engine, positions, now));
            recorded.rules = Some(rules_text(engine.rules()));
        }
        let has_due_moves = self.next_moves <= now && positions.has_moves();
        let is_due = self.has_chain && (is_snapshot_due || !only_ticks || has_due_moves);
        // A tick moves nobody, so that what moved before it can be read after it.
        let moves = is_due.then(|| positions.take_moves());
        Recording { recorded, moves, is_due }
    }

    /// After the step. What is returned belongs into its transaction; if that fails, [`Self::begin_again`].
    pub fn after(
        &mut self,
        recording: Recording,
        engine: &Engine,
        positions: &mut DriverPositions,
        inputs: &[Input<'_>],
        now: DateTime<Utc>,
        (match_ids, output): (&[MatchId], &StepOutput),
    ) -> Recorded {
        let Recording { mut recorded, moves, is_due } = recording;
        let rows = &output.rows;
        let has_changed = !(output.events.is_empty()
            && !output.has_other_roads
            && output.handed_over.is_empty()
            && rows.drivers.is_empty()
            && rows.requests.is_empty()
            && rows.offers.is_empty()
            && rows.rides.is_empty());
        if !self.has_chain || !(is_due || has_changed) {
            return recorded;
        }
        let moves = moves.unwrap_or_else(|| positions.take_moves());
        self.next_moves = now + self.moves_interval;
        let before = self.rules.as_ref().map(|(_, version)| *version);
        let rules_version = self.rules_version(engine.rules());
        if before != Some(rules_version) {
            recorded.rules = Some(rules_text(engine.rules()));
        }
        let parts =
            StepParts { at: now, rules_version, moves: &moves, inputs, match_ids, output_hash: output_hash(output) };
        let bytes = encoding::encode_step(&parts, &mut self.names);
        if bytes.len() > STEP_BYTES_MAX {
            self.begin_again();
            recorded.entries.push(self.entry(Kind::Gap, now, rules_version, Vec::new()));
        } else {
            recorded.entries.push(self.entry(Kind::Step, now, rules_version, bytes));
        }
        recorded
    }

    fn snapshot(&mut self, engine: &Engine, positions: &mut DriverPositions, now: DateTime<Utc>) -> Entry {
        self.names = Names::default();
        positions.take_moves();
        let rules_version = self.rules_version(engine.rules());
        let snapshot = Snapshot {
            at: now,
            rules_version,
            no_expiry_before: engine.no_expiry_before(),
            rows: engine.rows(),
            places: positions.states(),
            road_times: engine.road_times().rows(),
            elsewhere: engine.elsewhere().collect(),
        };
        let bytes = encoding::encode_snapshot(&snapshot, &mut self.names);
        self.next_snapshot = now + SNAPSHOT_INTERVAL;
        self.has_chain = bytes.len() <= SNAPSHOT_BYTES_MAX;
        if !self.has_chain {
            return self.entry(Kind::Gap, now, rules_version, Vec::new());
        }
        self.entry(Kind::Snapshot, now, rules_version, bytes)
    }

    fn entry(&mut self, kind: Kind, at: DateTime<Utc>, rules_version: RulesVersion, bytes: Vec<u8>) -> Entry {
        let number = self.next_number;
        self.next_number += 1;
        Entry { epoch: self.epoch, number, kind, at, rules_version, bytes: bytes.into() }
    }

    /// That of the text, which is made again only if the rules have changed.
    fn rules_version(&mut self, rules: &Rules) -> RulesVersion {
        let is_same = |known: &Rules| {
            let Rules {
                offer_ttl, request_ttl, radius_m, radius_max_m, policy, window, speed_mps, roads, zone, ..
            } = *rules;
            let markets = &rules.markets;
            let same_markets = |a: &Arc<Markets>, b: &Arc<Markets>| Arc::ptr_eq(a, b);
            same_markets(&known.markets, markets)
                && (known.offer_ttl, known.request_ttl, known.window) == (offer_ttl, request_ttl, window)
                && (known.radius_m, known.radius_max_m) == (radius_m, radius_max_m)
                && (known.speed_mps, known.policy, known.roads) == (speed_mps, policy, roads)
                && known.zone == zone
        };
        match &self.rules {
            Some((known, version)) if is_same(known) => *version,
            _ => {
                let (version, _) = rules_text(rules);
                self.rules = Some((rules.clone(), version));
                version
            }
        }
    }
}
