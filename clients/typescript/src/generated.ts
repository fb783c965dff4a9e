// Written by scripts/generate.js from the platform's OpenAPI and AsyncAPI documents: do not edit.

/** What a client sends over the socket: the `data` of each type. */
export interface Commands {
  /** The socket goes by another access token from now on. */
  "auth.refresh": AuthRefresh;
  /** A driver goes on or off duty. */
  "beacon.update": BeaconUpdate;
  /** A passenger begins or ends a search. */
  "finder.update": FinderUpdate;
  /** A driver's position, or several. */
  "location.update": LocationData;
  /** This device has all events up to a `seq`. */
  "mailbox.ack": MailboxAck;
  /** The driver accepts an offer. */
  "match.accept": MatchAccept;
  /** The driver declines an offer. */
  "match.reject": MatchReject;
  /** The vehicle is at the dropoff. */
  "ride.arrive": RideArrive;
  /** Driver or passenger ends the ride. */
  "ride.cancel": RideCancel;
  /** The passenger is in the vehicle. */
  "ride.start": RideStart;
  /** The driver waits at the pickup. */
  "ride.wait": RideWait;
}

/** The events of a user's mailbox, which have a `seq`: the `data` of each type. */
export interface Events {
  /** The distance of a ride so far. */
  "location.aggregate": LocationAggregate;
  /** The driver accepted the offer. */
  "match.accepted": AcceptedFrame;
  /** A driver is proposed to a passenger. */
  "match.found": FoundFrame;
  /** An offer ended without a ride. */
  "match.rejected": MatchRejected;
  /** The vehicle is at the dropoff. */
  "ride.arrived": (RideEvent & {
    status?: "arrived";
  }) & RideJoined;
  /** Driver, passenger or platform ended the ride early; final. */
  "ride.cancelled": (RideEvent & {
    status?: "cancelled";
    by: {} | null;
    reason: {} | null;
    fee: {} | null;
  }) & RideJoined;
  /** The fare is known; final. */
  "ride.completed": (RideEvent & {
    status?: "completed";
    distance_m: {} | null;
    duration_s: {} | null;
    fare: {} | null;
    platform_fee: {} | null;
    driver_payout: {} | null;
  }) & RideJoined;
  /** The ride exists; the driver is on the way. */
  "ride.pickup": (RideEvent & {
    status?: "pickup";
  }) & RideJoined;
  /** The passenger is in the vehicle. */
  "ride.started": (RideEvent & {
    status?: "started";
  }) & RideJoined;
  /** The driver waits at the pickup. */
  "ride.waiting": (RideEvent & {
    status?: "waiting";
  }) & RideJoined;
  /** A driver went on or off duty, or moved while waiting. */
  "user.beacon": UserBeacon;
  /** A passenger began or ended a search. */
  "user.finder": FinderFrame;
}

/** What else the server sends: the `data` of each type. */
export interface Frames {
  /** To the passenger of a live ride: where the driver is. The next one takes its place. */
  "location.live": LiveView;
  /** Events of this range are no longer there. */
  "missed": MissedRange;
  /** The first frame of a socket. */
  "welcome": Welcome;
}

