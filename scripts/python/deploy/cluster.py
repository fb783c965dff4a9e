"""The chart's NATS, started: three servers with the rendered configuration, the topology applied with the environment of the chart's Job,
read with that of each service, and the leader of each consumer found as KEDA finds it.
"""

import json
import os
import pathlib
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request

from nats_events import Nats

from . import DOCKER, SERVICES, nack
from .pods import component, environment, pods

LIMIT_S = 60
LAG = 5


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return json.load(answer)


def jsz(port):
    return get(port, "/jsz?acc=$G&consumers=true&config=true")


class Server:
    def __init__(self, name, directory):
        self.name, self.directory = name, directory
        self.client, self.monitor, self.route = free_ports(3)
        self.process = None

    def configure(self, config, users, servers):
        """The rendered configuration, with this machine's addresses and folders."""
        local = config.replace('"/data"', f'"{self.directory}/data"').replace("/var/run/nats/", f"{self.directory}/")
        local = local.replace("/etc/nats-certs/", f"{self.directory.parent}/certs/")
        for port, own in ((4222, self.client), (8222, self.monitor), (6222, self.route)):
            local = local.replace(f'"0.0.0.0:{port}"', f'"127.0.0.1:{own}"')
        for other in servers:
            local = re.sub(rf"{other.name}\.[a-z-]+:6222", f"127.0.0.1:{other.route}", local)
        self.directory.mkdir()
        (self.directory / "nats.conf").write_text(local)
        (self.directory / "nats-users.conf").write_text(users)

    def start(self, program, passwords):
        quoted = {f"NATS_{user}_PASSWORD": f'"{password}"' for user, password in passwords.items()}
        with (self.directory / "log").open("w") as log:
            command = [program, "--config", str(self.directory / "nats.conf")]
            self.process = subprocess.Popen(command, env={"POD_NAME": self.name, **quoted}, stdout=log, stderr=log)

    def is_healthy(self):
        try:
            return get(self.monitor, "/healthz")["status"] == "ok"
        except OSError:
            return False


def until(holds):
    end = time.monotonic() + LIMIT_S
    while not (found := holds()):
        if time.monotonic() > end:
            return found
        time.sleep(0.1)
    return found


def run(template, passwords, servers, directory, command):
    """A container's command with its environment; the exit status and what it printed."""
    container = (template["spec"].get("initContainers") or template["spec"]["containers"])[0]
    made = {}
    for name, value in environment(container).items():
        made[name] = passwords[value[1].split("_")[1]] if isinstance(value, tuple) else value
    made["NATS_URL"] = ",".join(f"tls://localhost:{server.client}" for server in servers)
    made["NATS_CA"] = f"{directory}/certs/ca.crt"
    done = subprocess.run([os.environ["RIDESHARE"], *command], env=made, capture_output=True, text=True, timeout=4 * LIMIT_S, check=False)
    return done.returncode, done.stdout + done.stderr


def consumer_of(answer, stream, consumer):
    for account in answer.get("account_details", []):
        for s in account.get("stream_detail", []) if account["name"] == "$G" else []:
            for c in s.get("consumer_detail", []) if s["name"] == stream else []:
                if c["name"] == consumer:
                    return c
    return None


def keda_lag(servers, first, stream, consumer):
    """As pkg/scalers/nats_jetstream_scaler.go of KEDA: the endpoint answers with any server; if that is one of several, each node of its
    cluster is asked at <node>.<endpoint>, which is here the server of that name.
    """
    answer = jsz(first.monitor)
    if answer["meta_cluster"]["cluster_size"] <= 1:
        found = consumer_of(answer, stream, consumer)
        return found["num_pending"] + found["num_ack_pending"]
    varz = get(first.monitor, "/varz")
    by_route = {f"127.0.0.1:{server.route}": server.name for server in servers}
    nodes = [varz["server_name"], *(by_route[url] for url in varz["cluster"]["urls"])]
    for node in (node.split(".")[0] for node in nodes):
        (server,) = [server for server in servers if server.name == node]
        found = consumer_of(jsz(server.monitor), stream, consumer)
        if found and found["cluster"]["leader"] == node:
            return found["num_pending"] + found["num_ack_pending"]
    return None


