//! Accounts and sign-in over HTTP, on both stores.
