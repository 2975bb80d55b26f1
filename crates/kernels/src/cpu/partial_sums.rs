//! The sum of what several threads have summed.

/// Adds `parts` to `total` one after the other: a fixed order, so that the bits depend on the
/// number of parts and on nothing else.
pub(crate) fn add_in_order(
    mut total: Vec<f32>,
    parts: impl IntoIterator<Item = Vec<f32>>,
) -> Vec<f32> {
    for part in parts {
        total.iter_mut().zip(&part).for_each(|(sum, value)| *sum += value);
    }
    total
}
