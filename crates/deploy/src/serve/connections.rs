//! Accepts connections, and ends them.
//!
//! `axum::serve` sets no timer for request headers, so a client that stops in the middle of one
//! would hold its connection for ever: hence hyper's own loop.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::serve::routes::router;
use crate::serve::shared::{Phase, Shared};

/// Pause after the system refused a connection, for want of file descriptors.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);
/// How long the last answers may take on the wire.
const FLUSH: Duration = Duration::from_millis(500);

/// Serves until the phase is [`Phase::Draining`] and every request has its answer: whether all had
/// one before the time limit.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) -> bool {
    let service = router(Arc::clone(&shared));
    let connections = Arc::new(Semaphore::new(shared.config.max_connections));
    let graceful = GracefulShutdown::new();
    let mut phase = shared.phase.clone();
    let drained = async {
        // The sender lives as long as the server.
        let _ = phase.wait_for(|phase| *phase == Phase::Draining).await;
        sleep(shared.config.drain_delay).await;
    };
    tokio::pin!(drained);
    loop {
        let free = async {
            let permit = Arc::clone(&connections).acquire_owned().await.expect("never closed");
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            accepted = free => accepted,
            () = &mut drained => break,
        };
        let Ok((stream, _)) = accepted else {
            sleep(REFUSED_PAUSE).await;
            continue;
        };
        // An answer is one small write: waiting for more would only delay it.
        let _ = stream.set_nodelay(true);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(shared.config.header_timeout)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service.clone()));
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // A client that goes away is no fault of the server's.
            let _ = connection.await;
            drop(permit);
        });
    }
    drop(listener);
    finish(graceful, &shared).await
}

/// Waits for the requests that are under way, and no longer than the time limit. A connection
/// without a request, or with half a header, is not waited for.
async fn finish(graceful: GracefulShutdown, shared: &Shared) -> bool {
    let deadline = Instant::now() + shared.config.drain_timeout;
    let closed = graceful.shutdown();
    let answered = async {
        loop {
            if shared.metrics.in_flight() == 0 {
                sleep(FLUSH).await;
                if shared.metrics.in_flight() == 0 {
                    break;
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = closed => true,
        () = answered => true,
        () = tokio::time::sleep_until(deadline) => false,
    }
}
