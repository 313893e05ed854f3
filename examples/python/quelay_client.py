"""A client of a node's Thrift interface, that of Quelay's agent.

The stubs are generated and are not part of this file:

    thrift --gen py --out stubs control/idl/quelay.thrift
    pip install thrift
    PYTHONPATH=stubs python quelay_client.py send    FILE --agent 127.0.0.1:9090
    PYTHONPATH=stubs python quelay_client.py receive FILE --agent 127.0.0.1:9091
"""

import argparse
import os
import queue
import socket
import threading
import uuid

from quelay import QueLayAgent, QueLayCallback
from quelay.ttypes import FailReason, StreamInfo, StreamStartStatus
from thrift.protocol.TBinaryProtocol import TBinaryProtocol, TBinaryProtocolFactory
from thrift.server.TServer import TThreadedServer
from thrift.transport.TSocket import TServerSocket, TSocket
from thrift.transport.TTransport import TBufferedTransport, TBufferedTransportFactory

CHUNK = 64 * 1024


class Agent:
    """Calls to the node. One connection; not for several threads at once."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.transport = TBufferedTransport(TSocket(host, int(port)))
        self.calls = QueLayAgent.Client(TBinaryProtocol(self.transport))
        self.transport.open()

    def close(self):
        self.transport.close()


class Callback:
    """The service that the node calls: every event goes into a queue, in the order in which it came."""

    def __init__(self):
        self.events = queue.Queue()
        # Bound here, so that the port is known; the server listens on it.
        self.socket = TServerSocket("127.0.0.1", 0)
        self.socket.listen()
        self.endpoint = "127.0.0.1:%d" % self.socket.handle.getsockname()[1]
        self.socket.listen = lambda: None
        processor = QueLayCallback.Processor(self)
        server = TThreadedServer(
            processor, self.socket, TBufferedTransportFactory(), TBinaryProtocolFactory(), daemon=True
        )
        threading.Thread(target=server.serve, daemon=True).start()

    def ping(self):
        self.events.put(("ping",))

    def stream_started(self, uuid, info, port):
        self.events.put(("started", uuid, info, port))

    def stream_progress(self, uuid, progress):
        self.events.put(("progress", uuid, progress))

    def stream_done(self, uuid, bytes_transferred, bytes_wire):
        self.events.put(("done", uuid, bytes_transferred, bytes_wire))

    def stream_failed(self, uuid, code, reason):
        self.events.put(("failed", uuid, code, reason))

    def link_status_update(self, link_state):
        self.events.put(("link", link_state))

    def queue_status_update(self, queue_status):
        self.events.put(("queue", queue_status))

    def until(self, kinds, stream=None, timeout=120):
        """The next event of one of these kinds (of this stream); others are passed over."""
        while True:
            event = self.events.get(timeout=timeout)
            if event[0] in kinds and (stream is None or event[1] == stream):
                return event


def connect(address):
    """Calls and callback of one client."""
    agent, callback = Agent(address), Callback()
    reason = agent.calls.set_callback(callback.endpoint)
    if reason:
        raise RuntimeError("the node cannot call us: " + reason)
    return agent, callback


def write_stream(port, data):
    """Writes the bytes of a stream, pieces or one, to its data port."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for piece in [data] if isinstance(data, bytes) else data:
            connection.sendall(piece)


def read_stream(port):
    """Reads the bytes of a stream from its data port, piece by piece."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while piece := connection.recv(CHUNK):
            yield piece


def pieces(file):
    """A file, piece by piece."""
    while piece := file.read(CHUNK):
        yield piece


def finished(event):
    """Bytes of a stream that has arrived; an error for one that has failed."""
    if event[0] == "failed":
        raise RuntimeError("%s: %s" % (FailReason._VALUES_TO_NAMES.get(event[2], event[2]), event[3]))
    return event[2]


def send(address, path, priority):
    agent, callback = connect(address)
    stream = str(uuid.uuid4())
    info = StreamInfo(os.path.getsize(path), {"filename": os.path.basename(path)})
    answer = agent.calls.stream_start(stream, info, priority)
    if answer.status == StreamStartStatus.QueueFull:
        raise RuntimeError("the queue is full")
    print("%s %s" % (stream, StreamStartStatus._VALUES_TO_NAMES[answer.status]))
    started = callback.until(["started", "failed"], stream)
    if started[0] == "failed":
        finished(started)
    with open(path, "rb") as file:
        write_stream(started[3], pieces(file))
    print("%d bytes have arrived" % finished(callback.until(["done", "failed"], stream, timeout=None)))


def receive(address, path):
    _agent, callback = connect(address)
    _, stream, info, port = callback.until(["started"], timeout=None)
    print("%s %s" % (stream, info.attrs))
    with open(path, "wb") as file:
        for piece in read_stream(port):
            file.write(piece)
    print("%d bytes have come" % finished(callback.until(["done", "failed"], stream, timeout=None)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["send", "receive"])
    parser.add_argument("file")
    parser.add_argument("--agent", default="127.0.0.1:9090", metavar="HOST:PORT")
    parser.add_argument("--priority", type=int, default=0, help="0 to 127")
    arguments = parser.parse_args()
    if arguments.verb == "send":
        send(arguments.agent, arguments.file, arguments.priority)
    else:
        receive(arguments.agent, arguments.file)


if __name__ == "__main__":
    main()
