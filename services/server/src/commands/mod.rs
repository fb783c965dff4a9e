//! The commands of the program: in each file the arguments of a command and what it does. None knows another.

pub mod audit;
pub mod dead_letters;
mod progress;
pub mod run;
pub mod simulate;
pub mod sos;
pub mod streams;
