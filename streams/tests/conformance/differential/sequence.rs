//! The operations of a sequence, and a generator that makes them from a seed. It does not know what the operations lead to, so it
//! cannot share a mistake with either bus.
//!
//! Time is counted in half ticks: operations run at whole ticks, and everything falls due half-way between two.

/// Random numbers from a seed (SplitMix64): the same on every machine.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 … `end` − 1.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize].clone()
    }
}

/// A moment or a span, in half ticks.
pub(super) type HalfTicks = u32;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operation {
    Publish(Vec<NewMessage>),
    Fetch {
        consumer: usize,
        max: usize,
    },
    Acknowledge(Vec<Acknowledgement>),
    /// No operation for so many ticks.
    Pass(u32),
    PutStream(StreamSettings),
    DeleteStream,
    PutConsumer {
        consumer: usize,
        settings: ConsumerSettings,
    },
    DeleteConsumer(usize),
    Replay {
        from: From,
        filter: &'static str,
    },
    StoredMessage(u64),
}

/// A message to publish.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NewMessage {
    pub(super) subject: &'static str,
    pub(super) id: Option<u64>,
    pub(super) bytes: usize,
    pub(super) header: Option<&'static str>,
}

/// An acknowledgement of the `pick`-th newest delivery.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Acknowledgement {
    pub(super) pick: usize,
    pub(super) kind: AckKind,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum AckKind {
    Ack,
    AckConfirmed,
    Retry(HalfTicks),
    Terminate,
    InProgress,
}

impl AckKind {
    /// Whether it waits for a confirmation.
    fn is_confirmed(self) -> bool {
        matches!(self, Self::AckConfirmed | Self::Terminate)
    }

