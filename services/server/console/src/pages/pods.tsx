/** The processes, as they say of themselves. */

import { bytes, count, duration } from "../pure/format";
import { useFeed, useTitle } from "../ui/hooks";
import { Badge, Card, Empty, Loading, Status } from "../ui/parts";
import type { Pod } from "../api/types";

export function PodsPage() {
  useTitle("Pods");
  const { pods } = useFeed();
  return (
    <div class="stack">
      <div class="head">
        <h1>Pods</h1>
        {pods && <Badge>{pods.length === 1 ? "1 process" : `${pods.length} processes`}</Badge>}
      </div>
      {pods === null ? (
        <Card>
          <Loading />
        </Card>
      ) : pods.length === 0 ? (
        <Card>
          <Empty title="No heartbeat yet">Each process says every 5 s that it is there.</Empty>
        </Card>
      ) : (
        <div class="pods">
          {pods.map((pod) => (
            <PodCard key={pod.pod_id} pod={pod} />
          ))}
        </div>
      )}
    </div>
  );
}

function PodCard({ pod }: { pod: Pod }) {
  const wrong = pod.parts?.filter(({ status }) => status !== "ready") ?? [];
  const well = pod.parts?.filter(({ status }) => status === "ready") ?? [];
  return (
    <Card title={pod.pod_id} aside={pod.status === null ? <Badge tone="bad">does not answer</Badge> : <Status of={pod.status} />}>
      <div class="stack" style={{ gap: "12px" }}>
        <div class="row">
          {pod.services.map((service) => (
            <Badge key={service}>{service}</Badge>
          ))}
        </div>
        {wrong.map((part) => (
          <div key={part.name} class={`notice ${part.status === "not ready" ? "bad" : ""}`}>
            <span>
              <strong>{part.name}</strong>: {part.detail ?? part.status}
            </span>
          </div>
        ))}
        <dl class="facts">
          <dt>Up for</dt>
          <dd>{duration(pod.uptime_s)}</dd>
          <dt>Heartbeat</dt>
          <dd>{duration(Math.max(0, pod.last_seen_s))} ago</dd>
          <dt>Sockets</dt>
          <dd>{count(pod.sockets)}</dd>
          <dt>Memory</dt>
          <dd>{pod.memory_bytes === null ? "not known" : bytes(pod.memory_bytes)}</dd>
          <dt>Processor</dt>
          <dd>{pod.cpu_percent === null ? "not known" : `${pod.cpu_percent.toFixed(pod.cpu_percent < 10 ? 1 : 0)} % of a core`}</dd>
          <dt>Subscriptions</dt>
          <dd>{count(pod.subscriptions)}</dd>
        </dl>
        {well.length > 0 && (
          <details>
            <summary>{well.length} parts are ready</summary>
            <div class="row" style={{ marginTop: "8px" }}>
              {well.map((part) => (
                <Badge key={part.name} tone="good" title={part.detail ?? undefined}>
                  {part.name}
                </Badge>
              ))}
            </div>
          </details>
        )}
      </div>
    </Card>
  );
}
