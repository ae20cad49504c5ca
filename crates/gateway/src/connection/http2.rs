//! HTTP/2. What HTTP/1.1 has by its nature is done here: a Host, and an end for who asks nothing.

use std::{
    cell::Cell,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{
    Request,
    body::{Bytes, Frame, Incoming, SizeHint},
    header,
    http::HeaderValue,
    rt::Executor,
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower_service::Service;
use tracing::debug;

use super::HEADER_TIMEOUT;

/// Requests of one connection at a time.
const STREAMS: u32 = 100;

/// What is taken of a response before its reader has room for it.
const SEND_BYTES: usize = 16 * 1024;

/// How often it is asked whether the client is still there, and how long it has to answer.
const PING: Duration = Duration::from_secs(25);

/// Tasks of a connection stay on its thread.
#[derive(Clone)]
struct OnThisThread;

impl<F: Future<Output: 'static> + 'static> Executor<F> for OnThisThread {
    fn execute(&self, task: F) {
        drop(tokio::task::spawn_local(task));
    }
}

/// The requests of a connection.
#[derive(Default)]
struct Requests {
    /// Those whose responses have not ended.
    in_hand: Cell<usize>,
    ever: Cell<u64>,
}

/// One that is in hand.
struct Held(Rc<Requests>);

impl Requests {
    fn hold(self: &Rc<Self>) -> Held {
        self.in_hand.set(self.in_hand.get() + 1);
        self.ever.set(self.ever.get() + 1);
        Held(Rc::clone(self))
    }

    /// Waits until there was none for as long as a client may take to ask for something.
    async fn are_over(&self) {
        loop {
            let (before, idle) = (self.ever.get(), self.in_hand.get() == 0);
            tokio::time::sleep(HEADER_TIMEOUT).await;
            if idle && self.ever.get() == before {
                return;
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.in_hand.set(self.0.in_hand.get() - 1);
    }
}

/// A body that keeps its request in hand.
struct HeldBody {
    body: Body,
    _held: Held,
}

impl hyper::body::Body for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

pub(super) async fn serve(socket: TcpStream, peer: SocketAddr, router: Router, shutdown: CancellationToken) {
    let requests = Rc::new(Requests::default());
    let those = Rc::clone(&requests);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let held = those.hold();
        request.extensions_mut().insert(ConnectInfo(peer));
        put_host(&mut request);
        let answer = router.clone().call(request);
        async move { Ok::<_, std::convert::Infallible>(answer.await?.map(|body| HeldBody { body, _held: held })) }
    });
    let serving = http2::Builder::new(OnThisThread)
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(STREAMS)
        .max_send_buf_size(SEND_BYTES)
        .serve_connection(TokioIo::new(socket), service);
    let mut serving = std::pin::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = async { tokio::select! { () = shutdown.cancelled() => {}, () = requests.are_over() => {} } } => {
            // Requests in hand are answered, and no others are taken.
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        debug!(%error, "a connection that broke off");
    }
}

/// Who is let in is judged by Host, which `:authority` stands for. Where both come and differ there are
/// two, and that is refused.
fn put_host(request: &mut Request<Incoming>) {
    let Some(authority) = request.uri().authority().map(|authority| authority.as_str().to_owned()) else { return };
    let Ok(host) = HeaderValue::from_str(&authority) else { return };
    if request.headers().get(header::HOST) != Some(&host) {
        request.headers_mut().append(header::HOST, host);
    }
}
