# shellcheck shell=bash
# Sourced by calls, control-plane, figures and run: what they ask the cloud and our
# API over and over, by curl: an `openstack` command costs seconds of a processor
# that the emulated servers need. What users do is done with `openstack`.

token() {  # token USER PROJECT: prints a token, good for a day
  curl -sf -m 60 -D - -o /dev/null -H 'Content-Type: application/json' "http://$POD_IP:5000/v3/auth/tokens" -d @- <<E | tr -d '\r' | sed -n 's/^X-Subject-Token: //Ip' | grep .
{"auth":{"identity":{"methods":["password"],"password":{"user":{"name":"$1","domain":{"name":"Default"},"password":"$PW"}}},
 "scope":{"project":{"name":"$2","domain":{"name":"Default"}}}}}
E
}
project_of() { curl -sf -m 60 -H "X-Auth-Token: $1" -H "X-Subject-Token: $1" "http://$POD_IP:5000/v3/auth/tokens" | jq -er .token.project.id; }
ask_login() {  # sets SERVICE_TOKEN, USER_TOKEN, SERVICE_PROJECT and USER_PROJECT
  SERVICE_TOKEN=$(token trove service) && USER_TOKEN=$(token demo demo) && SERVICE_PROJECT=$(project_of "$SERVICE_TOKEN") && USER_PROJECT=$(project_of "$USER_TOKEN")
}
ask() {  # ask PORT PATH [curl option]...: as the service
  local port=$1 path=$2; shift 2
  curl -sf -m 60 -H "X-Auth-Token: $SERVICE_TOKEN" -H 'Content-Type: application/json' "$@" "http://$POD_IP:$port$path"
}
compute() { local p=$1; shift; ask 8774 "/v2.1$p" "$@"; }
network() { local p=$1; shift; ask 9696 "/v2.0$p" "$@"; }
volumes() { local p=$1; shift; ask 8776 "/v3/$SERVICE_PROJECT$p" "$@"; }
ours()    { curl -sf -m 60 -H "X-Auth-Token: $USER_TOKEN" "http://$HOST_IP:8779/v1.0/$USER_PROJECT$1"; }
