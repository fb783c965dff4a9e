//! Inputs, rows and positions of the engine as bytes, and back. Of an event it writes what the engine reads: a replay that differs
//! shows what is missing. Pure.
//!
//! A record is the number of the format and sections, each with its number and its length. A later version adds sections; a program that
//! does not know one says so instead of replaying without it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use geospatial::newest::Summary;
use pricing::market::WORLD;
use roads::{Leg, Road, Way, WayKey};
use streams::event::{
    CancelledRide, MatchAccepted, MatchFound, MatchRejected, Party, RejectReason, RideEvent, UserBeacon, UserFinder,
};
use streams::{Event, MatchId, Position, RequestId, RideStatus, UserId, VehicleType};

use super::codec::{Names, Reader, Writer, fnv};
use super::rules::RulesVersion;
use crate::engine::road_times::{Knowledge, RoadTimesRows};
use crate::engine::{Border, Driver, EngineRows, Exclusion, Input, Offer, OfferOutcome, Request, Ride, StepOutput};
use crate::positions::DriverState;

const FORMAT: u8 = 1;
const PARTIES: [Party; 3] = [Party::Driver, Party::Passenger, Party::System];
const REASONS: [RejectReason; 4] =
    [RejectReason::Declined, RejectReason::Expired, RejectReason::Cancelled, RejectReason::Superseded];

/// The sections, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Section {
    /// When, and by which rules.
    Head = 1,
    Moves = 2,
    Inputs = 3,
    MatchIds = 4,
    Drivers = 10,
    Requests = 11,
    Offers = 12,
    Rides = 13,
    Places = 14,
    RoadTimes = 15,
    /// Users whom other zones have.
    Elsewhere = 16,
    /// Requests with the markets in which they began; those of the world are not among them.
    RequestMarkets = 17,
}

/// An input that is stored: [`Input`] with the event in it.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordedInput {
    Beacon(UserBeacon, DateTime<Utc>),
    Finder(UserFinder),
    Accepted(MatchAccepted),
    Rejected(MatchRejected),
    Ride(Box<RideEvent>),
    Roads(Vec<(Way, Option<Road>)>),
    Border(Border),
    Tick,
    Housekeeping,
}

impl RecordedInput {
    pub fn as_input(&self) -> Input<'_> {
        match self {
            Self::Beacon(e, stored_at) => Input::Beacon(e, *stored_at),
            Self::Finder(e) => Input::Finder(e),
            Self::Accepted(e) => Input::Accepted(e),
            Self::Rejected(e) => Input::Rejected(e),
            Self::Ride(e) => Input::Ride(e),
            Self::Roads(answers) => Input::Roads(answers),
            Self::Border(border) => Input::Border(border),
            Self::Tick => Input::Tick,
            Self::Housekeeping => Input::Housekeeping,
        }
    }
}

/// All that a step of the engine depended on, but for what the steps before left.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedStep {
    pub at: DateTime<Utc>,
    pub rules_version: RulesVersion,
    /// Drivers of whom positions were received since the recorded step before.
    pub moves: Vec<(UserId, Summary)>,
    pub inputs: Vec<RecordedInput>,
    /// The new ids, in the order in which they were drawn.
    pub match_ids: Vec<MatchId>,
    /// Of what the step put out, by [`output_hash`].
    pub output_hash: u64,
}

/// The state of an engine between two steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    pub at: DateTime<Utc>,
    pub rules_version: RulesVersion,
    pub no_expiry_before: DateTime<Utc>,
    pub rows: EngineRows,
    pub places: Vec<DriverState>,
    pub road_times: RoadTimesRows,
    pub elsewhere: Vec<(UserId, Option<DateTime<Utc>>)>,
}

/// What is recorded of a step, before it is bytes.
#[derive(Debug)]
pub(super) struct StepParts<'a> {
    pub(super) at: DateTime<Utc>,
    pub(super) rules_version: RulesVersion,
    pub(super) moves: &'a [(UserId, Summary)],
    pub(super) inputs: &'a [Input<'a>],
    pub(super) match_ids: &'a [MatchId],
    pub(super) output_hash: u64,
}

