{{- define "cortex.name" -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "cortex.labels" -}}
app.kubernetes.io/name: cortex
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "cortex.selector" -}}
app.kubernetes.io/name: cortex
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "cortex.secret" -}}
{{ .Values.secrets.existing | default (include "cortex.name" .) }}
{{- end }}

{{- define "cortex.image" -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end }}
