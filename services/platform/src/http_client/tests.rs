//! The client against servers of its own: whom TLS trusts, HTTP/2, that connections are used again, retries and breakers.

use chrono::DateTime;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::*;
use crate::World;

// For `localhost` and 127.0.0.1 until 2126, with no worth outside this test.
const CERTIFICATE: &[u8] = include_bytes!("test_cert.der");
const KEY: &[u8] = include_bytes!("test_key.der");
const PURPOSE: Purpose = Purpose {
    name: "test",
    wait: Duration::from_secs(5),
    tries: 1,
    circuit: Rules { failures_max: 3, open_for: chrono::Duration::seconds(10) },
    reach: Reach::Anywhere,
    protocol: Protocol::Any,
};

fn platform() -> Platform {
    let bus = streams::Bus::Memory(streams::memory::MemoryBus::new(DateTime::UNIX_EPOCH, 1));
    Platform::new(World::seeded(DateTime::UNIX_EPOCH, 1), bus, "one")
}

fn client(purpose: Purpose) -> HttpClient {
    HttpClient::new(&platform(), purpose)
}

fn trusting(certificates: &[&'static [u8]], purpose: Purpose) -> HttpClient {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(CertificateDer::from(*certificate)).unwrap();
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    HttpClient::trusting(&platform(), purpose, config)
}

fn acceptor(protocols: &[&[u8]]) -> TlsAcceptor {
    let key = PrivateKeyDer::try_from(KEY).unwrap();
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(CERTIFICATE)], key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// Answers one request with 202 and returns what it read.
async fn answer(socket: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> String {
    let mut request = vec![0; 4_096];
    let mut read = 0;
    while !request[..read].ends_with(b"{}") {
        match socket.read(&mut request[read..]).await.unwrap() {
            0 => panic!("the connection ended"),
            n => read += n,
        }
    }
    socket.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    String::from_utf8_lossy(&request[..read]).into_owned()
}

async fn serve_tls(listener: TcpListener) -> String {
    let (socket, _) = listener.accept().await.unwrap();
    match acceptor(&[]).accept(socket).await {
        Ok(mut socket) => answer(&mut socket).await,
        Err(_) => String::new(),
    }
}

#[tokio::test]
async fn https_reaches_only_a_server_with_a_trusted_certificate_for_its_host() {
    let cases = [
        ("localhost", trusting(&[CERTIFICATE], PURPOSE), true),
        ("127.0.0.1", trusting(&[CERTIFICATE], PURPOSE), true),
        ("localhost", trusting(&[], PURPOSE), false),
        // This machine's certificates, if it has any.
        ("localhost", client(PURPOSE), false),
    ];
    for (host, client, reached) in cases {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = format!("https://{host}:{port}/send?key=1").parse().unwrap();
        let server = tokio::spawn(serve_tls(listener));
        let status = client.post_json(&url, "{}").await;
        if reached {
            let request = server.await.unwrap();
            assert_eq!(status.unwrap().status(), StatusCode::ACCEPTED);
            assert!(request.starts_with("POST /send?key=1 HTTP/1.1\r\n"), "{request}");
            assert!(request.contains(&format!("host: {host}:{port}\r\n")), "{request}");
            assert!(request.contains("content-type: application/json\r\n"), "{request}");
        } else {
            match status.unwrap_err() {
                HttpClientError::NoCertificates(_) => {}
                error => assert!(error.to_string().contains("invalid peer certificate"), "{error}"),
            }
        }
    }
}

#[tokio::test]
async fn the_next_request_uses_the_same_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let client = client(PURPOSE);
    let server = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        answer(&mut socket).await;
        answer(&mut socket).await;
    };
    let requests = async {
        for _ in 0..2 {
            assert_eq!(client.post_json(&url, "{}").await.unwrap().status(), StatusCode::ACCEPTED);
        }
    };
    tokio::join!(server, requests);
}

