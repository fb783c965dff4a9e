"""What the chart's objects say about each other, about compose.yaml, ingress.conf and the topology."""

import re

from . import DOCKER, SERVICES, NAMESPACE, ROOT, documents, markets, read_json
from .compose import memory_with_database
from .pods import component, environment, pods

# Of the chart alone: compose has one NATS server, whose streams have one copy.
CHART_ONLY = {"NATS_REPLICAS"}


def by_component(objects):
    return {component(template): template for _, template in pods(objects)}


def resolved(container, values):
    """The environment in the words of compose.yaml: secrets as ${KEY}, host names as there."""
    made, secrets = {}, {}
    for name, value in environment(container).items():
        if isinstance(value, tuple):
            secrets[name] = made[name] = f"${{{value[1]}}}"
        else:
            value = re.sub(r"\$\(([A-Z_]+)\)", lambda m: secrets[m.group(1)], value)
            value = value.replace("rideshare-nats:", "nats:").replace("rideshare-postgres:", "postgres:")
            external = values["postgres"]["external"]
            if external["host"]:
                value = value.replace(f"@{external['host']}:{external['port']}/{external['database']}{external['parameters']}", "@postgres:5432/rideshare")
            made[name] = value
    # A password that only stands in DATABASE_URL is no setting of the program.
    return {name: value for name, value in made.items() if not name.endswith("_PASSWORD") or name == "NATS_PASSWORD"}


def expected_environment(compose, service, values):
    """As compose.yaml has it, with the choices of these values."""
    made = memory_with_database() if service == "all" else dict(compose["services"][service]["environment"])
    if "MARKETS_FILE" in made:
        made["MARKETS_FILE"] = f"{markets.FOLDER}/markets.geojson"
        if not values["markets"]:
            del made["MARKETS_FILE"]
    # Of docker/.env alone; the chart has it in `settings`.
    made.pop("ROUTING_URL", None)
    # In the chart they are among the `settings`.
    made = {name: value for name, value in made.items() if not name.startswith("OTEL_")}
    if "ADMIN_TOKENS_FILE" in made:
        made["ADMIN_TOKENS_FILE"] = "/etc/rideshare-operators/operators"
        if not values["operators"]["secretName"]:
            del made["ADMIN_TOKENS_FILE"]
    made = {name: re.sub(r":[-?][^}]*\}", "}", value) for name, value in made.items()}
    if "HTTP_ADDR" in made:
        made["TRUSTED_PROXIES"] = values["trustedProxies"]
    if "OTP_DELIVERY" in made and values["otpDelivery"]:
        made["OTP_DELIVERY"] = values["otpDelivery"]
    if "NATS_URL" in made:
        if not values["nats"]["tls"]["secretName"]:
            made["NATS_URL"] = made["NATS_URL"].replace("tls://", "nats://")
            del made["NATS_CA"]
        if not values["nats"]["enabled"]:
            made["NATS_URL"] = values["nats"]["external"]["url"]
        made["NATS_REPLICAS"] = str(values["nats"]["replicas"] if values["nats"]["enabled"] else values["nats"]["external"]["replicas"])
    if service == "all" and not values["postgres"]["trial"]["enabled"]:
        del made["DATABASE_URL"]
    if service != "migrate":
        made.update({name: str(value) for name, value in values["settings"].items()})
    return made


def check_environment(name, values, objects, compose, faults):
    templates = by_component(objects)
    for service in (*SERVICES, "topology", "migrate", "all"):
        if service not in templates:
            continue
        container = templates[service]["spec"]["containers"][0]
        expected = expected_environment(compose, service, values)
        faults.equal(resolved(container, values), expected, f"{name}: environment of {service}")
        command = compose["services"].get(service, {"command": ["run"]})["command"]
        faults.equal(container["args"], command, f"{name}: command of {service}")
        if service in SERVICES:
            waiting = resolved(templates[service]["spec"]["initContainers"][0], values)
            faults.expect(waiting.items() <= expected.items(), f"{name}: {service} waits with another environment: {waiting}")


