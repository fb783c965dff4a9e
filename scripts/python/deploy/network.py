"""Who reaches whom: the NetworkPolicies of the chart against the networks and needs of compose.yaml."""

from . import RELEASE, SERVICES
from .pods import component, pods

# Ports of the chart's pods.
PORTS = (4222, 5432, 6222, 7777, 8080, 8222)


def matches(selector, labels):
    if not selector:
        return True
    if not set(selector) <= {"matchLabels", "matchExpressions"}:
        raise ValueError(f"a selector with {selector}")
    for expression in selector.get("matchExpressions", []):
        if expression["operator"] != "In":
            raise ValueError(f"an expression with {expression}")
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def allows(policies, direction, labels, peer_labels, port):
    """Whether the policies of a pod allow TCP traffic with another pod of its namespace; all do if none selects it."""
    own = [p for p in policies if matches(p["spec"]["podSelector"], labels) and direction in p["spec"]["policyTypes"]]
    if not own:
        return True
    key = "from" if direction == "Ingress" else "to"
    for rule in (rule for policy in own for rule in policy["spec"].get(direction.lower()) or []):
        ports = [p["port"] for p in rule.get("ports", []) if p["protocol"] == "TCP"]
        peers = rule.get(key) or [{"podSelector": {}}]
        if (port in ports or not rule.get("ports")) and any(
            "podSelector" in peer and "namespaceSelector" not in peer and matches(peer["podSelector"], peer_labels) for peer in peers
        ):
            return True
    return False


def edges(objects):
    """(from, to, port) between components."""
    policies = [d for d in objects if d["kind"] == "NetworkPolicy"]
    labels = {component(t): t["metadata"]["labels"] for _, t in pods(objects)}
    return {
        (source, target, port)
        for source in labels
        for target in labels
        for port in PORTS
        if allows(policies, "Egress", labels[source], labels[target], port)
        and allows(policies, "Ingress", labels[target], labels[source], port)
    }


def outside(objects, direction):
    """(component, port, peer) for peers outside the release, without DNS."""
    key = "from" if direction == "Ingress" else "to"
    found = set()
    for policy in (d for d in objects if d["kind"] == "NetworkPolicy"):
        own = policy["spec"]["podSelector"]["matchLabels"].get("app.kubernetes.io/component", "all pods")
        for rule in policy["spec"].get(direction.lower()) or []:
            for peer in rule[key]:
                namespace = peer.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name")
                outer = namespace or peer.get("ipBlock", {}).get("cidr")
                for port in rule["ports"]:
                    if outer and port["port"] != 53:
                        found.add((own, port["port"], outer))
    return found


def needed(compose, values):
    """What compose.yaml's containers need of each other, in the names of the chart."""
    if values["queue"] == "memory":
        has_database = values["postgres"]["trial"]["enabled"]
        return {(own, "postgres", 5432) for own in ("all", "migrate")} if has_database else set()
    made = set()
    for name, service in compose["services"].items():
        environment = service.get("environment", {})
        if "NATS_URL" in environment and values["nats"]["enabled"] and (name != "topology" or values["topology"]["apply"]):
            made.add((name, "nats", 4222))
        if "DATABASE_URL" in environment and values["postgres"]["trial"]["enabled"]:
            made.add((name, "postgres", 5432))
    if values["nats"]["enabled"]:
        # What only the chart has: a cluster, and the Job before KEDA.
        made.add(("nats", "nats", 6222))
        if values["keda"]["enabled"]:
            made.add(("consumers", "nats", 4222))
    return made