/// Answers every request of one connection by HTTP/2 with its version and path.
async fn serve_http2(socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let answer = service_fn(|request: Request<hyper::body::Incoming>| async move {
        let text = format!("{:?} {}", request.version(), request.uri().path());
        Ok::<_, std::convert::Infallible>(Response::new(Body::from(text)))
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection(TokioIo::new(socket), answer).await;
}

#[tokio::test]
async fn http2_is_used_where_the_server_speaks_it_and_where_nothing_else_will_do() {
    let only = Purpose { protocol: Protocol::Http2, ..PURPOSE };
    let cases = [("https", PURPOSE), ("https", only), ("http", only)];
    for (scheme, purpose) in cases {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Uri = format!("{scheme}://{}/3/device", listener.local_addr().unwrap()).parse().unwrap();
        let server = tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            match scheme {
                "https" => serve_http2(acceptor(&[b"h2", b"http/1.1"]).accept(socket).await.unwrap()).await,
                _ => serve_http2(socket).await,
            }
        });
        let client = trusting(&[CERTIFICATE], purpose);
        // Two at once, on one connection.
        let (one, two) = tokio::join!(client.post_json(&url, "{}"), client.post_json(&url, "{}"));
        for response in [one, two] {
            assert_eq!(response.unwrap().body(), "HTTP/2.0 /3/device", "{scheme} {purpose:?}");
        }
        server.abort();
    }
    // A server that speaks HTTP/1.1 alone is not enough for who needs HTTP/2.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: Uri = format!("https://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let server = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        acceptor(&[b"http/1.1"]).accept(socket).await.is_err()
    });
    let error = trusting(&[CERTIFICATE], only).post_json(&url, "{}").await.unwrap_err();
    assert!(matches!(error, HttpClientError::Connection(_)), "{error}");
    assert!(server.await.unwrap());
}

/// Answers each connection with the next of these responses, and the last for ever; then counts them.
async fn answer_each(listener: TcpListener, responses: Vec<String>) {
    let mut next = responses.into_iter().peekable();
    loop {
        let response = if next.len() > 1 { next.next() } else { next.peek().cloned() };
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut head = [0; 4_096];
        let _ = socket.read(&mut head).await;
        let _ = socket.write_all(response.unwrap_or_default().as_bytes()).await;
    }
}

fn response(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn an_overloaded_server_is_tried_again_and_a_broken_one_left_in_peace() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: Uri = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let answers =
        vec![response(503, ""), response(200, "a"), response(500, "b"), response(404, "c"), response(500, "d")];
    let server = tokio::spawn(answer_each(listener, answers));
    let platform = platform();
    let client = HttpClient::new(&platform, Purpose { tries: 2, ..PURPOSE });
    for (status, body) in [(200, "a"), (500, "b"), (404, "c"), (500, "d"), (500, "d"), (500, "d")] {
        let answer = client.post_json(&url, "{}").await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.body().as_ref()), (status, body.as_bytes()));
    }
    assert!(matches!(client.post_json(&url, "{}").await.unwrap_err(), HttpClientError::CircuitOpen));
    assert_eq!(platform.health.breakers(), [("test", "open")]);
    let text = platform.metrics.text(&platform.health);
    for line in [
        r#"rideshare_http_client_requests_total{outcome="2xx",purpose="test"} 1"#,
        r#"rideshare_http_client_requests_total{outcome="4xx",purpose="test"} 1"#,
        r#"rideshare_http_client_requests_total{outcome="5xx",purpose="test"} 5"#,
        r#"rideshare_http_client_requests_total{outcome="circuit_open",purpose="test"} 1"#,
        r#"rideshare_http_client_hosts_open{purpose="test"} 1"#,
    ] {
        assert!(text.contains(line), "{line} in:\n{text}");
    }
    // Another host of the same purpose is another matter, and shows that the purpose works.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other: Uri = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let others = tokio::spawn(answer_each(listener, vec![response(503, ""), response(204, "")]));
    assert_eq!(client.post_json(&other, "{}").await.unwrap().status(), StatusCode::NO_CONTENT);
    server.abort();
    others.abort();
}

#[tokio::test]
async fn of_an_endless_body_there_is_the_beginning() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: Uri = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let server = tokio::spawn(answer_each(listener, vec![response(200, &"x".repeat(RESPONSE_MAX * 4))]));
    assert_eq!(client(PURPOSE).post_json(&url, "{}").await.unwrap().body().len(), RESPONSE_MAX);
    server.abort();
}

