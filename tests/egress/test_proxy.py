"""The egress proxy over real sockets: what goes to a provider, what comes back, and what never does."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket as sockets
import ssl
import stat
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from egress_world import KEY, STREAM, Seen, Upstream, event, post, says, world

import jupyter_acp.egress.usage as egress_usage
from jupyter_acp.egress.forwarder import Forwarder
from jupyter_acp.egress.providers import Providers
from jupyter_acp.egress.proxy import EgressProxy
from jupyter_acp.egress.rules import LARGEST_BODY


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    """No day ends in the middle of a test."""
    monkeypatch.setattr(egress_usage, "_today", lambda: "2026-01-01")


async def test_a_request_goes_below_the_providers_url_with_its_key_and_without_the_credentials_of_the_client(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        headers = (
            "Authorization: Bearer of-the-agent",
            "X-Api-Key: of-the-agent",
            "x-goog-api-key: of-the-agent",
            "api-key: of-the-agent",
            "Cookie: a=of-the-agent",
            "Proxy-Authorization: of-the-agent",
            "Accept-Encoding: gzip",
            "Connection: keep-alive, X-Hop",
            "X-Hop: of-the-agent",
            "OpenAI-Beta: responses",
        )
        status, body = await w.ask(post("/openai/responses?a=1&key=of-the-agent&b=%20", b'{"x": 1}', *headers))
        assert (status, json.loads(body)) == (200, {"ok": True})
        [seen] = w.upstream.seen
        assert seen.start == "POST /v1/responses?a=1&b=%20 HTTP/1.1"
        assert seen.body == b'{"x": 1}'
        assert seen.headers == {
            "host": [f"127.0.0.1:{w.upstream.port}"],
            "authorization": [f"Bearer {KEY}"],
            "accept-encoding": ["identity"],
            "connection": ["close"],
            "openai-beta": ["responses"],
            "content-length": ["8"],
        }


async def test_the_key_goes_where_the_provider_wants_it_and_is_read_at_each_request(tmp_path: Path) -> None:
    async with world(tmp_path, header="X-Own: key={key}") as w:
        await w.ask(post("/openai/responses", b"{}", "x-own: of-the-agent"))
        w.key_file.write_text("another")
        await w.ask(post("/openai/responses"))
        assert [seen.headers["x-own"] for seen in w.upstream.seen] == [[f"key={KEY}"], ["key=another"]]


async def test_an_answer_keeps_its_status_and_headers_and_loses_those_of_the_connection_and_cookies(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        more = "Set-Cookie: a=b\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-Request-Id: 7\r\n"
        w.upstream.answer = says({"error": "slow down"}, status="429 Too Many", more=more)
        async with w.call(post("/openai/responses")) as caller:
            assert await caller.read_head() == 429
            assert json.loads(await caller.read_body()) == {"error": "slow down"}
            names = [line.partition(":")[0] for line in caller.head.splitlines()[1:-1]]
            assert names == ["Content-Type", "X-Request-Id", "Content-Length", "Connection"]


async def test_each_event_of_a_stream_arrives_while_the_provider_still_thinks_about_the_next(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        taken = asyncio.Event()

        async def answer(request: Seen, writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM + event("one"))
            await taken.wait()
            writer.write(event("two") + b"0\r\n\r\n")

        w.upstream.answer = answer
        async with w.call(post("/openai/responses")) as caller:
            assert await caller.read_head() == 200
            assert await caller.read_chunk() == b'data: "one"\n\n'
            taken.set()
            assert await caller.read_body() == b'data: "two"\n\n'


async def test_a_request_in_chunks_is_passed_on_as_it_comes(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        async with w.call(b"POST /openai/responses HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n") as caller:
            caller.writer.write(b'5;a="b"\r\n{"a":\r\n')
            while not w.upstream.seen or not w.upstream.seen[0].body:  # noqa: ASYNC110  # the provider says nothing yet
                await asyncio.sleep(0.005)
            caller.writer.write(b"00002\r\n1}\r\n0\r\nTrailer: x\r\n\r\n")
            assert await caller.read_head() == 200
        assert w.upstream.seen[0].body == b'{"a":1}'
        assert "trailer" not in w.upstream.seen[0].headers


async def test_a_body_that_waits_to_be_asked_for_is_asked_for(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        async with w.call(post("/openai/responses", b"", "Expect: 100-continue", "X: y")[:-21]) as caller:
            caller.writer.write(b"Content-Length: 2\r\n\r\n")
            assert await caller.read_head() == 100
            caller.writer.write(b"{}")
            assert await caller.read_head() == 200
        assert w.upstream.seen[0].body == b"{}"
        assert "expect" not in w.upstream.seen[0].headers


async def test_of_an_answer_of_fifty_megabytes_hardly_anything_is_held_for_a_slow_reader(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        size, written = 50 << 20, 0

        async def answer(request: Seen, writer: asyncio.StreamWriter) -> None:
            nonlocal written
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(50):
                writer.write(bytes(1 << 20))
                await writer.drain()
                written += 1 << 20

        w.upstream.answer = answer
        before = psutil.Process().memory_info().rss
        async with w.call(post("/openai/responses")) as caller:
            assert await caller.read_head() == 200
            settled = -1
            while settled != written:  # until nothing moves any more
                settled = written
                await asyncio.sleep(0.2)
            assert written < 16 << 20  # what is in the buffers of four sockets
            got = 0
            while piece := await caller.reader.read(1 << 20):
                got += len(piece)
        assert got == size
        assert psutil.Process().memory_info().rss - before < 20 << 20


async def test_a_request_of_many_megabytes_is_passed_on_whole(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        body = os.urandom(20 << 20)
        assert (await w.ask(post("/openai/responses", body)))[0] == 200
        assert w.upstream.seen[0].body == body


async def test_a_client_that_goes_away_takes_the_providers_work_along_at_once(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        thinking = asyncio.Event()

        async def silent(request: Seen, writer: asyncio.StreamWriter) -> None:
            thinking.set()
            await request.gone()

        async def stuck(request: Seen, writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM)
            thinking.set()
            with pytest.raises(ConnectionError):
                while True:  # more than anybody takes
                    writer.write(event("x" * 100_000))
                    await writer.drain()

        for answer in (silent, stuck):
            w.upstream.answer = answer
            thinking.clear()
            async with w.call(post("/openai/responses")):
                await thinking.wait()
            async with asyncio.timeout(10):  # "at once" is not when it says the next word, which is never
                await asyncio.gather(*w.upstream._open)


async def test_a_provider_that_breaks_off_is_seen_as_such_and_not_as_the_end(tmp_path: Path) -> None:
    async with world(tmp_path) as w:

        async def chunks(request: Seen, writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM + event("half"))

        async def length(request: Seen, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

        w.upstream.answer = chunks
        async with w.call(post("/openai/responses")) as caller:
            assert await caller.read_head() == 200
            assert await caller.read_chunk() == b'data: "half"\n\n'
            with pytest.raises(asyncio.IncompleteReadError):
                await caller.read_chunk()
        w.upstream.answer = length
        assert await w.ask(post("/openai/responses")) == (200, b"half")


async def test_an_answer_that_ends_with_its_connection_arrives_in_chunks(tmp_path: Path) -> None:
    async with world(tmp_path) as w:

        async def answer(request: Seen, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nall of it")

        w.upstream.answer = answer
        assert await w.ask(post("/openai/responses")) == (200, b"all of it")


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 101 x\r\n\r\n"]
)
async def test_a_provider_that_answers_with_nothing_that_can_be_read_cannot_be_reached(
    tmp_path: Path, answer: bytes
) -> None:
    async with world(tmp_path) as w:

        async def say(request: Seen, writer: asyncio.StreamWriter) -> None:
            writer.write(answer)

        w.upstream.answer = say
        status, body = await w.ask(post("/openai/responses"))
        assert (status, json.loads(body)["error"]["type"]) == (502, "provider_unreachable")


async def test_a_provider_that_is_not_there_cannot_be_reached_and_it_says_why(tmp_path: Path) -> None:
    with sockets.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        async with world(tmp_path, url=url) as w:
            status, body = await w.ask(post("/openai/responses"))
            assert (status, json.loads(body)["error"]["type"]) == (502, "provider_unreachable")
            assert "Connect call failed" in json.loads(body)["error"]["message"]


async def test_a_head_request_and_an_answer_without_a_body_come_through(tmp_path: Path) -> None:
    async with world(tmp_path, requests=[]) as w:

        async def answer(request: Seen, writer: asyncio.StreamWriter) -> None:
            length = b"Content-Length: 5\r\n" if request.start.startswith("HEAD") else b""
            writer.write(b"HTTP/1.1 %b\r\n%b\r\n" % (b"200 OK" if length else b"204 None", length))

        w.upstream.answer = answer
        assert await w.ask(b"HEAD /openai HTTP/1.1\r\n\r\n") == (200, b"")
        assert await w.ask(b"DELETE /openai/files/1 HTTP/1.1\r\n\r\n") == (204, b"")
        assert [seen.start for seen in w.upstream.seen] == ["HEAD /v1 HTTP/1.1", "DELETE /v1/files/1 HTTP/1.1"]


@pytest.mark.parametrize(
    ("path", "status", "type"),
    [
        ("/other/responses", 404, "provider_not_found"),
        ("/", 404, "provider_not_found"),
        ("/OpenAI/responses", 404, "provider_not_found"),
        ("/openai/files", 403, "request_not_allowed"),
        ("/openai/responses/resp_1/cancel", 403, "request_not_allowed"),
        ("/openai/../responses", 400, "invalid_request"),
        ("/openai/responses/..", 400, "invalid_request"),
        ("/openai/./responses", 400, "invalid_request"),
        ("/openai//responses", 400, "invalid_request"),
        ("//openai/responses", 400, "invalid_request"),
        ("/openai/%2e%2e/responses", 400, "invalid_request"),
        ("/openai/.%2E/responses", 400, "invalid_request"),
        ("/openai/responses%2f..", 400, "invalid_request"),
        ("/openai/responses%5c..", 400, "invalid_request"),
        ("/openai/%252e%252e/responses", 400, "invalid_request"),
        ("/openai/..;/responses", 400, "invalid_request"),
        ("/openai/responses%00", 400, "invalid_request"),
        ("/openai/responses%0d%0aX:%20y", 400, "invalid_request"),
        ("/openai/responses%zz", 400, "invalid_request"),
        ("/openai\\responses", 400, "invalid_request"),
        ("/openai/responses#x", 400, "invalid_request"),
        ("http://127.0.0.1/openai/responses", 400, "invalid_request"),
        ("openai/responses", 400, "invalid_request"),
        ("*", 400, "invalid_request"),
        ("/openai/responses x", 400, "invalid_request"),
    ],
)
async def test_what_is_no_request_below_a_configured_provider_goes_nowhere(
    tmp_path: Path, path: str, status: int, type: str
) -> None:
    async with world(tmp_path) as w:
        assert await w.refused(post(path)) == (status, type)


_POST = "POST /openai/responses HTTP/1.1"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        # other methods and protocols
        ("CONNECT api.openai.com:443 HTTP/1.1", 400),
        ("CONNECT /openai/responses HTTP/1.1", 405),
        ("TRACE /openai/responses HTTP/1.1", 405),
        ("OPTIONS /openai/responses HTTP/1.1", 405),
        ("GET /openai/models HTTP/1.1|Connection: Upgrade|Upgrade: websocket", 400),
        ("POST /openai/responses HTTP/1.0", 505),
        ("POST /openai/responses HTTP/2", 505),
        ("PRI * HTTP/2.0", 505),
        ("GET /openai/models", 400),
        # where does it end?
        (f"{_POST}|Content-Length: 2|Transfer-Encoding: chunked", 400),
        (f"{_POST}|Content-Length: 2|Content-Length: 2", 400),
        (f"{_POST}|Content-Length: 2, 2", 400),
        (f"{_POST}|Content-Length: +2", 400),
        (f"{_POST}|Content-Length: 0x2", 400),
        (f"{_POST}|Content-Length: -1", 400),
        (f"{_POST}|Content-Length:", 400),
        (f"{_POST}|Transfer-Encoding: gzip, chunked", 400),
        (f"{_POST}|Transfer-Encoding: chunked|Transfer-Encoding: chunked", 400),
        (f"{_POST}|Transfer-Encoding: identity", 400),
        (f"{_POST}|Transfer-Encoding: \x0bchunked", 400),
        # headers that are not what they seem
        (f"{_POST}|Transfer-Encoding : chunked", 400),
        (f"{_POST}|Content-Length: 2| folded: x", 400),
        (f"{_POST}|X: y\nAuthorization: z", 400),
        (f"{_POST}|X: y\rAuthorization: z", 400),
        (f"{_POST}|X: y\0", 400),
        (f"{_POST}|no colon", 400),
        (f"{_POST}|: nameless", 400),
        (f"{_POST}|Expect: a-miracle", 417),
        (f"{_POST}|X: {'y' * 70_000}", 431),
    ],
)
async def test_a_request_that_two_could_read_in_two_ways_goes_nowhere(
    tmp_path: Path, request_: str, status: int
) -> None:
    async with world(tmp_path) as w:
        told, type = await w.refused(request_.replace("|", "\r\n").encode("latin-1") + b"\r\n\r\n")
        assert (told, type) == (status, "invalid_request")


@pytest.mark.parametrize(
    "body",
    [
        b"x\r\n",
        b"-1\r\n",
        b"0x2\r\n{}\r\n",
        b"2\n{}\r\n",
        b"2\r\n{}xx",
        b"fffffffff\r\n",
        b"2 3\r\n{}\r\n",
        b"2;\x00\r\n",
    ],
)
async def test_a_body_whose_chunks_cannot_be_read_ends_its_request(tmp_path: Path, body: bytes) -> None:
    async with world(tmp_path) as w:
        w.upstream.answer = lambda request, writer: request.gone()
        status, answer = await w.ask(f"{_POST}\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + body)
        assert (status, json.loads(answer)["error"]["type"]) == (400, "invalid_request")


async def test_what_comes_after_a_request_is_no_second_one(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        status, body = await w.ask(post("/openai/responses", b"{}") + post("/openai/chat/completions", b"smuggled"))
        assert (status, json.loads(body)) == (200, {"ok": True})
        assert [seen.body for seen in w.upstream.seen] == [b"{}"]


async def test_a_body_that_is_too_large_is_refused_before_and_while_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jupyter_acp.egress.proxy.LINGER", 1000)  # nobody has to wait for it
    async with world(tmp_path) as w:
        head = f"{_POST}\r\nContent-Length: {LARGEST_BODY + 1}\r\n\r\n".encode()
        assert await w.refused(head) == (413, "request_too_large")
        async with w.call(f"{_POST}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()) as caller:
            piece = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
            for _ in range(65):
                caller.writer.write(piece)
                await caller.writer.drain()
            assert await caller.read_head() == 413


async def test_more_requests_at_once_than_a_project_may_make_are_told_to_wait(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        idle = [await asyncio.open_unix_connection(w.socket) for _ in range(64)]
        assert await w.refused(post("/openai/responses")) == (503, "busy")
        idle += [await asyncio.open_unix_connection(w.socket) for _ in range(200)]
        assert await idle[-1][0].read() == b""  # of a flood most are not even listened to
        assert len(w.proxy._tasks) <= 128
        for _, writer in idle:
            writer.transport.abort()


async def test_a_client_that_says_nothing_is_told_that_its_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jupyter_acp.egress.proxy.HEAD_TIMEOUT", 0.05)
    async with world(tmp_path) as w:
        assert await w.refused(b"POST /openai") == (408, "timeout")


def _chat(**usage: int) -> dict[str, object]:
    return {"choices": [{"message": {"content": 'She said {"usage": {"total_tokens": 99}}'}}], "usage": usage}


async def test_tokens_are_counted_per_day_and_outlive_the_proxy(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.upstream.answer = says(_chat(prompt_tokens=10, completion_tokens=5, total_tokens=15))
        for _ in range(2):
            await w.ask(post("/openai/chat/completions"))
        assert w.proxy.usage() == {"tokens_today": 30, "token_limit": 0}
    async with world(tmp_path) as w:
        assert w.proxy.usage() == {"tokens_today": 30, "token_limit": 0}


async def test_tokens_of_a_stream_are_counted_also_where_the_client_does_not_wait_for_its_end(tmp_path: Path) -> None:
    async with world(tmp_path) as w:

        async def answer(request: Seen, writer: asyncio.StreamWriter) -> None:
            for part in (
                {"type": "message_start", "message": {"usage": {"input_tokens": 1000, "output_tokens": 1}}},
                1,
            ):
                writer.write((STREAM if part != 1 else b"") + event(part))
            await request.gone()

        w.upstream.answer = answer
        async with w.call(post("/openai/responses")) as caller:
            await caller.read_head()
            await caller.read_chunk()
        async with asyncio.timeout(10):
            await asyncio.gather(*w.proxy._tasks)
        assert w.proxy.usage()["tokens_today"] == 1001


async def test_a_stream_that_does_not_say_what_it_costs_is_estimated_and_an_error_costs_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.upstream.answer = says({"error": "no"}, status="400 Bad")
        await w.ask(post("/openai/chat/completions", bytes(4000)))
        assert w.proxy.usage()["tokens_today"] == 0
        w.upstream.answer = says(b'data: {"a": 1}\n\ndata: [DONE]\n\n', kind="text/event-stream; charset=utf-8")
        await w.ask(post("/openai/chat/completions", bytes(4000)))
        assert w.proxy.usage()["tokens_today"] == 1002


async def test_a_project_at_its_limit_is_told_so_and_nothing_goes_to_the_provider(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.upstream.answer = says(_chat(total_tokens=100))
        w.proxy.limit = 150
        for _ in range(2):
            assert (await w.ask(post("/openai/chat/completions")))[0] == 200
        async with w.call(post("/openai/chat/completions")) as caller:
            assert await caller.read_head() == 429
            assert "x-should-retry: false" in caller.head
            message = json.loads(await caller.read_body())["error"]["message"]
        assert message == "This project has used 200 tokens of models today. Its limit is 150 a day, from 0:00 UTC on."
        assert len(w.upstream.seen) == 2
        w.proxy.limit = 201
        assert (await w.ask(post("/openai/chat/completions")))[0] == 200


async def test_a_key_that_cannot_be_used_is_told_to_the_log_and_to_the_project_only_that(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(tmp_path) as w:
        w.key_file.chmod(0o644)
        assert await w.refused(post("/openai/responses")) == (503, "key_unusable")
        assert "nobody else can read" in caplog.text
        _, body = await w.ask(post("/openai/responses"))
        assert str(tmp_path) not in body.decode()
        w.key_file.chmod(0o600)
        w.key_file.write_bytes(b"\xff\xfe" + KEY.encode())
        assert await w.refused(post("/openai/responses")) == (503, "key_unusable")
        w.key_file.write_text("kéy")
        assert await w.refused(post("/openai/responses")) == (503, "key_unusable")
        inside = w.root / "key"
        w.key_file.rename(inside)
        w.key_file.symlink_to(inside)
        assert await w.refused(post("/openai/responses")) == (503, "key_unusable")
        assert "no place in the project" in caplog.text
        assert KEY not in caplog.text


async def test_the_log_has_a_line_per_request_and_in_it_neither_key_nor_content(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with world(tmp_path) as w:
        w.upstream.answer = says({"text": "secret-answer", "usage": {"total_tokens": 7}})
        await w.ask(post("/openai/responses?q=secret-query", b"secret-prompt", "X-Header: secret-header"))
        await w.refused(post("/other/x"))
        async with asyncio.timeout(10):
            await asyncio.gather(*w.proxy._tasks)
        lines = [record.getMessage() for record in caplog.records if record.name == "jupyter_acp.egress.proxy"]
        assert lines[0].startswith("project=p1 POST /openai/responses 200 sent=13 received=")
        assert lines[0].endswith(" tokens=7")
        assert lines[1].startswith("project=p1 POST /other/x 404 sent=0 received=0 ms=")
        assert lines[1].endswith(" tokens=0 (provider_not_found)")
        assert len(lines) == 2
    assert KEY not in caplog.text and "secret" not in caplog.text


async def test_a_socket_that_another_left_or_still_has_is_replaced_and_not_taken_along(tmp_path: Path) -> None:
    async with world(tmp_path) as old, world(tmp_path) as new:
        assert stat.S_IMODE(new.socket.stat().st_mode) == 0o666
        await new.ask(post("/openai/responses"))
        assert (len(old.upstream.seen), len(new.upstream.seen)) == (0, 1)
        await old.proxy.stop()
        assert (await new.ask(post("/openai/responses")))[0] == 200
        await new.proxy.stop()
        assert not new.socket.exists() and list(new.socket.parent.iterdir()) == []


async def test_a_socket_can_be_deeper_than_the_kernel_lets_a_sockets_path_be(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    proxy = EgressProxy(deep / "egress.sock", Providers.load({}), tmp_path / "usage", project="p", root=tmp_path)
    await proxy.start()
    (tmp_path / "l").symlink_to(deep)
    reader, writer = await asyncio.open_unix_connection(os.path.relpath(tmp_path / "l" / "egress.sock"))
    writer.write(post("/openai/responses"))
    assert (await reader.readline()).startswith(b"HTTP/1.1 404 ")
    writer.transport.abort()
    await proxy.stop()


async def test_stop_ends_what_is_under_way(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        thinking = asyncio.Event()

        async def answer(request: Seen, writer: asyncio.StreamWriter) -> None:
            thinking.set()
            await request.gone()

        w.upstream.answer = answer
        async with w.call(post("/openai/responses")) as caller:
            await thinking.wait()
            await w.proxy.stop()
            assert await caller.reader.read() == b""
        await asyncio.gather(*w.upstream._open)


async def test_an_agent_reaches_its_model_through_the_port_of_the_forwarder_and_goes_away_through_it(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        forwarder = Forwarder(0, w.socket)
        await forwarder.start()
        asked = asyncio.Event()

        async def answer(request: Seen, writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM + event("one"))
            asked.set()
            await request.gone()

        body = os.urandom(3 << 20)
        reader, writer = await asyncio.open_connection("127.0.0.1", forwarder.port)
        writer.write(post("/openai/responses", body))
        assert (await reader.read()).endswith(b'{"ok": true}')
        writer.close()
        assert w.upstream.seen[0].body == body

        w.upstream.answer = answer
        reader, writer = await asyncio.open_connection("127.0.0.1", forwarder.port)
        writer.write(post("/openai/responses"))
        await reader.readuntil(b'data: "one"\n\n')
        writer.close()
        async with asyncio.timeout(5):
            await asyncio.gather(*w.upstream._open)
            await asyncio.gather(*forwarder._tasks)

        # one that is refused in the middle of what it says is told so
        reader, writer = await asyncio.open_connection("127.0.0.1", forwarder.port)
        writer.write(post("/openai/files", bytes(1 << 20)))
        assert (await reader.readline()).startswith(b"HTTP/1.1 403 ")
        writer.transport.abort()

        await w.proxy.stop()
        reader, writer = await asyncio.open_connection("127.0.0.1", forwarder.port)
        assert await reader.read() == b""
        writer.close()
        await forwarder.stop()
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", forwarder.port)


async def test_the_first_byte_comes_less_than_five_milliseconds_later_than_without_any_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with world(tmp_path) as w:
        forwarder = Forwarder(0, w.socket)
        await forwarder.start()

        async def usual(port: int, path: str) -> float:
            times = []
            for _ in range(60):
                began = time.perf_counter()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(post(path))
                await reader.read(1)
                times.append(time.perf_counter() - began)
                writer.transport.abort()
            return sorted(times)[15] * 1000  # what it costs, not what else the machine does

        direct = await usual(w.upstream.port, "/v1/responses")
        through = await usual(forwarder.port, "/openai/responses")
        await forwarder.stop()
        with capsys.disabled():
            print(f" first byte: {direct:.2f} ms directly, {through:.2f} ms through forwarder and proxy", end=" ")
        assert through - direct < 5


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Key and certificate of 127.0.0.1 in one file."""
    file = tmp_path / "certificate.pem"
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *name]
    try:
        subprocess.run([*make, "-keyout", str(file), "-out", f"{file}.crt"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl")
    file.write_bytes(file.read_bytes() + Path(f"{file}.crt").read_bytes())
    return file


async def test_https_is_spoken_with_who_has_a_valid_certificate_and_through_the_proxy_that_the_environment_names(
    tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.setenv("no_proxy", "")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    secure = Upstream()
    await secure.start(ssl=context)
    body = os.urandom(5 << 20)
    secure.answer = says(body)
    tunnelled = []

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        tunnelled.append(asked[0])
        if "Proxy-Authorization: Basic dTpw" not in asked:
            writer.write(b"HTTP/1.1 407 Who are you\r\n\r\n")
            writer.close()
            return
        there, out = await asyncio.open_connection("127.0.0.1", secure.port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(1 << 16):
                target.write(data)
                await target.drain()

        pumps = [asyncio.create_task(pump(reader, out)), asyncio.create_task(pump(there, writer))]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        out.transport.abort()
        writer.transport.abort()

    proxy = await asyncio.start_server(tunnel, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    url = f"https://127.0.0.1:{secure.port}/v1"
    async with world(tmp_path, url=url) as w:
        status, answer = await w.ask(post("/openai/responses"))
        assert status == 502 and "its certificate is not valid here" in json.loads(answer)["error"]["message"]
    monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}.crt")
    async with world(tmp_path, url=url) as w:
        assert await w.ask(post("/openai/responses")) == (200, body)
        monkeypatch.setenv("https_proxy", f"http://u:p@127.0.0.1:{port}")
        assert await w.ask(post("/openai/responses")) == (200, body)
        assert tunnelled == [f"CONNECT 127.0.0.1:{secure.port} HTTP/1.1"]
        for wrong, said in ((f"http://127.0.0.1:{port}", "answers 407"), ("socks5://127.0.0.1:1", "no other kind")):
            monkeypatch.setenv("https_proxy", wrong)
            status, answer = await w.ask(post("/openai/responses"))
            assert status == 502 and said in json.loads(answer)["error"]["message"]
    assert [seen.headers["authorization"] for seen in secure.seen] == [[f"Bearer {KEY}"]] * 2
    proxy.close()
    await proxy.wait_closed()
    await secure.stop()
