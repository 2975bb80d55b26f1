use std::path::PathBuf;

use super::*;
use transforms::augment::ProgressiveResize;
use transforms::mixup::Mix;

fn folder(name: &str, corrupt: bool) -> (PathBuf, Arc<ImageFolder>) {
    let root = std::env::temp_dir().join(format!("kindling-loader-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&root);
    for class in ["a", "b"] {
        let class_folder = root.join("train").join(class);
        std::fs::create_dir_all(&class_folder).unwrap();
        for i in 0..11_u8 {
            let shade = i * 9 + class.as_bytes()[0];
            image::RgbImage::from_fn(9, 7, |x, y| image::Rgb([shade, x as u8 * 20, y as u8 * 30]))
                .save(class_folder.join(format!("{i}.png")))
                .unwrap();
        }
    }
    if corrupt {
        std::fs::write(root.join("train/a/3.png"), b"\x89PNG\r\n\x1a\nbroken").unwrap();
    }
    (root.clone(), Arc::new(ImageFolder::open_train(&root, None).unwrap()))
}

fn loader(folder: &Arc<ImageFolder>, workers: usize, bytes: usize, strict: bool) -> Loader {
    let augment = Augment { scale: [0.3, 1.0], ..Augment::default() };
    loader_in(Mode::Train(augment), folder, workers, bytes, strict)
}

fn loader_in(
    mode: Mode,
    folder: &Arc<ImageFolder>,
    workers: usize,
    bytes: usize,
    strict: bool,
) -> Loader {
    let config = LoaderConfig {
        batch_size: 4,
        workers,
        prefetch_bytes: bytes,
        seed: 7,
        strict,
        drop_last: true,
    };
    Loader::new(Arc::clone(folder), Preprocess::imagenet(8, 8), mode, config)
}

fn all(loader: &Loader, epoch: u64, first: usize) -> Vec<Batch> {
    loader.epoch(epoch, first).map(|b| b.unwrap()).collect()
}

#[test]
fn batches_do_not_depend_on_workers_or_on_where_the_epoch_begins() {
    let (root, folder) = folder("order", false);
    let one = all(&loader(&folder, 1, 1 << 20, true), 3, 0);
    assert_eq!(one.len(), 5);
    for (workers, bytes) in [(2, 1 << 20), (5, 0), (3, 1)] {
        assert_eq!(all(&loader(&folder, workers, bytes, true), 3, 0), one);
    }
    assert_eq!(all(&loader(&folder, 3, 1 << 20, true), 3, 2), one[2..]);
    assert_ne!(all(&loader(&folder, 3, 1 << 20, true), 4, 0), one);
    std::fs::remove_dir_all(root).unwrap();
}

/// What a run without the newer flags is fed, as it was before they existed: their draws come
/// after, or from streams of their own. Mutations caught: a draw for a flag that is off before the
/// crop.
#[test]
fn the_batches_of_crop_and_flip_are_what_they_always_were() {
    let (root, folder) = folder("pinned", false);
    let mut crc = crc32fast::Hasher::new();
    for batch in all(&loader(&folder, 2, 1 << 20, true), 3, 0) {
        batch.images.iter().for_each(|value| crc.update(&value.to_le_bytes()));
        batch.labels.iter().for_each(|label| crc.update(&label.to_le_bytes()));
        batch.indices.iter().for_each(|&index| crc.update(&(index as u64).to_le_bytes()));
    }
    assert_eq!(crc.finalize(), 657_250_819);
    std::fs::remove_dir_all(root).unwrap();
}

fn train(folder: &Arc<ImageFolder>, workers: usize, augment: &Augment) -> Loader {
    loader_in(Mode::Train(*augment), folder, workers, 1 << 20, true)
}

/// Mutations caught: one draw for all batches, labels in their own order.
#[test]
fn batches_are_mixed_with_their_mirror_image_by_their_number_alone() {
    let (root, folder) = folder("mixed", false);
    let mix = Mix { mixup: 1.0, probability: 0.7, ..Mix::default() };
    let augment = Augment { scale: [0.3, 1.0], ..Augment::default() };
    let mixing = Augment { mix: Some(mix), ..augment };
    let (plain, mixed) = (train(&folder, 2, &augment), train(&folder, 3, &mixing));
    let mut shares = Vec::new();
    for epoch in 0..6 {
        let (before, after) = (all(&plain, epoch, 0), all(&mixed, epoch, 0));
        assert_eq!(after[2..], all(&mixed, epoch, 2));
        assert_eq!(after, all(&train(&folder, 1, &mixing), epoch, 0));
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(before.labels, after.labels);
            let Some((labels, share)) = &after.mixed_labels else {
                assert_eq!(before, after);
                continue;
            };
            assert!(labels.iter().eq(before.labels.iter().rev()));
            let size = before.images.len() / 4;
            for (at, value) in after.images.iter().enumerate() {
                let other = before.images[(3 - at / size) * size + at % size];
                let expected = share * before.images[at] + (1.0 - share) * other;
                assert!((value - expected).abs() < 1e-5, "{value} {expected}");
            }
            shares.push(*share);
        }
    }
    assert!((15..=27).contains(&shares.len()), "7 of 10 of 30: {shares:?}");
    shares.dedup();
    assert!(shares.len() > 14, "each batch has its own share: {shares:?}");
    std::fs::remove_dir_all(root).unwrap();
}

/// Mutations caught: one stream for all repeats, the order without them.
#[test]
fn repeated_images_stand_in_a_row_each_augmented_anew() {
    let (root, folder) = folder("repeats", false);
    let augment = Augment { scale: [0.3, 1.0], ..Augment::default() };
    let once = all(&train(&folder, 2, &augment), 1, 0);
    let twice = all(&train(&folder, 2, &Augment { repeats: 2, ..augment }), 1, 0);
    assert_eq!(twice.len(), once.len(), "the epoch is as long");
    let images = |batches: &[Batch]| -> Vec<(usize, Vec<f32>)> {
        let images = |b: &Batch| -> Vec<_> {
            let size = b.images.len() / b.indices.len();
            let images = b.images.chunks_exact(size).map(<[f32]>::to_vec);
            b.indices.iter().copied().zip(images).collect()
        };
        batches.iter().flat_map(images).collect()
    };
    let (once, twice) = (images(&once), images(&twice));
    for (number, pair) in twice.chunks_exact(2).enumerate() {
        assert_eq!(pair[0], once[number], "the first time as without repeats");
        assert_eq!(pair[0].0, pair[1].0);
        assert_ne!(pair[0].1, pair[1].1);
    }
    std::fs::remove_dir_all(root).unwrap();
}

/// Mutations caught: the size of epoch 0 for ever.
#[test]
fn the_size_of_a_batch_is_a_function_of_the_epoch() {
    let (root, folder) = folder("growth", false);
    let growth = Some(ProgressiveResize { start: 16, epochs: 2 });
    let mut loader = train(&folder, 2, &Augment { growth, ..Augment::default() });
    loader.preprocess = Preprocess::imagenet(32, 32);
    let size = |loader: &Loader, epoch| all(loader, epoch, 4)[0].shape;
    assert_eq!(
        [0, 1, 2, 9].map(|epoch| size(&loader, epoch)[2..].to_vec()),
        [[16, 16], [24, 24], [32, 32], [32, 32]]
    );
    let mut loader = loader_in(Mode::Eval, &folder, 2, 1 << 20, true);
    loader.preprocess = Preprocess::imagenet(32, 32);
    assert_eq!(size(&loader, 0), [4, 3, 32, 32]);
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_corrupt_image_is_named_and_skipped_or_fatal() {
    let (root, folder) = folder("corrupt", true);
    let lenient = all(&loader(&folder, 2, 1 << 20, false), 0, 0);
    let wide = all(&loader(&folder, 2, 1 << 20, false), 1, 0);
    let named = |b: &Batch| b.skipped.iter().any(|(p, _)| p.ends_with("a/3.png"));
    assert!(lenient.iter().chain(&wide).any(named));
    let strict = loader(&folder, 2, 1 << 20, true);
    let error = (0..4).flat_map(|e| strict.epoch(e, 0)).find_map(Result::err);
    assert!(error.unwrap().to_string().contains("3.png"));
    std::fs::remove_dir_all(root).unwrap();
}

/// Mutations caught: the classes drawn by their images.
#[test]
fn balanced_sampling_draws_a_rare_class_as_often() {
    let (root, _) = folder("balance", false);
    for i in 2..11 {
        std::fs::remove_file(root.join(format!("train/a/{i}.png"))).unwrap();
    }
    let folder = Arc::new(ImageFolder::open_train(&root, None).unwrap());
    let loader = loader(&folder, 2, 1 << 20, true).balanced(true);
    let drawn = |epoch| loader.sampler.order(epoch).indices;
    assert_eq!(drawn(3), drawn(3));
    assert_ne!(drawn(3), drawn(4));
    let rare = (0..100).flat_map(drawn).filter(|index| *index < 2).count();
    // 650 expected of 1300, deviation 18.
    assert!(rare.abs_diff(650) < 90, "{rare}");
    assert_eq!(all(&loader, 1, 1), all(&loader, 1, 0)[1..]);
    std::fs::remove_dir_all(root).unwrap();
}

/// Mutations caught, each alone: what memory holds read ahead, what files hold.
#[test]
fn what_a_cache_holds_is_not_read_ahead() {
    let (root, folder) = folder("held", false);
    let disk = Caching::Disk { folder: root.join("cache"), bytes: u64::MAX };
    for caching in [Caching::Ram { bytes: u64::MAX }, disk] {
        let loader = loader(&folder, 2, 1 << 20, true).caching(&caching);
        assert!((0..22).all(|index| loader.unread(index) == Some(&*folder.items[index].0)));
        let seen: Vec<usize> =
            all(&loader, 0, 0).iter().flat_map(|batch| batch.indices.clone()).collect();
        assert!((0..22).all(|index| loader.unread(index).is_none() == seen.contains(&index)));
    }
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn an_abandoned_epoch_ends_its_threads() {
    let (root, folder) = folder("drop", false);
    let mut epoch = loader(&folder, 3, 0, true).epoch(0, 0);
    assert!(epoch.next().is_some());
    drop(epoch); // would hang here if a waiting worker were not woken
    std::fs::remove_dir_all(root).unwrap();
}

/// Bytes are the images before their normalisation, in training and evaluation; where numbers are
/// mixed or erased there are no bytes.
///
/// Mutations caught: planes in the order of numbers; an image that is not mirrored; an unreadable
/// image whose bytes stay.
#[test]
fn a_batch_of_bytes_is_a_batch_before_its_normalisation() {
    let (root, folder) = folder("bytes", true);
    let augment = || Augment { scale: [0.3, 1.0], hflip: 0.5, ..Augment::default() };
    for mode in [Mode::Eval, Mode::Train(augment())] {
        let make = |as_bytes| {
            let loader = loader_in(mode.clone(), &folder, 2, 1 << 20, false).as_bytes(as_bytes);
            all(&loader, 1, 0)
        };
        for (numbers, bytes) in make(false).into_iter().zip(make(true)) {
            let made = bytes.bytes.expect("bytes");
            assert!(bytes.images.is_empty() && bytes.labels == numbers.labels);
            let [n, _, h, w] = bytes.shape;
            assert_eq!(made.pixels.len(), n * h * w * 3);
            for (i, byte) in made.pixels.iter().enumerate() {
                let (pixel, channel) = (i / 3, i % 3);
                let value = (f32::from(*byte) / 255.0 - made.mean[channel]) / made.std[channel];
                let plane = (pixel / (h * w)) * 3 + channel;
                assert_eq!(numbers.images[plane * h * w + pixel % (h * w)], value, "{i}");
            }
        }
    }
    let mixed = Augment { mix: Some(Mix { mixup: 0.2, ..Mix::default() }), ..augment() };
    let loader = loader_in(Mode::Train(mixed), &folder, 1, 1 << 20, false).as_bytes(true);
    assert!(all(&loader, 0, 0).iter().all(|batch| batch.bytes.is_none()));
    std::fs::remove_dir_all(root).unwrap();
}
