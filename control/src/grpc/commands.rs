//! The service `Commands`.

use florelay_dataplane::ipc::{Answer, RequestBody};
use tonic::{Code, Request, Response, Status};

use super::api::{Api, unexpected};
use super::error::Subject;
use super::proto::{self, commands_server::Commands};
use super::{ask, error, requests};

#[tonic::async_trait]
impl Commands for Api {
    async fn send(&self, request: Request<proto::CommandRequest>) -> Result<Response<proto::CommandResponse>, Status> {
        self.counters.call();
        let body = requests::command(request.into_inner())?;
        let RequestBody::Message { to, .. } = &body else { return Err(unexpected()) };
        // What the node refuses of a good message to a known peer is that too many wait.
        let subject = Subject::Peer(to.clone(), Code::ResourceExhausted);
        // As long as the client's own deadline: an outage may be in between.
        match ask::ask(&self.node, body).await {
            Ok(Answer::Message { rtt_ns }) => Ok(Response::new(proto::CommandResponse { rtt_ns })),
            Ok(_) => Err(unexpected()),
            Err(e) => Err(error::about(&self.node, subject, e).await),
        }
    }
}
