# shellcheck shell=bash
# Sourced: where PostgreSQL's own programs are. Debian keeps initdb and postgres out of the PATH.

# postgres_bin: prints the directory of the newest PostgreSQL from 14 on, or fails.
postgres_bin() {
  local dir found='' newest=13 major
  for dir in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/local/pgsql/bin "$(dirname "$(command -v initdb || echo /none)")"; do
    [[ -x $dir/initdb && -x $dir/postgres ]] || continue
    major=$("$dir/postgres" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
    if ((major > newest)); then newest=$major found=$dir; fi
  done
  [[ $found ]] && echo "$found"
}
