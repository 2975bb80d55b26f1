.PHONY: check test bench compare fixtures data
# One profile for everything: the tests use the binary that users run.
test:
	cargo test --workspace
check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
# Throughput of training and evaluation on this machine. Comparisons belong into one run (BENCHMARKS.md).
bench:
	cargo run --bin train -- --model mobilenet_v3_large --epochs 1 --output target/bench
# Needs torch, torchvision, timm and safetensors in the Python of $$PYTHON.
compare:
	cargo build --workspace
	$${PYTHON:-python3} crates/nn/tests/fixtures/compare.py target/debug/kindling
# Needs the same Python packages; regenerates the numbers that tests compare with.
fixtures:
	$${PYTHON:-python3} crates/nn/tests/fixtures/make.py
	$${PYTHON:-python3} crates/transforms/tests/fixtures/make_preprocess.py
	$${PYTHON:-python3} crates/transforms/tests/fixtures/make_augment.py
	$${PYTHON:-python3} crates/transforms/tests/fixtures/make_decode.py
# Needs Debian's dataset-fashion-mnist.
data:
	cargo run --example fashion_mnist -- --output datasets/fashion-mnist-mini --train-per-class 200 --val-per-class 50
