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

{{- define "clapometer.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
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

{{/* The labels of a pod that only checks: the Service, the NetworkPolicy and the PodDisruptionBudget must not select it. */}}
{{- define "clapometer.checkLabels" -}}
{{ include "clapometer.labels" . | replace (printf "app.kubernetes.io/name: %s\n" (include "clapometer.name" .)) (printf "app.kubernetes.io/name: %s-check\n" (include "clapometer.name" . | trunc 57 | trimSuffix "-")) | replace "component: external-scaler" "component: check" }}
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
{{- printf "%s.%s.svc.%s" (include "clapometer.fullname" .) (include "clapometer.namespace" .) .Values.clusterDomain -}}
{{- end -}}

{{- define "clapometer.address" -}}
{{- printf "%s:%d" (include "clapometer.host" .) (int .Values.service.port) -}}
{{- end -}}

{{/* Refuses what a schema cannot say well. One message per mistake, each with what to write instead. */}}
{{- define "clapometer.validate" -}}
{{- $existing := include "clapometer.existingConfig" . -}}
{{- if and .Values.config.existingConfigMap .Values.config.existingSecret -}}
{{- fail "config has both existingConfigMap and existingSecret: the configuration can come from one of them only" -}}
{{- end -}}
{{- if $existing -}}
{{- range $key, $value := omit .Values.config "existingConfigMap" "existingSecret" -}}
{{- if $value -}}
{{- fail (printf "config.%s has no effect beside config.%s: write it into that configuration" $key (ternary "existingSecret" "existingConfigMap" (not (empty $.Values.config.existingSecret)))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (not $existing) (not .Values.config.databases) -}}
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
{{- range $key, $value := $database -}}
{{- $path := "" -}}
{{- if kindIs "map" $value -}}
{{- $path = get $value "file" -}}
{{- else if and (has $key (list "passfile" "sslcert" "sslkey" "sslrootcert")) (ne (toString $value) "system") -}}
{{- $path = toString $value -}}
{{- end -}}
{{- if and $path (not (hasPrefix "/" $path)) -}}
{{- fail (printf "config.databases.%s.%s names a file by a relative path, which no pod has: write /secrets/NAME/KEY and add {name: NAME} to secrets" $name $key) -}}
{{- end -}}
{{- if and (hasPrefix "/secrets/" $path) (not (include "clapometer.isMounted" (list $ $path))) -}}
{{- fail (printf "config.databases.%s.%s names the file %s, and nothing is mounted there: add {name: %s} to secrets" $name $key $path (index (splitList "/" $path) 2)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.queriesFrom.configMaps (hasKey (.Values.config.queries_from | default dict) "path") -}}
{{- fail "config.queries_from.path is set by the chart, because queriesFrom.configMaps is not empty: leave it out" -}}
{{- end -}}
{{- if and .Values.config.queries_from (not .Values.queriesFrom.configMaps) (not (hasKey .Values.config.queries_from "path")) -}}
{{- fail "config.queries_from has no path: name the ConfigMaps under queriesFrom.configMaps, or set path to a directory under volumes.extraVolumeMounts" -}}
{{- end -}}
{{- range $key := list "serviceAccountName" "automountServiceAccountToken" "enableServiceLinks" "terminationGracePeriodSeconds" "imagePullSecrets" "priorityClassName" "securityContext" "initContainers" "containers" "volumes" "nodeSelector" "affinity" "tolerations" "topologySpreadConstraints" -}}
{{- if hasKey $.Values.extraPodSpec $key -}}
{{- fail (printf "extraPodSpec.%s is set by a value of its own" $key) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.prometheus.serviceMonitor.enabled .Values.prometheus.podMonitor.enabled -}}
{{- fail "prometheus.serviceMonitor and prometheus.podMonitor are both enabled: every pod would be scraped twice" -}}
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

{{/* Says "true" if a file is in a directory of `secrets` or of volumes.extraVolumeMounts. */}}
{{- define "clapometer.isMounted" -}}
{{- $path := index . 1 -}}
{{- $directories := list -}}
{{- with index . 0 -}}
{{- range .Values.secrets -}}{{- $directories = append $directories (printf "/secrets/%s" .name) -}}{{- end -}}
{{- range .Values.volumes.extraVolumeMounts -}}{{- $directories = append $directories .mountPath -}}{{- end -}}
{{- end -}}
{{- range $directory := $directories -}}
{{- if hasPrefix (printf "%s/" (trimSuffix "/" $directory)) (printf "%s/" $path) -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{/* A query that the configuration has: the first of its own, else a built-in one. What is not known here is NAME. */}}
{{- define "clapometer.exampleQuery" -}}
{{- $built := "outstanding-claps" -}}
{{- if or (include "clapometer.existingConfig" .) (eq (toString .Values.config.built_in_queries) "false") -}}
{{- $built = "NAME" -}}
{{- end -}}
{{- keys (.Values.config.queries | default dict) | sortAlpha | first | default $built -}}
{{- end -}}

{{/* The name of the ConfigMap or Secret that holds the configuration in place of the chart's own. */}}
{{- define "clapometer.existingConfig" -}}
{{- .Values.config.existingConfigMap | default .Values.config.existingSecret -}}
{{- end -}}

{{/* Where KEDA's authority is mounted. */}}
{{- define "clapometer.clientCA" -}}
{{- with .Values.certificates -}}
{{- if .clientCA.secretName -}}
{{- printf "%s-client-ca/%s" .mountPath .clientCA.key -}}
{{- else -}}
{{- printf "%s/%s" .mountPath .clientCA.key -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A pod's security context; on OpenShift without the ids, which its constraints assign. */}}
{{- define "clapometer.podSecurityContext" -}}
{{- $adapt := .Values.global.compatibility.openshift.adaptSecurityContext -}}
{{- if or (eq $adapt "force") (and (eq $adapt "auto") (.Capabilities.APIVersions.Has "security.openshift.io/v1")) -}}
{{- omit .Values.podSecurityContext "runAsUser" "runAsGroup" "fsGroup" | toYaml -}}
{{- else -}}
{{- toYaml .Values.podSecurityContext -}}
{{- end -}}
{{- end -}}

{{/* The variables of clapometer's container. */}}
{{- define "clapometer.env" -}}
{{- $env := list -}}
{{- with .Values.log.level -}}{{- $env = append $env (dict "name" "RUST_LOG" "value" .) -}}{{- end -}}
{{- with .Values.log.format -}}{{- $env = append $env (dict "name" "CLAPOMETER_LOG_FORMAT" "value" .) -}}{{- end -}}
{{- if include "clapometer.existingConfig" . -}}
{{- /* The Service and the probes need these ports, whatever the configuration says. */ -}}
{{- $env = append $env (dict "name" "CLAPOMETER__SERVER__LISTEN" "value" "0.0.0.0:9090") -}}
{{- $env = append $env (dict "name" "CLAPOMETER__ADMIN__LISTEN" "value" "0.0.0.0:9091") -}}
{{- if .Values.certificates.enabled -}}
{{- $env = append $env (dict "name" "CLAPOMETER__SERVER__TLS__CERT" "value" (printf "%s/tls.crt" .Values.certificates.mountPath)) -}}
{{- $env = append $env (dict "name" "CLAPOMETER__SERVER__TLS__KEY" "value" (printf "%s/tls.key" .Values.certificates.mountPath)) -}}
{{- $env = append $env (dict "name" "CLAPOMETER__SERVER__TLS__CLIENT_CA" "value" (include "clapometer.clientCA" .)) -}}
{{- end -}}
{{- end -}}
{{- with concat $env .Values.env -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{/* What clapometer's container mounts. Directories, not single files: a file mounted by subPath never sees an update. */}}
{{- define "clapometer.volumeMounts" -}}
- name: config
  mountPath: /etc/clapometer
  readOnly: true
{{- if .Values.queriesFrom.configMaps }}
- name: queries
  mountPath: /queries.d
  readOnly: true
{{- end }}
{{- range .Values.secrets }}
- name: secret-{{ .name }}
  mountPath: /secrets/{{ .name }}
  readOnly: true
{{- end }}
{{- if .Values.certificates.enabled }}
- name: certificates
  mountPath: {{ .Values.certificates.mountPath }}
  readOnly: true
{{- if .Values.certificates.clientCA.secretName }}
- name: client-ca
  mountPath: {{ .Values.certificates.mountPath }}-client-ca
  readOnly: true
{{- end }}
{{- end }}
{{- with .Values.volumes.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The volumes of those mounts, without the one of the configuration. */}}
{{- define "clapometer.volumes" -}}
{{- with .Values.queriesFrom.configMaps }}
- name: queries
  projected:
    sources:
      {{- range . }}
      - configMap:
          name: {{ .name }}
          optional: true
          items:
            - key: {{ .file }}
              path: {{ .file }}
      {{- end }}
{{- end }}
{{- range .Values.secrets }}
- name: secret-{{ .name }}
  secret:
    secretName: {{ .name }}
    defaultMode: 0440
{{- end }}
{{- if .Values.certificates.enabled }}
- name: certificates
  secret:
    secretName: {{ .Values.certificates.secretName }}
    defaultMode: 0440
{{- with .Values.certificates.clientCA }}
{{- if .secretName }}
- name: client-ca
  secret:
    secretName: {{ .secretName }}
    defaultMode: 0440
    items:
      - key: {{ .key }}
        path: {{ .key }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.volumes.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The volume of the configuration; the context is a list of the chart's context and the chart's own ConfigMap. */}}
{{- define "clapometer.configVolume" -}}
{{- $ := index . 0 -}}
- name: config
  {{- if $.Values.config.existingSecret }}
  secret:
    secretName: {{ $.Values.config.existingSecret }}
    defaultMode: 0440
  {{- else }}
  configMap:
    name: {{ $.Values.config.existingConfigMap | default (index . 1) }}
  {{- end }}
{{- end -}}

{{/* The specification of a pod that runs `check`; the context is a list of the chart's context, the chart's ConfigMap and the arguments. */}}
{{- define "clapometer.checkPod" -}}
{{- $ := index . 0 -}}
restartPolicy: Never
automountServiceAccountToken: false
enableServiceLinks: false
{{- with $.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "clapometer.podSecurityContext" $ | nindent 2 }}
containers:
  - name: check
    image: {{ include "clapometer.image" $ | quote }}
    imagePullPolicy: {{ $.Values.image.pullPolicy }}
    args:
      {{- toYaml (index . 2) | nindent 6 }}
    {{- with include "clapometer.env" $ }}
    env:
      {{- . | nindent 6 }}
    {{- end }}
    {{- with $.Values.envFrom }}
    envFrom:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    resources:
      {{- toYaml $.Values.resources | nindent 6 }}
    securityContext:
      {{- toYaml $.Values.securityContext | nindent 6 }}
    volumeMounts:
      {{- include "clapometer.volumeMounts" $ | nindent 6 }}
volumes:
  {{- include "clapometer.configVolume" (list $ (index . 1)) | nindent 2 }}
  {{- with include "clapometer.volumes" $ | trim }}
  {{- . | nindent 2 }}
  {{- end }}
{{- with $.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The configuration file: the user's, plus what the chart decides. */}}
{{- define "clapometer.config" -}}
{{- $config := omit (deepCopy .Values.config) "existingConfigMap" "existingSecret" -}}
{{- $server := dict "listen" "0.0.0.0:9090" -}}
{{- if .Values.certificates.enabled -}}
{{- $clientCA := include "clapometer.clientCA" . -}}
{{- $tls := dict "cert" (printf "%s/tls.crt" .Values.certificates.mountPath) "key" (printf "%s/tls.key" .Values.certificates.mountPath) "client_ca" $clientCA "client_names" .Values.certificates.clientNames -}}
{{- $_ := set $server "tls" $tls -}}
{{- end -}}
{{- $_ := set $config "server" (merge $server ($config.server | default dict)) -}}
{{- $_ := set $config "admin" (merge (dict "listen" "0.0.0.0:9091") ($config.admin | default dict)) -}}
{{- if .Values.queriesFrom.configMaps -}}
{{- $_ := set $config "queries_from" (merge (dict "path" "/queries.d") ($config.queries_from | default dict)) -}}
{{- end -}}
{{- if not $config.queries -}}{{- $_ := unset $config "queries" -}}{{- end -}}
{{- toYaml $config -}}
{{- end -}}
