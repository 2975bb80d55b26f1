//! Measures the microseconds that operations and policies of augmentation take on a 224x224 image,
//! on one core.
//!
//! `cargo run --example augment_time --
//! crates/transforms/tests/fixtures/augment/coffee.png`. `tests/fixtures/time_augment.py` measures
//! Pillow, timm and torchvision.
#![expect(clippy::print_stdout, reason = "its output is the point")]

use std::time::Instant;

use image::imageops::FilterType;
use transforms::augment::affine::Resample;
use transforms::augment::canvas::Canvas;
use transforms::augment::erase::{Erase, EraseFill};
use transforms::augment::jitter::Jitter;
use transforms::augment::magnitude::Filter;
use transforms::augment::operation::ImageOperation;
use transforms::augment::policy::Policy;
use transforms::random::Counter;
use transforms::resize::Interpolation;

fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).ok_or_else(|| anyhow::anyhow!("expected an image"))?;
    let image = image::open(&path)?.resize_exact(224, 224, FilterType::CatmullRom).to_rgb8();
    let canvas = Canvas::new(image.into_raw(), 224, 224);

    let resample = |filter| Resample { filter, fill: [124, 116, 104] };
    for (name, operation, filter) in [
        ("rotate bicubic", ImageOperation::Rotate(17.0), Interpolation::Bicubic),
        ("rotate bilinear", ImageOperation::Rotate(17.0), Interpolation::Bilinear),
        ("rotate nearest", ImageOperation::Rotate(17.0), Interpolation::Nearest),
        ("shear_x bicubic", ImageOperation::ShearX(0.2), Interpolation::Bicubic),
        ("shear_y bicubic", ImageOperation::ShearY(0.2), Interpolation::Bicubic),
        ("shear_x bilinear", ImageOperation::ShearX(0.2), Interpolation::Bilinear),
        ("translate_x bilinear", ImageOperation::TranslateX(20.5), Interpolation::Bilinear),
        ("brightness", ImageOperation::Brightness(1.3), Interpolation::Nearest),
        ("color", ImageOperation::Color(1.3), Interpolation::Nearest),
        ("contrast", ImageOperation::Contrast(1.3), Interpolation::Nearest),
        ("sharpness", ImageOperation::Sharpness(1.3), Interpolation::Nearest),
        ("posterize", ImageOperation::Posterize(3), Interpolation::Nearest),
        ("solarize", ImageOperation::Solarize(100.0), Interpolation::Nearest),
        ("auto_contrast", ImageOperation::AutoContrast, Interpolation::Nearest),
        ("equalize", ImageOperation::Equalize, Interpolation::Nearest),
        ("hue", ImageOperation::Hue(0.1), Interpolation::Nearest),
        ("blur", ImageOperation::Blur(1.3), Interpolation::Nearest),
    ] {
        time(name, 100, &canvas, |canvas, _| operation.apply(canvas, resample(filter)));
    }
    let jitter = Jitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.0 };
    time("color-jitter 0.4", 100, &canvas, |canvas, random| jitter.apply(canvas, random));
    for (text, filter) in [
        ("rand-m9-mstd0.5-inc1", Filter::Random),
        ("original-mstd0.5", Filter::Random),
        ("v0", Filter::Random),
        ("augmix-m3-w3", Filter::Random),
        ("3a", Filter::Random),
        ("imagenet", Filter::Fixed(Interpolation::Bilinear)),
        ("ra", Filter::Fixed(Interpolation::Bilinear)),
        ("ta_wide", Filter::Fixed(Interpolation::Bilinear)),
    ] {
        let policy: Policy = text.parse().map_err(anyhow::Error::msg)?;
        time(text, 400, &canvas, |canvas, random| {
            policy.apply(canvas, filter, [124, 116, 104], random);
        });
    }
    let mut values = vec![0.5_f32; 3 * 224 * 224];
    let erase = Erase { probability: 1.0, fill: EraseFill::Pixel, count: 1 };
    time("erase pixel", 400, &canvas, |_, random| erase.apply(&mut values, [224, 224], random));
    Ok(())
}

fn time(name: &str, rounds: u64, canvas: &Canvas, mut work: impl FnMut(&mut Canvas, &mut Counter)) {
    let mut spent = std::time::Duration::ZERO;
    let mut copy = canvas.clone();
    for round in 0..rounds {
        copy.pixels_mut().copy_from_slice(canvas.pixels());
        let began = Instant::now();
        work(&mut copy, &mut Counter::new(1, 0, round, 0));
        spent += began.elapsed();
    }
    println!("{name:<22} {:>7.0} us", spent.as_secs_f64() * 1e6 / rounds as f64);
}
