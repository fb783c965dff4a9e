//! Makes a differing sequence short: what can be left out so that both buses still differ is left out. The candidates of a
//! round run side by side, for a run costs time and no work.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::join_all;

use super::sequence::Operation;
use super::{Difference, Field, Verdict};

const ROUNDS: usize = 6;

/// The shortest sequence found, and how it differs.
pub(super) async fn report(field: &Field, operations: &[Operation], difference: &Difference) -> String {
    let mut operations = operations[..=difference.step].to_vec();
    let kind = &difference.kind();
    let mut difference = difference.clone();
    for _ in 0..ROUNDS {
        let singly =
            join_all((0..operations.len()).map(|index| differs(field, without(&operations, &[index]), kind))).await;
        let spare: Vec<usize> = (0..operations.len()).filter(|&index| singly[index].is_some()).collect();
        // All at once, halves, quarters … or just one of what can be spared singly.
        let mut sets = Vec::new();
        let mut size = spare.len();
        while size > 1 {
            sets.extend(spare.chunks(size).map(<[usize]>::to_vec));
            size = size.div_ceil(2);
        }
        sets.extend(spare.iter().map(|&index| vec![index]));
        let tried = join_all(sets.iter().map(|set| differs(field, without(&operations, set), kind))).await;
        let Some((shorter, found)) = tried.into_iter().flatten().min_by_key(|(shorter, _)| shorter.len()) else {
            break;
        };
        (operations, difference) = (shorter, found);
    }
    let mut text = String::from("as short as it gets:\n");
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
    let kept = operations.iter().enumerate().filter(|(index, _)| !left_out.contains(index));
    kept.map(|(_, operation)| operation.clone()).collect()
}

/// The sequence, up to the step that differs, if that is still a difference of this kind.
async fn differs(
    field: &Field,
    mut operations: Vec<Operation>,
    kind: &(String, String),
) -> Option<(Vec<Operation>, Difference)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("s{}", NEXT.fetch_add(1, Ordering::Relaxed));
    match field.compare(&operations, &name).await {
        Verdict::Differs(difference) if difference.kind() == *kind => {
            operations.truncate(difference.step + 1);
            Some((operations, difference))
        }
        Verdict::Differs(_) | Verdict::Same(_) | Verdict::Disturbed(_) => None,
    }
}
