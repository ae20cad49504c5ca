#!/usr/bin/env bash
# install.sh [PEER...]: installs what `bench peers` measures beside rowcast, all of them without a word.
#
# Each gets a folder of its own in target/peers, and nothing is installed for the system. What cannot be had here is
# said and left out: the bench then goes without it. Who has a version already is left as it is.
set -euo pipefail
cd "$(dirname "$0")"
from=$PWD
to=$(cd ../../.. && pwd)/target/peers
PATH=$PATH:/usr/sbin:/usr/local/go/bin:$HOME/.cargo/bin

say() { echo "peers: $*"; }
has() { command -v "$1" >/dev/null || { say "$1 is not installed"; return 1; }; }

# Debian's package, of the same version as its nginx, unpacked: a module that is installed is loaded by every nginx.
nchan() {
  has nginx && has apt-get || return 1
  apt-get -q download libnginx-mod-nchan && dpkg-deb -x libnginx-mod-nchan_*.deb unpacked || return 1
  cp unpacked/usr/lib/nginx/modules/ngx_nchan_module.so . || return 1
  version=$(dpkg-deb -f libnginx-mod-nchan_*.deb Version)
  version="${version#*:}, $(nginx -v 2>&1 | sed 's/.*: //')"
}

node_peer() {
  has node && has npm || return 1
  npm ci --ignore-scripts --no-audit --no-fund || return 1
  version="$(node -p "require('./node_modules/$1/package.json').version"), Node $(node --version)"
}
node-ws() { node_peer ws; }
socket-io() { node_peer socket.io; }

centrifugo() {
  has go || return 1
  GOBIN=$PWD GOFLAGS=-mod=mod go install github.com/centrifugal/centrifugo/v6@v6.9.1 || return 1
  version="6.9.1, $(go env GOVERSION)"
}

# Its own cache, adapter and queue in memory, and none of what is behind features. It is a heavy compilation.
sockudo() {
  has protoc && has pkg-config || return 1
  # Its metrics ask for what tokio calls unstable.
  RUSTFLAGS="--cfg tokio_unstable" CARGO_TARGET_DIR=$PWD/build \
    cargo install --locked --no-default-features --features local --root . sockudo@4.5.2 || return 1
  rm -rf build
  version=4.5.2
}

django() {
  local python
  # One that has TLS, which pip needs.
  for python in python3 /usr/bin/python3 ""; do
    if [[ -z $python ]]; then say "no python3 with venv and ssl"; return 1; fi
    if "$python" -c 'import ensurepip, ssl' 2>/dev/null; then break; fi
  done
  "$python" -m venv venv || return 1
  venv/bin/pip install -q --disable-pip-version-check -r requirements.txt || return 1
  version="$(sed -n 's/^channels==//p' requirements.txt), Django $(sed -n 's/^Django==//p' requirements.txt)"
  version="$version, uvicorn $(sed -n 's/^uvicorn==//p' requirements.txt), $("$python" --version)"
}

# install PEER: into its folder, whose last file is `version`.
install() {
  mkdir -p "$to/$1" && cd "$to/$1" || return 1
  cp -r "$from/$1/." . || return 1
  if [[ -s version && version -nt "$from/install.sh" ]]; then return; fi
  rm -f version
  say "installing $1"
  local version
  if "$1" >log 2>&1; then
    echo "$version" >version
  else
    say "$1 cannot be installed here, and is left out: see target/peers/$1/log"
    tail -n 3 log
  fi
}

peers=("$@")
((${#peers[@]})) || peers=(nchan node-ws socket-io centrifugo django sockudo)
for peer in "${peers[@]}"; do
  [[ $peer != *[!a-z-]* && -d $from/$peer ]] || { say "no such peer: $peer" >&2; exit 1; }
  (install "$peer")
done
