//! Values that are not finite at one place, and comparison with what torch makes of them.

/// What is planted.
pub(crate) const ODD: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

/// The values with `odd` at one place.
pub(crate) fn planted(values: &[f32], place: usize, odd: f32) -> Vec<f32> {
    let mut values = values.to_vec();
    values[place] = odd;
    values
}

/// First, inner and last places of so many values: odd ones, so that they fall on different lanes.
pub(crate) fn places(count: usize) -> Vec<usize> {
    let mut places = vec![0, count / 3, count / 2, count - 1];
    places.dedup();
    places
}

/// Asserts that `got` is NaN where `want` is, the same infinity where `want` is one, and elsewhere
/// close. Where `spread` says so, NaN and infinity may stand for each other and for any value, but
/// a finite value for neither.
#[track_caller]
pub(crate) fn alike(what: &str, got: &[f32], want: &[f32], spread: impl Fn(usize) -> bool) {
    assert_eq!(got.len(), want.len(), "{what}: values");
    let finite = want.iter().copied().filter(|v| v.is_finite());
    let largest = finite.fold(1e-3_f32, |most, v| most.max(v.abs()));
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let right = if want.is_nan() {
            got.is_nan()
        } else if want.is_infinite() {
            got == want
        } else {
            (got - want).abs() <= 1e-4 * largest
        };
        let spread = !got.is_finite() && spread(i);
        assert!(right || spread, "{what} at {i}: {got}, expected {want}");
    }
}

/// Nothing spreads.
pub(crate) fn exact(_: usize) -> bool {
    false
}
