//! Why a table cannot be built, for the person who wrote the configuration.

use std::fmt;
use std::sync::Arc;

use florelay_wire::mpls::Label;

/// What a row belongs to, for error messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// The path to this peer.
    Peer(Arc<str>),
    /// The transit row at this position of the configuration.
    Transit(usize),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Peer(name) => write!(f, "the path to `{name}`"),
            Owner::Transit(index) => write!(f, "transit row {index}"),
        }
    }
}

/// Why a table cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FibError {
    /// Two links with the same index.
    #[error("link `{name}` has the index {index} of another link")]
    DuplicateLink {
        /// Its name.
        name: Arc<str>,
        /// The index.
        index: u16,
    },
    /// Two peers with the same index.
    #[error("peer `{name}` has the index {index} of another peer")]
    DuplicatePeer {
        /// Its name.
        name: Arc<str>,
        /// The index.
        index: u16,
    },
    /// A row on a link that this node does not have.
    #[error("{owner} uses link {index}, which this node does not have")]
    UnknownLink {
        /// Whose row.
        owner: Owner,
        /// The link's index.
        index: u16,
    },
    /// A label below 16.
    #[error("{owner} uses label {label} on link `{link}`; labels below 16 are reserved (RFC 7274)")]
    ReservedLabel {
        /// Whose row.
        owner: Owner,
        /// The link's name.
        link: Arc<str>,
        /// The label.
        label: Label,
    },
    /// Two rows with the same in-label on one link.
    #[error("{owner} uses in-label {label} on link `{link}`, which another row has already")]
    DuplicateLabel {
        /// Whose row.
        owner: Owner,
        /// The link's name.
        link: Arc<str>,
        /// The label.
        label: Label,
    },
    /// Both ends of a transit row are the same link and label, or it is otherwise not a path through this node.
    #[error("transit row {index} ends where it begins, on link `{link}`")]
    Hairpin {
        /// Position in the configuration.
        index: usize,
        /// The link's name.
        link: Arc<str>,
    },
    /// More transit rows than flow numbers.
    #[error("{0} transit rows; at most 2^31 can be numbered")]
    TooManyTransits(usize),
}
