//! A deterministic stand-in for TLS 1.3 under quinn-proto: equal inputs, equal bytes.
//!
//! rustls draws its own randomness, so two runs with one seed differ. [`SimSession`] draws none: it exchanges transport
//! parameters and identities in the flights and at the levels of a TLS handshake with client authentication, derives
//! keys from what was said, and seals packets with a keyed checksum ([`checksum`]) instead of a cipher.
//!
//! ```text
//!   client                                         server
//!   Initial    hello: server name, ALPN, params ─►
//!              ◄─ Initial    hello: ALPN               handshake keys from both hellos
//!              ◄─ Handshake  identity, params, proof   1-RTT keys from these three
//!   Handshake  identity, proof                    ─►   established
//! ```
//!
//! As with TLS, the client is established before the server has judged the client's identity.
//!
//! Limits: no 0-RTT, no resumption, and no secrecy: whoever sees the flights can derive the keys. It simulates
//! protocol behaviour, it resists nobody.

mod checksum;
mod keys;
mod message;

use std::any::Any;
use std::sync::Arc;

use quinn_proto::crypto::{
    self, ExportKeyingMaterialError, KeyPair, Keys, PacketKey, Session, UnsupportedVersion, rustls::HandshakeData,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, ConnectionId, Side, TransportError, TransportErrorCode};

pub use keys::{SimHmacKey, SimTokenKey};

use keys::Secret;
use message::{Fields, Kind, take_message, write_message};

/// TLS alerts (RFC 8446 section 6) that a failed handshake carries.
mod alert {
    pub(super) const UNEXPECTED_MESSAGE: u8 = 10;
    pub(super) const BAD_CERTIFICATE: u8 = 42;
    pub(super) const DECODE_ERROR: u8 = 50;
    pub(super) const DECRYPT_ERROR: u8 = 51;
    pub(super) const NO_APPLICATION_PROTOCOL: u8 = 120;
}

/// Who an end is and whom it wants at the other.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Own name; in production the SPIFFE URI of the certificate.
    pub own: Arc<str>,
    /// The only name accepted from the peer.
    pub peer: Arc<str>,
    /// The one application protocol spoken; both ends must agree (RFC 7301).
    pub alpn: Arc<[u8]>,
    /// Filler beside the own identity in bytes, so that flights are as long as with certificates.
    pub certificate_bytes: u16,
}

impl Identity {
    /// ALPN of florelay's connections.
    pub const ALPN: &'static [u8] = b"florelay/1";

    /// An identity with the production ALPN and flights as long as with an ECDSA certificate and its issuer's.
    #[must_use]
    pub fn new(own: &str, peer: &str) -> Self {
        Self { own: own.into(), peer: peer.into(), alpn: Self::ALPN.into(), certificate_bytes: 900 }
    }
}

/// Client side of the simulated handshake.
#[derive(Debug, Clone)]
pub struct SimClientConfig(pub Identity);

/// Server side of the simulated handshake.
#[derive(Debug, Clone)]
pub struct SimServerConfig(pub Identity);

/// What [`Session::peer_identity`] holds: the name that the peer gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerName(pub String);

/// QUIC version 1 (RFC 9000 section 15), the only one simulated.
const QUIC_V1: u32 = 1;

impl crypto::ClientConfig for SimClientConfig {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        if version != QUIC_V1 {
            return Err(ConnectError::UnsupportedVersion);
        }
        let mut session = SimSession::new(Side::Client, self.0.clone(), params, Step::SendHello);
        session.server_name = Some(server_name.to_owned());
        Ok(Box::new(session))
    }
}

impl crypto::ServerConfig for SimServerConfig {
    fn initial_keys(&self, version: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        if version != QUIC_V1 {
            return Err(UnsupportedVersion);
        }
        Ok(Secret::initial(dst_cid).keys(Side::Server))
    }

    fn retry_tag(&self, _version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        keys::retry_tag(orig_dst_cid, &[packet])
    }

    fn start_session(self: Arc<Self>, _version: u32, params: &TransportParameters) -> Box<dyn Session> {
        Box::new(SimSession::new(Side::Server, self.0.clone(), params, Step::AwaitHello))
    }
}

