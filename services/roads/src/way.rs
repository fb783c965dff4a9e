//! Ways, and what is known of them.

use streams::Position;

/// Of a cell, degrees: 55 m from south to north. What is known of one way holds for all between the same two cells.
const CELL_DEG: f64 = 0.0005;

/// A way by road, from where a driver or a passenger is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Leg {
    pub distance_m: f64,
    pub duration_s: f64,
}

/// What the server says of a way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Road {
    Leg(Leg),
    /// No road leads there.
    None,
}

/// From one place to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Way {
    pub from: Position,
    pub to: Position,
}

/// The cells of a way's ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WayKey {
    from: (i32, i32),
    to: (i32, i32),
}

impl WayKey {
    /// The numbers of the cells, for whoever stores a key.
    pub const fn cells(&self) -> [i32; 4] {
        [self.from.0, self.from.1, self.to.0, self.to.1]
    }

    /// Of [`Self::cells`].
    pub const fn of_cells(cells: [i32; 4]) -> Self {
        Self { from: (cells[0], cells[1]), to: (cells[2], cells[3]) }
    }

    pub(crate) fn has_destination_of(&self, other: &Self) -> bool {
        self.to == other.to
    }
}

impl Way {
    pub fn key(&self) -> WayKey {
        WayKey { from: cell(&self.from), to: cell(&self.to) }
    }
}

fn cell(place: &Position) -> (i32, i32) {
    ((place.lat / CELL_DEG).floor() as i32, (place.lng / CELL_DEG).floor() as i32)
}
