//! The compiled XDP program, as `build.rs` left it.

/// The eBPF object of this build. Empty where the tools to build it were missing, or the target is not Linux:
/// [`Attachment::attach`](super::Attachment::attach) then refuses with [`AttachError::NoProgram`](super::AttachError::NoProgram).
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/florelay-ebpf"));
