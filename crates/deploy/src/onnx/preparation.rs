//! The preparation of images as nodes: bytes in, the network's input out.
//!
//! ONNX's `Resize` with antialias on bytes is Pillow's resize: ONNX Runtime rounds between the
//! passes as Pillow does. `exclude_outside` leaves out the samples beyond the border, as Pillow
//! does. The attribute `axes` would be shorter than four sizes, and ONNX Runtime cannot load it
//! behind a Transpose.

use transforms::preprocess::Preprocess;
use transforms::resize::Interpolation;

use super::builder::OnnxBuilder;
use super::proto::{Attribute, FLOAT, INT64};

/// Name of the input of a model that prepares images itself.
pub const IMAGE: &str = "image";

/// Whether a rule can be written as nodes: one sentence where it cannot.
pub(super) fn check(rule: &Preprocess) -> Result<(), String> {
    let largest = rule.crop[0].max(rule.crop[1]);
    if rule.interpolation == Interpolation::Nearest {
        return Err("nearest-pixel interpolation is another in every runtime".into());
    }
    match largest <= rule.resize {
        true => Ok(()),
        false => Err(format!(
            "a crop of {largest} pixels from a short edge of {} would need padding",
            rule.resize
        )),
    }
}

/// Adds the nodes from `image`, `[n, height, width, 3]` bytes, to the prepared input; its name.
pub(super) fn prepared(builder: &mut OnnxBuilder, rule: &Preprocess) -> String {
    let channels_first = vec![Attribute::ints("perm", &[0, 3, 1, 2])];
    let image = builder.push("Transpose", IMAGE, vec![IMAGE.into()], channels_first);
    // The short edge becomes `resize`, the long one is truncated.
    let axes = |start, end| vec![Attribute::int("start", start), Attribute::int("end", end)];
    let outer = builder.push("Shape", "outer", vec![image.clone()], axes(0, 2));
    let edges = builder.push("Shape", "edges", vec![image.clone()], axes(2, 4));
    let short = builder.push("ReduceMin", "short", vec![edges.clone()], vec![]);
    let resize = builder.integers("resize", &[rule.resize as i64]);
    let larger = builder.push("Mul", "edges", vec![edges, resize], vec![]);
    let size = builder.push("Div", "edges", vec![larger, short], vec![]);
    let all = vec![outer, size.clone()];
    let sizes = builder.push("Concat", "sizes", all, vec![Attribute::int("axis", 0)]);
    let (mode, coefficient) = match rule.interpolation {
        Interpolation::Bicubic => ("cubic", vec![Attribute::float("cubic_coeff_a", -0.5)]),
        _ => ("linear", vec![]),
    };
    let attributes = [
        Attribute::text("mode", mode),
        Attribute::int("antialias", 1),
        Attribute::int("exclude_outside", 1),
        Attribute::text("coordinate_transformation_mode", "half_pixel"),
    ];
    let attributes = attributes.into_iter().chain(coefficient).collect();
    let inputs = vec![image, String::new(), String::new(), sizes];
    let resized = builder.push("Resize", "image", inputs, attributes);
    // The centre, its offset rounded half to even as in Python.
    let crop = builder.integers("crop", &rule.crop.map(|edge| edge as i64));
    let border = builder.push("Sub", "border", vec![size, crop.clone()], vec![]);
    let cast = |to: i32| vec![Attribute::int("to", to as usize)];
    let border = builder.push("Cast", "border", vec![border], cast(FLOAT));
    let half = builder.constant("half", &[], &[0.5]);
    let offset = builder.push("Mul", "offset", vec![border, half], vec![]);
    let offset = builder.push("Round", "offset", vec![offset], vec![]);
    let start = builder.push("Cast", "offset", vec![offset], cast(INT64));
    let end = builder.push("Add", "offset", vec![start.clone(), crop], vec![]);
    let axes = builder.integers("axes", &[2, 3]);
    let cropped = builder.push("Slice", "image", vec![resized, start, end, axes], vec![]);
    let bytes = builder.push("Cast", "pixels", vec![cropped], cast(FLOAT));
    let whole = builder.constant("white", &[], &[255.0]);
    let share = builder.push("Div", "pixels", vec![bytes, whole], vec![]);
    let mean = builder.constant("mean", &[1, 3, 1, 1], &rule.mean);
    let centred = builder.push("Sub", "pixels", vec![share, mean], vec![]);
    let std = builder.constant("std", &[1, 3, 1, 1], &rule.std);
    builder.push("Div", "prepared", vec![centred, std], vec![])
}
