//! The client against servers of its own: whom TLS trusts, and that connections are used again.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::*;

// For `localhost` and 127.0.0.1 until 2126, with no worth outside this test.
const CERTIFICATE: &[u8] = include_bytes!("test_cert.der");
const KEY: &[u8] = include_bytes!("test_key.der");
const LIMIT: Duration = Duration::from_secs(5);

fn trusting(certificates: &[&'static [u8]]) -> HttpClient {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(CertificateDer::from(*certificate)).unwrap();
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    HttpClient::with_https(HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1().build())
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
    let key = PrivateKeyDer::try_from(KEY).unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(CERTIFICATE)], key)
        .unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    match TlsAcceptor::from(Arc::new(config)).accept(socket).await {
        Ok(mut socket) => answer(&mut socket).await,
        Err(_) => String::new(),
    }
}

#[tokio::test]
async fn https_reaches_only_a_server_with_a_trusted_certificate_for_its_host() {
    let cases = [
        ("localhost", trusting(&[CERTIFICATE]), true),
        ("127.0.0.1", trusting(&[CERTIFICATE]), true),
        ("localhost", trusting(&[]), false),
        // This machine's certificates, if it has any.
        ("localhost", HttpClient::default(), false),
    ];
    for (host, client, reached) in cases {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = format!("https://{host}:{port}/send?key=1").parse().unwrap();
        let server = tokio::spawn(serve_tls(listener));
        let status = client.post_json(&url, "{}", LIMIT).await;
        if reached {
            let request = server.await.unwrap();
            assert_eq!(status.unwrap(), StatusCode::ACCEPTED);
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
    let client = HttpClient::default();
    let server = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        answer(&mut socket).await;
        answer(&mut socket).await;
    };
    let requests = async {
        for _ in 0..2 {
            assert_eq!(client.post_json(&url, "{}", LIMIT).await.unwrap(), StatusCode::ACCEPTED);
        }
    };
    tokio::join!(server, requests);
}