/** The routes of HTTP. */
export interface Routes {
  /** End a sign-in of the caller. */
  "DELETE /v1/auth/sign-ins/{id}": {
    path: {
      id: SignInId;
    };
    query: never;
    body: never;
    answer: undefined;
  };
  /** Remove a device, named in the body. */
  "DELETE /v1/devices": {
    path: never;
    query: never;
    body: DeviceRemoval;
    answer: undefined;
  };
  /** Remove a device. */
  "DELETE /v1/devices/{id}": {
    path: {
      id: string;
    };
    query: never;
    body: never;
    answer: undefined;
  };
  /** Delete the account. */
  "DELETE /v1/me": {
    path: never;
    query: never;
    body: never;
    answer: undefined;
  };
  /** Revoke a link. */
  "DELETE /v1/rides/{id}/share/{share_id}": {
    path: {
      id: RideId;
      share_id: string;
    };
    query: never;
    body: never;
    answer: undefined;
  };
  /** The caller's sign-ins. */
  "GET /v1/auth/sign-ins": {
    path: never;
    query: never;
    body: never;
    answer: SignInList;
  };
  /** The caller's devices. */
  "GET /v1/devices": {
    path: never;
    query: never;
    body: never;
    answer: DeviceList;
  };
  /** Roughly where free drivers are, without who they are. */
  "GET /v1/drivers/nearby": {
    path: never;
    query: {
      lat: number;
      /** 10 without it. */
      limit?: number;
      lng: number;
      /** 2000 without it. */
      radius_m?: number;
    };
    body: never;
    answer: NearbyDrivers;
  };
  /** Distance, duration and fare of a trip. */
  "GET /v1/estimates": {
    path: never;
    query: {
      /** `lat,lng` in degrees. */
      dropoff: string;
      /** `lat,lng` in degrees. */
      pickup: string;
      /** What a driver drives and a passenger asks for. */
      vehicle_type: "car" | "motorcycle" | "van";
    };
    body: never;
    answer: Estimate;
  };
  /** The caller's profile. */
  "GET /v1/me": {
    path: never;
    query: never;
    body: never;
    answer: Profile;
  };
  /** All that is stored of the caller. */
  "GET /v1/me/export": {
    path: never;
    query: never;
    body: never;
    answer: Export;
  };
  /** Why others were offered the searches around the caller, a driver. */
  "GET /v1/me/missed-offers": {
    path: never;
    query: {
      /** 15 minutes ago without it; at most an hour ago. */
      since?: string;
    };
    body: never;
    answer: MissedOffers;
  };
  /** The caller's rides, the newest first. */
  "GET /v1/rides": {
    path: never;
    query: {
      /** The `next_cursor` of an earlier answer. */
      cursor?: string;
      /** 20 without it. */
      limit?: number;
    };
    body: never;
    answer: RidePage;
  };
  /** A ride of the caller. */
  "GET /v1/rides/{id}": {
    path: {
      id: RideId;
    };
    query: never;
    body: never;
    answer: Ride;
  };
  /** The caller's open links of a ride. */
  "GET /v1/rides/{id}/share": {
    path: {
      id: RideId;
    };
    query: never;
    body: never;
    answer: ShareList;
  };
  /** The ride of a link. */
  "GET /v1/shares/{token}": {
    path: {
      token: string;
    };
    query: never;
    body: never;
    answer: SharedRide;
  };
  /** Everything that a client needs to draw its screen. */
  "GET /v1/state": {
    path: never;
    query: never;
    body: never;
    answer: State;
  };
  /** Change the vehicle. */
  "PATCH /v1/drivers": {
    path: never;
    query: never;
    body: VehiclePatch;
    answer: Profile;
  };
  /** Change the caller's profile. */
  "PATCH /v1/me": {
    path: never;
    query: never;
    body: ProfilePatch;
    answer: Profile;
  };
  /** Send a one-time code to a phone. */
  "POST /v1/auth/otp": {
    path: never;
    query: never;
    body: CodeRequest;
    answer: CodeResponse;
  };
  /** New tokens for a refresh token, which works once. */
  "POST /v1/auth/refresh": {
    path: never;
    query: never;
    body: RefreshRequest;
    answer: SignedInTokens;
  };
  /** End this sign-in, or all of the caller's. */
  "POST /v1/auth/sign-out": {
    path: never;
    query: never;
    body: SignOutRequest;
    answer: undefined;
  };
  /** Sign in with a code. An unknown phone becomes a passenger. */
  "POST /v1/auth/token": {
    path: never;
    query: never;
    body: TokenRequest;
    answer: SignedInTokens;
  };
  /** One command, as over the socket: the same body, the same codes, the same idempotence. */
  "POST /v1/commands": {
    path: never;
    query: {
      /** The installation of the app, of its own choosing; in the query or in the body. */
      device?: string;
    };
    body: {
      data: LocationData;
      /** 1 to 64 visible characters; the `device` of the query goes before it. */
      device?: string | null;
      /** Any JSON of at most 128 bytes as a string, 1024 as anything else; the answer repeats it. */
      id?: unknown;
      /** The W3C trace context of the client, a text; anything else counts as none. */
      traceparent?: unknown;
      type: "location.update";
    } | {
      data: BeaconUpdate;
      /** 1 to 64 visible characters; the `device` of the query goes before it. */
      device?: string | null;
      /** Any JSON of at most 128 bytes as a string, 1024 as anything else; the answer repeats it. */
      id?: unknown;
      /** The W3C trace context of the client, a text; anything else counts as none. */
      traceparent?: unknown;
      type: "beacon.update";
    } | {
      data: FinderUpdate;
      /** 1 to 64 visible characters; the `device` of the query goes before it. */
      device?: string | null;
      /** Any JSON of at most 128 bytes as a string, 1024 as anything else; the answer repeats it. */
      id?: unknown;
      /** The W3C trace context of the client, a text; anything else counts as none. */
      traceparent?: unknown;
      type: "finder.update";
    } | {
      data: MatchAccept;
      /** 1 to 64 visible characters; the `device` of the query goes before it. */
      device?: string | null;
      /** Any JSON of at most 128 bytes as a string, 1024 as anything else; the answer repeats it. */
      id?: unknown;
      /** The W3C trace context of the client, a text; anything else counts as none. */
      traceparent?: unknown;
      type: "match.accept";
    } | {
      data: MatchReject;
      /** 1 to 64 visible characters; the `device` of the query goes before it. */
      device?: string | null;
      /** Any JSON of at most 128 bytes as a string, 1024 as anything else; the answer repeats it. */
      id?: unknown;
      /** The W3C trace context of the client, a text; anything else counts as none. */
      traceparent?: unknown;
      type: "match.reject";
    } | {
      data: RideWait;
      /** 1 to 64 visible characters; the `device` of the query goes before it. */
      device?: string | null;
      /** Any JSON of at most 128 bytes as a string, 1024 as anything else; the answer repeats it. */
      id?: unknown;
      /** The W3C trace context of the client, a text; anything else counts as none. */
      traceparent?: unknown;
      type: "ride.wait";
    } | {
      data: RideStart;
      /** 1 to 64 visible characters; the `device` of the query goes before it. */
      device?: string | null;
      /** Any JSON of at most 128 bytes as a string, 1024 as anything else; the answer repeats it. */
      id?: unknown;
      /** The W3C trace context of the client, a text; anything else counts as none. */
      traceparent?: unknown;
      type: "ride.start";
    } | {
      data: RideArrive;
      /** 1 to 64 visible characters; the `device` of the query goes before it. */
      device?: string | null;
      /** Any JSON of at most 128 bytes as a string, 1024 as anything else; the answer repeats it. */
      id?: unknown;
      /** The W3C trace context of the client, a text; anything else counts as none. */
      traceparent?: unknown;
      type: "ride.arrive";
    } | {
      data: RideCancel;
      /** 1 to 64 visible characters; the `device` of the query goes before it. */
      device?: string | null;
      /** Any JSON of at most 128 bytes as a string, 1024 as anything else; the answer repeats it. */
      id?: unknown;
      /** The W3C trace context of the client, a text; anything else counts as none. */
      traceparent?: unknown;
      type: "ride.cancel";
    } | {
      data: MailboxAck;
      /** 1 to 64 visible characters; the `device` of the query goes before it. */
      device?: string | null;
      /** Any JSON of at most 128 bytes as a string, 1024 as anything else; the answer repeats it. */
      id?: unknown;
      /** The W3C trace context of the client, a text; anything else counts as none. */
      traceparent?: unknown;
      type: "mailbox.ack";
    };
    answer: AckData;
  };
  /** Register a device for pushes. */
  "POST /v1/devices": {
    path: never;
    query: never;
    body: DeviceRegistration;
    answer: RegisteredDevice;
  };
  /** Become a driver. */
  "POST /v1/drivers": {
    path: never;
    query: never;
    body: DriverRegistration;
    answer: Profile;
  };
  /** Ask for another phone number: a code goes to the old and to the new one. */
  "POST /v1/me/phone": {
    path: never;
    query: never;
    body: PhoneChangeRequest;
    answer: PhoneChange;
  };
  /** Change the phone number, with both codes. */
  "POST /v1/me/phone/confirm": {
    path: never;
    query: never;
    body: PhoneChangeConfirmation;
    answer: Profile;
  };
  /** Rate the other party, once, within 72 hours of the end. */
  "POST /v1/rides/{id}/rating": {
    path: {
      id: RideId;
    };
    query: never;
    body: RatingRequest;
    answer: RatingGiven;
  };
  /** Make a link by which anybody sees the ride. */
  "POST /v1/rides/{id}/share": {
    path: {
      id: RideId;
    };
    query: never;
    body: never;
    answer: NewShare;
  };
  /** Call for help. A repeat is the same call. */
  "POST /v1/rides/{id}/sos": {
    path: {
      id: RideId;
    };
    query: never;
    body: SosRequest;
    answer: SosAlert;
  };
}

/** Why a frame or a request is refused. A later platform may have more. */
export type ErrorCode =
  | "acts_full"
  | "already_driver"
  | "already_rated"
  | "body_too_large"
  | "body_too_slow"
  | "busy"
  | "debt_open"
  | "documents_expired"
  | "driver_not_approved"
  | "forbidden"
  | "frame_too_large"
  | "invalid_code"
  | "invalid_field"
  | "invalid_frame"
  | "invalid_json"
  | "invalid_token"
  | "key_reused"
  | "method_not_allowed"
  | "no_sign_in"
  | "no_such_route"
  | "not_captured"
  | "not_driver"
  | "not_found"
  | "not_requeued"
  | "offer_closed"
  | "offer_expired"
  | "out_of_area"
  | "outcome_unknown"
  | "overloaded"
  | "phone_taken"
  | "pin_locked"
  | "place_unknown"
  | "plate_taken"
  | "rating_closed"
  | "refund_too_large"
  | "ride_arrived"
  | "ride_ended"
  | "ride_live"
  | "ride_not_arrived"
  | "ride_not_over"
  | "ride_not_started"
  | "ride_not_waiting"
  | "ride_over"
  | "ride_started"
  | "same_phone"
  | "search_fulfilled"
  | "share_ended"
  | "token_reused"
  | "too_early"
  | "too_far"
  | "too_fast"
  | "too_many_notes"
  | "too_many_requests"
  | "too_many_shares"
  | "too_slow"
  | "unauthorized"
  | "unavailable"
  | "unknown_type"
  | "unsupported_media_type"
  | "upgrade_required"
  | "wrong_pin";

