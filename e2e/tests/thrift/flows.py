"""What Quelay's clients do, between two nodes: one flow a run. `thrift.rs` starts the nodes and runs them.

A flow that needs something done to a node says so in a line and waits for one:
    <- outage        -> done
It ends with code 0, or with the assertion that failed.
"""

import hashlib
import os
import socket
import sys
import threading
import time
import uuid

from quelay.ttypes import FailReason, LinkState, StreamInfo, StreamStartStatus
from quelay_client import Agent, connect, finished, read_stream, write_stream
from thrift.Thrift import TApplicationException

RUNNING, PENDING, FULL = StreamStartStatus.Running, StreamStartStatus.Pending, StreamStartStatus.QueueFull


def ask(what):
    """Has the test do something, and waits until it is done."""
    print(what, flush=True)
    assert sys.stdin.readline().strip() == "done"


class Reading:
    """Reads all streams that come to a client, each in a thread of its own."""

    def __init__(self, callback):
        self.callback, self.got, self.changed = callback, {}, threading.Condition()
        self.order = []
        threading.Thread(target=self.follow, daemon=True).start()

    def follow(self):
        under_way = set()
        while True:
            event = self.callback.events.get()
            kind, stream = event[0], event[1] if len(event) > 1 else None
            if kind == "started":
                under_way.add(stream)
                self.order.append(stream)
                threading.Thread(target=self.read, args=(stream, event[2], event[3]), daemon=True).start()
            elif kind in ("done", "failed"):
                assert stream in under_way, "a stream has ended that was not started, or twice"
                under_way.remove(stream)
                self.note(stream, end=event)
            else:
                assert kind in ("progress", "ping") or not under_way, "%s in the middle of a stream" % kind

    def read(self, stream, info, port):
        digest, size = hashlib.sha256(), 0
        try:
            for piece in read_stream(port):
                digest.update(piece)
                size += len(piece)
            self.note(stream, data=(size, digest.hexdigest(), info))
        except OSError as error:
            self.note(stream, data=(size, str(error), info))

    def note(self, stream, **what):
        with self.changed:
            self.got.setdefault(stream, {}).update(what)
            self.changed.notify_all()

    def until(self, stream, timeout=120):
        """Bytes, digest, attributes; once its end was said."""
        with self.changed:
            whole = lambda: {"end", "data"} <= self.got.get(stream, {}).keys()
            assert self.changed.wait_for(whole, timeout), "stream %s: %s" % (stream, self.got.get(stream))
            return self.got[stream]


def start(agent, size=None, priority=0, **attributes):
    stream = str(uuid.uuid4())
    return stream, agent.calls.stream_start(stream, StreamInfo(size, attributes), priority)


def sha(data):
    return hashlib.sha256(data).hexdigest()


def check(reading, stream, data):
    got = reading.until(stream)
    assert got["end"][0] == "done", got
    assert got["data"][:2] == (len(data), sha(data)), "what came is not what went"
    assert got["end"][2] == len(data), got
    return got


def one(agent, callback, reading, data, declare=True):
    """A whole stream, each event in its place."""
    stream, answer = start(agent, len(data) if declare else None, sha256=sha(data))
    assert (answer.status, answer.queue_position) == (RUNNING, None), answer
    first = callback.until(["started", "failed", "done"], stream)
    assert first[0] == "started", first
    write_stream(first[3], data)
    got = check(reading, stream, data)
    info = got["data"][2]
    assert (info.size_bytes, info.attrs) == (len(data) if declare else None, {"sha256": sha(data)}), info
    end = callback.until(["done", "failed"], stream)
    assert finished(end) == len(data) and end[3] >= len(data), end


