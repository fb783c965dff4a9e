//! The one table of core subjects that services use among themselves: who publishes and who subscribes, which permissions are made of, and
//! what is sent, which the AsyncAPI document is made of. Pure.

use matching::record::explain::Explanation;
use platform::api::{SchemaOf, Schemas};
use serde_json::{Value, json};
use streams::Service;
use streams::connected_drivers::{CONNECTED_DRIVERS, ConnectedDrivers, ConnectedDriversRequest};
use streams::contacts::{CONTACTS, Contacts, ContactsRequest};
use streams::debts::{DEBTS, DebtView, DebtsRequest};
use streams::driven_distance::{DRIVEN_DISTANCE, DrivenDistance, DrivenDistanceRequest};
use streams::explanation::{EXPLANATION, ExplanationReply, ExplanationRequest};
use streams::fleet::{FLEET, FLEET_QUEUE_GROUP, FleetReply, FleetRequest};
use streams::match_zones::{ZONE_INPUTS, ZONE_POSITIONS, ZonePositions};
use streams::missed_offers::{MISSED_OFFERS, MissedOffersReply, MissedOffersRequest};
use streams::newest_position::{NEWEST_POSITION, NewestPosition, NewestPositionRequest};
use streams::operators::{LOCATION_OPERATORS, OperatorReply, RIDES_OPERATORS, USERS_OPERATORS};
use streams::parties::{PARTIES, Parties, PartiesRequest};
use streams::person::{PERSON, PersonPage, PersonRequest};
use streams::pods::{HEARTBEAT, Heartbeat, PodHealth, SharedObservation, TOPOLOGY};
use streams::position_progress::{POSITION_PROGRESS, PositionProgress};
use streams::ratings::{MeanRating, RATINGS, RatingsRequest};
use streams::ride_command::{EndSearch, RIDE_COMMANDS, RideCommand, RideReply};
use streams::sign_ins::{SIGN_INS_ENDED, SIGN_INS_LIST};

/// A core subject that services use among themselves: who publishes it, and who subscribes.
pub struct CoreSubject {
    pub pattern: &'static str,
    /// With a queue group, only members of it may subscribe.
    pub queue_group: Option<&'static str>,
    pub publishers: &'static [Service],
    pub subscribers: &'static [Service],
    pub summary: &'static str,
    pub body: Body,
    /// The reply, if it is a request.
    pub reply: Option<Body>,
}

/// What a message has in it.
#[derive(Clone, Copy)]
pub enum Body {
    Json(SchemaOf),
    /// Of a service, which describes it.
    Own,
    /// JSON that is sealed by a key of the platform.
    Sealed,
}

fn rides_request(schemas: &mut Schemas) -> Value {
    json!({"anyOf": [schemas.written::<RideCommand>(), schemas.written::<EndSearch>()]})
}

fn operators_request(_: &mut Schemas) -> Value {
    json!({"type": "string", "contentMediaType": "application/octet-stream",
           "description": "64 hexadecimal digits, a keyed hash of what follows: the request as JSON. Only processes of the platform have the key."})
}

fn person_reply(schemas: &mut Schemas) -> Value {
    json!({"anyOf": [schemas.written::<PersonPage>(), {"type": "boolean"}]})
}