def check(name, values, objects, compose, faults):
    faults.equal(edges(objects), needed(compose, values), f"{name}: who reaches whom")
    policies = [d for d in objects if d["kind"] == "NetworkPolicy"]
    for document, template in pods(objects):
        own = [p for p in policies if matches(p["spec"]["podSelector"], template["metadata"]["labels"])]
        for direction in ("Ingress", "Egress"):
            is_closed = any(direction in p["spec"]["policyTypes"] for p in own)
            faults.expect(is_closed, f"{name}: {document['metadata']['name']}: {direction} is open")
    whole = {"app.kubernetes.io/name": "rideshare", "app.kubernetes.io/instance": RELEASE}
    defaults = [p["spec"] for p in policies if p["spec"]["podSelector"] == {"matchLabels": whole}]
    is_closed = len(defaults) == 1 and set(defaults[0]["policyTypes"]) == {"Ingress", "Egress"} and "ingress" not in defaults[0]
    faults.expect(is_closed, f"{name}: no policy closes what the others do not open")
    for policy in policies:
        for rule in (policy["spec"].get("ingress") or []) + (policy["spec"].get("egress") or []):
            peers = rule.get("from") or rule.get("to")
            faults.expect(peers and rule.get("ports"), f"{name}: {policy['metadata']['name']}: a rule for everybody or every port")
            for peer in peers or []:
                is_open = peer in ({}, {"podSelector": {}}, {"namespaceSelector": {}})
                faults.expect(not is_open, f"{name}: {policy['metadata']['name']}: a peer is everybody")
    faced = [s for s in compose["services"]["ingress"]["depends_on"]] if values["queue"] == "nats" else ["all"]
    running = list(SERVICES) if values["queue"] == "nats" else ["all"]
    has_nats = values["queue"] == "nats" and values["nats"]["enabled"]
    expected = {(s, 8080, "ingress-nginx") for s in faced if values["ingress"]["enabled"]}
    if values["monitoring"]["enabled"]:
        expected |= {(s, 8080, "monitoring") for s in running} | ({("nats", 7777, "monitoring")} if has_nats else set())
    if values["keda"]["enabled"] and has_nats:
        expected.add(("nats", 8222, "keda"))
    faults.equal(outside(objects, "Ingress"), expected, f"{name}: who is reached from outside")
    expected = set()
    if not values["postgres"]["trial"]["enabled"] and values["postgres"]["external"]["host"]:
        cidrs = values["postgres"]["external"]["cidrs"]
        expected |= {(s, values["postgres"]["external"]["port"], cidr) for s in (*running, "migrate") for cidr in cidrs}
    if values["queue"] == "nats" and not has_nats:
        jobs = [j for j, exists in (("topology", values["topology"]["apply"]), ("consumers", values["keda"]["enabled"])) if exists]
        expected |= {(s, 4222, cidr) for s in (*running, *jobs) for cidr in values["nats"]["external"]["cidrs"]}
    of = lambda *services: services if values["queue"] == "nats" else ("all",)
    policy = values["networkPolicy"]
    expected |= {(s, 443, cidr) for s in of("users", "rides") for cidr in policy["webhookCidrs"]}
    expected |= {(s, policy["routingPort"], cidr) for s in of("match", "rides") for cidr in policy["routingCidrs"]}
    expected |= {(s, port, cidr) for s in running for port in (4317, 4318) for cidr in policy["collectorCidrs"]}
    faults.equal(outside(objects, "Egress"), expected, f"{name}: what is reached outside")


def check_compose(compose, faults):
    """The networks of compose.yaml: whoever needs another shares one with it, and nobody else does."""
    networks = {name: set(s.get("networks", [])) for name, s in compose["services"].items()}
    shares = lambda a, b: bool(networks[a] & networks[b])
    for service, environment in ((n, s.get("environment", {})) for n, s in compose["services"].items()):
        for variable, server in (("NATS_URL", "nats"), ("DATABASE_URL", "postgres")):
            faults.expect(variable not in environment or shares(service, server), f"compose.yaml: {service} does not reach {server}")
    for service in compose["services"]["ingress"]["depends_on"]:
        faults.expect(shares("ingress", service), f"compose.yaml: the ingress does not reach {service}")
    for hidden in ("nats", "postgres", "match"):
        faults.expect(not shares("ingress", hidden), f"compose.yaml: the ingress reaches {hidden}")
    faults.expect(compose["networks"]["inside"].get("internal") is True, "compose.yaml: the network `inside` has a way out")
    published = {name for name, service in compose["services"].items() if service.get("ports")}
    faults.equal(published, {"ingress", "prometheus", "grafana"}, "compose.yaml: published ports")
