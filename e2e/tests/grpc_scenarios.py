"""Clients of the gRPC API, as `e2e/tests/grpc.rs` runs them: SCENARIO ARGUMENTS…

What a test has to do in between (a kill, a look at memory) is said by a line on standard output, and answered by one on
standard input.
"""

import faulthandler
import io
import os
import sys
import threading
import time

import grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

import florelay_client as client
from florelay_client import pb, rpc

MIB = 1 << 20
A, RELAY, B = (os.environ[f"FLORELAY_{node}"] for node in ("A", "RELAY", "B"))
random = os.urandom
SERVICES = [f"florelay.v1.{name}" for name in ("Transfers", "Streams", "Commands", "Links", "Node")]


def meet(*words):
    """Tells the test, and waits for its answer."""
    print(*words, flush=True)
    return sys.stdin.readline().strip()


def fails(code, call, *args):
    """The call fails with this code; back comes what it said."""
    try:
        answer = call(*args)
        if hasattr(answer, "__next__"):
            for _ in answer:
                pass
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()} instead of {code}: {error.details()}"
        assert error.details(), "no reason"
        return error
    raise AssertionError(f"no {code}")


def health(channel, service=""):
    """By the standard service: 1 = SERVING, 2 = NOT_SERVING."""
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    request = b"\x0a" + bytes([len(service)]) + service.encode() if service else b""
    answer = check(request, timeout=10)
    return answer[1] if answer else 0


