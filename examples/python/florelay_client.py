#!/usr/bin/env python3
"""A client of florelay's gRPC API, florelay.v1: sends a file or a pipe as a stream, receives one, watches, asks, commands.

    pip install grpcio grpcio-tools
    florelay_client.py send report.pdf --to station-b
    florelay_client.py receive --name report.pdf > report.pdf
    florelay_client.py --help

The stubs are generated from the .proto when it starts, into a temporary folder. Nothing is lost when a call breaks: the
writer keeps what the node has not accepted and resumes; the reader goes on behind what it has processed.
"""

import argparse
import contextlib
import importlib
import os
import pathlib
import queue
import sys
import tempfile
import threading
import time
import uuid

import grpc

PROTO = pathlib.Path(__file__).resolve().parents[2] / "control" / "proto"
CHUNK_BYTES = 256 << 10
# Bytes that are not accepted; then a writer waits. The node itself keeps no more of a stream.
WINDOW_BYTES = 16 << 20
# How long the node waits for us when a call is lost, and we for the node.
LINGER_NS = 60 * 10**9
PATIENCE_S = 60.0
RETRY_S = 0.2
# The node is being restarted, or the call before has not let go yet.
PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED)


def stubs(proto=PROTO):
    """Generates and imports messages and stubs of florelay.v1."""
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as out:
        args = ["protoc", f"-I{proto}", f"--python_out={out}", f"--grpc_python_out={out}", "florelay/v1/florelay.proto"]
        if protoc.main(args) != 0:
            raise RuntimeError("the .proto cannot be compiled")
        sys.path.insert(0, out)
        try:
            return importlib.import_module("florelay.v1.florelay_pb2"), importlib.import_module("florelay.v1.florelay_pb2_grpc")
        finally:
            sys.path.remove(out)


pb, rpc = stubs()


def connect(target, ca=None, certificate=None, key=None, server=None):
    """A channel to a node: `HOST:PORT` or `unix:/path`; with TLS if there is a CA.

    A certificate of `florelay pki` names no host, but its node as NODE.REALM: give that as `server` to have it checked.
    """
    if ca is None:
        # What grpcio would name after a socket's path is no authority (RFC 3986), and refused.
        options = [("grpc.default_authority", "localhost")] if target.startswith("unix:") else []
        return grpc.insecure_channel(target, options)
    read = lambda path: pathlib.Path(path).read_bytes() if path else None
    credentials = grpc.ssl_channel_credentials(read(ca), read(key), read(certificate))
    options = [("grpc.ssl_target_name_override", server)] if server else []
    return grpc.secure_channel(target, credentials, options)


def new_order(to, name, **more):
    """An order with an id, so that it can be repeated and resumed."""
    return pb.Order(to=to, name=name, **{"id": str(uuid.uuid4()), **more})


class Failed(Exception):
    """A transfer that has ended without success."""

    def __init__(self, transfer):
        super().__init__(f"{transfer.ended.failure.code}: {transfer.ended.failure.reason}")
        self.transfer = transfer


def well(transfer):
    """The transfer, if it has ended well."""
    if transfer.ended.HasField("failure"):
        raise Failed(transfer)
    return transfer