/// Heads that come at once, with bodies that stop, break off, are too long, or are not what was asked for.
#[tokio::test]
async fn a_response_whose_body_counts_is_none_without_its_end() {
    let endless = format!(
        "HTTP/1.1 200 x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{}",
        RESPONSE_MAX * 2,
        "x".repeat(RESPONSE_MAX * 2)
    );
    let cases = [
        ("HTTP/1.1 200 x\r\ncontent-length: 60\r\n\r\nhalf".to_owned(), true, "timeout"),
        ("HTTP/1.1 200 x\r\ncontent-length: 60\r\n\r\nhalf".to_owned(), false, "connection"),
        (endless, true, "unusable"),
        (response(200, "<html>"), false, "unusable"),
        (response(500, "right"), false, "5xx"),
        (response(200, "right"), false, "2xx"),
    ];
    for (text, stays_open, outcome) in cases {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Uri = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let server = tokio::spawn(async move {
            let mut open = Vec::new();
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut head = [0; 4_096];
                let _ = socket.read(&mut head).await;
                let _ = socket.write_all(text.as_bytes()).await;
                open.extend(stays_open.then_some(socket));
            }
        });
        let platform = platform();
        // Only for what never comes it is worth while to be quick: on a slow machine the others need their time.
        let wait = if outcome == "timeout" { Duration::from_millis(300) } else { Duration::from_secs(30) };
        let client = HttpClient::new(&platform, Purpose { wait, ..PURPOSE });
        let read = |response: &Response<Bytes>| match &response.body()[..] {
            b"right" => Ok(()),
            other => Err(format!("{} bytes", other.len())),
        };
        for _ in 0..3 {
            let answer = client.send_and_read(Request::get(&url).body(Bytes::new()).unwrap(), read).await;
            assert_eq!(answer.is_ok(), outcome == "2xx", "{outcome}: {answer:?}");
        }
        let state = if outcome == "2xx" { "closed" } else { "open" };
        assert_eq!(platform.health.breakers(), [("test", state)], "{outcome}");
        let metrics = platform.metrics.text(&platform.health);
        let line = format!(r#"rideshare_http_client_requests_total{{outcome="{outcome}",purpose="test"}} 3"#);
        assert!(metrics.contains(&line), "{line} in:\n{metrics}");
        server.abort();
    }
}

/// To whoever goes by the head, the end of the body says nothing.
#[tokio::test]
async fn a_body_that_stops_is_cut_for_who_goes_by_the_head() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: Uri = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let text = "HTTP/1.1 200 x\r\ncontent-length: 60\r\n\r\nhalf".to_owned();
    let server = tokio::spawn(answer_each(listener, vec![text]));
    let platform = platform();
    let client = HttpClient::new(&platform, PURPOSE);
    for _ in 0..4 {
        assert_eq!(client.post_json(&url, "{}").await.unwrap().body(), "half");
    }
    let request = Request::get(&url).body(Bytes::new()).unwrap();
    let error = client.send_for_whole(request).await.unwrap_err();
    assert!(matches!(error, HttpClientError::Connection(_)), "{error}");
    server.abort();
}

#[tokio::test]
async fn an_address_of_a_user_leads_nowhere_but_to_the_public_internet() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(answer_each(listener, vec![response(200, "")]));
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "169.254.169.254"] {
        let url = format!("http://{host}:{port}/").parse().unwrap();
        let error = client(Purpose { reach: Reach::Public, ..PURPOSE }).post_json(&url, "{}").await.unwrap_err();
        assert!(matches!(error, HttpClientError::NotPublic), "{host}: {error}");
    }
    for (host, reach) in [("localhost", Reach::PublicOrLoopback), ("127.0.0.1", Reach::Anywhere)] {
        let url = format!("http://{host}:{port}/").parse().unwrap();
        client(Purpose { reach, ..PURPOSE }).post_json(&url, "{}").await.unwrap();
    }
    for url in ["/path", "ftp://host/", "host:80"] {
        let error = client(PURPOSE).post_json(&url.parse().unwrap(), "{}").await.unwrap_err();
        assert!(matches!(error, HttpClientError::NoHost), "{url}: {error}");
    }
    server.abort();
}
