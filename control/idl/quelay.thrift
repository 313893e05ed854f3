// The Thrift interface that florelay serves to Quelay's clients: both known versions at once.
// Binary protocol, buffered transport without frames, plain TCP; by default at 127.0.0.1:9090.
// How it behaves is described in docs/src/quelay.md.

namespace py quelay
namespace cpp quelay

// What get_version answers is configured; a client compares it with its own. Known: "2026-Feb-20" (0.1.3), "2026-Mar-02" (0.3),
// "2026-Mar-05" (0.4).
const string idl_version = "2026-Mar-05"

// Priorities: 64 and above are strict before those below.
const i8 priority_min = 0
const i8 priority_max = 127

// The way to the peer: its first link, and whether the peer answers.
enum LinkState {
  // Not reached since the node was started.
  Connecting = 0,
  Normal = 1,
  // Up, but with loss, delay or jitter beyond a threshold.
  Degraded = 2,
  // Down, or dark somewhere behind the first link. Streams wait, nothing of them is lost.
  Failed = 3,
}

enum FailReason {
  // The writing client went away, broke its connection, or never connected.
  SenderClosed = 0,
  LinkFailed = 1,
  // Taken out of the queue before it began.
  QueueCleared = 2,
  // A deadline has passed, or the reading client never connected.
  Timeout = 3,
  // Anything else; the reason says what.
  Unknown = 99,
}

enum StreamStartStatus {
  // stream_started follows, or has just been sent.
  Running = 0,
  // It waits for its turn; stream_started follows then.
  Pending = 1,
  // Refused: as many wait as may.
  QueueFull = 2,
  // Taken, although the peer has not been reached since the node was started.
  NotConnected = 3,
}

struct StreamInfo {
  // Bytes in all, if known. More bytes, or an end before, fail the stream.
  1: optional i64 size_bytes,
  // Passed on verbatim: at most 64 of at most 1024 bytes. "florelay.to" names the peer, where there are several.
  2: map<string, string> attrs,
}

struct StartStreamReturn {
  1: StreamStartStatus status,
  // Of one that waits: how many do, itself included, when it came in.
  2: optional i32 queue_position,
}

struct QueueStatus {
  1: i32 active_count,
  // 0 = no limit.
  2: i32 max_concurrent,
  3: i32 max_pending,
  // UUIDs, the next to begin first.
  4: list<string> pending,
}

struct ProgressInfo {
  // Bytes that the reading client has taken.
  1: i64 bytes_transferred,
  2: optional i64 size_bytes,
  // 0 to 100.
  3: optional double percent_done,
}

// The bulk connection to the peer.
struct ConnStats {
  1: i64 sent_packets,
  2: i64 lost_packets,
  // How often congestion control has acted.
  3: i64 congestion_events,
  4: i64 rtt_ms,
  // Bytes.
  5: i64 cwnd,
  6: i64 lost_bytes,
}

// Called by clients.
service QueLayAgent {
  string get_version(),

  // The UUID must never have been used. What is refused otherwise than by QueueFull is a TApplicationException.
  StartStreamReturn stream_start(1: string uuid, 2: StreamInfo info, 3: i8 priority),

  // HOST:PORT of the client's callback service. Empty = the node is connected to it; otherwise the reason why not.
  string set_callback(1: string endpoint),

  LinkState get_link_state(),

  // Cap of the first link to the peer; 0 = none.
  i32 get_bandwidth_cap_mbps(),
  i64 get_bandwidth_cap_bps(),

  ConnStats get_conn_stats(),

  // Test hooks: unknown methods unless the node is configured for them.
  void link_enable(1: bool enabled),
  // 0 = as configured.
  void set_max_concurrent(1: i32 n),
  // 0 to 65535; without effect, streams are not cut into chunks.
  void set_chunk_size_bytes(1: i32 n),
}

// Called by the node, in this order on one connection. A UUID comes as 36 lower-case characters.
service QueLayCallback {
  // Each minute. A client that does not answer within 10 s is not called any more until it registers again.
  void ping(),

  // Connect to 127.0.0.1:port, and write (the sender) or read (the receiver) the bytes of the stream; end of file is its end.
  oneway void stream_started(1: string uuid, 2: StreamInfo info, 3: i32 port),

  oneway void stream_progress(1: string uuid, 2: ProgressInfo progress),

  // Either this one or the next, once for each stream.
  // bytes_wire: bytes sent for it, those sent again included; at the receiver the bytes of the stream.
  oneway void stream_done(1: string uuid, 2: i64 bytes_transferred, 3: i64 bytes_wire),

  oneway void stream_failed(1: string uuid, 2: FailReason code, 3: string reason),

  oneway void link_status_update(1: LinkState link_state),

  oneway void queue_status_update(1: QueueStatus queue_status),
}
