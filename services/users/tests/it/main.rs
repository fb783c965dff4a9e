//! The tests of the users service against both stores.

#![allow(clippy::unwrap_used)]

mod accounts;
mod app;
mod auth;
mod client;
mod codes;
mod commands;
mod deletion;
mod devices;
mod drivers;
mod ends_of_searches;
mod joint_searches;
mod limits;
mod live_lane;
mod logs;
mod mailboxes;
mod markets;
mod off_duty;
mod offers_in_order;
mod phone_change;
mod pods;
mod positions;
mod push;
mod push_platforms;
mod races;
mod sign_ins;
mod sockets;
mod state;
mod suspensions;
mod websocket;
