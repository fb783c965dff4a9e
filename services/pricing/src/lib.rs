//! Markets, their tariffs, and what a ride costs. Pure, in integers. match prices the estimate in an offer, rides prices the fare. The
//! amounts of a tariff are minor units of its currency.

pub mod market;

use serde::{Deserialize, Serialize};
use streams::event::{Fare, FareLine, RideTerms};
use streams::{Currency, Money, Position, VehicleType};

/// What rides in one type of vehicle cost, minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tariff {
    pub currency: Currency,
    pub base: i64,
    pub per_km: i64,
    pub per_minute: i64,
    /// For each minute that the driver waits at the pickup, after the free ones.
    pub wait_per_minute: i64,
    /// The least total, without waiting.
    pub minimum: i64,
    /// The platform's share of the total, basis points (2,000 is 20 %), at most 10,000.
    pub platform_fee_bp: i64,
    /// For a passenger who cancels late.
    pub cancellation: i64,
}

impl Tariff {
    /// This tariff with the amounts that `text` names changed: `key=cents`, separated by commas, as in
    /// `per_km=99, minimum=0`.
    ///
    /// # Errors
    /// A sentence that names the part at fault, and what would be right.
    pub fn changed(mut self, text: &str) -> Result<Self, String> {
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("`{part}` is not of the form key=cents"))?;
            let value: i64 = value
                .trim()
                .parse()
                .ok()
                .filter(|v| (0..=1_000_000).contains(v))
                .ok_or_else(|| format!("`{part}`: a whole number from 0 to 1000000 is needed"))?;
            match key.trim() {
                "base" => self.base = value,
                "per_km" => self.per_km = value,
                "per_minute" => self.per_minute = value,
                "wait_per_minute" => self.wait_per_minute = value,
                "minimum" => self.minimum = value,
                "cancellation" => self.cancellation = value,
                "platform_fee_bp" if value <= 10_000 => self.platform_fee_bp = value,
                "platform_fee_bp" => return Err("platform_fee_bp is at most 10000".to_owned()),
                other => {
                    return Err(format!(
                        "unknown key `{other}`: base, per_km, per_minute, wait_per_minute, minimum, cancellation, platform_fee_bp"
                    ));
                }
            }
        }
        Ok(self)
    }
}

/// How long a driver waits at the pickup, seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingRules {
    /// MATCH_WAIT_FREE_S: this long it costs nothing.
    pub free_s: u32,
    /// NO_SHOW_AFTER_S: after this the driver may give the passenger up, and is paid the cancellation fee.
    pub no_show_after_s: u32,
}

impl Default for WaitingRules {
    fn default() -> Self {
        Self { free_s: 180, no_show_after_s: 300 }
    }
}

/// The tariffs of all vehicle types, and the rules of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tariffs {
    pub car: Tariff,
    pub motorcycle: Tariff,
    pub van: Tariff,
    pub waiting: WaitingRules,
}

impl Default for Tariffs {
    fn default() -> Self {
        let tariff = |base, per_km, per_minute, minimum| Tariff {
            currency: Currency::USD,
            base,
            per_km,
            per_minute,
            wait_per_minute: per_minute,
            minimum,
            platform_fee_bp: 2_000,
            cancellation: 300,
        };
        Self {
            car: tariff(250, 120, 30, 600),
            motorcycle: tariff(150, 80, 20, 400),
            van: tariff(400, 180, 45, 900),
            waiting: WaitingRules::default(),
        }
    }
}

impl Tariffs {
    pub const fn of(&self, vehicle: VehicleType) -> &Tariff {
        match vehicle {
            VehicleType::Car => &self.car,
            VehicleType::Motorcycle => &self.motorcycle,
            VehicleType::Van => &self.van,
        }
    }

    pub(crate) const fn of_mut(&mut self, vehicle: VehicleType) -> &mut Tariff {
        match vehicle {
            VehicleType::Car => &mut self.car,
            VehicleType::Motorcycle => &mut self.motorcycle,
            VehicleType::Van => &mut self.van,
        }
    }

    /// What a ride in such a vehicle costs that begins now, in traffic of this speed; `version` is that of the markets.
    pub fn terms(&self, vehicle: VehicleType, speed_mps: f64, version: &str) -> RideTerms {
        let Tariff { currency, base, per_km, per_minute, wait_per_minute, minimum, platform_fee_bp, cancellation } =
            *self.of(vehicle);
        let WaitingRules { free_s: wait_free_s, no_show_after_s } = self.waiting;
        let version = version.to_owned();
        RideTerms {
            version,
            currency,
            base,
            per_km,
            per_minute,
            wait_per_minute,
            minimum,
            platform_fee_bp,
            cancellation,
            wait_free_s,
            no_show_after_s,
            speed_mm_s: (speed_mps * 1_000.0).round() as u32,
        }
    }
}

