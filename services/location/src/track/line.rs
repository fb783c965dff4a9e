//! Which fixes can be on one track: a GPS jump cannot. Pure.
//!
//! A fix can follow another if the maximum speed suffices to get there. This relation is transitive: if b can follow a, and
//! c can follow b, then c can follow a. So a track is a *line*: a sequence in which each fix can follow the one before. The
//! track is the line with the most fixes; of lines with equally many, the shorter one, so that nobody pays for a doubt. A
//! single bad fix loses against the good fixes around it, even if it is the first one, or if a long silence before it made
//! it possible.
//!
//! Sometimes a line cannot follow any earlier fix, because the device itself jumped: its clock was corrected, or its position
//! was wrong for long. Such a line continues the best line once it has [`CONFIRMED`] fixes. The gap between the two
//! adds no distance: nobody can have driven it. A silence that can have been driven through, as in a tunnel, adds its straight
//! line.

use super::fix::Fix;

/// After a jump, this many fixes must agree with each other before their line continues the best one.
const CONFIRMED: usize = 3;
/// How many lines are candidates beside the best one. Fewer bad fixes in a row than this are left out without a gap, even if
/// they agree with each other.
const RECENT_LINES: usize = 8;

/// A line by its newest fix.
#[derive(Debug, Clone, Copy)]
struct Line {
    /// The line without its newest fix; `None` if it began with it.
    previous: Option<usize>,
    /// The line that this one continues once it is confirmed.
    continues: Option<usize>,
    /// Since the line began.
    fixes: usize,
    length_m: f64,
    /// Of the line that this one continues.
    earlier_fixes: usize,
    earlier_m: f64,
}

impl Line {
    fn is_confirmed(&self) -> bool {
        self.fixes >= CONFIRMED
    }

    fn total(&self) -> (usize, f64) {
        if self.is_confirmed() {
            (self.earlier_fixes + self.fixes, self.earlier_m + self.length_m)
        } else {
            (self.fixes, self.length_m)
        }
    }

    fn is_better_than(&self, other: &Self) -> bool {
        let ((fixes, length_m), (other_fixes, other_m)) = (self.total(), other.total());
        fixes > other_fixes || (fixes == other_fixes && length_m < other_m)
    }
}

/// The best line through `fixes`, which are in order of time, in parts: between two parts is a jump.
pub(super) fn best(fixes: &[Fix], max_speed_mps: f64) -> Vec<Vec<Fix>> {
    let mut lines: Vec<Line> = Vec::with_capacity(fixes.len());
    let mut best: Option<usize> = None;
    for at in 0..fixes.len() {
        let line = next(&lines, fixes, at, best, max_speed_mps);
        if best.is_none_or(|best| line.is_better_than(&lines[best])) {
            best = Some(at);
        }
        lines.push(line);
    }
    let (mut parts, mut part) = (Vec::new(), Vec::new());
    while let Some(at) = best {
        part.push(fixes[at]);
        let line = &lines[at];
        best = line.previous;
        if best.is_none() {
            part.reverse();
            let begun = std::mem::take(&mut part);
            if begun.len() >= CONFIRMED {
                best = line.continues;
            }
            parts.push(begun);
        }
    }
    parts.reverse();
    parts
}

fn next(lines: &[Line], fixes: &[Fix], at: usize, best: Option<usize>, max_speed_mps: f64) -> Line {
    let reaches = |from: &usize| {
        let seconds = (fixes[at].recorded_at - fixes[*from].recorded_at).as_seconds_f64();
        fixes[*from].position.distance_m(&fixes[at].position) <= max_speed_mps * seconds
    };
    // The best line has the most fixes: if it can reach the fix, no other line needs to be looked at.
    let from = best.filter(reaches).or_else(|| {
        let recent = (at.saturating_sub(RECENT_LINES)..at).filter(reaches);
        recent.reduce(|a, b| if lines[b].is_better_than(&lines[a]) { b } else { a })
    });
    if let Some(previous) = from {
        let line = &lines[previous];
        let hop_m = fixes[previous].position.distance_m(&fixes[at].position);
        return Line { previous: Some(previous), fixes: line.fixes + 1, length_m: line.length_m + hop_m, ..*line };
    }
    // An unconfirmed line cannot be continued, but the line before it can.
    let continues = best.and_then(|best| if lines[best].is_confirmed() { Some(best) } else { lines[best].continues });
    let (earlier_fixes, earlier_m) = continues.map_or((0, 0.0), |line| lines[line].total());
    Line { previous: None, continues, fixes: 1, length_m: 0.0, earlier_fixes, earlier_m }
}
