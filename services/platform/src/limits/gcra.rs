//! The rule of every limit: the generic cell rate algorithm (ITU-T I.371), a token bucket that is one number. Pure.
//!
//! The number is the theoretical arrival time (`tat`): when the bucket will be full again, in microseconds since 1970. So a
//! bucket whose time is past is full, and need not be remembered.

/// How much a bucket holds, and how fast it refills.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quota {
    /// The most at once, after a pause.
    pub burst: u32,
    /// On average, for each second.
    pub per_s: f64,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The bucket from now on.
    Allowed { tat_us: i64 },
    /// Nothing was taken. The same may succeed after `wait_us`, if nobody else takes from this bucket.
    Refused { wait_us: i64 },
}

impl Quota {
    /// The time in which `n` flow in again.
    fn cost_us(self, n: u32) -> i64 {
        // At most 2^32 / 1e-6 per second: far below 2^63.
        (f64::from(n) * 1e6 / self.per_s).ceil() as i64
    }

    /// The bucket at `now`: never fuller than full, and never emptier than empty, also when the clock was set back.
    fn bounded(self, tat_us: Option<i64>, now_us: i64) -> i64 {
        tat_us.unwrap_or(now_us).clamp(now_us, now_us.saturating_add(self.cost_us(self.burst)))
    }

    /// Takes `n` if there are as many. More than the burst at once are refused for ever.
    pub fn take(self, tat_us: Option<i64>, now_us: i64, n: u32) -> Admission {
        let tat_us = self.bounded(tat_us, now_us).saturating_add(self.cost_us(n));
        let wait_us = tat_us.saturating_sub(now_us.saturating_add(self.cost_us(self.burst)));
        if wait_us <= 0 { Admission::Allowed { tat_us } } else { Admission::Refused { wait_us } }
    }

    /// Takes `n`, or what is left.
    pub fn take_up_to(self, tat_us: Option<i64>, now_us: i64, n: u32) -> i64 {
        let taken = self.bounded(tat_us, now_us).saturating_add(self.cost_us(n));
        self.bounded(Some(taken), now_us)
    }

    /// Puts `n` back that were taken in vain.
    pub fn put_back(self, tat_us: Option<i64>, now_us: i64, n: u32) -> i64 {
        let put_back = self.bounded(tat_us, now_us).saturating_sub(self.cost_us(n));
        self.bounded(Some(put_back), now_us)
    }
}