/// Every core subject but those of health, the service API, dead letters and inboxes, which all services have.
pub const CORE_SUBJECTS: &[CoreSubject] = {
    use Body::{Json, Own, Sealed};
    use Service::{Location, Match, Rides, Users};
    const ALL: &[Service] = &Service::ALL;
    const fn subject(
        pattern: &'static str,
        publishers: &'static [Service],
        subscribers: &'static [Service],
        summary: &'static str,
        body: Body,
    ) -> CoreSubject {
        CoreSubject { pattern, queue_group: None, publishers, subscribers, summary, body, reply: None }
    }
    const fn request(of: CoreSubject, reply: SchemaOf) -> CoreSubject {
        CoreSubject { reply: Some(Json(reply)), ..of }
    }
    const fn sealed(of: CoreSubject) -> CoreSubject {
        CoreSubject { reply: Some(Sealed), ..of }
    }
    /// Only a process that has the secrets asks as an operator does.
    const fn operators(pattern: &'static str, subscribers: &'static [Service], summary: &'static str) -> CoreSubject {
        let of = subject(pattern, ALL, subscribers, summary, Json(operators_request));
        request(of, Schemas::written::<OperatorReply>)
    }
    const fn in_group(group: &'static str, of: CoreSubject) -> CoreSubject {
        CoreSubject { queue_group: Some(group), ..of }
    }
    &[
        request(
            subject(RIDE_COMMANDS, &[Users], &[Rides], "A client's command on a ride.", Json(rides_request)),
            Schemas::written::<RideReply>,
        ),
        request(
            subject(DEBTS, &[Users], &[Rides], "What somebody owes.", Json(Schemas::written::<DebtsRequest>)),
            Schemas::written::<Vec<DebtView>>,
        ),
        in_group(
            MISSED_OFFERS,
            request(
                subject(
                    MISSED_OFFERS,
                    &[Users],
                    &[Match],
                    "Why others were offered the searches around a driver.",
                    Json(Schemas::written::<MissedOffersRequest>),
                ),
                Schemas::written::<MissedOffersReply>,
            ),
        ),
        // Of operators, by whichever process serves them. Nothing follows from it.
        in_group(
            EXPLANATION,
            request(
                subject(
                    EXPLANATION,
                    ALL,
                    &[Match],
                    "Why a driver was offered a search.",
                    Json(Schemas::written::<ExplanationRequest>),
                ),
                Schemas::written::<ExplanationReply<Explanation>>,
            ),
        ),
        request(
            subject(RATINGS, &[Users], &[Rides], "The means of ratings.", Json(Schemas::written::<RatingsRequest>)),
            Schemas::written::<Vec<MeanRating>>,
        ),
        request(
            subject(
                PERSON,
                &[Users],
                &[Rides],
                "What rides stores of a person.",
                Json(Schemas::written::<PersonRequest>),
            ),
            person_reply,
        ),
        request(
            subject(
                PARTIES,
                &[Rides],
                &[Users],
                "Who the parties of a ride are.",
                Json(Schemas::written::<PartiesRequest>),
            ),
            Schemas::written::<Parties>,
        ),
        request(
            subject(CONTACTS, &[Rides], &[Users], "How they are reached.", Json(Schemas::written::<ContactsRequest>)),
            Schemas::written::<Contacts>,
        ),
        operators(USERS_OPERATORS, &[Users], "What an operator asks of users."),
        operators(RIDES_OPERATORS, &[Rides], "What an operator asks of rides."),
        operators(LOCATION_OPERATORS, &[Location], "What an operator asks of location."),
        CoreSubject {
            reply: Some(Own),
            ..subject("users.pod.*", &[Users], &[Users], "Frames for people whose sockets this pod holds.", Own)
        },
        subject("users.broadcast", &[Users], &[Users], "The same for all pods.", Own),
        subject("users.session.*.notify", &[Users], &[Users], "Of processes of the version before.", Own),
        subject(SIGN_INS_ENDED, &[Users], ALL, "Sign-ins that have just ended.", Sealed),
        sealed(subject(SIGN_INS_LIST, &[Match, Rides, Location], &[Users], "Sign-ins that have ended.", Sealed)),
        subject("location.live.*", &[Users], &[Users], "The live lane: a ride's newest position.", Own),
        request(
            subject(
                CONNECTED_DRIVERS,
                &[Users, Match, Location],
                &[Users],
                "Where the drivers are who have a socket; each pod for itself.",
                Json(Schemas::written::<ConnectedDriversRequest>),
            ),
            Schemas::written::<ConnectedDrivers>,
        ),
        in_group(
            FLEET_QUEUE_GROUP,
            request(
                subject(
                    NEWEST_POSITION,
                    &[Users, Rides],
                    &[Location],
                    "Where a driver is.",
                    Json(Schemas::written::<NewestPositionRequest>),
                ),
                Schemas::written::<Option<NewestPosition>>,
            ),
        ),
        in_group(
            FLEET_QUEUE_GROUP,
            request(
                subject(
                    DRIVEN_DISTANCE,
                    &[Rides],
                    &[Location],
                    "How far a cancelled ride came.",
                    Json(Schemas::written::<DrivenDistanceRequest>),
                ),
                Schemas::written::<DrivenDistance>,
            ),
        ),
        subject(
            POSITION_PROGRESS,
            &[Match, Location],
            &[Users],
            "How far a reader of positions is.",
            Json(Schemas::written::<PositionProgress>),
        ),
        subject(
            "location.service.heard",
            &[Location],
            &[Location],
            "That a process of location is there, and what all of them need.",
            Own,
        ),
        subject("location.pod.*", &[Location], &[Location], "Positions for the owner of their zones.", Own),
        CoreSubject {
            reply: Some(Own),
            ..subject("location.pod.*.drivers", &[Location], &[Location], "Questions to the owner of zones.", Own)
        },
        request(
            subject(FLEET, &[Match], &[Location], "Where all drivers are.", Json(Schemas::written::<FleetRequest>)),
            Schemas::written::<FleetReply>,
        ),
        subject(
            ZONE_INPUTS,
            &[Match],
            &[Match],
            "The number of a zone of match for which something waits.",
            Json(Schemas::written::<u16>),
        ),
        subject(
            ZONE_POSITIONS,
            &[Match],
            &[Match],
            "Positions around a zone of match.",
            Json(Schemas::written::<ZonePositions>),
        ),
        subject(HEARTBEAT, ALL, ALL, "Each pod every 5 s.", Json(Schemas::written::<Heartbeat>)),
        CoreSubject {
            reply: Some(Json(Schemas::written::<PodHealth>)),
            ..subject("pods.*.health", ALL, &[], "How a process is.", Json(|_| json!({})))
        },
        subject(
            TOPOLOGY,
            ALL,
            ALL,
            "What one process observed of the topology.",
            Json(Schemas::written::<SharedObservation>),
        ),
    ]
};