class Writer:
    """Writes a stream, and goes on by itself when its call is lost."""

    def __init__(self, channel, order, declared=None, linger_ns=LINGER_NS, patience=PATIENCE_S):
        self._channel, self._patience, self.id = channel, patience, order.id
        self._opening = pb.WriteRequest(open=pb.WriteOpen(order=order, declared_bytes=declared, linger_ns=linger_ns))
        self._changed = threading.Condition()
        # The bytes from `accepted` to `head`.
        self._window, self.accepted, self._head = bytearray(), 0, 0
        self._finished = self._over = False
        self.transfer = self._error = self._ended = self._call = None
        threading.Thread(target=self._run, daemon=True).start()
        with self._changed:
            self._changed.wait_for(lambda: self.transfer or self._error or self._ended)
        self._check()

    def write(self, data):
        """Hands some bytes over; waits while the node accepts no more."""
        data = memoryview(data)
        while data:
            with self._changed:
                room = lambda: WINDOW_BYTES - len(self._window)
                self._changed.wait_for(lambda: self._error or self._ended or room() > 0)
                self._check()
                if self._ended:
                    raise Failed(self._ended)
                now = data[: room()]
                self._window += now
                self._head += len(now)
                self._changed.notify_all()
            data = data[len(now) :]

    def finish(self):
        """Says that this was all, and waits for the end of the transfer."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()
        return self.wait()

    def wait(self):
        """Waits for the end of the transfer."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or self._ended)
        self._check()
        return well(self._ended)

    def drop(self):
        """Drops the call, as a program does that dies."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        if self._call:
            self._call.cancel()

    def _check(self):
        if self._error:
            raise self._error
        if self._ended:
            well(self._ended)

    def _requests(self, first, place):
        yield first
        at = place.get()
        while at is not None:
            with self._changed:
                ready = lambda: self._over or place.qsize() or self._head > at or self._finished
                self._changed.wait_for(ready)
                if self._over or place.qsize():
                    return
                piece = bytes(self._window[at - self.accepted :][:CHUNK_BYTES]) if at >= self.accepted else b""
                behind = at < self.accepted
            if behind:
                return
            if not piece:
                yield pb.WriteRequest(finish=pb.WriteFinish(size_bytes=at))
                return
            yield pb.WriteRequest(chunk=pb.Chunk(offset_bytes=at, data=piece))
            at += len(piece)

    def _one_call(self, first):
        place = queue.SimpleQueue()
        try:
            self._call = rpc.StreamsStub(self._channel).Write(self._requests(first, place))
            for answer in self._call:
                with self._changed:
                    if answer.HasField("opened"):
                        self._accept(answer.opened.next_offset_bytes)
                        place.put(answer.opened.next_offset_bytes)
                        self.transfer = answer.opened.transfer
                    elif answer.HasField("accepted"):
                        self._accept(answer.accepted.offset_bytes)
                    else:
                        self._ended = answer.ended
                    self._changed.notify_all()
        finally:
            # The requests of this call end.
            place.put(None)
            with self._changed:
                self._changed.notify_all()

    def _accept(self, offset):
        done = max(0, min(offset, self._head) - self.accepted)
        del self._window[:done]
        self.accepted += done

    def _run(self):
        first, since = self._opening, None
        while not self._ended and not self._over:
            try:
                self._one_call(first)
            except grpc.RpcError as error:
                since = since or time.monotonic()
                code = error.code()
                if self._over:
                    pass
                elif code == grpc.StatusCode.FAILED_PRECONDITION and self._finished:
                    # All of it is there: it goes on by itself.
                    self._watch()
                    continue
                elif code == grpc.StatusCode.NOT_FOUND and first is not self._opening and self.transfer is None:
                    # The order had not come through.
                    first = self._opening
                    continue
                elif code not in PASSING or time.monotonic() - since > self._patience:
                    with self._changed:
                        self._error = error
                        self._changed.notify_all()
                    return
                time.sleep(RETRY_S)
            first = pb.WriteRequest(resume=pb.WriteResume(id=self.id))

    def _watch(self):
        with contextlib.suppress(grpc.RpcError):
            for status in watch(self._channel, self.id):
                if status.HasField("ended"):
                    with self._changed:
                        self._ended = status
                        self._changed.notify_all()


class Reader:
    """Reads a stream, and goes on by itself when its call is lost. Iterate over its pieces, then `take` it."""

    def __init__(self, channel, name="", peer="", id="", linger_ns=LINGER_NS, patience=PATIENCE_S):
        self._channel, self._patience, self._linger = channel, patience, linger_ns
        self._name, self._peer, self.id = name, peer, id
        self.at, self.end, self.transfer, self._call, self._says = 0, None, None, None, None

    def _dial(self):
        opening = pb.ReadOpen(
            id=self.id, name=self._name, offset_bytes=self.at, linger_ns=self._linger, **{"from": self._peer}
        )
        self._says = queue.SimpleQueue()
        self._says.put(pb.ReadRequest(open=opening))
        self._call = rpc.StreamsStub(self._channel).Read(iter(self._says.get, None))

    def _answers(self):
        """Answers of one call after another."""
        since = None
        while True:
            try:
                if self._call is None:
                    self._dial()
                for answer in self._call:
                    since = None
                    yield answer
                return
            except grpc.RpcError as error:
                since = since or time.monotonic()
                if self._says is None or error.code() not in PASSING or time.monotonic() - since > self._patience:
                    raise
                self._says.put(None)
                self._call = None
                time.sleep(RETRY_S)

    def __iter__(self):
        self._all = self._answers()
        for answer in self._all:
            if answer.HasField("opened"):
                self.transfer, self.id = answer.opened.transfer, answer.opened.transfer.id
            elif answer.HasField("chunk"):
                chunk = answer.chunk
                assert chunk.offset_bytes == self.at, "a gap"
                yield chunk.data
                # Whoever asks for the next piece has done with this one.
                self.at += len(chunk.data)
                self._says.put(pb.ReadRequest(processed=pb.Processed(offset_bytes=self.at)))
            elif answer.HasField("end"):
                self.end = answer.end
                return
            else:
                raise Failed(answer.ended)

    def take(self):
        """Says that all of it is here, and waits for the end of the transfer."""
        self._says.put(pb.ReadRequest(take=pb.ReadTake()))
        for answer in self._all:
            if answer.HasField("end"):
                # Of another call.
                self._says.put(pb.ReadRequest(take=pb.ReadTake()))
            elif answer.HasField("ended"):
                self._says.put(None)
                return well(answer.ended)
        raise RuntimeError("the call has ended before the transfer")

    def drop(self):
        """Drops the call, as a program does that dies."""
        if self._call:
            self._call.cancel()
            self._says.put(None)


def send(channel, file, to, name, **order):
    """Sends what can be read from a binary file, to its end. Back comes the transfer, ended."""
    writer = Writer(channel, new_order(to, name, **order))
    while piece := file.read(CHUNK_BYTES):
        writer.write(piece)
    return writer.finish()


def receive(channel, file, **which):
    """Writes a stream into a binary file. Back comes the transfer, ended."""
    reader = Reader(channel, **which)
    for piece in reader:
        file.write(piece)
    file.flush()
    return reader.take()


def watch(channel, id):
    """A transfer as it is now, and whenever it has changed, to its end."""
    return rpc.TransfersStub(channel).Watch(pb.TransferId(id=id))


def status(channel):
    """The node's state."""
    return rpc.NodeStub(channel).Status(pb.StatusRequest())


