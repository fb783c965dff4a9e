//! An area of the earth: polygons with holes, in degrees. Edges are straight in longitude and latitude, as RFC 7946 has it.
//!
//! A ring may cross the antimeridian in three ways: cut there into two polygons, with longitudes beyond 180, or with longitudes that jump from
//! 180 to −180. The third looks like a ring that goes nearly around the earth the other way: see [`outer_ring`].

use geo::{Area as _, BoundingRect, Contains as _, Intersects, LineString, Point, Polygon, Rect};
use serde::{Deserialize, Serialize};
use streams::Position;

/// The corners that an area may have in all: match looks for the market of every waiting request each second.
pub(super) const CORNERS_MAX: usize = 10_000;

/// Polygons of rings of `[longitude, latitude]`.
type Rings = Vec<Vec<Vec<[f64; 2]>>>;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "Rings", try_from = "Rings")]
pub(super) struct Area(Vec<(Rect, Polygon)>);

impl From<Area> for Rings {
    fn from(area: Area) -> Self {
        let ring = |ring: &LineString| ring.0.iter().map(|corner| [corner.x, corner.y]).collect();
        let rings = |(_, polygon): &(Rect, Polygon)| {
            [polygon.exterior()].into_iter().chain(polygon.interiors()).map(ring).collect()
        };
        area.0.iter().map(rings).collect()
    }
}

/// Of the rings of an area, whose longitudes do not jump.
impl TryFrom<Rings> for Area {
    type Error = String;

    fn try_from(rings: Rings) -> Result<Self, String> {
        let line = |ring: Vec<[f64; 2]>| LineString::from_iter(ring.into_iter().map(|[lng, lat]| (lng, lat)));
        let polygon = |rings: Vec<Vec<[f64; 2]>>| {
            let mut lines = rings.into_iter().map(line);
            let polygon = Polygon::new(lines.next().ok_or("a polygon without a ring")?, lines.collect());
            Ok((polygon.bounding_rect().ok_or("a polygon without corners")?, polygon))
        };
        rings.into_iter().map(polygon).collect::<Result<_, String>>().map(Self)
    }
}

impl Area {
    /// From polygons, each of rings of `[longitude, latitude]`: the outer one first, then its holes.
    ///
    /// # Errors
    /// A sentence that says what is wrong with which ring.
    pub(super) fn new(polygons: &[Vec<Vec<[f64; 2]>>]) -> Result<Self, String> {
        let mut area = Vec::new();
        let corners: usize = polygons.iter().flatten().map(Vec::len).sum();
        if corners > CORNERS_MAX {
            return Err(format!("has {corners} corners: {CORNERS_MAX} are allowed"));
        }
        for rings in polygons {
            let Some((outer, holes)) = rings.split_first() else {
                return Err("has a polygon without a ring".to_owned());
            };
            let outer = outer_ring(outer)?;
            let bounds = outer.bounding_rect().ok_or("has a polygon without corners")?;
            let holes = holes.iter().map(|hole| hole_in(hole, &bounds)).collect::<Result<Vec<_>, _>>()?;
            let polygon = Polygon::new(outer, holes);
            if polygon.unsigned_area() == 0.0 {
                return Err("has a polygon of no area".to_owned());
            }
            area.push((bounds, polygon));
        }
        if area.is_empty() {
            return Err("has no polygon".to_owned());
        }
        Ok(Self(area))
    }

    /// Degrees of longitude of its widest polygon.
    pub(super) fn widest(&self) -> f64 {
        self.0.iter().map(|(bounds, _)| bounds.width()).fold(0.0, f64::max)
    }

    /// Whether it contains the place, borders included.
    pub(super) fn contains(&self, place: &Position) -> bool {
        self.0.iter().any(|(bounds, polygon)| {
            [0.0, 360.0, -360.0].into_iter().any(|turn: f64| {
                let point = Point::new(place.lng + turn, place.lat);
                bounds.intersects(&point) && polygon.intersects(&point)
            })
        })
    }
}

/// The ring as its longitudes are written.
fn as_written(ring: &[[f64; 2]]) -> Result<LineString, String> {
    if ring.len() < 4 || ring.first() != ring.last() {
        return Err("has a ring that is not closed: four corners or more are needed, the last as the first".to_owned());
    }
    for &[lng, lat] in ring {
        if !(Position { lat, lng: 0.0 }).is_valid() || !(-360.0..=360.0).contains(&lng) {
            return Err(format!("has the corner [{lng}, {lat}]: longitude and latitude in degrees are needed"));
        }
    }
    let ring = LineString::from_iter(ring.iter().map(|&[lng, lat]| (lng, lat)));
    if ring.bounding_rect().is_some_and(|bounds| bounds.width() > 360.0) {
        return Err("has a ring of more than 360° of longitude".to_owned());
    }
    Ok(ring)
}

/// Whether no longitude of it can be a jump over the antimeridian: one that goes beyond 180° needs none.
fn is_unambiguous(ring: &LineString) -> bool {
    ring.lines().all(|edge| (edge.end.x - edge.start.x).abs() <= 180.0) || ring.0.iter().any(|at| at.x.abs() > 180.0)
}

/// The ring with each edge of more than 180° of longitude as a short one over the antimeridian; `None`: it does not close, because it goes around a
/// pole.
fn across(ring: &LineString) -> Option<LineString> {
    let (mut turn, mut before) = (0.0, None::<f64>);
    let mut corners = Vec::with_capacity(ring.0.len());
    for at in &ring.0 {
        let step = before.map_or(0.0, |before| at.x - before);
        if step.abs() > 180.0 {
            turn -= 360.0 * step.signum();
        }
        before = Some(at.x);
        corners.push((at.x + turn, at.y));
    }
    (turn == 0.0).then(|| LineString::from(corners))
}

/// An outer ring without jumps. Of one with edges of more than 180° there are two readings, over the antimeridian and around the earth, and one goes
/// counterclockwise and the other clockwise: the counterclockwise one counts, as outer rings are by RFC 7946 (3.1.6).
fn outer_ring(ring: &[[f64; 2]]) -> Result<LineString, String> {
    let written = as_written(ring)?;
    if is_unambiguous(&written) {
        return Ok(written);
    }
    let area = |ring: &LineString| Polygon::new(ring.clone(), Vec::new()).signed_area();
    match across(&written) {
        Some(across) if area(&across) > 0.0 => Ok(across),
        None if area(&written) == 0.0 => Err("has a ring around a pole: cut it at the antimeridian".to_owned()),
        _ => Ok(written),
    }
}

/// A hole as it lies within the outer ring: of one across the antimeridian it may be written on either side.
fn hole_in(ring: &[[f64; 2]], outer: &Rect) -> Result<LineString, String> {
    let written = as_written(ring)?;
    let readings = [across(&written).filter(|_| !is_unambiguous(&written)), Some(written.clone())];
    let turned = |ring: &LineString, turn: f64| LineString::from_iter(ring.0.iter().map(|at| (at.x + turn, at.y)));
    let all = readings.iter().flatten().flat_map(|ring| [0.0, 360.0, -360.0].map(|turn| turned(ring, turn)));
    let is_within = |ring: &LineString| ring.bounding_rect().is_some_and(|hole| outer.contains(&hole));
    Ok(all.into_iter().find(is_within).unwrap_or(written))
}
