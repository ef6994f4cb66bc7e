# shellcheck shell=bash
# Shared by up, down, status, control-plane and run. Sourced, never run.
#
# The whole cloud lives in one "pod": a private network, mount, UTS and PID
# namespace that `up` creates.  Inside it the daemons own 127.0.0.1, /run,
# /etc/hosts, /etc/libvirt and /etc/swift, so nothing collides with what runs
# on the host (another MariaDB, RabbitMQ, docker0 ...), and there is no route
# out of it: the pod's only link is a veth pair to the host.
#
#   host 198.18.0.1/30  <--veth oslab0/pod0-->  198.18.0.2/30 pod (all APIs)
#                                               198.18.8.1/22 ext0--ext1 in Neutron's bridge = flat network "provider"
#   host route: 198.18.8.0/22 via 198.18.0.2    (so the host reaches every VM)
#
# 198.18.0.0/15 is RFC 2544 space: never routed on the Internet.

set -o pipefail
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin   # no pyenv shims: Debian's python3
export LC_ALL=C.UTF-8
unset PYTHONPATH PYTHONHOME

LAB_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
STATE=${OSLAB_STATE:-/var/lib/oslab}          # everything that is written goes here
HOST_IF=oslab0
HOST_IP=${OSLAB_HOST_IP:-198.18.0.1}
POD_IP=${OSLAB_POD_IP:-198.18.0.2}
EXT_GW=${OSLAB_EXT_GW:-198.18.8.1}
EXT_CIDR=${OSLAB_EXT_CIDR:-198.18.8.0/22}
EXT_PFX=${EXT_CIDR#*/}
EXT_POOL_START=${OSLAB_EXT_POOL_START:-198.18.8.10}
EXT_POOL_END=${OSLAB_EXT_POOL_END:-198.18.11.250}
MGMT_CIDR=${OSLAB_MGMT_CIDR:-198.18.72.0/24}    # Trove's management network
SUPERNET=${OSLAB_SUPERNET:-198.18.0.0/16}
PW=${OSLAB_PASSWORD:-oslab}                   # every password in the lab
REGION=RegionOne
VIRT=${OSLAB_VIRT:-auto}                      # auto | kvm | qemu | fake
RUN=$STATE/pids LOGS=$STATE/log ETC=$STATE/etc

log()  { printf '%s %s\n' "$(date -u +%H:%M:%S)" "$*" >&2; }
die()  { log "FATAL: $*"; exit 1; }
need_root() { [ "$(id -u)" = 0 ] || die "run as root"; }

# ---- stages -----------------------------------------------------------------
STAGE_LOG=$STATE/timings
stage() {   # stage NAME function: run it, say and record how long it took
  local name=$1 t0 t1; shift
  t0=$(date +%s.%N)
  "$@" || die "stage $name failed (logs: $LOGS)"
  t1=$(date +%s.%N)
  local s; s=$(awk -v a="$t0" -v b="$t1" 'BEGIN{printf "%.1f", b-a}')
  log "stage $(printf %-12s "$name") ${s}s"
  printf '%s %s\n' "$name" "$s" >>"$STAGE_LOG"
}

# ---- pod --------------------------------------------------------------------
pod_pid() {   # host pid of the pod's init, empty when the pod is not running
  local p; p=$(cat "$STATE/pod.pid" 2>/dev/null) || return 1
  [ -n "$p" ] && [ -r "/proc/$p/cmdline" ] && tr '\0' ' ' <"/proc/$p/cmdline" | grep -q 'pod-init' || return 1
  echo "$p"
}
pod() {       # run a command inside the pod
  local p; p=$(pod_pid) || die "the pod is not running"
  nsenter -t "$p" -m -u -n -p -- "$@"
}
daemon_alive() {  # by the pid (as seen in the pod) in its pid file
  local f=$RUN/$1.pid pp
  pp=$(pod_pid) || return 1
  [ -s "$f" ] && nsenter -t "$pp" -m -p -- kill -0 "$(cat "$f")" 2>/dev/null
}
daemon() {    # daemon NAME command...: start in the background unless it runs
  local n=$1 pp; shift
  daemon_alive "$n" && return 0
  pp=$(pod_pid) || die "the pod is not running"
  rm -f "$RUN/$n.pid"
  # shellcheck disable=SC2016
  nsenter -t "$pp" -m -u -n -p -- setsid -f bash -c 'echo $$ >"$1"; shift; exec "$@"' _ "$RUN/$n.pid" "$@" \
      </dev/null >>"$LOGS/$n.log" 2>&1
  local i; for ((i = 0; i < 100; i++)); do [ -s "$RUN/$n.pid" ] && return 0; sleep 0.02; done
}
daemon_kill() {  # by kill -9, it and what it forked; over when nothing of it is left
  local pp pid i; pp=$(pod_pid) && pid=$(cat "$RUN/$1.pid") || return 1
  # A daemon is the leader of its session (daemon), so of its group too.
  nsenter -t "$pp" -m -p -- kill -KILL -- "-$pid" || return 1
  for ((i = 0; i < 100; i++)); do nsenter -t "$pp" -m -p -- kill -0 -- "-$pid" 2>/dev/null || return 0; sleep 0.1; done
  return 1
}
wait_for() {  # wait_for SECONDS WHAT command...
  local max=$1 what=$2 i; shift 2
  for ((i = 0; i < max * 5; i++)); do "$@" >/dev/null 2>&1 && return 0; sleep 0.2; done
  log "timed out after ${max}s waiting for $what"; return 1
}
tcp_open()  { pod bash -c "exec 3<>/dev/tcp/$1/$2" 2>/dev/null; }
http_ok()   { curl -s -o /dev/null --max-time 5 "$1"; }
