//! From settings to a running service, and back to nothing.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use pool_api::auth::Gate;
use pool_api::{Service, ServiceOptions};
use pool_store::placement::PlacementPolicy;
use pool_store::{Store, StoreError, StoreOptions};
use tokio::task::JoinHandle;

use crate::config::Settings;
use crate::listen::Socket;
use crate::shutdown::Stopper;
use crate::{collecting, listen, maintenance, scrubbing, serve, shutdown};

/// Wait before looking again whether anything still uses the store.
const CLOSING_PAUSE: Duration = Duration::from_millis(10);

/// Why the service does not start.
pub type StartError = anyhow::Error;

/// A running service.
#[derive(Debug)]
pub struct Daemon {
    address: SocketAddr,
    service: Service,
    stop: Stopper,
    serving: JoinHandle<()>,
    maintaining: JoinHandle<()>,
    collecting: JoinHandle<()>,
    scrubbing: JoinHandle<()>,
}

impl Daemon {
    /// Listens, opens the store, which may make it, and serves. A store is made only by a service that serves
    /// it. Must be called within a tokio runtime.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let options = store_options(&settings)?;
        if Store::is_to_be_made(&settings.store, options)? && settings.tokens.is_empty() {
            // There will be no token in it.
            refuse_strangers(&settings)?;
        }
        let tcp = listen::tcp(settings.listen).await?;
        let address = tcp.local_addr().context("asking for the address")?;
        // One in the store's own directory needs that, and a directory with a socket in it is no empty one.
        let (inside, elsewhere) = match settings.socket.as_deref() {
            Some(path) if path.starts_with(&settings.store) => (Some(path), None),
            other => (None, other),
        };
        let elsewhere = listen_on(elsewhere).await?;
        let store = open_store(&settings, options).await?;
        let socket = elsewhere.or(listen_on(inside).await?);
        let tokens = store.tokens().context("reading the store's tokens")?;
        for token in &settings.tokens {
            if tokens.iter().any(|stored| stored.name == token.name) {
                bail!(
                    "the store has a token named {} as well: rename that of the configuration",
                    token.name
                );
            }
        }
        let loopback = settings.listen.ip().is_loopback();
        let gate = Gate::new(settings.tokens.clone(), tokens, loopback);
        if !gate.needs_token() {
            refuse_strangers(&settings)?;
        }
        let options = ServiceOptions {
            limits: settings.limits,
            grace: settings.grace,
            dense_from_pages: settings.dense_from_pages,
        };
        let service = Service::new(store, gate, options);
        let pace = settings.limits.pace;
        let (stop, stopped) = shutdown::channel();
        let router = pool_api::routes::router(service.clone());
        let maintaining = maintenance::run(service.clone(), stopped.clone());
        let collecting =
            collecting::run(service.clone(), settings.collect_interval, stopped.clone());
        let scrubbing = scrubbing::run(
            service.clone(),
            settings.scrub_interval,
            settings.scrub_rate,
            stopped.clone(),
        );
        Ok(Self {
            address,
            service,
            stop,
            serving: tokio::spawn(serve::serve(router, tcp, socket, pace, stopped)),
            maintaining: tokio::spawn(maintaining),
            collecting: tokio::spawn(collecting),
            scrubbing: tokio::spawn(scrubbing),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The service itself.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Takes no more connections, lets requests under way end, and closes the store.
    pub async fn stop(self) {
        self.service.stop();
        self.stop.stop();
        for task in [
            self.serving,
            self.maintaining,
            self.collecting,
            self.scrubbing,
        ] {
            if let Err(error) = task.await {
                tracing::error!(%error, "a part of the service ended badly");
            }
        }
        // What requests that were cut off have begun goes on to its end.
        let store = Arc::downgrade(self.service.store());
        drop(self.service);
        while store.strong_count() > 0 {
            tokio::time::sleep(CLOSING_PAUSE).await;
        }
    }
}

async fn listen_on(socket: Option<&Path>) -> Result<Option<Socket>, StartError> {
    match socket {
        Some(path) => Ok(Some(listen::unix(path).await?)),
        None => Ok(None),
    }
}

/// Refuses to be reached by others where nobody has to show a token.
fn refuse_strangers(settings: &Settings) -> Result<(), StartError> {
    if settings.listen.ip().is_loopback() {
        return Ok(());
    }
    bail!(
        "refusing to listen on {}, where others can reach it, without a token: listen on \
         127.0.0.1 and make one with `pool token add NAME --scope admin`, or put a \
         [[token]] into the configuration",
        settings.listen
    )
}

fn store_options(settings: &Settings) -> Result<StoreOptions, StartError> {
    let directory = &settings.store;
    let absent = !directory
        .try_exists()
        .with_context(|| format!("looking for {}", directory.display()))?;
    Ok(StoreOptions {
        create: settings.create || absent,
        segment_bytes: settings.segment_bytes,
        placement: PlacementPolicy {
            dense_from_pages: settings.dense_from_pages,
        },
        upload_memory: settings.upload_memory,
    })
}

async fn open_store(settings: &Settings, options: StoreOptions) -> Result<Arc<Store>, StartError> {
    let (directory, quotas) = (settings.store.clone(), settings.quotas.clone());
    let opened = tokio::task::spawn_blocking(move || {
        let mut store = Store::open(&directory, options)?;
        store.set_quotas(quotas);
        Ok::<_, StoreError>(store)
    });
    Ok(Arc::new(opened.await.context("opening the store")??))
}
