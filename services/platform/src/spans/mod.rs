//! Traces for OpenTelemetry: what each part of the program did for one ride, over all services. Off unless an exporter is set; then
//! nothing here costs more than a look at an `Option`.
//!
//! The ids travel as W3C `traceparent` with every message, whether spans are recorded or not (`world.rs`). A span is recorded when it
//! has ended: it goes into a bounded queue, and is dropped and counted if there is no room. Nobody ever waits for the exporter.

mod current;
mod export;
mod otlp;
mod recorder;
mod sampling;
mod span;

pub use current::{current, within};
pub use export::{Exporter, ExporterConfig, Protocol};
pub use otlp::Resource;
pub use recorder::{LINKS_MAX, Spans};
pub use sampling::Sampler;
pub use span::{Attribute, Span, SpanKind};
