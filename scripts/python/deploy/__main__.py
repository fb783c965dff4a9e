"""python -m deploy: see scripts/check-deploy."""

import sys

from . import Faults, chart, cluster, compose, markets, nack, network, pods, wiring


def main():
    faults = Faults()
    compose.check(faults)
    compose_file = compose.read("compose.yaml")
    network.check_compose(compose_file, faults)
    markets.check_compose({name: compose.read(name) for name in compose.FILES}, faults)
    nack.check(faults)
    rendered = chart.check(faults)
    for name, (values, objects) in rendered.items():
        try:
            pods.check(name, values, objects, faults)
            network.check(name, values, objects, compose_file, faults)
            wiring.check(name, values, objects, compose_file, faults)
            markets.check(name, values, objects, faults)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # An object without a field that the rules read.
            faults.expect(False, f"{name}: {type(error).__name__}: {error}")
    unchecked = markets.check_example(faults)
    # A chart that is wrong is not started.
    unchecked += ["the chart's NATS: faults before"] if faults.found else cluster.check(*rendered["production"], faults)
    for fault in faults.found:
        print(f"check-deploy: {fault}", file=sys.stderr)
    for what in unchecked:
        print(f"check-deploy: NOT CHECKED: {what}")
    objects = sum(len(objects) for _, objects in rendered.values())
    print(f"check-deploy: {len(rendered)} shapes with {objects} objects, {faults.checked} expectations, {len(faults.found)} faults")
    return 1 if faults.found else 0


sys.exit(main())
