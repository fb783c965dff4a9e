//! The same seed gives the same transcript.