/// Where a handshake stands. `Send…` steps are left by `write_handshake`, `Await…` steps by `read_handshake`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    SendHello,
    AwaitHello,
    /// Client only: both hellos are known, its handshake keys are not yet handed out.
    TakeHandshakeKeys,
    SendFlight,
    AwaitFlight,
    Done,
}

/// One connection's handshake and keys.
pub struct SimSession {
    side: Side,
    identity: Identity,
    step: Step,
    /// Own transport parameters, encoded.
    params: Vec<u8>,
    peer_params: Option<TransportParameters>,
    peer_name: Option<String>,
    /// Client: what it was told to dial. Server: what the client dialled.
    server_name: Option<String>,
    handshake_data_ready: bool,
    /// Bytes of an incomplete message.
    inbox: Vec<u8>,
    /// Every message so far, both directions, in the order in which both ends know them.
    transcript: blake3::Hasher,
    /// Secret of the newest 1-RTT key phase.
    one_rtt: Option<Secret>,
}

impl SimSession {
    fn new(side: Side, identity: Identity, params: &TransportParameters, step: Step) -> Self {
        let mut encoded = Vec::new();
        params.write(&mut encoded);
        Self {
            side,
            identity,
            step,
            params: encoded,
            peer_params: None,
            peer_name: None,
            server_name: None,
            handshake_data_ready: false,
            inbox: Vec::new(),
            transcript: blake3::Hasher::new(),
            one_rtt: None,
        }
    }

    /// Append a message to the flight and to the transcript.
    fn say(&mut self, kind: Kind, fields: &[&[u8]], flight: &mut Vec<u8>) {
        let start = flight.len();
        write_message(kind, fields, flight);
        self.transcript.update(&flight[start..]);
    }

    /// Proof that this end knows the transcript: stands for Finished (RFC 8446 section 4.4.4).
    fn proof(&self) -> Vec<u8> {
        let mut proof = vec![0; 16];
        Secret::from_transcript("florelay-sim finished", &self.transcript).export(&mut proof, b"finished", b"");
        proof
    }

    fn take_handshake_keys(&self) -> Keys {
        Secret::from_transcript("florelay-sim handshake", &self.transcript).keys(self.side)
    }

    fn take_one_rtt_keys(&mut self) -> Keys {
        let secret = Secret::from_transcript("florelay-sim 1-rtt", &self.transcript);
        self.one_rtt = Some(secret);
        secret.keys(self.side)
    }

    /// Take in one message; the answer is whether handshake data became known.
    fn hear(&mut self, kind: Kind, body: &[u8], whole: &[u8]) -> Result<bool, TransportError> {
        match (self.side, self.step, kind) {
            (Side::Server, Step::AwaitHello, Kind::ClientHello) => {
                let mut fields = Fields::new(body);
                let name = fields.text()?;
                let alpn = fields.bytes()?;
                let params = fields.bytes()?;
                fields.end()?;
                if alpn != &*self.identity.alpn {
                    return Err(failure(alert::NO_APPLICATION_PROTOCOL, "no application protocol in common"));
                }
                self.set_peer_params(params)?;
                self.server_name = Some(name);
                self.transcript.update(whole);
                self.step = Step::SendHello;
                self.handshake_data_ready = true;
                Ok(true)
            }
            (Side::Client, Step::AwaitHello, Kind::ServerHello) => {
                let mut fields = Fields::new(body);
                let alpn = fields.bytes()?;
                fields.end()?;
                if alpn != &*self.identity.alpn {
                    return Err(failure(alert::NO_APPLICATION_PROTOCOL, "the server chose another protocol"));
                }
                self.transcript.update(whole);
                self.step = Step::TakeHandshakeKeys;
                Ok(false)
            }
            (Side::Client, Step::AwaitFlight, Kind::ServerFlight) => {
                let mut fields = Fields::new(body);
                let name = fields.text()?;
                let params = fields.bytes()?;
                let proof = fields.bytes()?;
                fields.bytes()?;
                fields.end()?;
                self.check_peer(name, proof)?;
                self.set_peer_params(params)?;
                self.transcript.update(whole);
                self.step = Step::SendFlight;
                self.handshake_data_ready = true;
                Ok(true)
            }
            (Side::Server, Step::AwaitFlight, Kind::ClientFlight) => {
                let mut fields = Fields::new(body);
                let name = fields.text()?;
                let proof = fields.bytes()?;
                fields.bytes()?;
                fields.end()?;
                self.check_peer(name, proof)?;
                self.step = Step::Done;
                Ok(false)
            }
            (_, step, kind) => Err(failure(alert::UNEXPECTED_MESSAGE, &format!("{kind:?} in a handshake at {step:?}"))),
        }
    }

