#!/usr/bin/env bash
# demo.sh: everything of rowcast on this machine, until Ctrl-C. `make demo` calls it.
#   --check   start, see a row arrive through nginx, stop: exit code 0 or 1
#   --clean   remove the data of earlier runs
# With DEMO_BIN=DIR the programs are taken from there and not built.
set -euo pipefail
umask 022 # the servers, under another user, must be able to read what we write for them
root=$(cd "$(dirname "$0")/.." && pwd -P)
cd "$root"
# shellcheck source=deploy/postgres.sh
source deploy/postgres.sh
# shellcheck source=deploy/parts.sh
source deploy/parts.sh
PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin
# What the caller has set for other servers must not lead us there.
unset "${!PG@}" "${!ROWCAST_@}" DATABASE_URL REDIS_URL REDISCLI_AUTH

exec 8>&2
say() { echo "demo: $*" || true; }
die() { say "$*" >&8; exit 1; }

mode=${1:-}
case $mode in
  '' | --check | --clean) ;;
  *) die "usage: deploy/demo.sh [--check|--clean]" ;;
esac

# PostgreSQL refuses to run as root. For root the three servers run as its user, who cannot enter
# root's home: so their data has a place of its own.
as_server=()
data=$root/.rowcast/demo
if ((EUID == 0)); then
  data=/var/lib/rowcast-demo-$(cksum <<<"$root" | cut -d' ' -f1)
  as_server=(setpriv --reuid=postgres --regid=postgres --init-groups --)
fi

# --- the data directory -------------------------------------------------------------------------

# own DIR: a directory for the servers alone.
own() {
  mkdir -p "$1"
  chmod 700 "$1"
  ((EUID)) || chown postgres: "$1"
}

# keep FILE: a file for the servers alone, filled from standard input.
keep() {
  rm -f "$1"
  (umask 077 && cat >"$1")
  ((EUID)) || chown postgres: "$1"
}

lock() {
  mkdir -p "$data"
  exec 9>"$data/lock"
  flock --nonblock 9 || die "a demo of this directory is running already"
}

