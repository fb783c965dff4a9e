//! The bytes of a record: numbers of variable length, times relative to the step, ids once and then by number. Every value is read
//! back bit for bit. Pure.

use chrono::{DateTime, Timelike, Utc};
use geospatial::Hashed;
use streams::Position;
use uuid::Uuid;

/// Coordinates with at most seven decimals are written as whole numbers of this part of a degree.
const SCALE: f64 = 1e7;

/// The ids that were written or read since the last snapshot, with the place that each had last. Whoever writes and whoever reads
/// have the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    numbers: Hashed<Uuid, usize>,
    all: Vec<(Uuid, [i64; 2])>,
}

impl Names {
    fn add(&mut self, id: Uuid) -> usize {
        self.numbers.insert(id, self.all.len());
        self.all.push((id, [0; 2]));
        self.all.len() - 1
    }
}

#[derive(Debug)]
pub(super) struct Writer<'n> {
    pub(super) bytes: Vec<u8>,
    base: DateTime<Utc>,
    names: &'n mut Names,
}

/// 64-bit FNV-1a. It finds differences; nobody has a reason to forge an equal one.
pub(super) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

const fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

const fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

fn scaled(degrees: f64) -> Option<i64> {
    let scaled = (degrees * SCALE).round() as i64;
    ((scaled as f64 / SCALE).to_bits() == degrees.to_bits()).then_some(scaled)
}

impl<'n> Writer<'n> {
    /// Times are written relative to `base`.
    pub(super) fn new(base: DateTime<Utc>, names: &'n mut Names) -> Self {
        Self { bytes: Vec::with_capacity(256), base, names }
    }

    pub(super) fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    pub(super) fn uint(&mut self, number: impl Into<u128>) {
        let mut left = number.into();
        while left >= 0x80 {
            self.bytes.push(left as u8 | 0x80);
            left >>= 7;
        }
        self.bytes.push(left as u8);
    }

    pub(super) fn len(&mut self, count: usize) {
        self.uint(count as u128);
    }

    pub(super) fn bool(&mut self, is: bool) {
        self.byte(is.into());
    }

    pub(super) fn f64(&mut self, number: f64) {
        self.bytes.extend(number.to_bits().to_le_bytes());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.len(text.len());
        self.bytes.extend(text.as_bytes());
    }