def ingress_paths():
    """PATH → (pathType, service, whether requests are logged), from docker/ingress.conf."""
    text = "\n".join(line.split("#")[0] for line in (DOCKER / "ingress.conf").read_text().splitlines())
    made = {}
    for exact, path, body in re.findall(r"location (= )?(/\S*) \{([^}]*)\}", text):
        if upstream := re.search(r"proxy_pass \$(\w+);", body):
            made[path] = ("Exact" if exact else "Prefix", upstream.group(1), "access_log off;" not in body)
    return made


def check_ingress(name, values, objects, faults):
    services = {d["metadata"]["name"] for d in objects if d["kind"] == "Service"}
    found = {}
    ingresses = [d for d in objects if d["kind"] == "Ingress"]
    for ingress in ingresses:
        (rule,) = ingress["spec"]["rules"]
        annotations = ingress["metadata"].get("annotations", {})
        is_logged = annotations.get("nginx.ingress.kubernetes.io/enable-access-log") != "false"
        for path in rule["http"]["paths"]:
            backend = path["backend"]["service"]["name"]
            faults.expect(backend in services, f"{name}: the ingress sends {path['path']} to {backend}, which does not exist")
            faults.expect(path["path"] not in found, f"{name}: two paths {path['path']} of the ingress")
            found[path["path"]] = (path["pathType"], backend.removeprefix("rideshare-"), is_logged)
    expected = ingress_paths() if values["ingress"]["enabled"] else {}
    if values["queue"] == "memory":
        expected = {path: (kind, "all", is_logged) for path, (kind, _, is_logged) in expected.items()}
    faults.equal(found, expected, f"{name}: paths of the ingress")
    # One of them asks for the certificate.
    asking = [i for i in ingresses if any(key.startswith("cert-manager.io/") for key in i["metadata"].get("annotations", {}))]
    faults.expect(len(asking) <= 1, f"{name}: {len(asking)} objects ask for one certificate")


def check_services(name, objects, faults):
    """Each Service finds pods with its port; each ServiceMonitor finds a Service with its port."""
    templates = [template for _, template in pods(objects)]
    services = [d for d in objects if d["kind"] == "Service"]
    for service in services:
        selector = service["spec"]["selector"].items()
        found = [t for t in templates if selector <= t["metadata"]["labels"].items()]
        faults.equal(len(found), 1, f"{name}: pods of the Service {service['metadata']['name']}")
        ports = {p["name"]: p["containerPort"] for t in found for c in t["spec"]["containers"] for p in c.get("ports", [])}
        for port in service["spec"]["ports"]:
            faults.equal(ports.get(port["targetPort"]), port["port"], f"{name}: port {port['name']} of {service['metadata']['name']}")
    for monitor in (d for d in objects if d["kind"] == "ServiceMonitor"):
        (expression,) = monitor["spec"]["selector"]["matchExpressions"]
        port = monitor["spec"]["endpoints"][0]["port"]
        found = [s for s in services if s["metadata"]["labels"]["app.kubernetes.io/component"] in expression["values"]]
        has_port = [any(p["name"] == port for p in s["spec"]["ports"]) for s in found]
        faults.expect(found and all(has_port), f"{name}: {monitor['metadata']['name']} scrapes nothing")