prepare_data() {
  mkdir -p "$data"/{conf,log,run}
  chmod 700 "$data/log" "$data/run"
  rm -f "$data"/log/*
  own "$data/redis"
  own "$data/nginx"
  own "$data/nginx/nginx-tmp"
  [[ -s $data/conf/secret ]] || od -An -N12 -tx1 /dev/urandom | tr -d ' \n' | keep "$data/conf/secret"
  secret=$(cat "$data/conf/secret")
}

# What an earlier run left behind when it was killed.
stop_leftovers() {
  local part pid
  for part in nginx gateway_2 gateway_1 listener redis postgres; do
    if alive "$part"; then say "stopping $part of an earlier run"; fi
    stop "$part"
  done
  pid=$(head -n 1 "$cluster/postmaster.pid" 2>/dev/null) || return 0
  # PostgreSQL overlooks a stale file by itself, but not where another process has the pid now.
  [[ $(readlink "/proc/$pid/cwd") == "$cluster" ]] || rm -f "$cluster/postmaster.pid"
}

# --- ports --------------------------------------------------------------------------------------

has_ipv6() { grep -qs '^0\{31\}1 ' /proc/net/if_inet6; }

taken() {
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null || { has_ipv6 && (exec 3<>"/dev/tcp/::1/$1") 2>/dev/null; }
}

# free_port FROM: prints the first free one.
free_port() {
  local port
  for ((port = $1; port < $1 + 100; port++)); do
    taken "$port" || { echo "$port"; return; }
  done
  die "no free port from $1 on"
}

# --- the parts ----------------------------------------------------------------------------------

run_postgres() {
  cd "$cluster"
  exec setsid "${as_server[@]}" "$pg/postgres" -D "$cluster" -c port="$postgres_port" \
    -c listen_addresses=127.0.0.1 -c unix_socket_directories=
}

run_redis() {
  cd "$data/redis"
  exec setsid "${as_server[@]}" redis-server "$data/conf/redis.conf"
}

# settings PROGRAM: runs it with the settings of this demo.
settings() {
  exec setsid env DATABASE_URL="$database_url" REDIS_URL="redis://:$secret@127.0.0.1:$redis_port" \
    ROWCAST_CONFIG="$root/rowcast.toml" ROWCAST_DRAIN_MS=1000 "$@"
}

run_listener() { settings "$bin/listener" --status-bind "127.0.0.1:$status_port"; }
run_gateway_1() { settings "$bin/gateway" --name gateway-1 --bind "127.0.0.1:$gateway_1_port"; }
run_gateway_2() { settings "$bin/gateway" --name gateway-2 --bind "127.0.0.1:$gateway_2_port"; }

run_nginx() {
  cd "$data/nginx"
  exec setsid "${as_server[@]}" nginx -p "$data/nginx" -e stderr -c "$data/conf/nginx.conf"
}

# --- getting them ready -------------------------------------------------------------------------

sql() { "$pg/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }

# A cluster is made under another name, so that a half-made one is never taken for whole.
make_cluster() {
  [[ ! -d $cluster ]] || return 0
  say "making a PostgreSQL cluster in $cluster"
  rm -rf "$cluster.new"
  own "$cluster.new"
  (cd "$cluster.new" && "${as_server[@]}" "$pg/initdb" -D "$cluster.new" --username=postgres --pwfile="$data/conf/secret" \
    --auth=scram-sha-256 --encoding=UTF8 --no-locale) >"$data/log/initdb.log" 2>&1 ||
    die "initdb failed: see $data/log/initdb.log"
  mv "$cluster.new" "$cluster"
}

start_postgres() {
  make_cluster
  start postgres
  until_ready postgres "$pg/pg_isready" -q -h 127.0.0.1 -p "$postgres_port"
  # An ordinary role, as rowcast needs no more.
  PGPASSWORD=$secret sql -h 127.0.0.1 -p "$postgres_port" -U postgres -d postgres <<SQL
select 'create role rowcast login' where not exists (select from pg_roles where rolname = 'rowcast') \gexec
alter role rowcast password '$secret';
-- Or its tables would go to the schema of its name, which is rowcast's own.
alter role rowcast set search_path = public;
select 'create database rowcast owner rowcast' where not exists (select from pg_database where datname = 'rowcast') \gexec
SQL
  "$bin/rowcast" install --database-url "$database_url" >"$data/log/install.log" 2>&1 ||
    die "the schema rowcast cannot be installed: see $data/log/install.log"
  local file
  for file in sql/examples/*.sql; do
    sql -d "$database_url" -f "$file" || die "$file cannot be loaded"
  done
}

start_redis() {
  # A cache: what it loses, clients are told. So nothing is saved to disk.
  keep "$data/conf/redis.conf" <<CONF
bind 127.0.0.1
port $redis_port
requirepass $secret
dir "$data/redis"
save ""
appendonly no
CONF
  start redis
  REDISCLI_AUTH=$secret until_ready redis eval "redis-cli -p $redis_port ping | grep -q PONG"
}

start_nginx() {
  local files listen_ipv6=''
  files=$(ulimit -n)
  if has_ipv6; then listen_ipv6="listen [::1]:$port;"; fi
  sed -e "s/@PORT@/$port/" -e "s/@LISTEN_IPV6@/$listen_ipv6/" -e "s/@FILES@/$files/" -e "s/@CONNECTIONS@/$((files - 64))/" \
    -e "s/@GATEWAYS@/server 127.0.0.1:$gateway_1_port max_fails=0; server 127.0.0.1:$gateway_2_port max_fails=0;/" \
    deploy/nginx/demo.conf.in >"$data/conf/nginx.conf"
  cp deploy/nginx/proxy.conf "$data/conf/"
  start nginx
  until_ready nginx ready "$port"
}

ready() { curl --noproxy '*' -sf -m 2 "http://127.0.0.1:$1/readyz"; }

build() {
  if [[ ${DEMO_BIN:-} ]]; then
    bin=$(cd "$DEMO_BIN" && pwd)
    return
  fi
  say "building (a few minutes the first time)"
  cargo build --release -p listener -p gateway -p rowcast --bins
  bin=$(cd "${CARGO_TARGET_DIR:-target}/release" && pwd)
}

# --- the life of the demo -----------------------------------------------------------------------

stop_all() {
  trap '' INT TERM HUP # a second Ctrl-C changes nothing: it is stopping already
  set +e
  say "stopping"
  stop nginx
  stop gateway_2 gateway_1
  stop listener
  stop redis
  stop postgres
  say "stopped"
}

start_all() {
  port=$(free_port 8000)
  postgres_port=$(free_port 25432)
  redis_port=$(free_port 26379)
  status_port=$(free_port 29465)
  gateway_1_port=$(free_port 28081)
  gateway_2_port=$(free_port $((gateway_1_port + 1)))
  database_url=postgresql://rowcast:$secret@127.0.0.1:$postgres_port/rowcast
  # As many descriptors as are allowed, up to what 32,000 clients need.
  local limit
  limit=$(ulimit -Hn)
  if [[ $limit == unlimited ]] || ((limit > 65536)); then limit=65536; fi
  ulimit -Sn "$limit"

  start_postgres
  start_redis
  start listener
  start gateway_1
  start gateway_2
  until_ready listener ready "$status_port"
  until_ready gateway_1 ready "$gateway_1_port"
  until_ready gateway_2 ready "$gateway_2_port"
  start_nginx
}

print_lines() {
  local psql=psql
  command -v psql >/dev/null || psql=$pg/psql
  cat <<LINES

  Open      http://localhost:$port/
  A row     $psql '$database_url' -c "insert into violation_humandetections (camera_id) values (7)"
  Another   curl -s -w '\n' -H 'content-type: application/json' -d '{"sensor_id": "sensor1", "value": 25.5}' http://localhost:$port/api/sensors/
  An order  $psql '$database_url' -c "insert into watched_orders (customer, total) values ('ada', 12.50)"
            # of a watched table: durable. $bin/rowcast tail public.watched_orders --url ws://localhost:$port
  A page    (cd clients/js/examples/dashboard && npm ci && DATABASE_URL='$database_url' GATEWAY=http://localhost:$port npm run dev)
            # of your own, in React: http://localhost:5173/
  Try       kill -9 \$(cut -d' ' -f1 '$data/run/gateway_1')   # a gateway: the page goes on with the other
  Ctrl-C    stops everything

LINES
}

# arrives TOPIC INSERT: whether a row that is written arrives at a client of nginx. It is written again and again,
# because the client does not say when it has subscribed.
arrives() {
  local mark=check-$$ client i
  "$bin/rowcast" tail "$1" --json --url "ws://127.0.0.1:$port" >"$data/log/tail.log" 2>&1 9>&- &
  client=$!
  for ((i = 0; i < 40; i++)); do
    sql -d "$database_url" -c "insert into $2 values ('$mark', $i)"
    pause 0.25
    if grep -q "$mark" "$data/log/tail.log"; then break; fi
  done
  kill "$client" 2>/dev/null || true
  ((i < 40)) || die "check: no row of $1 arrived through nginx in 10 s: see $data/log"
  say "check: a row of $1 arrived through nginx"
}

check() {
  arrives sensor_updates "sensor_readings (sensor_id, value)"
  arrives public.watched_orders "watched_orders (customer, total)"
}

watch() {
  local part
  while :; do
    for part in postgres redis listener gateway_1 gateway_2 nginx; do
      alive "$part" || revive "$part"
    done
    pause 0.5
  done
}

if [[ $mode == --clean ]]; then
  [[ -d $data ]] || exit 0
  lock
  say "removing $data"
  rm -rf "$data"
  exit
fi

say "a private PostgreSQL and Redis, the listener, two gateways and nginx, on loopback only, until Ctrl-C"
say "data and logs are in $data"
deploy/prerequisites.sh demo
pg=$(postgres_bin)
cluster=$data/postgres-$("$pg/postgres" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
build
lock
stop_leftovers
prepare_data
trap stop_all EXIT
trap 'leave=0' INT
trap 'leave=143' TERM
trap 'leave=129' HUP
say "starting"
start_all
if [[ $mode == --check ]]; then
  check
else
  print_lines
  watch 2>/dev/null # where bash would announce each killed part in its own words
fi
