//! The trace of the newest observation in each bucket of a histogram, and the metrics with them in the format of OpenMetrics 1.0.
//! Prometheus' own format has no place for them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use prometheus::proto::{Metric, MetricFamily, MetricType};
use prometheus::{HistogramOpts, HistogramVec, Registry};

use crate::registry::registered;
use crate::world::Trace;

/// Series with exemplars: the histograms by the values of their labels. More have none. Of each there is one for each bucket.
const SERIES_MAX: usize = 2_048;

#[derive(Debug, Clone, PartialEq)]
struct Exemplar {
    trace_id: String,
    span_id: String,
    value: f64,
    at: DateTime<Utc>,
}

/// By the bucket: the bits of its upper bound.
type ByBucket = BTreeMap<u64, Exemplar>;
/// By the family's name, and then by the values of its labels in the order of their names.
type ByFamily = BTreeMap<&'static str, BTreeMap<Vec<String>, ByBucket>>;

/// Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Exemplars(Arc<Mutex<ByFamily>>);

/// A histogram that stores exemplars.
#[derive(Debug)]
pub struct TracedHistogram {
    family: &'static str,
    histogram: HistogramVec,
    bounds: Vec<f64>,
    /// Where each label is in the order of the labels' names.
    by_name: Vec<usize>,
    exemplars: Exemplars,
}

impl TracedHistogram {
    pub(crate) fn new(
        registry: &Registry,
        exemplars: &Exemplars,
        (family, help): (&'static str, &str),
        labels: &[&str],
        bounds: &[f64],
    ) -> Self {
        let options = HistogramOpts::new(family, help).buckets(bounds.to_vec());
        let histogram = registered(registry, HistogramVec::new(options, labels));
        let mut by_name: Vec<usize> = (0..labels.len()).collect();
        by_name.sort_by_key(|index| labels[*index]);
        Self { family, histogram, bounds: bounds.to_vec(), by_name, exemplars: exemplars.clone() }
    }

    /// Observes a value, and in which span and when it was, if spans are recorded.
    pub fn observe(&self, labels: &[&str], value: f64, of: Option<(&Trace, DateTime<Utc>)>) {
        self.histogram.with_label_values(labels).observe(value);
        let Some((trace, at)) = of.filter(|(trace, _)| trace.is_sampled() && value.is_finite()) else { return };
        let labels = self.by_name.iter().map(|index| labels[*index].to_owned()).collect();
        let bound = self.bounds.iter().copied().find(|bound| value <= *bound).unwrap_or(f64::INFINITY);
        self.exemplars.put(self.family, labels, bound, (trace, value, at));
    }
}

impl Exemplars {
    fn put(&self, family: &'static str, labels: Vec<String>, bound: f64, of: (&Trace, f64, DateTime<Utc>)) {
        let (trace, value, at) = of;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = all.get(family).is_some_and(|series| series.contains_key(&labels));
        if !is_known && all.values().map(BTreeMap::len).sum::<usize>() >= SERIES_MAX {
            return;
        }
        let (trace_id, span_id) = (trace.trace_id().to_owned(), trace.span_id().to_owned());
        let of_series = all.entry(family).or_default().entry(labels).or_default();
        of_series.insert(bound.to_bits(), Exemplar { trace_id, span_id, value, at });
    }

    /// A copy of those of one series: whoever observes waits for no scrape.
    fn of_series(&self, family: &str, metric: &Metric) -> ByBucket {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(of_family) = all.get(family) else { return ByBucket::new() };
        let labels: Vec<String> = metric.get_label().iter().map(|label| label.value().to_owned()).collect();
        of_family.get(&labels).cloned().unwrap_or_default()
    }

    /// The families in the format of OpenMetrics.
    pub(crate) fn text(&self, families: &[MetricFamily]) -> String {
        let mut text = String::new();
        for family in families {
            self.write_family(&mut text, family).expect("a text takes everything");
        }
        text.push_str("# EOF\n");
        text
    }

    fn write_family(&self, text: &mut String, family: &MetricFamily) -> std::fmt::Result {
        let name = family.name();
        let (base, kind) = match family.get_field_type() {
            MetricType::COUNTER => (name.strip_suffix("_total").unwrap_or(name), "counter"),
            MetricType::GAUGE => (name, "gauge"),
            MetricType::HISTOGRAM => (name, "histogram"),
            MetricType::SUMMARY | MetricType::UNTYPED => return Ok(()),
        };
        writeln!(text, "# TYPE {base} {kind}")?;
        writeln!(text, "# HELP {base} {}", escaped(family.help()))?;
        for metric in family.get_metric() {
            let labels = labels(metric);
            match kind {
                "counter" => {
                    writeln!(text, "{base}_total{} {}", braces(&labels), number(metric.get_counter().get_value()))?;
                }
                "gauge" => writeln!(text, "{name}{} {}", braces(&labels), number(metric.get_gauge().get_value()))?,
                _ => self.write_histogram(text, name, metric, &labels)?,
            }
        }
        Ok(())
    }

