# `make demo` shows what parvis does, `make test` runs every check. Both first install what is missing (scripts/setup).
.PHONY: help demo test fuzz instructions build run audit bench cluster peers clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

demo: ## a tour in front of a slow built-in origin; ARGS=--once ends after it
	@scripts/setup build
	cargo run --locked -- demo $(ARGS)

test: ## format, lints, docs and every test
	@scripts/setup test
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
	cargo test --locked --doc
	cargo nextest run --locked

# The rules have no unsafe code, so no sanitizer is worth running five times slower. RUSTC_BOOTSTRAP lets a
# stable compiler instrument the code. What is new stays in fuzz/target/corpus, what crashes in fuzz/artifacts.
fuzz: ## random bytes against the rules of the cache; SECONDS=30, SEED=0 (a new one each time)
	@scripts/setup fuzz
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo fetch --locked --manifest-path fuzz/Cargo.toml
	@mkdir -p fuzz/target/corpus
	RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none cache_control fuzz/target/corpus fuzz/corpus/cache_control -- \
		-max_total_time=$(or $(SECONDS),30) -seed=$(or $(SEED),0) -rss_limit_mb=1024 -max_len=512 -dict=fuzz/cache_control.dict \
		-print_final_stats=1 -verbosity=0

# Counts hardly depend on the machine, so unlike times they are checked with every change.
instructions: ## the instructions of a hit against their budget; ARGS=--record writes a new one
	@scripts/setup instructions
	cargo bench --locked --profile instructions --bench instructions -- $(ARGS)

build: ## the release binary, target/release/parvis
	@scripts/setup build
	cargo build --locked --release

run: ## the release binary with config.example.yaml, or ARGS="--origin http://127.0.0.1:8000"
	@scripts/setup build
	cargo run --locked --release -- run $(or $(ARGS),-c config.example.yaml)

audit: ## licences, sources and banned crates of the dependency tree
	@scripts/setup audit
	cargo deny --locked --log-level error check bans licenses sources

bench: ## what the steps of a hit and of a purge take
	@scripts/setup build
	cargo bench --locked --bench hit --bench purge $(ARGS)

cluster: ## what it takes to share a store by way of a Redis
	@scripts/setup test
	cargo bench --locked --bench cluster

# No times are asserted, and no packages installed: those of servers would start them.
peers: ## parvis beside nginx, HAProxy and Varnish; ARGS="--rounds 1 hit-1k"
	@scripts/setup build
	cargo bench --locked --bench peers -- $(ARGS)

clean: ## remove everything built
	cargo clean
	cargo clean --manifest-path fuzz/Cargo.toml
