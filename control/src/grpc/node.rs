//! The service `Node`.

use florelay_dataplane::ipc::{Answer, RequestBody};
use tonic::{Request, Response, Status};

use super::answers;
use super::api::{Answered, Api, Step, unexpected};
use super::error::Subject;
use super::proto::{self, node_server::Node};

#[tonic::async_trait]
impl Node for Api {
    async fn status(&self, _: Request<proto::StatusRequest>) -> Result<Response<proto::NodeStatus>, Status> {
        self.counters.call();
        let Answer::Status(status) = self.ask(Subject::Node, RequestBody::Status).await? else {
            return Err(unexpected());
        };
        let api_counters = self.counters.by_name();
        Ok(Response::new(proto::NodeStatus { api_counters, ..answers::status(*status) }))
    }

    type EventsStream = Answered<proto::Event>;

    async fn events(&self, _: Request<proto::EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        self.counters.call();
        let message = |answer| match answer {
            Answer::Event(event) => Step::More(answers::event(event)),
            _ => Step::Unexpected,
        };
        // A connection of its own: a flood of events that closes it closes nobody else's.
        let node = crate::client::Node::new(self.node.socket());
        Ok(Response::new(self.subscribe(node, Subject::Node, RequestBody::Events, message).await?))
    }
}
