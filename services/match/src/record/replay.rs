//! Runs a record again: the same engine, the same inputs. Pure.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use streams::MatchId;

use super::codec::Names;
use super::encoding::{RecordedStep, decode_snapshot, decode_step, output_hash};
use super::{Entry, Kind, RulesVersion};
use crate::engine::assign::Assignment;
use crate::engine::road_times::RoadTimes;
use crate::engine::{Decision, Engine, Input, Rules, StepOutput, step_observed};
use crate::positions::DriverPositions;

/// The rules by version, as they are stored beside the record.
pub type RulesByVersion = BTreeMap<RulesVersion, Rules>;

/// A chain that is run again.
#[derive(Debug, Clone)]
pub struct Replay {
    pub engine: Engine,
    pub positions: DriverPositions,
    names: Names,
    /// Of the newest entry.
    at: (i64, i64),
}

/// A step that was run again.
#[derive(Debug)]
pub struct Replayed {
    pub step: RecordedStep,
    pub output: StepOutput,
    /// Whether the output is the recorded one, bit for bit.
    pub is_same: bool,
}

impl Replay {
    /// From a snapshot.
    ///
    /// # Errors
    /// A sentence that says why not.
    pub fn begin(snapshot: &Entry, rules: &RulesByVersion) -> Result<Self, String> {
        if snapshot.kind != Kind::Snapshot {
            return Err(format!("a {} is no beginning", snapshot.kind.as_str()));
        }
        let mut names = Names::default();
        let decoded = decode_snapshot(&snapshot.bytes, &mut names)?;
        let mut engine = Engine::from_rows(rules_of(rules, decoded.rules_version)?.clone(), decoded.rows);
        engine.expire_not_before(decoded.no_expiry_before);
        engine.set_road_times(RoadTimes::from_rows(decoded.road_times));
        engine.set_elsewhere(decoded.elsewhere);
        let positions = DriverPositions::from_states(decoded.places);
        Ok(Self { engine, positions, names, at: (snapshot.epoch, snapshot.number) })
    }

    /// The next step.
    ///
    /// # Errors
    /// A sentence that says why the chain does not go on here.
    pub fn step(&mut self, entry: &Entry, rules: &RulesByVersion) -> Result<Replayed, String> {
        self.step_observed(entry, rules, &mut |_| {})
    }

    /// As [`Self::step`]; `observe` sees the decision, if there is one to make.
    pub(crate) fn step_observed(
        &mut self,
        entry: &Entry,
        rules: &RulesByVersion,
        observe: &mut dyn FnMut(&Decision<'_>),
    ) -> Result<Replayed, String> {
        let step = self.decode(entry)?;
        self.prepare(&step, rules)?;
        let output = self.run(&step, observe);
        Ok(Replayed { is_same: output_hash(&output) == step.output_hash, step, output })
    }

    /// A step that only ticks, and that is not recorded because it changed nothing.
    pub(crate) fn tick(&mut self, now: DateTime<Utc>, observe: &mut dyn FnMut(&Decision<'_>)) {
        let mut no_id = |_: &Assignment| MatchId(uuid::Uuid::nil());
        step_observed(&mut self.engine, &[Input::Tick], &mut self.positions, now, &mut no_id, observe);
    }

    /// What the next entry says.
    pub(super) fn decode(&mut self, entry: &Entry) -> Result<RecordedStep, String> {
        let (epoch, number) = self.at;
        if (entry.epoch, entry.number) != (epoch, number + 1) {
            return Err(format!("after step {number} of term {epoch} steps are missing in the record"));
        }
        if entry.kind == Kind::Gap {
            return Err(format!("step {} of term {epoch} was too large to be recorded", entry.number));
        }
        self.at = (entry.epoch, entry.number);
        decode_step(&entry.bytes, &mut self.names)
    }

    /// What had changed before the step: rules, and places of drivers.
    pub(super) fn prepare(&mut self, step: &RecordedStep, rules: &RulesByVersion) -> Result<(), String> {
        self.engine.set_rules(rules_of(rules, step.rules_version)?.clone());
        for (driver, summary) in &step.moves {
            self.positions.replay_move(*driver, summary);
        }
        Ok(())
    }

    pub(super) fn run(&mut self, step: &RecordedStep, observe: &mut dyn FnMut(&Decision<'_>)) -> StepOutput {
        let inputs: Vec<Input<'_>> = step.inputs.iter().map(|input| input.as_input()).collect();
        let mut ids = step.match_ids.iter().copied();
        // A replay that draws more ids than were drawn differs, and its output shows it.
        let mut new_match_id = |_: &Assignment| ids.next().unwrap_or(MatchId(uuid::Uuid::nil()));
        step_observed(&mut self.engine, &inputs, &mut self.positions, step.at, &mut new_match_id, observe)
    }
}

fn rules_of(rules: &RulesByVersion, version: RulesVersion) -> Result<&Rules, String> {
    rules.get(&version).ok_or_else(|| format!("the rules of version {version} are not in the record"))
}
