{{/* Names of objects begin with this. */}}
{{- define "rideshare.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* By which the pods of a component are found: (list . "users"). */}}
{{- define "rideshare.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: rideshare
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "rideshare.labels" -}}
{{- $root := index . 0 -}}
{{ include "rideshare.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{- define "rideshare.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* The services: their database role, and whether they read JWT_SECRET, deliver codes, are reached by clients, and read the
markets. */}}
{{- define "rideshare.services" -}}
users: { role: rideshare_users, variable: USERS, signs: true, codes: true, webhooks: true, roads: false, clients: true, markets: true, operators: true }
match: { role: rideshare_matching, variable: MATCH, signs: false, codes: false, webhooks: false, roads: true, clients: false, markets: true, operators: false }
rides: { role: rideshare_rides, variable: RIDES, signs: true, codes: false, webhooks: true, roads: true, clients: true, markets: true, operators: false }
location: { role: rideshare_location, variable: LOCATION, signs: true, codes: false, webhooks: false, roads: false, clients: true, markets: false, operators: false }
{{- end }}

{{- define "rideshare.hasDatabase" -}}
{{- if or .Values.postgres.trial.enabled .Values.postgres.external.host }}yes{{ end }}
{{- end }}

{{- define "rideshare.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "rideshare.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{- define "rideshare.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* A variable from the Secret: (list . NAME) or (list . NAME KEY). */}}
{{- define "rideshare.secret" -}}
- name: {{ index . 1 }}
  valueFrom: { secretKeyRef: { name: {{ (index . 0).Values.secretName }}, key: {{ last . }} } }
{{- end }}

{{/* Secrets that are only there while a secret changes, or never: (list . KEY…). */}}
{{- define "rideshare.optionalSecrets" -}}
{{- $root := first . -}}
{{- range rest . }}
- name: {{ . }}
  valueFrom: { secretKeyRef: { name: {{ $root.Values.secretName }}, key: {{ . }}, optional: true } }
{{- end }}
{{- end }}

{{/* DATABASE_URL of a role: (list . ROLE KEY). The kubelet puts the password into it. */}}
{{- define "rideshare.databaseUrl" -}}
{{- $root := index . 0 -}}
{{- $external := $root.Values.postgres.external -}}
{{ include "rideshare.secret" (list $root (index . 2)) }}
- name: DATABASE_URL
  {{- if $root.Values.postgres.trial.enabled }}
  value: postgres://{{ index . 1 }}:$({{ index . 2 }})@{{ include "rideshare.fullname" $root }}-postgres:5432/rideshare
  {{- else }}
  value: postgres://{{ index . 1 }}:$({{ index . 2 }})@{{ $external.host }}:{{ $external.port }}/{{ $external.database }}{{ $external.parameters }}
  {{- end }}
{{- end }}

{{- define "rideshare.natsUrl" -}}
{{- if .Values.nats.enabled -}}
{{ ternary "tls" "nats" (not (empty .Values.nats.tls.secretName)) }}://{{ include "rideshare.fullname" . }}-nats:4222
{{- else -}}
{{ .Values.nats.external.url }}
{{- end }}
{{- end }}

{{- define "rideshare.natsReplicas" -}}
{{- if .Values.nats.enabled }}{{ .Values.nats.replicas }}{{ else }}{{ .Values.nats.external.replicas }}{{ end }}
{{- end }}

{{/* NATS as one of its users: (list . USER). admin has the default inboxes. */}}
{{- define "rideshare.natsEnv" -}}
{{- $root := index . 0 -}}
{{- $user := index . 1 -}}
- name: QUEUE_TYPE
  value: nats
- name: NATS_URL
  value: {{ include "rideshare.natsUrl" $root }}
{{- if $root.Values.nats.tls.secretName }}
- name: NATS_CA
  value: /etc/rideshare/nats-ca.pem
{{- end }}
- name: NATS_USER
  value: {{ $user }}
{{ include "rideshare.secret" (list $root "NATS_PASSWORD" (printf "NATS_%s_PASSWORD" (upper $user))) }}
{{- if ne $user "admin" }}
- name: NATS_INBOX_PREFIX
  value: _INBOX_{{ $user }}
{{- end }}
- name: NATS_REPLICAS
  value: {{ include "rideshare.natsReplicas" $root | quote }}
{{- end }}

{{/* What every process has. */}}
{{- define "rideshare.commonEnv" -}}
- name: HTTP_ADDR
  value: 0.0.0.0:8080
- name: TRUSTED_PROXIES
  value: {{ .Values.trustedProxies | quote }}
{{ include "rideshare.settings" . }}
{{- end }}

{{- define "rideshare.settings" -}}
{{- range $name, $value := .Values.settings }}
- name: {{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end }}

{{- define "rideshare.otpEnv" -}}
{{- if .Values.otpDelivery }}
- name: OTP_DELIVERY
  value: {{ .Values.otpDelivery | quote }}
{{- else }}
{{ include "rideshare.secret" (list . "OTP_DELIVERY") }}
{{- end }}
{{- end }}

{{/* What a container mounts: (list . CA MARKETS OPERATORS). CA is the authority of NATS' certificate; its key stays with NATS. A ConfigMap is mounted
as a folder, because a single file of it is never updated. */}}
{{- define "rideshare.mounts" -}}
{{- $ca := and (index . 1) (index . 0).Values.nats.tls.secretName -}}
{{- $markets := and (index . 2) (index . 0).Values.markets -}}
{{- $operators := and (index . 3) (index . 0).Values.operators.secretName -}}
{{- if or $ca $markets $operators }}
volumeMounts:
  {{- if $ca }}
  - { name: nats-ca, mountPath: /etc/rideshare, readOnly: true }
  {{- end }}
  {{- if $markets }}
  - { name: markets, mountPath: /etc/rideshare-markets, readOnly: true }
  {{- end }}
  {{- if $operators }}
  - { name: operators, mountPath: /etc/rideshare-operators, readOnly: true }
  {{- end }}
{{- end }}
{{- end }}

{{/* The volumes of rideshare.mounts, with the same arguments. */}}
{{- define "rideshare.volumes" -}}
{{- $ca := and (index . 1) (index . 0).Values.nats.tls.secretName -}}
{{- $markets := and (index . 2) (index . 0).Values.markets -}}
{{- $operators := and (index . 3) (index . 0).Values.operators.secretName -}}
{{- if or $ca $markets $operators }}
volumes:
  {{- if $ca }}
  - name: nats-ca
    secret: { secretName: {{ $ca }}, items: [{ key: ca.crt, path: nats-ca.pem }] }
  {{- end }}
  {{- if $markets }}
  - name: markets
    configMap: { name: {{ include "rideshare.fullname" (index . 0) }}-markets }
  {{- end }}
  {{- if $operators }}
  - name: operators
    secret: { secretName: {{ $operators }}, items: [{ key: operators, path: operators }] }
  {{- end }}
{{- end }}
{{- end }}

{{- define "rideshare.marketsEnv" -}}
{{- if .Values.markets }}
- name: MARKETS_FILE
  value: /etc/rideshare-markets/markets.geojson
{{- end }}
{{- end }}

{{- define "rideshare.operatorsEnv" -}}
{{- if .Values.operators.secretName }}
- name: ADMIN_TOKENS_FILE
  value: /etc/rideshare-operators/operators
{{- end }}
{{- end }}

{{/* A process reads its markets when it starts: others roll its pods. */}}
{{- define "rideshare.marketsAnnotation" -}}
{{- with .Values.markets }}
annotations:
  checksum/markets: {{ sha256sum . }}
{{- end }}
{{- end }}

{{- define "rideshare.spread" -}}
{{- $root := index . 0 -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: {{ (index . 2).topologyKey }}
    whenUnsatisfiable: {{ (index . 2).whenUnsatisfiable }}
    labelSelector: { matchLabels: { {{ include "rideshare.selector" (list $root (index . 1)) | splitList "\n" | join ", " }} } }
{{- end }}

{{/* Probes, preStop, port and security of a process that serves HTTP. */}}
{{- define "rideshare.serving" -}}
{{- if le (int .Values.terminationGracePeriodSeconds) (add 30 (int .Values.preStopSeconds) | int) }}
{{- fail "terminationGracePeriodSeconds must be more than preStopSeconds and the 30 s of a drain" }}
{{- end -}}
ports:
  - { name: http, containerPort: 8080 }
# Starting waits for NATS and PostgreSQL, up to two minutes.
startupProbe: { httpGet: { path: /health/live, port: http }, periodSeconds: 2, failureThreshold: 75 }
livenessProbe: { httpGet: { path: /health/live, port: http }, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 6 }
readinessProbe: { httpGet: { path: /health/ready, port: http }, periodSeconds: 5, timeoutSeconds: 4, failureThreshold: 2 }
lifecycle: { preStop: { exec: { command: [sleep, {{ .Values.preStopSeconds | quote }}] } } }
securityContext:
  {{- include "rideshare.containerSecurity" . | nindent 2 }}
{{- end }}

{{- define "rideshare.toNats" }}
{{- if .Values.nats.enabled }}
- to: [{ podSelector: { matchLabels: { {{ include "rideshare.selector" (list . "nats") | splitList "\n" | join ", " }} } } }]
  ports: [{ protocol: TCP, port: 4222 }]
{{- else if .Values.nats.external.cidrs }}
- to:
    {{- range .Values.nats.external.cidrs }}
    - ipBlock: { cidr: {{ . }} }
    {{- end }}
  ports: [{ protocol: TCP, port: {{ last (splitList ":" .Values.nats.external.url) | int }} }]
{{- end }}
{{- end }}

{{- define "rideshare.toPostgres" }}
{{- if .Values.postgres.trial.enabled }}
- to: [{ podSelector: { matchLabels: { {{ include "rideshare.selector" (list . "postgres") | splitList "\n" | join ", " }} } } }]
  ports: [{ protocol: TCP, port: 5432 }]
{{- else if .Values.postgres.external.cidrs }}
- to:
    {{- range .Values.postgres.external.cidrs }}
    - ipBlock: { cidr: {{ . }} }
    {{- end }}
  ports: [{ protocol: TCP, port: {{ .Values.postgres.external.port }} }]
{{- end }}
{{- end }}

{{- define "rideshare.policy" }}
{{- $root := index . 0 }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "rideshare.fullname" $root }}-{{ index . 1 }}
  labels:
    {{- include "rideshare.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "rideshare.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
{{- end }}

{{- define "rideshare.natsConf" }}
{{- $name := printf "%s-nats" (include "rideshare.fullname" .) }}
{{- $replicas := .Values.nats.replicas | int }}
{{- $store := .Values.nats.jetstream -}}
# The pod's name, by which KEDA finds a consumer's leader.
server_name: $POD_NAME
listen: "0.0.0.0:4222"
# For probes, KEDA and the exporter; a NetworkPolicy keeps others out.
http: "0.0.0.0:8222"
pid_file: "/var/run/nats/nats.pid"
lame_duck_grace_period: "10s"
lame_duck_duration: "30s"

jetstream {
  store_dir: "/data"
  max_file_store: {{ $store.fileStore.maxSize }}
  max_memory_store: {{ $store.memoryStore.maxSize }}
  sync_interval: "100ms"
}
{{- if gt $replicas 1 }}

cluster {
  name: {{ $name | quote }}
  listen: "0.0.0.0:6222"
  # Clients and KEDA reach the servers by name, never by the addresses of pods, for which there is no certificate.
  no_advertise: true
  routes: [
    {{- range $n := until $replicas }}
    "{{ ternary "tls" "nats" (not (empty $.Values.nats.tls.secretName)) }}://{{ $name }}-{{ $n }}.{{ $name }}-headless:6222"
    {{- end }}
  ]
  {{- if .Values.nats.tls.secretName }}
  tls {
    cert_file: "/etc/nats-certs/tls.crt"
    key_file: "/etc/nats-certs/tls.key"
    ca_file: "/etc/nats-certs/ca.crt"
    verify: true
    timeout: 5
  }
  {{- end }}
}
{{- end }}
{{- if .Values.nats.tls.secretName }}

tls {
  cert_file: "/etc/nats-certs/tls.crt"
  key_file: "/etc/nats-certs/tls.key"
  min_version: "1.2"
  timeout: 5
}
{{- end }}

include "nats-users.conf"
{{- end }}