/** A match.accepted as one of its parties is shown it. */
export type AcceptedFrame = {
  /** When users committed the driver's answer. */
  accepted_at: string;
  /** To the passenger, until a day after the event: null if the account is gone. */
  driver?: DriverView | null;
  /** The driver of the ride to be. */
  driver_id: UserId;
  /** Where the ride ends. */
  dropoff: Position;
  /** With match.found: until it expires, seconds; 0 if it has. */
  expires_in_s?: number | null;
  /** That of the offer; an event of the version before has none. */
  market_id?: string | null;
  /** The offer; the entity of the message id. At most one ride comes from it. */
  match_id: MatchId;
  /** To the driver, from match.accepted on until a day after the event: null if the account is gone. */
  passenger?: PassengerView | null;
  /** The passenger of the ride to be. */
  passenger_id: UserId;
  /** Where the ride begins. */
  pickup: Position;
  /** The search that is fulfilled. */
  request_id: RequestId;
  /** Those of the offer: what the ride costs. An event of the version before has none, and what clients receive neither. */
  terms?: RideTerms | null;
  /** The type that the passenger asked for and the driver drives. */
  vehicle_type: VehicleType;
};

/** The data of an `ack`. */
export type AckData = BeaconAck | SearchAck | PositionsAck | OfferAck | RideAck | MailboxAcked;

/** One act of an operator; the same on every try. */
export type ActId = string;

export type AuthRefresh = {
  /** Of the same user. */
  access_token: string;
};

/** A driver's beacon: the fields of its user.beacon, of which `active` is what the driver wants. */
export type Beacon = {
  /** Whether match may offer rides to the driver. */
  active: boolean;
  /** Whether a socket is open: with both, offers come. */
  connected: boolean;
  /** The device that sent the newest active `beacon.update`, as users names it: the driver's device between rides. Absent from a foreign producer's message. */
  device?: string | null;
  /** When users received `location`, by its clock. A beacon that only says that a socket opened or closed repeats an older position. Absent: at `recorded_at`. */
  located_at?: string | null;
  /** The driver's newest position as users knows it. */
  location: Position;
  /** By the clock of users, not the device. */
  recorded_at: string;
  /** The driver; the entity of the message id. */
  user_id: UserId;
  /** Match offers only requests for this type. */
  vehicle_type: VehicleType;
};

/** `beacon.update` */
export type BeaconAck = {
  /** What the driver wants from now on. */
  active: boolean;
};

export type BeaconUpdate = {
  /** Whether the driver wants to be offered rides. */
  active: boolean;
  /** Required to become active. */
  location?: Position | null;
};

/** A browser's subscription, as `PushSubscription.toJSON()` has it. What else is in it is ignored. */
export type BrowserSubscription = {
  endpoint: string;
  keys: SubscriptionKeys;
};

/** Why somebody cancels a ride, for programs. The words are in `reason` or `note`. */
export type CancelCode = "changed_mind" | "driver_too_far" | "wrong_pickup" | "no_show" | "vehicle_problem" | "unsafe" | "other";

/** The end of a cancelled ride. */
export type Cancellation = {
  by: Party;
  fee: Money;
  note: string | null;
  reason: string;
  reason_code: CancelCode | null;
};

/** The ride that a search had become until its driver cancelled it. */
export type CancelledRide = {
  /** Who cancelled it, and is not offered this search again. */
  driver_id: UserId;
  /** Its match. */
  match_id: MatchId;
  /** The ride. */
  ride_id: RideId;
};

/** What a client must keep to. */
export type ClientLimits = {
  /** Every limit that counts by user, sign-in or socket, by its name. */
  by_name: Record<string, NamedLimit>;
  frame_bytes: number;
  frames_per_s: number;
  points_per_message: number;
  /** A socket over which nothing comes for so long is closed. */
  silence_s: number;
  sockets_per_user: number;
  /** A point that would need more than so many metres a second is left out of a ride's distance. */
  track_max_speed_mps: number;
};

export type CodeRequest = {
  /** E.164; spaces, dots, hyphens and parentheses in it are left out. */
  phone: string;
};

export type CodeResponse = {
  /** Only with `OTP_DELIVERY=response`. */
  code?: string | null;
  /** Seconds. */
  expires_in_s: number;
  /** Whoever presents the code with it is the one who requested it. */
  request_id: string;
};

/** ISO 4217 code of the currency of an amount: three capital letters. The code decides what the minor unit is: the cent of USD, the yen itself of JPY. */
export type Currency = string;

/** What a passenger owes for a ride. The reply is a list of them, the oldest first. */
export type DebtView = {
  /** What is owed. */
  amount: Money;
  /** That of the payment that was refused. */
  debt_id: PaymentId;
  /** The ride. */
  ride_id: RideId;
  /** Since when. */
  since: string;
};

/** Where the vehicle of a live ride is going. A ride goes from the first to the second, and never back. */
export type Destination = "dropoff" | "pickup";

/** A device as its owner is shown it. */
export type Device = {
  created_at: string;
  /** In the list: whether the caller's sign-in registered it. */
  current?: boolean | null;
  device_id: string;
  platform: PushPlatform;
  /** Its end alone: who has the whole can send to the device. */
  token: string;
};

export type DeviceList = {
  devices: Device[];
  /** With it a browser subscribes; null if this platform does not push to browsers. */
  vapid_public_key: string | null;
};

export type DeviceRegistration = {
  platform: PushPlatform;
  /** A registration token of FCM, a device token of APNs, the subscription of a browser (as an object or as its text), or the https address of a webhook. */
  token: DeviceToken;
};

export type DeviceRemoval = {
  device_id: string;
};

/** What a client may give as a token. */
export type DeviceToken = string | BrowserSubscription;

/** What a document is. */
export type DocumentKind = "licence" | "insurance" | "registration" | "inspection" | "other";

/** What a user drives, and whether they may. */
export type Driver = {
  color: string | null;
  make: string | null;
  model: string | null;
  /** As it is shown, see `plate::normalize`. */
  plate: string;
  status: DriverStatus;
  vehicle_type: VehicleType;
};

/** A document as operators and its driver see it. */
export type DriverDocument = {
  expired: boolean;
  expires_on: string;
  kind: DocumentKind;
  number: string | null;
};

