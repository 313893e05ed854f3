//! A worker.

pub(crate) mod frame;
mod report;

pub(crate) use report::{LinkAdapterReport, WorkerReport};
