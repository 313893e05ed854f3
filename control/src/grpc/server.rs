//! Listens, and serves until it is told to stop.

use std::io;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener as AsyncTcpListener, UnixListener as AsyncUnixListener};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

use super::api::Api;
use super::connection::Door;
use super::counters::Counters;
use super::plan::{Address, GrpcPlan};
use super::proto::commands_server::CommandsServer;
use super::proto::links_server::LinksServer;
use super::proto::node_server::NodeServer;
use super::proto::streams_server::StreamsServer;
use super::proto::transfers_server::TransfersServer;
use super::{health, proto, tls};
use crate::client::Node;

/// Largest message in either direction, bytes.
const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// Calls at once on a connection.
const MAX_CALLS: u32 = 256;
/// HTTP/2 windows: what a client may send that no call has read yet, bytes, of a call and of a connection.
const WINDOW_BYTES: (u32, u32) = (1 << 20, 4 << 20);
/// Headers of a call, bytes.
const MAX_HEADER_BYTES: u32 = 16 << 10;
/// A connection that says nothing is asked so often whether it is there, and so long it may take to answer.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(20));
/// Between two attempts to listen: from, doubled up to.
const LISTEN_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Calls may end in order for so long.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// To the end of the server: `stop` becomes true, or its sender is dropped.
pub(super) async fn run(plan: GrpcPlan, node: Node, mut stop: watch::Receiver<bool>) {
    let counters = Arc::new(Counters::default());
    let api = Api::new(&plan, node, counters.clone(), stop.clone());
    let (connections, incoming) = mpsc::channel(16);
    let places = Arc::new(Semaphore::new(plan.connections as usize));
    let door = Door { places, counters, connections };
    let (plan, mut listeners) = (Arc::new(plan), tokio::task::JoinSet::new());
    for address in plan.listen.clone() {
        listeners.spawn(listen(address, plan.clone(), door.clone()));
    }
    drop(door);
    let (reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(health::follow(api.clone(), reporter));

    macro_rules! limited {
        ($server:ident) => {
            $server::new(api.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES)
        };
    }
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (v1, v1alpha) = match (described().build_v1(), described().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => (v1, v1alpha),
        (Err(e), _) | (_, Err(e)) => return tracing::error!("gRPC: its own descriptors cannot be read: {e}"),
    };
    let server = Server::builder()
        .max_concurrent_streams(MAX_CALLS)
        .initial_stream_window_size(WINDOW_BYTES.0)
        .initial_connection_window_size(WINDOW_BYTES.1)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_keepalive_interval(Some(KEEP_ALIVE.0))
        .http2_keepalive_timeout(Some(KEEP_ALIVE.1))
        .add_service(health)
        .add_service(v1)
        .add_service(v1alpha)
        .add_service(limited!(TransfersServer))
        .add_service(limited!(StreamsServer))
        .add_service(limited!(CommandsServer))
        .add_service(limited!(LinksServer))
        .add_service(limited!(NodeServer));
    let mut stopping = stop.clone();
    let told = async move {
        // Without a sender, nobody is there to serve for.
        let _ = stopping.wait_for(|stop| *stop).await;
    };
    let served = server.serve_with_incoming_shutdown(ReceiverStream::new(incoming), told);
    tokio::pin!(served);
    tokio::select! {
        result = &mut served => {
            if let Err(e) = result {
                tracing::error!("gRPC: {e}");
            }
        }
        () = async {
            let _ = stop.wait_for(|stop| *stop).await;
            // New clients are refused at once; socket files go.
            listeners.shutdown().await;
            sleep(GRACE).await;
        } => tracing::debug!("gRPC: calls were cut off"),
    }
    listeners.shutdown().await;
}

/// A socket file, for as long as somebody listens there.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have removed it.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// One address; sooner or later: a predecessor may still have it, and its files may have to be mended.
async fn listen(address: Address, plan: Arc<GrpcPlan>, door: Door) {
    let (mut pause, mut said) = (LISTEN_AGAIN.0, String::new());
    loop {
        match try_listen(&address, &plan, &door).await {
            Ok(never) => match never {},
            Err(error) => {
                let error = format!("{error:#}");
                if error != said {
                    tracing::error!("gRPC cannot listen at {address}: {error}; trying again");
                    said = error;
                }
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LISTEN_AGAIN.1);
    }
}

async fn try_listen(address: &Address, plan: &GrpcPlan, door: &Door) -> anyhow::Result<std::convert::Infallible> {
    match address {
        Address::Tcp(at) => {
            let tls = plan.tls.as_ref().map(tls::server_config).transpose()?.map(TlsAcceptor::from);
            let listener = AsyncTcpListener::from_std(bind(*at)?)?;
            tracing::info!("gRPC at {address}{}", if tls.is_some() { ", TLS" } else { "" });
            loop {
                match listener.accept().await {
                    Ok((socket, from)) => {
                        // Small messages wait for nothing; a socket that refuses works all the same.
                        let _ = socket.set_nodelay(true);
                        door.enter(socket, tls.clone(), from.to_string());
                    }
                    Err(e) => complain(&e).await,
                }
            }
        }
        Address::Unix(path) => {
            let listener = AsyncUnixListener::from_std(bind_unix(path).await?)?;
            let _file = SocketFile(path.clone());
            tracing::info!("gRPC at {address}");
            loop {
                match listener.accept().await {
                    Ok((socket, _)) => door.enter(socket, None, "a local client".to_owned()),
                    Err(e) => complain(&e).await,
                }
            }
        }
    }
}

/// For example no descriptors left; others are in use and will be closed.
async fn complain(error: &io::Error) {
    tracing::warn!("gRPC: accepting a client: {error}");
    sleep(LISTEN_AGAIN.0).await;
}

fn bind(at: std::net::SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(at)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Mode 0600, in place of a dead one, never of a live one.
async fn bind_unix(path: &Path) -> anyhow::Result<UnixListener> {
    if let Ok(Ok(_)) = timeout(GRACE, tokio::net::UnixStream::connect(path)).await {
        anyhow::bail!("somebody listens there already");
    }
    // Bound beside and renamed, so that it is never there with a wider mode.
    let beside = path.with_extension(format!("{}", std::process::id()));
    let listener = UnixListener::bind(&beside)?;
    let moved = std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::rename(&beside, path));
    if moved.is_err() {
        // Ours alone, by its name.
        let _ = std::fs::remove_file(&beside);
    }
    moved?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