export type DriverRegistration = {
  color?: string | null;
  make?: string | null;
  model?: string | null;
  /** 1 to 16 letters or digits of any script, and spaces and hyphens. */
  plate: string;
  vehicle_type: VehicleType;
};

/** Whether a driver may be offered rides. */
export type DriverStatus = "approved" | "pending" | "suspended";

/** A driver as the passenger sees them. */
export type DriverView = {
  /** Of the vehicle. */
  color: string | null;
  /** `None` if it was not given, as with the next two. */
  make: string | null;
  /** Of the vehicle. */
  model: string | null;
  /** `None` if they gave none. */
  name: string | null;
  /** As it is on the vehicle. */
  plate: string;
  /** The mean of their ratings; `None` before there is one. */
  rating: number | null;
  /** What they drive. */
  vehicle_type: VehicleType;
};

/** What a trip is expected to cost. */
export type Estimate = {
  distance_m: number;
  duration_s: number;
  /** False: distance and time are those of a street network. True: the great circle times 1.3. */
  estimated: boolean;
  fare: Fare;
  market_id: string;
  vehicle_type: VehicleType;
};

/** All that is stored of a person. */
export type Export = {
  created_at: string | null;
  /** Installations of the app that have read the mailbox. */
  devices: ExportedDevice[];
  driver_documents: DriverDocument[];
  /** Whether an operator has approved the driver. */
  driver_reviewed: boolean;
  driver_since: string | null;
  exported_at: string;
  mailbox: ExportedMailbox;
  not_exported: NotExported[];
  profile: Profile;
  push_devices: Device[];
  ratings_given: RatingGiven[];
  ratings_received: RatingReceived[];
  refunds: RefundReceived[];
  rides: ExportedRides;
  shares: ShareMade[];
  sign_ins: ExportedSignIn[];
  sos_alerts: SosRaised[];
  state: ExportedState;
  /** The lists with more entries than an export has. */
  truncated: string[];
};

export type ExportedDevice = {
  acked_seq: number;
  device: string;
  seen_at: string;
};

/** As in the frame of the event, without the other party, who is somebody else. */
export type ExportedEvent = {
  data: MailboxData;
  event_id: string;
  seq: number;
  time: string;
  type: string;
};

export type ExportedMailbox = {
  acked_seq: number;
  events: ExportedEvent[];
  last_seq: number;
};

/** They are of another service, which pages them. */
export type ExportedRides = {
  href: string;
};

export type ExportedSignIn = {
  created_at: string;
  device: string | null;
  ended_at: string | null;
  ends_at: string;
  id: SignInId;
  seen_at: string;
};

export type ExportedState = {
  beacon: Beacon | null;
  debts: DebtView[] | null;
  offer: StateOffer | null;
  ride: StateRide | null;
  search: UserFinder | null;
};

/** What the passenger pays; the lines add up to the total. */
export type Fare = {
  /** True if the distance is the estimate, because no final aggregate came in time. */
  estimated?: boolean;
  /** In the order of a receipt. */
  lines: FareLine[];
  /** The sum of the lines. */
  total: Money;
};

/** One line of a fare. */
export type FareLine = {
  /** What this line adds to the total. */
  amount: Money;
  /** `base`, `distance`, `time`, `minimum` … */
  name: string;
};

/** A user.finder as its passenger is shown it. */
export type FinderFrame = UserFinder | NearEndBody;

export type FinderUpdate = {
  /** True begins a search, and needs the other fields; false ends it. */
  active: boolean;
  dropoff?: Position | null;
  pickup?: Position | null;
  vehicle_type?: VehicleType | null;
};

/** A match.found as one of its parties is shown it. */
export type FoundFrame = {
  /** To the passenger, until a day after the event: null if the account is gone. */
  driver?: DriverView | null;
  /** The driver, held until the offer ends. */
  driver_id: UserId;
  /** The driver's newest position that match knew. */
  driver_location: Position;
  /** Where the ride ends. */
  dropoff: Position;
  /** False: times and distances are those of a street network. True: the great circle times 1.3, at the market's speed. An event of the version before road times has none. */
  estimated?: boolean | null;
  /** The last moment for an answer. */
  expires_at: string;
  /** With match.found: until it expires, seconds; 0 if it has. */
  expires_in_s?: number | null;
  /** The estimated fare; the bill follows the distance driven. */
  fare_estimate: Money;
  /** When match chose the driver. */
  found_at: string;
  /** The market of the pickup; an event of the version before markets has none. */
  market_id?: string | null;
  /** The offer; the entity of the message id. */
  match_id: MatchId;
  /** To the driver, from match.accepted on until a day after the event: null if the account is gone. */
  passenger?: PassengerView | null;
  /** The passenger, held until the offer ends. */
  passenger_id: UserId;
  /** Where the ride begins. */
  pickup: Position;
  /** From the driver to the pickup, metres. */
  pickup_distance_m: number;
  /** From the driver to the pickup, seconds. */
  pickup_eta_s: number;
  /** The search for which match chose the driver. */
  request_id: RequestId;
  /** What the ride costs if it comes of this offer, however tariffs change meanwhile. An event of the version before has none, and what clients receive neither: they see it in ride.pickup. */
  terms?: RideTerms | null;
  /** The type that the passenger asked for and the driver drives. */
  vehicle_type: VehicleType;
} | {
  /** To the passenger, until a day after the event: null if the account is gone. */
  driver?: DriverView | null;
  driver_id: UserId;
  driver_location: Position;
  /** From the pickup, degrees from true north. */
  dropoff_bearing_deg: number;
  /** From the pickup, metres. */
  dropoff_distance_m: number;
  /** False: times and distances are those of a street network. True: the great circle times 1.3. */
  estimated?: boolean | null;
  /** The last moment for an answer. */
  expires_at: string;
  /** With match.found: until it expires, seconds; 0 if it has. */
  expires_in_s?: number | null;
  fare_estimate: Money;
  found_at: string;
  market_id?: string | null;
  match_id: MatchId;
  /** To the driver, from match.accepted on until a day after the event: null if the account is gone. */
  passenger?: PassengerView | null;
  passenger_id: UserId;
  /** To 100 m. */
  pickup: Position;
  /** From the driver to `pickup`, metres. */
  pickup_distance_m: number;
  /** From the driver to `pickup`, seconds. */
  pickup_eta_s: number;
  request_id: RequestId;
  vehicle_type: VehicleType;
};

/** A free driver as others see them: no identity. */
export type FreeDriver = {
  distance_m: number;
  /** To 100 m. */
  position: Position;
  /** To a second. */
  recorded_at: string;
  vehicle_type: VehicleType | null;
};

/** The `data` of a frame `location.live`. */
export type LiveView = {
  /** Seconds, at the usual speed; the session puts in that of the market, or by road. */
  eta_s: number | null;
  eta_to: Destination;
  heading_deg: number | null;
  location: Position;
  recorded_at: string;
  ride_id: RideId;
  speed_mps: number | null;
  stale: boolean;
};