/// The tariff of a ride that began on these terms, and its rules of waiting.
pub fn of_terms(terms: &RideTerms) -> (Tariff, WaitingRules) {
    let RideTerms {
        currency, base, per_km, per_minute, wait_per_minute, minimum, platform_fee_bp, cancellation, ..
    } = *terms;
    let tariff = Tariff { currency, base, per_km, per_minute, wait_per_minute, minimum, platform_fee_bp, cancellation };
    (tariff, WaitingRules { free_s: terms.wait_free_s, no_show_after_s: terms.no_show_after_s })
}

/// A fare and how it is split: `fare.total` = `platform_fee` + `driver_payout`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Priced {
    pub fare: Fare,
    pub platform_fee: Money,
    pub driver_payout: Money,
}

/// What was driven, and how long it took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trip {
    pub distance_m: f64,
    pub duration_s: f64,
    /// At the pickup, beyond the free time.
    pub waited_s: f64,
}

/// Whether a fare is at least the minimum of its tariff.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Minimum {
    Applies,
    /// For a ride that its driver ends.
    Waived,
}

/// The fare of a distance and a duration, at least the minimum.
pub fn price(tariff: &Tariff, distance_m: f64, duration_s: f64) -> Priced {
    bill(tariff, &Trip { distance_m, duration_s, waited_s: 0.0 }, Minimum::Applies)
}

/// One amount under one name.
pub fn flat(tariff: &Tariff, name: &str, cents: i64) -> Priced {
    let (platform_fee, driver_payout) = split(tariff, cents);
    let amount = Money::new(cents, tariff.currency);
    let fare = Fare { lines: vec![FareLine { name: name.to_owned(), amount }], total: amount, estimated: false };
    Priced { fare, platform_fee, driver_payout }
}

/// The fare of a trip. Base, distance and time are each rounded half up to a cent; a line of its own then
/// raises the sum to the minimum, and another one adds what waiting costs. A negative or infinite measure counts as 0.
pub fn bill(tariff: &Tariff, trip: &Trip, minimum: Minimum) -> Priced {
    let part = |rate: i64, units: f64, per: i64| -> i64 {
        // Whole metres and seconds; no real ride has more than 10 million of either.
        let units = if units.is_finite() { units.clamp(0.0, 1e7).round() as i64 } else { 0 };
        (rate * units + per / 2) / per
    };
    let line = |name: &str, amount| FareLine { name: name.to_owned(), amount: Money::new(amount, tariff.currency) };
    let mut lines = vec![
        line("base", tariff.base),
        line("distance", part(tariff.per_km, trip.distance_m, 1_000)),
        line("time", part(tariff.per_minute, trip.duration_s, 60)),
    ];
    let sum = |lines: &[FareLine]| lines.iter().map(|l| l.amount.amount).sum::<i64>();
    let driven = sum(&lines);
    if minimum == Minimum::Applies && driven < tariff.minimum {
        lines.push(line("minimum", tariff.minimum - driven));
    }
    let waiting = part(tariff.wait_per_minute, trip.waited_s, 60);
    if waiting > 0 {
        lines.push(line("waiting", waiting));
    }
    let total = sum(&lines);
    let (platform_fee, driver_payout) = split(tariff, total);
    let total = Money::new(total, tariff.currency);
    Priced { fare: Fare { lines, total, estimated: false }, platform_fee, driver_payout }
}

/// The platform's and the driver's share of an amount. They add up to it.
pub fn split(tariff: &Tariff, total: i64) -> (Money, Money) {
    let fee = (total * tariff.platform_fee_bp + 5_000) / 10_000;
    (Money::new(fee, tariff.currency), Money::new(total - fee, tariff.currency))
}

/// 25 km/h, usual in a city.
pub const ESTIMATED_MPS: f64 = 7.0;

/// Distance (m) and duration (s) of a trip that nobody has driven yet: the great circle times 1.3, the usual detour in a street
/// network, at 7 m/s. To a hundredth, as measured distances are: events and receipts say no more than is known.
pub fn estimate(from: &Position, to: &Position) -> (f64, f64) {
    estimate_at(from, to, ESTIMATED_MPS)
}

