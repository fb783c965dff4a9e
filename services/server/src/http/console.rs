//! The operators' console: the files that `services/server/console` is built into, and the runbook. They are the same for everybody
//! and need no token; what the page shows, it asks for with one. `scripts/check-console` holds the files equal to their source.

use axum::extract::{Path, RawQuery};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use platform::Problem;
use platform::api::{Operation, Schemas};
use platform::routes::Routes;

const INDEX: &str = include_str!("../../console/dist/index.html");

/// Name, type and bytes of each file under `/console/assets/`.
const FILES: [(&str, &str, &[u8]); 4] = [
    ("console.js", "text/javascript; charset=utf-8", include_bytes!("../../console/dist/assets/console.js")),
    ("console.css", "text/css; charset=utf-8", include_bytes!("../../console/dist/assets/console.css")),
    ("icon.svg", "image/svg+xml", include_bytes!("../../console/dist/assets/icon.svg")),
    ("runbook.md", "text/markdown; charset=utf-8", include_bytes!("../../../../docker/RUNBOOK.md")),
];

/// Scripts and styles are the console's own files, it speaks to its own origin alone, and no other page may hold it in a frame.
const HEADERS: [(HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    ),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

pub(super) fn routes() -> Routes {
    Routes::<()>::default()
        .get("/console", async || index())
        .described("The operators' console.", &[])
        .with(page)
        .get("/console/", async || index())
        .described("The operators' console.", &[])
        .with(page)
        // The page itself decides what an address of the console shows.
        .get("/console/{*page}", async || index())
        .described("A page of the operators' console.", &[])
        .with(page)
        .with(|operation| operation.path = Some(Schemas::read::<String>))
        .get("/console/assets/{file}", async |Path(name): Path<String>, RawQuery(query)| {
            file(&name, &query.unwrap_or_default())
        })
        .described("A file of the operators' console.", &[])
        .with(|operation| {
            operation.is_for_operators = true;
            FILES.iter().for_each(|(_, kind, _)| operation.add_answer(200, Some((kind, Schemas::written::<String>))));
        })
        .with_state(())
}

fn page(operation: &mut Operation) {
    operation.is_for_operators = true;
    operation.add_answer(200, Some((HTML, Schemas::written::<String>)));
}

const HTML: &str = "text/html; charset=utf-8";

fn index() -> Response {
    answer(HTML, "no-cache", INDEX.as_bytes())
}

fn file(name: &str, query: &str) -> Response {
    let Some((name, kind, bytes)) = FILES.iter().find(|(known, ..)| *known == name) else {
        return Problem::not_found("file").into_response();
    };
    // The page names the version of each file. In a rolling upgrade a process may be asked for the file of another version: what it
    // answers then must not be stored under that address.
    let is_named = !query.is_empty() && INDEX.contains(&format!("/console/assets/{name}?{query}\""));
    answer(kind, if is_named { "public, max-age=31536000, immutable" } else { "no-cache" }, bytes)
}

fn answer(kind: &'static str, cache: &'static str, bytes: &'static [u8]) -> Response {
    let mut response = (StatusCode::OK, bytes).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    headers.extend(HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::http::{HeaderMap, Request};
    use tower::ServiceExt;

    use super::*;

    async fn get(path: &str) -> (StatusCode, HeaderMap, String) {
        let router: Router = routes().into_router();
        let response = router.oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 10_000_000).await.unwrap();
        (parts.status, parts.headers, String::from_utf8(bytes.to_vec()).unwrap())
    }

    /// The addresses in the page, as `console.js?v=…`.
    fn named() -> Vec<&'static str> {
        let parts = INDEX.split("\"/console/assets/").skip(1);
        parts.map(|rest| rest.split('"').next().unwrap()).collect()
    }

    #[tokio::test]
    async fn every_address_of_the_console_is_the_page() {
        for path in ["/console", "/console/", "/console/rides/0190b7a0-0000-7000-8000-000000000001", "/console/map"] {
            let (status, headers, body) = get(path).await;
            assert_eq!((status, body.as_str()), (StatusCode::OK, INDEX), "{path}");
            assert_eq!(headers["cache-control"], "no-cache");
            let policy = headers["content-security-policy"].to_str().unwrap();
            assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
            assert!(!policy.contains("unsafe"), "{policy}");
            assert_eq!(headers["x-frame-options"], "DENY");
            assert_eq!(headers["referrer-policy"], "no-referrer");
        }
    }

    #[tokio::test]
    async fn the_files_that_the_page_names_are_stored_for_a_year_and_no_others() {
        assert_eq!(named().len(), 3, "{INDEX}");
        for address in named() {
            let (status, headers, body) = get(&format!("/console/assets/{address}")).await;
            assert_eq!(status, StatusCode::OK, "{address}");
            assert_eq!(headers["cache-control"], "public, max-age=31536000, immutable", "{address}");
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body.as_bytes());
            let version = address.split_once("?v=").unwrap().1;
            assert!(hex::encode(digest).starts_with(version), "{address} names another version of the file");
            let name = address.split_once('?').unwrap().0;
            for other in [name.to_owned(), format!("{name}?v=0123456789abcdef"), format!("{name}?{version}")] {
                let (status, headers, _) = get(&format!("/console/assets/{other}")).await;
                assert_eq!(
                    (status, &headers["cache-control"]),
                    (StatusCode::OK, &HeaderValue::from_static("no-cache"))
                );
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_file_is_no_page_either() {
        for path in ["/console/assets/none.js", "/console/assets/..%2findex.html", "/console/assets/%2e%2e"] {
            assert_eq!(get(path).await.0, StatusCode::NOT_FOUND, "{path}");
        }
    }

    #[tokio::test]
    async fn the_runbook_is_there_and_nothing_comes_from_elsewhere() {
        let (_, headers, runbook) = get("/console/assets/runbook.md").await;
        assert_eq!(headers["content-type"], "text/markdown; charset=utf-8");
        assert!(runbook.contains("## DeadLetters"));
        for (name, _, bytes) in FILES.iter().filter(|(name, ..)| *name != "runbook.md") {
            let text = String::from_utf8_lossy(bytes);
            for address in text.split("://").skip(1) {
                // The names of XML namespaces: no browser asks for them.
                assert!(address.starts_with("www.w3.org/"), "{name} names {}", &address[..address.len().min(60)]);
            }
        }
    }
}
