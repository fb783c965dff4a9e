//! What a server has of a topology, in one call.

use anyhow::Result;
use streams::BusError;
use streams::topology::Retention;

use crate::fixture::*;

pub(crate) async fn state_has_the_same_infos_times_and_differences_as_single_calls(f: &Fixture) -> Result<()> {
    let (one, two) = (f.stream("S", &["a"], Retention::Interest), f.stream("T", &["b"], Retention::Limits));
    let (first, second) = (f.consumer(&one, "C", "a"), f.consumer(&one, "D", "a"));
    f.apply(&[&one, &two], &[&first, &second]).await?;
    f.publish("a", "1").await?;
    f.publish("a", "2").await?;
    let mut wanted = topology(&[&one, &two], &[&first, &second]);
    wanted.consumers[1].max_ack_pending += 1;
    let state = f.bus.observe(&wanted).await?;
    assert_eq!(state.differences, f.bus.compare(&wanted).await?);
    assert_eq!(state.differences.len(), 1);
    for stream in [&one, &two] {
        assert_eq!(state.stream(&stream.name)?.info, f.bus.stream_info(&stream.name).await?);
        assert_eq!(state.stream(&stream.name)?.created_at, f.bus.created_at(&stream.name, &[]).await?);
    }
    for durable in [first.durable.as_str(), second.durable.as_str()] {
        assert_eq!(state.consumer(&one.name, durable)?.info, f.bus.consumer_info(&one.name, durable).await?);
        let created_at = f.bus.created_at(&one.name, &[durable]).await?;
        assert_eq!(state.created_at(&one.name, &[durable])?, created_at);
    }
    Ok(())
}

pub(crate) async fn state_names_what_is_missing_and_sees_it_recreated(f: &Fixture) -> Result<()> {
    let (one, two) = (f.stream("S", &["a"], Retention::Interest), f.stream("T", &["b"], Retention::Limits));
    let (first, second) = (f.consumer(&one, "C", "a"), f.consumer(&two, "D", "b"));
    let wanted = topology(&[&one, &two], &[&first, &second]);
    assert_eq!(f.bus.observe(&wanted).await?.differences.len(), 4);
    f.bus.apply(&wanted).await?;
    let before = f.bus.observe(&wanted).await?;
    assert_eq!(before.differences, Vec::<String>::new());
    f.bus.delete_consumer(&one.name, &first.durable).await?;
    f.bus.delete_stream(&two.name).await?;
    let without = f.bus.observe(&wanted).await?;
    assert_eq!(without.differences, f.bus.compare(&wanted).await?);
    assert_eq!(without.differences.len(), 3);
    assert!(without.stream(&one.name).is_ok());
    assert!(matches!(without.stream(&two.name), Err(BusError::NotFound(_))));
    assert!(matches!(without.created_at(&one.name, &[&first.durable]), Err(BusError::NotFound(_))));
    assert!(matches!(without.consumer(&two.name, &second.durable), Err(BusError::NotFound(_))));
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    f.bus.apply(&wanted).await?;
    let after = f.bus.observe(&wanted).await?;
    assert_eq!(after.stream(&one.name)?.created_at, before.stream(&one.name)?.created_at);
    assert!(after.stream(&two.name)?.created_at > before.stream(&two.name)?.created_at);
    let time = |state: &streams::topology::TopologyState| state.created_at(&one.name, &[&first.durable]);
    assert!(time(&after)? > time(&before)?);
    Ok(())
}