/** The distance of a ride so far. */
export type LocationAggregate = {
  /** The part of the time between start and arrival that the positions show, 0 to 1. Only with the final one; absent from producers that do not know it. */
  covered?: number | null;
  /** Since the ride started, cumulative, metres. */
  distance_m: number;
  /** The driver whose positions make the track. */
  driver_id: UserId;
  /** True for the one after the ride arrived; none follows it. */
  final: boolean;
  /** The newest of them; null if there is none. */
  last: TrackPoint | null;
  /** Points on which the distance rests; GPS jumps do not count. */
  points: number;
  /** The entity of the message id. */
  ride_id: RideId;
};

export type LocationData = {
  /** Null or negative: unknown. */
  accuracy_m?: number | null;
  /** Degrees from true north, to 360. Null or negative: unknown. */
  heading_deg?: number | null;
  /** Required but with `points`. */
  location?: Position | null;
  /** Several positions at once, instead of one. */
  points?: LocationData[] | null;
  /** By the device's clock; required but with `points`. */
  recorded_at?: string | null;
  /** When the device sends it, by its own clock: with it a clock that is wrong is corrected. */
  sent_at?: string | null;
  /** Null or negative: unknown. */
  speed_mps?: number | null;
};

export type MailboxAck = {
  /** This device has all events up to it. */
  seq: number;
};

/** `mailbox.ack` */
export type MailboxAcked = {
  seq: number;
};

/** The data of an event in a mailbox, in the order of their subjects. */
export type MailboxData = UserBeacon | FinderFrame | FoundFrame | AcceptedFrame | MatchRejected | StateRide | LocationAggregate;

export type MatchAccept = {
  match_id: MatchId;
};

/** One offer of a request to one driver. */
export type MatchId = string;

export type MatchReject = {
  match_id: MatchId;
  /** At most 500 bytes; it is not stored. */
  reason?: string | null;
};

/** An offer ended without a ride. Both parties are free again. */
export type MatchRejected = {
  /** The driver, no longer held. */
  driver_id: UserId;
  /** The offer; the entity of the message id. */
  match_id: MatchId;
  /** The passenger, no longer held. */
  passenger_id: UserId;
  /** `declined` comes from users, and so does `cancelled` when the search ended; `cancelled` for another reason and `expired` come from match, `superseded` from rides. */
  reason: RejectReason;
  /** From `MatchRejected::time`, so that two services never publish the same message id. */
  rejected_at: string;
  /** The search, which goes on unless the passenger ended it. */
  request_id: RequestId;
};

/** A search around a driver that somebody else was offered. It names nobody. */
export type MissedOffer = {
  /** When the other driver was offered it, cut to the minute. */
  at: string;
  /** From the driver to that place, great circle, metres, to 100 m. */
  distance_m: number;
  /** By how much the other driver was nearer, metres, to 100 m; negative if they were farther. */
  nearer_by_m: number;
  /** To about 100 m. */
  pickup: Position;
  /** Why the driver was not offered it. */
  why: WhyMissed;
};

export type MissedOffers = {
  /** Since when none is missing; null if match cannot say what came last. */
  complete_since: string | null;
  /** So many older ones are left out. */
  more: number;
  /** The newest first. */
  searches: MissedOffer[];
  since: string;
};

/** The smallest range that holds every entry after a client's `last_seq` that is no longer there. Entries inside it that are still there are sent. */
export type MissedRange = {
  from: number;
  to: number;
};

/** An amount of money in minor units of its currency. */
export type Money = {
  /** Minor units, for example cents; may be negative in a ledger. */
  amount: number;
  /** ISO 4217 code; amounts of two currencies are never added. */
  currency: Currency;
};

/** A limit: how often at once and in the long run, or how many. */
export type NamedLimit = {
  burst: number;
  by: string;
  per_s: number;
} | {
  by: string;
  count: number;
};

/** Its body. */
export type NearEndBody = {
  /** True at the search's beginning, false at its end. */
  active: boolean;
  /** The search had become this ride, which its driver cancelled before the start: it goes on, first in line. */
  continues?: CancelledRide | null;
  /** Where the ride ends. */
  dropoff: Position;
  /** When the search ends by its time; an event of the version before this field has none. */
  expires_at?: string | null;
  /** Until the search ends by itself, seconds. */
  expires_in_s: number;
  /** The market of the pickup; an event of the version before markets has none. */
  market_id?: string | null;
  /** Where the ride begins. */
  pickup: Position;
  /** When the search began, went on or ended, by the clock of users. */
  recorded_at: string;
  /** The search; the entity of the message id. */
  request_id: RequestId;
  /** The passenger, who has at most one search at a time. */
  user_id: UserId;
  /** Only drivers of this type are proposed. */
  vehicle_type: VehicleType;
};

/** Free drivers, the nearest first. */
export type NearbyDrivers = {
  drivers: FreeDriver[];
};

/** A link that was just made. */
export type NewShare = {
  created_at: string;
  /** It ends earlier with the ride. */
  expires_at: string;
  share_id: string;
  /** In this answer alone. */
  token: string;
  /** The page for a browser. */
  url: string;
};

/** What is stored and is not in the export. */
export type NotExported = {
  what: string;
  why: string;
};

/** `match.accept` and `match.reject` */
export type OfferAck = {
  match_id: MatchId;
};

/** Whether an offer can be answered. */
export type OfferStanding = "open" | "accepted";

/** Whether operators know of a call for help. */
export type Operators = "informed" | "not_reached" | "being_informed" | "none";

/** Who ended a ride. */
export type Party = "driver" | "passenger" | "system";

/** A passenger as the driver sees them. */
export type PassengerView = {
  /** `None` if they gave none. */
  name: string | null;
  /** The mean of their ratings; `None` before there is one. */
  rating: number | null;
};

/** How the payment of a ride stands. */
export type Payment = {
  status: PaymentStatus;
};

/** One capture of money; the same on every try. */
export type PaymentId = string;

export type PaymentStatus = "captured" | "pending" | "refused";

export type PhoneChange = {
  change_id: string;
  expires_in_s: number;
  new_code?: string | null;
  /** With `OTP_DELIVERY=response` alone, as the next one. */
  old_code?: string | null;
};

export type PhoneChangeConfirmation = {
  change_id: string;
  new_code: string;
  old_code: string;
};

export type PhoneChangeRequest = {
  /** The new one. */
  phone: string;
};

/** A point on the earth, in degrees, WGS 84. */
export type Position = {
  /** Latitude, −90 to 90. */
  lat: number;
  /** Longitude, −180 to 180. */
  lng: number;
};

/** `location.update` */
export type PositionsAck = {
  /** How many were left out because a newer one took their place. */
  left_out?: number;
  /** How many were taken. */
  points: number;
  /** Points of a batch that are not good. */
  refused?: RefusedPoint[];
};

/** A user as that user sees it: the body of `/v1/me`. */
export type Profile = {
  /** Null for whoever is no driver. */
  driver: Driver | null;
  id: UserId;
  name: string | null;
  /** E.164. */
  phone: string;
  roles: Role[];
};

