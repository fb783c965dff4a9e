//! Which faults are injected, and when: a deck, shuffled and dealt from one seed. Pure; it injects nothing itself.

use std::time::Duration;

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::proxy::Line;

/// A fault, at a place that is named by any number: it counts modulo the number of places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A process is killed, and started again at the end.
    Kill(usize),
    /// A process is stopped by SIGSTOP, and continued at the end.
    Freeze(usize),
    /// The match process that holds the lease is stopped, for longer than its lease.
    FreezeLead,
    /// A process is ended by SIGTERM, and started again when it has ended.
    Restart(usize),
    /// All processes, one after the other.
    RollingRestart,
    /// The line between a process and its NATS.
    NatsLine(usize, Line),
    /// The line between a process and its PostgreSQL.
    DatabaseLine(usize, Line),
    /// The line between the clients and one users process.
    ClientLine(usize, Line),
    /// Of a cluster, the line to a node from the others.
    RouteLine(usize, Line),
    /// PostgreSQL is stopped in immediate mode.
    Postgres,
    /// A nats-server is killed; of a cluster, any.
    Nats(usize),
    /// Of a cluster, the one that leads RIDE_STREAM.
    NatsLeader,
    /// A nats-server is stopped by SIGSTOP, and continued at the end.
    NatsFreeze(usize),
    /// The store of a nats-server is deleted, with all streams in it: of a cluster, that of one node or of all.
    Wipe(usize),
    /// A stream is full, or with [`EVERY_STREAM`] all are.
    Full(&'static str),
    /// Old messages are published again.
    Duplicates(Window),
}

/// As if the server's disk were full.
pub(crate) const EVERY_STREAM: &str = "every stream";

/// When duplicates are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Window {
    /// Within the duplicate window.
    Open,
    /// After it.
    Expired,
}

/// What happens between two faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// The next fault begins, whether or not this one has ended.
    GoOn,
    /// All faults end, and everything must recover.
    Recover,
}

/// A fault, how long it lasts, and the pause before the next one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dealt {
    pub(crate) fault: Fault,
    pub(crate) lasts: Duration,
    pub(crate) pause: Duration,
    /// Whether everything must have recovered before the next one.
    pub(crate) then: Then,
}

/// Longer than every lease, ack wait and try.
pub(crate) const LONG: Duration = Duration::from_secs(38);

/// Deals faults without end, the same for the same seed.
#[derive(Debug)]
pub(crate) struct Nemesis {
    pub(crate) rng: StdRng,
    deck: Vec<Fault>,
    /// The next SIGSTOP of any process is a long one.
    long_freeze: bool,
    dealt: usize,
}

impl Nemesis {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), deck: Vec::new(), long_freeze: true, dealt: 0 }
    }

    /// A new deck: one of each kind at least, at places from the seed.
    fn shuffle(&mut self) {
        let mut place = {
            let mut rng = StdRng::seed_from_u64(self.rng.random());
            move || rng.random_range(0..1_000)
        };
        let mut deck = vec![
            Fault::RollingRestart,
            Fault::Postgres,
            Fault::NatsLeader,
            Fault::Duplicates(Window::Open),
            Fault::RouteLine(place(), Line::BlackHole),
            Fault::RouteLine(place(), Line::Cut),
        ];
        for _ in 0..2 {
            deck.extend([
                Fault::Kill(place()),
                Fault::Freeze(place()),
                Fault::Restart(place()),
                Fault::Nats(place()),
                Fault::NatsFreeze(place()),
                Fault::Duplicates(Window::Expired),
            ]);
        }
        deck.extend([Fault::Kill(place()), Fault::Kill(place())]);
        for line in [Line::Cut, Line::BlackHole, Line::Delay(150), Line::Drip(200)] {
            let lines: [fn(usize, Line) -> Fault; 3] = [Fault::NatsLine, Fault::DatabaseLine, Fault::ClientLine];
            let which = place();
            deck.push(lines[which % 3](place(), line));
        }
        let streams = ["RIDE_STREAM", "MATCH_STREAM", "USER_STREAM", "PAYMENT_STREAM"];
        deck.push(Fault::Full(streams[place() % 4]));
        deck.push(Fault::Full(EVERY_STREAM));
        deck.shuffle(&mut self.rng);
        deck.push(Fault::Wipe(place()));
        // The long one is dealt first, so that it ends within the run.
        deck.push(Fault::FreezeLead);
        self.long_freeze = true;
        self.deck = deck;
    }

    pub(crate) fn deal(&mut self) -> Dealt {
        if self.deck.is_empty() {
            self.shuffle();
        }
        let fault = self.deck.pop().unwrap_or(Fault::RollingRestart);
        let ms = match fault {
            Fault::FreezeLead => LONG.as_millis() as u64,
            Fault::Freeze(_) if std::mem::take(&mut self.long_freeze) => LONG.as_millis() as u64,
            Fault::Postgres => self.rng.random_range(8_000..10_000),
            Fault::RollingRestart | Fault::Duplicates(_) | Fault::Restart(_) => 0,
            Fault::Full(_) => self.rng.random_range(5_000..9_000),
            Fault::Wipe(_) => self.rng.random_range(500..5_000),
            _ => self.rng.random_range(500..9_000),
        };
        self.dealt += 1;
        Dealt {
            fault,
            lasts: Duration::from_millis(ms),
            pause: Duration::from_millis(self.rng.random_range(300..3_500)),
            then: if self.dealt.is_multiple_of(6) { Then::Recover } else { Then::GoOn },
        }
    }
}

#[test]
fn the_same_seed_deals_the_same_and_a_deck_has_every_kind() {
    let deal = |seed| {
        let mut nemesis = Nemesis::new(seed);
        (0..60).map(|_| nemesis.deal()).map(|d| (d.fault, d.lasts, d.pause)).collect::<Vec<_>>()
    };
    assert_eq!(deal(1), deal(1));
    assert_ne!(deal(1), deal(2));
    let first: Vec<Fault> = deal(3).into_iter().take(28).map(|(fault, ..)| fault).collect();
    assert!(first.iter().any(|fault| matches!(fault, Fault::Wipe(_))), "{first:?}");
    for kind in [
        Fault::Full(EVERY_STREAM),
        Fault::Postgres,
        Fault::NatsLeader,
        Fault::RollingRestart,
        Fault::Duplicates(Window::Expired),
        Fault::Duplicates(Window::Open),
    ] {
        assert!(first.contains(&kind), "{kind:?}: {first:?}");
    }
    assert!(deal(3).iter().any(|(_, lasts, _)| *lasts == LONG));
}
