"""Bodies that nothing decodes, and requests that offer another protocol: cases 9 and 12."""

import gzip
import json
import socket

import pytest

from tests.api.http.test_errors import error_of

BODY = json.dumps({"task": "sst2", "input": "fine"}).encode()
JSON = {"Content-Type": "application/json"}


def post(client, headers, body=BODY):
    return client.post("/v1/classify", content=body, headers=headers)


@pytest.mark.parametrize(
    ("headers", "seen"),
    [
        ({}, "no Content-Type"),
        ({"Content-Type": "text/plain"}, "Content-Type 'text/plain'"),
        (
            {"Content-Type": "application/x-www-form-urlencoded"},  # of curl without a header
            "Content-Type 'application/x-www-form-urlencoded'",
        ),
        ({"Content-Type": "json"}, "Content-Type 'json'"),
        ({"Content-Type": "text/json"}, "Content-Type 'text/json'"),
    ],
)
@pytest.mark.parametrize("body", [BODY, b""], ids=["json", "empty"])
def test_case_12_a_body_that_does_not_say_that_it_is_json_is_415(client, headers, seen, body):
    assert error_of(post(client, headers, body), 415)["message"] == (
        f"the body has {seen}, expected JSON; send the header 'Content-Type: application/json'"
    )


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip"])
def test_case_12_a_compressed_body_is_415(client, encoding):
    response = post(client, {**JSON, "Content-Encoding": encoding}, gzip.compress(BODY))
    assert error_of(response, 415)["message"] == (
        f"the body has Content-Encoding {encoding!r}, which this server does not decode; send it "
        "as it is, without that header"
    )


@pytest.mark.parametrize(
    "headers",
    [
        JSON,
        {"Content-Type": "Application/JSON; charset=utf-8"},
        {"Content-Type": "application/vnd.api+json"},
        {**JSON, "Content-Encoding": "identity"},
    ],
)
def test_a_body_that_says_it_is_json_is_read(client, headers):
    assert post(client, headers).status_code == 200


# -- h2c


OFFER = (  # Java's HttpClient, over http
    b"POST /v1/classify HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nHost: test\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\n"
    b"Content-Type: application/json\r\n"
)
SIZED = OFFER + f"Content-Length: {len(BODY)}\r\n\r\n".encode()
CHUNKED = OFFER + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKS = (
    b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:9], BODY[9:])) + b"0\r\n\r\n"
)


@pytest.fixture
def connection(client):
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.settimeout(60)
        yield connection


def answer(connection):
    """The status of the next answer, and its JSON."""
    reader = connection.makefile("rb")
    status = int(reader.readline().split()[1])
    length = 0
    while (line := reader.readline()) != b"\r\n":
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    return status, json.loads(reader.read(length))


@pytest.mark.parametrize(
    "packets",
    [(SIZED + BODY,), (SIZED, BODY), (SIZED + BODY[:7], BODY[7:]), (SIZED[:50], SIZED[50:] + BODY),
     (CHUNKED + CHUNKS,), (CHUNKED, CHUNKS[:5], CHUNKS[5:])],
    ids=["one", "head-body", "in-the-body", "in-the-head", "chunks", "chunks-apart"],
)  # fmt: skip
def test_case_9_a_client_that_offers_h2c_is_answered(client, connection, packets):
    """However its request is cut into packets, and again on the same connection."""
    expected = post(client, JSON).json()["data"]
    for _ in range(2):
        for packet in packets:
            connection.sendall(packet)
            if packet is not packets[-1]:  # so that it is read alone
                client.get("/ready")
        status, found = answer(connection)
        assert (status, found["data"]) == (200, expected)


def test_an_offer_without_a_body_is_answered_too(connection):
    connection.sendall(OFFER.replace(b"POST /v1/classify", b"GET /v1/tasks/sst2") + b"\r\n")
    status, found = answer(connection)
    assert (status, found["id"]) == (200, "sst2")


def test_a_plain_request_may_follow_an_offer(client, connection):
    plain = b"POST /v1/classify HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    plain += f"Content-Length: {len(BODY)}\r\n\r\n".encode()
    for request in (SIZED, plain, SIZED):
        connection.sendall(request + BODY)
        assert answer(connection)[0] == 200