/** A merge patch (RFC 7396). Fields that a user may not change are ignored, above all roles. */
export type ProfilePatch = {
  /** Absent: the name stays. Null: the name is removed. */
  name?: string | null;
};

export type PushPlatform = "fcm" | "apns" | "webpush" | "webhook";

/** In its ride. */
export type Rating = {
  at: string;
  comment: string | null;
  stars: number;
};

/** A rating that the person gave. */
export type RatingGiven = {
  /** When. */
  at: string;
  /** `None` without one. */
  comment: string | null;
  /** Of whose other party. */
  ride_id: RideId;
  /** 1 to 5. */
  stars: number;
};

/** A rating of the person: without the ride, and with the month alone, because both would say who gave it. */
export type RatingReceived = {
  /** `None` without one. */
  comment: string | null;
  /** Such as `2026-11`. */
  month: string;
  /** 1 to 5. */
  stars: number;
};

export type RatingRequest = {
  /** At most 500 characters. */
  comment?: string | null;
  stars: number;
};

/** `auth.refresh` */
export type RefreshAck = {
  /** When the access token expires, and with it the socket. */
  expires_at: string;
};

export type RefreshRequest = {
  refresh_token: string;
};

/** Money that the person got back, without the operator's name. */
export type RefundReceived = {
  /** What was given back. */
  amount: Money;
  /** When. */
  at: string;
  /** Why; `None` once the account of a party has ended. */
  reason: string | null;
  /** Of the refund. */
  refund_id: ActId;
  /** Of which ride. */
  ride_id: RideId;
};

/** A point of a batch that was left out: what is wrong with which of its fields. */
export type RefusedPoint = {
  field: string;
  index: number;
  message: string;
};

export type RegisteredDevice = {
  device_id: string;
  /** The key of the signatures of a webhook. */
  secret?: string | null;
};

/** Why an offer ended without a ride. */
export type RejectReason = "declined" | "expired" | "cancelled" | "superseded";

/** A passenger's search for a driver. */
export type RequestId = string;

/** A ride as one of its parties sees it. */
export type Ride = {
  arrived_at: string | null;
  /** Null unless somebody has ended the ride early. */
  cancelled: Cancellation | null;
  created_at: string;
  /** Null until it is known. */
  distance_m: number | null;
  /** Of a single ride, to the passenger, until a day after its end: null while it is unknown. */
  driver?: DriverView | null;
  driver_id: UserId;
  driver_payout: Money | null;
  dropoff: Position;
  /** Null until it is known. */
  duration_s: number | null;
  /** Null until it is known. */
  fare: Fare | null;
  /** The market of the pickup. */
  market_id: string | null;
  match_id: MatchId;
  /** Of a single ride, to the driver, until a day after its end: null while it is unknown. */
  passenger?: PassengerView | null;
  passenger_id: UserId;
  payment: Payment | null;
  pickup: Position;
  /** To the passenger, until the ride starts. */
  pin?: string | null;
  platform_fee: Money | null;
  /** Of a single ride: the one that the caller gave, or null. */
  rating?: Rating | null;
  ride_id: RideId;
  started_at: string | null;
  status: RideStatus;
  updated_at: string;
  vehicle_type: VehicleType;
  /** That of its newest event. */
  version: number;
  waiting_at: string | null;
};

/** The data of the client's `ack` of a ride command. */
export type RideAck = {
  /** The ride. */
  ride_id: RideId;
  /** Its status now. */
  status: RideStatus;
  /** That of its newest event. */
  version: number;
};

export type RideArrive = {
  ride_id: RideId;
};

export type RideCancel = {
  /** Words beside a code. */
  note?: string | null;
  /** One of the codes of `CancelCode`, or words. */
  reason: string;
  ride_id: RideId;
};

/** One step of a ride. `by`, `reason` and `fee` are required in `ride.cancelled`, and `distance_m` to `driver_payout` in `ride.completed`; elsewhere they are left out. */
export type RideEvent = {
  /** Cancelled: who ended the ride. */
  by?: Party | null;
  /** Completed, or cancelled after the start: driven from the start on, metres. */
  distance_m?: number | null;
  /** Who drives; the same in every event of the ride. */
  driver_id: UserId;
  /** Completed, or cancelled with a fee: the driver's part. */
  driver_payout?: Money | null;
  /** Where the ride ends. */
  dropoff: Position;
  /** Completed, or cancelled after the start: the time from the start on, seconds. */
  duration_s?: number | null;
  /** Completed, or cancelled with a fee: what the passenger pays, line by line. Older cancellations do not have it. */
  fare?: Fare | null;
  /** Cancelled: what the passenger pays for it; may be 0. */
  fee?: Money | null;
  /** SHA-256, lower-case hex, of the RFC 8785 form of this body without `hash`. */
  hash: string;
  /** The market of the pickup. Older events do not have it. */
  market_id?: string | null;
  /** The accepted offer that became this ride. */
  match_id: MatchId;
  /** Cancelled: what the canceller says beside a code. */
  note?: string | null;
  /** When rides committed this step. */
  occurred_at: string;
  /** Who rides; the same in every event of the ride. */
  passenger_id: UserId;
  /** Where the ride begins. */
  pickup: Position;
  /** Completed, or cancelled with a fee: the platform's part. */
  platform_fee?: Money | null;
  /** `hash` of the version before; 64 zeros for version 1. */
  previous_hash: string;
  /** Cancelled: why, in the canceller's words. */
  reason?: string | null;
  /** Cancelled: the reason as a code. Older events do not have it. */
  reason_code?: CancelCode | null;
  /** Pickup, and cancelled if the search goes on: the search that became this ride. Older events do not have it. */
  request_id?: RequestId | null;
  /** The entity of the message id; events of one ride are published in the order of `version`. */
  ride_id: RideId;
  /** Cancelled: the passenger's search goes on, with the same `request_id`, without this driver. Left out if it does not. */
  search_continues?: boolean | null;
  /** The status after this event. */
  status: RideStatus;
  /** Pickup: what the ride costs, however tariffs change while it lasts. Older events do not have it. */
  terms?: RideTerms | null;
  /** The type that the passenger asked for; it decides the tariff. */
  vehicle_type: VehicleType;
  /** 1, 2, 3 … for each ride, without gaps. */
  version: number;
};

/** The ride that an accepted match becomes. */
export type RideId = string;

/** What is joined to the events of a ride. */
export type RideJoined = {
  /** To the passenger, until a day after the event: null if the account is gone. */
  driver?: DriverView | null;
  /** With match.found: until it expires, seconds; 0 if it has. */
  expires_in_s?: number | null;
  /** To the driver, from match.accepted on until a day after the event: null if the account is gone. */
  passenger?: PassengerView | null;
  /** The driver must give it in ride.start. */
  pin?: string | null;
};

/** A page of rides. */
export type RidePage = {
  /** Null on the last page. */
  next_cursor: string | null;
  rides: Ride[];
};

export type RideStart = {
  /** The four digits that the passenger has. */
  pin: string;
  ride_id: RideId;
};

/** The state of a ride; also the last part of its event's subject. */
export type RideStatus = "pickup" | "waiting" | "started" | "arrived" | "completed" | "cancelled";

