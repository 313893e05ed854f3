//! stub
pub(crate) mod socket;