def sizes(a, b):
    """Files of all sizes, one way, the other, and both at once."""
    (agent, callback), (_, sink) = connect(a), connect(b)
    # The first event of a connection, before any other is taken.
    stream, _ = start(agent, 3)
    first = callback.events.get(timeout=120)
    assert first[:2] == ("started", stream), first
    reading = Reading(sink)
    write_stream(first[3], b"abc")
    check(reading, stream, b"abc")
    for size in (0, 1, 512, 1024, 9000, 30 << 20):
        one(agent, callback, reading, os.urandom(size))
    one(agent, callback, reading, os.urandom(100_000), declare=False)

    # Both at once: a sending client and a receiving one at each node. The newest receives.
    ways = []
    for source, target in ((a, b), (b, a)):
        ways.append((connect(source), target))
    sinks = {target: Reading(connect(target)[1]) for target in (a, b)}
    threads = []
    for (agent, callback), target in ways:
        data = os.urandom(5 << 20)
        threads.append(Failing(one, agent, callback, sinks[target], data))
    for thread in threads:
        thread.finish()


class Failing(threading.Thread):
    """A thread whose error is not lost."""

    def __init__(self, work, *arguments):
        super().__init__(daemon=True)
        self.work, self.arguments, self.error = work, arguments, None
        self.start()

    def run(self):
        try:
            self.work(*self.arguments)
        except BaseException as error:
            self.error = error

    def finish(self):
        self.join(timeout=240)
        assert not self.is_alive(), "%s does not end" % self.work.__name__
        if self.error:
            raise self.error


def priorities(a, b):
    """Many by priority, one and two at once; positions and updates of the queue."""
    _, sink = connect(b)
    reading = Reading(sink)
    for at_once in (1, 2):
        agent, callback = connect(a)
        agent.calls.set_max_concurrent(at_once)
        anchors, waiting = [], []
        for _ in range(at_once):
            stream, answer = start(agent, 10)
            assert (answer.status, answer.queue_position) == (RUNNING, None), answer
            anchors.append(stream)
        first = callback.events.get(timeout=120)
        assert first[:2] == ("started", anchors[0]), first
        ports = {anchors[0]: first[3]}
        for place in range(1, 6):
            stream, answer = start(agent, 4)
            waiting.append(stream)
            assert (answer.status, answer.queue_position) == (PENDING, place), (answer, place)
        # Equal priorities keep their order; now with different ones.
        by_priority = []
        for place, priority in enumerate((10, 127, 30, 20, 64), 6):
            stream, answer = start(agent, 4, priority)
            assert (answer.status, answer.queue_position) == (PENDING, place), (answer, place)
            by_priority.append((priority, stream))
        expected = [stream for _, stream in sorted(by_priority, reverse=True)] + waiting
        while True:
            event = callback.until(["queue", "started"])
            if event[0] == "started":
                ports[event[1]] = event[3]
                continue
            status = event[1]
            assert (status.max_concurrent, status.max_pending) == (at_once, 100), status
            if status.pending == expected:
                assert status.active_count == at_once, status
                break
        for stream in anchors:
            if stream not in ports:
                ports[stream] = callback.until(["started"], stream)[3]
            write_stream(ports[stream], b"0123456789")
        order, ended = [], 0
        while ended < len(anchors) + len(expected):
            event = callback.until(["started", "done", "failed"])
            if event[0] == "started":
                order.append(event[1])
                write_stream(event[3], b"abcd")
            else:
                finished(event)
                ended += 1
        assert order == expected, "they begin by priority, and by age within one"
        # The last update: nothing is left.
        while True:
            status = callback.until(["queue"])[1]
            if status.active_count == 0 and status.pending == []:
                break
        agent.calls.set_max_concurrent(0)
    assert len(reading.order) == 23, len(reading.order)


