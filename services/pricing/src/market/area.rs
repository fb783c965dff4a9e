//! An area of the earth: polygons with holes, in degrees. Edges are straight in longitude and latitude, as RFC 7946 has it; a ring may
//! cross the antimeridian, also one whose longitudes jump from 180 to −180.

use geo::{Area as _, BoundingRect, Intersects, LineString, Point, Polygon, Rect};
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
            let mut rings = rings.iter().map(|ring| unwrapped(ring));
            let Some(outer) = rings.next() else { return Err("has a polygon without a ring".to_owned()) };
            let outer = outer?;
            let middle = outer.0[0].x;
            let mut holes = rings.collect::<Result<Vec<_>, _>>()?;
            for hole in &mut holes {
                // A hole of a polygon across the antimeridian is written on either side of it.
                let turns = ((middle - hole.0[0].x) / 360.0).round() * 360.0;
                hole.0.iter_mut().for_each(|corner| corner.x += turns);
            }
            let polygon = Polygon::new(outer, holes);
            if polygon.unsigned_area() == 0.0 {
                return Err("has a polygon of no area".to_owned());
            }
            let bounds = polygon.bounding_rect().ok_or("has a polygon without corners")?;
            area.push((bounds, polygon));
        }
        if area.is_empty() {
            return Err("has no polygon".to_owned());
        }
        Ok(Self(area))
    }

    /// Whether it contains the place, borders included.
    pub(super) fn contains(&self, place: &Position) -> bool {
        self.0.iter().any(|(bounds, polygon)| {
            [0.0, 360.0, -360.0].into_iter().any(|turn| {
                let point = Point::new(place.lng + turn, place.lat);
                bounds.intersects(&point) && polygon.intersects(&point)
            })
        })
    }
}

/// A ring whose longitudes do not jump.
fn unwrapped(ring: &[[f64; 2]]) -> Result<LineString, String> {
    if ring.len() < 4 || ring.first() != ring.last() {
        return Err("has a ring that is not closed: four corners or more are needed, the last as the first".to_owned());
    }
    let mut turn = 0.0;
    let mut corners = Vec::with_capacity(ring.len());
    for (n, &[lng, lat]) in ring.iter().enumerate() {
        if !(Position { lat, lng }).is_valid() {
            return Err(format!("has the corner [{lng}, {lat}]: longitude and latitude in degrees are needed"));
        }
        if let Some(before) = n.checked_sub(1).map(|n| ring[n][0]) {
            let step = lng - before;
            if (180.0..270.0).contains(&step.abs()) || step.abs() == 360.0 {
                let hint = "add a corner, or cut the area at the antimeridian";
                return Err(format!("has an edge of more than 180° of longitude, from {before} to {lng}: {hint}"));
            }
            if step.abs() >= 270.0 {
                turn -= 360.0 * step.signum();
            }
        }
        corners.push((lng + turn, lat));
    }
    if turn != 0.0 {
        return Err("has a ring around a pole: cut it at the antimeridian".to_owned());
    }
    Ok(LineString::from(corners))
}
