//! The metrics server over real connections on loopback.

mod support;

use std::sync::Arc;

use nat_user::metrics;
use support::MemoryService;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Starts a server and returns the answers to the requests, each on a connection of its own.
async fn answers<const N: usize>(requests: [&str; N]) -> [String; N] {
    let listener = metrics::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let service = Arc::new(MemoryService::default());
    let server = tokio::spawn(metrics::serve(listener, service, async { drop(stopped.await) }));
    let mut answers = [const { String::new() }; N];
    for (request, answer) in requests.iter().zip(&mut answers) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_to_string(answer).await.unwrap();
    }
    drop(stop);
    server.await.unwrap();
    answers
}

#[tokio::test]
async fn only_get_metrics_is_answered() {
    let huge = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(16 * 1024));
    let [metrics, post, other, wrong, too_long] = answers([
        "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "nonsense\r\n\r\n",
        &huge,
    ])
    .await;
    assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
    assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
    assert!(
        metrics.contains("\nsipnat_packets_total{direction=\"out\",reason=\"no_route\"} 0\n"),
        "{metrics}"
    );
    assert!(metrics.contains("\nsipnat_bindings{proto=\"icmp\"} 3\n"), "{metrics}");
    assert!(
        post.starts_with("HTTP/1.1 405 ") && post.contains("allow: GET"),
        "{post}"
    );
    assert!(other.starts_with("HTTP/1.1 404 "), "{other}");
    assert!(wrong.starts_with("HTTP/1.1 400 "), "{wrong}");
    assert!(too_long.starts_with("HTTP/1.1 431 "), "{too_long}");
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let first = metrics::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = first.local_addr().unwrap();
    let error = metrics::bind(address).await.unwrap_err().to_string();
    assert!(error.contains(&format!("cannot serve metrics on {address}")), "{error}");
}
