# One line each; `make` alone lists them.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin
.PHONY: help build demo test lint autobahn fuzz torture torture-js bench bench-writers clean bench-crowd bench-peers

help: ## this list
	@sed -n 's/^\([a-z-]*\): .*## /\1\t/p' Makefile | expand -t 15

build: ## the three programs, into target/release
	cargo build --release --bins

demo: ## everything on this machine, until Ctrl-C: PostgreSQL, Redis, listener, two gateways, nginx
	@deploy/demo.sh

test: ## all tests, from nothing
	deploy/prerequisites.sh test
	for at in tests/browser tests/postgres tests/supabase clients/js clients/js/examples/dashboard; do npm ci --prefix $$at --ignore-scripts --no-audit --no-fund || exit; done
	npm run build --prefix clients/js/examples/dashboard
	cargo build --workspace --bins
	cargo test --workspace
	npm test --prefix clients/js
	npm test --prefix tests/supabase

lint: ## format, clippy, licences and sources of what we depend on, the files of deploy/
	deploy/prerequisites.sh lint && cargo fmt --all --check && cargo clippy --workspace --all-targets -- -D warnings && cargo deny check licenses bans sources && deploy/check.sh

autobahn: ## the Autobahn suite against the gateway's WebSocket framing; writes docs/autobahn.md
	deploy/prerequisites.sh autobahn && tests/autobahn/run.sh

fuzz: ## any bytes to the gateway's WebSocket decoder, until something breaks (ARGS=-max_total_time=60)
	deploy/prerequisites.sh fuzz && cp Cargo.lock fuzz/ && cargo fuzz run --sanitizer none decoder -- $(ARGS)

torture: ## everything struck again and again, each client's changes held against the log (ARGS=--help)
	deploy/prerequisites.sh demo && cargo build --release --bins && target/release/torture $(ARGS)

torture-js: ## 200 clients of the JavaScript client through 50 faults (ROWCAST_SEED=7)
	deploy/prerequisites.sh test && npm ci --prefix clients/js --ignore-scripts --no-audit --no-fund && cargo build --release --bins && cd clients/js && ROWCAST_BIN=$(CURDIR)/target/release ROWCAST_CLIENTS=200 ROWCAST_FAULTS=50 node --test --test-name-pattern faults test/real.test.js

bench: ## latency, deliveries a second, CPU and memory on this machine (ARGS=--help)
	deploy/prerequisites.sh demo && cargo build --release --bins && target/release/bench $(ARGS)

bench-crowd: ## N connections over as many gateways as files allow (50,000); one gateway is killed
	deploy/prerequisites.sh demo && cargo build --release --bins && target/release/bench crowd --no-pin --runs 1 --connections $(or $(N),50000) $(ARGS)

bench-writers: ## what triggers cost those who write: none, the recipe's, rowcast's (ARGS=--help)
	deploy/prerequisites.sh demo && cargo build --release --bins && target/release/bench writers --seconds 5 $(ARGS)

bench-peers: ## the same loads on what people use today, beside rowcast (ARGS=--help)
	deploy/prerequisites.sh bench-peers && cargo build --release --bins && crates/bench/peers/install.sh && target/release/bench peers --seconds 5 $(ARGS)

clean: ## what was built, and the demo's data
	deploy/demo.sh --clean && rm -rf tests/browser/node_modules tests/postgres/node_modules tests/supabase/node_modules clients/js/node_modules clients/js/examples/dashboard/node_modules clients/js/examples/dashboard/dist && cargo clean