/** The tariff of a ride and its rules of waiting, as they were when it began. Amounts are minor units of `currency`. */
export type RideTerms = {
  /** For the beginning. */
  base: number;
  /** For a passenger who cancels late. */
  cancellation: number;
  /** Of every amount of the ride. */
  currency: Currency;
  /** The least total, without waiting. */
  minimum: number;
  /** After this the driver may give the passenger up, seconds. */
  no_show_after_s: number;
  /** For each kilometre. */
  per_km: number;
  /** For each minute from the start on. */
  per_minute: number;
  /** The platform's share of the total, basis points. */
  platform_fee_bp: number;
  /** The speed of estimates, millimetres a second. */
  speed_mm_s: number;
  /** The version of the markets from which they are. */
  version: string;
  /** This long a driver waits for nothing, seconds. */
  wait_free_s: number;
  /** For each minute of waiting at the pickup beyond the free time. */
  wait_per_minute: number;
};

export type RideWait = {
  ride_id: RideId;
};

/** What somebody may do. */
export type Role = "passenger" | "driver";

/** `finder.update` */
export type SearchAck = {
  /** The search that has begun, goes on or has ended; null if there was none to end. */
  request_id: RequestId | null;
};

/** A link as its maker sees it. */
export type Share = {
  created_at: string;
  /** It ends earlier with the ride. */
  expires_at: string;
  share_id: string;
};

/** Open links of the caller. */
export type ShareList = {
  shares: Share[];
};

/** A link that the person made. */
export type ShareMade = {
  /** When it was made. */
  created_at: string;
  /** When it ends, at the latest. */
  expires_at: string;
  /** What it shows. */
  ride_id: RideId;
  /** Of the link. */
  share_id: string;
};

export type SharedDriver = {
  first_name: string | null;
};

/** A shared ride. */
export type SharedRide = {
  /** Null while users does not answer, or if the driver gave no name. */
  driver: SharedDriver;
  /** Seconds, to `eta_to`. */
  eta_s: number | null;
  eta_to: "pickup" | "dropoff";
  heading_deg: number | null;
  /** Null if it is unknown, with all that follows from it. */
  location: Position | null;
  recorded_at: string | null;
  server_time: string;
  speed_mps: number | null;
  stale: boolean;
  status: RideStatus;
  vehicle: SharedVehicle;
};

export type SharedVehicle = {
  color: string | null;
  make: string | null;
  model: string | null;
  plate: string | null;
  vehicle_type: VehicleType;
};

/** A sign-in as its user sees it. */
export type SignIn = {
  created_at: string;
  /** Whether the caller uses it. */
  current: boolean;
  /** What the client called itself. */
  device: string | null;
  id: SignInId;
  /** When it last got new tokens. */
  seen_at: string;
};

/** A sign-in of a user on one device. */
export type SignInId = string;

export type SignInList = {
  /** The one that was seen last first. */
  sign_ins: SignIn[];
};

export type SignOutRequest = {
  /** True: all sign-ins of the caller end. */
  everywhere?: boolean;
};

/** The answer to a sign-in and to a refresh. */
export type SignedInTokens = {
  access_token: string;
  /** How long the access token is valid, seconds. */
  expires_in_s: number;
  /** Works once; a repeat within 30 s has the same answer. */
  refresh_token: string;
  token_type: "Bearer";
  user: Profile;
};

/** A call for help as its caller sees it. */
export type SosAlert = {
  operators: Operators;
  raised_at: string;
  sos_id: string;
};

/** A call for help of the person. */
export type SosRaised = {
  /** When an operator closed it. */
  closed_at: string | null;
  /** Where, as the person said. */
  location: Position | null;
  /** What the person wrote. */
  note: string | null;
  /** When. */
  raised_at: string;
  /** In which ride. */
  ride_id: RideId;
  /** Of the call. */
  sos_id: string;
};

export type SosRequest = {
  /** Where the caller is, if the phone knows. */
  location?: Position | null;
  /** At most 500 characters. */
  note?: string | null;
};

/** Everything that a client needs to draw its screen; null is what there is not. */
export type State = {
  beacon: Beacon | null;
  /** What the user owes; null if it is nothing, or unknown. */
  debts: DebtView[] | null;
  /** The one that is made to the user as a driver, or else for the user's search. */
  offer: StateOffer | null;
  /** The live one. */
  ride: StateRide | null;
  /** The open one: the fields of its user.finder. */
  search: UserFinder | null;
  /** The newest `seq` of the mailbox at that moment. */
  seq: number;
  server_time: string;
  /** Parts that are unknown at the moment. */
  unavailable?: string[];
  user: Profile | null;
};

/** An offer in a state. */
export type StateOffer = {
  /** To the passenger, until a day after the event: null if the account is gone. */
  driver?: DriverView | null;
  /** The driver, held until the offer ends. */
  driver_id: UserId;
  /** The driver's newest position that match knew. */
  driver_location: Position;
  /** Where the ride ends. */
  dropoff: Position;
  /** False: times and distances are those of a street network. True: the great circle times 1.3, at the market's speed. An event of the version before road times has none. */
  estimated?: boolean | null;
  /** The last moment for an answer. */
  expires_at: string;
  /** With match.found: until it expires, seconds; 0 if it has. */
  expires_in_s?: number | null;
  /** The estimated fare; the bill follows the distance driven. */
  fare_estimate: Money;
  /** When match chose the driver. */
  found_at: string;
  /** The market of the pickup; an event of the version before markets has none. */
  market_id?: string | null;
  /** The offer; the entity of the message id. */
  match_id: MatchId;
  /** To the driver, from match.accepted on until a day after the event: null if the account is gone. */
  passenger?: PassengerView | null;
  /** The passenger, held until the offer ends. */
  passenger_id: UserId;
  /** Where the ride begins. */
  pickup: Position;
  /** From the driver to the pickup, metres. */
  pickup_distance_m: number;
  /** From the driver to the pickup, seconds. */
  pickup_eta_s: number;
  /** The search for which match chose the driver. */
  request_id: RequestId;
  state: OfferStanding;
  /** What the ride costs if it comes of this offer, however tariffs change meanwhile. An event of the version before has none, and what clients receive neither: they see it in ride.pickup. */
  terms?: RideTerms | null;
  /** The type that the passenger asked for and the driver drives. */
  vehicle_type: VehicleType;
} | {
  /** To the passenger, until a day after the event: null if the account is gone. */
  driver?: DriverView | null;
  driver_id: UserId;
  driver_location: Position;
  /** From the pickup, degrees from true north. */
  dropoff_bearing_deg: number;
  /** From the pickup, metres. */
  dropoff_distance_m: number;
  /** False: times and distances are those of a street network. True: the great circle times 1.3. */
  estimated?: boolean | null;
  /** The last moment for an answer. */
  expires_at: string;
  /** With match.found: until it expires, seconds; 0 if it has. */
  expires_in_s?: number | null;
  fare_estimate: Money;
  found_at: string;
  market_id?: string | null;
  match_id: MatchId;
  /** To the driver, from match.accepted on until a day after the event: null if the account is gone. */
  passenger?: PassengerView | null;
  passenger_id: UserId;
  /** To 100 m. */
  pickup: Position;
  /** From the driver to `pickup`, metres. */
  pickup_distance_m: number;
  /** From the driver to `pickup`, seconds. */
  pickup_eta_s: number;
  request_id: RequestId;
  state: OfferStanding;
  vehicle_type: VehicleType;
};

