"""The checks of scripts/check-deploy: a module for each noun; `faults` of all of them are printed at the end."""

import json
import pathlib

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[3]
DOCKER = ROOT / "docker"
CHART = DOCKER / "helm"
SERVICES = ("users", "match", "rides", "location")
NAMESPACE = "rides"
RELEASE = "rideshare"


class Faults:
    """What is wrong, and how much was looked at."""

    def __init__(self):
        self.found = []
        self.checked = 0

    def expect(self, holds, what):
        self.checked += 1
        if not holds:
            self.found.append(what)

    def equal(self, found, expected, what):
        self.expect(found == expected, f"{what}: found {found!r}, expected {expected!r}")


def documents(text):
    """The objects of a YAML text."""
    return [document for document in yaml.safe_load_all(text) if document]


def read_yaml(path):
    return yaml.safe_load(path.read_text())


def read_json(path):
    return json.loads(path.read_text())


def example_variables():
    """The names in docker/.env.example."""
    lines = (DOCKER / ".env.example").read_text().splitlines()
    return {line.split("=")[0] for line in lines if "=" in line and not line.startswith("#")}


def drain_limit_s():
    """How long a process may drain."""
    line = next(l for l in (ROOT / "services/server/src/app.rs").read_text().splitlines() if l.startswith("const STOP_WAIT"))
    return int(line.split("from_secs(")[1].split(")")[0])
