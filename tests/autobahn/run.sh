#!/usr/bin/env bash
# run.sh [PATTERN]: the Autobahn suite's cases (all, or such as '6.*') against the echo server of the gateway's framing.
# Fails if a case does. A run of all writes docs/autobahn.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=$PWD/${CARGO_TARGET_DIR:-target}
[[ ${CARGO_TARGET_DIR:-} == /* ]] && target=$CARGO_TARGET_DIR
venv=$target/autobahn
port=${AUTOBAHN_PORT:-19001}

cargo build --release -p gateway --example echo
[[ -x $venv/bin/pip ]] || python3 -m venv "$venv"
# Its native part is not needed, and would want a compiler.
AUTOBAHN_USE_NVX=0 "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/autobahn/requirements.txt

"$target/release/examples/echo" --bind "127.0.0.1:$port" &
server=$!
trap 'kill "$server"' EXIT
until (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
  kill -0 "$server" || exit 1
  sleep 0.05
done
"$venv/bin/python" -u tests/autobahn/client.py "ws://127.0.0.1:$port" docs/autobahn.md "${1:-*}"