/// The same at `speed_mps`.
fn estimate_at(from: &Position, to: &Position, speed_mps: f64) -> (f64, f64) {
    let rounded = |value: f64| (value * 100.0).round() / 100.0;
    let distance_m = from.distance_m(to) * 1.3;
    (rounded(distance_m), rounded(distance_m / speed_mps))
}

/// The estimated distance (m) of a trip that is not over, after so many seconds at this speed.
pub fn estimate_so_far(from: &Position, to: &Position, speed_mps: f64, duration_s: f64) -> f64 {
    estimate(from, to).0.min(speed_mps * duration_s.max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_has_two_decimals() {
        let from = Position { lat: 0.0, lng: 0.0 };
        for n in 1..200 {
            let (distance_m, duration_s) = estimate(&from, &Position { lat: 0.0, lng: f64::from(n) * 0.001 });
            for value in [distance_m, duration_s] {
                let text = value.to_string();
                assert!(text.split_once('.').is_none_or(|(_, decimals)| decimals.len() <= 2), "{text}");
            }
            let exact_m = f64::from(n) * 0.001 * 6_371_008.8 * std::f64::consts::PI / 180.0 * 1.3;
            assert!((distance_m - exact_m).abs() <= 0.006, "{distance_m} {exact_m}");
        }
    }

    #[test]
    fn lines_and_shares_add_up_to_the_total() {
        let tariffs = Tariffs::default();
        for (vehicle, distance_m, duration_s, total) in [
            (VehicleType::Car, 0.0, 0.0, 600),
            (VehicleType::Car, 5_000.0, 900.0, 250 + 600 + 450),
            (VehicleType::Car, 5_004.2, 901.0, 250 + 600 + 451),
            (VehicleType::Motorcycle, 1_500.0, 300.0, 400),
            (VehicleType::Van, 12_345.6, 1_801.0, 400 + 2_222 + 1_351),
            (VehicleType::Car, f64::NAN, -5.0, 600),
        ] {
            let priced = price(tariffs.of(vehicle), distance_m, duration_s);
            assert_eq!(priced.fare.total.amount, total, "{vehicle:?} {distance_m} {duration_s}");
            assert_eq!(priced.fare.lines.iter().map(|l| l.amount.amount).sum::<i64>(), total);
            assert_eq!(priced.platform_fee.amount + priced.driver_payout.amount, total);
        }
    }

    #[test]
    fn a_waived_minimum_leaves_what_was_driven() {
        let car = Tariffs::default().car;
        let trip = Trip { distance_m: 1_000.0, duration_s: 60.0, waited_s: 0.0 };
        assert_eq!(bill(&car, &trip, Minimum::Applies).fare.total.amount, 600);
        let waived = bill(&car, &trip, Minimum::Waived);
        assert_eq!((waived.fare.total.amount, waived.fare.lines.len()), (250 + 120 + 30, 3));
        assert_eq!(waived.platform_fee.amount + waived.driver_payout.amount, 400);
        // Waiting is paid beside the minimum.
        let waited = bill(&car, &Trip { waited_s: 90.0, ..trip }, Minimum::Applies);
        let last = waited.fare.lines.last().map(|line| (line.name.as_str(), line.amount.amount));
        assert_eq!((waited.fare.total.amount, last), (645, Some(("waiting", 45))));
        let flat = flat(&car, "cancellation", 300);
        assert_eq!((flat.fare.total.amount, flat.driver_payout.amount), (300, 240));
    }

    #[test]
    fn a_trip_under_way_is_estimated_by_its_time_and_at_most_as_a_whole() {
        let (from, to) = (Position { lat: 0.0, lng: 0.0 }, Position { lat: 0.1, lng: 0.0 });
        let whole_m = estimate(&from, &to).0;
        for (duration_s, metres) in [(-1.0, 0.0), (100.0, 700.0), (1e6, whole_m)] {
            assert_eq!(estimate_so_far(&from, &to, ESTIMATED_MPS, duration_s), metres, "{duration_s}");
        }
    }

    #[test]
    fn amounts_are_changed_by_name_and_mistakes_are_named() {
        let car = Tariffs::default().car;
        let changed = car.changed("per_km=99, minimum=0,").unwrap();
        assert_eq!(changed, Tariff { per_km: 99, minimum: 0, ..car });
        for (text, reason) in [
            ("per_mile=3", "unknown key"),
            ("base=-1", "whole number"),
            ("base", "key=cents"),
            ("platform_fee_bp=10001", "at most 10000"),
        ] {
            let error = car.changed(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
