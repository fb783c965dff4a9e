//! The live progress on stderr: one line that is rewritten on a terminal, else a line every 5 s. It owns the terminal's
//! line and only reads the city.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::time::Instant;

use crate::city::{City, Phase};
use crate::statistics::Count;

const LINE_EVERY: Duration = Duration::from_secs(5);

/// The line.
#[derive(Debug)]
pub(crate) struct Progress {
    terminal: bool,
    start: Instant,
    line_at: Instant,
}

impl Progress {
    /// None if none is wanted.
    pub(crate) fn new(wanted: bool, start: Instant) -> Option<Self> {
        wanted.then(|| Self { terminal: std::io::stderr().is_terminal(), start, line_at: start })
    }

    /// Shows how far the city is.
    pub(crate) fn show(&mut self, city: &City, now: Instant) {
        if !self.terminal {
            if now < self.line_at {
                return;
            }
            self.line_at = now + LINE_EVERY;
        }
        let line = self.line(city, now);
        let mut stderr = std::io::stderr().lock();
        // A stderr that is closed is no reason to stop.
        let _ = if self.terminal { write!(stderr, "\r\x1b[2K{line}") } else { writeln!(stderr, "{line}") };
        let _ = stderr.flush();
    }

    /// Ends the line.
    pub(crate) fn end(&mut self, city: &City, now: Instant) {
        self.line_at = now;
        self.show(city, now);
        if self.terminal {
            let _ = writeln!(std::io::stderr());
        }
    }

    fn line(&self, city: &City, now: Instant) -> String {
        let phase = match city.phase() {
            Phase::Open => "",
            Phase::Closing => " · closing",
            Phase::Over => " · over",
        };
        let violations = city.checks().count();
        let tally = city.tally();
        format!(
            "{:>4} s · rides {}/{} · riding {} · searching {} · drivers {} · cancelled {} · events {} · reconnects {} · \
             violations {violations}{phase}",
            now.duration_since(self.start).as_secs(),
            tally.count(Count::Completed),
            city.config.rides,
            city.riding.value(),
            city.busy.value() - city.riding.value(),
            city.online.value(),
            tally.count(Count::Cancelled),
            tally.count(Count::Events),
            tally.count(Count::Reconnects),
        )
    }
}
