//! Repeatable noise for the tests.

/// Numbers of a linear congruential generator, whose high bits are good and whose low ones are not.
pub(super) fn numbers(seed: u32) -> impl Iterator<Item = u32> {
    let next = |state: &u32| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    std::iter::successors(next(&seed), next)
}

/// The same from -1 to 1.
pub(super) fn signed(seed: u32) -> impl Iterator<Item = f32> {
    numbers(seed).map(|n| (n >> 8) as f32 / (1 << 24) as f32 * 2.0 - 1.0)
}
