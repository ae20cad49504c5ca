#!/usr/bin/env bash
# prerequisites.sh demo|test|lint|autobahn|fuzz|bench-peers: installs what is missing for that target, and says so first.
#
# On Debian and Ubuntu by apt, with sudo where needed; services that come along are neither started
# nor enabled. On other systems it says what to install. Rust itself is never installed here.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=deploy/postgres.sh
source deploy/postgres.sh
PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin

say() { echo "prerequisites: $*"; }
die() { say "$*" >&2; exit 1; }

# --- what is needed -----------------------------------------------------------------------------

has() { command -v "$1" >/dev/null; }
chromium_found() { has chromium || has chromium-browser || has google-chrome; }
venv_found() { python3 -c 'import ensurepip, sys; assert sys.version_info >= (3, 9)' 2>/dev/null; }
node_found() { has npm && has node && (($(node --version | sed 's/v\([0-9]*\).*/\1/') >= 18)); }
protoc_found() { has protoc && [[ -e /usr/include/google/protobuf/timestamp.proto ]]; }

missing=()  # in words
packages=() # of Debian

# need WORDS PACKAGES TEST...: notes it down if the test fails.
need() {
  local words=$1 names=$2
  shift 2
  "$@" >/dev/null && return
  missing+=("$words")
  read -ra names <<<"$names"
  packages+=("${names[@]}")
}

# look TARGET: fills `missing` and `packages`.
look() {
  missing=() packages=()
  need "a C compiler" "gcc libc6-dev" has cc
  case $1 in
    autobahn)
      need "Python, 3.9 or later, with venv" "python3-venv" venv_found
      return
      ;;
    fuzz)
      need "a C++ compiler" "g++" has c++
      return
      ;;
  esac
  need "nginx" "nginx" has nginx
  if [[ $1 == lint ]]; then
    need "shellcheck" "shellcheck" has shellcheck
    return
  fi
  need "PostgreSQL, 14 or later" "postgresql" postgres_bin
  need "Redis" "redis-server" has redis-server
  need "curl" "curl ca-certificates" has curl
  if [[ $1 == test ]]; then
    need "Node.js, 18 or later, with npm" "nodejs npm" node_found
    need "Chromium" "chromium" chromium_found
  fi
  # Without these a peer is left out, so they are worth an apt-get but not an end.
  if [[ $1 == bench-peers ]] && has apt-get; then
    need "Node.js, 18 or later, with npm" "nodejs npm" node_found
    need "Python, 3.9 or later, with venv" "python3-venv" venv_found
    need "protoc, with its own .proto files" "protobuf-compiler libprotobuf-dev" protoc_found
    need "OpenSSL to compile against" "libssl-dev pkg-config" pkg-config --exists openssl
  fi
}

check_rust() {
  local wanted found
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  found=$(cargo --version 2>/dev/null | cut -d' ' -f2) || true
  [[ $found ]] || die "Rust $wanted or later is needed: see https://rustup.rs"
  [[ $(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1) == "$wanted" ]] ||
    die "Rust $wanted or later is needed, and this is $found: rustup update"
}

# --- apt, as root -------------------------------------------------------------------------------

policy=/usr/sbin/policy-rc.d
policy_mark="# By rowcast's deploy/prerequisites.sh, only while it installs: no service is started."
cluster_conf=/etc/postgresql-common/createcluster.d/rowcast.conf

undo() {
  if [[ -f $policy ]] && grep -qsF "$policy_mark" "$policy"; then rm -f "$policy"; fi
  rm -f "$cluster_conf"
  rmdir --ignore-fail-on-non-empty "${cluster_conf%/*}" 2>/dev/null || true
}

# install PACKAGE...: without starting a service, now or at the next boot.
install() {
  exec 9>/run/lock/rowcast-prerequisites
  flock 9 # a second run would take the policy of the first away too early
  trap undo EXIT
  trap 'exit 130' INT TERM HUP
  # A policy that somebody else has put there stays, and decides. One of ours was left by a run that was killed.
  if [[ ! -e $policy ]] || grep -qsF "$policy_mark" "$policy"; then
    printf '#!/bin/sh\n%s\nexit 101\n' "$policy_mark" >"$policy"
    chmod 755 "$policy"
  fi
  # And no cluster of the system's own, which would start at the next boot.
  if [[ " $* " == *" postgresql "* ]]; then
    mkdir -p "${cluster_conf%/*}"
    echo "create_main_cluster = false" >"$cluster_conf"
  fi
  # NEEDRESTART_SUSPEND: on Ubuntu apt would restart services that have nothing to do with us.
  export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
  apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@" 9>&-
  local package
  for package in redis-server nginx; do
    [[ " $* " == *" $package "* ]] || continue
    if has systemctl; then systemctl --quiet disable "$package"; else update-rc.d "$package" disable; fi
  done
}

# --- the life of this script --------------------------------------------------------------------

target=${1:-}
if [[ $target == --install ]]; then
  shift
  install "$@"
  exit
fi
[[ $target =~ ^(demo|test|lint|autobahn|fuzz|bench-peers)$ ]] ||
  die "usage: deploy/prerequisites.sh demo|test|lint|autobahn|fuzz|bench-peers"

check_rust
look "$target"
if ((${#missing[@]})); then
  say "missing for 'make $target': $(printf '%s; ' "${missing[@]}")"
  list="${packages[*]}"
  has apt-get || die "no apt-get here, so please install that by your own means (the packages of Debian: $list)"
  sudo=()
  if ((EUID)); then
    has sudo || die "as root: apt-get install $list"
    sudo=(sudo)
  fi
  say "${sudo[*]:+sudo }apt-get update, then ${sudo[*]:+sudo }apt-get install --no-install-recommends $list"
  say "(services that come along are neither started nor enabled)"
  "${sudo[@]}" apt-get -q -o DPkg::Lock::Timeout=300 update || say "apt-get update failed: going on with the lists that are there"
  "${sudo[@]}" "$PWD/deploy/prerequisites.sh" --install "${packages[@]}"
  look "$target"
  ((${#missing[@]} == 0)) || die "still missing: $(printf '%s; ' "${missing[@]}")please install it by your own means"
fi

if [[ $target == lint ]]; then
  cargo fmt --version >/dev/null 2>&1 || { say "rustup component add rustfmt"; rustup component add rustfmt; }
  cargo clippy --version >/dev/null 2>&1 || { say "rustup component add clippy"; rustup component add clippy; }
  if ! cargo deny --version >/dev/null 2>&1; then
    say "cargo install cargo-deny (once, about a minute)"
    # Unoptimised: it takes 1.3 s instead of 0.5 for its work, and 50 s of CPU instead of 131 to build.
    CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
      cargo install --quiet --locked cargo-deny@0.20.2
  fi
fi

if [[ $target == fuzz ]] && ! cargo fuzz --version >/dev/null 2>&1; then
  say "cargo install cargo-fuzz (once, about a minute)"
  cargo install --quiet --locked cargo-fuzz@0.13.2
fi