    fn check_peer(&mut self, name: String, proof: &[u8]) -> Result<(), TransportError> {
        if proof != self.proof() {
            return Err(failure(alert::DECRYPT_ERROR, "the handshake was changed on the way"));
        }
        if name != *self.identity.peer {
            let reason = format!("peer is {name}, expected {}", self.identity.peer);
            return Err(failure(alert::BAD_CERTIFICATE, &reason));
        }
        self.peer_name = Some(name);
        Ok(())
    }

    fn set_peer_params(&mut self, mut encoded: &[u8]) -> Result<(), TransportError> {
        self.peer_params = Some(TransportParameters::read(self.side, &mut encoded)?);
        Ok(())
    }
}

impl Session for SimSession {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        Secret::initial(dst_cid).keys(side)
    }

    /// The same type as with rustls, so that the engine reads the protocol in one way.
    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.handshake_data_ready.then(|| -> Box<dyn Any> {
            Box::new(HandshakeData {
                protocol: Some(self.identity.alpn.to_vec()),
                server_name: if self.side.is_server() { self.server_name.clone() } else { None },
            })
        })
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.peer_name.clone().map(|name| -> Box<dyn Any> { Box::new(PeerName(name)) })
    }

    fn early_crypto(&self) -> Option<(Box<dyn crypto::HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.side.is_client().then_some(false)
    }

    fn is_handshaking(&self) -> bool {
        self.step != Step::Done
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.inbox.extend_from_slice(buf);
        let mut inbox = std::mem::take(&mut self.inbox);
        let mut rest = &inbox[..];
        let mut news = false;
        while let Some(message) = take_message(&mut rest)? {
            news |= self.hear(message.kind, message.body, message.whole)?;
        }
        let used = inbox.len() - rest.len();
        inbox.drain(..used);
        self.inbox = inbox;
        Ok(news)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        Ok(self.peer_params)
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let filler = vec![0; usize::from(self.identity.certificate_bytes)];
        match (self.side, self.step) {
            (Side::Client, Step::SendHello) => {
                let name = self.server_name.clone().unwrap_or_default();
                let (alpn, params) = (self.identity.alpn.clone(), self.params.clone());
                self.say(Kind::ClientHello, &[name.as_bytes(), &alpn, &params], buf);
                self.step = Step::AwaitHello;
                None
            }
            (Side::Server, Step::SendHello) => {
                let alpn = self.identity.alpn.clone();
                self.say(Kind::ServerHello, &[&alpn], buf);
                self.step = Step::SendFlight;
                Some(self.take_handshake_keys())
            }
            (Side::Client, Step::TakeHandshakeKeys) => {
                self.step = Step::AwaitFlight;
                Some(self.take_handshake_keys())
            }
            (Side::Server, Step::SendFlight) => {
                let (own, params, proof) = (self.identity.own.clone(), self.params.clone(), self.proof());
                self.say(Kind::ServerFlight, &[own.as_bytes(), &params, &proof, &filler], buf);
                self.step = Step::AwaitFlight;
                Some(self.take_one_rtt_keys())
            }
            (Side::Client, Step::SendFlight) => {
                let keys = self.take_one_rtt_keys();
                let (own, proof) = (self.identity.own.clone(), self.proof());
                write_message(Kind::ClientFlight, &[own.as_bytes(), &proof, &filler], buf);
                self.step = Step::Done;
                Some(keys)
            }
            _ => None,
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let secret = self.one_rtt?.next();
        self.one_rtt = Some(secret);
        Some(secret.packet_keys(self.side))
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        payload
            .split_last_chunk::<16>()
            .is_some_and(|(body, tag)| keys::retry_tag(orig_dst_cid, &[header, body]) == *tag)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        Secret::from_transcript("florelay-sim exporter", &self.transcript).export(output, label, context);
        Ok(())
    }
}

fn failure(alert: u8, reason: &str) -> TransportError {
    TransportError { code: TransportErrorCode::crypto(alert), frame: None, reason: reason.to_owned() }
}