def check_keda(name, values, objects, faults):
    streams = [read_json(path) for path in (ROOT / "streams").glob("*.json")]
    consumers = {c["name"]: c for c in map(read_json, (ROOT / "streams/consumers").glob("*.json"))}
    scaled = {d["spec"]["scaleTargetRef"]["name"]: d for d in objects if d["kind"] == "ScaledObject"}
    wanted = {f"rideshare-{s}" for s, v in values["keda"]["services"].items() if v["enabled"]} if values["keda"]["enabled"] else set()
    faults.equal(set(scaled), wanted, f"{name}: ScaledObjects")
    for deployment in (d for d in objects if d["kind"] == "Deployment"):
        is_scaled = deployment["metadata"]["name"] in scaled
        faults.expect(("replicas" in deployment["spec"]) != is_scaled, f"{name}: {deployment['metadata']['name']}: replicas beside KEDA")
    if not scaled:
        return
    (waiting,) = [d for d in objects if d["kind"] == "Job" and d["metadata"]["name"] == "rideshare-consumers"]
    hook = lambda d: (d["metadata"]["annotations"]["helm.sh/hook"], int(d["metadata"]["annotations"]["helm.sh/hook-weight"]))
    faults.equal(hook(waiting)[0], "post-install,post-upgrade", f"{name}: the Job that waits for the consumers")
    for target, document in scaled.items():
        faults.expect(hook(document) > hook(waiting) and hook(document)[0] == hook(waiting)[0], f"{name}: {target} is scaled too early")
        spec, service = document["spec"], target.removeprefix("rideshare-")
        faults.expect(spec["minReplicaCount"] <= spec["maxReplicaCount"], f"{name}: {target}: minimum and maximum")
        faults.equal(spec["minReplicaCount"] >= 2, True, f"{name}: {target}: at least two pods")
        for trigger in (t["metadata"] for t in spec["triggers"]):
            consumer = consumers.get(trigger["consumer"])
            faults.expect(consumer and trigger["consumer"].endswith(f"_{service}"), f"{name}: {target}: no consumer {trigger['consumer']}")
            (stream,) = [s["name"] for s in streams if consumer and consumer["filter_subject"] in s["subjects"]] or [None]
            faults.equal(trigger["stream"], stream, f"{name}: the stream of {trigger['consumer']}")
            if values["nats"]["enabled"]:
                endpoint = f"rideshare-nats-headless.{NAMESPACE}.svc:8222"
                faults.equal(trigger["natsServerMonitoringEndpoint"], endpoint, f"{name}: {target}")


def check_hooks(name, values, objects, faults):
    """migrate is a hook if its database is there before the release; topology never is."""
    for job in (d for d in objects if d["kind"] == "Job"):
        kind, hook = job["metadata"]["name"].split("-")[1], job["metadata"].get("annotations", {}).get("helm.sh/hook")
        is_trial = values["postgres"]["trial"]["enabled"]
        expected = {"migrate": None if is_trial else "pre-install,pre-upgrade", "topology": None, "consumers": "post-install,post-upgrade"}
        faults.equal(hook, expected[kind], f"{name}: hook of {kind}")
        # A Job cannot be changed: each revision has its own.
        faults.expect(hook or job["metadata"]["name"].endswith("-3"), f"{name}: {kind} is the same in every revision")


def check_storage(name, values, objects, faults):
    for document in (d for d in objects if d["kind"] == "StatefulSet" and d["metadata"]["name"].endswith("-nats")):
        (claim,) = document["spec"]["volumeClaimTemplates"]
        faults.equal(claim["metadata"]["name"], "nats-js-pvc", f"{name}: PVC of NATS")
        unit = {"Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
        size = lambda text: int(text[:-2]) * unit[text[-2:]]
        store = values["nats"]["jetstream"]["fileStore"]
        faults.expect(size(claim["spec"]["resources"]["requests"]["storage"]) > size(store["maxSize"]), f"{name}: the PVC holds less than maxSize")
        memory = size(values["nats"]["jetstream"]["memoryStore"]["maxSize"])
        limit = size(document["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"])
        faults.expect(limit > memory, f"{name}: NATS' memory limit is below its memory store")
        (config,) = [d for d in objects if d["kind"] == "ConfigMap" and d["metadata"]["name"].endswith("-nats")]
        lame_duck = int(re.search(r'lame_duck_duration: "(\d+)s"', config["data"]["nats.conf"]).group(1))
        grace = document["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        faults.expect(grace > lame_duck + 10, f"{name}: NATS is killed in its lame duck mode")
        faults.equal(config["data"]["nats-users.conf"].strip(), (DOCKER / "nats-users.conf").read_text().strip(), f"{name}: nats-users.conf")


def check_alerts(name, objects, faults):
    for rule in (d for d in objects if d["kind"] == "PrometheusRule"):
        faults.equal(rule["spec"], documents((DOCKER / "alerts.yaml").read_text())[0], f"{name}: alerts")


def check(name, values, objects, compose, faults):
    check_environment(name, values, objects, compose, faults)
    check_ingress(name, values, objects, faults)
    check_services(name, objects, faults)
    check_keda(name, values, objects, faults)
    check_hooks(name, values, objects, faults)
    check_storage(name, values, objects, faults)
    check_alerts(name, objects, faults)
