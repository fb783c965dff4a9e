//! What became of every message: handled, as the inbox of its consumer shows, or given up by the bus, dead-lettered once, and
//! requeued.

use std::collections::BTreeSet;

use platform::dead_letters::{self, DeadLetter, Requeued};
use streams::Bus;

use crate::scene::Scene;

/// The inbox rows of all services: consumer and message id.
pub(crate) async fn all(scene: &Scene) -> BTreeSet<(String, String)> {
    let stores = &scene.stores;
    let mut rows: BTreeSet<_> = stores.users.all_processed().await.into_iter().collect();
    rows.extend(stores.matching.all_processed().await);
    rows.extend(stores.rides.all_processed().await);
    rows.extend(stores.location.all_processed().await);
    rows
}

/// Only a message that the bus gave up has a dead letter, and one for each consumer that it was lost for. Each is requeued, and from then on
/// it is as if the message had never failed. One without a letter was handled after all, because its last delivery was slow: that nothing was
/// neither handled nor dead-lettered is checked by the inboxes.
pub(crate) async fn requeue(scene: &Scene) -> Vec<String> {
    let mut wrong = Vec::new();
    let bus = Bus::Memory(scene.bus.clone());
    let mut letters = Vec::new();
    dead_letters::for_each(&bus, |letter| letters.push(letter)).await.unwrap();
    let mut lost = scene.log().given_up.clone();
    for letter in letters {
        if !lost.remove(&(letter.consumer.clone(), letter.stream_sequence)) {
            wrong.push(format!("{}, of a message that was not given up, or the second one", describe(&letter)));
        }
        scene.log().remark(&format!("requeue {}: {}", letter.consumer, letter.message_id));
        match dead_letters::requeue(&bus, &letter).await {
            Ok(Requeued::Done) => scene.log().letters += 1,
            Ok(Requeued::DoneBefore) => wrong.push(format!("{}, of a message that was handled", describe(&letter))),
            Err(error) => wrong.push(format!("{}: {error}", describe(&letter))),
        }
    }
    wrong
}

/// The dead letters that there are; at the end there must be none.
pub(crate) async fn dead_letters(scene: &Scene) -> Vec<String> {
    let mut found = Vec::new();
    let bus = Bus::Memory(scene.bus.clone());
    dead_letters::for_each(&bus, |letter| found.push(describe(&letter))).await.unwrap();
    found
}

fn describe(letter: &DeadLetter) -> String {
    format!("dead letter of {} ({}): {}", letter.consumer, letter.message_id, letter.reason)
}
