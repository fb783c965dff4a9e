//! Standard output and standard error of the commands: what they print goes through here.
//!
//! Whoever reads it may go away before the end, as `head` does. That is an ordinary end of the output: the rest of it is dropped, and the command
//! goes on to its own status. So a command that changes something is not cut off in the middle.

use std::fmt::Arguments;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

static HAS_READER: AtomicBool = AtomicBool::new(true);

/// Whether somebody still reads standard output. A command that has nothing else to do may end if not.
pub(crate) fn has_reader() -> bool {
    HAS_READER.load(Ordering::Relaxed)
}

/// Standard output, as long as it is read; what is written later is dropped.
#[derive(Debug)]
pub(crate) struct Output;

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = if has_reader() { io::stdout().write(bytes) } else { Ok(bytes.len()) };
        unless_closed(written, bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = if has_reader() { io::stdout().flush() } else { Ok(()) };
        unless_closed(flushed, ())
    }
}

/// `done`, or `dropped` if nobody reads any more.
fn unless_closed<T>(done: io::Result<T>, dropped: T) -> io::Result<T> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            HAS_READER.store(false, Ordering::Relaxed);
            Ok(dropped)
        }
        done => done,
    }
}

/// Writes to standard output.
///
/// # Errors
/// It cannot be written, for another reason than that nobody reads it.
pub(crate) fn print(text: Arguments<'_>) -> Result<()> {
    // With what a line leaves in the buffer: at exit it would be lost without a word.
    Output.write_fmt(text).and_then(|()| Output.flush()).context("standard output cannot be written")
}

/// Writes to standard error; if that cannot be written, nobody is left who could be informed.
pub fn note(text: Arguments<'_>) {
    let _ = io::stderr().lock().write_fmt(text);
}

/// `print!`, with an error instead of a panic; see [`print`].
macro_rules! out {
    ($($text:tt)*) => { $crate::output::print(format_args!($($text)*)) };
}

/// `println!`, with an error instead of a panic; see [`print`].
macro_rules! outln {
    ($($text:tt)*) => { $crate::output::print(format_args!("{}\n", format_args!($($text)*))) };
}

/// `eprintln!`, without a panic; see [`note`].
macro_rules! noteln {
    ($($text:tt)*) => { $crate::output::note(format_args!("{}\n", format_args!($($text)*))) };
}

pub(crate) use {noteln, out, outln};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_who_has_gone_is_no_error_and_a_full_disk_is() {
        let full = unless_closed(Err(io::ErrorKind::StorageFull.into()), 3_usize);
        assert_eq!(full.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(unless_closed(Ok(2), 3).unwrap() == 2 && has_reader());
        assert_eq!(unless_closed(Err(io::ErrorKind::BrokenPipe.into()), 3).unwrap(), 3);
        assert!(!has_reader());
        // What comes later is dropped.
        print(format_args!("dropped")).unwrap();
    }
}
