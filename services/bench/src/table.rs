//! The table of what was measured.

/// One line of the table.
pub(crate) struct Row {
    name: String,
    reached: String,
    mark: &'static str,
    raw: String,
}

pub(crate) fn row(name: impl Into<String>, reached: String, mark: &'static str, raw: impl Into<String>) -> Row {
    Row { name: name.into(), reached, mark, raw: raw.into() }
}

pub(crate) fn print(rows: &[Row]) {
    let head = row("measurement", "reached".to_owned(), "mark", "ratio to the raw bus");
    for row in std::iter::once(&head).chain(rows) {
        println!("{:<62} {:>34}   {:<26} {}", row.name, row.reached, row.mark, row.raw);
    }
}

/// The 50th and the 99th percentile.
pub(crate) fn percentiles(values: &mut [f64]) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let at =
        |part: f64| values.get(((values.len() as f64 * part) as usize).min(values.len().saturating_sub(1))).copied();
    (at(0.50).unwrap_or(f64::NAN), at(0.99).unwrap_or(f64::NAN))
}