def outage(a, b):
    """A link that goes away in the middle of a stream, by the test hook."""
    (agent, callback), (_, sink) = connect(a), connect(b)
    reading = Reading(sink)
    other = Agent(a)
    data = os.urandom(8 << 20)
    stream, _ = start(agent, len(data))
    port = callback.until(["started"], stream)[3]
    writing = Failing(write_stream, port, data)
    callback.until(["progress"], stream)
    other.calls.link_enable(False)
    until_link(other, LinkState.Failed)
    assert callback.until(["link"])[1] == LinkState.Failed
    # A stream that is ordered now is answered at once; the quickest of several, for a machine that is busy.
    quickest, later = min(timed(agent) for _ in range(10))
    assert quickest < 0.05, "stream_start takes %.0f ms in an outage" % (quickest * 1000)
    started = callback.until(["started"], later)
    write_stream(started[3], b"late")
    other.calls.link_enable(True)
    until_link(other, LinkState.Normal, LinkState.Degraded)
    writing.finish()
    check(reading, stream, data)
    check(reading, later, b"late")
    finished(callback.until(["done", "failed"], stream))


def timed(agent):
    before = time.monotonic()
    stream, answer = start(agent, 4)
    assert answer.status in (RUNNING, PENDING), answer
    return time.monotonic() - before, stream


def until_link(agent, *states):
    end = time.monotonic() + 60
    while agent.calls.get_link_state() not in states:
        assert time.monotonic() < end, "the link is %s" % agent.calls.get_link_state()


def refusals(a, b):
    """What is refused, and that the node goes on."""
    agent, callback = connect(a)
    _, sink = connect(b)
    stream, answer = start(agent, 5)
    assert answer.status == RUNNING
    for bad in (
        lambda: agent.calls.stream_start(stream, StreamInfo(5, {}), 0),
        lambda: agent.calls.stream_start("no uuid", StreamInfo(5, {}), 0),
        lambda: agent.calls.stream_start(str(uuid.uuid4()), StreamInfo(-5, {}), 0),
        lambda: agent.calls.stream_start(str(uuid.uuid4()), StreamInfo(5, {}), -1),
        lambda: agent.calls.stream_start(str(uuid.uuid4()), StreamInfo(5, {"florelay.to": "nobody"}), 0),
        lambda: agent.calls.stream_start(str(uuid.uuid4()), StreamInfo(5, {str(n): "" for n in range(100)}), 0),
    ):
        try:
            raise AssertionError("taken: %s" % bad())
        except TApplicationException as error:
            assert error.message, error
    reading = Reading(sink)
    port = callback.until(["started"], stream)[3]
    # More than was declared.
    try:
        write_stream(port, b"x" * (1 << 20))
    except OSError:
        pass
    end = callback.until(["done", "failed"], stream)
    assert end[0] == "failed" and end[2] == FailReason.Unknown and "5 bytes" in end[3], end
    # It is still known.
    try:
        raise AssertionError("taken: %s" % agent.calls.stream_start(stream, StreamInfo(5, {}), 0))
    except TApplicationException as error:
        assert "in use" in error.message, error
    # One that is probed, and that nobody writes.
    stream, _ = start(agent)
    port = callback.until(["started"], stream)[3]
    for _ in range(3):
        socket.create_connection(("127.0.0.1", port)).close()
    write_stream(port, b"in earnest")
    check(reading, stream, b"in earnest")


def full(a, b):
    """The 101st stream that waits is refused, and the node goes on."""
    (agent, callback), (_, sink) = connect(a), connect(b)
    agent.calls.set_max_concurrent(1)
    anchor, answer = start(agent, 1)
    assert answer.status == RUNNING
    waiting = []
    for place in range(1, 101):
        stream, answer = start(agent, 1)
        assert (answer.status, answer.queue_position) == (PENDING, place), answer
        waiting.append(stream)
    _, answer = start(agent, 1)
    assert (answer.status, answer.queue_position) == (FULL, None), answer
    reading = Reading(sink)
    write_stream(callback.until(["started"], anchor)[3], b"x")
    agent.calls.set_max_concurrent(0)
    for stream in waiting:
        write_stream(callback.until(["started"], stream)[3], b"x")
    for stream in waiting:
        check(reading, stream, b"x")
    assert agent.calls.get_version()


