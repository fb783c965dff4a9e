//! What became of every message: noted by whom it is for, or given up, brought to the dead letters once, and requeued.

use std::collections::BTreeSet;

use platform::Store;
use platform::dead_letters::{self, Requeued};
use streams::topology::Topology;
use streams::{Bus, Service};

use crate::scene::{Published, Scene};

/// At the end every event was handled by all whom it concerns, and nothing is left over.
pub(crate) async fn all(scene: &Scene, published: &[Published], wrong: &mut Vec<String>) {
    let stores = &scene.stores;
    noted(&stores.users, Service::Users, published, wrong).await;
    noted(&stores.matching, Service::Match, published, wrong).await;
    noted(&stores.rides, Service::Rides, published, wrong).await;
    noted(&stores.location, Service::Location, published, wrong).await;
    no_dead_letters(scene, wrong).await;
}

/// Every event is noted by each consumer that it is for, and by no other, and nothing else is noted. An id is the key of its
/// row, so it is noted once.
async fn noted<T>(store: &Store<T>, service: Service, published: &[Published], wrong: &mut Vec<String>)
where
    T: platform::Tables,
{
    let ids: BTreeSet<&str> = published.iter().map(|event| event.id.as_str()).collect();
    for (consumer, note) in store.all_processed().await {
        // A message without an id is noted by its place.
        if !ids.contains(note.as_str()) && !note.contains("_STREAM-") {
            wrong.push(format!("{consumer} noted {note}, which nobody published"));
        }
    }
    let mut tx = store.begin().await.unwrap();
    for consumer in Topology::rideshare().consumers_of(service) {
        for event in published {
            let is_noted = tx.is_processed(&consumer.durable, &event.id).await.unwrap();
            let concerns = consumer.filter == event.subject;
            if is_noted && !concerns {
                wrong.push(format!("{} noted {}, which is not for it", consumer.durable, event.id));
            } else if !is_noted && concerns && !is_free(service, event) {
                wrong.push(format!("{} has not noted {}", consumer.durable, event.id));
            }
        }
    }
}

/// Whether handling an event changes no row, so that nothing need be noted: positions, whose rows tell repeats themselves;
/// location's memory of who is free; what a track comes to before its end.
fn is_free(service: Service, event: &Published) -> bool {
    match event.subject.as_str() {
        "location.update" => true,
        "user.beacon" => service == Service::Location,
        "location.aggregate" => service == Service::Rides && event.body["final"] != true,
        _ => false,
    }
}

/// What was given up has one dead letter for each consumer that it was lost for, and nothing else has; each is requeued, and
/// is then as if it had never failed.
pub(crate) async fn requeue(scene: &Scene) -> Vec<String> {
    let mut wrong = Vec::new();
    let bus = Bus::Memory(scene.bus.clone());
    let mut letters = Vec::new();
    dead_letters::for_each(&bus, |letter| letters.push(letter)).await.unwrap();
    let mut lost = scene.log().given_up.clone();
    for letter in letters {
        if !lost.remove(&(letter.consumer.clone(), letter.stream_sequence)) {
            let what = format!("{} ({}): {}", letter.consumer, letter.message_id, letter.reason);
            wrong.push(format!("dead letter of {what}, of which there was none to be, or one already"));
        }
        scene.log().remark(&format!("requeue {}: {}", letter.consumer, letter.message_id));
        match dead_letters::requeue(&bus, &letter).await {
            Ok(Requeued::Done) => scene.log().letters += 1,
            Ok(Requeued::DoneBefore) => {
                wrong.push(format!("dead letter of {} ({}), which was handled", letter.consumer, letter.message_id));
            }
            Err(error) => wrong.push(format!("dead letter of {} ({}): {error}", letter.consumer, letter.message_id)),
        }
    }
    wrong.extend(lost.into_iter().map(|(consumer, n)| format!("{consumer}: {n} was given up and has no dead letter")));
    wrong
}

async fn no_dead_letters(scene: &Scene, wrong: &mut Vec<String>) {
    let bus = Bus::Memory(scene.bus.clone());
    let tell = |letter: dead_letters::Letter| {
        wrong.push(format!("dead letter of {} ({}): {}", letter.consumer, letter.message_id, letter.reason));
    };
    dead_letters::for_each(&bus, tell).await.unwrap();
}
