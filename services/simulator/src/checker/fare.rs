//! Whether the money of a completed ride adds up: lines and total, platform fee and payout. Pure.

use serde_json::Value;

/// What is wrong with the money of a `ride.completed`, given its body.
pub(super) fn problems(data: &Value) -> Vec<String> {
    match sum_problems(data) {
        Ok(problems) => problems,
        Err(missing) => vec![format!("no {missing}, or not an amount of money")],
    }
}

/// The error names the first field that is missing or no amount of money.
fn sum_problems(data: &Value) -> Result<Vec<String>, String> {
    let mut problems = Vec::new();
    let (total, currency) = money(data, "/fare/total")?;
    let lines = data.pointer("/fare/lines").and_then(Value::as_array).ok_or("fare.lines")?;
    let mut sum: i64 = 0;
    for index in 0..lines.len() {
        let (amount, line_currency) = money(data, &format!("/fare/lines/{index}/amount"))?;
        sum = sum.saturating_add(amount);
        if line_currency != currency {
            problems.push(format!("a line in {line_currency}, the total in {currency}"));
        }
    }
    if lines.is_empty() || sum != total {
        problems.push(format!("{} lines sum up to {sum}, the total is {total}", lines.len()));
    }
    let (fee, fee_currency) = money(data, "/platform_fee")?;
    let (payout, payout_currency) = money(data, "/driver_payout")?;
    if fee.saturating_add(payout) != total {
        problems.push(format!("platform fee {fee} and payout {payout} are not the total {total}"));
    }
    if fee_currency != currency || payout_currency != currency {
        problems.push(format!("fee in {fee_currency}, payout in {payout_currency}, total in {currency}"));
    }
    if total < 0 || fee < 0 || payout < 0 {
        problems.push(format!("negative: total {total}, fee {fee}, payout {payout}"));
    }
    Ok(problems)
}

fn money<'a>(data: &'a Value, pointer: &str) -> Result<(i64, &'a str), String> {
    let value = data.pointer(pointer);
    let amount = value.and_then(|money| money.get("amount")).and_then(Value::as_i64);
    let currency = value.and_then(|money| money.get("currency")).and_then(Value::as_str);
    amount.zip(currency).ok_or_else(|| pointer.trim_start_matches('/').replace('/', "."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn usd(amount: i64) -> Value {
        json!({"amount": amount, "currency": "USD"})
    }

    fn completed() -> Value {
        json!({
            "fare": {
                "lines": [{"name": "base", "amount": usd(250)}, {"name": "distance", "amount": usd(810)}],
                "total": usd(1060),
            },
            "platform_fee": usd(212),
            "driver_payout": usd(848),
        })
    }

    #[test]
    fn money_that_adds_up_has_no_problem() {
        assert_eq!(problems(&completed()), Vec::<String>::new());
    }

    #[test]
    fn each_wrong_sum_is_found() {
        let cases: [(&str, Value, &str); 6] = [
            ("/fare/total/amount", json!(1061), "sum up to 1060"),
            ("/fare/lines/0/amount/amount", json!(0), "sum up to 810"),
            ("/platform_fee/amount", json!(213), "not the total"),
            ("/driver_payout/currency", json!("EUR"), "EUR"),
            ("/fare/lines/1/amount/currency", json!("EUR"), "EUR"),
            ("/platform_fee/amount", json!(2.5), "platform_fee"),
        ];
        for (pointer, value, named) in cases {
            let mut body = completed();
            *body.pointer_mut(pointer).unwrap() = value;
            let found = problems(&body).join("; ");
            assert!(found.contains(named), "{pointer}: {found}");
        }
        assert!(problems(&json!({}))[0].contains("fare.total"));
    }
}