def many(a, b, count):
    """Many at once."""
    (agent, callback), (_, sink) = connect(a), connect(b)
    reading = Reading(sink)
    ports, streams, data = {}, {}, {}
    for number in range(int(count)):
        stream, answer = start(agent, 20_000)
        assert answer.status == RUNNING, (number, answer)
        data[stream] = os.urandom(20_000)
        ports[stream] = callback.until(["started"], stream)[3]
    # All are open before the first has ended.
    for stream, port in ports.items():
        streams[stream] = socket.create_connection(("127.0.0.1", port))
        streams[stream].sendall(data[stream][:10_000])
    for stream, connection in streams.items():
        connection.sendall(data[stream][10_000:])
        connection.close()
    for stream, sent in data.items():
        check(reading, stream, sent)


def restart(a, b):
    """The node's data plane goes away in the middle, and comes back."""
    (agent, callback), (_, sink) = connect(a), connect(b)
    reading = Reading(sink)
    data = os.urandom(12 << 20)
    stream, _ = start(agent, len(data))
    writing = Failing(write_stream, callback.until(["started"], stream)[3], data)
    callback.until(["progress"], stream)
    ask("kill")
    writing.finish()
    check(reading, stream, data)
    finished(callback.until(["done", "failed"], stream))
    one(agent, callback, reading, b"and it goes on")


def saturate(a, b):
    """More than the link carries, until the test has measured."""
    (agent, callback), (_, sink) = connect(a), connect(b)
    reading = Reading(sink)
    stream, _ = start(agent)
    connection = socket.create_connection(("127.0.0.1", callback.until(["started"], stream)[3]))
    measured = threading.Event()

    def write():
        digest, size, piece = hashlib.sha256(), 0, os.urandom(64 << 10)
        # Twice the cap and more, but no spool on disk that takes minutes to drain.
        while not measured.wait(0.02):
            connection.sendall(piece)
            digest.update(piece)
            size += len(piece)
        connection.close()
        got = reading.until(stream)
        assert got["data"][:2] == (size, digest.hexdigest()), "what came is not what went"

    writing = Failing(write)
    for _ in range(3):
        callback.until(["progress"], stream)
    ask("measure")
    measured.set()
    writing.finish()


def facts(a, b, version, cap):
    """What is said of the node and the link."""
    agent = Agent(a)
    assert agent.calls.get_version() == version
    assert agent.calls.get_bandwidth_cap_bps() == int(cap)
    assert agent.calls.get_bandwidth_cap_mbps() == int(cap) // 1_000_000
    assert agent.calls.get_link_state() in (LinkState.Normal, LinkState.Degraded)
    stats = agent.calls.get_conn_stats()
    assert stats.sent_packets > 0 and stats.cwnd > 0, stats
    assert 0 <= stats.lost_packets <= stats.sent_packets, stats
    try:
        agent.calls.link_enable(False)
        raise AssertionError("a test hook that was not configured")
    except TApplicationException as error:
        assert error.type == TApplicationException.UNKNOWN_METHOD, error
    Agent(b).calls.set_chunk_size_bytes(1024)


def crowd(a, b):
    """Garbage, connections that say nothing, and a thousand of them."""
    host, port = a.rsplit(":", 1)
    (agent, callback), (_, sink) = connect(a), connect(b)
    reading = Reading(sink)
    open_ones = []
    for number in range(1000):
        connection = socket.create_connection((host, int(port)))
        try:
            connection.sendall([b"", b"GET / HTTP/1.1\r\n\r\n", b"\x80\x01\x00\x01\x7f\xff\xff\xff", os.urandom(99)][number % 4])
        except OSError:
            pass
        open_ones.append(connection)
    one(agent, callback, reading, b"in between")
    late, of_late = connect(a)
    one(late, of_late, reading, b"and late")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
