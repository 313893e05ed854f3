//! The service `Transfers`.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

use florelay_dataplane::ipc::{Answer, RequestBody, TransferStatus};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::api::{Answered, Api, Step, unexpected};
use super::error::Subject;
use super::proto::{self, transfers_server::Transfers};
use super::{answers, ask, error, requests};

#[tonic::async_trait]
impl Transfers for Api {
    async fn send_file(&self, request: Request<proto::SendFileRequest>) -> Result<Response<proto::Transfer>, Status> {
        self.counters.call();
        if !self.allow_paths {
            let how = "this node does not open paths for clients (`allow-paths` in [grpc]); use Streams.Write";
            return Err(Status::failed_precondition(how));
        }
        let (order, path) = requests::send_file(request.into_inner(), || Uuid::new_v4().as_u128())?;
        let node = self.node.clone();
        let peer = order.to.clone();
        let sent = tokio::task::spawn_blocking(move || {
            // A FIFO would wait for its writer; what else is not a file the dataplane says.
            let opened = OpenOptions::new()
                .read(true)
                .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
                .open(&path);
            let file = opened.map_err(|e| {
                let code = match e.kind() {
                    ErrorKind::NotFound => tonic::Code::NotFound,
                    ErrorKind::PermissionDenied => tonic::Code::PermissionDenied,
                    _ => tonic::Code::InvalidArgument,
                };
                Status::new(code, format!("path: {path} cannot be read: {e}"))
            })?;
            let body = RequestBody::SendFile { order, path: Some(path) };
            // Whoever wants to hear more watches it.
            Ok::<_, Status>(node.subscribe(body, Some(file.as_fd())).and_then(|answers| answers.recv()))
        });
        match sent.await.map_err(|e| Status::internal(e.to_string()))?? {
            Ok(Answer::Transfer(status)) => Ok(Response::new(answers::transfer(*status))),
            Ok(_) => Err(unexpected()),
            Err(e) => {
                let subject = Subject::Peer(peer, tonic::Code::InvalidArgument);
                Err(error::about(&self.node, subject, e).await)
            }
        }
    }

    async fn get(&self, request: Request<proto::TransferId>) -> Result<Response<proto::Transfer>, Status> {
        self.counters.call();
        let id = requests::id("id", &request.into_inner().id)?;
        match first_status(self, id).await? {
            Some(status) => Ok(Response::new(answers::transfer(*status))),
            None => Err(unexpected()),
        }
    }

    async fn list(
        &self,
        request: Request<proto::ListTransfersRequest>,
    ) -> Result<Response<proto::ListTransfersResponse>, Status> {
        self.counters.call();
        let body = requests::list(&request.into_inner())?;
        let Answer::Transfers { list, more } = self.ask(Subject::Node, body).await? else { return Err(unexpected()) };
        let next = list.last().filter(|_| more).map(|last| requests::page_token(last.ended.is_some(), last.id));
        Ok(Response::new(proto::ListTransfersResponse {
            transfers: list.into_iter().map(answers::transfer).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    type WatchStream = Answered<proto::Transfer>;

    async fn watch(&self, request: Request<proto::TransferId>) -> Result<Response<Self::WatchStream>, Status> {
        self.counters.call();
        let id = requests::id("id", &request.into_inner().id)?;
        let message = |answer| match answer {
            Answer::Transfer(status) if status.ended.is_some() => Step::Last(answers::transfer(*status)),
            Answer::Transfer(status) => Step::More(answers::transfer(*status)),
            _ => Step::Unexpected,
        };
        let body = RequestBody::Watch { id };
        Ok(Response::new(self.subscribe(self.node.clone(), Subject::Transfer(id), body, message).await?))
    }

    async fn cancel(&self, request: Request<proto::TransferId>) -> Result<Response<proto::Done>, Status> {
        let id = requests::id("id", &request.into_inner().id)?;
        done(self, Subject::Transfer(id), RequestBody::Cancel { id }).await
    }

    async fn pause(&self, request: Request<proto::TransferId>) -> Result<Response<proto::Done>, Status> {
        let id = requests::id("id", &request.into_inner().id)?;
        done(self, Subject::Transfer(id), RequestBody::Pause { id }).await
    }

    async fn resume(&self, request: Request<proto::TransferId>) -> Result<Response<proto::Done>, Status> {
        let id = requests::id("id", &request.into_inner().id)?;
        done(self, Subject::Transfer(id), RequestBody::Resume { id }).await
    }

    async fn set_priority(&self, request: Request<proto::SetPriorityRequest>) -> Result<Response<proto::Done>, Status> {
        let request = request.into_inner();
        let body = requests::set_priority(&request)?;
        done(self, Subject::Transfer(requests::id("id", &request.id)?), body).await
    }

    async fn queues(&self, _: Request<proto::QueuesRequest>) -> Result<Response<proto::QueuesResponse>, Status> {
        self.counters.call();
        let Answer::Queues(queues) = self.ask(Subject::Node, RequestBody::Queues).await? else {
            return Err(unexpected());
        };
        Ok(Response::new(proto::QueuesResponse { queues: queues.into_iter().map(answers::queue).collect() }))
    }

    async fn set_queue(&self, request: Request<proto::SetQueueRequest>) -> Result<Response<proto::Done>, Status> {
        let body = requests::set_queue(request.into_inner())?;
        let subject = match &body {
            RequestBody::SetQueue { to: Some(to), .. } => Subject::Peer(to.clone(), tonic::Code::InvalidArgument),
            _ => Subject::Node,
        };
        done(self, subject, body).await
    }
}

/// Asks for what is answered by `Done`.
pub(super) async fn done(api: &Api, subject: Subject, body: RequestBody) -> Result<Response<proto::Done>, Status> {
    api.counters.call();
    match api.ask(subject, body).await? {
        Answer::Done => Ok(Response::new(proto::Done {})),
        _ => Err(unexpected()),
    }
}

async fn first_status(api: &Api, id: u128) -> Result<Option<Box<TransferStatus>>, Status> {
    let mut watched = ask::subscribe(&api.node, RequestBody::Watch { id }).await.map_err(error::status)?;
    match watched.next().await {
        Some(Ok(Answer::Transfer(status))) => Ok(Some(status)),
        Some(Err(crate::client::ClientError::Failed(reason))) => Err(Status::not_found(reason)),
        Some(Err(e)) => Err(error::status(e)),
        _ => Ok(None),
    }
}
