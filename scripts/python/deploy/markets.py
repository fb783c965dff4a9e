"""MARKETS_FILE: the example of README.md, and how the chart and the compose files bring a file to those who read it."""

import hashlib
import json
import os
import pathlib
import re
import subprocess
import tempfile

from . import CHART, ROOT, read_yaml
from .pods import component, containers, environment, pods

# Where the file is in a container, of compose and of the chart.
FOLDER = "/etc/rideshare-markets"
# Who reads it.
READERS = {"users", "match", "rides", "all"}


def example():
    """The file in README.md."""
    section = (ROOT / "README.md").read_text().split("\n## Cities\n")[1].split("\n## ")[0]
    return re.search(r"```json\n(.*?)```", section, re.DOTALL).group(1)


def check_compose(files, faults):
    """`files`: name → compose file."""
    found = set()
    for name, compose in files.items():
        for service, config in compose["services"].items():
            mounts = [v for v in config.get("volumes", []) if v == f"./markets:{FOLDER}:ro"]
            reads = "MARKETS_FILE" in config.get("environment", {})
            faults.equal(bool(mounts), reads, f"{name}: {service}: ./markets is mounted where it is read")
            if reads:
                found.add("all" if service == "rideshare" else service)
                # An empty variable is refused by the program: compose must leave it out.
                faults.equal(config["environment"]["MARKETS_FILE"], None, f"{name}: {service}: MARKETS_FILE has a value")
    faults.equal(found, READERS, "who reads MARKETS_FILE by the compose files")


def check(name, values, objects, faults):
    maps = [d for d in objects if d["kind"] == "ConfigMap" and d["metadata"]["name"] == "rideshare-markets"]
    text = values["markets"]
    faults.equal([d["data"] for d in maps], [{"markets.geojson": text}] if text else [], f"{name}: ConfigMap of the markets")
    for document, template in pods(objects):
        where = f"{name}: {document['kind']} {document['metadata']['name']}"
        reads = bool(text) and component(template) in READERS
        annotation = template["metadata"].get("annotations", {}).get("checksum/markets")
        faults.equal(annotation, hashlib.sha256(text.encode()).hexdigest() if reads else None, f"{where}: a change rolls the pods that read it")
        volumes = [v["name"] for v in template["spec"].get("volumes", []) if v.get("configMap", {}).get("name") == "rideshare-markets"]
        faults.equal(volumes, ["markets"] if reads else [], f"{where}: volumes of the markets")
        for container in containers(template):
            is_reader = reads and container.get("args", [""])[0] == "run"
            # The whole folder: with subPath it would never change.
            mounts = [m for m in container.get("volumeMounts", []) if m["name"] == "markets"]
            expected = [{"name": "markets", "mountPath": FOLDER, "readOnly": True}] if is_reader else []
            faults.equal(mounts, expected, f"{where}: mounts of the markets")
            file = environment(container).get("MARKETS_FILE")
            faults.equal(file, f"{FOLDER}/markets.geojson" if is_reader else None, f"{where}: MARKETS_FILE")


def check_example(faults):
    """README's example is what ci/production.yaml has, and the program takes it. Returns what could not be checked."""
    production = read_yaml(CHART / "ci/production.yaml")["markets"]
    faults.equal(json.loads(production), json.loads(example()), "ci/production.yaml has the markets of README.md")
    if not os.access(os.environ["RIDESHARE"], os.X_OK):
        return [f"the program takes README's example of markets: {os.environ['RIDESHARE']} is not built"]
    with tempfile.TemporaryDirectory(prefix="rideshare-markets.") as directory:
        file = pathlib.Path(directory) / "markets.geojson"
        file.write_text(example())
        command = [os.environ["RIDESHARE"], "markets", "show"]
        done = subprocess.run(command, env={"MARKETS_FILE": str(file)}, capture_output=True, text=True, timeout=60, check=False)
    faults.equal(done.returncode, 0, f"`rideshare markets show` of README's example: {done.stdout}{done.stderr}")
    for feature in json.loads(example())["features"]:
        faults.expect(feature["properties"]["market_id"] in done.stdout, f"`rideshare markets show` does not list it: {done.stdout}")
    return []
