# shellcheck shell=bash
# Sourced by demo.sh: its parts, which are processes. A part NAME is what the function run_NAME
# executes. Its pid is kept in $data/run/NAME with the moment of its start, so that even after a kill -9 of
# the demo the next run knows for certain which processes are its own.
# Needs $data, and the functions say and die.
# shellcheck disable=SC2154

leave='' # the exit code, once a signal has come: looked at where we wait, so that no start is cut in half
declare -A born=() failures=()
restart_s=2
hasty_s=5   # a part that ends sooner than this after its start
hasty_max=3 # … so many times in a row is not tried again

read -r boot </proc/sys/kernel/random/boot_id

# identify PID: sets `identity` to what no other process has, or to nothing if there is none. Like all that
# looks at processes here it forks nothing: Ctrl-C would end the fork too, and its answer would be wrong.
identify() {
  local stat=''
  identity=''
  { read -r stat <"/proc/$1/stat"; } 2>/dev/null || true
  # After the name, which may hold anything, come the state and, as the twentieth, the start.
  read -ra stat <<<"${stat##*) }"
  [[ ! ${stat[19]:-} || ${stat[0]} == Z ]] || identity="$1 ${stat[19]} $boot"
}

# noted NAME: sets `pid` and `note` from what start has written down, or to nothing.
noted() {
  note=''
  { read -r note <"$data/run/$1"; } 2>/dev/null || true
  pid=${note%% *}
}

alive() {
  noted "$1"
  identify "$pid"
  [[ $note && $identity == "$note" ]]
}

# start NAME: in a session of its own, so that Ctrl-C reaches this script alone.
start() {
  : >"$data/run/$1"
  (
    trap - INT TERM HUP EXIT
    exec </dev/null >>"$data/log/$1.log" 2>&1 8>&- 9>&-
    "run_$1"
  ) &
  identify $!
  echo "$identity" >"$data/run/$1"
  born[$1]=$SECONDS
}

# pause SECONDS: a sleep that a signal ends at once, and the script with it.
pause() {
  sleep "$1" 9>&- &
  wait $! || true
  [[ -z $leave ]] || exit "$leave"
}

# revive NAME: says how the part ended, and starts it again after two seconds.
revive() {
  local status=0
  noted "$1"
  wait "$pid" 2>/dev/null || status=$?
  say "$1 has ended with status $status. The end of $data/log/$1.log:"
  tail -n 8 "$data/log/$1.log" | sed 's/^/    /'
  if ((SECONDS - born[$1] < hasty_s)); then
    failures[$1]=$((${failures[$1]:-0} + 1))
    ((failures[$1] < hasty_max)) || die "$1 does not stay up"
  else
    failures[$1]=0
  fi
  pause "$restart_s"
  start "$1"
  say "$1 is started again"
}

# until_ready NAME TEST...: waits up to 60 s for the test to pass.
until_ready() {
  local part=$1 until=$((SECONDS + 60))
  shift
  until "$@" >/dev/null 2>&1; do
    alive "$part" || revive "$part"
    ((SECONDS < until)) || die "$part is not ready after 60 s: see $data/log/$part.log"
    pause 0.1
  done
}

# stop NAME...: together, by the signal that each ends cleanly by; after 15 s for good.
stop() {
  local part signal waited
  for part; do
    signal=TERM
    [[ $part != postgres ]] || signal=INT # at once, where TERM waits for the clients to leave
    if alive "$part"; then kill -s "$signal" "$pid" || true; fi
  done
  for part; do
    for ((waited = 0; waited < 300; waited++)); do
      alive "$part" || break
      sleep 0.05
    done
    if alive "$part"; then
      say "$part does not stop: killed"
      signal=KILL
      [[ $part != postgres ]] || signal=QUIT # it takes its own processes along
      kill -s "$signal" "$pid" || true
    fi
    rm -f "$data/run/$part"
  done
}
