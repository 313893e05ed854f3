//! The keys of the simulated session: checksums where production encrypts.
//!
//! Payloads stay in the clear and headers unprotected, but sizes (tag, sample) are those of AES-GCM, and a packet that
//! was changed, or sealed under another key, does not open.

use bytes::BytesMut;
use quinn_proto::crypto::{self, AeadKey, CryptoError, HandshakeTokenKey, HeaderKey, HmacKey, KeyPair, Keys};
use quinn_proto::{ConnectionId, Side};

use super::checksum::{Key, TAG_BYTES, checksum};

/// Packets that one key may seal before quinn-proto must update it: AES-GCM's, RFC 9001 section 6.6.
const CONFIDENTIALITY_LIMIT_PACKETS: u64 = 1 << 23;
/// Packets that may fail to open before the connection is abandoned: AES-GCM's, RFC 9001 section 6.6.
const INTEGRITY_LIMIT_PACKETS: u64 = 1 << 52;

/// What keys are derived from; one per level of a connection.
#[derive(Clone, Copy)]
pub(super) struct Secret([u8; 32]);

impl Secret {
    /// Of the Initial level: known to everybody who saw the first packet, as in RFC 9001 section 5.2.
    pub(super) fn initial(destination: &ConnectionId) -> Self {
        Self(blake3::derive_key("florelay-sim initial", destination))
    }

    /// Of a later level, from everything said so far.
    pub(super) fn from_transcript(level: &str, transcript: &blake3::Hasher) -> Self {
        Self(blake3::derive_key(level, transcript.finalize().as_bytes()))
    }

    /// Of the next key phase (RFC 9001 section 6.1).
    pub(super) fn next(self) -> Self {
        Self(blake3::derive_key("florelay-sim key update", &self.0))
    }

    /// Fill `output` with material bound to `label` and `context`.
    pub(super) fn export(&self, output: &mut [u8], label: &[u8], context: &[u8]) {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in [label, context] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        hasher.finalize_xof().fill(output);
    }

    /// Both directions of a level, as `side` sees them.
    pub(super) fn keys(&self, side: Side) -> Keys {
        Keys {
            header: KeyPair { local: Box::new(PlainHeader), remote: Box::new(PlainHeader) },
            packet: self.packet_keys(side),
        }
    }

    /// Packet keys only, for a key update.
    pub(super) fn packet_keys(&self, side: Side) -> KeyPair<Box<dyn crypto::PacketKey>> {
        let of = |sender: Side| -> Box<dyn crypto::PacketKey> { Box::new(SumKey(self.lane_key(sender))) };
        KeyPair { local: of(side), remote: of(!side) }
    }

    fn lane_key(&self, sender: Side) -> Key {
        let mut bytes = [0; 16];
        self.export(&mut bytes, b"packet", if sender.is_client() { b"client" } else { b"server" });
        key_from(bytes)
    }
}

fn key_from(bytes: [u8; 16]) -> Key {
    let (lanes, _) = bytes.as_chunks::<8>();
    [u64::from_le_bytes(lanes[0]), u64::from_le_bytes(lanes[1])]
}

/// Packet protection: a tag over number, header and payload.
struct SumKey(Key);

impl crypto::PacketKey for SumKey {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        let (header, payload_and_tag) = buf.split_at_mut(header_len);
        let (payload, tag) = payload_and_tag.split_at_mut(payload_and_tag.len() - TAG_BYTES);
        tag.copy_from_slice(&checksum(self.0, packet, &[header, payload]));
    }

    fn decrypt(&self, packet: u64, header: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        let len = payload.len().checked_sub(TAG_BYTES).ok_or(CryptoError)?;
        let (plain, tag) = payload.split_at(len);
        if checksum(self.0, packet, &[header, plain]) != tag {
            return Err(CryptoError);
        }
        payload.truncate(len);
        Ok(())
    }

    fn tag_len(&self) -> usize {
        TAG_BYTES
    }

    fn confidentiality_limit(&self) -> u64 {
        CONFIDENTIALITY_LIMIT_PACKETS
    }

    fn integrity_limit(&self) -> u64 {
        INTEGRITY_LIMIT_PACKETS
    }
}

/// Header protection that protects nothing; the tag covers the header as it is.
struct PlainHeader;

impl HeaderKey for PlainHeader {
    fn decrypt(&self, _pn_offset: usize, _packet: &mut [u8]) {}

    fn encrypt(&self, _pn_offset: usize, _packet: &mut [u8]) {}

