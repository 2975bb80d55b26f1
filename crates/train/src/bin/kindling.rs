//! The program: `kindling train|eval|predict|preprocess|models|inspect`.

fn main() -> std::process::ExitCode {
    train::command::main(std::env::args_os().collect())
}