def until(what, look, patience=60):
    deadline = time.monotonic() + patience
    while not (found := look()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return found


def background(act):
    """Runs it in a thread; `join` gives what it returned, or raises."""
    box = {}

    def run():
        try:
            box["value"] = act()
        except BaseException as error:
            box["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def join(patience=120):
        thread.join(patience)
        assert not thread.is_alive(), "it does not end"
        if "error" in box:
            raise box["error"]
        return box["value"]

    return join


def described(a, b):
    """What is there: reflection, health, status, links, commands, trace, and what is refused in which words."""
    channel = client.connect(a)
    listed = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert set(SERVICES) <= set(listed) and "grpc.health.v1.Health" in listed, listed
    newer = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    [answer] = newer(iter([reflection_pb2.ServerReflectionRequest(file_containing_symbol="florelay.v1.Streams")]))
    assert len(answer.file_descriptor_response.file_descriptor_proto) == 1
    for service in ["", *SERVICES]:
        until(f"{service} to serve", lambda: health(channel, service) == 1)

    links, commands = rpc.LinksStub(channel), rpc.CommandsStub(channel)
    transfers, node = rpc.TransfersStub(channel), rpc.NodeStub(channel)
    status = client.status(channel)
    assert status.node == A and not status.note, status
    assert [link.name for link in status.links] == ["to-relay"] and status.links[0].state in ("normal", "degraded")
    assert [peer.name for peer in status.peers] == [B] and status.peers[0].state == "connected"
    assert status.api_counters["connections"] >= 1 and status.api_counters["calls"] >= 1
    assert links.List(pb.ListLinksRequest()).links[0].counters["tx_frames"] > 0
    assert client.command(channel, B, b"antenna stow", timeout=30) > 0
    hops = [hop.node for hop in links.Trace(pb.TraceRequest(to=B))]
    assert hops == [RELAY, B], hops
    links.SetRate(pb.SetRateRequest(link="to-relay", rate_bps=77_000_000))
    until("the rate", lambda: links.List(pb.ListLinksRequest()).links[0].rate_bps == 77_000_000)
    contact = pb.Contact(start_unix_ns=10**9, end_unix_ns=4 * 10**18, rate_bps=50_000_000)
    links.SetContacts(pb.SetContactsRequest(link="to-relay", plan=pb.ContactList(contacts=[contact])))
    [plan] = links.GetContacts(pb.GetContactsRequest()).plans
    assert list(plan.contacts) == [contact] and plan.link == "to-relay"
    links.SetContacts(pb.SetContactsRequest(link="to-relay"))
    assert not links.GetContacts(pb.GetContactsRequest()).plans

    code, unknown = grpc.StatusCode, "6b1f3f5e-8c64-4c43-9d0e-1f1a6f0c2d11"
    for call in (transfers.Get, transfers.Watch, transfers.Cancel):
        fails(code.NOT_FOUND, call, pb.TransferId(id=unknown))
        fails(code.INVALID_ARGUMENT, call, pb.TransferId(id="6b1f"))
    fails(code.NOT_FOUND, links.SetRate, pb.SetRateRequest(link="nowhere", rate_bps=1000))
    fails(code.INVALID_ARGUMENT, links.SetRate, pb.SetRateRequest(link="to-relay", rate_bps=1))
    fails(code.NOT_FOUND, links.SetAdmin, pb.SetAdminRequest(link="nowhere"))
    fails(code.NOT_FOUND, links.Trace, pb.TraceRequest(to="nowhere"))
    fails(code.NOT_FOUND, commands.Send, pb.CommandRequest(to="nowhere", payload=b"x"))
    fails(code.INVALID_ARGUMENT, commands.Send, pb.CommandRequest(to=B))
    fails(code.INVALID_ARGUMENT, commands.Send, pb.CommandRequest(to=B, payload=bytes(65537)))
    fails(code.OUT_OF_RANGE, commands.Send, pb.CommandRequest(to=B, payload=bytes(5 * MIB)))
    path = pb.SendFileRequest(order=pb.Order(to=B), path="/etc/hostname")
    assert "allow-paths" in fails(code.FAILED_PRECONDITION, transfers.SendFile, path).details()
    fails(code.NOT_FOUND, lambda: client.Writer(channel, client.new_order("nowhere", "x")))


def whole(a, b):
    """30 MiB and nothing, both directions at once."""
    ways = [(client.connect(a), client.connect(b), B, A)]
    ways.append((ways[0][1], ways[0][0], A, B))
    sizes, joins = [30 * MIB, 0, 1, 9000], []
    for sender, receiver, to, peer in ways:
        for size in sizes:
            name, data = f"{peer}-{size}", random(size)
            out = io.BytesIO()
            joins.append(background(lambda r=receiver, o=out, n=name, p=peer: (client.receive(r, o, name=n, peer=p), o)))
            declared = {"attributes": {"size": str(size)}, "priority": 5}
            joins.append(background(lambda s=sender, d=data, t=to, n=name, m=declared: (client.send(s, io.BytesIO(d), t, n, **m), d)))
    results = [join() for join in joins]
    for (received, out), (sent, data) in zip(results[::2], results[1::2]):
        assert out.getvalue() == data, f"{sent.name}: what came out is not what went in"
        assert received.id == sent.id and received.ended.blake3 == sent.ended.blake3 != b""
        assert sent.outgoing and not received.outgoing and sent.size_bytes == received.size_bytes == len(data)
        assert received.attributes["size"] == str(len(data)) and received.priority == 5
        assert sent.kind == pb.TRANSFER_KIND_STREAM and sent.state == pb.TRANSFER_STATE_ENDED
        assert rpc.TransfersStub(ways[0][0]).Get(pb.TransferId(id=sent.id)).ended == sent.ended


def back_pressure(a, b, size):
    """A reader that stops holds its writer back; what comes when it goes on is whole."""
    channel, other = client.connect(a), client.connect(b)
    order, data = client.new_order(B, "slow"), random(int(size))
    writer, reader = client.Writer(channel, order), client.Reader(other, name="slow")
    written = [0]

    def write():
        for at in range(0, len(data), MIB):
            writer.write(data[at : at + MIB])
            written[0] = min(at + MIB, len(data))
        return writer.finish()

    join, pieces = background(write), iter(reader)
    got = bytearray(next(pieces))
    # It stands when nothing has moved for a while.
    last, since = -1, time.monotonic()
    while time.monotonic() - since < 3:
        if written[0] != last:
            last, since = written[0], time.monotonic()
        time.sleep(0.05)
    assert last < len(data), "nothing has held the writer back"
    meet("held", last)
    for piece in pieces:
        got += piece
    assert reader.take().size_bytes == join().size_bytes == len(data)
    assert got == data, "what came out is not what went in"


def kills(a, b, size, times):
    """The test kills something each time it is told how far the reader is; writer and reader go on by themselves."""
    channel, other = client.connect(a), client.connect(b)
    order, data = client.new_order(B, "killed"), random(int(size))
    join = background(lambda: _write(channel, order, data))
    reader, got, told = client.Reader(other, name="killed"), bytearray(), 0
    for piece in reader:
        got += piece
        if told < int(times) and len(got) > (told + 1) * len(data) // (int(times) + 2):
            told += 1
            meet("read", len(got))
    assert got == data, f"what came out ({len(got)} bytes) is not what went in"
    ended = reader.take()
    sent = join()
    assert sent.ended.blake3 == ended.ended.blake3, "the ends do not agree"


def _write(channel, order, data):
    writer = client.Writer(channel, order)
    for at in range(0, len(data), MIB):
        writer.write(data[at : at + MIB])
    return writer.finish()


def dropped(a, b):
    """A call that is dropped gives its stream up; with a linger it can be gone on with."""
    channel, other = client.connect(a), client.connect(b)
    order = client.new_order(B, "given-up")
    writer = client.Writer(channel, order, linger_ns=0)
    writer.write(b"hello")
    pieces = iter(client.Reader(other, name="given-up"))
    assert next(pieces) == b"hello"
    writer.drop()
    try:
        next(pieces)
        raise AssertionError("it goes on")
    except client.Failed as failed:
        assert failed.transfer.ended.failure.code == "sender-closed", failed
    *_, last = client.watch(channel, order.id)
    assert last.ended.failure.code == "sender-closed", last

    # A reader.
    order = client.new_order(B, "unread")
    writer = client.Writer(channel, order)
    writer.write(b"hello")
    reader = client.Reader(other, name="unread", linger_ns=0)
    assert next(iter(reader)) == b"hello"
    reader.drop()
    try:
        writer.finish()
        raise AssertionError("it goes on")
    except client.Failed as failed:
        assert failed.transfer.ended.failure.code == "reader-closed", failed

    # A reader that comes back, first behind a call that is still there, then after one that was dropped.
    data = random(3 * MIB)
    order = client.new_order(B, "again")
    join = background(lambda: _write(channel, order, data))
    reader = client.Reader(other, name="again")
    pieces, got = iter(reader), bytearray()
    while len(got) < MIB:
        got += next(pieces)
    # Of the last piece nothing was said to be processed.
    at = reader.at
    assert 0 < at < len(got)
    fails(grpc.StatusCode.OUT_OF_RANGE, lambda: next(iter(_behind(other, reader.id, 1 << 40))))
    second = _behind(other, reader.id, at)
    again = iter(second)
    rest = bytearray(got[:at])
    while len(rest) < 2 * MIB:
        rest += next(again)
    at = second.at
    second.drop()
    third = _behind(other, reader.id, at)
    del rest[at:]
    for piece in third:
        rest += piece
    assert rest == data, "what came out is not what went in"
    assert third.take().ended.blake3 == join().ended.blake3
    fails(grpc.StatusCode.NOT_FOUND, lambda: next(iter(_behind(other, reader.id, 5))))


def _behind(channel, id, at):
    reader = client.Reader(channel, id=id)
    reader.at = at
    return reader


def resumed(a, b):
    """A writer that comes back after its call was dropped."""
    channel, other = client.connect(a), client.connect(b)
    data, order = random(3 * MIB), client.new_order(B, "resumed")
    out = io.BytesIO()
    receive = background(lambda: client.receive(other, out, name="resumed"))
    writer = client.Writer(channel, order)
    writer.write(data[: 2 * MIB])
    until("a part to be accepted", lambda: writer.accepted)
    writer.drop()
    streams = rpc.StreamsStub(channel)

    def requests(at):
        yield pb.WriteRequest(resume=pb.WriteResume(id=order.id))
        while at[0] is None:
            time.sleep(0.01)
        for offset in range(at[0], len(data), MIB):
            yield pb.WriteRequest(chunk=pb.Chunk(offset_bytes=offset, data=data[offset : offset + MIB]))
        yield pb.WriteRequest(finish=pb.WriteFinish(size_bytes=len(data)))

    place = [None]
    answers = streams.Write(requests(place))
    place[0] = next(answers).opened.next_offset_bytes
    assert 0 < writer.accepted <= place[0] <= 2 * MIB, place
    *_, last = answers
    assert last.ended.ended.blake3 == receive().ended.blake3
    assert out.getvalue() == data, "what came out is not what went in"


def refusals(a, b):
    """What a stream may not do."""
    channel, code = client.connect(a), grpc.StatusCode
    streams = rpc.StreamsStub(channel)
    order = client.new_order(B, "twice")
    writer = client.Writer(channel, order)
    fails(code.ALREADY_EXISTS, lambda: client.Writer(channel, order))

    def write(*messages):
        opening = pb.WriteRequest(open=pb.WriteOpen(order=client.new_order(B, "wrong")))
        def requests():
            yield from [opening, *messages]
            # Not half-closed: what is wrong is to be said before.
            time.sleep(30)
        answers = streams.Write(requests())
        assert next(answers).HasField("opened")
        return answers

    chunk = lambda at, data: pb.WriteRequest(chunk=pb.Chunk(offset_bytes=at, data=data))
    assert "byte 1 is next" in fails(code.INVALID_ARGUMENT, lambda: write(chunk(0, b"x"), chunk(5, b"y"))).details()
    fails(code.INVALID_ARGUMENT, lambda: write(chunk(0, bytes(MIB + 1))))
    fails(code.INVALID_ARGUMENT, lambda: write(pb.WriteRequest(finish=pb.WriteFinish(size_bytes=7))))
    fails(code.INVALID_ARGUMENT, lambda: streams.Write(iter([chunk(0, b"x")])))
    fails(code.INVALID_ARGUMENT, lambda: streams.Read(iter([pb.ReadRequest(take=pb.ReadTake())])))
    fails(code.NOT_FOUND, lambda: streams.Write(iter([pb.WriteRequest(resume=pb.WriteResume(id=client.new_order("b", "x").id))])))
    rpc.TransfersStub(channel).Cancel(pb.TransferId(id=order.id))
    try:
        writer.finish()
        raise AssertionError("it goes on")
    except client.Failed as failed:
        assert failed.transfer.ended.failure.code == "cancelled", failed
    fails(code.FAILED_PRECONDITION, rpc.TransfersStub(channel).Cancel, pb.TransferId(id=order.id))


def queue(a, b, folder):
    """Files of the node's own, queues, pages, events, deadlines."""
    channel, code = client.connect(a), grpc.StatusCode
    transfers, events = rpc.TransfersStub(channel), rpc.NodeStub(channel).Events(pb.EventsRequest())
    seen, present = {}, threading.Event()

    def follow():
        try:
            for event in events:
                kind = event.WhichOneof("event")
                if kind == "present":
                    present.set()
                elif kind == "transfer":
                    seen.setdefault(event.transfer.id, []).append(event.transfer)
                elif kind == "link" and not present.is_set():
                    seen["link"] = event.link.link
                elif kind == "peer" and not present.is_set():
                    seen["peer"] = event.peer.peer
                elif kind == "queue":
                    seen.setdefault("queues", []).append(event.queue)
        except grpc.RpcError:
            pass

    threading.Thread(target=follow, daemon=True).start()
    assert present.wait(30), "the present has no end"
    assert seen["link"] == "to-relay" and seen["peer"] == B, seen
    transfers.SetQueue(pb.SetQueueRequest(to=B, max_concurrent=1, max_pending=3))
    [status] = transfers.Queues(pb.QueuesRequest()).queues
    assert (status.peer, status.max_concurrent, status.max_pending) == (B, 1, 3), status

    def order(number, **more):
        path = f"{folder}/file-{number}"
        with open(path, "wb") as file:
            file.write(random(20 * MIB if number == 0 else 1000))
        return pb.SendFileRequest(order=client.new_order(B, "", **more), path=path)

    orders = [order(0), order(1), order(2), order(3, priority=60)]
    sent = [transfers.SendFile(one) for one in orders]
    assert transfers.SendFile(orders[1]).id == sent[1].id, "a repeated order"
    other = order(4)
    full = fails(code.RESOURCE_EXHAUSTED, transfers.SendFile, other)
    assert ("florelay-refusal", "queue-full") in full.trailing_metadata(), full
    wrong = pb.SendFileRequest(order=other.order, path=orders[0].path)
    wrong.order.id = sent[1].id
    fails(code.ALREADY_EXISTS, transfers.SendFile, wrong)
    fails(code.NOT_FOUND, transfers.SendFile, pb.SendFileRequest(order=client.new_order("nowhere", "x"), path=other.path))
    fails(code.NOT_FOUND, transfers.SendFile, pb.SendFileRequest(order=client.new_order(B, "x"), path="/nonexistent"))
    fails(code.INVALID_ARGUMENT, transfers.SendFile, pb.SendFileRequest(order=client.new_order(B, "x"), path="file"))
    [status] = transfers.Queues(pb.QueuesRequest()).queues
    assert status.active == 1 and list(status.pending) == [sent[3].id, sent[1].id, sent[2].id], status
    assert sent[0].state == pb.TRANSFER_STATE_RUNNING and sent[1].state == pb.TRANSFER_STATE_PENDING, sent
    transfers.SetPriority(pb.SetPriorityRequest(id=sent[2].id, priority=61))
    [status] = transfers.Queues(pb.QueuesRequest()).queues
    assert list(status.pending)[0] == sent[2].id, status
    fails(code.NOT_FOUND, transfers.SetPriority, pb.SetPriorityRequest(id=client.new_order(B, "x").id, priority=1))
    fails(code.INVALID_ARGUMENT, transfers.SetPriority, pb.SetPriorityRequest(id=sent[2].id, priority=128))
    fails(code.NOT_FOUND, transfers.SetQueue, pb.SetQueueRequest(to="nowhere", max_pending=1))
    transfers.Cancel(pb.TransferId(id=sent[1].id))
    transfers.Pause(pb.TransferId(id=sent[0].id))
    assert transfers.Get(pb.TransferId(id=sent[0].id)).state == pb.TRANSFER_STATE_PAUSED
    # Its place is another's.
    for one in (sent[2], sent[3]):
        *_, last = client.watch(channel, one.id)
        assert client.well(last).confirmed_bytes == 1000, last
    transfers.Resume(pb.TransferId(id=sent[0].id))
    *_, last = client.watch(channel, sent[0].id)
    assert client.well(last).size_bytes == 20 * MIB, last
    fails(code.FAILED_PRECONDITION, transfers.Pause, pb.TransferId(id=sent[0].id))
    until("all ends to be told", lambda: all(one.id in seen and seen[one.id][-1].HasField("ended") for one in sent))
    ended = [sum(event.HasField("ended") for event in seen[one.id]) for one in sent]
    assert ended == [1, 1, 1, 1], ended
    assert seen["queues"], "no word of the queue"

    ids, token = [], ""
    while True:
        page = transfers.List(pb.ListTransfersRequest(ended=True, page_size=2, page_token=token))
        assert len(page.transfers) <= 2
        ids += [one.id for one in page.transfers]
        if not (token := page.next_page_token):
            break
    assert sorted(ids) == sorted(one.id for one in sent), ids
    assert not transfers.List(pb.ListTransfersRequest()).transfers
    fails(code.INVALID_ARGUMENT, transfers.List, pb.ListTransfersRequest(page_token="x"))

    late = client.new_order(B, "late", deadline_unix_ns=time.time_ns() + 500_000_000)
    try:
        client.Writer(channel, late).wait()
        raise AssertionError("it goes on")
    except client.Failed as failed:
        assert failed.transfer.ended.failure.code == "timeout", failed
    declared = client.Writer(channel, client.new_order(B, "declared"), declared=5)
    declared.write(b"six...")
    try:
        declared.finish()
        raise AssertionError("it goes on")
    except client.Failed as failed:
        assert failed.transfer.ended.failure.code == "size", failed


def no_dataplane(a, b):
    """While it is away: health, codes; and when it is back."""
    channel, code = client.connect(a), grpc.StatusCode
    until("it to serve", lambda: health(channel, SERVICES[0]) == 1)
    watching = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
    assert next(watching)[1] == 1
    join = background(lambda: next(watching))
    meet("kill")
    assert join()[1] == 2, "it is said to serve"
    meet("start")
    until("it to serve again", lambda: health(channel, SERVICES[0]) == 1)
    assert client.status(channel).node == A


def tls(target, folder, server):
    """Certificates, good and bad; what is refused is counted by its reason."""
    pki = lambda name: f"{folder}/{name}"
    good = lambda node, ca="pki/ca.crt": client.connect(target, pki(ca), pki(f"pki/{node}.crt"), pki(f"pki/{node}.key"), server)
    channel = good("operator-1")
    assert client.status(channel).node == A
    assert client.command(channel, B, b"stow", timeout=30) > 0
    code = grpc.StatusCode.UNAVAILABLE
    # Of the realm, but not allowed; of another realm's CA; none at all; and a client that does not trust the node.
    counted = {"refused_identity": good(B), "refused_certificate": client.connect(target, pki("pki/ca.crt"), pki("other/operator-1.crt"), pki("other/operator-1.key"), server)}
    counters = lambda: dict(client.status(channel).api_counters)
    for name, bad in counted.items():
        before = counters()[name]
        fails(code, client.status, bad)
        bad.close()
        until(name, lambda: counters()[name] > before)
    before = counters()["refused_certificate"]
    none = client.connect(target, pki("pki/ca.crt"), server=server)
    fails(code, client.status, none)
    none.close()
    until("no certificate", lambda: counters()["refused_certificate"] > before)
    before = counters()["refused_handshake"]
    deceived = client.connect(target, pki("other/ca.crt"), pki("pki/operator-1.crt"), pki("pki/operator-1.key"), server)
    fails(code, client.status, deceived)
    deceived.close()
    plain = client.connect(target)
    fails(code, client.status, plain)
    plain.close()
    until("plain text", lambda: counters()["refused_handshake"] > before)
    wrong = client.connect(target, pki("pki/ca.crt"), pki("pki/operator-1.crt"), pki("pki/operator-1.key"), server + "x")
    fails(code, client.status, wrong)


def garbage(a, b):
    """After the test has sent bytes that are not HTTP/2."""
    channel = client.connect(a)
    before = dict(client.status(channel).api_counters)
    meet("garbage")
    until("it to be counted", lambda: client.status(channel).api_counters["refused_not_http2"] >= before["refused_not_http2"] + 3)


if __name__ == "__main__":
    # Says where it hangs, before the test's own patience ends.
    faulthandler.dump_traceback_later(100, exit=True)
    globals()[sys.argv[1]](*sys.argv[2:])
    print("well", flush=True)
    # Calls that a scenario has left open end with the process.
    os._exit(0)
