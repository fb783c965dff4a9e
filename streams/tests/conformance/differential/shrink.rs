//! Shortens a differing sequence: leaves out every operation without which both buses still differ in the same way. The
//! candidates of a round run concurrently, because a run is mostly waiting.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::join_all;

use super::sequence::Operation;
use super::{Comparison, Difference, Rig};

const ROUNDS: usize = 6;

/// The shortest sequence found, and its difference.
pub(super) async fn report(rig: &Rig, operations: &[Operation], difference: &Difference) -> String {
    let mut operations = operations[..=difference.step].to_vec();
    let kind = &difference.kind();
    let mut difference = difference.clone();
    for _ in 0..ROUNDS {
        let singly =
            join_all((0..operations.len()).map(|index| differs(rig, without(&operations, &[index]), kind))).await;
        let unnecessary: Vec<usize> = (0..operations.len()).filter(|&index| singly[index].is_some()).collect();
        // Of the operations that are each unnecessary: all, halves, quarters … or one alone.
        let mut sets = Vec::new();
        let mut size = unnecessary.len();
        while size > 1 {
            sets.extend(unnecessary.chunks(size).map(<[usize]>::to_vec));
            size = size.div_ceil(2);
        }
        sets.extend(unnecessary.iter().map(|&index| vec![index]));
        let tried = join_all(sets.iter().map(|set| differs(rig, without(&operations, set), kind))).await;
        let Some((shorter, found)) = tried.into_iter().flatten().min_by_key(|(shorter, _)| shorter.len()) else {
            break;
        };
        (operations, difference) = (shorter, found);
    }
    let mut text = String::from("the shortest sequence found:\n");
    for (index, operation) in operations.iter().enumerate() {
        text.push_str(&format!("  {index}: {operation:?}\n"));
    }
    let Difference { step, memory, server } = &difference;
    text.push_str(&format!("  step {step} differs\n"));
    for (who, lines) in [("memory", memory), ("server", server)] {
        text.push_str(&format!("    on {who}:\n"));
        for line in lines {
            text.push_str(&format!("      {line}\n"));
        }
    }
    text
}

fn without(operations: &[Operation], left_out: &[usize]) -> Vec<Operation> {
    let rest = operations.iter().enumerate().filter(|(index, _)| !left_out.contains(index));
    rest.map(|(_, operation)| operation.clone()).collect()
}

/// The sequence up to the differing step, if it still has a difference of this kind.
async fn differs(
    rig: &Rig,
    mut operations: Vec<Operation>,
    kind: &(String, String),
) -> Option<(Vec<Operation>, Difference)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("s{}", NEXT.fetch_add(1, Ordering::Relaxed));
    match rig.compare(&operations, &name).await {
        Comparison::Differs(difference) if difference.kind() == *kind => {
            operations.truncate(difference.step + 1);
            Some((operations, difference))
        }
        Comparison::Differs(_) | Comparison::Same(_) | Comparison::TooBusy(_) => None,
    }
}
