//! Health by the standard service (`grpc.health.v1`): each of ours, and the whole under the empty name, is SERVING while a
//! dataplane answers.

use std::time::Duration;

use florelay_dataplane::ipc::RequestBody;
use tokio::time::{sleep, timeout};
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::api::Api;
use super::ask;
use super::proto::commands_server::CommandsServer;
use super::proto::links_server::LinksServer;
use super::proto::node_server::NodeServer;
use super::proto::streams_server::StreamsServer;
use super::proto::transfers_server::TransfersServer;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// A dataplane that has not answered for so long is not there.
const ANSWER_TIME: Duration = Duration::from_secs(3);

const SERVICES: [&str; 6] = [
    "",
    TransfersServer::<Api>::NAME,
    StreamsServer::<Api>::NAME,
    CommandsServer::<Api>::NAME,
    LinksServer::<Api>::NAME,
    NodeServer::<Api>::NAME,
];

/// Says what is, whenever it has changed, to the end of the server.
pub(super) async fn follow(api: Api, reporter: HealthReporter) {
    let mut said = None;
    let mut stopped = Box::pin(api.stopped());
    loop {
        let there = tokio::select! {
            there = answers(&api) => there,
            () = &mut stopped => false,
        };
        if said != Some(there) {
            said = Some(there);
            let status = if there { ServingStatus::Serving } else { ServingStatus::NotServing };
            for service in SERVICES {
                reporter.set_service_status(service, status).await;
            }
        }
        tokio::select! {
            () = sleep(INTERVAL) => {}
            () = &mut stopped => return,
        }
    }
}

/// Whatever the answer is, somebody gave it. The dataplane has this one at hand.
async fn answers(api: &Api) -> bool {
    match timeout(ANSWER_TIME, ask::ask(&api.node, RequestBody::Queues)).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => !error.may_pass(),
        Err(_) => false,
    }
}
