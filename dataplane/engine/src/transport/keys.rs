//! Connection ids that carry their worker, and the stateless-reset key that outlives a restart.

use std::time::Duration;

use quinn_proto::crypto::{CryptoError, HmacKey};
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};

/// Length of our connection ids in bytes.
pub(crate) const CID_BYTES: usize = 8;

/// Connection ids `worker | 7 pseudo-random bytes`. The bytes come from a keyed hash of a counter, so that they
/// are unpredictable to others and reproducible in simulation.
pub(crate) struct WorkerCid {
    worker: u8,
    key: [u8; 32],
    counter: u64,
}

impl WorkerCid {
    pub(crate) fn new(worker: u8, key: [u8; 32]) -> Self {
        Self { worker, key, counter: 0 }
    }
}

impl ConnectionIdGenerator for WorkerCid {
    fn generate_cid(&mut self) -> ConnectionId {
        self.counter += 1;
        let hash = blake3::keyed_hash(&self.key, &self.counter.to_le_bytes());
        let mut id = [self.worker; CID_BYTES];
        id[1..].copy_from_slice(&hash.as_bytes()[..CID_BYTES - 1]);
        ConnectionId::new(&id)
    }

    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        if cid.first() == Some(&self.worker) { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        CID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Signs stateless-reset tokens (RFC 9000 section 10.3.2) with BLAKE3 keyed by a key that persists over restarts,
/// so that a restarted node can tell its peers that their connections are gone.
pub(crate) struct ResetKey(pub(crate) [u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(data);
        hasher.finalize_xof().fill(signature_out);
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let expected = blake3::keyed_hash(&self.0, data);
        // blake3::Hash compares in constant time.
        match <[u8; 32]>::try_from(signature) {
            Ok(signature) if expected == blake3::Hash::from_bytes(signature) => Ok(()),
            _ => Err(CryptoError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cids_carry_their_worker_and_repeat_only_with_their_key() {
        let mut one = WorkerCid::new(3, [1; 32]);
        let (a, b) = (one.generate_cid(), one.generate_cid());
        assert_ne!(a, b);
        assert_eq!(a[0], 3);
        assert!(one.validate(&a).is_ok());
        assert!(WorkerCid::new(4, [1; 32]).validate(&a).is_err());
        assert_eq!(WorkerCid::new(3, [1; 32]).generate_cid(), a);
        assert_ne!(WorkerCid::new(3, [2; 32]).generate_cid(), a);
    }

    #[test]
    fn a_reset_signature_verifies_only_with_its_key() {
        let key = ResetKey([7; 32]);
        let mut signature = [0; 32];
        key.sign(b"cid", &mut signature);
        assert!(key.verify(b"cid", &signature).is_ok());
        assert!(key.verify(b"cix", &signature).is_err());
        assert!(ResetKey([8; 32]).verify(b"cid", &signature).is_err());
    }
}
