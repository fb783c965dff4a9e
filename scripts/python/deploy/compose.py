"""The compose files: their schema, their variables and mounts, and the environment that the chart must give as well."""

import copy
import re
import subprocess

import jsonschema

from . import CHART, DOCKER, ROOT, drain_limit_s, example_variables, read_json, read_yaml

FILES = ("compose.yaml", "compose.memory.yaml", "compose.memory-database.yaml")
# ${NAME}, ${NAME:-default}, ${NAME:?why}
VARIABLE = re.compile(r"\$\{([A-Z_]+)(:[-?][^}]*)?\}")
# Made by docker/nats-certs and docker/ingress-certs.
MADE = ("./certs/",)


def read(name):
    return read_yaml(DOCKER / name)


def memory_with_database():
    """compose.memory.yaml under compose.memory-database.yaml: the environment of its one process."""
    made = copy.deepcopy(read("compose.memory.yaml")["services"]["rideshare"]["environment"])
    return {**made, **read("compose.memory-database.yaml")["services"]["rideshare"]["environment"]}


def check_file(name, faults):
    text, compose = (DOCKER / name).read_text(), read(name)
    schema = read_json(CHART / "schemas" / "compose.json")
    for error in jsonschema.validators.validator_for(schema)(schema).iter_errors(compose):
        faults.expect(False, f"{name}: {error.json_path}: {error.message}")
    faults.checked += 1
    code = "\n".join(line.split(" #")[0] for line in text.splitlines() if not line.lstrip().startswith("#"))
    for variable, default in VARIABLE.findall(code):
        has_default = default.startswith(":-")
        faults.expect(variable in example_variables() or has_default, f"{name}: {variable} is not in docker/.env.example")
    services = compose["services"]
    for service, config in services.items():
        where = f"{name}: {service}"
        for dependency in config.get("depends_on", {}):
            faults.expect(dependency in services, f"{where} depends on {dependency}")
        for network in config.get("networks", []):
            faults.expect(network in compose.get("networks", {}), f"{where}: network {network}")
        for volume in config.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                is_there = (DOCKER / source).exists() or source.startswith(MADE)
                faults.expect(is_there, f"{where} mounts {source}, which does not exist")
            else:
                faults.expect(source in compose.get("volumes", {}), f"{where}: volume {source}")
        if "extends" in config:
            other = read(config["extends"]["file"])
            faults.expect(config["extends"]["service"] in other["services"], f"{where} extends nothing")
        if config.get("image") == "rideshare":
            grace = int(config["stop_grace_period"].removesuffix("s"))
            faults.expect(grace > drain_limit_s(), f"{where}: killed after {grace} s, during its drain")
            faults.expect(config.get("read_only") and config.get("cap_drop") == ["ALL"], f"{where}: read_only, cap_drop")
            faults.equal(config.get("security_opt"), ["no-new-privileges:true"], f"{where}: security_opt")


def check(faults):
    for name in FILES:
        check_file(name, faults)
    faults.equal(list(read("compose.memory.yaml")["services"]), ["rideshare"], "compose.memory.yaml is one container")
    names = {read(name).get("name") for name in FILES[:2]}
    faults.equal(names, {"rideshare"}, "the compose files share their project, and so the volume of PostgreSQL")
    monitored = {n for n, s in read("compose.yaml")["services"].items() if s.get("profiles") == ["monitoring"]}
    faults.equal(monitored, {"nats-exporter", "prometheus", "tempo", "grafana"}, "the profile `monitoring`")
    scraped = read_yaml(DOCKER / "monitoring/prometheus.yaml")["scrape_configs"]
    faults.equal(scraped[0]["dns_sd_configs"][0]["names"], ["users", "match", "rides", "location"], "what Prometheus scrapes")
    check_switch(faults)


def check_switch(faults):
    """scripts/switch-queue: the old processes end before the new ones begin, and every file that it names exists."""
    for to, old in (("nats", "stop rideshare"), ("memory", "stop users match rides location")):
        run = subprocess.run([ROOT / "scripts/switch-queue", to, "--dry-run"], capture_output=True, text=True, check=False)
        faults.equal(run.returncode, 0, f"switch-queue {to} --dry-run: {run.stderr}")
        lines = run.stdout.splitlines()
        for file in re.findall(r"-f (\S+)", run.stdout):
            faults.expect((ROOT / file).exists(), f"switch-queue {to}: {file}")
        stop = next((n for n, line in enumerate(lines) if old in line), None)
        start = next((n for n, line in enumerate(lines) if "--remove-orphans" in line), None)
        faults.expect(stop is not None and start is not None and stop < start, f"switch-queue {to} starts before it stops: {lines}")
        faults.expect("--volumes" not in run.stdout and " down" not in run.stdout, f"switch-queue {to} removes volumes")
    run = subprocess.run([ROOT / "scripts/switch-queue", "kafka"], capture_output=True, text=True, check=False)
    faults.equal(run.returncode, 2, "switch-queue kafka")
