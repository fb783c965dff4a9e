//! rides
