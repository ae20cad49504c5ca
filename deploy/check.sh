#!/usr/bin/env bash
# Checks the files of deploy/ with the tools that read them: part of `make lint`. What a machine has no tool for is
# said and left out.
set -euo pipefail
cd "$(dirname "$0")/.."
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# has TOOL WHAT: whether the tool is there; else says what is not checked.
has() {
  command -v "$1" >/dev/null || { echo "not checked, because $1 is not installed: $2"; return 1; }
}

check_scripts() {
  has shellcheck "the shell scripts" || return 0
  shellcheck --external-sources deploy/*.sh deploy/healthcheck tests/autobahn/*.sh crates/bench/peers/*.sh .ci/run
}

# nginx_test FILE: what the file says, at paths and ports that anybody may use.
nginx_test() {
  cp deploy/nginx/proxy.conf "$tmp/rowcast-proxy.conf"
  cp deploy/nginx/proxy.conf "$tmp/proxy.conf"
  mkdir -p "$tmp/nginx-tmp"
  nginx -t -q -p "$tmp" -e stderr -c "$1"
}

check_nginx() {
  has nginx "deploy/nginx" || return 0
  local ports='s#listen \(\[::\]:\)\?80;#listen \118080;#'
  sed -e "$ports" -e "s#/var/log/nginx#$tmp#" deploy/nginx/rowcast.conf >"$tmp/rowcast.conf"
  echo "pid $tmp/pid; events {} http { include $tmp/rowcast.conf; }" >"$tmp/host.conf"
  nginx_test "$tmp/host.conf"
  sed -e "s#/tmp/nginx.pid#$tmp/pid#" deploy/nginx/compose.conf >"$tmp/compose.conf"
  nginx_test "$tmp/compose.conf"
  sed -e 's/@PORT@/18000/' -e 's/@LISTEN_IPV6@//' -e 's/@FILES@/2048/' -e 's/@CONNECTIONS@/1024/' \
    -e 's/@GATEWAYS@/server 127.0.0.1:18081;/' deploy/nginx/demo.conf.in >"$tmp/demo.conf"
  nginx_test "$tmp/demo.conf"
}

check_systemd() {
  has systemd-analyze "deploy/systemd" || return 0
  # The programs need not be installed here.
  for unit in deploy/systemd/*.service; do
    sed 's#^ExecStart=/opt/rowcast/bin/[a-z]*#ExecStart=/bin/true#' "$unit" >"$tmp/${unit##*/}"
  done
  # It passes over unknown keys and says so: to us that is a failure. What it says of other units is not ours.
  systemd-analyze verify "$tmp"/*.service 2>"$tmp/verify" || { cat "$tmp/verify"; return 1; }
  if grep -F "$tmp" "$tmp/verify"; then return 1; fi
}

check_supervisor() {
  has supervisord "deploy/supervisor" || return 0
  # supervisord has no check of its own, and is written in the system's Python. The user need not exist here.
  sed -e "s/^user=rowcast/user=$(id -un)/" -e "s#/var/log/supervisor#$tmp#" deploy/supervisor/rowcast.conf >"$tmp/rowcast.supervisor"
  printf '[supervisord]\nlogfile=%s/log\n[include]\nfiles=%s/rowcast.supervisor\n' "$tmp" "$tmp" >"$tmp/supervisord.conf"
  /usr/bin/python3 - "$tmp/supervisord.conf" <<'PYTHON'
import sys
from supervisor.options import ServerOptions
options = ServerOptions()
options.realize(["-c", sys.argv[1]])
names = [p.name for group in options.process_group_configs for p in group.process_configs]
assert names == ["rowcast-gateway-8081", "rowcast-gateway-8082", "rowcast-listener"], names
PYTHON
}

check_compose() {
  if docker compose version >/dev/null 2>&1; then
    docker compose --env-file .env.example config --quiet
  elif has docker-compose docker-compose.yml; then
    docker-compose --env-file .env.example config --quiet
  fi
}

check_scripts
check_nginx
check_systemd
check_supervisor
check_compose
echo "deploy: checked"
