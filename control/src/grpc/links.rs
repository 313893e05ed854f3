//! The service `Links`.

use florelay_dataplane::ipc::{Answer, RequestBody};
use tonic::{Code, Request, Response, Status};

use super::api::{Answered, Api, Step, unexpected};
use super::error::Subject;
use super::proto::{self, links_server::Links};
use super::transfers::done;
use super::{answers, requests};

#[tonic::async_trait]
impl Links for Api {
    async fn list(&self, _: Request<proto::ListLinksRequest>) -> Result<Response<proto::ListLinksResponse>, Status> {
        self.counters.call();
        let Answer::Status(status) = self.ask(Subject::Node, RequestBody::Status).await? else {
            return Err(unexpected());
        };
        Ok(Response::new(proto::ListLinksResponse {
            links: status.links.into_iter().map(answers::link).collect(),
            note: status.note.unwrap_or_default(),
        }))
    }

    async fn set_rate(&self, request: Request<proto::SetRateRequest>) -> Result<Response<proto::Done>, Status> {
        let request = request.into_inner();
        let link = request.link.clone();
        done(self, Subject::Link(link), requests::set_rate(request)?).await
    }

    async fn set_admin(&self, request: Request<proto::SetAdminRequest>) -> Result<Response<proto::Done>, Status> {
        let request = request.into_inner();
        let link = request.link.clone();
        done(self, Subject::Link(link), requests::set_admin(request)?).await
    }

    async fn get_contacts(
        &self,
        _: Request<proto::GetContactsRequest>,
    ) -> Result<Response<proto::GetContactsResponse>, Status> {
        self.counters.call();
        let Answer::Contacts(plans) = self.ask(Subject::Node, RequestBody::Contacts).await? else {
            return Err(unexpected());
        };
        Ok(Response::new(proto::GetContactsResponse { plans: plans.into_iter().map(answers::contacts).collect() }))
    }

    async fn set_contacts(&self, request: Request<proto::SetContactsRequest>) -> Result<Response<proto::Done>, Status> {
        let request = request.into_inner();
        let link = request.link.clone();
        done(self, Subject::Link(link), requests::set_contacts(request)?).await
    }

    type TraceStream = Answered<proto::Hop>;

    async fn trace(&self, request: Request<proto::TraceRequest>) -> Result<Response<Self::TraceStream>, Status> {
        self.counters.call();
        let request = request.into_inner();
        let subject = Subject::Peer(request.to.clone(), Code::FailedPrecondition);
        let message = |answer| match answer {
            Answer::Hop { hop, node, rtt_ns, last } => {
                let hop = proto::Hop { hop: u32::from(hop), node: node.unwrap_or_default(), rtt_ns };
                if last { Step::Last(hop) } else { Step::More(hop) }
            }
            _ => Step::Unexpected,
        };
        let body = requests::trace(request)?;
        Ok(Response::new(self.subscribe(self.node.clone(), subject, body, message).await?))
    }
}
