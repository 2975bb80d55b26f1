//! Training on several ranks, started with `mpirun` as a user starts it. Every job runs under a
//! kill timeout, and one at a time: a rank that waits keeps a core busy.
//!
//! Networks whose norms are frozen give each image the same gradient in every batch, so that any
//! number of ranks has to compute the same. Networks with batch norm do that with `--sync-bn` alone.

#![expect(clippy::print_stdout, reason = "figures, and what this machine cannot test")]

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use test_folder::{SMALL, TestFolder, code, error, said};
use train::datasets::shards;
use train::run::checkpoint::Checkpoint;

/// Norms, which are the second layer of every block, keep their statistics.
const FROZEN_NORMS: [&str; 3] = ["--freeze", "*.1.weight", "*.1.bias"];
/// A network whose running statistics fit its weights: see [`base`].
const BASE: [&str; 2] = ["--pretrained-path", "out/train/base/last.ckpt"];
/// The optimizer whose state after one step is the gradient of that step.
const SGD: [&str; 8] =
    ["--opt", "sgd", "--momentum", "0.9", "--weight-decay", "0", "--warmup-epochs", "0"];

/// The most that the gradient of two or three ranks may be off with bf16 on the wire.
const BF16_ERROR: f32 = 5e-3;

/// One job at a time.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `mpirun` on so many ranks, under a kill timeout.
fn mpirun(place: &TestFolder, ranks: usize, words: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["-k", "10", "120", "mpirun", "--oversubscribe", "--bind-to", "none"])
        .args(["-n", &ranks.to_string(), env!("CARGO_BIN_EXE_kindling")])
        .args(words)
        .current_dir(place.path(""))
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command
}

fn words<'a>(run: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&SMALL[..], &["--experiment", run], more].concat()
}

/// Trains on so many ranks; one is a plain process.
#[track_caller]
fn train(place: &TestFolder, ranks: usize, run: &str, more: &[&str]) -> Output {
    let output = match ranks {
        1 => place.train(run, more),
        _ => mpirun(place, ranks, &words(run, more)).output().unwrap(),
    };
    assert_eq!(code(&output), 0, "{ranks} ranks: {}{}", said(&output), error(&output));
    output
}

/// Trains the network of [`BASE`].
#[track_caller]
fn base(place: &TestFolder) {
    train(place, 1, "base", &["--epochs", "10"]);
}

fn last(place: &TestFolder, run: &str) -> Checkpoint {
    Checkpoint::read(&place.checkpoint(run)).unwrap()
}

/// The largest distance of two lists of tensors, relative to the Euclidean norm of the tensor.
fn difference<'a>(
    a: impl Iterator<Item = &'a Vec<f32>>,
    b: impl Iterator<Item = &'a Vec<f32>>,
) -> f32 {
    let norm = |values: &[f32]| values.iter().map(|v| v * v).sum::<f32>().sqrt();
    let pairs = a.zip(b).map(|(a, b)| {
        assert_eq!(a.len(), b.len());
        let apart: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        norm(&apart) / norm(a).max(1e-9)
    });
    pairs.fold(0.0, f32::max)
}

fn gradients_apart(a: &Checkpoint, b: &Checkpoint) -> f32 {
    assert_eq!(a.optimizer.len(), b.optimizer.len());
    assert!(!a.optimizer.is_empty());
    difference(a.optimizer.iter().map(|t| &t.values), b.optimizer.iter().map(|t| &t.values))
}

/// The distance of two gradients as one vector each, relative to the norm of the first: beside a
/// norm some tensors have no gradient but rounding.
fn gradient_apart(a: &Checkpoint, b: &Checkpoint) -> f32 {
    let all = |c: &Checkpoint| c.optimizer.iter().flat_map(|t| t.values.clone()).collect();
    let (a, b): (Vec<f32>, Vec<f32>) = (all(a), all(b));
    difference([a].iter(), [b].iter())
}