def certificates(directory, names):
    made = directory / "certs"
    wildcard = "*." + names[0].split(".")[1]
    subprocess.run([DOCKER / "nats-certs", made, wildcard, *names], check=True, capture_output=True)
    for old, new in (("server.pem", "tls.crt"), ("server-key.pem", "tls.key"), ("ca.pem", "ca.crt")):
        shutil.copy(made / old, made / new)


def check_running(objects, settings, servers, passwords, directory, faults):
    templates = {component(t): t for _, t in pods(objects)}
    execute = lambda part, command: run(templates[part], passwords, servers, directory, command)
    healthy = until(lambda: all(server.is_healthy() for server in servers))
    faults.expect(healthy, f"the chart's NATS is not healthy in {LIMIT_S} s: {(servers[0].directory / 'log').read_text()[-2000:]}")
    if not healthy:
        return
    for server in servers:
        varz = get(server.monitor, "/varz")
        faults.equal((varz["server_name"], varz.get("connect_urls")), (server.name, None), "what KEDA finds in /varz")
    status, output = execute("users", ["streams", "show"])
    faults.equal(status, 1, f"pods wait while there is no topology: {output[-500:]}")
    # Right after the election a stream may find no server yet: the Job would try again.
    status, output = until(lambda: (r := execute("topology", ["streams", "apply"]))[0] == 0 and r) or execute("topology", ["streams", "apply"])
    faults.equal(status, 0, f"the Job `topology` fails: {output[-1000:]}")
    for service in SERVICES:
        status, output = execute(service, ["streams", "show"])
        faults.equal(status, 0, f"{service} waits although the topology is there: {output[-1000:]}")
    (account,) = [a for a in jsz(servers[0].monitor)["account_details"] if a["name"] == "$G"]
    nack.compare(account["stream_detail"], settings, faults)

    ca = f"{directory}/certs/ca.crt"
    admin = Nats(f"tls://localhost:{servers[0].client}", {"user": "admin", "pass": passwords["ADMIN"]}, ca)
    for _ in range(LAG):
        answer = json.loads(admin.request("user.finder", {}, "{}"))
        faults.equal(answer.get("stream"), "USER_STREAM", f"publishing: {answer}")
    triggers = [t["metadata"] for d in objects if d["kind"] == "ScaledObject" for t in d["spec"]["triggers"]]
    faults.expect(triggers, "no triggers")
    for trigger in triggers:
        expected = LAG if trigger["consumer"].startswith("user_finder_") else 0
        for first in servers:
            lag = lambda: keda_lag(servers, first, trigger["stream"], trigger["consumer"])
            faults.expect(until(lambda: lag() == expected), f"the lag of {trigger['consumer']} by {first.name} is {lag()}, not {expected}")


def check(values, objects, faults):
    """Returns what could not be checked."""
    (config,) = [d["data"] for d in objects if d["kind"] == "ConfigMap" and "nats.conf" in d["data"]]
    routes = re.findall(r"([a-z-]+-\d+)\.([a-z-]+):6222", config["nats.conf"])
    (pod,) = [d for d in objects if d["kind"] == "StatefulSet"]
    expected = [(f"{pod['metadata']['name']}-{n}", pod["spec"]["serviceName"]) for n in range(values["nats"]["replicas"])]
    faults.equal(routes, expected, "routes are the pods' names, by which KEDA asks them")
    program = os.environ.get("NATS_SERVER")
    if not program:
        return ["the chart's NATS: nats-server is not there (scripts/setup)"]
    if not os.access(os.environ["RIDESHARE"], os.X_OK):
        return [f"the chart's NATS: {os.environ['RIDESHARE']} is not built"]
    users = re.findall(r"\$NATS_([A-Z]+)_PASSWORD", config["nats-users.conf"])
    passwords = {user: secrets.token_hex(16) for user in users}
    with tempfile.TemporaryDirectory(prefix="rideshare-cluster.") as name:
        directory = pathlib.Path(name)
        certificates(directory, [".".join(route) for route in routes])
        servers = [Server(pod_name, directory / pod_name) for pod_name, _ in routes]
        try:
            for server in servers:
                server.configure(config["nats.conf"], config["nats-users.conf"], servers)
                server.start(program, passwords)
            check_running(objects, values["settings"], servers, passwords, directory, faults)
        finally:
            for server in servers:
                if server.process:
                    server.process.kill()
                    server.process.wait()
    return []