    fn sample_size(&self) -> usize {
        // AES-GCM's (RFC 9001 section 5.4.3), so that the smallest packets are as large as in production
        16
    }
}

/// Key of stateless resets.
pub struct SimHmacKey(Key);

impl SimHmacKey {
    /// From the node's reset key.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self(derived("florelay-sim reset", &key))
    }
}

impl HmacKey for SimHmacKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(&checksum(self.0, 0, &[data]));
    }

    fn signature_len(&self) -> usize {
        TAG_BYTES
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        if checksum(self.0, 0, &[data]) == signature { Ok(()) } else { Err(CryptoError) }
    }
}

/// Key of retry and address validation tokens.
pub struct SimTokenKey([u8; 32]);

impl SimTokenKey {
    /// From any 32 bytes, the same at each start of a node.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self(key)
    }
}

impl HandshakeTokenKey for SimTokenKey {
    fn aead_from_hkdf(&self, random_bytes: &[u8]) -> Box<dyn AeadKey> {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(random_bytes);
        Box::new(SumAead(derived("florelay-sim token", hasher.finalize().as_bytes())))
    }
}

struct SumAead(Key);

impl AeadKey for SumAead {
    fn seal(&self, data: &mut Vec<u8>, additional_data: &[u8]) -> Result<(), CryptoError> {
        let tag = checksum(self.0, 0, &[additional_data, data]);
        data.extend_from_slice(&tag);
        Ok(())
    }

    fn open<'a>(&self, data: &'a mut [u8], additional_data: &[u8]) -> Result<&'a mut [u8], CryptoError> {
        let len = data.len().checked_sub(TAG_BYTES).ok_or(CryptoError)?;
        let (plain, tag) = data.split_at_mut(len);
        if checksum(self.0, 0, &[additional_data, plain]) == tag { Ok(plain) } else { Err(CryptoError) }
    }
}

/// The tag of a Retry packet (RFC 9001 section 5.8): a fixed key, so that it guards against damage only.
pub(super) fn retry_tag(original: &ConnectionId, packet: &[&[u8]]) -> [u8; TAG_BYTES] {
    let whole: Vec<u8> = packet.concat();
    checksum([1, 2], 0, &[original, &whole])
}

fn derived(context: &str, material: &[u8]) -> Key {
    let hash = blake3::derive_key(context, material);
    let (halves, _) = hash.as_chunks::<16>();
    key_from(halves[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use quinn_proto::crypto::PacketKey as _;

    #[test]
    fn a_damaged_packet_does_not_open() {
        let secret = Secret::initial(&ConnectionId::new(&[1; 8]));
        let client = secret.packet_keys(Side::Client);
        let server = secret.packet_keys(Side::Server);
        let mut packet = vec![7_u8; 60];
        client.local.encrypt(42, &mut packet, 10);

        let open = |bytes: &[u8], number, key: &dyn crypto::PacketKey| {
            let mut payload = BytesMut::from(&bytes[10..]);
            key.decrypt(number, &bytes[..10], &mut payload).map(|()| payload.to_vec())
        };
        assert_eq!(open(&packet, 42, &*server.remote).unwrap(), [7; 34]);
        assert!(open(&packet, 43, &*server.remote).is_err(), "other number");
        assert!(open(&packet, 42, &*server.local).is_err(), "other direction");
        assert!(open(&packet, 42, &*secret.next().packet_keys(Side::Server).remote).is_err(), "other phase");
        for byte in 0..packet.len() {
            packet[byte] ^= 0x10;
            assert!(open(&packet, 42, &*server.remote).is_err(), "byte {byte}");
            packet[byte] ^= 0x10;
        }
        assert!(SumKey([1, 2]).decrypt(0, &[], &mut BytesMut::from(&[0; 15][..])).is_err(), "shorter than a tag");
    }

    #[test]
    fn tokens_open_only_as_sealed() {
        let key = SimTokenKey::new([4; 32]);
        let mut sealed = b"token".to_vec();
        key.aead_from_hkdf(b"nonce").seal(&mut sealed, b"more").unwrap();
        assert_eq!(key.aead_from_hkdf(b"nonce").open(&mut sealed.clone(), b"more").unwrap(), b"token");
        assert!(key.aead_from_hkdf(b"other").open(&mut sealed.clone(), b"more").is_err());
        assert!(key.aead_from_hkdf(b"nonce").open(&mut sealed.clone(), b"less").is_err());
        assert!(key.aead_from_hkdf(b"nonce").open(&mut [0; 3], b"").is_err());
    }
}