fn section(to: &mut Writer<'_>, section: Section, write: impl FnOnce(&mut Writer<'_>)) {
    let begin = to.bytes.len();
    write(to);
    // Most sections are short: the head goes in front of what is written already.
    let mut head = vec![section as u8];
    let mut left = to.bytes.len() - begin;
    while left >= 0x80 {
        head.push(left as u8 | 0x80);
        left >>= 7;
    }
    head.push(left as u8);
    to.bytes.splice(begin..begin, head);
}

pub(super) fn encode_step(step: &StepParts<'_>, names: &mut Names) -> Vec<u8> {
    let mut to = Writer::new(step.at, names);
    to.byte(FORMAT);
    to.bytes.extend(step.at.timestamp_micros().to_le_bytes());
    section(&mut to, Section::Head, |to| {
        to.time(step.at);
        to.bytes.extend(step.rules_version.0.to_le_bytes());
        to.bytes.extend(step.output_hash.to_le_bytes());
    });
    if !step.moves.is_empty() {
        section(&mut to, Section::Moves, |to| {
            to.len(step.moves.len());
            for (driver, summary) in step.moves {
                write_summary(to, *driver, &Summary { beacon_at: None, ..*summary });
            }
        });
    }
    section(&mut to, Section::Inputs, |to| {
        to.len(step.inputs.len());
        step.inputs.iter().for_each(|input| write_input(to, input));
    });
    if !step.match_ids.is_empty() {
        section(&mut to, Section::MatchIds, |to| {
            to.len(step.match_ids.len());
            for id in step.match_ids {
                to.id(id.0);
            }
        });
    }
    to.bytes
}

pub(super) fn encode_snapshot(snapshot: &Snapshot, names: &mut Names) -> Vec<u8> {
    let Snapshot { at, rules_version, no_expiry_before, rows, places, road_times, elsewhere } = snapshot;
    let mut to = Writer::new(*at, names);
    to.byte(FORMAT);
    to.bytes.extend(at.timestamp_micros().to_le_bytes());
    section(&mut to, Section::Head, |to| {
        to.time(*at);
        to.bytes.extend(rules_version.0.to_le_bytes());
        to.time(*no_expiry_before);
    });
    section(&mut to, Section::Drivers, |to| {
        to.len(rows.drivers.len());
        rows.drivers.iter().for_each(|row| write_driver(to, row));
    });
    section(&mut to, Section::Requests, |to| {
        to.len(rows.requests.len());
        rows.requests.iter().for_each(|row| write_request(to, row));
    });
    let of_markets: Vec<_> =
        rows.requests.iter().filter_map(|r| Some((r.request_id, r.market_id.as_deref()?))).collect();
    if !of_markets.is_empty() {
        section(&mut to, Section::RequestMarkets, |to| {
            to.len(of_markets.len());
            for (request, market_id) in of_markets {
                to.id(request.0);
                to.text(market_id);
            }
        });
    }
    section(&mut to, Section::Offers, |to| {
        to.len(rows.offers.len());
        rows.offers.iter().for_each(|row| write_offer(to, row));
    });
    section(&mut to, Section::Rides, |to| {
        to.len(rows.rides.len());
        rows.rides.iter().for_each(|row| write_ride(to, row));
    });
    section(&mut to, Section::Places, |to| {
        to.len(places.len());
        for (driver, summary, available) in places {
            write_summary(to, *driver, summary);
            to.byte(available.map_or(0, |vehicle| vehicle as u8 + 1));
        }
    });
    if *road_times != RoadTimesRows::default() {
        section(&mut to, Section::RoadTimes, |to| write_road_times(to, road_times));
    }
    if !elsewhere.is_empty() {
        section(&mut to, Section::Elsewhere, |to| {
            to.len(elsewhere.len());
            for (user, until) in elsewhere {
                to.id(user.0);
                to.option(*until, Writer::time);
            }
        });
    }
    to.bytes
}

