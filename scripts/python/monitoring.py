"""Boards and alarms against a running program: a demo city, and a real Prometheus that scrapes it. See scripts/check-monitoring."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families

ROOT = pathlib.Path(__file__).parents[2]
BOARDS = sorted((ROOT / "docker/monitoring/grafana/dashboards").glob("*.json"))
ALARMS = ROOT / "docker/alerts.yaml"
# Rides are completed within this time; then the city goes on until everything is asked.
CITY_WAIT_S = 150
# Metrics that Prometheus itself has of each target, and that a test has as series.
OF_PROMETHEUS = {"up", "ALERTS"}
# Words of PromQL that are no metrics.
WORDS = {
    "and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "sum", "min", "max", "count", "rate",
    "increase", "delta", "changes", "histogram_quantile", "vector", "time", "bool", "avg",
}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(url, accept=None):
    request = urllib.request.Request(url, headers={"Accept": accept} if accept else {})
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.read().decode()


def until(what, seconds, holds):
    for _ in range(int(seconds * 4)):
        try:
            if holds():
                return
        except (urllib.error.URLError, ConnectionError, OSError):
            pass
        time.sleep(0.25)
    sys.exit(f"not in {seconds} s: {what}")


class Collector(BaseHTTPRequestHandler):
    """Takes spans, so that the program has exemplars."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def metrics_of(expression):
    """The names of the metrics in PromQL: without strings, labels and durations."""
    text = re.sub(r'"[^"]*"', "", expression)
    text = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|without|on|ignoring) *\([^)]*\)", " ", text)
    return {word for word in re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", text) if word not in WORDS}


def queries():
    for path in BOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                if "expr" in target:
                    yield f"{path.stem}: {panel['title']}", target["expr"].replace("$__rate_interval", "30s")


def main():
    with tempfile.TemporaryDirectory() as scratch:
        started = []
        try:
            run(pathlib.Path(scratch), started)
        finally:
            for process in reversed(started):
                process.send_signal(signal.SIGTERM)
            for process in started:
                try:
                    process.wait(40)
                except subprocess.TimeoutExpired:
                    process.kill()


def run(scratch, started):
    collector = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    prometheus = free_port()
    environment = {
        "PATH": os.environ["PATH"], "RUST_LOG": "error",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
    }
    city = [os.environ["RIDESHARE"], "demo", "--drivers", "12", "--passengers", "8", "--rides", "100000", "--speed", "30"]
    with open(scratch / "city.log", "w", encoding="utf-8") as log:
        started.append(subprocess.Popen(city, env=environment, stdout=log, stderr=log))
    address = re.compile(r"http://(127\.0\.0\.1:[0-9]+)")
    until("the city says where it is", 60, lambda: address.search((scratch / "city.log").read_text()))
    program = address.search((scratch / "city.log").read_text())[1]
    config = {
        "global": {"scrape_interval": "2s", "evaluation_interval": "2s"},
        "rule_files": [str(ALARMS)],
        "scrape_configs": [{"job_name": "rideshare", "static_configs": [{"targets": [program]}]}],
    }
    (scratch / "prometheus.yaml").write_text(yaml.safe_dump(config))
    with open(scratch / "prometheus.log", "w", encoding="utf-8") as log:
        started.append(subprocess.Popen(
            ["prometheus", f"--config.file={scratch}/prometheus.yaml", f"--storage.tsdb.path={scratch}/data",
             f"--web.listen-address=127.0.0.1:{prometheus}", "--enable-feature=exemplar-storage"], stdout=log, stderr=log))
    api = f"http://127.0.0.1:{prometheus}/api/v1"

    def ask(expression):
        return json.loads(get(f"{api}/query?{urllib.parse.urlencode({'query': expression})}"))["data"]["result"]

    until("the city", 60, lambda: get(f"http://{program}/health/live"))
    until("Prometheus", 30, lambda: get(f"http://127.0.0.1:{prometheus}/-/ready"))
    completed = 'rideshare_rides_total{status="completed"} > 3'
    until("rides are completed", CITY_WAIT_S, lambda: ask(completed) and started[0].poll() is None)
    until("a rate", 30, lambda: ask("rate(rideshare_rides_total[30s]) > 0"))

    faults = []
    known = set(json.loads(get(f"{api}/label/__name__/values"))["data"]) | OF_PROMETHEUS
    known |= counters_of_sources()
    shown = 0
    for where, expression in queries():
        faults += [f"{where}: there is no metric {name}" for name in metrics_of(expression) - known]
        series = [sample for sample in ask(expression) if sample["value"][1] != "NaN"]
        shown += len(series)
        if not series:
            faults.append(f"{where}: no data: {expression}")
        else:
            print(f"  {where}: {len(series)} series, as {series[0]['metric']} {series[0]['value'][1]}")
    for group in yaml.safe_load(ALARMS.read_text())["groups"]:
        for rule in group["rules"]:
            faults += [f"{rule['alert']}: there is no metric {name}" for name in metrics_of(rule["expr"]) - known]
            if not rule["annotations"].get("runbook_url", "").endswith(f"docker/RUNBOOK.md#{rule['alert'].lower()}"):
                faults.append(f"{rule['alert']}: runbook_url")
            ask(rule["expr"])
    firing = [alarm["labels"]["alertname"] for alarm in json.loads(get(f"{api}/alerts"))["data"]["alerts"] if alarm["state"] == "firing"]
    faults += [f"{name} fires in a demo city" for name in firing]

    accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
    families = list(text_string_to_metric_families(get(f"http://{program}/metrics", accept)))
    exemplars = {family.name for family in families for sample in family.samples if sample.exemplar}
    missing = {"messaging_process_duration_seconds", "rideshare_command_seconds", "rideshare_offer_to_phone_seconds"} - exemplars
    faults += [f"no exemplar of {name}" for name in missing]
    window = urllib.parse.urlencode({"query": "rideshare_command_seconds_bucket", "start": time.time() - 600, "end": time.time()})
    stored = json.loads(get(f"{api}/query_exemplars?{window}"))["data"]
    if not stored:
        faults.append("Prometheus has stored no exemplars")
    print(f"{len(BOARDS)} boards, {shown} series; {len(families)} families of OpenMetrics, {len(exemplars)} with exemplars; "
          f"{len(stored)} series with exemplars in Prometheus")
    if faults:
        sys.exit("\n".join(faults))


def counters_of_sources():
    """Metrics with labels appear when they first count. Those are looked for where they are registered."""
    text = "\n".join(path.read_text() for path in (ROOT / "services").glob("*/src/**/*.rs"))
    names = set(re.findall(r'"((?:rideshare_|messaging_|http_|process_)?[a-z_]+)"', text))
    suffixes = ("", "_bucket", "_count", "_sum")
    return {f"{prefix}{name}{suffix}" for name in names for prefix in ("", "rideshare_") for suffix in suffixes}


main()