fn weights_apart(a: &Checkpoint, b: &Checkpoint) -> f32 {
    difference(a.weights.iter().map(|t| &t.values), b.weights.iter().map(|t| &t.values))
}

#[track_caller]
fn same_bits(a: &Checkpoint, b: &Checkpoint) {
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    for (a, b) in a.weights.iter().zip(&b.weights) {
        assert_eq!(bits(&a.values), bits(&b.values), "{}", a.name);
    }
    for (a, b) in a.optimizer.iter().zip(&b.optimizer) {
        assert_eq!(bits(&a.values), bits(&b.values), "{}", a.name);
    }
}

/// The gradient of one batch of 36 images, and of 35, which neither 2 nor 3 ranks share evenly; of
/// a mixed batch with dropout; and of three batches that are accumulated.
///
/// Mutations caught, each alone: gradients not weighted by images (35); dropout masks by the row in
/// the share; mixed images paired within a contiguous share; gradients summed and not averaged.
#[test]
fn the_gradient_does_not_depend_on_the_number_of_ranks() {
    let _turn = turn();
    let place = TestFolder::new("mpi-gradient");
    base(&place);
    for (case, flags) in [
        ("36", &["--batch-size", "36"][..]),
        ("35", &["--batch-size", "35", "--drop", "0.5"]),
        ("mixed", &["--batch-size", "35", "--mixup", "0.4", "--cutmix", "1", "--drop", "0.5"]),
        ("accumulated", &["--batch-size", "12", "--grad-accum-steps", "3"]),
    ] {
        let own = ["--epochs", "1", "--lr", "0.0001"];
        let flags = [&SGD[..], &FROZEN_NORMS, &BASE, &own, flags].concat();
        let name = |ranks: usize| format!("{case}-{ranks}");
        for ranks in 1..=3 {
            train(&place, ranks, &name(ranks), &flags);
        }
        let one = last(&place, &name(1));
        assert_eq!(one.manifest.position.step, 1, "{case}");
        for ranks in 2..=3 {
            let other = last(&place, &name(ranks));
            let apart = gradients_apart(&one, &other);
            println!("{case}: {ranks} ranks: gradients differ by {apart:.2e}");
            assert!(apart < 1e-5, "{case}: {ranks} ranks: {apart}");
            let loss = |c: &Checkpoint| c.manifest.best.unwrap().loss.unwrap();
            assert!((loss(&one) - loss(&other)).abs() < 1e-5 * loss(&one), "{case}: {ranks} ranks");
            let [seen, trained] = [&one, &other].map(|c| c.manifest.trained_images.clone());
            assert_eq!(seen, trained, "{case}: the images that were read");
        }
    }
}

/// With `--sync-bn` the ranks compute what one process computes on the whole batch, evenly shared
/// or not. In f32 they are as far apart as the fused layers are from Burn's own in one process,
/// 2e-5; in f64 `nn::block::sync_batch_norm` is compared to 1e-7.
///
/// Mutations caught, each alone: the flag dropped as one of timm's that has no meaning here; the
/// gradients weighted by images again after the backward pass.
#[test]
fn shared_statistics_are_those_of_one_process() {
    let _turn = turn();
    let place = TestFolder::new("mpi-sync");
    let own = ["--epochs", "1", "--lr", "0.0001", "--val-batch-size", "4"];
    for images in ["36", "35"] {
        let flags = [&SGD[..], &own, &["--batch-size", images]].concat();
        let synchronised = [&flags[..], &["--sync-bn"]].concat();
        train(&place, 1, &format!("one-{images}"), &flags);
        let one = last(&place, &format!("one-{images}"));
        for ranks in 2..=3 {
            let name = format!("sync-{images}-{ranks}");
            train(&place, ranks, &name, &synchronised);
            let other = last(&place, &name);
            let apart = gradient_apart(&one, &other);
            println!(
                "--sync-bn: {images} images on {ranks} ranks: gradients differ by {apart:.2e}"
            );
            assert!(apart < 1e-4, "{images} on {ranks}: {apart}");
            train(&place, ranks, &format!("own-{images}-{ranks}"), &flags);
            let own = gradient_apart(&one, &last(&place, &format!("own-{images}-{ranks}")));
            assert!(own > 0.1, "statistics of their own: {own}");
        }
    }
}

