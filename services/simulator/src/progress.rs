//! The progress line on stderr: rewritten in place on a terminal, else a new line every 5 s.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::time::Instant;

use crate::city::{City, Phase};
use crate::statistics::Counter;

const LINE_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Progress {
    terminal: bool,
    start: Instant,
    next_line_at: Instant,
}

impl Progress {
    pub(crate) fn new(start: Instant) -> Self {
        Self { terminal: std::io::stderr().is_terminal(), start, next_line_at: start }
    }

    pub(crate) fn show(&mut self, city: &City, now: Instant) {
        if !self.terminal {
            if now < self.next_line_at {
                return;
            }
            self.next_line_at = now + LINE_INTERVAL;
        }
        let line = self.line(city, now);
        let mut stderr = std::io::stderr().lock();
        // A closed stderr does not stop the run.
        let _ = if self.terminal { write!(stderr, "\r\x1b[2K{line}") } else { writeln!(stderr, "{line}") };
        let _ = stderr.flush();
    }

    /// Shows the last state.
    pub(crate) fn end(&mut self, city: &City, now: Instant) {
        self.next_line_at = now;
        self.show(city, now);
        if self.terminal {
            let _ = writeln!(std::io::stderr());
        }
    }

    fn line(&self, city: &City, now: Instant) -> String {
        let phase = match city.phase() {
            Phase::Open => "",
            Phase::Closing => " | no new searches",
            Phase::Over => " | over",
        };
        let violations = city.checker().violation_count();
        let statistics = city.statistics();
        // Short enough for most terminals: a line that wraps cannot be rewritten.
        format!(
            "{:>4} s | rides: {:>3} completed (goal {}), {:>2} live, {:>2} cancelled | {:>2} searching | {:>5} events | \
             {violations} violations{phase}",
            now.duration_since(self.start).as_secs(),
            statistics.count(Counter::RidesCompleted),
            city.config.rides,
            city.riding.value(),
            statistics.count(Counter::RidesCancelled),
            city.busy.value() - city.riding.value(),
            statistics.count(Counter::EventsReceived),
        )
    }
}
