"""The manifests of NACK: as their generator makes them, as their CRDs want them, and as the program would create them."""

import re
import subprocess

from . import DOCKER, documents
from .chart import validate

DIRECTORY = DOCKER / "nack"


def manifests(kind):
    return documents((DIRECTORY / f"{kind}.yaml").read_text())


def check(faults):
    for kind in ("streams", "consumers"):
        made = subprocess.run([DIRECTORY / "generate", kind], capture_output=True, text=True, check=True).stdout
        is_same = made == (DIRECTORY / f"{kind}.yaml").read_text()
        faults.expect(is_same, f"docker/nack/{kind}.yaml is not what docker/nack/generate {kind} prints")
        for document in manifests(kind):
            validate(document, f"nack/{kind}", faults)


def snake(field):
    return re.sub("[A-Z]", lambda m: "_" + m.group().lower(), field)


def of_server(spec):
    """The fields of a manifest as a server shows them."""
    made = {}
    for field, value in spec.items():
        if field in ("preventDelete", "streamName"):
            continue
        name = "num_replicas" if field == "replicas" else snake(field)
        if isinstance(value, str) and re.fullmatch(r"\d+s", value):
            value = int(value[:-1]) * 1_000_000_000
        made[name] = value
    return made


def compare(streams, settings, faults):
    """`streams` is `stream_detail` of a server on which the program has applied its topology, with these settings of sizes."""
    expected = {d["spec"]["name"]: d["spec"] for d in manifests("streams")}
    faults.equal({s["name"] for s in streams}, set(expected), "streams of the program and of docker/nack")
    consumers = {(d["spec"]["streamName"], d["spec"]["durableName"]): d["spec"] for d in manifests("consumers")}
    found = {(s["name"], c["name"]): c["config"] for s in streams for c in s.get("consumer_detail", [])}
    faults.equal(set(found), set(consumers), "consumers of the program and of docker/nack")
    for stream in streams:
        for field, value in of_server(expected.get(stream["name"], {})).items():
            if f"{stream['name']}_{field}".upper() in settings:
                continue
            faults.equal(stream["config"].get(field), value, f"docker/nack/streams.yaml: {stream['name']}: {field}")
    for key, config in found.items():
        for field, value in of_server(consumers.get(key, {})).items():
            faults.equal(config.get(field), value, f"docker/nack/consumers.yaml: {key[1]}: {field}")