    fn write_histogram(&self, text: &mut String, name: &str, metric: &Metric, labels: &str) -> std::fmt::Result {
        let histogram = metric.get_histogram();
        let exemplars = self.of_series(name, metric);
        let buckets = histogram.get_bucket().iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
        let last = (f64::INFINITY, histogram.get_sample_count());
        for (bound, count) in buckets.filter(|(bound, _)| bound.is_finite()).chain([last]) {
            let comma = if labels.is_empty() { "" } else { "," };
            write!(text, "{name}_bucket{{{labels}{comma}le=\"{}\"}} {count}", number(bound))?;
            if let Some(Exemplar { trace_id, span_id, value, at }) = exemplars.get(&bound.to_bits()) {
                let at_s = at.timestamp_micros() as f64 / 1e6;
                write!(text, " # {{trace_id=\"{trace_id}\",span_id=\"{span_id}\"}} {} {at_s:.6}", number(*value))?;
            }
            text.push('\n');
        }
        writeln!(text, "{name}_count{} {}", braces(labels), histogram.get_sample_count())?;
        writeln!(text, "{name}_sum{} {}", braces(labels), number(histogram.get_sample_sum()))
    }
}

fn labels(metric: &Metric) -> String {
    let pairs = metric.get_label().iter().map(|label| format!("{}=\"{}\"", label.name(), escaped(label.value())));
    pairs.collect::<Vec<_>>().join(",")
}

fn braces(labels: &str) -> String {
    if labels.is_empty() { String::new() } else { format!("{{{labels}}}") }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
    } else {
        // With a point, as canonical numbers of `le` have it.
        format!("{value:?}")
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{GaugeVec, IntCounter, Opts};

    use super::*;
    use crate::world::World;

    #[test]
    fn a_histogram_has_the_newest_trace_of_each_bucket() {
        let registry = Registry::new();
        let exemplars = Exemplars::default();
        let name = ("a_seconds", "Says \"a\".");
        let histogram = TracedHistogram::new(&registry, &exemplars, name, &["z", "b"], &[0.5, 1.0]);
        let (counter, gauge) =
            (IntCounter::new("c_total", "C.").unwrap(), GaugeVec::new(Opts::new("g", "G."), &["x"]).unwrap());
        registry.register(Box::new(counter.clone())).unwrap();
        registry.register(Box::new(gauge.clone())).unwrap();
        counter.inc_by(3);
        gauge.with_label_values(&["a\\b\"c\nd"]).set(f64::INFINITY);
        let world = World::seeded(DateTime::UNIX_EPOCH, 1);
        let trace = Trace::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        for (value, trace) in
            [(0.2, world.trace()), (0.25, trace.clone()), (0.3, world.trace().with_sampled(false)), (7.0, trace)]
        {
            histogram.observe(&["two", "one"], value, Some((&trace, DateTime::UNIX_EPOCH)));
        }
        let text = exemplars.text(&registry.gather());
        let expected = r##"# TYPE a_seconds histogram
# HELP a_seconds Says \"a\".
a_seconds_bucket{b="one",z="two",le="0.5"} 3 # {trace_id="4bf92f3577b34da6a3ce929d0e0e4736",span_id="00f067aa0ba902b7"} 0.25 0.000000
a_seconds_bucket{b="one",z="two",le="1.0"} 3
a_seconds_bucket{b="one",z="two",le="+Inf"} 4 # {trace_id="4bf92f3577b34da6a3ce929d0e0e4736",span_id="00f067aa0ba902b7"} 7.0 0.000000
a_seconds_count{b="one",z="two"} 4
a_seconds_sum{b="one",z="two"} 7.75
# TYPE c counter
# HELP c C.
c_total 3.0
# TYPE g gauge
# HELP g G.
g{x="a\\b\"c\nd"} +Inf
# EOF
"##;
        assert_eq!(text, expected);
    }

    #[test]
    fn each_series_of_each_family_has_its_own_and_no_more_than_the_bound_are_stored() {
        let (registry, exemplars, world) =
            (Registry::new(), Exemplars::default(), World::seeded(DateTime::UNIX_EPOCH, 1));
        let traced = |name| TracedHistogram::new(&registry, &exemplars, (name, "H."), &["series"], &[0.5]);
        let (one, two) = (traced("one_seconds"), traced("two_seconds"));
        let untraced = registered(
            &registry,
            HistogramVec::new(HistogramOpts::new("untraced_seconds", "H.").buckets(vec![0.5]), &["series"]),
        );
        let traces: Vec<Trace> = (0..SERIES_MAX + 10).map(|_| world.trace().with_sampled(true)).collect();
        for (n, trace) in traces.iter().enumerate() {
            let histogram = if n % 2 == 0 { &one } else { &two };
            histogram.observe(&[&n.to_string()], 0.1, Some((trace, DateTime::UNIX_EPOCH)));
            untraced.with_label_values(&[&n.to_string()]).observe(0.1);
        }
        let text = exemplars.text(&registry.gather());
        let mut stored = 0;
        for line in text.lines() {
            let Some((series, exemplar)) = line.split_once(" # ") else { continue };
            let n: usize = series.split('"').nth(1).unwrap().parse().unwrap();
            let family = if n.is_multiple_of(2) { "one_seconds" } else { "two_seconds" };
            assert!(series.starts_with(family) && exemplar.contains(traces[n].trace_id()), "{line}");
            stored += 1;
        }
        assert_eq!(stored, SERIES_MAX);
    }
}
