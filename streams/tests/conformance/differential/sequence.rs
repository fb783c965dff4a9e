//! What a run does: operations, and a generator that makes them from a seed. It knows nothing of what they will lead to, so
//! that it cannot share a mistake with either bus.
//!
//! Time is counted in half ticks: operations stand at whole ticks, and whatever falls due does so half-way between.

/// SplitMix64: enough to choose by, and the same everywhere.
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
    Publish(Vec<Letter>),
    Fetch {
        consumer: usize,
        max: usize,
    },
    Answer(Vec<Answer>),
    /// Nothing happens for so many ticks.
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
pub(super) struct Letter {
    pub(super) subject: &'static str,
    pub(super) id: Option<u64>,
    pub(super) bytes: usize,
    pub(super) header: Option<&'static str>,
}

/// What is said about the `pick`-th newest delivery.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    pub(super) pick: usize,
    pub(super) verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Verdict {
    Ack,
    AckConfirmed,
    Retry(HalfTicks),
    Terminate,
    InProgress,
}

impl Verdict {
    /// Whether it waits for an answer of the server.
    fn is_confirmed(self) -> bool {
        matches!(self, Self::AckConfirmed | Self::Terminate)
    }

    /// Whether it sets a new moment at which the message comes again.
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

/// Consumers that a sequence knows.
pub(super) const CONSUMERS: usize = 3;
/// Longer than any sequence lasts.
const NEVER: HalfTicks = 601;
/// More than a server takes in one message.
const TOO_LARGE: usize = (1 << 20) + 1;

/// The sequence of `seed`: a stream, a consumer or two, and `length` operations.
pub(super) fn generate(seed: u64, length: usize) -> Vec<Operation> {
    let mut dice = Dice::new(seed);
    let mut stream = stream(&mut dice);
    // (What is kept out here and below, and why, the table in `differential.rs` says.)
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
            0..30 => Operation::Publish((0..=dice.below(4)).map(|_| letter(&mut dice, ids)).collect()),
            30..58 => Operation::Fetch { consumer: some_consumer(&mut dice), max: dice.of(&[1, 1, 2, 3, 5, 10]) },
            58..80 => Operation::Answer(answers(&mut dice)),
            80..86 => Operation::Pass(dice.below(3) as u32 + 1),
            86..92 => {
                let consumer = some_consumer(&mut dice);
                put(&mut dice, &filters, consumer)
            }
            92..94 if !stay => {
                let consumer = some_consumer(&mut dice);
                // If it comes back, it wants something else.
                filters[consumer] = filter(&mut dice, consumer);
                Operation::DeleteConsumer(consumer)
            }
            92..96 => {
                let becomes = changed(&mut dice, &stream);
                // (Else it is refused.)
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

fn letter(dice: &mut Dice, ids: bool) -> Letter {
    Letter {
        subject: dice.of(&["a", "a", "a", "b", "b", "c.d"]),
        id: (ids && dice.one_in(3)).then(|| dice.below(4)),
        bytes: if dice.one_in(80) { TOO_LARGE } else { dice.of(&[0, 10, 10, 100]) },
        header: dice.one_in(8).then_some("a value"),
    }
}

fn answers(dice: &mut Dice) -> Vec<Answer> {
    let mut answers: Vec<Answer> = Vec::new();
    for _ in 0..=dice.below(3) {
        let verdict = match dice.below(20) {
            0..6 => Verdict::Ack,
            6..10 => Verdict::AckConfirmed,
            10..13 => Verdict::Retry(0),
            13..16 => Verdict::Retry(dice.of(&[1, 3, 5])),
            16..18 => Verdict::Terminate,
            _ => Verdict::InProgress,
        };
        // One at most whose time counts, or their order would hang on microseconds; one at most that may wait in vain.
        let too_many = |is: fn(Verdict) -> bool| is(verdict) && answers.iter().any(|a| is(a.verdict));
        if !too_many(Verdict::is_timed) && !too_many(Verdict::is_confirmed) {
            answers.push(Answer { pick: dice.of(&[0, 0, 0, 1, 1, 2, 3, 5]), verdict });
        }
    }
    answers
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

/// A filter of a consumer; the second one has mostly none.
fn filter(dice: &mut Dice, consumer: usize) -> &'static str {
    let some = dice.of(&["a", "a", "b", "*", "*", "c.>", ">"]);
    if consumer == 1 && !dice.one_in(4) { "" } else { some }
}

/// A change of one setting.
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
