.PHONY: check test bench fixtures data
# One profile for everything: the tests use the binary that users run.
test:
	cargo test --release --workspace
check:
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
# Needs PyTorch and torchvision in the Python of $$PYTHON; regenerates the numbers tests compare with.
fixtures:
	$${PYTHON:-python3} crates/nn/tests/fixtures/make.py
# Needs Debian's dataset-fashion-mnist.
data:
	cargo run --release --example fashion_mnist -- --output datasets/fashion-mnist-mini --train-per-class 200 --val-per-class 50
