//! Rows on their way into a statement.

/// One field of many rows, to be bound to a parameter of `unnest`; in the order of `rows`.
///
/// ```
/// use platform::store::rows::column;
///
/// let names = column(["a", "b"], |name| name.to_owned());
/// // sqlx::query("insert into t (name) select * from unnest($1::text[])").bind(names)
/// assert_eq!(names, ["a", "b"]);
/// ```
pub fn column<R, V>(rows: impl IntoIterator<Item = R>, field: impl FnMut(R) -> V) -> Vec<V> {
    rows.into_iter().map(field).collect()
}