/// Gives each section of a record to `read`, with the time of the record.
fn read_sections(
    bytes: &[u8],
    names: &mut Names,
    mut read: impl FnMut(u8, &mut Reader<'_, '_>) -> Result<(), String>,
) -> Result<(), String> {
    let base = bytes.get(1..9).and_then(|micros| micros.try_into().ok()).map(i64::from_le_bytes);
    let (Some(&format), Some(base)) = (bytes.first(), base.and_then(DateTime::from_timestamp_micros)) else {
        return Err("the record has no head".to_owned());
    };
    if format != FORMAT {
        return Err(format!("the record has the format {format}: another version of the program wrote it"));
    }
    let mut left = &bytes[9..];
    while !left.is_empty() {
        let mut empty = Names::default();
        let mut head = Reader::new(left, base, &mut empty);
        let (section, count) = (head.byte()?, head.uint()?);
        let body = head.take(count)?;
        left = head.take_rest();
        let mut reader = Reader::new(body, base, names);
        read(section, &mut reader)?;
        if !reader.is_at_end() {
            return Err(format!("section {section} of the record is longer than its content"));
        }
    }
    Ok(())
}

fn unknown(section: u8) -> String {
    format!("the record has a section {section}: a later version of the program wrote it")
}

fn read_u64(from: &mut Reader<'_, '_>) -> Result<u64, String> {
    let bytes = from.take(8)?.try_into().map_err(|_| "eight bytes are needed".to_owned())?;
    Ok(u64::from_le_bytes(bytes))
}

pub(super) fn decode_step(bytes: &[u8], names: &mut Names) -> Result<RecordedStep, String> {
    let mut step = RecordedStep {
        at: DateTime::UNIX_EPOCH,
        rules_version: RulesVersion(0),
        moves: Vec::new(),
        inputs: Vec::new(),
        match_ids: Vec::new(),
        output_hash: 0,
    };
    read_sections(bytes, names, |section, from| {
        match section {
            s if s == Section::Head as u8 => {
                step.at = from.time()?;
                step.rules_version = RulesVersion(read_u64(from)?);
                step.output_hash = read_u64(from)?;
            }
            s if s == Section::Moves as u8 => step.moves = from.list(read_summary)?,
            s if s == Section::Inputs as u8 => step.inputs = from.list(read_input)?,
            s if s == Section::MatchIds as u8 => step.match_ids = from.list(Reader::id)?,
            other => return Err(unknown(other)),
        }
        Ok(())
    })?;
    Ok(step)
}

pub(super) fn decode_snapshot(bytes: &[u8], names: &mut Names) -> Result<Snapshot, String> {
    let mut snapshot = Snapshot {
        at: DateTime::UNIX_EPOCH,
        rules_version: RulesVersion(0),
        no_expiry_before: DateTime::UNIX_EPOCH,
        rows: EngineRows::default(),
        places: Vec::new(),
        road_times: RoadTimesRows::default(),
        elsewhere: Vec::new(),
    };
    read_sections(bytes, names, |section, from| {
        match section {
            s if s == Section::Head as u8 => {
                snapshot.at = from.time()?;
                snapshot.rules_version = RulesVersion(read_u64(from)?);
                snapshot.no_expiry_before = from.time()?;
            }
            s if s == Section::Drivers as u8 => snapshot.rows.drivers = from.list(read_driver)?,
            s if s == Section::Requests as u8 => snapshot.rows.requests = from.list(read_request)?,
            s if s == Section::RequestMarkets as u8 => {
                let of_markets: Vec<(RequestId, String)> = from.list(|from| Ok((from.id()?, from.text()?)))?;
                let mut of_markets: BTreeMap<RequestId, String> = of_markets.into_iter().collect();
                for row in &mut snapshot.rows.requests {
                    row.market_id = of_markets.remove(&row.request_id);
                }
            }
            s if s == Section::Offers as u8 => snapshot.rows.offers = from.list(read_offer)?,
            s if s == Section::RoadTimes as u8 => snapshot.road_times = read_road_times(from)?,
            s if s == Section::Elsewhere as u8 => {
                snapshot.elsewhere = from.list(|from| Ok((from.id()?, from.option(Reader::time)?)))?;
            }
            s if s == Section::Rides as u8 => snapshot.rows.rides = from.list(read_ride)?,
            s if s == Section::Places as u8 => {
                snapshot.places = from.list(|from| {
                    let (driver, summary) = read_summary(from)?;
                    let available = from.byte()?.checked_sub(1).map(vehicle).transpose()?;
                    Ok((driver, summary, available))
                })?;
            }
            other => return Err(unknown(other)),
        }
        Ok(())
    })?;
    Ok(snapshot)
}