/** A ride in a state: its newest event. */
export type StateRide = {
  /** Cancelled: who ended the ride. */
  by?: Party | null;
  /** Completed, or cancelled after the start: driven from the start on, metres. */
  distance_m?: number | null;
  /** To the passenger, until a day after the event: null if the account is gone. */
  driver?: DriverView | null;
  /** Who drives; the same in every event of the ride. */
  driver_id: UserId;
  /** Completed, or cancelled with a fee: the driver's part. */
  driver_payout?: Money | null;
  /** Where the ride ends. */
  dropoff: Position;
  /** Completed, or cancelled after the start: the time from the start on, seconds. */
  duration_s?: number | null;
  /** With match.found: until it expires, seconds; 0 if it has. */
  expires_in_s?: number | null;
  /** Completed, or cancelled with a fee: what the passenger pays, line by line. Older cancellations do not have it. */
  fare?: Fare | null;
  /** Cancelled: what the passenger pays for it; may be 0. */
  fee?: Money | null;
  /** SHA-256, lower-case hex, of the RFC 8785 form of this body without `hash`. */
  hash: string;
  /** The market of the pickup. Older events do not have it. */
  market_id?: string | null;
  /** The accepted offer that became this ride. */
  match_id: MatchId;
  /** Cancelled: what the canceller says beside a code. */
  note?: string | null;
  /** When rides committed this step. */
  occurred_at: string;
  /** To the driver, from match.accepted on until a day after the event: null if the account is gone. */
  passenger?: PassengerView | null;
  /** Who rides; the same in every event of the ride. */
  passenger_id: UserId;
  /** Where the ride begins. */
  pickup: Position;
  /** The driver must give it in ride.start. */
  pin?: string | null;
  /** Completed, or cancelled with a fee: the platform's part. */
  platform_fee?: Money | null;
  /** `hash` of the version before; 64 zeros for version 1. */
  previous_hash: string;
  /** Cancelled: why, in the canceller's words. */
  reason?: string | null;
  /** Cancelled: the reason as a code. Older events do not have it. */
  reason_code?: CancelCode | null;
  /** Pickup, and cancelled if the search goes on: the search that became this ride. Older events do not have it. */
  request_id?: RequestId | null;
  /** The entity of the message id; events of one ride are published in the order of `version`. */
  ride_id: RideId;
  /** Cancelled: the passenger's search goes on, with the same `request_id`, without this driver. Left out if it does not. */
  search_continues?: boolean | null;
  /** The status after this event. */
  status: RideStatus;
  /** Pickup: what the ride costs, however tariffs change while it lasts. Older events do not have it. */
  terms?: RideTerms | null;
  /** The type that the passenger asked for; it decides the tariff. */
  vehicle_type: VehicleType;
  /** 1, 2, 3 … for each ride, without gaps. */
  version: number;
} | {
  /** To the passenger, until a day after the event: null if the account is gone. */
  driver?: DriverView | null;
  driver_id: UserId;
  dropoff: Position | null;
  /** With match.found: until it expires, seconds; 0 if it has. */
  expires_in_s?: number | null;
  /** To the driver, from match.accepted on until a day after the event: null if the account is gone. */
  passenger?: PassengerView | null;
  passenger_id: UserId;
  pickup: Position | null;
  /** The driver must give it in ride.start. */
  pin?: string | null;
  ride_id: RideId;
  status: RideStatus;
  version: number;
};

export type SubscriptionKeys = {
  auth: string;
  p256dh: string;
};

export type TokenRequest = {
  code: string;
  phone: string;
  /** That of the answer to the request of the code: with it, nobody else can use up the tries. */
  request_id?: string | null;
};

/** A point of a track. */
export type TrackPoint = {
  /** The position that the device measured. */
  location: Position;
  /** When the device measured it. */
  recorded_at: string;
};

/** A driver went online or offline, or moved while waiting. */
export type UserBeacon = {
  /** Whether match may offer rides to the driver. */
  active: boolean;
  /** The device that sent the newest active `beacon.update`, as users names it: the driver's device between rides. Absent from a foreign producer's message. */
  device?: string | null;
  /** When users received `location`, by its clock. A beacon that only says that a socket opened or closed repeats an older position. Absent: at `recorded_at`. */
  located_at?: string | null;
  /** The driver's newest position as users knows it. */
  location: Position;
  /** By the clock of users, not the device. */
  recorded_at: string;
  /** The driver; the entity of the message id. */
  user_id: UserId;
  /** Match offers only requests for this type. */
  vehicle_type: VehicleType;
};

/** A passenger began or ended a search. */
export type UserFinder = {
  /** True at the search's beginning, false at its end. */
  active: boolean;
  /** The search had become this ride, which its driver cancelled before the start: it goes on, first in line. */
  continues?: CancelledRide | null;
  /** Where the ride ends. */
  dropoff: Position;
  /** When the search ends by its time; an event of the version before this field has none. */
  expires_at?: string | null;
  /** The market of the pickup; an event of the version before markets has none. */
  market_id?: string | null;
  /** Where the ride begins. */
  pickup: Position;
  /** When the search began, went on or ended, by the clock of users. */
  recorded_at: string;
  /** The search; the entity of the message id. */
  request_id: RequestId;
  /** The passenger, who has at most one search at a time. */
  user_id: UserId;
  /** Only drivers of this type are proposed. */
  vehicle_type: VehicleType;
};

/** A user: a passenger, a driver, or both. */
export type UserId = string;

/** A merge patch (RFC 7396) of what the caller drives. */
export type VehiclePatch = {
  color?: string | null;
  /** Absent: it stays. Null: it is removed. */
  make?: string | null;
  model?: string | null;
  plate?: string | null;
  vehicle_type?: VehicleType | null;
};

/** What a driver drives and a passenger asks for. */
export type VehicleType = "car" | "motorcycle" | "van";

/** What the first frame of a session says. */
export type Welcome = {
  /** When the access token expires, and with it the socket. */
  expires_at: string;
  /** The newest `seq` of the mailbox. */
  last_seq: number;
  limits: ClientLimits;
  /** The events after the client's `last_seq` that are no longer there. */
  missed?: MissedRange | null;
  server_time: string;
  session_id: string;
  /** The body of `GET /v1/state`; its `seq` is `last_seq`. */
  state: State;
  user_id: UserId;
};

/** Why a driver who was on duty was not offered a search. */
export type WhyMissed = "farther" | "better_together" | "offered_another" | "asked_before" | "in_offer" | "in_ride" | "no_road";
