//! What the dataplane reads from files that others may not, and what it draws from the system's random source.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use florelay_engine::transport::tls::Credentials;
use rustix::rand::{GetRandomFlags, getrandom};
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::DaemonError;
use crate::plan::NodePlan;

/// Name of the stateless-reset key in the state directory.
const RESET_KEY_FILE: &str = "reset.key";

/// Certificate, key and trust out of their PEM files.
pub(super) fn credentials(plan: &NodePlan) -> Result<Credentials, DaemonError> {
    let pem = |path: &Path, reason: String| DaemonError::File { path: path.to_owned(), reason };
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, DaemonError> {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match read {
            Ok(found) if found.is_empty() => Err(pem(path, "there is no certificate in it".into())),
            Ok(found) => Ok(found),
            Err(error) => Err(pem(path, error.to_string())),
        }
    };
    let chain = certificates(&plan.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&plan.key).map_err(|error| pem(&plan.key, error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for root in certificates(&plan.trust)? {
        roots.add(root).map_err(|error| pem(&plan.trust, error.to_string()))?;
    }
    Ok(Credentials { chain, key, roots: Arc::new(roots) })
}

/// The key of stateless resets (RFC 9000 section 10.3), the same after a restart: a peer whose connection this node has
/// forgotten is told so at once. Made at the first start, mode 0600.
pub(super) fn reset_key(state_dir: &Path) -> Result<[u8; 32], DaemonError> {
    let path = state_dir.join(RESET_KEY_FILE);
    let of_file = |error: io::Error| DaemonError::File { path: path.clone(), reason: error.to_string() };
    match File::open(&path) {
        Ok(mut file) => {
            let mut key = [0; 32];
            file.read_exact(&mut key).map_err(of_file)?;
            Ok(key)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(of_file)?;
            let key = random()?;
            // Whole or not at all: a key that was written halfway would never be accepted again.
            let partial = path.with_extension("new");
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&partial)
                .map_err(of_file)?;
            file.write_all(&key).and_then(|()| file.sync_all()).map_err(of_file)?;
            std::fs::rename(&partial, &path).map_err(of_file)?;
            Ok(key)
        }
        Err(error) => Err(of_file(error)),
    }
}

/// From getrandom(2).
pub(super) fn random<const N: usize>() -> Result<[u8; N], DaemonError> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(more) => filled += more,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(DaemonError::System { what: "getrandom", source: error.into() }),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_reset_key_survives_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let key = reset_key(&state).unwrap();
        assert_ne!(key, [0; 32]);
        assert_eq!(reset_key(&state).unwrap(), key);
        let mode = std::fs::metadata(state.join(RESET_KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(state.join(RESET_KEY_FILE), [1; 31]).unwrap();
        assert!(reset_key(&state).unwrap_err().to_string().contains(RESET_KEY_FILE));
    }
}