/// Of the events and rows that a step put out, bit for bit.
pub fn output_hash(output: &StepOutput) -> u64 {
    let mut names = Names::default();
    let mut to = Writer::new(DateTime::UNIX_EPOCH, &mut names);
    for event in &output.events {
        match event {
            Event::MatchFound(e) => write_found(&mut to, e),
            Event::MatchRejected(e) => write_input(&mut to, &Input::Rejected(e)),
            // The engine puts out no others.
            _ => to.byte(u8::MAX),
        }
    }
    let EngineRows { drivers, requests, offers, rides } = &output.rows;
    drivers.iter().for_each(|row| write_driver(&mut to, row));
    requests.iter().for_each(|row| write_request_with_market(&mut to, row));
    offers.iter().for_each(|row| write_offer(&mut to, row));
    rides.iter().for_each(|row| write_ride(&mut to, row));
    for (zone, row) in &output.handed_over {
        to.uint(*zone);
        write_request_with_market(&mut to, row);
    }
    fnv(&to.bytes)
}

fn vehicle(number: u8) -> Result<VehicleType, String> {
    VehicleType::ALL.into_iter().find(|v| *v as u8 == number).ok_or_else(|| format!("{number} is no type of vehicle"))
}

fn nth<T: Copy>(of: &[T], from: &mut Reader<'_, '_>) -> Result<T, String> {
    let number = from.byte()?;
    of.get(usize::from(number)).copied().ok_or_else(|| format!("{number} is none of {}", of.len()))
}

fn number_of<T: PartialEq>(of: &[T], value: &T) -> u8 {
    of.iter().position(|known| known == value).and_then(|n| u8::try_from(n).ok()).unwrap_or(u8::MAX)
}

/// The lowest bits say what there is.
fn write_summary(to: &mut Writer<'_>, driver: UserId, summary: &Summary) {
    let Summary { place, received_last_at, beacon_at } = *summary;
    let received_at = place.map(|place| place.1);
    let is_last = received_at == received_last_at;
    let has = [
        place.is_some(),
        place.is_some_and(|place| place.2),
        is_last,
        !is_last && received_last_at.is_some(),
        beacon_at.is_some(),
    ];
    let number = to.id(driver.0);
    to.byte(has.iter().enumerate().fold(0, |flags, (n, has)| flags | u8::from(*has) << n));
    if let Some((position, at, _)) = place {
        to.place_of(number, &position);
        to.time(at);
    }
    if let Some(at) = received_last_at.filter(|_| !is_last) {
        to.time(at);
    }
    if let Some(at) = beacon_at {
        to.time(at);
    }
}

fn read_summary(from: &mut Reader<'_, '_>) -> Result<(UserId, Summary), String> {
    let (driver, number) = from.id_and_number()?;
    let flags = from.byte()?;
    let has = |n: u8| flags & (1 << n) != 0;
    let place = if has(0) { Some((from.place_of(number)?, from.time()?, has(1))) } else { None };
    let received_last_at = match (has(2), has(3)) {
        (true, _) => place.map(|place| place.1),
        (false, true) => Some(from.time()?),
        (false, false) => None,
    };
    let beacon_at = if has(4) { Some(from.time()?) } else { None };
    Ok((driver, Summary { place, received_last_at, beacon_at }))
}

