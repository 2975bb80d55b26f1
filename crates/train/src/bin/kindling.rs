//! The program `kindling`; `train::cli` has its subcommands.

/// A training step asks for the same large blocks of memory again and again.
#[global_allocator]
static ALLOCATOR: kernels::allocator::Recycler = kernels::allocator::Recycler::new();

fn main() -> std::process::ExitCode {
    ALLOCATOR.guard(train::cli::OUT_OF_MEMORY, train::cli::OUT_OF_MEMORY_CODE);
    train::cli::main(std::env::args_os().collect())
}