/// Gradients that travel as bf16 are those of f32 within its 8 bits, on every rank the same bits
/// (which step 1 compares), and the running statistics stay f32. One process sends nothing, and says
/// so.
///
/// Mutations caught, each alone: the option without an effect; truncation; a rank with other bits
/// than the others; running statistics that travel with the gradients. (Additions in bf16 are the
/// business of `distributed/bf16.rs`: on 3 ranks they are 2.9e-3 away, and 2.4e-3 are usual.)
#[test]
fn gradients_may_travel_in_half_the_bytes() {
    let _turn = turn();
    let place = TestFolder::new("mpi-bf16");
    let own = ["--epochs", "1", "--lr", "0.0001", "--batch-size", "35"];
    let flags = [&SGD[..], &own].concat();
    let halved = [&flags[..], &["--comm-dtype", "bf16"]].concat();
    for ranks in 1..=3 {
        let [whole, half] = ["f32", "bf16"].map(|name| format!("{name}-{ranks}"));
        train(&place, ranks, &whole, &flags);
        let output = train(&place, ranks, &half, &halved);
        let (whole, half) = (last(&place, &whole), last(&place, &half));
        if ranks == 1 {
            assert!(said(&output).contains("one process sends no gradients"), "{}", said(&output));
            same_bits(&whole, &half);
            continue;
        }
        let apart = gradient_apart(&whole, &half);
        println!("bf16: {ranks} ranks: gradients differ by {apart:.2e}");
        assert!((1e-4..BF16_ERROR).contains(&apart), "{ranks} ranks: {apart}");
        let statistics = |checkpoint: &Checkpoint| -> Vec<Vec<f32>> {
            let own = checkpoint.weights.iter().filter(|tensor| tensor.name.contains("running"));
            own.map(|tensor| tensor.values.clone()).collect()
        };
        let [whole, half] = [&whole, &half].map(statistics);
        assert!(!whole.is_empty());
        // MPI adds up lists of another length in another order.
        let apart = difference(whole.iter(), half.iter());
        assert!(apart < 1e-6, "{ranks} ranks: running statistics: {apart}");
    }
    let plan = std::fs::read_to_string(place.path("out/train/bf16-2/args.toml")).unwrap();
    assert!(plan.contains("comm_dtype = \"bf16\""), "{plan}");
}

