//! Every code of a problem and of an error frame: its status over HTTP, and what it means. Pure.

/// A code, which stays what it is: programs go by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    pub name: &'static str,
    /// Over HTTP.
    pub status: u16,
    pub meaning: &'static str,
}

/// All codes, by status.
pub const CODES: &[Code] = &[
    code("invalid_json", 400, "The body, or the frame, is not JSON."),
    code("invalid_frame", 400, "A frame is not a JSON object with `id`, `type` and `data`."),
    code("unauthorized", 401, "The access token is missing, wrong, expired, or its sign-in has ended."),
    code("invalid_token", 401, "The refresh token is not valid: sign in again."),
    code("token_reused", 401, "The refresh token was used before: its sign-in has ended."),
    code("invalid_code", 401, "A one-time code is wrong, used or expired."),
    code("forbidden", 403, "Somebody else may do this: another party of the ride, another user."),
    code("not_driver", 403, "Only a driver may do this."),
    code("driver_not_approved", 403, "The driver is not approved yet, or is suspended."),
    code("documents_expired", 403, "A document of the driver has expired."),
    code("not_found", 404, "There is none, or it is another user's."),
    code("no_such_route", 404, "There is no such path."),
    code("method_not_allowed", 405, "The path does not have this method; the header `Allow` names those that it has."),
    code("body_too_slow", 408, "The body did not arrive in time."),
    code("already_driver", 409, "The user is a driver already, with another vehicle."),
    code("already_rated", 409, "The ride was rated otherwise before."),
    code("debt_open", 409, "Something is owed for a ride."),
    code("key_reused", 409, "This Idempotency-Key was used for another act, or with another body."),
    code("no_sign_in", 409, "The access token names no sign-in."),
    code("not_captured", 409, "Nothing was captured for this ride."),
    code("not_requeued", 409, "Nobody runs who handles the dead letter, or it failed again; the letter stays."),
    code("offer_closed", 409, "The offer has ended."),
    code("offer_expired", 409, "The offer was not answered in time."),
    code("phone_taken", 409, "Another account has this number."),
    code("pin_locked", 409, "Too many wrong PINs: `allowed_at` says when the next try is allowed."),
    code("place_unknown", 409, "The platform does not know where the driver is: send a position first."),
    code("plate_taken", 409, "Another driver has this plate."),
    code("rating_closed", 409, "The ride ended too long ago to be rated."),
    code("refund_too_large", 409, "More than what was captured and is not refunded yet."),
    code("ride_arrived", 409, "The ride has arrived."),
    code("ride_ended", 409, "The ride is over."),
    code("ride_live", 409, "The user is in a search or in a ride."),
    code("ride_not_arrived", 409, "The ride has not arrived."),
    code("ride_not_over", 409, "The ride is not over."),
    code("ride_not_started", 409, "The ride has not started."),
    code("ride_not_waiting", 409, "The driver does not wait at the pickup."),
    code("ride_over", 409, "The ride was over too long ago."),
    code("ride_started", 409, "The ride has started."),
    code("same_phone", 409, "The number is the user's own already."),
    code("search_fulfilled", 409, "The search has become a ride."),
    code("too_early", 409, "It is too early: `allowed_at` says when it is allowed."),
    code("too_far", 409, "The driver is too far from the pickup."),
    code("too_many_notes", 409, "The ride has as many notes as it may have."),
    code("too_many_shares", 409, "The ride has as many links as it may have."),
    code("wrong_pin", 409, "The PIN is not the one that the passenger has."),
    code("share_ended", 410, "The link was revoked, or the ride is over."),
    code("body_too_large", 413, "The body is too large."),
    code("frame_too_large", 413, "A frame has more than 64 KiB."),
    code("unsupported_media_type", 415, "The body is not declared as JSON."),
    code("invalid_field", 422, "A field is missing, malformed or out of range; `field` names it."),
    code("out_of_area", 422, "No market serves this trip; `field` names the place."),
    code("unknown_type", 422, "There is no such command."),
    code("upgrade_required", 426, "The path is a WebSocket, and the request is no handshake."),
    code("too_many_requests", 429, "A limit is reached; `limit` names it, and Retry-After says when to try again."),
    code("too_fast", 429, "Too many frames: the socket is closed with 4009."),
    code("too_slow", 429, "The client reads too slowly: the socket is closed with 4008."),
    code("unavailable", 503, "Not possible at the moment: the same request may succeed later, and is safe to repeat."),
    code("acts_full", 503, "The stream of operators' acts is full: nothing was done."),
    code("busy", 503, "Others do the same at the moment: nothing was done."),
    code("outcome_unknown", 503, "Whether it was done is not known: repeat it with the same Idempotency-Key."),
    code("overloaded", 503, "The process has too much to do: the same request may succeed later."),
];

const fn code(name: &'static str, status: u16, meaning: &'static str) -> Code {
    Code { name, status, meaning }
}

/// The code of that name.
pub fn find(name: &str) -> Option<&'static Code> {
    CODES.iter().find(|code| code.name == name)
}
