//! A database of its own for each test, on the server of `TEST_DATABASE_URL`.

use sqlx::Connection;

/// The address of a new, empty database.
///
/// # Panics
/// Without a server: `scripts/test` starts one.
pub async fn fresh() -> String {
    let server = std::env::var("TEST_DATABASE_URL")
        .expect("TEST_DATABASE_URL names no PostgreSQL server: run scripts/test, or scripts/with-servers cargo test");
    let mut random = [0u8; 8];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").expect("randomness"), &mut random)
        .expect("randomness");
    let name = format!("test_{:016x}", u64::from_be_bytes(random));
    let mut connection = sqlx::PgConnection::connect(&server).await.expect("the test database server answers");
    sqlx::query(sqlx::AssertSqlSafe(format!("create database {name}")))
        .execute(&mut connection)
        .await
        .expect("a new database");
    let (base, _) = server.rsplit_once('/').expect("an address with a database");
    format!("{base}/{name}")
}