fn write_input(to: &mut Writer<'_>, input: &Input<'_>) {
    match *input {
        Input::Tick => to.byte(0),
        Input::Housekeeping => to.byte(1),
        Input::Beacon(e, stored_at) => {
            to.byte(2);
            to.id(e.user_id.0);
            to.bool(e.active);
            to.byte(e.vehicle_type as u8);
            to.position(&e.location);
            to.time(e.recorded_at);
            to.option(e.located_at, Writer::time);
            to.option(e.device.as_deref(), Writer::text);
            to.time(stored_at);
        }
        Input::Finder(e) => {
            let market_id = e.market_id.as_deref().filter(|id| *id != WORLD);
            to.byte(if market_id.is_some() { 9 } else { 3 });
            to.id(e.request_id.0);
            to.id(e.user_id.0);
            to.bool(e.active);
            to.position(&e.pickup);
            to.position(&e.dropoff);
            to.byte(e.vehicle_type as u8);
            to.time(e.recorded_at);
            to.option(e.expires_at, Writer::time);
            to.option(e.continues, |to, ride| {
                to.id(ride.ride_id.0);
                to.id(ride.match_id.0);
                to.id(ride.driver_id.0);
            });
            market_id.iter().for_each(|id| to.text(id));
        }
        Input::Accepted(e) => {
            to.byte(4);
            for id in [e.match_id.0, e.request_id.0, e.driver_id.0, e.passenger_id.0] {
                to.id(id);
            }
            to.time(e.accepted_at);
        }
        Input::Rejected(e) => {
            to.byte(5);
            write_rejected(to, e);
        }
        Input::Roads(answers) => {
            to.byte(7);
            to.len(answers.len());
            for (way, road) in answers {
                to.position(&way.from);
                to.position(&way.to);
                to.option(*road, |to, road| write_road(to, &road));
            }
        }
        Input::Ride(e) => {
            to.byte(6);
            write_ride_event(to, e);
        }
        Input::Border(border) => {
            to.byte(8);
            write_border(to, border);
        }
    }
}

fn write_rejected(to: &mut Writer<'_>, e: &MatchRejected) {
    for id in [e.match_id.0, e.request_id.0, e.driver_id.0, e.passenger_id.0] {
        to.id(id);
    }
    to.byte(number_of(&REASONS, &e.reason));
    to.time(e.rejected_at);
}

fn read_rejected(from: &mut Reader<'_, '_>) -> Result<MatchRejected, String> {
    Ok(MatchRejected {
        match_id: from.id()?,
        request_id: from.id()?,
        driver_id: from.id()?,
        passenger_id: from.id()?,
        reason: nth(&REASONS, from)?,
        rejected_at: from.time()?,
    })
}

fn write_ride_event(to: &mut Writer<'_>, e: &RideEvent) {
    for id in [e.ride_id.0, e.match_id.0, e.driver_id.0, e.passenger_id.0] {
        to.id(id);
    }
    to.byte(number_of(&RideStatus::ALL, &e.status));
    to.position(&e.pickup);
    to.position(&e.dropoff);
    to.byte(e.vehicle_type as u8);
    to.time(e.occurred_at);
    to.option(e.by, |to, by| to.byte(number_of(&PARTIES, &by)));
    to.option(e.request_id, |to, id| {
        to.id(id.0);
    });
}

