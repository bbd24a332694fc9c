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

{{/* Where a component's pods run; call with the component's values. */}}
{{- define "serin.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
