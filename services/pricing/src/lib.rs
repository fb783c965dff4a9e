//! Tariffs and what a ride costs, in integers; pure. Two services need it: match for the estimate in an offer, rides for
//! the fare. All amounts are minor units of one currency.

use streams::event::{Fare, FareLine};
use streams::{Money, Position, VehicleType};

/// What one vehicle type costs. Amounts in cents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tariff {
    /// For getting in.
    pub base: i64,
    /// For each kilometre.
    pub per_km: i64,
    /// For each minute.
    pub per_minute: i64,
    /// The least that a ride costs.
    pub minimum: i64,
    /// The platform's part of the total, in hundredths of a per cent (2,000 is 20 %).
    pub platform_fee_bp: i64,
    /// What a passenger pays for cancelling late.
    pub cancellation: i64,
}

/// The tariffs of all vehicle types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tariffs {
    /// Cars.
    pub car: Tariff,
    /// Motorcycles.
    pub motorcycle: Tariff,
    /// Vans.
    pub van: Tariff,
}

impl Default for Tariffs {
    fn default() -> Self {
        let tariff = |base, per_km, per_minute, minimum| Tariff {
            base,
            per_km,
            per_minute,
            minimum,
            platform_fee_bp: 2_000,
            cancellation: 300,
        };
        Self { car: tariff(250, 120, 30, 600), motorcycle: tariff(150, 80, 20, 400), van: tariff(400, 180, 45, 900) }
    }
}

impl Tariffs {
    /// The tariff of one vehicle type.
    pub const fn of(&self, vehicle: VehicleType) -> &Tariff {
        match vehicle {
            VehicleType::Car => &self.car,
            VehicleType::Motorcycle => &self.motorcycle,
            VehicleType::Van => &self.van,
        }
    }
}

/// A fare and its two parts; `fare.total` = `platform_fee` + `driver_payout`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Priced {
    /// What the passenger pays.
    pub fare: Fare,
    /// The platform's part.
    pub platform_fee: Money,
    /// The driver's part.
    pub driver_payout: Money,
}

/// What so many metres and seconds cost: base, distance and time each rounded half up to a cent, then raised to the
/// minimum by a line of its own. Negative or endless measures count as 0.
pub fn price(tariff: &Tariff, distance_m: f64, duration_s: f64) -> Priced {
    let part = |rate: i64, units: f64, per: i64| -> i64 {
        // Whole metres and seconds; beyond 10 million of either nothing real remains.
        let units = if units.is_finite() { units.clamp(0.0, 1e7).round() as i64 } else { 0 };
        (rate * units + per / 2) / per
    };
    let mut lines = vec![
        line("base", tariff.base),
        line("distance", part(tariff.per_km, distance_m, 1_000)),
        line("time", part(tariff.per_minute, duration_s, 60)),
    ];
    let sum: i64 = lines.iter().map(|l| l.amount.amount).sum();
    if sum < tariff.minimum {
        lines.push(line("minimum", tariff.minimum - sum));
    }
    let total = sum.max(tariff.minimum);
    let (platform_fee, driver_payout) = split(tariff, total);
    Priced { fare: Fare { lines, total: Money::usd(total), estimated: false }, platform_fee, driver_payout }
}

/// The platform's and the driver's part of an amount; they add up to it.
pub fn split(tariff: &Tariff, total: i64) -> (Money, Money) {
    let fee = (total * tariff.platform_fee_bp + 5_000) / 10_000;
    (Money::usd(fee), Money::usd(total - fee))
}

fn line(name: &str, cents: i64) -> FareLine {
    FareLine { name: name.to_owned(), amount: Money::usd(cents) }
}

/// How far and how long from one place to another, before anybody drove: the great circle times 1.3 (the usual detour of a
/// street network), at 7 m/s (25 km/h, a city).
pub fn estimate(from: &Position, to: &Position) -> (f64, f64) {
    let distance_m = from.distance_m(to) * 1.3;
    (distance_m, distance_m / 7.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_add_up_and_parts_too() {
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
}
