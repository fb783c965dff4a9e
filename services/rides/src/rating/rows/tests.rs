//! Ratings in memory and in PostgreSQL.

use platform::{Store, World};
use testing::{Backend, on_both_stores};

use super::*;
use crate::MIGRATIONS;
use crate::ride::tests::at;

on_both_stores!(the_newest_ratings_that_count_are_the_mean, old_comments_are_erased, a_list_has_pages);

struct Bench {
    store: Store<Tables>,
    world: World,
    rated: UserId,
    rater: UserId,
}

async fn bench(backend: Backend) -> Bench {
    let world = World::seeded(at(0), 7);
    let store = backend.store(&world, "test", "rides", &MIGRATIONS).await;
    Bench { store, rated: world.id(), rater: world.id(), world }
}

impl Bench {
    /// So many ratings, a second apart from `second` on.
    async fn insert(&self, count: i64, stars: u8, second: i64) {
        let mut tx = self.store.begin().await.unwrap();
        for n in 0..count {
            let rating = Rating {
                ride_id: self.world.id(),
                by: Rater::Passenger,
                by_user: Some(self.rater),
                of_user: Some(self.rated),
                stars,
                comment: Some(format!("no. {n}")),
                at: at(second + n),
                counts_from: at(second + n),
            };
            insert(&mut tx, &rating).await.unwrap();
        }
        tx.commit().await.unwrap();
    }

    async fn mean(&self, second: i64) -> Option<(f64, u32)> {
        let mut tx = self.store.begin().await.unwrap();
        let means = means(&mut tx, &[self.rater, self.rated], at(second)).await.unwrap();
        assert!(means.iter().all(|rating| rating.user_id == self.rated));
        means.first().map(|rating| (rating.mean, rating.count))
    }
}

async fn the_newest_ratings_that_count_are_the_mean(backend: Backend) {
    let bench = bench(backend).await;
    bench.insert(300, 1, 0).await;
    bench.insert(400, 5, 1_000).await;
    assert_eq!(bench.mean(-1).await, None);
    assert_eq!(bench.mean(999).await, Some((1.0, 300)));
    assert_eq!(bench.mean(1_000).await, Some((1.01, 301)));
    assert_eq!(bench.mean(2_000).await, Some((4.2, 500)), "400 of five and the newest 100 of one");
}

async fn old_comments_are_erased(backend: Backend) {
    let bench = bench(backend).await;
    bench.insert(5, 3, 0).await;
    let mut tx = bench.store.begin().await.unwrap();
    assert!(erase_comments(&mut tx, at(3)).await.unwrap());
    let ratings = given_by(&mut tx, bench.rater, Uuid::nil(), 100).await.unwrap();
    let comments: Vec<_> = ratings.iter().map(|rating| (rating.at, rating.comment.as_deref())).collect();
    for (given_at, comment) in comments {
        assert_eq!(comment.is_some(), given_at >= at(3), "{given_at}");
    }
}

async fn a_list_has_pages(backend: Backend) {
    let bench = bench(backend).await;
    bench.insert(5, 3, 0).await;
    let mut tx = bench.store.begin().await.unwrap();
    let (mut given, mut received) = (vec![Uuid::nil()], vec![Uuid::nil()]);
    for _ in 0..3 {
        let page = given_by(&mut tx, bench.rater, given[given.len() - 1], 2).await.unwrap();
        given.extend(page.iter().map(|rating| rating.ride_id.0));
        let page = received_by(&mut tx, bench.rated, at(3), received[received.len() - 1], 2).await.unwrap();
        received.extend(page.iter().map(|rating| rating.ride_id.0));
    }
    assert_eq!((given.len(), received.len()), (6, 5), "the fifth does not count yet");
    assert!(given.is_sorted() && received.is_sorted());
}