/// Shards of 6 canonical nodes give 1, 2 and 3 ranks the same gradient, and ranks that have the
/// files of their own nodes alone the same bits; a rank that lacks one of them says which.
///
/// Mutations caught, each alone: nodes that follow each other in a batch, so that a rank needs the
/// files of others; shares that part mixup's pairs; a file that is missing not looked for at the start.
#[test]
fn a_rank_reads_its_own_shards_and_the_gradient_stays() {
    let _turn = turn();
    let place = TestFolder::new("mpi-shards");
    base(&place);
    let words = ["data", "shard", "data", "--output", "shards", "--shard-size", "0.005"];
    let output = place.run(&words);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let nodes = ["--shard-window", "12", "--canonical-nodes", "6", "--batch-size", "24"];
    let own = ["--epochs", "1", "--lr", "0.0001", "--mixup", "0.4", "--drop", "0.5"];
    let flags = [&SGD[..], &FROZEN_NORMS, &BASE, &nodes, &own].concat();
    let words = |run: &str| -> Vec<String> {
        let mut words = [&SMALL[..], &["--experiment", run], &flags].concat();
        words[1] = "shards";
        words.into_iter().map(str::to_owned).collect()
    };
    let mut found = Vec::new();
    for ranks in 1..=3 {
        let run = format!("r{ranks}");
        let own = words(&run);
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        let output = match ranks {
            1 => place.run(&own),
            _ => mpirun(&place, ranks, &own).output().unwrap(),
        };
        assert_eq!(code(&output), 0, "{}{}", said(&output), error(&output));
        let told = said(&output).matches(" reads train-").count();
        assert_eq!(told, if ranks == 1 { 0 } else { ranks }, "{}", said(&output));
        let apart = found.first().map_or(0.0, |one| gradients_apart(one, &last(&place, &run)));
        println!("shards: {ranks} ranks: gradients differ by {apart:.2e}");
        assert!(apart < 1e-5, "{ranks} ranks: {apart}");
        found.push(last(&place, &run));
    }
    // Two hosts: two folders, in each of which the path of the data means other files.
    let index = shards::index(&place.path("shards")).unwrap().unwrap();
    let mut position = 0;
    for shard in &index.train {
        for host in [0, 1] {
            let to = place.path(&format!("host{host}/shards"));
            std::fs::create_dir_all(&to).unwrap();
            let mine = position..position + shard.images.len();
            let half = 18 * host..18 * (host + 1);
            if mine.start < half.end && half.start < mine.end {
                let file = to.join(&shard.file);
                std::fs::copy(place.path("shards").join(&shard.file), file).unwrap();
            }
        }
        position += shard.images.len();
    }
    let [first, second] = [0, 1].map(|host| place.path(&format!("host{host}")));
    for host in [&first, &second] {
        for shard in &index.val {
            std::fs::copy(
                place.path("shards").join(&shard.file),
                host.join("shards").join(&shard.file),
            )
            .unwrap();
        }
        std::fs::copy(place.path("shards/index.json"), host.join("shards/index.json")).unwrap();
    }
    let of = |host: &std::path::Path| std::fs::read_dir(host.join("shards")).unwrap().count();
    let all = of(&place.path(""));
    assert!(of(&first) < all - 2 && of(&second) < all - 2, "each host has a part of the files");
    let base = place.path(BASE[1]);
    let hosts = || {
        let mut own = words("hosts");
        let path = own.iter().position(|word| *word == BASE[1]).unwrap();
        own[path] = base.to_str().unwrap().to_owned();
        let mut command = Command::new("timeout");
        command.args(["-k", "10", "120", "mpirun", "--oversubscribe", "--bind-to", "none"]);
        for (host, sign) in [(&first, ":"), (&second, "")] {
            command.args(["-n", "1", "--wdir"]).arg(host).arg(env!("CARGO_BIN_EXE_kindling"));
            command.args(&own).args([sign].iter().filter(|sign| !sign.is_empty()));
        }
        command
            .current_dir(place.path(""))
            .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
            .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        command.output().unwrap()
    };
    let output = hosts();
    assert_eq!(code(&output), 0, "{}{}", said(&output), error(&output));
    let checkpoint = Checkpoint::read(&first.join("out/train/hosts/last.ckpt")).unwrap();
    same_bits(&found[1], &checkpoint);
    std::fs::remove_dir_all(first.join("out")).unwrap();
    let missing = &index.train.last().unwrap().file;
    std::fs::remove_file(second.join("shards").join(missing)).unwrap();
    let output = hosts();
    let text = error(&output);
    assert_eq!(code(&output), 3, "{text}");
    let sentence = format!("{missing}: no such file, and this rank reads it");
    assert!(text.contains("rank 1 of 2: ") && text.contains(&sentence), "{text}");
}