def command(channel, to, payload, timeout=None):
    """Sends a command message; back comes the round trip in seconds."""
    return rpc.CommandsStub(channel).Send(pb.CommandRequest(to=to, payload=payload), timeout=timeout).rtt_ns / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="127.0.0.1:50051", help="HOST:PORT or unix:/path")
    for option in ("ca", "certificate", "key"):
        parser.add_argument(f"--{option}", help="PEM file, for TLS")
    parser.add_argument("--server", help="NODE.REALM of the node, for TLS")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("send", help="a file, or - for standard input")
    verb.add_argument("file")
    verb.add_argument("--to", required=True)
    verb.add_argument("--name")
    verb.add_argument("--priority", type=int, default=0)
    verb = verbs.add_parser("receive", help="a stream, to standard output")
    verb.add_argument("--name", default="")
    verb.add_argument("--from", dest="peer", default="")
    verb = verbs.add_parser("watch", help="a transfer")
    verb.add_argument("id")
    verbs.add_parser("status", help="of the node")
    verb = verbs.add_parser("command", help="a command message")
    verb.add_argument("to")
    verb.add_argument("text")
    args = parser.parse_args()
    try:
        carry_out(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered would be written at the exit, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit("whoever read the output has gone away")
    except OSError as error:
        sys.exit(f"{error.filename!r}: {error.strerror}" if error.filename else str(error))


def carry_out(args):
    """Does what the command line asks for."""
    with connect(args.target, args.ca, args.certificate, args.key, args.server) as channel:
        try:
            if args.verb == "send":
                standard = args.file == "-"
                name = args.name or ("stream" if standard else pathlib.Path(args.file).name)
                with contextlib.nullcontext(sys.stdin.buffer) if standard else open(args.file, "rb") as file:
                    done = send(channel, file, args.to, name, priority=args.priority)
                print(f"{done.id}: {done.size_bytes} bytes, BLAKE3 {done.ended.blake3.hex()}")
            elif args.verb == "receive":
                done = receive(channel, sys.stdout.buffer, name=args.name, peer=args.peer)
                print(f"{done.name} from {done.peer}: {done.size_bytes} bytes", file=sys.stderr)
            elif args.verb == "watch":
                for transfer in watch(channel, args.id):
                    state = pb.TransferState.Name(transfer.state)
                    print(f"{state}: {transfer.confirmed_bytes} bytes confirmed")
                well(transfer)
            elif args.verb == "status":
                print(status(channel))
            else:
                print(f"{command(channel, args.to, args.text.encode()) * 1e3:.1f} ms")
        except (grpc.RpcError, Failed) as error:
            sys.exit(f"{error.code().name}: {error.details()}" if isinstance(error, grpc.RpcError) else str(error))


if __name__ == "__main__":
    main()