fn write_border(to: &mut Writer<'_>, border: &Border) {
    match border {
        Border::Elsewhere(all) => {
            to.byte(0);
            to.len(all.len());
            for (user, is_in_ride) in all {
                to.id(user.0);
                to.bool(*is_in_ride);
            }
        }
        Border::Lost(offers, until) => {
            to.byte(1);
            to.len(offers.len());
            for id in offers {
                to.id(id.0);
            }
            to.time(*until);
        }
        Border::Requests(requests) => {
            let has_markets = requests.iter().any(|row| row.market_id.is_some());
            to.byte(if has_markets { 5 } else { 2 });
            to.len(requests.len());
            for row in requests {
                write_request(to, row);
                if has_markets {
                    to.option(row.market_id.as_deref(), Writer::text);
                }
            }
        }
        Border::Ride(e) => {
            to.byte(3);
            write_ride_event(to, e);
        }
        Border::Rejected(e) => {
            to.byte(4);
            write_rejected(to, e);
        }
    }
}

fn read_border(from: &mut Reader<'_, '_>) -> Result<Border, String> {
    Ok(match from.byte()? {
        0 => Border::Elsewhere(from.list(|from| Ok((from.id()?, from.bool()?)))?),
        1 => Border::Lost(from.list(Reader::id)?, from.time()?),
        2 => Border::Requests(from.list(read_request)?),
        5 => Border::Requests(from.list(|from| {
            let row = read_request(from)?;
            Ok(Request { market_id: from.option(Reader::text)?, ..row })
        })?),
        3 => Border::Ride(Box::new(read_ride_event(from)?)),
        4 => Border::Rejected(read_rejected(from)?),
        other => return Err(format!("{other} is nothing of another zone")),
    })
}

fn read_input(from: &mut Reader<'_, '_>) -> Result<RecordedInput, String> {
    Ok(match from.byte()? {
        0 => RecordedInput::Tick,
        1 => RecordedInput::Housekeeping,
        2 => {
            let beacon = UserBeacon {
                user_id: from.id()?,
                active: from.bool()?,
                vehicle_type: vehicle(from.byte()?)?,
                location: from.position()?,
                recorded_at: from.time()?,
                located_at: from.option(Reader::time)?,
                device: from.option(Reader::text)?,
            };
            RecordedInput::Beacon(beacon, from.time()?)
        }
        number @ (3 | 9) => RecordedInput::Finder(UserFinder {
            request_id: from.id()?,
            user_id: from.id()?,
            active: from.bool()?,
            pickup: from.position()?,
            dropoff: from.position()?,
            vehicle_type: vehicle(from.byte()?)?,
            recorded_at: from.time()?,
            expires_at: from.option(Reader::time)?,
            continues: from.option(|from| {
                Ok(CancelledRide { ride_id: from.id()?, match_id: from.id()?, driver_id: from.id()? })
            })?,
            market_id: if number == 9 { Some(from.text()?) } else { None },
        }),
        4 => RecordedInput::Accepted(MatchAccepted {
            match_id: from.id()?,
            request_id: from.id()?,
            driver_id: from.id()?,
            passenger_id: from.id()?,
            pickup: NOWHERE,
            dropoff: NOWHERE,
            vehicle_type: VehicleType::Car,
            market_id: None,
            terms: None,
            accepted_at: from.time()?,
        }),
        5 => RecordedInput::Rejected(read_rejected(from)?),
        6 => RecordedInput::Ride(Box::new(read_ride_event(from)?)),
        7 => RecordedInput::Roads(from.list(|from| {
            let way = Way { from: from.position()?, to: from.position()? };
            Ok((way, from.option(read_road)?))
        })?),
        8 => RecordedInput::Border(read_border(from)?),
        other => return Err(format!("the record has an input {other}: a later version of the program wrote it")),
    })
}

fn write_road(to: &mut Writer<'_>, road: &Road) {
    match road {
        Road::None => to.byte(0),
        Road::Leg(Leg { distance_m, duration_s }) => {
            to.byte(1);
            to.f64(*distance_m);
            to.f64(*duration_s);
        }
    }
}

fn read_road(from: &mut Reader<'_, '_>) -> Result<Road, String> {
    if from.bool()? { Ok(Road::Leg(Leg { distance_m: from.f64()?, duration_s: from.f64()? })) } else { Ok(Road::None) }
}

