//! Manifests with a right checksum and values that no run can have written: refused by name, by
//! every command that reads a checkpoint.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use deploy::container::{Container, TensorRef, container_of};
use serde_json::{Value, json};
use test_folder::{TestFolder, code, error, unlike};

/// A checkpoint with one value of the manifest changed, `a/b` being `b` in `a`.
fn changed(bytes: &[u8], path: &str, value: Value) -> Vec<u8> {
    let container = Container::from_bytes(bytes).unwrap();
    let mut manifest: Value = serde_json::from_str(&container.manifest).unwrap();
    *manifest.pointer_mut(&format!("/{path}")).unwrap_or_else(|| panic!("{path}")) = value;
    container_of(&manifest.to_string(), container.tensors.iter().map(TensorRef::from))
}

/// Mutations caught: ranges of a plan not checked on reading, the first three counts not checked,
/// the key of a wrong value not named (66 faults).
#[test]
fn mad_values_are_refused_by_name() {
    let place = TestFolder::new("manifests");
    let flags = ["--epochs", "1", "--model-ema", "--sched", "plateau"];
    assert_eq!(code(&place.train("r", &flags)), 0);
    let whole = std::fs::read(place.checkpoint("r")).unwrap();
    let (two32, two63) = (1_u64 << 32, 1_u64 << 63);
    let cases = [
        ("preprocess/resize", json!(0), "resize"),
        ("preprocess/resize", json!(two32), "resize"),
        ("preprocess/resize", json!(-1), "resize"),
        ("preprocess/crop", json!([0, 32]), "crop"),
        ("preprocess/crop", json!([8, 8]), "crop"),
        ("preprocess/mean", json!([1e300, 0, 0]), "mean"),
        ("preprocess/std", json!([0, 1, 1]), "std"),
        ("preprocess/std", json!([-1, 1, 1]), "std"),
        ("network/width", json!(0), "width"),
        ("network/width", json!(1e9), "width"),
        ("network/dropout", json!(7), "dropout"),
        ("network/dropout", json!(-1), "dropout"),
        ("network/bn_eps", json!(-1), "bn_eps"),
        ("network/bn_momentum", json!(1e9), "bn_momentum"),
        ("network/num_classes", json!(0), "classes"),
        ("network/num_classes", json!(two63), "class"),
        ("classes", json!(["bag"]), "class"),
        ("plan/cooldown_epochs", json!(two32), "--cooldown-epochs"),
        ("plan/cooldown_epochs", json!(-1), "cooldown_epochs"),
        ("plan/patience_epochs", json!(two63), "--patience-epochs"),
        ("plan/epochs", json!(0), "--epochs"),
        ("plan/epochs", json!(two63), "--epochs"),
        ("plan/batch_size", json!(0), "--batch-size"),
        ("plan/val_batch_size", json!(0), "--val-batch-size"),
        ("plan/grad_accum_steps", json!(0), "--grad-accum-steps"),
        ("plan/workers", json!(0), "--workers"),
        ("plan/workers", json!(two32), "--workers"),
        ("plan/val_interval", json!(0), "--val-interval"),
        ("plan/log_interval", json!(0), "--log-interval"),
        ("plan/img_size", json!(0), "--img-size"),
        ("plan/img_size", json!(two32), "--img-size"),
        ("plan/crop_pct", json!(0), "--crop-pct"),
        ("plan/lr", json!(-1), "--lr"),
        ("plan/lr", json!("fast"), "lr"),
        ("plan/lr", Value::Null, "lr"),
        ("plan/decay_rate", json!(1e300), "--decay-rate"),
        ("plan/decay_epochs", json!(0), "--decay-epochs"),
        ("plan/warmup_epochs", json!(-3), "--warmup-epochs"),
        ("plan/scale", json!([-1, 1]), "--scale"),
        ("plan/hflip", json!(2), "--hflip"),
        ("plan/smoothing", json!(1), "--smoothing"),
        ("plan/checkpoint_hist", json!(two63), "--checkpoint-hist"),
        ("plan/model_ema_decay", json!(2), "--model-ema-decay"),
        ("plan/std", json!([0, 1, 1]), "std"),
        ("position/epoch", json!(-1), "epoch"),
        ("position/epoch", json!(u64::MAX), "position.epoch"),
        ("position/batch", json!(two63), "position.batch"),
        ("position/step", json!(u64::MAX), "position.step"),
        ("tally/seen", json!(u64::MAX), "tally.seen"),
        ("tally/seconds", json!(-5), "tally.seconds"),
        ("tally/seconds", json!(1e300), "tally.seconds"),
        ("best/epoch", json!(77), "best.epoch"),
        ("best/top1", json!(-2), "best.top1"),
        ("optimizer_steps", json!(u64::MAX), "optimizer_steps"),
        ("ema_updates", json!(u64::MAX), "ema_updates"),
        ("plateau/factor", json!(-1), "plateau.factor"),
        ("plateau/cooling", json!(u64::MAX), "plateau.cooling"),
        ("strain/factor", json!(7), "strain.factor"),
        ("strain/rollbacks", json!(u64::MAX), "strain.rollbacks"),
        ("format", json!(2), "layout version 2"),
    ];
    let mut faults = Vec::new();
    for (path, value, name) in cases {
        std::fs::write(place.path("mad.ckpt"), changed(&whole, path, value.clone())).unwrap();
        for words in [&["inspect", "mad.ckpt"][..], &["train", "--resume", "mad.ckpt"]] {
            let fault = unlike(&place.run(words), 6, &["mad.ckpt", name]);
            faults.extend(fault.map(|fault| format!("{path} {value}: {words:?}: {fault}")));
        }
        // `predict` reads the model's part alone.
        let model = ["preprocess", "network", "classes"];
        if model.iter().any(|part| path.starts_with(part)) {
            let words = ["predict", "--checkpoint", "mad.ckpt", "data/val/bag/0000.png"];
            let fault = unlike(&place.run(&words), 6, &["mad.ckpt", name]);
            faults.extend(fault.map(|fault| format!("{path} {value}: predict: {fault}")));
        }
    }
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
    // Fields that are not always there.
    let container = Container::from_bytes(&whole).unwrap();
    let mut manifest: Value = serde_json::from_str(&container.manifest).unwrap();
    manifest["micro_batch"] = 0.into();
    let tensors = || container.tensors.iter().map(TensorRef::from);
    std::fs::write(place.path("mad.ckpt"), container_of(&manifest.to_string(), tensors())).unwrap();
    let output = place.run(&["train", "--resume", "mad.ckpt", "--epochs", "2"]);
    assert_eq!(unlike(&output, 6, &["micro_batch"]), None);
    // A place in the epoch that the epoch does not have.
    let far = changed(&whole, "position", json!({ "epoch": 0, "batch": 4000, "step": 3 }));
    let container = Container::from_bytes(&far).unwrap();
    let mut manifest: Value = serde_json::from_str(&container.manifest).unwrap();
    manifest["best"] = Value::Null;
    std::fs::write(place.path("mad.ckpt"), container_of(&manifest.to_string(), tensors())).unwrap();
    let output = place.run(&["train", "--resume", "mad.ckpt"]);
    assert_eq!(unlike(&output, 6, &["position.batch", "9 batches"]), None);
    // The checkpoint itself is sound.
    std::fs::write(place.path("mad.ckpt"), &whole).unwrap();
    let output = place.run(&["train", "--resume", "mad.ckpt", "--epochs", "2"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
}