/// With batch norm the ranks have statistics of their own shares, but their averages are one
/// checkpoint's, and an evaluation by three ranks is that of one process on this checkpoint.
///
/// Mutations caught, each alone: the counts of rank 0 alone; running statistics not averaged, so
/// that rank 0 evaluates and saves its own.
#[test]
fn an_evaluation_by_ranks_is_that_of_one_process() {
    let _turn = turn();
    let place = TestFolder::new("mpi-evaluation");
    train(&place, 3, "r", &["--batch-size", "12", "--val-batch-size", "4", "--model-ema"]);
    let csv = std::fs::read_to_string(place.path("out/train/r/summary.csv")).unwrap();
    let row: Vec<&str> = csv.lines().last().unwrap().split(',').collect();
    let output = place.run(&["eval", "--checkpoint", "out/train/r/last.ckpt", "--json"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let value: serde_json::Value = serde_json::from_str(&said(&output)).unwrap();
    assert_eq!(value["pictures"], 15);
    let number = |text: &str| text.parse::<f64>().unwrap();
    let plain = (number(row[2]), number(row[3]));
    let found = (value["loss"].as_f64().unwrap(), value["top1"].as_f64().unwrap());
    assert!((plain.0 - found.0).abs() < 2e-6, "{plain:?} {found:?}");
    assert!((plain.1 - found.1).abs() < 1e-3, "{plain:?} {found:?}");
}

/// A run of two ranks whose second panics in the middle of an epoch: the job ends with a sentence,
/// and goes on to the same bits on two ranks, and to the same within rounding on one and on three.
///
/// Mutations caught, each alone: a panic that leaves MPI, which waits for the others for ever; the
/// state of rank 0 not sent, so that others begin anew; the backend of a rank by its own arguments,
/// which a resume does not repeat.
#[test]
fn a_run_that_loses_a_rank_resumes_on_any_number() {
    let _turn = turn();
    let place = TestFolder::new("mpi-resume");
    let own = ["--batch-size", "6", "--checkpoint-interval-steps", "1", "--lr", "0.0001"];
    base(&place);
    let flags = [&SGD[..], &FROZEN_NORMS, &BASE, &own].concat();
    train(&place, 2, "whole", &flags);
    let whole = last(&place, "whole");
    for ranks in [2, 3, 1] {
        let run = format!("cut-{ranks}");
        let mut job = mpirun(&place, 2, &words(&run, &flags));
        let output = job.env("KINDLING_TEST_RANK", "1:panic@4").output().unwrap();
        assert_ne!(code(&output), 0);
        assert_ne!(code(&output), 124, "{}", error(&output));
        assert!(error(&output).contains("rank 1 of 2 panicked"), "{}", error(&output));
        let step = last(&place, &run).manifest.position.step;
        assert!((3..=4).contains(&step), "{step}");
        let folder = format!("out/train/{run}");
        let resume = ["train", "--resume", &folder];
        let output = match ranks {
            1 => place.run(&resume),
            _ => mpirun(&place, ranks, &resume).output().unwrap(),
        };
        assert_eq!(code(&output), 0, "{}{}", said(&output), error(&output));
        let resumed = last(&place, &run);
        match ranks {
            2 => same_bits(&whole, &resumed),
            _ => {
                let apart = weights_apart(&whole, &resumed);
                println!("resumed on {ranks}: weights differ by {apart:.2e}");
                assert!(apart < 1e-5, "{ranks} ranks: {apart}");
            }
        }
    }
}

/// A job that trains until something ends it, and the processes of its ranks.
struct Job {
    launcher: Child,
    began: Instant,
}

impl Job {
    /// Starts a long run, and waits for its first checkpoint.
    fn start(
        place: &TestFolder,
        ranks: usize,
        run: &str,
        more: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let long = ["--epochs", "4000", "--batch-size", "6", "--checkpoint-interval-steps", "3"];
        let mut command = mpirun(place, ranks, &words(run, &[&long[..], more].concat()));
        command.envs(environment.iter().copied());
        let launcher =
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("mpirun");
        let began = Instant::now();
        while !place.checkpoint(run).exists() && began.elapsed() < Duration::from_mins(1) {
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { launcher, began: Instant::now() }
    }

    /// The process of a rank, and of `mpirun` itself, by what Open MPI writes in their environment.
    fn processes(&self, ranks: usize) -> (u32, Vec<u32>) {
        let children = |of: u32| -> Vec<u32> {
            let path = format!("/proc/{of}/task/{of}/children");
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.split_whitespace().filter_map(|id| id.parse().ok()).collect()
        };
        let mpirun = children(self.launcher.id())[0];
        let mut found = vec![0; ranks];
        for id in children(mpirun) {
            let text = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let rank = text.split('\0').find_map(|v| v.strip_prefix("OMPI_COMM_WORLD_RANK="));
            if let Some(rank) = rank {
                found[rank.parse::<usize>().unwrap()] = id;
            }
        }
        assert!(found.iter().all(|id| *id > 0), "{found:?}");
        (mpirun, found)
    }

    /// The exit code, standard error, and seconds since the start of the wait.
    fn end(self) -> (i32, String, Duration) {
        let output = self.launcher.wait_with_output().unwrap();
        (code(&output), error(&output), self.began.elapsed())
    }
}

fn send(signal: &str, process: u32) {
    let status = Command::new("kill").args([signal, &process.to_string()]).status().unwrap();
    assert!(status.success());
}

/// What a job leaves behind resumes.
#[track_caller]
fn resumes(place: &TestFolder, run: &str) {
    let step = last(place, run).manifest.position.step;
    let folder = format!("out/train/{run}");
    let epochs = (step / 6 + 1).to_string();
    let output = mpirun(place, 2, &["train", "--resume", &folder, "--epochs", &epochs]);
    let output = { output }.output().unwrap();
    assert_eq!(code(&output), 0, "{}{}", said(&output), error(&output));
    assert!(last(place, run).manifest.position.step >= step);
}

/// Mutations caught, each alone: a rank that leaves MPI when it ends with an error; no watching
/// thread (SIGSTOP).
#[test]
fn a_killed_or_stopped_rank_ends_the_job_and_its_checkpoint_resumes() {
    let _turn = turn();
    let place = TestFolder::new("mpi-lost");
    for (signal, rank) in [("-KILL", 0), ("-KILL", 2), ("-STOP", 0), ("-STOP", 1)] {
        let run = format!("r{signal}-{rank}");
        let job = Job::start(&place, 3, &run, &["--comm-timeout", "5"], &[]);
        let (_, ranks) = job.processes(3);
        let began = Instant::now();
        send(signal, ranks[rank]);
        let (code, text, _) = job.end();
        assert!(began.elapsed() < Duration::from_secs(30), "{run}: {:?}", began.elapsed());
        assert!(code != 0 && code != 124, "{run}: {code}: {text}");
        let sentence = match signal {
            // The sentence is mpirun's.
            "-KILL" => format!("process rank {rank} with PID"),
            _ => format!("no sign of life from rank {rank}"),
        };
        assert!(text.contains(&sentence), "{run}: {text}");
        // A process that nobody has waited for yet has no command line any more.
        let lives = |id: &u32| {
            std::fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|text| !text.is_empty())
        };
        assert!(!ranks.iter().any(lives), "{run}: {text}");
        resumes(&place, &run);
    }
}

/// Both ranks save once, and end with the code of the signal at the step that both have done.
///
/// Mutations caught: a rank that stops at its own signal, without the others, which wait for it
/// until the time is up.
#[test]
fn a_signal_to_one_rank_stops_all_at_one_step() {
    let _turn = turn();
    let place = TestFolder::new("mpi-one-signal");
    for rank in [1, 0] {
        let run = format!("r{rank}");
        let job = Job::start(&place, 2, &run, &[], &[]);
        let (_, ranks) = job.processes(2);
        send("-USR1", ranks[rank]);
        let (code, text, _) = job.end();
        assert_eq!(code, 138, "rank {rank}: {text}");
        let log = place.path(&format!("out/train/{run}/train.log"));
        let log = std::fs::read_to_string(log).unwrap();
        let step = last(&place, &run).manifest.position.step;
        let sentence = format!("interrupted and saved at step {step};");
        assert_eq!(log.matches(&sentence).count(), 1, "rank {rank}: {log}");
    }
}

/// A signal to the launcher reaches all ranks.
#[test]
fn a_signal_to_the_launcher_saves_once_and_ends() {
    let _turn = turn();
    let place = TestFolder::new("mpi-signal");
    for (signal, to, exit) in
        [("-TERM", "mpirun", 143), ("-USR1", "mpirun", 138), ("-USR1", "rank 1", 138)]
    {
        let run = format!("r{signal}-{}", &to[..4]);
        // mpirun kills a second after it has passed the signal on, unless it is told to wait.
        let patience = [("OMPI_MCA_odls_base_sigkill_timeout", "6")];
        let job = Job::start(&place, 2, &run, &[], &patience);
        let (mpirun, ranks) = job.processes(2);
        send(signal, if to == "mpirun" { mpirun } else { ranks[1] });
        let (code, text, _) = job.end();
        assert!(code != 0 && code != 124, "{run}: {code}: {text}");
        let log =
            std::fs::read_to_string(place.path(&format!("out/train/{run}/train.log"))).unwrap();
        assert_eq!(
            log.matches("interrupted and saved at step").count(),
            1,
            "{run}: {exit}, {code}: {log}"
        );
        resumes(&place, &run);
    }
}

/// Mutations caught: the hashes of the ranks not compared.
#[test]
fn replicas_that_differ_end_the_job_with_the_step_and_the_rank() {
    let _turn = turn();
    let place = TestFolder::new("mpi-drift");
    let mut job = mpirun(&place, 3, &words("r", &["--batch-size", "6"]));
    let output = job.env("KINDLING_TEST_RANK", "2:drift@1").output().unwrap();
    let text = error(&output);
    assert_eq!(code(&output), 9, "{text}");
    assert!(text.contains("step 1: the weights of rank 2 are others"), "{text}");
}

/// Processes that do not find each other, batches that are too small, and a disk of rank 0 that is
/// full: one sentence, said once.
///
/// Mutations caught, each alone: the world of MPI not compared with the launcher's; every rank says
/// what is wrong with the arguments.
#[test]
fn what_cannot_work_ends_with_one_sentence() {
    let _turn = turn();
    let place = TestFolder::new("mpi-refused");
    let mut alone = place.command(&words("r", &[]));
    let output = alone.env("SLURM_STEP_NUM_TASKS", "2").env("SLURM_PROCID", "0").output().unwrap();
    assert_eq!(code(&output), 2);
    assert!(error(&output).contains("started 2 processes (SLURM_STEP_NUM_TASKS), but MPI sees 1"));
    let refused = |words: &[&str], exit: i32, sentence: &str| {
        let output = mpirun(&place, 3, words).output().unwrap();
        let text = error(&output);
        assert_eq!(code(&output), exit, "{text}");
        assert_eq!(text.matches(sentence).count(), 1, "{text}");
    };
    refused(&words("r", &["--batch-size", "5"]), 2, "3 ranks share every batch");
    refused(&words("r", &["--batch-sizes", "6"]), 2, "unexpected argument");
    refused(&words("r", &["--dry-run"]), 2, "--dry-run runs in one process");
    refused(&["eval", "--checkpoint", "x.ckpt"], 2, "runs in one process");
    // A checkpoint that cannot be written, whatever the reason.
    std::fs::create_dir_all(place.path("out/train/r/last.ckpt/full")).unwrap();
    let output = mpirun(&place, 2, &words("r", &["--batch-size", "6"])).output().unwrap();
    assert_eq!(code(&output), 2, "{}", error(&output));
    std::fs::remove_dir_all(place.path("out")).unwrap();
    full_disk(&place);
}

/// A file system of 1 MB, where the machine lets a test mount one.
fn full_disk(place: &TestFolder) {
    let disk = place.path("out");
    std::fs::create_dir_all(&disk).unwrap();
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&disk)
        .stderr(Stdio::null())
        .status();
    if !mount.is_ok_and(|status| status.success()) {
        println!("no right to mount: the full disk of rank 0 is not tested");
        return;
    }
    let output = mpirun(place, 2, &words("r", &["--batch-size", "6"])).output().unwrap();
    let text = error(&output);
    let ended = (code(&output), text.matches("rank 0 of 2: ").count());
    Command::new("umount").arg(&disk).status().unwrap();
    assert_eq!(ended, (8, 1), "{text}");
}

/// Two hosts: network namespaces with addresses of their own, behind a wire of 1 Gb/s. A training
/// is that of one host to the bit, and after a cut link no rank lives on. (Open MPI 4's `mpirun`
/// does: it waits for its daemon behind the link.)
#[test]
fn two_hosts_train_as_one_and_end_when_the_link_is_cut() {
    let _turn = turn();
    let place = TestFolder::new("mpi-hosts");
    let shell = |script: &str| {
        let script = format!("set -e; {script}");
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        output.status.success()
    };
    let down = "for n in khost1 khost2; do
            ip netns pids $n | xargs -r kill -9
            ip netns del $n
        done";
    let up = "ip netns add khost1; ip netns add khost2
        ip link add kveth1 netns khost1 type veth peer name kveth2 netns khost2
        for n in 1 2; do
            ip -n khost$n addr add 10.77.0.$n/24 dev kveth$n
            ip -n khost$n link set kveth$n up
            ip -n khost$n link set lo up
            ip netns exec khost$n tc qdisc add dev kveth$n root tbf rate 1gbit burst 1m latency 50ms
        done";
    if !shell(up) {
        shell(down);
        println!("no right to make network namespaces: two hosts are not tested");
        return;
    }
    let agent = place.path("agent");
    std::fs::write(
        &agent,
        "#!/bin/sh\nshift\nexec ip netns exec khost2 unshare -u sh -c \"hostname khost2; $*\"\n",
    )
    .unwrap();
    shell(&format!("chmod +x {}", agent.display()));
    let hosts = |words: &[&str]| {
        let mut command = Command::new("timeout");
        command
            .args(["-k", "1", "22", "ip", "netns", "exec", "khost1", "mpirun"])
            .args(["--host", "10.77.0.1:1,10.77.0.2:1", "-n", "2", "--bind-to", "none"])
            .args(["--mca", "plm_rsh_agent", agent.to_str().unwrap(), "--mca", "btl", "self,tcp"])
            .args(["--mca", "btl_tcp_if_include", "10.77.0.0/24"])
            .args(["--mca", "oob_tcp_if_include", "10.77.0.0/24", "--wdir"])
            .args([place.path("").to_str().unwrap(), env!("CARGO_BIN_EXE_kindling")])
            .args(words)
            .current_dir(place.path(""))
            .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
            .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        command
    };
    // One thread a rank on both: a rank on a host of its own has all cores.
    let flags = ["--batch-size", "6", "--threads", "1"];
    train(&place, 2, "one", &flags);
    let output = hosts(&words("two", &flags)).output().unwrap();
    let ended = code(&output);
    let mut job = hosts(&words(
        "cut",
        &[
            &flags[..],
            &["--epochs", "4000", "--comm-timeout", "5"],
            &["--checkpoint-interval-steps", "3"],
        ]
        .concat(),
    ));
    // A file: the daemon behind the link would keep a pipe open for ever.
    let log = std::fs::File::create(place.path("cut.log")).unwrap();
    let mut job = job.stdout(Stdio::null()).stderr(log).spawn().unwrap();
    let began = Instant::now();
    while !place.checkpoint("cut").exists() && began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(20));
    }
    shell("ip -n khost2 link set kveth2 down");
    std::thread::sleep(Duration::from_secs(9));
    let left = shell(&format!("pgrep -f '^{}.*--experiment cut'", env!("CARGO_BIN_EXE_kindling")));
    job.wait().unwrap();
    let text = std::fs::read_to_string(place.path("cut.log")).unwrap();
    shell(down);
    assert_eq!(ended, 0, "{}{}", said(&output), error(&output));
    same_bits(&last(&place, "one"), &last(&place, "two"));
    assert!(text.contains("rank 0 of 2: no sign of life from rank 1 for 5 s"), "{text}");
    assert!(!left, "a rank outlives its link");
    resumes(&place, "cut");
}
