//! Somebody who watches the bus, as with `nats sub ">"`: an operator's first command when something seems wrong. The whole
//! end-to-end suite runs beside one, because a subscriber of every subject is also a responder of every request.

use streams::Bus;
use tokio::task::JoinHandle;

use super::nats::Nats;

/// Watches until it is dropped, also after the server was restarted.
pub(crate) struct Watcher(JoinHandle<()>);

impl Watcher {
    pub(crate) async fn new(nats: &Nats) -> Self {
        let bus: Bus = nats.bus().await;
        let mut all = bus.subscribe(">", None).await.unwrap();
        Self(tokio::spawn(async move { while all.next().await.is_some() {} }))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.abort();
    }
}
