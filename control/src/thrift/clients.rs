//! Who wants to be called, and who is called for what.
//!
//! A client is a callback endpoint. A stream belongs to the client whose connection ordered it; if that connection has
//! registered no callback, to the newest client of the same machine (old clients register on one connection and order on
//! another). Who registers an endpoint again, or another one on the same connection, is the same client and keeps its
//! streams. A stream from a peer is for the newest client that is there.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};

use super::callback::Callback;

/// Clients at once; when one more comes, one that has gone or else the oldest without streams makes room.
pub(super) const MAX_CLIENTS: usize = 64;

/// A client, counted up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ClientId(u64);

/// A connection to the service, counted up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ConnectionId(pub(super) u64);

/// Whose call it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) connection: ConnectionId,
    pub(super) address: IpAddr,
}

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: ClientId,
    endpoint: String,
    connection: ConnectionId,
    /// From where its data connections come.
    pub(super) address: IpAddr,
    pub(super) callback: Callback,
}

/// All of them, the newest registration last.
#[derive(Debug, Default)]
pub(super) struct Clients {
    list: Vec<Client>,
    last_id: u64,
}

impl Clients {
    /// Who this is, if it was here before.
    pub(super) fn known(&self, caller: Caller, endpoint: &str) -> Option<ClientId> {
        let same = |c: &&Client| c.connection == caller.connection || c.endpoint == endpoint;
        self.list.iter().rev().find(same).map(|client| client.id)
    }

    /// Takes a client in, in the place of its former self.
    ///
    /// # Errors
    /// There are too many.
    pub(super) fn register(
        &mut self,
        caller: Caller,
        endpoint: String,
        callback: Callback,
        is_busy: impl Fn(ClientId) -> bool,
    ) -> Result<ClientId, String> {
        let known = self.known(caller, &endpoint);
        self.list.retain(|c| Some(c.id) != known);
        if self.list.len() >= MAX_CLIENTS {
            let gone = self.list.iter().position(|c| !c.callback.is_open());
            let Some(at) = gone.or_else(|| self.list.iter().position(|c| !is_busy(c.id))) else {
                return Err(format!("{MAX_CLIENTS} clients with streams are registered, which is the limit"));
            };
            self.list.remove(at);
        }
        let id = known.unwrap_or_else(|| {
            self.last_id += 1;
            ClientId(self.last_id)
        });
        let Caller { connection, address } = caller;
        self.list.push(Client { id, endpoint, connection, address, callback });
        Ok(id)
    }

    /// Who orders by this connection.
    pub(super) fn of(&self, caller: Caller) -> Option<&Client> {
        let newest =
            |wanted: &dyn Fn(&Client) -> bool| self.list.iter().rev().find(|c| wanted(c) && c.callback.is_open());
        newest(&|c| c.connection == caller.connection)
            .or_else(|| newest(&|c| c.address == caller.address))
            .or_else(|| newest(&|_| true))
    }

    /// Who gets a stream from a peer.
    pub(super) fn receiver(&self) -> Option<&Client> {
        self.list.iter().rev().find(|client| client.callback.is_open())
    }

    pub(super) fn get(&self, id: ClientId) -> Option<&Client> {
        self.list.iter().find(|client| client.id == id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Client> {
        self.list.iter()
    }
}

/// Where to call a client. A client of another machine can only have itself called: the node dials for nobody else.
///
/// # Errors
/// The reason, for the client.
pub(super) fn resolve(endpoint: &str, caller: IpAddr) -> Result<SocketAddr, String> {
    let all = endpoint.to_socket_addrs().map_err(|error| format!("{endpoint:?} is not HOST:PORT: {error}"))?;
    let allowed =
        |at: &SocketAddr| caller.to_canonical().is_loopback() || at.ip().to_canonical() == caller.to_canonical();
    let mut all: Vec<_> = all.filter(allowed).collect();
    // A client that says "localhost" listens on either; the older family first, as its own agent did.
    all.sort_by_key(SocketAddr::is_ipv6);
    all.first().copied().ok_or_else(|| format!("{endpoint} is not at the address {caller}, from which you call"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_of_another_machine_has_only_itself_called() {
        let remote = "192.0.2.7".parse().unwrap();
        assert_eq!(resolve("192.0.2.7:80", remote), Ok("192.0.2.7:80".parse().unwrap()));
        assert!(resolve("192.0.2.8:80", remote).unwrap_err().contains("from which you call"));
        assert!(resolve("127.0.0.1:80", remote).is_err());
        let local = "127.0.0.1".parse().unwrap();
        assert_eq!(resolve("localhost:80", local), Ok("127.0.0.1:80".parse().unwrap()));
        assert!(resolve("nonsense", local).unwrap_err().contains("HOST:PORT"));
    }
}