    /// Whether it sets a new time of redelivery.
    fn is_timed(self) -> bool {
        matches!(self, Self::InProgress) || matches!(self, Self::Retry(delay) if delay > 0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum From {
    Sequence(u64),
    /// At the time of this message, if it is stored.
    TimeOf(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retention {
    Limits,
    Interest,
    WorkQueue,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct StreamSettings {
    pub(super) subjects: &'static [&'static str],
    pub(super) retention: Retention,
    pub(super) on_disk: bool,
    pub(super) discards_old: bool,
    pub(super) max_age: HalfTicks,
    pub(super) max_bytes: i64,
    pub(super) duplicate_window: HalfTicks,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct ConsumerSettings {
    pub(super) filter: &'static str,
    pub(super) ack_wait: HalfTicks,
    pub(super) max_deliver: i64,
    pub(super) max_ack_pending: i64,
    pub(super) backoff: &'static [HalfTicks],
}

/// Consumers in a sequence.
pub(super) const CONSUMERS: usize = 3;
/// Longer than any sequence lasts.
const NEVER: HalfTicks = 601;
/// More than a server takes in one message.
const TOO_LARGE: usize = (1 << 20) + 1;

/// The sequence of `seed`: a stream, a consumer or two, and `length` operations.
pub(super) fn generate(seed: u64, length: usize) -> Vec<Operation> {
    let mut dice = Dice::new(seed);
    let mut stream = stream(&mut dice);
    // The table in `differential.rs` says what is left out here and below, and why.
    let ids = stream.retention != Retention::Interest || stream.duplicate_window == NEVER;
    let mut filters: Vec<_> = (0..CONSUMERS).map(|consumer| filter(&mut dice, consumer)).collect();
    let gives_up = dice.one_in(2);
    let stay = stream.retention == Retention::Interest && gives_up;
    let put = |dice: &mut Dice, filters: &[&'static str], consumer: usize| {
        let mut settings = self::consumer(dice, filters[consumer]);
        if !gives_up {
            settings.max_deliver = -1;
        }
        Operation::PutConsumer { consumer, settings }
    };
    let mut operations = vec![Operation::PutStream(stream.clone())];
    for consumer in 0..=dice.below(2) as usize {
        operations.push(put(&mut dice, &filters, consumer));
    }
    while operations.len() < length {
        let operation = match dice.below(100) {
            0..30 => Operation::Publish((0..=dice.below(4)).map(|_| message(&mut dice, ids)).collect()),
            30..58 => Operation::Fetch { consumer: some_consumer(&mut dice), max: dice.of(&[1, 1, 2, 3, 5, 10]) },
            58..80 => Operation::Acknowledge(acknowledgements(&mut dice)),
            80..86 => Operation::Pass(dice.below(3) as u32 + 1),
            86..92 => {
                let consumer = some_consumer(&mut dice);
                put(&mut dice, &filters, consumer)
            }
            92..94 if !stay => {
                let consumer = some_consumer(&mut dice);
                // The recreated consumer has another filter.
                filters[consumer] = filter(&mut dice, consumer);
                Operation::DeleteConsumer(consumer)
            }
            92..96 => {
                let becomes = changed(&mut dice, &stream);
                // Any other change is refused.
                if (becomes.retention, becomes.on_disk) == (stream.retention, stream.on_disk) {
                    stream = becomes.clone();
                }
                Operation::PutStream(becomes)
            }
            96 if dice.one_in(3) => Operation::DeleteStream,
            96..98 => Operation::StoredMessage(dice.below(12) + 1),
            _ => {
                let from = if dice.one_in(3) { From::TimeOf } else { From::Sequence };
                Operation::Replay { from: from(dice.below(10) + 1), filter: dice.of(&["", "", "a", "*"]) }
            }
        };
        operations.push(operation);
    }
    operations
}

fn some_consumer(dice: &mut Dice) -> usize {
    dice.of(&[0, 0, 0, 1, 1, 2])
}

fn message(dice: &mut Dice, ids: bool) -> NewMessage {
    NewMessage {
        subject: dice.of(&["a", "a", "a", "b", "b", "c.d"]),
        id: (ids && dice.one_in(3)).then(|| dice.below(4)),
        bytes: if dice.one_in(80) { TOO_LARGE } else { dice.of(&[0, 10, 10, 100]) },
        header: dice.one_in(8).then_some("a value"),
    }
}

fn acknowledgements(dice: &mut Dice) -> Vec<Acknowledgement> {
    let mut all: Vec<Acknowledgement> = Vec::new();
    for _ in 0..=dice.below(3) {
        let kind = match dice.below(20) {
            0..6 => AckKind::Ack,
            6..10 => AckKind::AckConfirmed,
            10..13 => AckKind::Retry(0),
            13..16 => AckKind::Retry(dice.of(&[1, 3, 5])),
            16..18 => AckKind::Terminate,
            _ => AckKind::InProgress,
        };
        // At most one that sets a time, or the order would depend on microseconds; at most one that may wait in vain.
        let too_many = |is: fn(AckKind) -> bool| is(kind) && all.iter().any(|a| is(a.kind));
        if !too_many(AckKind::is_timed) && !too_many(AckKind::is_confirmed) {
            all.push(Acknowledgement { pick: dice.of(&[0, 0, 0, 1, 1, 2, 3, 5]), kind });
        }
    }
    all
}

fn stream(dice: &mut Dice) -> StreamSettings {
    let retention = dice.of(&[Retention::Limits, Retention::Interest, Retention::Interest, Retention::WorkQueue]);
    let on_disk = dice.one_in(2);
    let max_age = if on_disk { dice.of(&[0, NEVER]) } else { dice.of(&[0, 11, 21]) };
    StreamSettings {
        subjects: dice.of(&[&[">"], &["a", "b"]]),
        retention,
        on_disk,
        discards_old: dice.one_in(2),
        max_age,
        max_bytes: dice.of(&[-1, -1, 300, 900]),
        duplicate_window: match retention {
            Retention::Interest if (1..NEVER).contains(&max_age) => max_age,
            Retention::Interest => NEVER,
            _ => dice.of(&[5, 5, 11, NEVER]),
        },
    }
}

/// A filter for a consumer; mostly none for the second one.
fn filter(dice: &mut Dice, consumer: usize) -> &'static str {
    let some = dice.of(&["a", "a", "b", "*", "*", "c.>", ">"]);
    if consumer == 1 && !dice.one_in(4) { "" } else { some }
}

/// The settings with one of them changed.
fn changed(dice: &mut Dice, was: &StreamSettings) -> StreamSettings {
    let other = stream(dice);
    let mut becomes = was.clone();
    match dice.below(7) {
        0 => becomes.subjects = other.subjects,
        1 if other.retention == Retention::WorkQueue || was.retention == Retention::WorkQueue => {
            becomes.retention = other.retention;
        }
        2 => becomes.discards_old = other.discards_old,
        3 if was.on_disk == other.on_disk => becomes.max_age = other.max_age,
        4 => becomes.max_bytes = other.max_bytes,
        5 if was.retention != Retention::Interest => becomes.duplicate_window = dice.of(&[5, 11]),
        _ => becomes.on_disk = other.on_disk,
    }
    becomes
}

fn consumer(dice: &mut Dice, filter: &'static str) -> ConsumerSettings {
    ConsumerSettings {
        filter,
        ack_wait: dice.of(&[3, 3, 5, 9, NEVER]),
        max_deliver: dice.of(&[-1, -1, 1, 2, 3]),
        max_ack_pending: dice.of(&[1, 2, 3, 1_000, 1_000]),
        backoff: dice.of(&[&[], &[], &[], &[3, 5], &[5, 3, 7]]),
    }
}