    pub(super) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.bool(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    /// To the nanosecond. The two lowest bits say which of three forms it is.
    pub(super) fn time(&mut self, at: DateTime<Utc>) {
        let (nanos, micros) = (at.nanosecond(), at.timestamp_micros().wrapping_sub(self.base.timestamp_micros()));
        let micros = u128::from(zigzag(micros)) << 2;
        if nanos >= 1_000_000_000 {
            // A leap second.
            self.uint(u128::from(zigzag(at.timestamp())) << 2 | 2);
            self.uint(nanos);
        } else if nanos.is_multiple_of(1_000) {
            self.uint(micros);
        } else {
            self.uint(micros | 1);
            self.uint(nanos % 1_000);
        }
    }

    /// Its number if it is known, which is returned.
    pub(super) fn id(&mut self, id: Uuid) -> usize {
        if let Some(&number) = self.names.numbers.get(&id) {
            self.len(number + 1);
            return number;
        }
        self.byte(0);
        self.bytes.extend(id.as_bytes());
        self.names.add(id)
    }

    pub(super) fn position(&mut self, at: &Position) {
        for degrees in [at.lat, at.lng] {
            self.coordinate(degrees, 0);
        }
    }

    /// Of the id with this number, relative to its place before.
    pub(super) fn place_of(&mut self, number: usize, at: &Position) {
        let mut before = self.names.all[number].1;
        for (before, degrees) in before.iter_mut().zip([at.lat, at.lng]) {
            *before = self.coordinate(degrees, *before);
        }
        self.names.all[number].1 = before;
    }

    fn coordinate(&mut self, degrees: f64, before: i64) -> i64 {
        match scaled(degrees) {
            Some(scaled) => {
                self.uint(u128::from(zigzag(scaled.wrapping_sub(before))) << 1);
                scaled
            }
            None => {
                self.byte(1);
                self.f64(degrees);
                before
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Reader<'b, 'n> {
    left: &'b [u8],
    base: DateTime<Utc>,
    names: &'n mut Names,
}

impl<'b, 'n> Reader<'b, 'n> {
    pub(super) fn new(bytes: &'b [u8], base: DateTime<Utc>, names: &'n mut Names) -> Self {
        Self { left: bytes, base, names }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.left.is_empty()
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'b [u8], String> {
        let Some((taken, left)) = self.left.split_at_checked(count) else {
            return Err(format!("it ends {} bytes too early", count - self.left.len()));
        };
        self.left = left;
        Ok(taken)
    }

    /// What is left.
    pub(super) fn take_rest(&mut self) -> &'b [u8] {
        std::mem::take(&mut self.left)
    }

    pub(super) fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn wide(&mut self) -> Result<u128, String> {
        let mut number = 0;
        for shift in (0..126).step_by(7) {
            let byte = self.byte()?;
            number |= u128::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err("a number is too long".to_owned())
    }

    pub(super) fn uint<T: TryFrom<u128>>(&mut self) -> Result<T, String> {
        T::try_from(self.wide()?).map_err(|_| "a number is too large".to_owned())
    }

    /// A list whose entries have at least one byte each.
    pub(super) fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Result<T, String>) -> Result<Vec<T>, String> {
        let count: usize = self.uint()?;
        if count > self.left.len() {
            return Err(format!("a list of {count} is longer than what is left"));
        }
        (0..count).map(|_| read(self)).collect()
    }

    pub(super) fn bool(&mut self) -> Result<bool, String> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(format!("{other} is neither yes nor no")),
        }
    }

    pub(super) fn f64(&mut self) -> Result<f64, String> {
        let bytes = self.take(8)?.try_into().map_err(|_| "eight bytes are needed".to_owned())?;
        Ok(f64::from_bits(u64::from_le_bytes(bytes)))
    }

    pub(super) fn text(&mut self) -> Result<String, String> {
        let count = self.uint()?;
        String::from_utf8(self.take(count)?.to_vec()).map_err(|error| error.to_string())
    }

    pub(super) fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<Option<T>, String> {
        if self.bool()? { read(self).map(Some) } else { Ok(None) }
    }

    pub(super) fn time(&mut self) -> Result<DateTime<Utc>, String> {
        let first = self.wide()?;
        let number = unzigzag(u64::try_from(first >> 2).map_err(|_| "a time is too large".to_owned())?);
        let micros = DateTime::from_timestamp_micros(self.base.timestamp_micros().wrapping_add(number));
        let at = match first & 3 {
            0 => micros,
            1 => {
                let nanos: u32 = self.uint()?;
                micros.and_then(|at| at.with_nanosecond(at.nanosecond() + nanos))
            }
            _ => DateTime::from_timestamp(number, self.uint()?),
        };
        at.ok_or_else(|| "there is no such time".to_owned())
    }

    pub(super) fn id<T: From<Uuid>>(&mut self) -> Result<T, String> {
        self.id_and_number().map(|(id, _)| id)
    }

    pub(super) fn id_and_number<T: From<Uuid>>(&mut self) -> Result<(T, usize), String> {
        let number = match self.uint::<usize>()? {
            0 => {
                let bytes = self.take(16)?.try_into().map_err(|_| "sixteen bytes are needed".to_owned())?;
                self.names.all.push((Uuid::from_bytes(bytes), [0; 2]));
                self.names.all.len() - 1
            }
            number => number - 1,
        };
        let (id, _) = self.names.all.get(number).ok_or("an id was not written before")?;
        Ok((T::from(*id), number))
    }

    pub(super) fn position(&mut self) -> Result<Position, String> {
        let (lat, _) = self.coordinate(0)?;
        Ok(Position { lat, lng: self.coordinate(0)?.0 })
    }

    /// `number` is that of [`Self::id_and_number`].
    pub(super) fn place_of(&mut self, number: usize) -> Result<Position, String> {
        let before = self.names.all[number].1;
        let ((lat, north), (lng, east)) = (self.coordinate(before[0])?, self.coordinate(before[1])?);
        self.names.all[number].1 = [north, east];
        Ok(Position { lat, lng })
    }

    fn coordinate(&mut self, before: i64) -> Result<(f64, i64), String> {
        let first = self.wide()?;
        if first & 1 == 1 {
            return Ok((self.f64()?, before));
        }
        let step = unzigzag(u64::try_from(first >> 1).map_err(|_| "a coordinate is too large".to_owned())?);
        let scaled = before.wrapping_add(step);
        Ok((scaled as f64 / SCALE, scaled))
    }
}
