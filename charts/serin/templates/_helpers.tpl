{{/* Labels of an object; call with (dict "root" $ "component" "operator"). */}}
{{- define "serin.labels" -}}
{{ include "serin.selector" . }}
app.kubernetes.io/part-of: serin
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{/* The labels that select a component's pods: they never change between releases of the chart. */}}
{{- define "serin.selector" -}}
app.kubernetes.io/name: serin-{{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{/* The Prometheus that the operator asks. */}}
{{- define "serin.prometheusUrl" -}}
{{- if .Values.prometheus.url -}}
{{ .Values.prometheus.url }}
{{- else if .Values.prometheus.enabled -}}
http://serin-prometheus.{{ .Release.Namespace }}.svc:9090
{{- else -}}
{{ fail "Serin judges versions on metrics: set prometheus.url, or prometheus.enabled=true" }}
{{- end }}
{{- end }}

{{/* What the restricted Pod Security Standard asks of a pod … */}}
{{- define "serin.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* … and of a container. */}}
{{- define "serin.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Where a component's pods run: without an affinity, several are spread over the nodes where that is possible. */}}
{{- define "serin.scheduling" -}}
{{- $values := index .root.Values .component }}
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if and (gt (int $values.replicas) 1) (not $values.affinity) }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "serin.selector" . | nindent 8 }}
{{- end }}
{{- end }}

{{/* Of several pods of a component, a drained node takes one at a time. */}}
{{- define "serin.disruptionBudget" -}}
{{- if gt (int (index .root.Values .component).replicas) 1 }}
---
apiVersion: {{ ternary "policy/v1" "policy/v1beta1" (.root.Capabilities.APIVersions.Has "policy/v1") }}
kind: PodDisruptionBudget
metadata:
  name: serin-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "serin.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {{- include "serin.selector" . | nindent 6 }}
{{- end }}
{{- end }}
