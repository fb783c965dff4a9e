//! A line on standard error that shows how far a long command has got.

use std::io::IsTerminal;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::output::{note, noteln};

/// How often a line is written to a log, and how often it is replaced on a terminal.
const LOG_INTERVAL: Duration = Duration::from_secs(5);
const TERMINAL_INTERVAL: Duration = Duration::from_millis(500);

/// Writes the line until it is stopped.
pub(crate) struct ProgressLine(JoinHandle<()>);

impl ProgressLine {
    pub(crate) fn start(text: impl Fn() -> String + Send + 'static) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        Self(tokio::spawn(async move {
            loop {
                tokio::time::sleep(if is_terminal { TERMINAL_INTERVAL } else { LOG_INTERVAL }).await;
                // On a terminal each line replaces the one before.
                if is_terminal {
                    note(format_args!("\r\x1b[K{}", text()));
                } else {
                    noteln!("{}", text());
                }
            }
        }))
    }

    pub(crate) fn stop(self) {
        self.0.abort();
        if std::io::stderr().is_terminal() {
            note(format_args!("\r\x1b[K"));
        }
    }
}
