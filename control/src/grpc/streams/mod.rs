//! The service `Streams`: bytes of clients into the node and out of it.
//!
//! ```text
//!   write:  call ─ converse (task) ─ 1 piece ─► thread ─► StreamWriter ─► pump ─► dataplane
//!                     └ opened, accepted, ended ◄─┘  └ watch thread: accepted
//!   read:   call ◄ 4 pieces ─ thread ◄─ StreamReader ◄─ pipe ◄─ dataplane
//!             └ processed, take ─ hear (task) ─► progress of the thread
//! ```
//!
//! The ends of streams block, so each has a thread; a call that goes away interrupts it. Memory of a stream is bounded: a
//! writer's by the client's window of what is not accepted (16 MiB) and three messages of at most 4 MiB; a reader's by
//! what the client has not called processed (4 MiB) and four pieces of 64 KiB. A place among the streams is given back when none of that is left.

mod parked;
mod progress;
mod read;
mod write;

use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

pub(super) use self::parked::Parked;
use super::api::{Answered, Api};
use super::proto::{self, streams_server::Streams};
use super::requests;

/// Longest wait for a call's first message.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);

#[tonic::async_trait]
impl Streams for Api {
    type WriteStream = Answered<proto::WriteResponse>;

    async fn write(
        &self,
        request: Request<Streaming<proto::WriteRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        self.counters.call();
        let mut inbound = request.into_inner();
        let wanted = requests::writing(first(&mut inbound).await?, || Uuid::new_v4().as_u128())?;
        let place = self.place()?;
        Ok(Response::new(write::start(self, inbound, wanted, place).await?))
    }

    type ReadStream = Answered<proto::ReadResponse>;

    async fn read(
        &self,
        request: Request<Streaming<proto::ReadRequest>>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        self.counters.call();
        let mut inbound = request.into_inner();
        let wanted = requests::reading(first(&mut inbound).await?)?;
        Ok(Response::new(read::start(self, inbound, wanted).await?))
    }
}

impl Api {
    /// A place for one more stream.
    fn place(&self) -> Result<OwnedSemaphorePermit, Status> {
        let place = self.streams.clone().try_acquire_owned();
        place.map_err(|_| Status::resource_exhausted("as many streams as [grpc] allows are under way here"))
    }
}

async fn first<T>(inbound: &mut Streaming<T>) -> Result<T, Status> {
    match tokio::time::timeout(FIRST_MESSAGE, inbound.message()).await {
        Ok(message) => message?.ok_or_else(|| Status::invalid_argument("message: the call has none")),
        Err(_) => Err(Status::deadline_exceeded("the first message did not come")),
    }
}
