"""Called by scripts/test-nats-integration with the addresses of a nats-server and of a process with all services: publishes a beacon by
JetStream and one by core NATS, and compares what the process counted with what must follow.
"""

import datetime
import json
import re
import socket
import ssl
import sys
import time
import urllib.request
import uuid

LIMIT_S = 60


class Nats:
    """A connection that speaks as much of the protocol as is needed here."""

    def __init__(self, url, login=None, ca=None):
        host, port = url.split("://")[1].split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=LIMIT_S)
        # The server speaks first, also if it then wants TLS.
        while not self.socket.recv(1) == b"\n":
            pass
        if ca:
            self.socket = ssl.create_default_context(cafile=ca).wrap_socket(self.socket, server_hostname=host)
        self.reader = self.socket.makefile("rb")
        self.inbox = f"_INBOX.{uuid.uuid4().hex}"
        options = {"verbose": False, "headers": True, "no_responders": True, **(login or {})}
        self.send(f"CONNECT {json.dumps(options)}\r\nSUB {self.inbox} 1\r\n")

    def send(self, text):
        self.socket.sendall(text.encode())

    def publish(self, subject, headers, body, reply=""):
        head = "NATS/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
        self.send(f"HPUB {subject} {reply} {len(head)} {len(head) + len(body)}\r\n{head}{body}\r\n")

    def flush(self):
        self.send("PING\r\n")
        while (line := self.reader.readline()) != b"PONG\r\n":
            assert not line.startswith(b"-ERR"), line

    def request(self, subject, headers, body):
        """The body of the answer."""
        self.publish(subject, headers, body, self.inbox)
        while True:
            line = self.reader.readline().decode()
            assert line and not line.startswith("-ERR"), line
            words = line.split()
            if words[0] in ("MSG", "HMSG"):
                size = int(words[-1])
                text = self.reader.read(size + 2)[:size].decode()
                return text[int(words[-2]):] if words[0] == "HMSG" else text


def beacon():
    """A driver nobody knows goes online: the message id and the body of a valid `user.beacon`."""
    now = datetime.datetime.now(datetime.timezone.utc)
    user, recorded_at = str(uuid.uuid4()), now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    body = {"user_id": user, "active": True, "vehicle_type": "car", "location": {"lat": 40.75, "lng": -73.98}, "recorded_at": recorded_at}
    micros = (now - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)) // datetime.timedelta(microseconds=1)
    return f"user.beacon-{user}-{micros}", json.dumps(body)


def get(address, path):
    with urllib.request.urlopen(f"http://{address}{path}", timeout=LIMIT_S) as answer:
        return answer.read().decode()


def counts(address):
    """Of user.beacon: by metric and path."""
    pattern = re.compile(r'rideshare_events_(taken|handled|failed|duplicate)_total\{path="(\w+)",subject="user\.beacon"\} (\d+)')
    found = {(metric, path): int(n) for metric, path, n in pattern.findall(get(address, "/metrics"))}
    return lambda metric, path: found.get((metric, path), 0)


def wait(address, what, holds):
    until = time.monotonic() + LIMIT_S
    while not holds(now := counts(address)):
        if time.monotonic() > until:
            sys.exit(f"not in {LIMIT_S} s: {what}")
        time.sleep(0.1)
    print(f"ok: {what}")
    return now


def main(url, address):
    nats = Nats(url)
    print("health, by core request:", nats.request("pods.pod-1.health", {}, "")[:120], "…")
    readers = len([c for c in json.loads(get(address, "/stats"))["consumers"] if c["name"].startswith("user_beacon_")])
    handled = lambda now: now("handled", "core") + now("handled", "jetstream")
    assert handled(counts(address)) == 0

    identity, body = beacon()
    answer = json.loads(nats.request("user.beacon", {"Nats-Msg-Id": identity}, body))
    print("by JetStream, the stream's answer:", answer)
    assert answer.get("stream") == "USER_STREAM" and not answer.get("duplicate"), answer
    wait(address, f"each of the {readers} readers handled it once", lambda now: handled(now) == readers)
    again = json.loads(nats.request("user.beacon", {"Nats-Msg-Id": identity}, body))
    print("the same once more:", again)
    assert again.get("duplicate") and again["seq"] == answer["seq"], again

    identity, body = beacon()
    nats.publish("user.beacon", {"Nats-Msg-Id": identity}, body)
    nats.flush()
    print("by core NATS: PONG, which is all that core NATS answers; the stream stores it as well")
    wait(address, f"each of the {readers} readers handled the second one once", lambda now: handled(now) == 2 * readers)
    # How many is not fixed: a copy whose event the stream has brought before is dropped without being counted.
    wait(address, "match got events by core NATS as well", lambda now: now("taken", "core") >= 1)
    wait(
        address,
        "every event that came by both paths had its effect by one",
        lambda now: now("taken", "core") + now("taken", "jetstream") == handled(now) + now("duplicate", "core") + now("duplicate", "jetstream"),
    )
    now = counts(address)
    print(f"{'user.beacon':<14}{'taken':>8}{'handled':>9}{'duplicate':>11}{'failed':>8}")
    for path in ("core", "jetstream"):
        print(f"{path:<14}{now('taken', path):>8}{now('handled', path):>9}{now('duplicate', path):>11}{now('failed', path):>8}")
    if now("failed", "core") + now("failed", "jetstream") or handled(now) != 2 * readers:
        sys.exit("an event failed or had its effect twice")
    dead = [c for c in json.loads(get(address, "/stats"))["consumers"] if c["dead_lettered"]]
    if dead:
        sys.exit(f"dead letters: {dead}")


if __name__ == "__main__":
    main(*sys.argv[1:])
