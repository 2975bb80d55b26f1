//! Numbers as bytes: `value = scale * (byte - zero point)`.

use burn::tensor::Tensor;

/// The rule by which a map is rounded to bytes; zero is a byte exactly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Affine {
    pub(crate) scale: f32,
    pub(crate) zero_point: u8,
}

impl Affine {
    /// The rule for values from `least` to `most`; values outside become the nearest byte.
    pub(crate) fn of_range([least, most]: [f32; 2]) -> Self {
        let (least, most) = (f64::from(least.min(0.0)), f64::from(most.max(0.0)));
        // A map of zeros has no range.
        let scale = if most > least { ((most - least) / 255.0) as f32 } else { 1.0 };
        let zero_point = (-least / f64::from(scale)).round_ties_even().clamp(0.0, 255.0) as u8;
        Self { scale: scale.max(f32::MIN_POSITIVE), zero_point }
    }

    /// The values as bytes and back.
    pub(crate) fn rounded(self, x: Tensor<4>) -> Tensor<4> {
        let zero = f32::from(self.zero_point);
        let bytes = ((x / self.scale).round() + zero).clamp(0.0, 255.0);
        (bytes - zero) * self.scale
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::Affine;

    /// Mutations caught, each alone: the zero point omitted; a range without zero in it; no
    /// saturation.
    #[test]
    fn zero_is_exact_and_values_outside_saturate() {
        let of = Affine::of_range([-1.0, 3.0]);
        assert_eq!((of.zero_point, of.scale), (64, 4.0 / 255.0));
        let x = Tensor::<1>::from_floats([0.0, -2.0, 9.0, 1.0], &Device::flex());
        let y = of.rounded(x.reshape([1, 1, 1, 4])).into_data().try_into_vec::<f32>().unwrap();
        assert_eq!(y[0], 0.0);
        assert_eq!(y[1], -64.0 * of.scale);
        assert_eq!(y[2], 191.0 * of.scale);
        assert!((y[3] - 1.0).abs() <= of.scale / 2.0);
        assert_eq!(Affine::of_range([2.0, 5.0]), Affine { scale: 5.0 / 255.0, zero_point: 0 });
        assert_eq!(Affine::of_range([-5.0, -2.0]).zero_point, 255);
        assert_eq!(Affine::of_range([0.0, 0.0]), Affine { scale: 1.0, zero_point: 0 });
    }
}
