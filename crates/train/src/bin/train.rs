//! `train ...` is `kindling train ...`.

fn main() -> std::process::ExitCode {
    let mut words: Vec<_> = std::env::args_os().collect();
    words.insert(1.min(words.len()), "train".into());
    train::command::main(words)
}