fn write_road_times(to: &mut Writer<'_>, rows: &RoadTimesRows) {
    to.len(rows.ways.len());
    for (key, knowledge) in &rows.ways {
        key.cells().into_iter().for_each(|cell| to.bytes.extend(cell.to_le_bytes()));
        match knowledge {
            Knowledge::Pending(until) => {
                to.byte(0);
                to.time(*until);
            }
            Knowledge::Estimated(until) => {
                to.byte(1);
                to.time(*until);
            }
            Knowledge::Known(road, until) => {
                to.byte(2);
                write_road(to, road);
                to.time(*until);
            }
        }
    }
    for times in [&rows.held, &rows.last_hold] {
        to.len(times.len());
        for (request, at) in times {
            to.id(request.0);
            to.time(*at);
        }
    }
}

fn read_road_times(from: &mut Reader<'_, '_>) -> Result<RoadTimesRows, String> {
    let ways = from.list(|from| {
        let mut cells = [0; 4];
        for cell in &mut cells {
            let bytes = from.take(4)?.try_into().map_err(|_| "four bytes are needed".to_owned())?;
            *cell = i32::from_le_bytes(bytes);
        }
        let knowledge = match from.byte()? {
            0 => Knowledge::Pending(from.time()?),
            1 => Knowledge::Estimated(from.time()?),
            2 => Knowledge::Known(read_road(from)?, from.time()?),
            other => return Err(format!("{other} is nothing that is known of a way")),
        };
        Ok((WayKey::of_cells(cells), knowledge))
    })?;
    let times = |from: &mut Reader<'_, '_>| Ok((from.id()?, from.time()?));
    Ok(RoadTimesRows { ways, held: from.list(times)?, last_hold: from.list(times)? })
}

const NOWHERE: Position = Position { lat: 0.0, lng: 0.0 };

fn read_ride_event(from: &mut Reader<'_, '_>) -> Result<RideEvent, String> {
    Ok(RideEvent {
        ride_id: from.id()?,
        match_id: from.id()?,
        driver_id: from.id()?,
        passenger_id: from.id()?,
        status: nth(&RideStatus::ALL, from)?,
        pickup: from.position()?,
        dropoff: from.position()?,
        vehicle_type: vehicle(from.byte()?)?,
        occurred_at: from.time()?,
        by: from.option(|from| nth(&PARTIES, from))?,
        request_id: from.option(Reader::id)?,
        version: 0,
        previous_hash: String::new(),
        hash: String::new(),
        search_continues: None,
        reason_code: None,
        note: None,
        reason: None,
        fee: None,
        distance_m: None,
        duration_s: None,
        fare: None,
        platform_fee: None,
        driver_payout: None,
        market_id: None,
        terms: None,
    })
}

/// For the hash alone. What the ride costs follows from the rules, whose version is that of the step: older records do not have it.
fn write_found(to: &mut Writer<'_>, e: &MatchFound) {
    for id in [e.match_id.0, e.request_id.0, e.driver_id.0, e.passenger_id.0] {
        to.id(id);
    }
    for position in [&e.driver_location, &e.pickup, &e.dropoff] {
        to.position(position);
    }
    to.byte(e.vehicle_type as u8);
    to.f64(e.pickup_distance_m);
    to.f64(e.pickup_eta_s);
    to.bytes.extend(e.fare_estimate.amount.to_le_bytes());
    to.text(e.fare_estimate.currency.as_str());
    to.option(e.market_id.as_deref(), Writer::text);
    to.option(e.estimated, Writer::bool);
    to.time(e.found_at);
    to.time(e.expires_at);
}

fn write_driver(to: &mut Writer<'_>, row: &Driver) {
    to.id(row.user_id.0);
    to.bool(row.active);
    to.byte(row.vehicle_type as u8);
    to.position(&row.location);
    to.time(row.recorded_at);
    to.time(row.seen_at);
    to.time(row.located_at);
    to.option(row.device.as_deref(), Writer::text);
}

