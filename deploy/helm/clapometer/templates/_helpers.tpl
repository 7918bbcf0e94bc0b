{{- define "clapometer.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "clapometer.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "clapometer.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "clapometer.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "clapometer.selectorLabels" -}}
app.kubernetes.io/name: {{ include "clapometer.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "clapometer.labels" -}}
{{ include "clapometer.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: external-scaler
app.kubernetes.io/part-of: clapometer
{{- if .Values.customManagedBy }}
app.kubernetes.io/managed-by: {{ .Values.customManagedBy }}
{{- else }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}
{{- with .Values.additionalLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "clapometer.annotations" -}}
{{- with .Values.additionalAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "clapometer.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "clapometer.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "clapometer.image" -}}
{{- $registry := .Values.global.image.registry | default .Values.image.registry -}}
{{- $name := .Values.image.repository -}}
{{- if $registry -}}{{- $name = printf "%s/%s" $registry $name -}}{{- end -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $name .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "clapometer.host" -}}
{{- printf "%s.%s.svc.%s" (include "clapometer.fullname" .) .Release.Namespace .Values.clusterDomain -}}
{{- end -}}

{{- define "clapometer.address" -}}
{{- printf "%s:%d" (include "clapometer.host" .) (int .Values.service.port) -}}
{{- end -}}

{{/* Refuses what a schema cannot say well. One message per mistake, each with what to write instead. */}}
{{- define "clapometer.validate" -}}
{{- if not .Values.config.databases -}}
{{- fail "config.databases is empty: name at least one database, for example config.databases.claps.host=my-release-postgresql (see docs/configuration.md)" -}}
{{- end -}}
{{- $server := .Values.config.server | default dict -}}
{{- if hasKey $server "listen" -}}
{{- fail "config.server.listen is set by the chart: use service.port for the Service's port" -}}
{{- end -}}
{{- if hasKey $server "tls" -}}
{{- fail "config.server.tls is set by the chart: use certificates.enabled, certificates.secretName and certificates.clientNames" -}}
{{- end -}}
{{- if hasKey (.Values.config.admin | default dict) "listen" -}}
{{- fail "config.admin.listen is set by the chart: use service.metricsPort for the Service's port" -}}
{{- end -}}
{{- range $name, $database := .Values.config.databases -}}
{{- if kindIs "map" $database -}}
{{- range $key := list "password" "url" -}}
{{- if hasKey $database $key -}}
{{- $value := get $database $key -}}
{{- if not (and (kindIs "map" $value) (eq (len $value) 1) (or (hasKey $value "file") (hasKey $value "env"))) -}}
{{- fail (printf "config.databases.%s.%s is in clear text and would be in a ConfigMap: write {file: /secrets/NAME/%s} and add {name: NAME} to secrets, or {env: VARIABLE}" $name $key $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.service.headless (ne (int .Values.service.port) 9090) -}}
{{- fail "service.headless=true connects KEDA to the container's port: leave service.port at 9090" -}}
{{- end -}}
{{- if and .Values.service.headless (ne .Values.service.type "ClusterIP") -}}
{{- fail (printf "service.headless=true needs service.type=ClusterIP, not %s" .Values.service.type) -}}
{{- end -}}
{{- with .Values.podDisruptionBudget -}}
{{- $minimum := not (kindIs "invalid" .minAvailable) -}}
{{- $maximum := not (kindIs "invalid" .maxUnavailable) -}}
{{- if and .enabled $minimum $maximum -}}
{{- fail "podDisruptionBudget has both minAvailable and maxUnavailable: set podDisruptionBudget.maxUnavailable=null to use minAvailable" -}}
{{- end -}}
{{- if and .enabled (not $minimum) (not $maximum) -}}
{{- fail "podDisruptionBudget has neither minAvailable nor maxUnavailable: set one, or podDisruptionBudget.enabled=false" -}}
{{- end -}}
{{- end -}}
{{/* 20 s for clapometer's own drain, and two for the kubelet to notice that it has ended. */}}
{{- $least := add .Values.preStopSleepSeconds 22 -}}
{{- if lt (int .Values.terminationGracePeriodSeconds) (int $least) -}}
{{- fail (printf "terminationGracePeriodSeconds=%d cuts a drain short: preStopSleepSeconds=%d and clapometer's own 20 s need at least %d" (int .Values.terminationGracePeriodSeconds) (int .Values.preStopSleepSeconds) (int $least)) -}}
{{- end -}}
{{- with .Values.certificates -}}
{{- if and .certManager.enabled (not .enabled) -}}
{{- fail "certificates.certManager.enabled=true has no effect without certificates.enabled=true" -}}
{{- end -}}
{{- if and .certManager.enabled (not .certManager.issuer.generate) (not .certManager.issuer.name) -}}
{{- fail "certificates.certManager.issuer.generate=false needs certificates.certManager.issuer.name" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
The ports of the databases: networkPolicy.databasePorts, and each port and listen_port that config.databases has as a literal.
`port` may be several, one for each host. One that is read from a file or a variable is not known here.
*/}}
{{- define "clapometer.databasePorts" -}}
{{- $ports := list -}}
{{- range .Values.networkPolicy.databasePorts -}}
{{- $ports = append $ports (int .) -}}
{{- end -}}
{{- range $database := .Values.config.databases -}}
{{- range $key := list "port" "listen_port" -}}
{{- $value := get $database $key -}}
{{- if not (kindIs "map" $value) -}}
{{- range regexFindAll "[0-9]+" (toString $value) -1 -}}
{{- $ports = append $ports (int .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end -}}

{{/* The configuration file: the user's, plus what the chart decides. */}}
{{- define "clapometer.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $server := dict "listen" "0.0.0.0:9090" -}}
{{- if .Values.certificates.enabled -}}
{{- $clientCA := printf "%s/ca.crt" .Values.certificates.mountPath -}}
{{- if .Values.certificates.clientCA.secretName -}}
{{- $clientCA = printf "%s-client-ca/%s" .Values.certificates.mountPath .Values.certificates.clientCA.key -}}
{{- else -}}
{{- $clientCA = printf "%s/%s" .Values.certificates.mountPath .Values.certificates.clientCA.key -}}
{{- end -}}
{{- $tls := dict "cert" (printf "%s/tls.crt" .Values.certificates.mountPath) "key" (printf "%s/tls.key" .Values.certificates.mountPath) "client_ca" $clientCA "client_names" .Values.certificates.clientNames -}}
{{- $_ := set $server "tls" $tls -}}
{{- end -}}
{{- $_ := set $config "server" (merge $server ($config.server | default dict)) -}}
{{- $_ := set $config "admin" (merge (dict "listen" "0.0.0.0:9091") ($config.admin | default dict)) -}}
{{- if not $config.queries -}}{{- $_ := unset $config "queries" -}}{{- end -}}
{{- toYaml $config -}}
{{- end -}}
