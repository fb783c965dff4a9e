//! The program: settings, start-up and shutdown, HTTP, and the commands. It decides nothing about users, matches, rides or
//! positions, and has no table.

#![allow(rustdoc::bare_urls, reason = "the doc comments of settings are the texts of --help")]

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
pub mod push_settings;
pub mod settings;
pub mod stream_sizes;
