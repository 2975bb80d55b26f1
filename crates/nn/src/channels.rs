//! Rounding of channel counts under a width multiplier.

/// The multiple of 8 nearest to `channels`, at least 8 and at least 90 % of `channels`.
///
/// Source: the reference code of arXiv:1704.04861; torchvision calls it `_make_divisible`.
///
/// ```
/// assert_eq!(nn::channels::make_divisible(11.2), 16);
/// assert_eq!(nn::channels::make_divisible(8.4), 8);
/// assert_eq!(nn::channels::make_divisible(18.0), 24);
/// ```
pub fn make_divisible(channels: f64) -> usize {
    let rounded = (((channels + 4.0) / 8.0).floor() as usize * 8).max(8);
    if (rounded as f64) < 0.9 * channels { rounded + 8 } else { rounded }
}