fn read_driver(from: &mut Reader<'_, '_>) -> Result<Driver, String> {
    Ok(Driver {
        user_id: from.id()?,
        active: from.bool()?,
        vehicle_type: vehicle(from.byte()?)?,
        location: from.position()?,
        recorded_at: from.time()?,
        seen_at: from.time()?,
        located_at: from.time()?,
        device: from.option(Reader::text)?,
    })
}

fn write_request(to: &mut Writer<'_>, row: &Request) {
    to.id(row.request_id.0);
    to.id(row.passenger_id.0);
    to.position(&row.pickup);
    to.position(&row.dropoff);
    to.byte(row.vehicle_type as u8);
    to.time(row.opened_at);
    to.time(row.changed_at);
    to.option(row.ended_at, Writer::time);
    to.option(row.expires_at, Writer::time);
    to.len(row.excluded.len());
    for (driver, exclusion) in &row.excluded {
        to.id(driver.0);
        to.option(exclusion.until, Writer::time);
        to.uint(exclusion.misses);
    }
}

/// For the hash alone. Of one of the world it is as in older records.
fn write_request_with_market(to: &mut Writer<'_>, row: &Request) {
    write_request(to, row);
    row.market_id.iter().for_each(|id| to.text(id));
}

/// Without its market.
fn read_request(from: &mut Reader<'_, '_>) -> Result<Request, String> {
    Ok(Request {
        request_id: from.id()?,
        passenger_id: from.id()?,
        pickup: from.position()?,
        dropoff: from.position()?,
        vehicle_type: vehicle(from.byte()?)?,
        opened_at: from.time()?,
        changed_at: from.time()?,
        ended_at: from.option(Reader::time)?,
        expires_at: from.option(Reader::time)?,
        market_id: None,
        excluded: from
            .list(|from| Ok((from.id()?, Exclusion { until: from.option(Reader::time)?, misses: from.uint()? })))?
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
    })
}

fn write_offer(to: &mut Writer<'_>, row: &Offer) {
    for id in [row.match_id.0, row.request_id.0, row.driver_id.0, row.passenger_id.0] {
        to.id(id);
    }
    to.time(row.found_at);
    to.time(row.expires_at);
    to.option(row.accepted_at, Writer::time);
    to.option(row.ended, |to, (at, outcome)| {
        to.time(at);
        to.byte(number_of(&OfferOutcome::ALL, &outcome));
    });
}

fn read_offer(from: &mut Reader<'_, '_>) -> Result<Offer, String> {
    Ok(Offer {
        match_id: from.id()?,
        request_id: from.id()?,
        driver_id: from.id()?,
        passenger_id: from.id()?,
        found_at: from.time()?,
        expires_at: from.time()?,
        accepted_at: from.option(Reader::time)?,
        ended: from.option(|from| Ok((from.time()?, nth(&OfferOutcome::ALL, from)?)))?,
    })
}

fn write_ride(to: &mut Writer<'_>, row: &Ride) {
    for id in [row.ride_id.0, row.match_id.0, row.driver_id.0, row.passenger_id.0] {
        to.id(id);
    }
    to.time(row.began_at);
    to.option(row.ended_at, Writer::time);
    to.bool(row.driver_cancelled);
    to.option(row.expected_end, |to, (at, place)| {
        to.time(at);
        to.position(&place);
    });
}

fn read_ride(from: &mut Reader<'_, '_>) -> Result<Ride, String> {
    Ok(Ride {
        ride_id: from.id()?,
        match_id: from.id()?,
        driver_id: from.id()?,
        passenger_id: from.id()?,
        began_at: from.time()?,
        ended_at: from.option(Reader::time)?,
        driver_cancelled: from.bool()?,
        expected_end: from.option(|from| Ok((from.time()?, from.position()?)))?,
    })
}
