//! The program: settings, start-up and shutdown, HTTP, and the commands. It decides nothing about users, matches, rides or
//! positions, and has no table.

#![allow(rustdoc::bare_urls, reason = "the doc comments of settings are the texts of --help")]
#![warn(clippy::print_stdout, clippy::print_stderr, reason = "they panic where nobody reads: see output.rs")]

pub mod admin;
pub mod api;
pub mod app;
pub mod cli;
pub mod commands;
pub mod databases;
pub mod http;
mod lag;
pub mod monitor;
pub mod nats_login;
mod open_files;
pub mod otel_settings;
pub mod output;
pub mod push_settings;
pub mod settings;
pub mod stream_sizes;
