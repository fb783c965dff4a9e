//! The registration of a metric.

use prometheus::Registry;

/// Registers a metric of the program, whose name is valid and its own.
pub(crate) fn registered<M: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<M>,
) -> M {
    let metric = metric.expect("metric names are valid");
    registry.register(Box::new(metric.clone())).expect("metric names are distinct");
    metric
}
