//! Cells of about one size at every latitude: each band of latitude has as many columns as fit on its circle. So neither the antimeridian
//! nor a pole is an edge. Pure.

use streams::Position;

/// Metres in one degree of latitude on the mean sphere of [`Position::distance_m`].
pub(crate) const DEGREE_M: f64 = 6_371_008.8 * std::f64::consts::PI / 180.0;
/// Widens the searched area against rounding errors, by about 0.1 mm.
const MARGIN_DEG: f64 = 1e-9;

/// The cells of one size.
#[derive(Debug, Clone, Copy)]
pub struct Cells {
    cell_deg: f64,
    /// Bands of latitude from pole to pole.
    rows: i64,
}

/// Row and column packed into one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell(u64);

impl Cell {
    pub(crate) fn new(row: i64, column: i64) -> Self {
        // Both are less than 2^32, for cells of a centimetre and more.
        Self(row.unsigned_abs() << 32 | column.unsigned_abs())
    }

    /// The same for the same cell in every process.
    pub fn key(self) -> u64 {
        self.0
    }
}

impl Cells {
    /// Cells with an edge of so many metres.
    pub const fn of_size(metres: f64) -> Self {
        let cell_deg = metres / DEGREE_M;
        Self { cell_deg, rows: (180.0 / cell_deg) as i64 + 1 }
    }

    pub fn at(&self, position: Position) -> Cell {
        let row = self.row_of(position.lat);
        let columns = self.columns_of(row);
        let column = ((position.lng + 180.0) / 360.0 * columns as f64).floor() as i64;
        // 180° east and 180° west are one meridian.
        Cell::new(row, column.rem_euclid(columns))
    }

    /// The cells that a circle touches, and perhaps some beside them.
    pub fn around(&self, center: Position, reach_m: f64) -> impl Iterator<Item = Cell> {
        let area = Area::around(*self, center, reach_m);
        (area.rows.0..=area.rows.1).flat_map(move |row| {
            let (first, count, columns) = area.columns(row);
            (0..count).map(move |step| Cell::new(row, (first + step).rem_euclid(columns)))
        })
    }

    fn row_of(&self, lat: f64) -> i64 {
        (((lat + 90.0) / self.cell_deg) as i64).clamp(0, self.rows - 1)
    }

    /// How many columns fit on the circle of latitude in the middle of `row`.
    fn columns_of(&self, row: i64) -> i64 {
        let middle = (row as f64 + 0.5) * self.cell_deg - 90.0;
        ((360.0 * middle.to_radians().cos() / self.cell_deg) as i64).max(1)
    }
}

/// Rows and a span of longitude that contain every point of a circle.
pub(crate) struct Area {
    cells: Cells,
    pub(crate) rows: (i64, i64),
    lng: f64,
    /// To each side of `lng`; `None` if the circle contains a pole, and with it all longitudes.
    reach_lng: Option<f64>,
}

impl Area {
    pub(crate) fn around(cells: Cells, center: Position, reach_m: f64) -> Self {
        let reach = reach_m / DEGREE_M + MARGIN_DEG;
        let rows = (cells.row_of((center.lat - reach).max(-90.0)), cells.row_of((center.lat + reach).min(90.0)));
        let holds_pole = center.lat.abs() + reach >= 90.0;
        // On a sphere, a circle is widest at a latitude that is nearer to the pole than its centre.
        let reach_lng = (!holds_pole)
            .then(|| (reach.to_radians().sin() / center.lat.to_radians().cos()).asin().to_degrees() + MARGIN_DEG);
        Self { cells, rows, lng: center.lng, reach_lng: reach_lng.filter(|r| r.is_finite()) }
    }

    /// Approximate number of cells.
    pub(crate) fn len(&self) -> f64 {
        let rows = (self.rows.1 - self.rows.0 + 1) as f64;
        let widest = self.columns(self.rows.0).1.max(self.columns(self.rows.1).1);
        rows * widest as f64
    }

    /// The first column in `row` (it may be negative; the caller wraps it), how many to search, and how many the row has.
    pub(crate) fn columns(&self, row: i64) -> (i64, i64, i64) {
        let columns = self.cells.columns_of(row);
        let Some(reach) = self.reach_lng else { return (0, columns, columns) };
        let column = |lng: f64| ((lng + 180.0) / 360.0 * columns as f64).floor() as i64;
        let (first, last) = (column(self.lng - reach), column(self.lng + reach));
        (first, (last - first + 1).min(columns), columns)
    }
}
