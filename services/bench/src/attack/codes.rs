//! Guessed codes and requested codes from many addresses at once: how many codes are sent, and how many sign-ins are won.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Result, ensure};
use platform::World;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Pods;
use super::connection::Http;
use crate::table::{Row, row};
use crate::target::Servers;

/// 127.0.1.1 and up.
const ADDRESSES: u64 = 100;

#[derive(Default)]
struct Counts {
    tried: u64,
    sent: u64,
    won: u64,
    limited: u64,
    failed: u64,
}

/// `guesses` guesses of codes and `requests` requests of codes, spread over 100 addresses and two pods. The guesses are for the
/// phones for which codes were requested.
///
/// # Errors
/// If a sign-in is won.
pub(crate) async fn measure(
    binary: &Path,
    servers: &Servers,
    world: &World,
    guesses: u64,
    requests: u64,
) -> Result<Vec<Row>> {
    let pods = Pods::start(binary, servers, world).await?;
    let urls = pods.users_urls();
    eprintln!("{guesses} guesses and {requests} requests of codes from {ADDRESSES} addresses …");
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for n in 0..ADDRESSES {
        let from = Ipv4Addr::new(127, 0, 1, u8::try_from(n + 1)?);
        let url = urls[usize::try_from(n)? % urls.len()].clone();
        tasks.spawn(attack(from, url, n, guesses / ADDRESSES, requests / ADDRESSES));
    }
    let (mut asked, mut guessed) = (Counts::default(), Counts::default());
    while let Some(counts) = tasks.join_next().await {
        let (a, g) = counts?;
        for (sum, part) in [(&mut asked, a), (&mut guessed, g)] {
            sum.tried += part.tried;
            sum.sent += part.sent;
            sum.won += part.won;
            sum.limited += part.limited;
            sum.failed += part.failed;
        }
    }
    let took_s = began.elapsed().as_secs_f64();
    let rows = vec![
        row(
            format!("code requests, {ADDRESSES} addresses, {took_s:.0} s"),
            format!("{} codes sent of {}", asked.sent, asked.tried),
            "bounded",
            format!("{} limited, {} failed", asked.limited, asked.failed),
        ),
        row(
            format!("code guesses, {ADDRESSES} addresses"),
            format!("{} sign-ins won of {}", guessed.won, guessed.tried),
            "0",
            format!("{} limited, {} failed", guessed.limited, guessed.failed),
        ),
    ];
    crate::table::print(&rows);
    ensure!(guessed.won == 0, "{} sign-ins were won by guessing", guessed.won);
    Ok(Vec::new())
}

/// Ten guesses for each request of a code, or what the numbers say.
async fn attack(from: Ipv4Addr, url: String, n: u64, guesses: u64, requests: u64) -> (Counts, Counts) {
    let mut http = Http::new(from, &url);
    let (mut asked, mut guessed) = (Counts::default(), Counts::default());
    let each = guesses / requests.max(1);
    for k in 0..requests {
        // Numbers in no order: no two of one range of ten thousand follow each other.
        let phone = format!(
            "+1{}{:07}",
            [212, 646, 718, 917][(n % 4) as usize],
            2_000_000 + (n * 1_000_003 + k * 7_919_993) % 7_999_999
        );
        asked.tried += 1;
        match http.call("POST", "/v1/auth/otp", None, &json!({"phone": phone})).await {
            Ok((202, _)) => asked.sent += 1,
            Ok((429, _)) => asked.limited += 1,
            _ => asked.failed += 1,
        }
        for guess in 0..each {
            let code = format!("{:06}", (n * 104_729 + k * 1_299_709 + guess * 15_485_863) % 1_000_000);
            guessed.tried += 1;
            match http.call("POST", "/v1/auth/token", None, &json!({"phone": phone, "code": code})).await {
                Ok((200, _)) => guessed.won += 1,
                Ok((429, _)) => guessed.limited += 1,
                Ok((401, _)) => {}
                _ => guessed.failed += 1,
            }
        }
    }
    (asked, guessed)
}
